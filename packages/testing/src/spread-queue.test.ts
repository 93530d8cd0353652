/** Frames over several mergeable buffers, on both kinds of ring: NET-6, failure modes F5, F6 and F7. */
import { FRAME_BYTES_MAX, ReceiveFilter, SpreadReceiveQueue } from '@virtnet/engine-virtio-net';
import {
  featureMask,
  GsoType,
  NetFeature,
  QueueCounter,
  queueBlock,
  statePageSize,
  VirtioFeature,
} from '@virtnet/wire';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { MemoryPort } from './memory-port.js';
import {
  checksumHeader,
  decodeHeader,
  filterState,
  netHeader,
  OFFLOADS_RECEIVE,
  shapeFrame,
} from './net-fixture.js';
import { packedFixture } from './packed-ring-fixture.js';
import type { RingFactory } from './ring-contract.js';
import { POISON, type UsedChain } from './ring-driver.js';
import { splitFixture } from './split-ring-fixture.js';

const HEADER = 12;
const BUDGET = 64;
const KINDS: readonly (readonly [name: string, make: RingFactory])[] = [
  ['split', (options) => splitFixture({ ...options, memoryBytes: 1 << 22 })],
  ['packed', (options) => packedFixture({ ...options, memoryBytes: 1 << 22 })],
  ['packed, 1000 entries', (options) => packedFixture({ ...options, queueSize: 1000, memoryBytes: 1 << 22 })],
];

interface Options {
  readonly mtu?: number;
  readonly features?: readonly number[];
  readonly filtered?: boolean;
  readonly segmentsMax?: number;
}

function setUp(make: RingFactory, options: Options = {}) {
  const fixture = make({
    queueSize: 256,
    eventIdx: false,
    nearWrap: true,
    chainSegmentsMax: options.segmentsMax ?? 256,
  });
  const block = queueBlock(new ArrayBuffer(statePageSize(1)), 0);
  const port = new MemoryPort();
  const queue = new SpreadReceiveQueue({
    ring: fixture.ring,
    port,
    block,
    features: featureMask([VirtioFeature.VERSION_1, NetFeature.MRG_RXBUF, ...(options.features ?? [])]),
    mtu: options.mtu ?? 9216,
    linkUp: true,
    active: true,
    filter: options.filtered === true ? new ReceiveFilter(filterState({})) : null,
  });
  const post = (...sizes: readonly number[]) => {
    for (const size of sizes) expect(fixture.driver.add({ writable: [size] })).toBeGreaterThanOrEqual(0);
    fixture.driver.publish();
  };
  return { ...fixture, port, queue, post, count: (counter: QueueCounter) => block.counters[counter]! };
}

/** Takes one frame from the front of what came back, as a driver does: by the number of buffers in its header. */
function takeFrame(used: UsedChain[], fresh = true) {
  const header = decodeHeader(used[0]!.written.subarray(0, HEADER));
  const parts = used.splice(0, header.numBuffers);
  expect(parts).toHaveLength(header.numBuffers);
  for (const { written, lengthBytes } of parts.slice(0, -1)) expect(lengthBytes, 'F7').toBe(written.length);
  const last = parts.at(-1)!;
  // A buffer that kept a dropped frame's bytes was written before.
  if (fresh) expect(last.written.subarray(last.lengthBytes).every((byte) => byte === POISON)).toBe(true);
  const bytes = parts.flatMap(({ written, lengthBytes }) => [...written.subarray(0, lengthBytes)]);
  return { header, frame: Uint8Array.from(bytes.slice(HEADER)) };
}

