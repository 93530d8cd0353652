/**
 * Frames in several pieces, and into several buffers: whether they go in bursts, as memory in the window lets them, or one by
 * one, what arrives, what comes back and what is counted is the same.
 */
import { LoopPort, SinkPort, SourcePort } from '@virtnet/engine-eswitch';
import { PLAIN_MASK, SpreadReceiveQueue } from '@virtnet/engine-virtio-net';
import { type DeviceRing, PrivateMemory } from '@virtnet/engine-virtqueue';
import {
  DescriptorFlag,
  featureMask,
  GsoType,
  NetFeature,
  NetHeaderFlag,
  QueueCounter,
  VirtioFeature,
} from '@virtnet/wire';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { netHeader, shapeFrame } from './net-fixture.js';
import { SplitDriver } from './split-driver.js';
import type { FunctionOptions, SwitchedPair } from './switch-fixture.js';
import { ensureWindow, passingRoom } from './window-room.js';

ensureWindow(); // before rooms are made
const { CHAIN_SEGMENTS_MAX, switchFixture } = await import('./switch-fixture.js');
const MEMORY_BYTES = 1 << 20;
const HEADER_BYTES = 12;
/** Guest addresses such that the memory is one piece, and such that it is two. */
const IOVA = { one: 0x1_0000_0000n, two: 0x1_4000_0000n - BigInt(MEMORY_BYTES / 2) } as const;
/** What a sender of plain frames has laid out. */
const DEMANDS = { header: HEADER_BYTES, unwanted: PLAIN_MASK, bytesMax: 9014 };
const macOf = (port: number): number[] => [2, 0, 0, 0, 0, port + 1];

interface Sent {
  readonly payloadBytes: number;
  readonly parts: readonly number[];
  /** null: every buffer has a descriptor in the ring. */
  readonly tableFrom: number | null;
  readonly header: 'plain' | 'checksum' | 'segmented' | 'short' | 'cut' | 'spoofed';
}

interface Case {
  readonly rings: readonly ('split' | 'packed')[];
  readonly iova: keyof typeof IOVA;
  readonly mergeable: boolean;
  readonly rooms: readonly number[];
  readonly budget: number;
  /** Whose memory is in the window, when frames go in bursts. */
  readonly windowed: readonly boolean[];
  readonly sent: readonly Sent[];
}

const sent: fc.Arbitrary<Sent> = fc.record({
  payloadBytes: fc.oneof(fc.nat(200), fc.nat(8900)),
  parts: fc.array(fc.oneof(fc.integer({ min: 1, max: 30 }), fc.integer({ min: 1, max: 4000 })), {
    maxLength: 6,
  }),
  tableFrom: fc.oneof({ weight: 8, arbitrary: fc.constant(0) }, fc.constantFrom(null, 1)),
  header: fc.oneof(
    { weight: 12, arbitrary: fc.constant('plain' as const) },
    fc.constantFrom('checksum', 'segmented', 'short', 'cut', 'spoofed'),
  ),
});
const ring = fc.constantFrom('split' as const, 'packed' as const);
const cases: fc.Arbitrary<Case> = fc.record({
  rings: fc.tuple(ring, ring),
  iova: fc.constantFrom('one', 'two'),
  mergeable: fc.boolean(),
  rooms: fc.array(fc.oneof(fc.integer({ min: 1, max: 60 }), fc.integer({ min: 60, max: 9100 })), {
    minLength: 1,
    maxLength: 5,
  }),
  budget: fc.integer({ min: 1, max: 64 }),
  windowed: fc.oneof(
    { weight: 4, arbitrary: fc.constant([true, true]) },
    fc.constantFrom([true, false], [false, true]),
  ),
  sent: fc.array(sent, { minLength: 1, maxLength: 16 }),
});

const headerOf = ({ header }: Sent): Uint8Array => {
  if (header === 'checksum')
    return netHeader({ flags: NetHeaderFlag.NEEDS_CSUM, csumStart: 14, csumOffset: 2 });
  if (header === 'spoofed') return netHeader({ gsoType: 0x7f });
  if (header === 'segmented' || header === 'cut')
    return netHeader({ gsoType: GsoType.TCPV4, gsoSize: 100, hdrLen: 54 });
  return netHeader({}).subarray(0, header === 'short' ? 7 : HEADER_BYTES);
};

