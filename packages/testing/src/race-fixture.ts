/** race-fixture.ts: a device ring, and its driver on a thread of its own over the same memory, with guards around it. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import {
  ChainRoom,
  type DeviceRing,
  GuestMemory,
  isRing,
  openRing,
  PlainRoom,
  prepareBlock,
  resumePosition,
} from '@virtnet/engine-virtqueue';
import {
  DescriptorFlag,
  PACKED_FLAGS_SHIFT,
  PackedFlag,
  PackedWord,
  type QueueBlock,
  queueBlock,
  statePageSize,
} from '@virtnet/wire';
import {
  CONTROL_WORDS,
  Control,
  type DriverThreadEnd,
  type DriverThreadStart,
  makeDriver,
  type ThreadDriver,
} from './driver-thread.js';
import {
  ID_FLAGS_MASK,
  likesTables,
  packedWord,
  writeDescriptor,
  writeTable,
} from './driver-thread-hostile.js';
import { type Place, placeOf } from './packed-driver.js';
import { packedPosition } from './packed-ring-fixture.js';
import { HEADER_BYTES } from './race-chains.js';
import {
  ENTRY_BYTES,
  LENGTHS,
  OFFSETS,
  type RaceMemory,
  RaceRegion,
  type RaceRegionName,
  regionOf,
  type SharedBytes,
  SLOT_BYTES,
  SLOTS,
  STRIPE,
  slotAt,
  slotByte,
  slotRegion,
  stripesOf,
} from './race-layout.js';
import { SplitDriver } from './split-driver.js';
import { ensureWindow, windowRoom } from './window-room.js';

/** The thread runs what was built; a thread can not run the source. */
const ENTRY = new URL('../dist/driver-thread-entry.js', import.meta.url);
const GUARD_BYTES = 4096;
/** Of an honest driver's ring. */
const RING_ENTRIES = 16;
const OWNER = (PackedFlag.AVAIL | PackedFlag.USED) << PACKED_FLAGS_SHIFT;
/** Most segments of a chain. */
export const SEGMENTS_MAX = 64;

/** Where memory is: all of it in the copy window, none, or all but the region without the ring. */
export type RacePlace = 'window' | 'elsewhere' | 'mixed';

ensureWindow(); // before rooms are made
/** As a worker's rings have them. */
export const chainRoom = new ChainRoom(SEGMENTS_MAX, true);
const plainRoom = new PlainRoom();

/** Bytes with a guard on both sides. */
export class GuardedBytes {
  readonly shared: SharedBytes;
  readonly #guards: readonly Uint8Array[];

