/**
 * tap-stage.ts: the way through a TAP, ours beside others'.
 *
 * Theory
 *   GuestTapStage   one Linux guest with two devices of the same kind: ours (vhost-user, vfe-vhostd, emulator) and QEMU's own
 *                   (`-netdev tap`). Each has a TAP in a bridge of its own, in the same namespace. What is measured is
 *                   what the guest moves with its own tools, so the guest's speed bounds both.
 *   DriverTapStage  no guest: testpmd's virtio-user in front of our device, whose frames end in a TAP; and testpmd with a
 *                   TAP of its own (net_tap), which writes each frame by one call: what a program in C does that
 *                   has frames to write and nothing else to do. The kernel counts what either wrote.
 *   Who is not measured is idle.
 *
 * Limits  Two processors. The guest has one, emulated by TCG.
 */
import { Scene } from '../../test/lib/scene.ts';
import { Service } from '../../test/lib/service.ts';
import { generatePackets, stopPackets } from '../../test/lib/streams.ts';
import { Testpmd, virtioUser } from '../../test/lib/testpmd.ts';
import { sleep } from '../../test/lib/waiting.ts';
import { GUEST_ADDRESS, HOST_ADDRESS, World } from '../../test/lib/world.ts';
import { pinDatapath } from './datapath-stage.ts';

/** Whose TAP: ours, or that of whom we are compared with. */
export type TapSide = 'virtnet' | 'peer';

interface Way {
  /** The guest's interface. */
  readonly device: string;
  readonly guestAddress: string;
  readonly hostAddress: string;
  /** In the namespace. */
  readonly tap: string;
}

const PEER_TAP = 'qtap0';
const PEER_BRIDGE = 'br1';
const PEER_MAC = '0c:c4:7a:ff:22:99';
const PEER_HOST_ADDRESS = '10.79.0.1';
const PEER_GUEST_ADDRESS = '10.79.0.2';
/** Nobody has it: a bridge with one port drops what is for it. */
const NOBODY = '02:00:00:00:99:99';
const PORT = 5_201;
const PINGS = 100;
const PING_SPACING_S = '0.02';
const WARM_MS = 300;
const PATIENCE_MS = 60_000;
const PEER_DEVICE = [
  ...['-netdev', `tap,id=net1,ifname=${PEER_TAP},script=no,downscript=no,vhost=off`],
  // As ours in the same guest, but for the MAC (guest.ts says why there are no vectors).
  ...['-device', `virtio-net-pci,netdev=net1,mac=${PEER_MAC},romfile=,vectors=0`],
];

export class GuestTapStage {
  readonly #scene: Scene;
  readonly #world: World;
  readonly #ways: Readonly<Record<TapSide, Way>>;

  private constructor(scene: Scene, world: World, ways: Readonly<Record<TapSide, Way>>) {
    this.#scene = scene;
    this.#world = world;
    this.#ways = ways;
  }

  static async open(): Promise<GuestTapStage> {
    const scene = await Scene.open();
    try {
      await scene.net.ip(`tuntap add dev ${PEER_TAP} mode tap vnet_hdr`);
      await scene.net.bridge(PEER_BRIDGE, `${PEER_HOST_ADDRESS}/24`);
      await scene.net.enslave(PEER_TAP, PEER_BRIDGE);
      const world = await World.open(scene, { guest: { more: PEER_DEVICE } });
      const guest = await world.bootGuest();
      const names = await guest.run(`grep -l ${PEER_MAC} /sys/class/net/*/address`);
      const device = names.split('/')[4] ?? '';
      await guest.address(`${PEER_GUEST_ADDRESS}/24`, device);
      const ours = world.device.sf_rep_net_device;
      const ways = {
        virtnet: {
          device: 'eth0',
          guestAddress: GUEST_ADDRESS,
          hostAddress: HOST_ADDRESS,
          tap: ours,
        },
        peer: {
          device,
          guestAddress: PEER_GUEST_ADDRESS,
          hostAddress: PEER_HOST_ADDRESS,
          tap: PEER_TAP,
        },
      };
      return new GuestTapStage(scene, world, ways);
    } catch (error) {
      await scene.end();
      throw error;
    }
  }

  close(): Promise<string[]> {
    return this.#scene.end();
  }

  /** Bits a second of one TCP connection that runs for `seconds`, as its receiver counts them. */
  async stream(
    side: TapSide,
    { seconds, receives = false, gso }: { seconds: number; receives?: boolean; gso: boolean },
  ): Promise<number> {
    const { device, hostAddress } = this.#ways[side];
    const { guest } = this.#world;
    const { net, processes } = this.#scene;
    await guest.run(`ethtool -K ${device} tso ${gso ? 'on' : 'off'} gso ${gso ? 'on' : 'off'}`);
    const words = ['iperf3', '--server', '--one-off', '--forceflush', '--port', `${PORT}`];
    const server = processes.start(net.inside(words), { name: 'iperf3' });
    try {
      await server.printed(/listening/, PATIENCE_MS);
      const direction = receives ? '--reverse' : '';
      const said = await guest.run(
        `iperf3 --client ${hostAddress} --port ${PORT} --time ${seconds} --json ${direction}`,
        PATIENCE_MS + seconds * 1_000,
      );
      const { end } = JSON.parse(said) as { end: { sum_received: { bits_per_second: number } } };
      return end.sum_received.bits_per_second;
    } finally {
      await server.end();
    }
  }

