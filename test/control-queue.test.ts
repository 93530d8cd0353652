/** Control commands of a driver over vfio-user, and what they change on the wire: another function sends it frames. */
import type { VirtioNetDriver } from '@virtnet/testing';
import {
  ControlAck,
  ControlAnnounce,
  ControlClass,
  ControlMq,
  ControlRx,
  featureMask,
  HashReport,
  HashType,
  NET_HEADER_HASH_BYTES,
  NetFeature,
  NetHeader,
  NetHeaderFlag,
} from '@virtnet/wire';
import { describe, expect, test } from 'vitest';
import { BoundFunction } from './lib/bound-function.ts';
import { macBytes, onesComplementSum, udpFrame, withVlan } from './lib/frames.ts';
import { Service } from './lib/service.ts';
import { endsCleanly, useScene } from './lib/use-scene.ts';
import { sleep, until } from './lib/waiting.ts';

const SENDER_MAC = '0C:C4:7A:FF:22:01';
const MAC = '0C:C4:7A:FF:22:93';
const NEW_MAC = '0C:C4:7A:FF:22:94';
const HASHING_MAC = '0C:C4:7A:FF:22:95';
const FOREIGN_MAC = '02:00:00:00:00:55';
const GROUP_MAC = '01:00:5E:01:02:03';
const BROADCAST_MAC = 'FF:FF:FF:FF:FF:FF';
const PORT = 7300;
const PAIRS = 2;
const BUFFERS = 128;
/** So small that a frame needs several. */
const SMALL_BUFFER_BYTES = 64;
const VLAN = 5;
const OTHER_VLAN = 6;
const PASSAGE_MS = 150;
const ETHERNET_IP_BYTES = 34;
const UDP_CHECKSUM_AT = 6;
/** The key that published values of Toeplitz hashes go with. */
const HASH_KEY = Buffer.from(
  '6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa',
  'hex',
);
const ALL_OFFLOADS = featureMask([NetFeature.GUEST_CSUM, NetFeature.GUEST_TSO4, NetFeature.GUEST_TSO6]);

const used = useScene(async (scene) => {
  const service = await Service.start(scene);
  const { net } = scene;
  await net.bridge('br0', '10.79.0.1/24');
  const bind = async (mac: string, more: readonly number[] = []): Promise<VirtioNetDriver> => {
    const addFeatures = featureMask([NetFeature.CTRL_VLAN, ...more]);
    const device = await service.hotplug({ mac, queues: 2 * PAIRS + 1, queueSize: 256, addFeatures });
    await net.enslave(device.sf_rep_net_device, 'br0');
    const fn = await BoundFunction.open(service.socket(device.bdf));
    scene.atEnd(() => fn.close());
    return fn.start();
  };
  const sender = await bind(SENDER_MAC);
  const driver = await bind(MAC);
  const hashing = await bind(HASHING_MAC, [NetFeature.HASH_REPORT, NetFeature.MRG_RXBUF]);
  await hashing.postReceive(0, BUFFERS, SMALL_BUFFER_BYTES);
  await hashing.setQueuePairs(1);
  for (let pair = 0; pair < PAIRS; pair++) await driver.postReceive(pair, BUFFERS);
  await until('the bridge forwards', 30_000, async () => {
    const pairs = await pass({ sender, driver }, [frameTo(BROADCAST_MAC)]);
    return pairs.flat().length > 0;
  });
  return { service, sender, driver, hashing };
});

interface Received {
  readonly flags: number;
  readonly frame: Buffer;
}

interface Ends {
  readonly sender: VirtioNetDriver;
  readonly driver: VirtioNetDriver;
}

/** Sends frames and returns what arrived, by pair. */
function passed(frames: readonly Buffer[], header?: Uint8Array): Promise<Received[][]> {
  return pass(used.value, frames, header);
}

async function pass(
  { sender, driver }: Ends,
  frames: readonly Buffer[],
  header?: Uint8Array,
): Promise<Received[][]> {
  const drain = async (): Promise<Received[][]> => {
    const pairs: Received[][] = [];
    for (let pair = 0; pair < PAIRS; pair++) {
      const arrived = driver.received(pair);
      await driver.postReceive(pair, arrived.length);
      pairs.push(arrived.map(({ header: { flags }, frame }) => ({ flags, frame: Buffer.from(frame) })));
    }
    return pairs;
  };
  await drain();
  for (const frame of frames) expect(await sender.transmit(0, frame, header)).toBe(true);
  await sleep(PASSAGE_MS);
  sender.ring(1).collect();
  return (await drain()).map((pair) => pair.filter(({ frame }) => frame.includes('test datagram')));
}

function frameTo(destinationMac: string, flow = 0): Buffer {
  const addresses = { source: `10.79.0.${100 + flow}`, destination: '10.79.0.2' };
  return udpFrame({
    ...addresses,
    destinationMac,
    sourceMac: SENDER_MAC,
    port: PORT + flow,
    payload: Buffer.from(`test datagram to ${destinationMac}`),
  });
}

