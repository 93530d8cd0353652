/** The active emulator is killed at random instants; whoever drives the device must not notice more than a pause. */
import { readFileSync } from 'node:fs';
import { getPriority } from 'node:os';
import { Nice, setThreadRealtime } from '@virtnet/host-linux';
import { ControlRx, featureMask, NetFeature } from '@virtnet/wire';
import { describe, expect, test } from 'vitest';
import { BoundFunction } from './lib/bound-function.ts';
import { macBytes, udpFrame } from './lib/frames.ts';
import { killDuring } from './lib/kills.ts';
import { randomNumbers, seed } from './lib/random.ts';
import type { Scene } from './lib/scene.ts';
import { type Hotplugged, type Kill, Service } from './lib/service.ts';
import { type Arrival, analyseStream, describeLoss } from './lib/stream-analysis.ts';
import {
  readStreamPacket,
  STREAM_PACKET_BYTES,
  wallClockUs,
  writeStreamPacket,
} from './lib/stream-packet.ts';
import { HostStream, parseArrivals, SPACING_US, streamFromGuest, streamToGuest } from './lib/streams.ts';
import { endsCleanly, useScene } from './lib/use-scene.ts';
import { sleep, until } from './lib/waiting.ts';
import { GUEST_ADDRESS, HOST_ADDRESS, World } from './lib/world.ts';

/** Kills in all, of which two tests have a share of bursts; VIRTNET_TEST_KILLS changes it. */
const KILLS = Number(process.env.VIRTNET_TEST_KILLS ?? 200);
const SHARE = { probe: 0.3, control: 0.25, traffic: 0.2, bursts: 0.075, guest: 0.1 };
const share = (part: keyof typeof SHARE): number => Math.max(1, Math.round(KILLS * SHARE[part]));
/** Generous: it covers a standby that takes long to come up on a busy machine. */
const KILL_MS_MAX = 15_000;

const MAC = '0C:C4:7A:FF:22:93';
const OTHER_MAC = '0C:C4:7A:FF:22:94';
const GROUP_MAC = '01:00:5E:01:02:03';
const ADDRESS = '10.78.0.1';
const PEER_ADDRESS = '10.78.0.2';
const SEND_PORT = 7401;
const RECEIVE_PORT = 7402;
const QUEUE_SIZE = 256;
const SETTLE_MS = 500;
const FRAME_HEADER_BYTES = 12;

process.stdout.write(`seed ${seed} (VIRTNET_TEST_SEED), ${KILLS} kills (VIRTNET_TEST_KILLS)\n`);

interface Stage {
  readonly scene: Scene;
  readonly service: Service;
  readonly device: Hotplugged;
  readonly representorMac: string;
}

/** The service with one function of two pairs, whose representor has an address, and a peer known behind it. */
async function stage(scene: Scene): Promise<Stage> {
  const service = await Service.start(scene);
  const device = await service.hotplug({ mac: MAC, queues: 5, queueSize: QUEUE_SIZE });
  const representor = device.sf_rep_net_device;
  await scene.net.quiet(representor);
  await scene.net.ip(`addr add ${ADDRESS}/24 dev ${representor}`);
  await scene.net.ip(`link set ${representor} up`);
  await scene.net.ip(`neigh add ${PEER_ADDRESS} lladdr ${MAC} dev ${representor} nud permanent`);
  const link = await scene.net.waitForLink(representor);
  return { scene, service, device, representorMac: link.address };
}