/** Offers the same to a sender, and says what became of everything. */
function run(
  { rings, iova, mergeable, rooms, budget, windowed, sent: frames }: Case,
  inWindow: boolean,
  port: 'switch' | 'loop' | 'sink',
) {
  const common = (i: number): FunctionOptions => {
    const memory =
      inWindow && windowed[i] === true
        ? passingRoom(MEMORY_BYTES)
        : { buffer: new ArrayBuffer(MEMORY_BYTES), byteOffset: 0 };
    return {
      features: [NetFeature.CSUM, NetFeature.HOST_TSO4, ...(mergeable ? [NetFeature.MRG_RXBUF] : [])],
      mtu: 9000,
      queueSize: 32,
      packed: rings[i] === 'packed',
      memoryBytes: MEMORY_BYTES,
      arena: memory.buffer,
      arenaOffset: memory.byteOffset,
      iova: IOVA[iova],
    };
  };
  const { pairs, turn, domain } = switchFixture(common(0), common(1));
  const [a, b] = pairs as [SwitchedPair, SwitchedPair];
  if (port !== 'switch')
    a.open(domain, undefined, (d) => (port === 'loop' ? new LoopPort(d, 0, 0) : sinkIn(inWindow)));
  const receiver = port === 'loop' ? a : b;
  const hello = shapeFrame({ destination: macOf(0), payloadBytes: 50 }).bytes;
  hello.set(macOf(1), 6);
  b.send(hello); // where it is, is known from now on
  turn(b);
  frames.forEach((each, i) => {
    const { bytes } = shapeFrame({ destination: macOf(1), payloadBytes: each.payloadBytes, seed: i });
    bytes.set(macOf(each.header === 'spoofed' ? 1 : 0), 6);
    const header = headerOf(each);
    const table = each.tableFrom === null ? {} : { indirectFrom: each.tableFrom };
    const cut = each.header === 'cut' ? 1 : header.length;
    const parts = each.header === 'cut' ? [HEADER_BYTES - 1, ...each.parts] : each.parts;
    a.send(Uint8Array.of(...header.subarray(cut), ...bytes), header.subarray(0, cut), parts, table);
  });
  for (let i = 0; i < 32; i++) receiver.post(1, rooms[i % rooms.length]!);
  for (let i = 0; i < 40; i++) turn(a, budget);
  return {
    arrived: receiver.collect(),
    back: a.transmitter.collect(),
    sender: [...a.blocks[1].counters],
    receiver: [...receiver.blocks[0].counters],
    eswitch: { ...domain.eswitch.counters },
    positions: [a, b].map(({ blocks }) => blocks.map(({ words }) => words[0])),
  };
}

const sinkIn = (inWindow: boolean): SinkPort => {
  const { buffer, byteOffset } = passingRoom(256 * 1024);
  return new SinkPort(inWindow ? new PrivateMemory(256 * 1024, buffer, byteOffset) : undefined);
};

/** Counters of how work was cut into bursts are not what this is about. */
const CUTTING: readonly number[] = [QueueCounter.BATCHES, QueueCounter.HANDLER_RUNS, QueueCounter.MAX_POSTED];
const uncut = (counters: readonly number[]) => counters.map((value, i) => (CUTTING.includes(i) ? 0 : value));

describe.each(['switch', 'loop', 'sink'] as const)('frames in pieces, by the %s', (port) => {
  it('in bursts and one by one they arrive alike, come back alike and are counted alike', () => {
    fc.assert(
      fc.property(cases, (each) => {
        const [fast, slow] = [run(each, true, port), run(each, false, port)];
        expect(fast.arrived).toEqual(slow.arrived);
        expect(fast.back).toEqual(slow.back);
        expect(uncut(fast.sender)).toEqual(uncut(slow.sender));
        expect(uncut(fast.receiver)).toEqual(uncut(slow.receiver));
        expect(fast.eswitch).toEqual(slow.eswitch);
      }),
      { numRuns: 250 },
    );
  });
});