/** Which of these frames arrive. */
async function accepted(frames: Readonly<Record<string, Buffer>>): Promise<string[]> {
  const arrived = (await passed(Object.values(frames))).flat();
  return Object.keys(frames).filter((name) =>
    arrived.some(({ frame }) => frame.equals(frames[name] ?? frame)),
  );
}

const KINDS = {
  own: frameTo(MAC),
  foreign: frameTo(FOREIGN_MAC),
  group: frameTo(GROUP_MAC),
  broadcast: frameTo(BROADCAST_MAC),
};

describe('control queue over vfio-user', () => {
  const MODES: readonly {
    on: readonly (keyof typeof ControlRx)[];
    accepts: readonly (keyof typeof KINDS)[];
  }[] = [
    { on: [], accepts: ['own', 'broadcast'] },
    { on: ['PROMISC'], accepts: ['own', 'foreign', 'group', 'broadcast'] },
    { on: ['ALLMULTI'], accepts: ['own', 'group', 'broadcast'] },
    { on: ['ALLUNI'], accepts: ['own', 'foreign', 'broadcast'] },
    { on: ['NOBCAST'], accepts: ['own'] },
    { on: ['NOUNI'], accepts: ['broadcast'] },
    { on: ['NOUNI', 'NOBCAST', 'ALLMULTI'], accepts: ['group'] },
    { on: ['ALLMULTI', 'NOMULTI'], accepts: ['own', 'broadcast'] },
  ];

  test.for(MODES)('§5.1.6.5.1 receive modes $on > frames that arrive: $accepts', async ({ on, accepts }) => {
    const { driver } = used.value;
    for (const mode of Object.keys(ControlRx) as (keyof typeof ControlRx)[])
      await driver.setReceiveMode(ControlRx[mode], on.includes(mode));
    expect(await accepted(KINDS)).toEqual(accepts);
  });

  test('§5.1.6.5.2 MAC table > its addresses arrive as well, until it is set anew', async () => {
    const { driver } = used.value;
    for (const mode of Object.values(ControlRx)) await driver.setReceiveMode(mode, false);
    await driver.setMacTable([macBytes(FOREIGN_MAC)], [macBytes(GROUP_MAC)]);
    expect(await accepted(KINDS)).toEqual(['own', 'foreign', 'group', 'broadcast']);
    await driver.setMacTable([], []);
    expect(await accepted(KINDS)).toEqual(['own', 'broadcast']);
  });

  test('§5.1.6.5.2 MAC address > the new one arrives, the old one not, and query shows it', async () => {
    const { driver, service } = used.value;
    await driver.setMac(macBytes(NEW_MAC));
    expect(await accepted({ old: frameTo(MAC), new: frameTo(NEW_MAC) })).toEqual(['new']);
    const { mac0, mac1, mac2, mac3, mac4, mac5 } = await driver.config();
    expect(Buffer.from([mac0, mac1, mac2, mac3, mac4, mac5])).toEqual(macBytes(NEW_MAC));
    expect((await service.query(1)).ctrl_mac).toBe(NEW_MAC);
    await driver.setMac(macBytes(MAC));
    expect(await accepted({ old: frameTo(MAC), new: frameTo(NEW_MAC) })).toEqual(['old']);
  });

  test('§5.1.6.5.3 VLAN filter > listed and untagged frames arrive, other tags not', async () => {
    const { driver } = used.value;
    const frames = {
      untagged: frameTo(MAC),
      listed: withVlan(frameTo(MAC), VLAN),
      other: withVlan(frameTo(MAC), OTHER_VLAN),
    };
    await driver.addVlan(VLAN);
    expect(await accepted(frames)).toEqual(['untagged', 'listed']);
    await driver.addVlan(OTHER_VLAN);
    await driver.removeVlan(VLAN);
    expect(await accepted(frames)).toEqual(['untagged', 'other']);
    await driver.removeVlan(OTHER_VLAN);
  });

  test('§5.1.6.5.5 queue pairs > frames arrive on those in use only', async () => {
    const { driver, service } = used.value;
    const flows = Array.from({ length: 64 }, (_, flow) => frameTo(MAC, flow));
    await driver.setQueuePairs(1);
    const one = await passed(flows);
    expect(one.map((frames) => frames.length)).toEqual([flows.length, 0]);
    expect((await service.query(1)).ctrl_mq).toBe('1');
    await driver.setQueuePairs(PAIRS);
    const two = await passed(flows);
    expect(two.flat()).toHaveLength(flows.length);
    for (const frames of two) expect(frames.length).toBeGreaterThan(0);
    const data = Uint8Array.of(PAIRS + 1, 0);
    expect(await driver.command(ControlClass.MQ, ControlMq.VQ_PAIRS_SET, data)).toBe(ControlAck.ERR);
    expect((await service.query(1)).ctrl_mq).toBe(`${PAIRS}`);
  });

  test('§5.1.6.5.6 F15 guest offloads off > a checksum left open by the sender arrives complete', async () => {
    const { driver } = used.value;
    const header = NetHeader.bytes({
      flags: NetHeaderFlag.NEEDS_CSUM,
      gsoType: 0,
      hdrLen: 0,
      gsoSize: 0,
      csumStart: ETHERNET_IP_BYTES,
      csumOffset: UDP_CHECKSUM_AT,
      numBuffers: 0,
    });
    const frame = withPseudoHeaderSum(frameTo(MAC));
    await driver.setOffloads(ALL_OFFLOADS);
    const [open] = (await passed([frame], header)).flat();
    expect(open?.flags).toBe(NetHeaderFlag.NEEDS_CSUM);
    await driver.setOffloads(0n);
    const [complete] = (await passed([frame], header)).flat();
    expect(complete?.flags).toBe(0);
    expect(udpSum(complete?.frame ?? Buffer.alloc(0))).toBe(0xffff);
    await driver.setOffloads(ALL_OFFLOADS);
  });

  test('§5.1.6.5.6.4 hash report > none before the driver asks, then that of each frame, also after a kill', async () => {
    const { hashing, sender, service } = used.value;
    const payload = Buffer.alloc(100, 7);
    const addresses = { source: '66.9.149.187', destination: '161.142.100.80' };
    const frame = udpFrame({
      ...addresses,
      sourceMac: SENDER_MAC,
      destinationMac: HASHING_MAC,
      port: PORT,
      payload,
    });
    const arrives = async () => {
      expect(await sender.transmit(0, frame)).toBe(true);
      const parts = await until('the frame', 30_000, async () => {
        const received = hashing.received(0); // behind whatever the other tests left in the queue
        await hashing.postReceive(0, received.length, SMALL_BUFFER_BYTES);
        const first = received.findIndex((part) => Buffer.from(part.frame).includes(frame.subarray(0, 14)));
        return first < 0 ? null : received.slice(first);
      });
      sender.ring(1).collect();
      const { header, hash, hashReport } = parts[0]!;
      return { buffers: header.numBuffers, hash, hashReport };
    };
    const buffers = Math.ceil((NET_HEADER_HASH_BYTES + frame.length) / SMALL_BUFFER_BYTES);
    expect(await arrives()).toEqual({ buffers, hash: 0, hashReport: HashReport.NONE });
    const foreign = hashing.setHash(1 << 9, HASH_KEY);
    await expect(foreign, 'a type that the device does not have').rejects.toThrow('refused');
    await hashing.setHash(HashType.IPV4, HASH_KEY);
    const hashed = { buffers, hash: 0x323e8fc2, hashReport: HashReport.IPV4 };
    expect(await arrives()).toEqual(hashed);
    const { pid } = service.killEmu();
    await service.recovered(pid);
    expect(await arrives()).toEqual(hashed);
    const { rss_max_key_size: keyBytes, supported_hash_types: types } = await service.query(2);
    expect([keyBytes, types]).toEqual(['40', '0x1ff']);
  });

  test('§5.1.6.5.4 announcement that nobody asked for > its acknowledgement is harmless', async () => {
    const { driver } = used.value;
    expect([ControlAck.OK, ControlAck.ERR]).toContain(
      await driver.command(ControlClass.ANNOUNCE, ControlAnnounce.ACK),
    );
    expect(await accepted({ own: frameTo(MAC) })).toEqual(['own']);
  });

  test('a command that does not exist > refused, and the next one works', async () => {
    const { driver } = used.value;
    expect(await driver.command(99, 0)).toBe(ControlAck.ERR);
    expect(await driver.command(ControlClass.RX, 99, Uint8Array.of(1))).toBe(ControlAck.ERR);
    await driver.setReceiveMode(ControlRx.PROMISC, true);
    expect(await accepted({ foreign: frameTo(FOREIGN_MAC) })).toEqual(['foreign']);
  });

  endsCleanly(used);
});

/** The frame as a driver hands it over that leaves the UDP checksum to the device. */
function withPseudoHeaderSum(frame: Buffer): Buffer {
  const copy = Buffer.from(frame);
  copy.writeUInt16BE(onesComplementSum(pseudoHeader(frame)), ETHERNET_IP_BYTES + UDP_CHECKSUM_AT);
  return copy;
}

function udpSum(frame: Buffer): number {
  const udp = frame.subarray(
    ETHERNET_IP_BYTES,
    ETHERNET_IP_BYTES + frame.readUInt16BE(ETHERNET_IP_BYTES + 4),
  );
  const even = udp.length % 2 === 0 ? udp : Buffer.concat([udp, Buffer.alloc(1)]);
  return onesComplementSum(Buffer.concat([pseudoHeader(frame), even]));
}

function pseudoHeader(frame: Buffer): Buffer {
  const tail = Buffer.from([0, 17, 0, 0]);
  frame.copy(tail, 2, ETHERNET_IP_BYTES + 4, ETHERNET_IP_BYTES + 6);
  return Buffer.concat([frame.subarray(26, ETHERNET_IP_BYTES), tail]);
}
