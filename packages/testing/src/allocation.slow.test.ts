/** Moving frames allocates nothing: what is allocated has to be collected, and a collection is a pause for every guest. */
import {
  SINK_BYTES,
  SinkPort,
  SourcePort,
  SwitchDomain,
  type SwitchedReceiveOptions,
  SwitchedReceiveQueue,
  SwitchPort,
} from '@virtnet/engine-eswitch';
import { ReceiveQueue, TransmitQueue } from '@virtnet/engine-virtio-net';
import { type DeviceRing, GuestMemory, isRing, openRing, PrivateMemory } from '@virtnet/engine-virtqueue';
import {
  DescriptorFlag,
  featureMask,
  HashType,
  initialRingPosition,
  PackedFlag,
  queueBlock,
  RingWord,
  statePageSize,
  VirtioFeature,
  VirtqDescriptor,
} from '@virtnet/wire';
import { describe, expect, it } from 'vitest';
import { windowRoom } from './window-room.js';

const SIZE = 64;
const BURST = 32;
const ROUNDS = 10;
const BURSTS_PER_ROUND = 1000;
const TRIES_MAX = 20;
const BUFFER_BYTES = 256;
const FRAME_BYTES = 64;
const HEADER_BYTES = 12;
const PART_BYTES = 4096;
const RING_BYTES = 3 * PART_BYTES + SIZE * BUFFER_BYTES;
/** Room for what the compiler keeps while it is still at work; one byte a frame would be ten times as much. */
const GROWTH_MAX = 64 * 1024;

/** Where an emulator has it. */
const { buffer: memory, byteOffset: BASE } = windowRoom(4 * RING_BYTES);
const bytes = new Uint8Array(memory, BASE, 4 * RING_BYTES);
const sinkRoom = windowRoom(SINK_BYTES);
const makeSink = () => new SinkPort(new PrivateMemory(SINK_BYTES, sinkRoom.buffer, sinkRoom.byteOffset));

/** A driver that does the least there is to do, and allocates nothing itself. */
abstract class LeastDriver {
  readonly at: number;
  readonly write: boolean;
  protected readonly table: Int32Array;

  constructor(at: number, write: boolean) {
    this.at = at;
    this.write = write;
    this.table = new Int32Array(memory, BASE + at, SIZE * 4);
    const view = new DataView(memory, BASE, bytes.length);
    for (let i = 0; i < SIZE; i++) {
      const address = BigInt(at + 3 * PART_BYTES + i * BUFFER_BYTES);
      const lengthBytes = write ? BUFFER_BYTES : HEADER_BYTES + FRAME_BYTES;
      const flags = write ? DescriptorFlag.WRITE : 0;
      VirtqDescriptor.encode(view, at + i * VirtqDescriptor.sizeBytes, {
        address,
        lengthBytes,
        flags,
        next: 0,
      });
      // From 02:…:01, to 02:…:02, IPv4.
      if (!write) bytes.set([2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45], Number(address) + HEADER_BYTES);
    }
  }

  abstract offer(): void;
}

class LeastSplitDriver extends LeastDriver {
  readonly #available: Uint16Array;

  constructor(at: number, write: boolean) {
    super(at, write);
    this.#available = new Uint16Array(memory, BASE + at + PART_BYTES, SIZE + 3);
    for (let i = 0; i < SIZE; i++) this.#available[RingWord.FIRST_ENTRY + i] = i;
  }

  override offer(): void {
    this.#available[RingWord.INDEX] = this.#available[RingWord.INDEX]! + BURST;
  }
}

class LeastPackedDriver extends LeastDriver {
  #next = 0;
  #wrap = 1;

