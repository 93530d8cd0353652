/** The built-in switch: functions reach each other without the kernel, for a user without any privilege. */
import { createHash } from 'node:crypto';
import { NetFeature } from '@virtnet/wire';
import { describe, expect, test } from 'vitest';
import { BoundFunction } from './lib/bound-function.ts';
import { macBytes, udpFrame } from './lib/frames.ts';
import type { Scene } from './lib/scene.ts';
import { type Hotplugged, Service, type ServiceOptions } from './lib/service.ts';
import { endsCleanly, useScene } from './lib/use-scene.ts';
import { until } from './lib/waiting.ts';

const MACS = ['0C:C4:7A:FF:22:93', '0C:C4:7A:FF:22:94'] as const;
const NOBODY = 65_534;
const PATIENCE_MS = 60_000;
const FRAMES = 4000;
const KILL_AFTER = 1500;
const UPLINK = 'up0';
const HOST_ADDRESS = '10.78.0.1';
const GUEST_ADDRESS = '10.78.0.2';

interface Stage {
  readonly scene: Scene;
  readonly service: Service;
  readonly devices: readonly Hotplugged[];
}

async function stage(scene: Scene, options: ServiceOptions): Promise<Stage> {
  const service = await Service.start(scene, options);
  const devices: Hotplugged[] = [];
  for (const mac of MACS) devices.push(await service.hotplug({ mac, queues: 3, queueSize: 256 }));
  return { scene, service, devices };
}

/** A frame with its number in front of a payload that follows from it. */
function numbered(to: string, from: string, number: number): Uint8Array {
  const frame = new Uint8Array(60 + ((number * 37) % 1400)).fill(number * 7);
  frame.set(macBytes(to));
  frame.set(macBytes(from), 6);
  new DataView(frame.buffer).setUint32(14, number);
  return frame;
}
const numberOf = (frame: Uint8Array): number => new DataView(frame.buffer, frame.byteOffset).getUint32(14);

const hashOf = (frames: readonly Uint8Array[]): string => {
  const hash = createHash('sha256');
  for (const frame of frames) hash.update(frame);
  return hash.digest('hex');
};

/** Moves FRAMES frames from one to the other; what arrived, in order. `atFrame`: something to do on the way. */
async function move(
  [from, to]: readonly [BoundFunction, BoundFunction],
  macs: readonly [string, string],
  atFrame: (number: number) => void = () => {},
): Promise<Uint8Array[]> {
  const arrived: Uint8Array[] = [];
  const collect = async () => {
    for (const { frame } of to.driver.received(0)) arrived.push(frame);
    await to.driver.postReceive(0, 256);
    from.driver.ring(1).collect();
  };
  await to.driver.postReceive(0, 256);
  for (let number = 0; number < FRAMES; number++) {
    atFrame(number);
    // No more on the way than the receiver has room for: a switch waits for nobody.
    await until(
      'room',
      PATIENCE_MS,
      async () => {
        await collect();
        return number - (arrived.length === 0 ? -1 : numberOf(arrived.at(-1)!)) < 50;
      },
      1,
    );
    expect(await from.driver.transmit(0, numbered(macs[1], macs[0], number))).toBe(true);
  }
  await until('the last frame', PATIENCE_MS, async () => {
    await collect();
    return numberOf(arrived.at(-1)!) === FRAMES - 1;
  });
  return arrived;
}

describe('eswitch, the whole service run by nobody, without /dev/net/tun', () => {
  const used = useScene((scene) => stage(scene, { user: NOBODY }));

  test('there is no representor interface: the name is told all the same, with index 0', async () => {
    const { scene, service } = used.value;
    const { devices } = await service.answer<{
      devices: { sf_rep_net_device: string; sf_rep_net_ifindex: number }[];
    }>('list');
    expect(devices.map((device) => [device.sf_rep_net_device, device.sf_rep_net_ifindex])).toEqual([
      ['en3f0pf0sf2000', 0],
      ['en3f0pf0sf2001', 0],
    ]);
    expect((await scene.net.links()).map(({ ifname }) => ifname)).toEqual(['lo']);
  });

  test(`${FRAMES} frames each way with matching hashes, and kill -9 of the emulator repeats at most one`, async () => {
    const { service, devices } = used.value;
    const functions: BoundFunction[] = [];
    for (const { bdf } of devices) functions.push(await BoundFunction.open(service.socket(bdf)));
    const [a, b] = functions as [BoundFunction, BoundFunction];
    for (const each of functions) await each.start({ queueSize: 256 });
    const sent = Array.from({ length: FRAMES }, (_, i) => numbered(MACS[1], MACS[0], i));
    expect(hashOf(await move([a, b], [MACS[0], MACS[1]]))).toBe(hashOf(sent));
    let killed = 0;
    const back = await move([b, a], [MACS[1], MACS[0]], (number) => {
      if (number === KILL_AFTER) killed = service.killEmu().pid;
    });
    const once = back.filter((frame, i) => i === 0 || numberOf(frame) !== numberOf(back[i - 1]!));
    expect(hashOf(once)).toBe(hashOf(sent.map((_, i) => numbered(MACS[0], MACS[1], i))));
    expect(back.length - once.length).toBeLessThanOrEqual(1);
    await service.recovered(killed);
    const { 'enabled-queues-info': queues } = await service.query(0);
    expect(Number(queues[0]!.total_bytes)).toBeGreaterThan(0);
    for (const each of functions) await each.close();
  });

  endsCleanly(used);
});