describe('the burst', () => {
  const jumbo = (seed: number) => {
    const { bytes } = shapeFrame({ destination: macOf(1), payloadBytes: 8900, seed });
    bytes.set(macOf(0), 6);
    return bytes;
  };

  it.each(['split', 'packed'] as const)(
    'of a %s ring takes as many frames in tables as it has room for',
    (kind) => {
      const { buffer, byteOffset } = passingRoom(MEMORY_BYTES);
      const options = { mtu: 9000, packed: kind === 'packed', queueSize: 64, memoryBytes: MEMORY_BYTES };
      const { pairs } = switchFixture({ ...options, arena: buffer, arenaOffset: byteOffset });
      const [a] = pairs as [SwitchedPair];
      for (let i = 0; i < 20; i++) a.send(jumbo(i), undefined, [1800, 1800, 1800, 1800], { indirectFrom: 0 });
      const { ring } = a.transmit as unknown as { readonly ring: DeviceRing };
      ring.available();
      expect(ring.scan(64, false)).toBe(0);
      expect(ring.scanFrames(64, DEMANDS)).toBe(Math.floor(CHAIN_SEGMENTS_MAX / 6));
      expect([...ring.plain.lengths.subarray(0, 10)]).toEqual(Array(10).fill(HEADER_BYTES + jumbo(0).length));
      expect([...ring.plain.pages.subarray(0, 3)]).toEqual([6, 6, 6]);
    },
  );

  it('looks buffers up in all pieces of memory, and ends in front of a table that is out of order', () => {
    const { buffer, byteOffset } = passingRoom(MEMORY_BYTES);
    const options = { mtu: 9000, queueSize: 64, memoryBytes: MEMORY_BYTES, iova: IOVA.two };
    const { pairs } = switchFixture({ ...options, arena: buffer, arenaOffset: byteOffset });
    const [a] = pairs as [SwitchedPair];
    const { memory } = a;
    const { writeEntry } = SplitDriver.prototype;
    /** The entries of a table, by turns in the first and in the second piece of memory, linked in this order. */
    const table = (
      order: readonly number[],
      bytes = (entry: number) => 40 + entry,
      entries = order.length,
    ): void => {
      const at = memory.allocate(16 * entries);
      order.forEach((entry, i) => {
        const next = order[i + 1];
        const address = memory.iova + BigInt((entry % 2) * (MEMORY_BYTES / 2) + 256 * 1024 + 64 * entry);
        const flags = next === undefined ? 0 : DescriptorFlag.NEXT;
        writeEntry.call(a.transmitter, at, entry, {
          address,
          lengthBytes: bytes(entry),
          flags,
          next: next ?? 0,
        });
      });
      const driver = a.transmitter as SplitDriver;
      const head = tables++;
      driver.writeDescriptor(head, {
        ...{ address: at, lengthBytes: 16 * entries, next: 0 },
        flags: DescriptorFlag.INDIRECT,
      });
      driver.offer(head);
      driver.publish();
    };
    let tables = 0;
    for (const order of [[0, 1, 2], [0, 1], [0, 2, 1], [0]]) table(order);
    table([0, 1], () => 0xffff_ffff);
    table([0, 1], undefined, 4097);
    const { ring } = a.transmit as unknown as { readonly ring: DeviceRing };
    expect(ring.scanFrames(64, DEMANDS)).toBe(2);
    expect([...ring.plain.lengths.subarray(0, 2)]).toEqual([123, 81]);
    expect([...ring.segmentPiece.subarray(0, 5)]).toEqual([0, 1, 0, 0, 1]);
    expect([...ring.segmentLength.subarray(0, 5)]).toEqual([40, 41, 42, 40, 41]);
    for (const segments of [3, 2, 3]) {
      expect(ring.take()).toBe(segments);
      ring.give(0);
    }
    expect(ring.scanFrames(64, DEMANDS)).toBe(1);
    ring.take();
    ring.give(0);
    for (const defect of ['a buffer longer than memory', 'a table longer than any']) {
      expect(ring.scanFrames(64, DEMANDS), defect).toBe(0);
      expect(ring.take()).toBe(-1);
      ring.give(0);
    }
    expect(ring.available()).toBe(0);
  });

  it.each(['split', 'packed'] as const)('of a source fills mergeable buffers of a %s ring', (kind) => {
    const results = [true, false].map((inWindow) => {
      const memory = inWindow
        ? passingRoom(MEMORY_BYTES)
        : { buffer: new ArrayBuffer(MEMORY_BYTES), byteOffset: 0 };
      const { pairs } = switchFixture({
        ...{ mtu: 9000, packed: kind === 'packed', queueSize: 64, memoryBytes: MEMORY_BYTES },
        ...{ arena: memory.buffer, arenaOffset: memory.byteOffset },
      });
      const [a] = pairs as [SwitchedPair];
      const { ring } = a.receive as unknown as { readonly ring: DeviceRing };
      const room = passingRoom(128 * 1024);
      const own = inWindow ? new PrivateMemory(128 * 1024, room.buffer, room.byteOffset) : undefined;
      const port = new SourcePort(9000, new SinkPort(), own);
      const queue = new SpreadReceiveQueue({
        ...{ ring, port, block: a.blocks[0], mtu: 9000, linkUp: true, active: true, filter: null },
        features: featureMask([VirtioFeature.VERSION_1, NetFeature.MRG_RXBUF]),
      });
      a.post(63, 2000);
      const worked = [queue.poll(60), queue.poll(60)];
      return { inWindow, worked, arrived: a.collect(), counters: uncut([...a.blocks[0].counters]) };
    });
    const [fast, slow] = results as [(typeof results)[0], (typeof results)[0]];
    expect(fast.worked[0]).toBe(60); // twelve frames of five buffers
    expect(fast.arrived.slice(0, 55)).toEqual(slow.arrived.slice(0, 55));
    expect(fast.arrived[0]!.written[10]).toBe(5);
    expect(fast.arrived).toHaveLength(60);
    expect(fast.counters[QueueCounter.FRAMES]).toBe(12);
  });
});
