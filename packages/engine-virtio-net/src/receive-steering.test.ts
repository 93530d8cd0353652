import {
  ControlAck,
  ControlClass,
  ControlMq,
  HASH_KEY_BYTES_MAX,
  HASH_TYPES,
  HashType,
  NetConfig,
  NetFeature,
  RSS_TABLE_ENTRIES_MAX,
  viewOf,
} from '@virtnet/wire';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type ControlContext, executeControl } from './control-queue.js';
import { HASHED_BYTES_MAX } from './flow-hash.js';
import type { NetDevice } from './net-device.js';
import { ReceiveSteering, type RssSettings } from './receive-steering.js';
import { agreedDevice, request, u16, u32 } from './test-profile.fixture.js';

const { OK, ERR } = ControlAck;
/** The key that goes with the published results. */
const KEY = [
  ...Buffer.from('6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa', 'hex'),
];

/** A TCP segment over IPv4. */
function segment(addresses: readonly number[], ports: readonly number[]): Uint8Array {
  const head = [...new Array(12).fill(2), 8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
  return Uint8Array.from([...head, ...addresses, ...ports, ...new Array(16).fill(0)]);
}

/** Bit by bit, as the definition says: for each bit of the input that is set, the key's 32 bits from there on. */
function toeplitz(key: readonly number[], input: readonly number[]): number {
  const bit = (bytes: readonly number[], at: number) => ((bytes[at >> 3] ?? 0) >> (7 - (at & 7))) & 1;
  let hash = 0;
  for (let at = 0; at < input.length * 8; at++) {
    if (bit(input, at) === 0) continue;
    let window = 0;
    for (let i = 0; i < 32; i++) window = (window << 1) | bit(key, at + i);
    hash ^= window;
  }
  return hash >>> 0;
}

const byte = fc.integer({ min: 0, max: 255 });
const bytes = (length: number) => fc.array(byte, { minLength: length, maxLength: length });

describe('RSS-2 the queue of a frame', () => {
  it.each([
    ['66.9.149.187', 2794, '161.142.100.80', 1766, 0x51ccc178],
    ['199.92.111.2', 14230, '65.69.140.83', 4739, 0xc626b0ea],
    ['24.19.198.95', 12898, '12.22.207.184', 38024, 0x5c2b394a],
    ['38.27.205.30', 48228, '209.142.163.6', 2217, 0xafc7327f],
    ['153.39.163.191', 44251, '202.188.127.2', 1303, 0x10e828a2],
  ])('is where the published hash of %s:%i to %s:%i points', (source, from, target, to, hash) => {
    const addresses = [source, target].flatMap((text) => text.split('.').map(Number));
    const frame = segment(addresses, [from >> 8, from & 255, to >> 8, to & 255]);
    for (const entries of [1, 2, 32, 128]) {
      const table = Array.from({ length: entries }, (_, i) => i);
      const steering = new ReceiveSteering({ types: HASH_TYPES, key: KEY, table, unclassified: 200 });
      expect(steering.pairOf(frame, frame.length)).toBe(hash % entries);
    }
  });

  it('is that of the table at the hash, for any key, table and flow; without a hash the one for such frames', () => {
    const powers = fc.integer({ min: 0, max: 7 }).map((power) => 2 ** power);
    const tables = powers.chain((length) =>
      fc.array(fc.integer({ min: 0, max: 30 }), { minLength: length, maxLength: length }),
    );
    const keys = fc.integer({ min: 0, max: HASH_KEY_BYTES_MAX }).chain(bytes);
    fc.assert(
      fc.property(tables, keys, bytes(8), bytes(4), (table, key, addresses, ports) => {
        const frame = segment(addresses, ports);
        const steered = (types: number, length = frame.length) =>
          new ReceiveSteering({ types, key, table, unclassified: 31 }).pairOf(frame, length);
        expect(steered(HashType.TCPV4)).toBe(table[toeplitz(key, [...addresses, ...ports]) % table.length]);
        expect(steered(HashType.IPV4)).toBe(table[toeplitz(key, addresses) % table.length]);
        expect(steered(HashType.UDPV4 | HashType.IPV6)).toBe(31);
        expect(steered(HASH_TYPES, 30)).toBe(31);
      }),
      { numRuns: 300 },
    );
  });

  it('is one of those that were named, whatever the frame', () => {
    const frames = fc.uint8Array({ maxLength: HASHED_BYTES_MAX });
    const steering = new ReceiveSteering({ types: HASH_TYPES, key: KEY, table: [4, 7], unclassified: 9 });
    fc.assert(
      fc.property(frames, (frame) => {
        expect([4, 7, 9]).toContain(steering.pairOf(frame, frame.length));
      }),
      { numRuns: 500 },
    );
  });
});

interface Config {
  readonly types: number;
  readonly mask: number;
  readonly unclassified: number;
  readonly table: readonly number[];
  readonly pairs: number;
  readonly keyBytes: number;
  readonly key: readonly number[];
}
const GOOD: Config = {
  types: HASH_TYPES,
  mask: 3,
  unclassified: 1,
  table: [0, 2, 2, 0],
  pairs: 3,
  keyBytes: KEY.length,
  key: KEY,
};
const IN_FORCE: RssSettings = { types: HASH_TYPES, key: KEY, table: GOOD.table, unclassified: 1 };

const dataOf = ({ types, mask, unclassified, table, pairs, keyBytes, key }: Config): number[] => [
  ...[...u32(types), ...u16(mask), ...u16(unclassified)],
  ...[...table.flatMap(u16), ...u16(pairs), keyBytes, ...key],
];
const send = (device: NetDevice, data: readonly number[], context?: ControlContext) =>
  executeControl(device, request(ControlClass.MQ, ControlMq.RSS_CONFIG, ...data), context);
const setPairs = (device: NetDevice, pairs: number) =>
  executeControl(device, request(ControlClass.MQ, ControlMq.VQ_PAIRS_SET, ...u16(pairs))).ack;

function expectRefused(device: NetDevice, data: readonly number[], context?: ControlContext): void {
  const before = device.control;
  expect(send(device, data, context)).toEqual({ ack: ERR, changed: [] });
  expect(device.control).toBe(before);
}

describe('control queue: receive-side scaling', () => {
  it('RSS_CONFIG enables several queues, steering and hashes; it is saved, and gone after a reset', () => {
    const device = agreedDevice();
    expect(device.rssSettings()).toBeNull();
    expect(send(device, dataOf(GOOD))).toEqual({
      ack: OK,
      changed: [{ kind: 'queue-pairs', pairs: 3 }, { kind: 'hash' }, { kind: 'steering' }],
    });
    expect([device.rssSettings(), device.activePairs]).toEqual([IN_FORCE, 3]);
    expect(device.hashSettings()).toEqual({ types: HASH_TYPES, key: KEY });
    const other = agreedDevice();
    expect(other.restore(JSON.parse(JSON.stringify(device.save())))).toEqual([]);
    expect(other.rssSettings()).toEqual(IN_FORCE);
    device.reset();
    expect([device.rssSettings(), device.activePairs]).toEqual([null, 1]);
  });

  it('frames may be given to the queues that are named, whatever may transmit', () => {
    const device = agreedDevice();
    const table = [2];
    expect(send(device, dataOf({ ...GOOD, mask: 0, table, unclassified: 2, pairs: 1 })).ack).toBe(OK);
    expect([0, 1, 2].map((pair) => device.mayReceive(pair))).toEqual([false, false, true]);
    expect(setPairs(device, 2)).toBe(OK);
    expect([0, 1, 2].map((pair) => device.mayReceive(pair))).toEqual([true, true, false]);
  });

  it('the last command decides how frames are steered', () => {
    const device = agreedDevice();
    expect(send(device, dataOf(GOOD)).ack).toBe(OK);
    expect(setPairs(device, 2)).toBe(OK);
    expect([device.rssSettings(), device.activePairs]).toEqual([null, 2]);
    expect(send(device, dataOf(GOOD)).ack).toBe(OK);
    const hashes = [...u32(1), ...new Array(8).fill(0), 0];
    expect(executeControl(device, request(ControlClass.MQ, ControlMq.HASH_CONFIG, ...hashes)).ack).toBe(OK);
    expect([device.rssSettings(), device.hashSettings()]).toEqual([null, { types: 1, key: [] }]);
  });

  it('the longest table and the shortest key are taken; no key goes with no hashes only', () => {
    const device = agreedDevice();
    const table = Array.from({ length: RSS_TABLE_ENTRIES_MAX }, (_, i) => i % 3);
    expect(send(device, dataOf({ ...GOOD, mask: table.length - 1, table })).ack).toBe(OK);
    expect(send(device, dataOf({ ...GOOD, keyBytes: 1, key: [1] })).ack).toBe(OK);
    expect(send(device, dataOf({ ...GOOD, types: 0, keyBytes: 0, key: [] })).ack).toBe(OK);
    expectRefused(device, dataOf({ ...GOOD, keyBytes: 0, key: [] }));
  });

  const long = Array.from({ length: 2 * RSS_TABLE_ENTRIES_MAX }, () => 0);
  const bad: readonly [string, Partial<Config>][] = [
    ['types that there are not', { types: HASH_TYPES + 1 }],
    ['types of tunnels', { types: 1 << 31 }],
    ['a mask that is none', { mask: 2, table: [0, 1, 2] }],
    ['a table that is too long', { mask: long.length - 1, table: long }],
    ['the largest mask', { mask: 0xffff }],
    ['E7 a queue that is not there', { table: [0, 2, 3, 0] }],
    ['E7 the last queue there can be', { table: [0, 2, 0xffff, 0] }],
    ['the reserved bit of a queue', { table: [0, 0x8000, 0, 0] }],
    ['an unclassified queue that is not there', { unclassified: 3 }],
    ['no transmit queue', { pairs: 0 }],
    ['more transmit queues than there are', { pairs: 4 }],
    ['a key that is too long', { keyBytes: 41, key: [...KEY, 1] }],
    ['a key that is cut off', { key: KEY.slice(1) }],
    ['bytes behind the key', { key: [...KEY, 0] }],
    ['a table that is longer than it says', { mask: 1 }],
    ['a table that is shorter than it says', { mask: 7 }],
  ];
  it.each(bad)('E8 refuses %s, and nothing changes', (_, fields) => {
    const device = agreedDevice();
    expectRefused(device, dataOf({ ...GOOD, ...fields }));
    expect(send(device, dataOf(GOOD)).ack).toBe(OK);
    expectRefused(device, dataOf({ ...GOOD, ...fields }));
    expect(device.rssSettings()).toEqual(IN_FORCE);
  });

  it('E8 refuses every length but the one it says', () => {
    const device = agreedDevice();
    const data = dataOf(GOOD);
    for (let length = 0; length < data.length; length++) expectRefused(device, data.slice(0, length));
    for (let more = 1; more < 300; more++) expectRefused(device, [...data, ...new Array(more).fill(0)]);
    expect(send(device, data).ack).toBe(OK);
  });

  it('refuses types the operator has not allowed, queues the driver has not enabled, and to be asked unagreed', () => {
    expectRefused(agreedDevice([], { hashTypes: 0x3f }), dataOf(GOOD));
    expectRefused(agreedDevice([NetFeature.RSS]), dataOf(GOOD));
    for (const missing of [0, 1, 2, 3, 4, 5])
      expectRefused(agreedDevice(), dataOf(GOOD), { isQueueEnabled: (queue) => queue !== missing });
    const receiveOnly = { isQueueEnabled: (queue: number) => queue % 2 === 0 || queue === 1 };
    expect(send(agreedDevice(), dataOf({ ...GOOD, pairs: 1 }), receiveOnly).ack).toBe(OK);
  });

  it('any bytes at all leave a state that a successor takes, and queues that exist', () => {
    const words = fc.array(fc.oneof(byte, fc.constantFrom(0, 1, 2, 3)), { maxLength: 60 });
    fc.assert(
      fc.property(words, (data) => {
        const device = agreedDevice();
        const { ack } = send(device, data);
        const settings = device.rssSettings();
        expect(settings === null).toBe(ack === ERR);
        if (settings !== null)
          for (const pair of [...settings.table, settings.unclassified]) expect(pair).toBeLessThan(3);
        expect(agreedDevice().restore(JSON.parse(JSON.stringify(device.save())))).toEqual([]);
      }),
      { numRuns: 500 },
    );
  });

  it('the configuration says how long a table may be, with or without MQ', () => {
    const read = (device: NetDevice) => NetConfig.decode(viewOf(device.readConfig(0, NetConfig.sizeBytes)));
    const { offeredFeatures } = agreedDevice().profile;
    const without = (...bits: number[]) =>
      read(
        agreedDevice([], {
          offeredFeatures: bits.reduce((mask, bit) => mask & ~(1n << BigInt(bit)), offeredFeatures),
        }),
      );
    expect(read(agreedDevice())).toMatchObject({
      maxVirtqueuePairs: 3,
      rssMaxKeySize: 40,
      rssMaxIndirectionTableLength: 128,
      supportedHashTypes: HASH_TYPES,
    });
    expect(without(NetFeature.MQ)).toMatchObject({ maxVirtqueuePairs: 3, rssMaxIndirectionTableLength: 128 });
    expect(without(NetFeature.RSS)).toMatchObject({ maxVirtqueuePairs: 3, rssMaxIndirectionTableLength: 0 });
    expect(without(NetFeature.MQ, NetFeature.RSS).maxVirtqueuePairs).toBe(0);
  });
});