describe('eswitch with an uplink', () => {
  const conf = { software: { representor: 'eswitch', uplink_taps: { mlx5_0: UPLINK } } };
  const used = useScene((scene) => stage(scene, { conf }));

  test('the host reaches a function and a function the host, before and after kill -9, by the same interface', async () => {
    const { scene, service, devices } = used.value;
    await scene.net.quiet(UPLINK);
    await scene.net.ip(`addr add ${HOST_ADDRESS}/24 dev ${UPLINK}`);
    await scene.net.ip(`link set ${UPLINK} up`);
    await scene.net.ip(`neigh add ${GUEST_ADDRESS} lladdr ${MACS[0]} dev ${UPLINK} nud permanent`);
    const before = await scene.net.waitForLink(UPLINK);
    const fn = await BoundFunction.open(service.socket(devices[0]!.bdf));
    const driver = await fn.start({ queueSize: 256 });
    const hello = udpFrame({
      destinationMac: before.address,
      sourceMac: MACS[0],
      destination: HOST_ADDRESS,
      source: GUEST_ADDRESS,
      port: 9,
      payload: Buffer.from('anybody there?'),
    });
    const roundTrip = async () => {
      await driver.postReceive(0, 64);
      expect(await driver.transmit(0, hello)).toBe(true);
      // Nobody listens: the host answers with an ICMP message that quotes the datagram.
      return until('the answer of the host', PATIENCE_MS, () =>
        driver.received(0).find(({ frame }) => Buffer.from(frame).includes('anybody there?')),
      );
    };
    expect(Buffer.from((await roundTrip()).frame).subarray(0, 6)).toEqual(macBytes(MACS[0]));
    const { pid } = service.killEmu();
    await service.recovered(pid);
    await roundTrip();
    const after = await scene.net.link(UPLINK);
    expect([after?.ifindex, after?.operstate]).toEqual([before.ifindex, before.operstate]);
    await fn.close();
  });

  test('a frame with GSO from the host is cut for a function that takes none', async () => {
    const { scene, service, devices } = used.value;
    const fn = await BoundFunction.open(service.socket(devices[1]!.bdf));
    const driver = await fn.start({ queueSize: 256, features: 1n << BigInt(NetFeature.MAC) });
    await scene.net.ip(`neigh replace 10.78.0.3 lladdr ${MACS[1]} dev ${UPLINK} nud permanent`);
    await driver.postReceive(0, 64);
    // A datagram of several segments: sent with UDP_SEGMENT the kernel leaves the cutting to the device.
    await scene.net.run(['python3', '-c', SEND_SEGMENTED]);
    const segments: Uint8Array[] = [];
    await until('all segments', PATIENCE_MS, () => {
      for (const { frame } of driver.received(0)) if (frame[23] === 17) segments.push(frame);
      return segments.length === 4;
    });
    expect(segments.map((frame) => frame.length - 42)).toEqual([1000, 1000, 1000, 500]);
    await fn.close();
  });

  test('what an uplink that is down does not take is counted at the sender, a lost copy apart from lost frames', async () => {
    const { scene, service, devices } = used.value;
    const functions: BoundFunction[] = [];
    for (const { bdf } of devices) functions.push(await BoundFunction.open(service.socket(bdf)));
    const [sender, other] = functions as [BoundFunction, BoundFunction];
    for (const each of functions) await (await each.start({ queueSize: 256 })).postReceive(0, 64);
    const host = await scene.net.waitForLink(UPLINK);
    await scene.net.run(['python3', '-c', SEND_ONE]);
    await until('a frame of the host, which tells where it is', PATIENCE_MS, () =>
      sender.driver.received(0).some(({ frame }) => Buffer.from(frame).includes('here I am')),
    );
    await scene.net.ip(`link set ${UPLINK} down`);
    const counters = async (...options: string[]) => {
      const { devices: queried } = await service.answer<{
        devices: { 'enabled-queues-info': Record<string, number>[] }[];
      }>('query', '-p', '0', '--dbg_stats', ...options);
      return queried[0]!['enabled-queues-info'][1]!;
    };
    await counters('--stats_clear');
    expect(await sender.driver.transmit(0, numbered(host.address, MACS[0], 1))).toBe(true);
    const everybody = numbered('ff:ff:ff:ff:ff:ff', MACS[0], 2);
    expect(await sender.driver.transmit(0, everybody)).toBe(true);
    await until('the copy of the other function', PATIENCE_MS, () =>
      other.driver.received(0).some(({ frame }) => hashOf([frame]) === hashOf([everybody])),
    );
    const lost = { drop_tap_error: 1, drop_tap_again: 0, drop_no_destination: 0 };
    expect(await counters()).toMatchObject({ ...lost, frames: 1, uplink_missed: 1 });
    await counters('--stats_clear');
    expect(await counters()).toMatchObject({ drop_tap_error: 0, frames: 0, uplink_missed: 0 });
    for (const each of functions) await each.close();
  });

  test('what comes in for nobody is counted at the uplink, and counts on after kill -9 and restart', async () => {
    const { scene, service, devices } = used.value;
    await scene.net.quiet(UPLINK);
    await scene.net.ip(`link set ${UPLINK} up`);
    const { address } = await scene.net.waitForLink(UPLINK);
    interface Answer {
      readonly uplinks: Record<string, string | number>[];
    }
    const uplink = async (...options: string[]) => {
      const { uplinks } = await service.answer<Answer>('query', '-p', '0', '--dbg_stats', ...options);
      expect(uplinks).toHaveLength(1);
      return uplinks[0]!;
    };
    const sends = (...frames: Uint8Array[]) =>
      scene.net.run(['python3', '-c', SEND_RAW, ...frames.map((each) => Buffer.from(each).toString('hex'))]);
    const nobody = numbered('ff:ff:ff:ff:ff:ff', address, 1);
    const reasons = { drop_no_destination: 2, drop_same_port: 1, drop_not_switched: 1, stations_refused: 0 };
    await uplink('--stats_clear');
    // No driver is there: to everybody, to a function, to the host itself, and to bridges alone.
    await sends(nobody, numbered(MACS[0], address, 2), numbered(address, address, 3));
    await sends(numbered('01:80:c2:00:00:00', address, 4));
    await until('all of them', PATIENCE_MS, async () => Number((await uplink()).drop_not_switched) > 0);
    expect(await uplink()).toEqual({
      sf_parent_device: 'mlx5_0',
      uplink_tap: UPLINK,
      frames: 0,
      ...reasons,
    });
    const { pid } = service.killEmu();
    await service.recovered(pid);
    expect(await uplink()).toMatchObject(reasons);
    expect((await service.virtnet('restart')).stdout).toBe('SUCCESS\n'); // the keeper is another one, too
    const again = service.killEmu();
    await service.recovered(again.pid);
    expect(await uplink()).toMatchObject(reasons);
    const fn = await BoundFunction.open(service.socket(devices[0]!.bdf));
    await (await fn.start({ queueSize: 256 })).postReceive(0, 64);
    await sends(nobody);
    await until('the frame', PATIENCE_MS, async () => Number((await uplink()).frames) > 0);
    expect(await uplink()).toMatchObject({ frames: 1, ...reasons });
    await fn.close();
    expect(await uplink('--stats_clear')).toMatchObject({ frames: 0, drop_no_destination: 0 });
  });

  endsCleanly(used);
});

/** Frames in hexadecimal, by the uplink's interface. */
const SEND_RAW = `
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(('${UPLINK}', 0))
for frame in sys.argv[1:]:
    s.send(bytes.fromhex(frame))
`;

const SEND_ONE = `
import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'here I am', ('${GUEST_ADDRESS}', 9))
`;

/** 3500 bytes with UDP_SEGMENT 1000. */
const SEND_SEGMENTED = `
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(17, 103, 1000)
s.sendto(bytes(3500), ('10.78.0.3', 9))
`;