describe.for(KINDS)('mergeable receive buffers, %s', ([, make]) => {
  it('F5 NET-6 a frame that fits one buffer says 1, whatever the port said', () => {
    const { port, queue, post, driver } = setUp(make);
    port.push(shapeFrame().bytes, netHeader({ numBuffers: 9 }));
    post(2000);
    expect(queue.poll(BUDGET)).toBe(1);
    const { header, frame } = takeFrame(driver.collect());
    expect(header.numBuffers).toBe(1);
    expect(frame).toEqual(shapeFrame().bytes);
  });

  it('a jumbo frame of MTU 9216 fills six buffers of 1536 and part of a seventh', () => {
    const { port, queue, post, driver, count } = setUp(make);
    const { bytes } = shapeFrame({ payloadBytes: 9216 - 40 });
    for (let i = 0; i < 3; i++) port.push(bytes);
    post(...Array<number>(21).fill(1536));
    expect(queue.poll(BUDGET)).toBe(3);
    const used = driver.collect();
    for (let i = 0; i < 3; i++) {
      const { header, frame } = takeFrame(used);
      expect(header.numBuffers).toBe(7);
      expect(frame).toEqual(bytes);
    }
    expect(used).toEqual([]);
    expect([count(QueueCounter.FRAMES), count(QueueCounter.COMPLETED_DESC)]).toEqual([3, 21]);
    expect(queue.interrupt).toBe(true);
  });

  it('64 KiB of segmentation payload arrive over buffers of 300 bytes', () => {
    const { port, queue, post, driver } = setUp(make, { features: OFFLOADS_RECEIVE });
    const frame = shapeFrame({ payloadBytes: 65_000 });
    port.push(frame.bytes, checksumHeader(frame, { gsoType: 1, gsoSize: 1448 }));
    post(...Array<number>(250).fill(300));
    expect(queue.poll(BUDGET)).toBe(1);
    const got = takeFrame(driver.collect());
    expect(got.header).toMatchObject({
      numBuffers: Math.ceil((HEADER + frame.bytes.length) / 300),
      gsoSize: 1448,
    });
    expect(got.frame).toEqual(frame.bytes);
  });

  it('F18 the largest frame, 64 KiB of IPv6 behind two tags, arrives whole over buffers of a page', () => {
    const { port, queue, post, driver } = setUp(make, { features: OFFLOADS_RECEIVE });
    const frame = shapeFrame({ version: 6, vlans: [5, 6], payloadBytes: 65_535 - 20 });
    expect(frame.bytes).toHaveLength(FRAME_BYTES_MAX);
    const buffers = Math.ceil((HEADER + frame.bytes.length) / 4096);
    for (const posted of [buffers - 1, buffers]) {
      port.push(frame.bytes, checksumHeader(frame, { gsoType: GsoType.TCPV6, gsoSize: 1400 }));
      post(...Array<number>(posted === buffers ? 1 : posted).fill(4096));
      queue.poll(BUDGET);
      if (posted < buffers) expect(driver.collect()).toEqual([]);
    }
    const got = takeFrame(driver.collect());
    expect(got.header).toMatchObject({ numBuffers: buffers, gsoType: GsoType.TCPV6, gsoSize: 1400 });
    expect(Buffer.compare(got.frame, frame.bytes)).toBe(0);
  });

  it('F7 frames and buffers of any size, in any order: every frame arrives whole, in order', () => {
    const sizes = fc.array(fc.integer({ min: HEADER, max: 400 }), { minLength: 1, maxLength: 60 });
    const frames = fc.array(fc.integer({ min: 0, max: 3000 }), { minLength: 1, maxLength: 6 });
    let seed = 0;
    fc.assert(
      fc.property(sizes, frames, (buffers, payloads) => {
        const { port, queue, post, driver } = setUp(make);
        const sent = payloads.map((payloadBytes) => shapeFrame({ payloadBytes, seed: seed++ }).bytes);
        for (const bytes of sent) port.push(bytes);
        post(...buffers);
        const got: Uint8Array[] = [];
        for (let rounds = 0; port.waiting.length > 0 || rounds === 0; rounds++) {
          queue.poll(BUDGET);
          const used = driver.collect();
          while (used.length > 0) got.push(takeFrame(used, false).frame);
          if (port.waiting.length > 0) post(...Array<number>(12).fill(300));
        }
        const dropped = sent.filter((bytes) => !got.some((frame) => Buffer.compare(frame, bytes) === 0));
        expect(got).toEqual(sent.filter((bytes) => !dropped.includes(bytes)));
      }),
      { numRuns: 60 },
    );
  });

  it('F6 a frame larger than what is posted is dropped whole and uses no buffer up', () => {
    const { port, queue, post, driver, count } = setUp(make);
    const large = shapeFrame({ payloadBytes: 1000 }).bytes;
    const small = shapeFrame({ payloadBytes: 100 }).bytes;
    port.push(large);
    port.push(small);
    post(300, 300, 300);
    expect(queue.poll(BUDGET)).toBe(2);
    expect(count(QueueCounter.DROP_NO_BUFFER)).toBe(1);
    const used = driver.collect();
    expect(takeFrame(used, false).frame).toEqual(small);
    expect(used).toEqual([]);
    expect(driver.collect()).toEqual([]);
    // The other two are still there, and one byte decides.
    const exact = shapeFrame({ payloadBytes: 600 - HEADER - 54 }).bytes;
    port.push(Uint8Array.from([...exact, 0]));
    port.push(exact);
    expect(queue.poll(BUDGET)).toBe(2);
    expect(count(QueueCounter.DROP_NO_BUFFER)).toBe(2);
    expect(takeFrame(driver.collect(), false).frame).toEqual(exact);
  });

  it('what waits is walked once for all frames that are too large for it, until it changes', () => {
    const { port, queue, post, driver, ring, count } = setUp(make);
    let walked = 0;
    const extend = ring.extend.bind(ring);
    ring.extend = () => {
      walked++;
      return extend();
    };
    const bytes = (size: number) => shapeFrame({ payloadBytes: size - HEADER - 54 }).bytes;
    for (const size of [901, 901, 5000]) port.push(bytes(size));
    post(300, 300, 300);
    expect(queue.poll(BUDGET)).toBe(3);
    expect([walked, count(QueueCounter.DROP_NO_BUFFER)]).toEqual([3, 3]);
    for (const size of [901, 900]) port.push(bytes(size));
    expect(queue.poll(BUDGET)).toBe(2);
    expect(takeFrame(driver.collect(), false).header.numBuffers, 'one byte less').toBe(3);
    post(300, 300);
    port.push(bytes(601));
    expect(queue.poll(BUDGET)).toBe(1);
    post(300);
    port.push(bytes(601));
    expect(queue.poll(BUDGET)).toBe(1);
    expect(takeFrame(driver.collect(), false).header.numBuffers, 'one buffer more').toBe(3);
    expect(count(QueueCounter.DROP_NO_BUFFER)).toBe(5);
  });

  it('what is not wanted leaves every buffer, however many it would have taken', () => {
    const { port, queue, post, driver, count } = setUp(make, { filtered: true, mtu: 1500 });
    port.push(shapeFrame({ payloadBytes: 900, destination: [2, 0, 0, 0, 0, 9] }).bytes);
    port.push(shapeFrame({ payloadBytes: 900 }).bytes);
    post(400, 400, 400);
    expect(queue.poll(BUDGET)).toBe(2);
    expect(count(QueueCounter.DROP_FILTER_MAC)).toBe(1);
    expect(takeFrame(driver.collect(), false).header.numBuffers).toBe(3);
  });

  it('a frame over more segments than the device takes counts as too large', () => {
    const { port, queue, post, driver, count } = setUp(make, { segmentsMax: 4 });
    port.push(shapeFrame({ payloadBytes: 500 }).bytes);
    port.push(shapeFrame({ payloadBytes: 300 }).bytes);
    post(...Array<number>(8).fill(100));
    expect(queue.poll(BUDGET)).toBe(2);
    expect(count(QueueCounter.DROP_NO_BUFFER)).toBe(1);
    expect(takeFrame(driver.collect(), false).header.numBuffers).toBe(4);
  });

  it('a buffer too small for the header is given back empty, and the next one is used', () => {
    const { port, queue, post, driver, count } = setUp(make);
    port.push(shapeFrame().bytes);
    post(HEADER - 1, 2000);
    expect(queue.poll(BUDGET)).toBe(2);
    expect(count(QueueCounter.DROP_BAD_CHAIN)).toBe(1);
    const used = driver.collect();
    expect(used.shift()!.lengthBytes).toBe(0);
    expect(takeFrame(used).frame).toEqual(shapeFrame().bytes);
  });

  it('a checksum the driver can not complete is completed across buffers', () => {
    const whole = setUp(make, { mtu: 1500 });
    const spread = setUp(make, { mtu: 1500 });
    const frame = shapeFrame({ payloadBytes: 777 });
    const results = [whole, spread].map(({ port, queue, post, driver }, i) => {
      port.push(frame.bytes, checksumHeader(frame));
      post(...(i === 0 ? [2000] : [13, 50, 51, 101, 999]));
      expect(queue.poll(BUDGET)).toBe(1);
      return takeFrame(driver.collect()).frame;
    });
    expect(results[1]).toEqual(results[0]);
    expect(results[1]).not.toEqual(frame.bytes);
  });
});