  /** Small frames a second that the guest sends, as the kernel counts what is written to the TAP. */
  async frames(side: TapSide, seconds: number): Promise<number> {
    const { device, hostAddress, tap } = this.#ways[side];
    const { guest } = this.#world;
    await generatePackets(guest, { address: hostAddress, mac: NOBODY, port: PORT, count: 0, device });
    await sleep(WARM_MS);
    const rate = await writtenFrames(this.#scene, tap, seconds);
    await stopPackets(guest);
    return rate;
  }

  /** Round trips to a guest that has nothing else to do, in milliseconds. */
  async pings(side: TapSide): Promise<number[]> {
    const words = ['ping', '-c', `${PINGS}`, '-i', PING_SPACING_S, this.#ways[side].guestAddress];
    const said = await this.#scene.net.run(words);
    return [...said.matchAll(/time=([\d.]+) ms/g)].map(([, time]) => Number(time));
  }
}

const DRIVER_QUEUE_SIZE = 1_024;
const OUR_MAC = '02:00:00:00:02:01';
const MBUFS = 16_384;

/** Who writes to which TAP. */
type Writers = Readonly<Record<TapSide, { readonly program: Testpmd; readonly tap: string }>>;

export class DriverTapStage {
  readonly #scene: Scene;
  readonly #sides: Writers;

  private constructor(scene: Scene, sides: Writers) {
    this.#scene = scene;
    this.#sides = sides;
  }

  /** `processors`: of the driver, and of who writes to a TAP. */
  static async open(processors: readonly [number, number]): Promise<DriverTapStage> {
    const scene = await Scene.open();
    try {
      const service = await Service.start(scene, { conf: { eth_vq_workers: 1 } });
      await pinDatapath(scene, service, processors[1]);
      await service.startVhostd('server');
      const device = await service.hotplug({ mac: OUR_MAC, queues: 3, queueSize: DRIVER_QUEUE_SIZE });
      await service.addVhost(device.bdf, scene.path('vhost.sock'));
      const common = {
        processes: scene.processes,
        net: scene.net,
        directory: scene.directory,
        mbufs: MBUFS,
        options: [`--txd=${DRIVER_QUEUE_SIZE}`, `--rxd=${DRIVER_QUEUE_SIZE}`],
      };
      const driver = await Testpmd.start({
        ...common,
        name: 'driver',
        processor: processors[0],
        devices: [virtioUser({ path: scene.path('vhost.sock'), mac: OUR_MAC, queueSize: DRIVER_QUEUE_SIZE })],
      });
      const peer = await Testpmd.start({
        ...common,
        name: 'net_tap',
        processor: processors[1],
        devices: [`net_tap0,iface=${PEER_TAP}`],
      });
      for (const tap of [device.sf_rep_net_device, PEER_TAP]) {
        await scene.net.quiet(tap);
        await scene.net.ip(`link set ${tap} up`);
      }
      const sides = {
        virtnet: { program: driver, tap: device.sf_rep_net_device },
        peer: { program: peer, tap: PEER_TAP },
      };
      return new DriverTapStage(scene, sides);
    } catch (error) {
      await scene.end();
      throw error;
    }
  }

  async close(): Promise<string[]> {
    for (const { program } of Object.values(this.#sides)) await program.quit();
    return this.#scene.end();
  }

  /** Frames a second of `bytes` that the kernel got from a TAP. */
  async frames(side: TapSide, bytes: number, seconds: number): Promise<number> {
    const { program, tap } = this.#sides[side];
    await program.command(`set txpkts ${bytes}`);
    await program.forward('txonly');
    await sleep(WARM_MS);
    const rate = await writtenFrames(this.#scene, tap, seconds);
    await program.stop();
    return rate;
  }
}

/** What a TAP's owner writes is what the kernel receives there: frames a second over `seconds`. */
async function writtenFrames({ net }: Scene, tap: string, seconds: number): Promise<number> {
  const look = async (): Promise<{ frames: number; atMs: number }> => {
    const asked = performance.now();
    const said = await net.ip(`-s -j link show dev ${tap}`);
    const [link] = JSON.parse(said) as { stats64: { rx: { packets: number; dropped: number } } }[];
    const { packets, dropped } = link!.stats64.rx;
    return { frames: packets + dropped, atMs: (asked + performance.now()) / 2 };
  };
  const first = await look();
  await sleep(seconds * 1_000);
  const last = await look();
  return ((last.frames - first.frames) / (last.atMs - first.atMs)) * 1_000;
}