describe('kill -9 of the emulator, driver over vfio-user', () => {
  const used = useScene(stage);

  test('only who stands by waits in real time; after the takeover nobody goes on like that', async () => {
    const { service } = used.value;
    const policies = () =>
      (['emu', 'emu-standby', 'ha'] as const).map((role) => policyOf(service.runningPid(role)));
    const standingBy = [OTHER, mayBeRealtime() ? FIFO : OTHER, OTHER];
    expect(policies()).toEqual(standingBy);
    const { pid } = service.killEmu();
    await service.recovered(pid);
    expect(policies()).toEqual(standingBy);
    expect(getPriority(service.runningPid('emu'))).toBe(Nice.PREFERRED);

    const keeper = service.runningPid('ha');
    process.kill(keeper, 'SIGKILL');
    const isSo = () => ![null, keeper].includes(service.pid('ha')) && `${policies()}` === `${standingBy}`;
    await until('the standby waits in real time again', KILL_MS_MAX, isSo);

    setThreadRealtime(service.runningPid('ha'), true); // by a standby that dies over its takeover
    service.kill('emu-standby');
    await service.recovered(service.killEmu().pid);
    expect(policies()).toEqual(standingBy);
  });

  test('while there is no keeper > nobody is answered what would be forgotten if everybody died now', async () => {
    const { service, device } = used.value;
    const { RpcClient } = await import('@virtnet/host-ipc'); // here, for the packages may not be built yet
    const { pid, socket } = (await service.emulators()).find(({ role }) => role === 'active')!;
    const controller = service.runningPid('controller'); // stopped, it makes no new keeper
    const client = new RpcClient(socket);
    const which = { all: false, pf: 0, vf: null, vuid: null };
    let answers = 0;
    process.kill(controller, 'SIGSTOP');
    try {
      service.kill('ha');
      await sleep(SETTLE_MS / 10);
      const modifying = client.call('device.modify', { ...which, requestId: 'now', device: { mtu: 1400 } });
      const opening = BoundFunction.open(service.socket(device.bdf));
      for (const asked of [modifying, opening]) void asked.finally(() => answers++).catch(() => {});
      await sleep(SETTLE_MS);
      expect(answers).toBe(0);
      process.kill(controller, 'SIGCONT');
      expect(await modifying).toMatchObject({ errno: 0 });
      const fn = await opening;
      expect(service.killEmu().pid).toBe(pid);
      service.kill('emu-standby');
      await service.recovered(pid);
      expect(await service.query()).toMatchObject({ mtu: '1400' });
      const driver = await fn.start({ queueSize: QUEUE_SIZE }); // its connection is as it was
      await driver.stop();
      await fn.close();
    } finally {
      process.kill(controller, 'SIGCONT');
      client.close();
    }
  });

  test(
    'while functions are probed and given up > every probe finishes, and its frames pass',
    async () => {
      const { service, device, representorMac } = used.value;
      let probes = 0;
      const probe = async () => {
        const fn = await BoundFunction.open(service.socket(device.bdf));
        const driver = await fn.start({ queueSize: QUEUE_SIZE });
        await driver.postReceive(0, 16);
        for (let frame = 0; frame < 8; frame++)
          expect(await driver.transmit(0, numberedFrame(representorMac, frame))).toBe(true);
        await until('transmitted frames', 30_000, () => {
          driver.ring(1).collect();
          return driver.ring(1).outstanding === 0;
        });
        await driver.stop();
        await fn.close();
        probes += 1;
      };
      const { ha: bare } = await service.settledHoldings();
      await probe();
      // The representor has a queue more for each pair that a driver ever enabled.
      const queues = 1;
      const before = { ...bare, descriptors: bare.descriptors + queues };
      await killDuring(service, { count: share('probe'), random: randomNumbers(seed) }, async (going) => {
        while (going()) await probe();
      });
      expect(probes).toBeGreaterThan(share('probe'));
      await until('the keeper let go of the clients', 30_000, () => {
        const now = service.holdings('ha');
        return now.descriptors <= before.descriptors && now.sharedMappings <= before.sharedMappings;
      });
    },
    share('probe') * KILL_MS_MAX,
  );

  test(
    'while the control queue works > every command is answered well, and none is forgotten',
    async () => {
      const { service, device } = used.value;
      const fn = await BoundFunction.open(service.socket(device.bdf));
      const driver = await fn.start({ queueSize: QUEUE_SIZE });
      const offloads = featureMask([NetFeature.GUEST_CSUM, NetFeature.GUEST_TSO4]);
      let commands = 0;
      await killDuring(
        service,
        { count: share('control'), random: randomNumbers(seed + 1) },
        async (going) => {
          for (let round = 0; going(); round++) {
            const even = round % 2 === 0;
            const mac = macBytes(even ? OTHER_MAC : MAC);
            await driver.setMac(mac);
            const { mac0, mac1, mac2, mac3, mac4, mac5 } = await driver.config();
            expect(Buffer.from([mac0, mac1, mac2, mac3, mac4, mac5])).toEqual(mac);
            await driver.setMacTable([macBytes(OTHER_MAC)], even ? [macBytes(GROUP_MAC)] : []);
            await driver.setReceiveMode(ControlRx.ALLMULTI, even);
            await driver.setQueuePairs(even ? 1 : 2);
            await driver.setOffloads(even ? 0n : offloads);
            commands += 5;
          }
        },
      );
      expect(commands).toBeGreaterThan(share('control'));
      await driver.setMac(macBytes(OTHER_MAC));
      await driver.setQueuePairs(1);
      const { pid } = service.killEmu();
      await service.recovered(pid);
      expect(await service.query()).toMatchObject({ ctrl_mac: OTHER_MAC, ctrl_mq: '1' });
      await driver.stop();
      await fn.close();
    },
    (share('control') + 1) * KILL_MS_MAX,
  );

  test(
    'under traffic > at most one frame per queue and kill is lost or repeated, the driver never waits for ever',
    async () => {
      const { scene, service, device, representorMac } = used.value;
      const fn = await BoundFunction.open(service.socket(device.bdf));
      const driver = await fn.start({ queueSize: QUEUE_SIZE, pairs: 1 });
      await driver.postReceive(0, QUEUE_SIZE);
      const { processes, net } = scene;
      const receiver = await HostStream.start(processes, net, ['receive', `${RECEIVE_PORT}`]);
      const sender = await HostStream.start(processes, net, [
        ...['send', PEER_ADDRESS, `${SEND_PORT}`, `${SPACING_US}`, '64'],
      ]);
      const arrived: Arrival[] = [];
      let transmitted = 0;
      const take = async (): Promise<void> => {
        const received = driver.received(0);
        for (const { frame } of received) {
          const packet = readStreamPacket(Buffer.from(frame.subarray(UDP_PAYLOAD_AT)));
          if (packet !== null) arrived.push({ ...packet, arrivedUs: wallClockUs() });
        }
        if (received.length > 0) await driver.postReceive(0, received.length);
        driver.ring(1).collect();
      };
      const kills = await killDuring(
        service,
        { count: share('traffic'), random: randomNumbers(seed + 2) },
        async (going) => {
          while (going()) {
            if (await driver.transmit(0, numberedFrame(representorMac, transmitted))) transmitted += 1;
            await take();
            await sleep(1);
          }
        },
      );
      const sent = Number((await sender.finish()).split(' ')[0]);
      const deadline = performance.now() + SETTLE_MS;
      while (performance.now() < deadline) {
        await take();
        await sleep(10);
      }
      expect(driver.ring(1).outstanding).toBe(0);
      const toDriver = analyseStream(arrived, 0, sent);
      const fromDriver = analyseStream(parseArrivals(await receiver.finish()), 0, transmitted);
      for (const { lost, duplicated, reordered } of [toDriver, fromDriver]) {
        expect(lost.length + duplicated.length, `lost ${lost}, repeated ${duplicated}`).toBeLessThanOrEqual(
          kills.length,
        );
        expect(reordered).toBe(0);
      }
      await driver.stop();
      await fn.close();
    },
    share('traffic') * KILL_MS_MAX,
  );

  test(
    'as many frames as it takes > the kernel got every one, and at most one twice for each kill',
    async () => {
      const { scene, service, device, representorMac } = used.value;
      const fn = await BoundFunction.open(service.socket(device.bdf));
      const driver = await fn.start({ queueSize: QUEUE_SIZE, pairs: 1 });
      const ring = driver.ring(1);
      const { sf_rep_net_device: representor } = device;
      const got = async (): Promise<number> => {
        const [link] = JSON.parse(await scene.net.ip(`-s -j link show dev ${representor}`)) as Statistics[];
        return link!.stats64.rx.packets + link!.stats64.rx.dropped;
      };
      const frame = numberedFrame(representorMac, 0);
      frame.set([2, 0, 0, 0, 9, 9]); // for nobody: the host only counts it
      const buffer = Buffer.concat([new Uint8Array(FRAME_HEADER_BYTES), frame]);
      // Another process kills: while this one does, it offers no frames.
      const kill = async (): Promise<Kill> => {
        const pid = service.runningPid('emu');
        await scene.processes.run(['sh', '-c', `sleep 0.02; kill -9 ${pid}`]);
        return { pid, atUs: wallClockUs() };
      };
      const before = await got();
      let transmitted = 0;
      const kills = await killDuring(
        service,
        { count: share('bursts'), random: randomNumbers(seed + 5), kill },
        async (going) => {
          while (going()) {
            while (ring.add({ readable: [buffer] }) >= 0) transmitted += 1;
            await driver.publish(1);
            ring.collect();
            await new Promise((resolve) => setImmediate(resolve));
          }
        },
      );
      await until('everything is sent', SETTLE_MS * 20, () => {
        ring.collect();
        return ring.outstanding === 0;
      });
      const repeated = (await got()) - before - transmitted;
      expect(transmitted).toBeGreaterThan(10_000);
      expect(repeated, `of ${transmitted}`).toBeGreaterThanOrEqual(0);
      expect(repeated, `of ${transmitted}`).toBeLessThanOrEqual(kills.length);
      await driver.stop();
      await fn.close();
    },
    share('bursts') * KILL_MS_MAX,
  );

  test(
    'as many frames as come > what the kernel gave is the driver’s once, but for at most one frame for each kill',
    async () => {
      const { scene, service, device } = used.value;
      const { sf_rep_net_device: representor } = device;
      const fn = await BoundFunction.open(service.socket(device.bdf));
      const driver = await fn.start({ queueSize: QUEUE_SIZE, features: featureMask([NetFeature.MAC]) });
      await driver.postReceive(0, QUEUE_SIZE);
      // A TAP counts a frame as sent when somebody has read it.
      const given = async (): Promise<number> => {
        const [link] = JSON.parse(await scene.net.ip(`-s -j link show dev ${representor}`)) as Statistics[];
        return link!.stats64.tx.packets;
      };
      const before = await given();
      let last = -1;
      let got = 0;
      const receive = async () => {
        const received = driver.received(0);
        for (const { frame } of received) {
          got++;
          const number = new DataView(frame.buffer, frame.byteOffset).getUint32(NUMBER_AT);
          if (frame[NUMBER_AT - 1] !== MARK) continue;
          expect(number, 'in order, and once').toBeGreaterThan(last);
          last = number;
        }
        if (received.length > 0) await driver.postReceive(0, received.length);
        await new Promise((resolve) => setImmediate(resolve));
      };
      let first = 0;
      const kills = await killDuring(
        service,
        { count: share('bursts'), random: randomNumbers(seed + 6) },
        async (going) => {
          while (going()) {
            const numbers = [first, FLOOD_FRAMES].map(String);
            let sending = true;
            const sender = scene.net.run(['python3', '-c', FLOOD, representor, ...numbers]).finally(() => {
              sending = false;
            });
            while (sending) await receive();
            await sender;
            first += FLOOD_FRAMES;
          }
        },
      );
      let lost = 0;
      await until('everything is received', SETTLE_MS * 20, async () => {
        for (let round = 0; round < 20; round++) await receive();
        const missing = (await given()) - before - got;
        const settled = missing === lost;
        lost = missing;
        return settled;
      });
      expect(got).toBeGreaterThan(1_000);
      expect(lost, `of ${got}`).toBeGreaterThanOrEqual(0);
      expect(lost, `of ${got}`).toBeLessThanOrEqual(kills.length);
      await driver.stop();
      await fn.close();
    },
    share('bursts') * KILL_MS_MAX,
  );

  endsCleanly(used);
});