  constructor(sizeBytes: number, inWindow: boolean) {
    const whole = sizeBytes + 2 * GUARD_BYTES;
    const { buffer, byteOffset } = inWindow
      ? windowRoom(whole)
      : { buffer: new SharedArrayBuffer(whole), byteOffset: 0 };
    const from = byteOffset + GUARD_BYTES;
    this.shared = { buffer: buffer as unknown as SharedArrayBuffer, byteOffset: from, sizeBytes };
    this.#guards = [byteOffset, from + sizeBytes].map((at) => new Uint8Array(buffer, at, GUARD_BYTES));
    for (const guard of this.#guards) guard.fill(STRIPE);
  }

  get bytes(): Uint8Array {
    const { buffer, byteOffset, sizeBytes } = this.shared;
    return new Uint8Array(buffer, byteOffset, sizeBytes);
  }

  /** Throws when anything around the bytes was written. */
  check(name: string): void {
    for (const guard of this.#guards)
      assert.ok(
        guard.every((byte) => byte === STRIPE),
        `a guard of ${name} was written`,
      );
  }
}

export interface RaceOptions {
  readonly format: DriverThreadStart['format'];
  readonly part: DriverThreadStart['part'];
  readonly place: RacePlace;
  readonly eventIdx?: boolean;
  readonly queueSize?: number;
  /** The position begins a few laps before indices wrap. */
  readonly nearWrap?: boolean;
  readonly count?: number;
  readonly seed?: number;
  /** Of a hostile driver's queue. */
  readonly receives?: boolean;
}

const NAMES = Object.keys(RaceRegion) as RaceRegionName[];

export class Race {
  readonly start: DriverThreadStart;
  readonly control: Int32Array;
  /** The driver as the thread has it, to look at. */
  readonly driver: ThreadDriver;
  readonly memory: GuestMemory;
  readonly block: QueueBlock;
  readonly #parts: Readonly<Record<RaceRegionName, GuardedBytes>>;
  readonly #thread: Worker;
  #refills = 0;
  readonly #ended: Promise<DriverThreadEnd>;

  private constructor(
    start: DriverThreadStart,
    parts: Readonly<Record<RaceRegionName, GuardedBytes>>,
    thread: Worker,
  ) {
    this.start = start;
    this.#parts = parts;
    this.#thread = thread;
    this.control = new Int32Array(start.control);
    this.driver = makeDriver(start); // which the thread makes over the same memory
    this.memory = new GuestMemory(NAMES.map((name) => regionOf(name, parts[name].shared)));
    this.block = queueBlock(new ArrayBuffer(statePageSize(1)), 0);
    prepareBlock(this.block, start.position, 0);
    this.#ended = once(thread, 'message').then(([end]) => end as DriverThreadEnd);
    this.#ended.catch(() => {}); // for end() to say
  }

  /** Runs `body` with a race that has not begun, and ends its thread. */
  static async with(options: RaceOptions, body: (race: Race) => Promise<void>): Promise<void> {
    const { format, part, place, eventIdx = false, queueSize = RING_ENTRIES, nearWrap = false } = options;
    const parts = {
      main: new GuardedBytes(RaceRegion.main.sizeBytes, place !== 'elsewhere'),
      far: new GuardedBytes(RaceRegion.far.sizeBytes, place === 'window'),
      tables: new GuardedBytes(RaceRegion.tables.sizeBytes, place !== 'elsewhere'),
    };
    const memory: RaceMemory = {
      main: parts.main.shared,
      far: parts.far.shared,
      tables: parts.tables.shared,
    };
    if (part === 'hostile') fillSlots(parts);
    const first = nearWrap ? (format === 'split' ? 65_500 : packedPosition(queueSize - 3, 1)) : 0;
    const start: DriverThreadStart = {
      ...{ part, format, queueSize, eventIdx, memory: parts.main.shared },
      control: new SharedArrayBuffer(CONTROL_WORDS * 4),
      position: format === 'packed' && !nearWrap ? packedPosition(0, 1) : first,
      count: options.count ?? 1_000_000_000,
      seed: options.seed ?? 1,
      race: part === 'hostile' ? { memory, receives: options.receives === true } : null,
    };
    const thread = new Worker(ENTRY, { workerData: start });
    try {
      await once(thread, 'message');
      await body(new Race(start, parts, thread));
    } finally {
      await thread.terminate();
    }
  }

  /** A ring that goes on where the last one stopped. */
  open(): DeviceRing {
    const { driver, memory, block } = this;
    const { descriptorAddress, driverAddress, deviceAddress } = driver;
    const ring = openRing({
      ...{ descriptorAddress, driverAddress, deviceAddress, memory, chainRoom, plainRoom },
      packed: this.start.format === 'packed',
      queueSize: driver.queueSize,
      eventIdx: driver.eventIdx,
      indirect: true,
      position: resumePosition(block),
      chainSegmentsMax: SEGMENTS_MAX,
      journal: block.journal,
    });
    if (!isRing(ring)) throw new Error(`the ring does not open: ${ring.code}`);
    return ring;
  }

  /**
   * Makes every descriptor available to a device that is at `position`, as it is: there is work when a hostile thread is not
   * running, too.
   */
  refill(position: number): void {
    const { driver, control } = this;
    Atomics.store(control, Control.PLACE, position & 0xffff);
    this.#refillTables(position);
    if (driver instanceof SplitDriver) driver.setAvailableIndex(position + driver.queueSize);
    else refillPacked(descriptorWords(driver), placeOf(position & 0xffff), driver.queueSize);
  }

  /** Some descriptors become tables that are in order. */
  #refillTables(position: number): void {
    const { driver, start } = this;
    if (start.race === null || start.race.receives) return;
    this.#refills++;
    const packed = start.format === 'packed';
    const ring = descriptorWords(driver);
    const { buffer, byteOffset, sizeBytes } = start.race.memory.tables;
    const tables = new Int32Array(buffer, byteOffset, sizeBytes >>> 2);
    for (let slot = 0; slot < driver.queueSize; slot++) {
      if (!likesTables(slot, 0)) continue;
      const ready = packed ? availableAt(slot, placeOf(position & 0xffff)) : 0;
      writeTable(tables, slot, packed, 0, this.#refills);
      writeDescriptor(ring, slot, packed, DescriptorFlag.INDIRECT, 0, ready);
    }
  }

  begin(): void {
    this.#thread.postMessage('go');
  }

  /** What the thread says when it is done. */
  end(): Promise<DriverThreadEnd> {
    return this.#ended;
  }

  /** Throws when anything was written where nothing may be. */
  check(): void {
    for (const name of NAMES) {
      const part = this.#parts[name];
      part.check(name);
      if (this.start.race === null) continue;
      for (const [i, stripe] of stripesOf(name, part.bytes).entries())
        assert.ok(
          stripe.every((byte) => byte === STRIPE),
          `stripe ${i} of ${name} was written`,
        );
    }
  }
}

/** The descriptors of a driver's ring. */
export function descriptorWords({ memory, descriptorAddress, queueSize }: ThreadDriver): Int32Array {
  const at = memory.bytes.byteOffset + memory.at(descriptorAddress);
  return new Int32Array(memory.bytes.buffer, at, queueSize * (ENTRY_BYTES / 4));
}

/** What makes a packed descriptor available to a device that is at `place`. */
function availableAt(slot: number, { index, wrap }: Place): number {
  const lap = slot >= index ? wrap : wrap ^ 1;
  return (lap === 1 ? PackedFlag.AVAIL : PackedFlag.USED) << PACKED_FLAGS_SHIFT;
}

function refillPacked(table: Int32Array, place: Place, size: number): void {
  for (let slot = 0; slot < size; slot++) {
    const at = slot * (ENTRY_BYTES / 4);
    const word = Atomics.load(table, at + PackedWord.ID_FLAGS);
    const available = availableAt(slot, place);
    if ((word & OWNER) === available) continue;
    // An answer is in its place, which has another descriptor's id, and as length what was written.
    if (table[at + PackedWord.LENGTH] === 0) table[at + PackedWord.LENGTH] = LENGTHS[slot % LENGTHS.length]!;
    Atomics.store(table, at + PackedWord.ID_FLAGS, packedWord(slot, word & ID_FLAGS_MASK) | available);
  }
}

/** Every slot full of its byte, headers that ask for nothing, and stripes. */
function fillSlots(parts: Readonly<Record<RaceRegionName, GuardedBytes>>): void {
  for (let slot = 0; slot < SLOTS; slot++) {
    const { bytes } = parts[slotRegion(slot)];
    const at = slotAt(slot);
    bytes.fill(slotByte(slot), at, at + SLOT_BYTES);
    for (const offset of OFFSETS) bytes.fill(0, at + offset, at + offset + HEADER_BYTES);
  }
  for (const name of NAMES) for (const stripe of stripesOf(name, parts[name].bytes)) stripe.fill(STRIPE);
}