  override offer(): void {
    for (let i = 0; i < BURST; i++) {
      const at = this.#next << 2;
      const owner = this.#wrap === 1 ? PackedFlag.AVAIL : PackedFlag.USED;
      this.table[at + 2] = this.write ? BUFFER_BYTES : HEADER_BYTES + FRAME_BYTES;
      this.table[at + 3] = this.#next | ((owner | (this.write ? DescriptorFlag.WRITE : 0)) << 16);
      if (++this.#next < SIZE) continue;
      this.#next = 0;
      this.#wrap ^= 1;
    }
  }
}

function ringOf(driver: LeastDriver, packed: boolean) {
  const block = queueBlock(new ArrayBuffer(statePageSize(1)), 0);
  const position = initialRingPosition(packed);
  block.words.fill(position, 0, 2);
  const region = {
    iova: 0n,
    sizeBytes: bytes.length,
    buffer: memory,
    byteOffset: BASE,
    address: 0,
    writable: true,
  };
  const ring = openRing({
    packed,
    queueSize: SIZE,
    memory: new GuestMemory([region]),
    descriptorAddress: BigInt(driver.at),
    driverAddress: BigInt(driver.at + PART_BYTES),
    deviceAddress: BigInt(driver.at + 2 * PART_BYTES),
    indirect: true,
    eventIdx: false,
    position,
    chainSegmentsMax: 64,
    journal: block.journal,
  });
  if (!isRing(ring)) throw new Error(ring.code);
  return {
    ring: ring as DeviceRing,
    block,
    features: featureMask([VirtioFeature.VERSION_1]),
    mtu: 1500,
    linkUp: true,
  };
}

/** Moves bursts, each of which has to move whole; how far the heap went up and down meanwhile. */
function swing(burst: () => number): number {
  let least = Number.POSITIVE_INFINITY;
  let most = 0;
  for (let round = 0; round < ROUNDS; round++) {
    let moved = 0;
    for (let i = 0; i < BURSTS_PER_ROUND; i++) moved += burst();
    if (moved !== BURST * BURSTS_PER_ROUND) throw new Error(`${moved} frames moved`);
    const { heapUsed } = process.memoryUsage();
    least = Math.min(least, heapUsed);
    most = Math.max(most, heapUsed);
  }
  return most - least;
}

/** The compiler works meanwhile, and some time it is done. */
function expectNoGrowth(burst: () => number): void {
  let last = Number.POSITIVE_INFINITY;
  for (let i = 0; i < TRIES_MAX && last >= GROWTH_MAX; i++) last = swing(burst);
  expect(last).toBeLessThan(GROWTH_MAX);
}

describe.each(['split', 'packed'] as const)('moving frames allocates nothing: %s ring,', (format) => {
  const packed = format === 'packed';
  const make = (place: number, write: boolean) =>
    new (packed ? LeastPackedDriver : LeastSplitDriver)(place * RING_BYTES, write);

  it('from a driver', () => {
    bytes.fill(0);
    const driver = make(0, false);
    const queue = new TransmitQueue({ ...ringOf(driver, packed), port: makeSink() });
    expectNoGrowth(() => {
      driver.offer();
      return queue.poll(BURST);
    });
  });

  it('to a driver', () => {
    bytes.fill(0);
    const driver = make(0, true);
    const port = new SourcePort(FRAME_BYTES, makeSink());
    const queue = new ReceiveQueue({ ...ringOf(driver, packed), port, active: true, filter: null });
    expectNoGrowth(() => {
      driver.offer();
      return queue.poll(BURST);
    });
  });

  it.each<[string, Partial<SwitchedReceiveOptions>]>([
    ['', {}],
    [', which steers', { rss: { types: HashType.IPV4, key: [1, 2, 3], table: [1], unclassified: 0 } }],
    [', whose flows are followed', { follows: true }],
  ])('from one function to another%s', (_, options) => {
    bytes.fill(0);
    const [sender, receiver] = [make(0, false), make(1, true)];
    const domain = new SwitchDomain({ seed: 1, settled: () => {} });
    const open = (driver: LeastDriver) =>
      new SwitchedReceiveQueue({
        ...ringOf(driver, packed),
        active: true,
        filter: null,
        slot: 1,
        ...options,
      });
    const receive = open(receiver);
    const answered = open(make(2, true));
    for (const pair of [0, 1]) {
      domain.attach(1, pair, receive);
      domain.attach(0, pair, answered);
    }
    const sending = ringOf(sender, packed);
    const transmit = new TransmitQueue({ ...sending, port: new SwitchPort(domain, 0, 0, sending.block) });
    expectNoGrowth(() => {
      sender.offer();
      receiver.offer();
      domain.begin();
      const frames = transmit.poll(BURST);
      domain.flush();
      return frames;
    });
  });
});