/** Where a frame of FLOOD has its number, behind MARK. */
const NUMBER_AT = 15;
const MARK = 0x5a;
const FLOOD_FRAMES = 20_000;
/** Numbered frames by an interface, as many as go: the interface, the first number, how many. */
const FLOOD = `
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind((sys.argv[1], 0))
head = bytes.fromhex('${MAC.replaceAll(':', '')}020000000909') + bytes([9, 0, ${MARK}])
for number in range(int(sys.argv[2]), int(sys.argv[2]) + int(sys.argv[3])):
    try:
        s.send(head + number.to_bytes(4, 'big') + bytes(40))
    except OSError:
        pass
`;

/** `ip -s -j link` */
interface Statistics {
  readonly stats64: {
    readonly rx: { readonly packets: number; readonly dropped: number };
    readonly tx: { readonly packets: number };
  };
}

describe('kill -9 of the emulator, Linux guest', () => {
  const used = useScene(async (scene) => {
    const world = await World.open(scene);
    await world.bootGuest();
    return world;
  });

  test(
    'under streams both ways > no link event, no reset, at most one packet per queue and kill is lost or repeated',
    async () => {
      const { guest, ends, bridgeMac, service } = used.value;
      const events = await guest.watchLink();
      const toGuest = await streamToGuest(ends, GUEST_ADDRESS, 7001);
      const fromGuest = await streamFromGuest(ends, HOST_ADDRESS, bridgeMac, 7002);
      const kills = await killDuring(
        service,
        { count: share('guest'), random: randomNumbers(seed + 3) },
        async (going) => {
          while (going()) {
            const { code, output } = await guest.result(
              `/usr/bin/ping -q -c 20 -i 0.01 -W 2 ${HOST_ADDRESS}`,
            );
            expect(code, output.toString()).toBe(0);
          }
        },
      );
      const streams = { 'from the guest': await fromGuest(), 'to the guest': await toGuest() };
      for (const [direction, { arrivals, report }] of Object.entries(streams)) {
        const { lost, duplicated, reordered } = report;
        const missed = lost.length + duplicated.length;
        const facts = missed > kills.length ? await used.value.facts() : '';
        const loss = `${direction}: lost ${describeLoss(arrivals, report)}, repeated ${duplicated}\n${facts}`;
        expect(missed, loss).toBeLessThanOrEqual(kills.length);
        expect(reordered).toBe(0);
      }
      expect(await events()).toEqual({ carrierChanges: 0, monitored: [], resets: [] });
      const health = await service.healthAfter('killed');
      expect(health).toMatchObject({ health_status: 'Good', health_recover_counter: kills.length });
    },
    share('guest') * KILL_MS_MAX + 60_000,
  );

  test(
    'while the driver is loaded and removed > it always comes up',
    async () => {
      const world = used.value;
      const { guest, service } = world;
      const random = randomNumbers(seed + 4);
      for (let round = 0; round < share('guest'); round++) {
        const loading = guest.run(
          'rmmod virtio_net && modprobe virtio_net && cat /sys/class/net/eth0/address',
        );
        await sleep(random() * 400);
        const { pid } = service.killEmu();
        expect(await loading).toMatch(/^0c:/);
        await service.recovered(pid);
      }
      await guest.address(`${GUEST_ADDRESS}/24`);
      await world.reachable();
    },
    share('guest') * KILL_MS_MAX,
  );

  endsCleanly(used);
});

const OTHER = 0;
const FIFO = 1;
const POLICY_FIELD = 41;

/** Scheduling policy of a process's first thread. */
function policyOf(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  const COMMAND_FIELDS = 2;
  return Number(stat.slice(stat.lastIndexOf(') ') + 2).split(' ')[POLICY_FIELD - COMMAND_FIELDS - 1]);
}

/** Whether this machine lets root run anything in real time. */
function mayBeRealtime(): boolean {
  const may = setThreadRealtime(process.pid, true) === 0;
  setThreadRealtime(process.pid, false);
  return may;
}

const UDP_PAYLOAD_AT = 42;

/** Packet `sequence` of the stream the driver sends. */
function numberedFrame(destinationMac: string, sequence: number): Buffer {
  const payload = Buffer.alloc(STREAM_PACKET_BYTES + 20);
  writeStreamPacket(payload, sequence, wallClockUs());
  const addresses = { source: PEER_ADDRESS, destination: ADDRESS };
  return udpFrame({ ...addresses, sourceMac: MAC, destinationMac, port: RECEIVE_PORT, payload });
}
