/**
 * moderation-stage.ts: drivers that are interrupted for what they receive, each with two functions: one with dynamic
 * moderation of interrupts (DIM), one without any.
 *
 * Theory
 *   guest  a Linux guest in QEMU with two devices (vhost-user, vfe-vhostd). It asks for an interrupt when it has found its
 *          ring empty, and for none while it finds frames (NAPI).
 *   host   virtio_net_driver, which does the same and sleeps in between until it is signalled. Nothing is emulated, so
 *          its rates are higher.
 *   Each function has a bridge of its own in the same namespace, from where a program sends TCP through the representor to
 *   one at the driver's end. No frame is larger than the MTU: of those that a kernel puts together out of forty there
 *   are too few. Interrupts and frames are the counters of the function's receive queue; what arrived is counted by
 *   the program that receives it. Who is not measured is idle.
 *
 * Limits  One queue pair a function. The guest has one processor, emulated by TCG.
 */
import { netdevName } from '@virtnet/engine-control';
import { Guest } from '../../test/lib/guest.ts';
import { NetworkNamespace } from '../../test/lib/netns.ts';
import { Scene } from '../../test/lib/scene.ts';
import { type Hotplugged, Service } from '../../test/lib/service.ts';
import { until } from '../../test/lib/waiting.ts';

/** The function without moderation, and that with DIM. */
export const sides = ['off', 'on'] as const;
export type ModerationSide = (typeof sides)[number];

export type Driver = 'guest' | 'host';

/** What a receive queue did, each a second. */
export interface Received {
  readonly interrupts: number;
  readonly frames: number;
  /** Of frames that arrived, or of their payload. */
  readonly bits: number;
}

/** Of `virtnet query --dbg_stats`. */
interface QueueCounters {
  /** Interrupts sent. */
  readonly aux_handler_schd_number: string;
  readonly frames: string;
}

interface Way {
  readonly function: Hotplugged;
  readonly bridge: string;
  readonly hostAddress: string;
  readonly driverAddress: string;
}

type Ways = Readonly<Record<ModerationSide, Way>>;

/** Runs a shell command at the driver's end; its output. */
type AtDriver = (command: string, timeoutMs: number) => Promise<string>;

const PORT = 5_201;
const QUEUE_SIZE = 256;
const PINGS = 100;
const PING_SPACING_S = '0.02';
const PATIENCE_MS = 60_000;

export class ModerationStage {
  readonly #scene: Scene;
  readonly #service: Service;
  readonly #ways: Ways;
  readonly #atDriver: AtDriver;

  private constructor(scene: Scene, service: Service, ways: Ways, atDriver: AtDriver) {
    this.#scene = scene;
    this.#service = service;
    this.#ways = ways;
    this.#atDriver = atDriver;
  }

  static async open(driver: Driver): Promise<ModerationStage> {
    const scene = await Scene.open();
    try {
      const service = await Service.start(scene);
      const ways = { off: await addWay(scene, service, 'off'), on: await addWay(scene, service, 'on') };
      const atDriver = await (driver === 'guest' ? startGuest : bindToHost)(scene, service, ways);
      const stage = new ModerationStage(scene, service, ways, atDriver);
      for (const side of sides) await stage.#reachable(side);
      return stage;
    } catch (error) {
      process.stderr.write(`${scene.lastWords()}\n`);
      await scene.end();
      throw error;
    }
  }

  /** Ends everything; what was left behind, in words. */
  close(): Promise<string[]> {
    return this.#scene.end();
  }

  /** One TCP connection to the driver that runs for `seconds`, which are whole ones. */
  async stream(side: ModerationSide, seconds: number): Promise<Received> {
    const { hostAddress } = this.#ways[side];
    const { net, processes } = this.#scene;
    const words = ['iperf3', '--server', '--one-off', '--forceflush', '--port', `${PORT}`];
    const server = processes.start(net.inside(words), { name: 'iperf3' });
    try {
      await server.printed(/listening/, PATIENCE_MS);
      const before = await this.#counters(side);
      const said = await this.#atDriver(
        `iperf3 --client ${hostAddress} --port ${PORT} --reverse --time ${Math.ceil(seconds)} --json`,
        PATIENCE_MS + seconds * 1_000,
      );
      const after = await this.#counters(side);
      const { bits, lasted } = arrived(said);
      return {
        interrupts: (after.interrupts - before.interrupts) / lasted,
        frames: (after.frames - before.frames) / lasted,
        bits: bits / lasted,
      };
    } finally {
      await server.end();
    }
  }

  /** Round trips to a driver that has nothing else to do, in milliseconds. */
  async pings(side: ModerationSide): Promise<number[]> {
    const words = ['ping', '-c', `${PINGS}`, '-i', PING_SPACING_S, this.#ways[side].driverAddress];
    const said = await this.#scene.net.run(words);
    return [...said.matchAll(/time=([\d.]+) ms/g)].map(([, time]) => Number(time));
  }

  async #reachable(side: ModerationSide): Promise<void> {
    await until('an answer to a ping', PATIENCE_MS, async () => {
      const { code } = await this.#scene.net.output([
        ...['ping', '-c', '1', '-W', '1'],
        this.#ways[side].driverAddress,
      ]);
      return code === 0;
    });
  }

  async #counters(side: ModerationSide) {
    const { vuid } = this.#ways[side].function;
    const { devices } = await this.#service.answer<{
      devices: { dim: string; 'enabled-queues-info': QueueCounters[] }[];
    }>('query', '-u', vuid, '--dbg_stats');
    const [device] = devices;
    const queue = device?.['enabled-queues-info'][0];
    if (device === undefined || queue === undefined) throw new Error(`${vuid} has no receive queue`);
    if ((device.dim === 'enabled') !== (side === 'on'))
      throw new Error(`DIM of ${vuid} is ${device.dim}, meant to be ${side}`);
    return {
      interrupts: Number(queue.aux_handler_schd_number),
      frames: Number(queue.frames),
    };
  }
}

/** A function, with or without DIM, and a bridge for it. */
async function addWay(scene: Scene, service: Service, side: ModerationSide): Promise<Way> {
  const number = sides.indexOf(side);
  const bridge = `br${number}`;
  const net = `10.77.${number}`;
  await scene.net.bridge(bridge, `${net}.1/24`);
  const device = await service.hotplug({
    mac: `0c:c4:7a:ff:22:9${number}`,
    queues: 3,
    queueSize: QUEUE_SIZE,
  });
  if (device.errno !== 0) throw new Error(`hotplug: ${device.errstr}`);
  await service.answer(
    ...['modify', '-u', device.vuid, 'device', '-dim'],
    side === 'on' ? 'enable' : 'disable',
  );
  await scene.net.enslave(device.sf_rep_net_device, bridge);
  // What the host sends is cut into frames before it comes to the representor.
  await scene.net.run(['ethtool', '-K', bridge, 'tso', 'off', 'gso', 'off']);
  return { function: device, bridge, hostAddress: `${net}.1`, driverAddress: `${net}.2` };
}

async function startGuest(scene: Scene, service: Service, ways: Ways): Promise<AtDriver> {
  await service.startVhostd('client');
  const socket = (side: ModerationSide): string => scene.path(`vhost-${side}.sock`);
  for (const side of sides) await service.addVhost(ways[side].function.bdf, socket(side));
  const guest = await Guest.start({
    processes: scene.processes,
    net: scene.net,
    directory: scene.directory,
    vhostSocket: socket('off'),
    vhostServer: 'qemu',
    mac: ways.off.function.mac,
    queueSize: QUEUE_SIZE,
    more: [
      ...['-chardev', `socket,id=other,path=${socket('on')},server=on,wait=off`],
      ...['-netdev', 'vhost-user,id=net1,chardev=other'],
      '-device',
      `virtio-net-pci,netdev=net1,mac=${ways.on.function.mac},romfile=,vectors=0,rx_queue_size=${QUEUE_SIZE},tx_queue_size=${QUEUE_SIZE}`,
    ],
  });
  scene.atEnd(async () => void (await guest.end()));
  await guest.booted();
  for (const side of sides) {
    const { driverAddress, function: device } = ways[side];
    const found = await guest.run(`grep -il ${device.mac} /sys/class/net/*/address`);
    await guest.address(`${driverAddress}/24`, found.split('/')[4]);
  }
  return (command, timeoutMs) => guest.run(command, timeoutMs);
}

/** The interfaces are in a namespace of their own, so that they and the bridges reach each other by the functions only. */
async function bindToHost(scene: Scene, service: Service, ways: Ways): Promise<AtDriver> {
  const end = await NetworkNamespace.create(scene.processes);
  scene.atEnd(() => end.end());
  scene.atEnd(() => service.unloadDriver());
  for (const side of sides) {
    const { driverAddress, function: device } = ways[side];
    const { code, stdout, stderr } = await service.host('bind', device.bdf, 'virtio-pci');
    if (code !== 0) throw new Error(`virtnet-host bind ${device.bdf}: ${stdout}${stderr}`);
    const name = netdevName(device.bdf);
    await scene.net.ip(`link set ${name} netns ${end.holderPid}`);
    await end.quiet(name);
    await end.ip(`addr add ${driverAddress}/24 dev ${name}`);
    await end.ip(`link set ${name} up`);
  }
  return (command, timeoutMs) => end.run(['sh', '-c', command], { timeoutMs });
}

/** What iperf3 says about what its client received. */
function arrived(said: string): { readonly bits: number; readonly lasted: number } {
  const { end } = JSON.parse(said) as {
    end: { sum_received?: { bytes: number; seconds: number } };
  };
  const sum = end.sum_received;
  if (sum === undefined || !(sum.seconds > 0))
    throw new Error(`iperf3 says nothing of what arrived: ${said}`);
  return { bits: sum.bytes * 8, lasted: sum.seconds };
}
