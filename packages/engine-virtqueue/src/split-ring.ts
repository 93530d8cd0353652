/**
 * split-ring.ts: the device's end of one split virtqueue.
 *
 * Theory
 *   The driver fills descriptors, puts the head of each chain into the available ring and moves the available index.
 *   We take chains in that order, answer each with an element of the used ring, and move the used index. Chains are
 *   given back in the order they were taken, so one free-running number, `position`, is both the next available
 *   entry to take and the used index: it alone resumes a ring.
 *
 * Parties
 *   driver   writes descriptors and the driver area; may be hostile, may be mid-write at any instant.
 *   device   this object, on exactly one thread; writes the device area and nothing else of the ring.
 *
 * Visibility
 *   The available index is loaded (Atomics) before the entries it covers are read. Used elements are stored before
 *   the used index (Atomics). Both sides of "publish, then look whether the other wants to know" are sequentially
 *   consistent, so that the store cannot pass the load: either we see the driver's wish, or it sees our entry.
 *   Atomics are the same instructions on memory that is not a SharedArrayBuffer.
 *
 * States            running -> broken, on a fault whose remedy is needs-reset
 *   broken -> any   Prohibited, see device-ring.ts.
 *
 * Invariants
 *   I1  every descriptor is read once into locals, then judged, then used (failure C13).
 *   I2  position and the used index are free-running modulo 2^16; only an access masks them.
 *   I3  a walk ends after at most as many steps as the table has entries.
 *
 * Limits  SPLIT_QUEUE_SIZE_MAX entries; chainSegmentsMax segments a chain, descriptors without a byte counted with them;
 *         INDIRECT_ENTRIES_MAX entries a table.
 * Saved   position. Nothing else.
 * Spec    virtio 1.3, 2.7.
 */
import {
  AvailableFlag,
  availableEventAt,
  DESCRIPTOR_NEXT_SHIFT,
  DESCRIPTOR_WORDS_SHIFT,
  DescriptorFlag,
  DescriptorWord,
  RingWord,
  SPLIT_QUEUE_SIZE_MAX,
  UsedFlag,
  UsedWord,
  usedEventAt,
  VirtqDescriptor,
} from '@virtnet/wire';
import { Chain } from './chain.js';
import { type FrameDemands, layTablesInWindow } from './copy-window.js';
import type { DeviceRing } from './device-ring.js';
import {
  bufferFault,
  type IndirectDefect,
  type RingFault,
  type RingFaultCode,
  remedyForCode,
} from './fault.js';
import type { GuestMemory } from './guest-memory.js';
import { tableDefect } from './indirect-table.js';
import { CHAIN_SEGMENTS_MAX, PLAIN_CHAINS_MAX } from './limits.js';
import { needsEvent } from './notification.js';
import { ScanPlace, scanSplit } from './plain-scan.js';
import { openParts, type RingParts } from './ring-parts.js';
import type { RingRooms } from './ring-room.js';
import { SPLIT_TABLE } from './window-layout.js';

export interface SplitRingConfig extends RingRooms {
  /** Entries: a power of two, at most SPLIT_QUEUE_SIZE_MAX. */
  readonly queueSize: number;
  readonly memory: GuestMemory;
  readonly descriptorAddress: bigint;
  readonly driverAddress: bigint;
  readonly deviceAddress: bigint;
  /** INDIRECT_DESC was negotiated. */
  readonly indirect: boolean;
  /** EVENT_IDX was negotiated. */
  readonly eventIdx: boolean;
  /** Where to go on: 0 for a ring just set up; null: resumeAt() says it later. */
  readonly position: number | null;
  /** Most segments of a chain the owner can take, at most CHAIN_SEGMENTS_MAX. */
  readonly chainSegmentsMax: number;
}

// Locals of the module: an imported object's property costs a load per use.
const { NEXT, WRITE, INDIRECT } = DescriptorFlag;
/** In a table, whatever is not NEXT is for take(). */
const ENTRY_UNFIT = 0xffff & ~NEXT;
const { ADDRESS_LOW, ADDRESS_HIGH, LENGTH, FLAGS_NEXT } = DescriptorWord;
const { FLAGS, INDEX, FIRST_ENTRY } = RingWord;
const { FIRST_ELEMENT, WORDS_PER_ELEMENT_SHIFT, LENGTH: USED_LENGTH } = UsedWord;
const ENTRY_BYTES = VirtqDescriptor.sizeBytes;
const INDEX_MASK = 0xffff;

export class SplitRing extends Chain implements DeviceRing {
  readonly queueSize: number;
  head = 0;
  faultCode: RingFaultCode | null = null;

  readonly #mask: number;
  readonly #indirect: boolean;
  readonly #eventIdx: boolean;
  readonly #usedEventAt: number;
  readonly #availableEventAt: number;
  /** Views over exactly the three parts. */
  readonly #table: Int32Array;
  readonly #place: ScanPlace;
  readonly #available: Uint16Array;
  readonly #used: Uint16Array;
  readonly #usedElements: Uint32Array;

  #position: number;
  /** The available index as last loaded; entries before it are ours to take. */
  #seen: number;
  /** The used index as last stored, which is what the driver's wish is judged against. */
  #published: number;
  /** The same before the last publish() that said the driver wants an interrupt. */
  #wantedSince = 0;
  #kicksSuppressed = false;
  #broken = false;
  /** Facts of the last fault, in private memory; `fault` makes words of them. */
  #factA = 0;
  #factB = 0;
  #factC = 0;
  #defect: IndirectDefect = 'empty';
  /** Heads of the current chains. */
  readonly #heads: Uint16Array;
  /** A chain is being added to others: what is wrong with it is found out, for good, when it is taken. */
  #extending = false;

  /** Opens the ring, or says what is wrong with its size or addresses (failure C14). Writes nothing. */
  static open(config: SplitRingConfig): SplitRing | RingFault {
    const { queueSize, chainSegmentsMax } = config;
    if (queueSize <= 0 || queueSize > SPLIT_QUEUE_SIZE_MAX || (queueSize & (queueSize - 1)) !== 0) {
      return { code: 'BAD_QUEUE_SIZE', queueSize };
    }
    if (!(chainSegmentsMax >= 1 && chainSegmentsMax <= CHAIN_SEGMENTS_MAX)) {
      throw new RangeError(`chainSegmentsMax ${chainSegmentsMax}`); // the owner's fault, not the driver's
    }
    const parts = openParts(config, false);
    return 'code' in parts ? parts : new SplitRing(config, parts);
  }

  private constructor(config: SplitRingConfig, parts: RingParts) {
    const usedElements = parts.device.u32;
    super(config.memory, config.chainSegmentsMax, usedElements, config);
    this.queueSize = config.queueSize;
    this.#mask = config.queueSize - 1;
    this.#indirect = config.indirect;
    this.#eventIdx = config.eventIdx;
    this.#usedEventAt = usedEventAt(config.queueSize);
    this.#availableEventAt = availableEventAt(config.queueSize);
    this.#table = parts.descriptor.i32;
    this.#place = new ScanPlace(parts.descriptor, parts.driver);
    this.#available = parts.driver.u16;
    this.#used = parts.device.u16;
    this.#usedElements = usedElements;
    this.#heads = this.room.ids;
    this.#position = (config.position ?? 0) & INDEX_MASK;
    this.#seen = this.#position;
    this.#published = this.#position;
  }

  get position(): number {
    return this.#position;
  }

  resumeAt(position: number): null {
    this.#position = position & INDEX_MASK;
    this.#seen = this.#position;
    this.#published = this.#position;
    return null;
  }

  take(): number {
    if (this.#broken) return -1;
    const position = this.#position;
    if (position === this.#seen) {
      const index = Atomics.load(this.#available, INDEX);
      const waiting = (index - position) & INDEX_MASK;
      if (waiting === 0) return 0;
      if (waiting > this.queueSize) return this.#refuse('AVAILABLE_INDEX_JUMP', index, position, 0);
      this.#seen = index;
    }
    const head = this.#available[FIRST_ENTRY + (position & this.#mask)]!;
    this.head = head;
    this.clear();
    if (head >= this.queueSize) return this.#refuse('HEAD_OUT_OF_RANGE', 0, 0, 0);
    this.chainCount = 1;
    return this.#walk(head);
  }

  extend(): boolean {
    const { chainCount, readableCount, readableBytes, writableCount, writableBytes, empties } = this;
    const next = (this.#position + chainCount) & INDEX_MASK;
    if (chainCount === 0 || next === this.#seen) {
      const index = Atomics.load(this.#available, INDEX);
      const waiting = (index - this.#position) & INDEX_MASK;
      if (chainCount === 0 || waiting <= chainCount || waiting > this.queueSize) return false;
      this.#seen = index;
    }
    const head = this.#available[FIRST_ENTRY + (next & this.#mask)]!;
    if (head >= this.queueSize) return false;
    this.#extending = true;
    const segments = this.#walk(head);
    this.#extending = false;
    if (segments < 0 || this.readableCount !== readableCount || this.writableBytes === writableBytes) {
      this.restore(readableCount, readableBytes, writableCount, writableBytes, empties);
      return false;
    }
    if (chainCount === 1) this.#heads[0] = this.head;
    this.chainEnds[chainCount - 1] = writableBytes;
    this.#heads[chainCount] = head;
    this.chainCount = chainCount + 1;
    return true;
  }

  scan(most: number, writable: boolean): number {
    return this.#scan(most, writable ? WRITE : 0, writable);
  }

  scanFrames(most: number, demands: FrameDemands): number {
    const { plain, memory, segmentPlace, segmentsMax } = this;
    if (!this.#indirect || segmentPlace < 0 || !this.#place.reaches(plain)) return 0;
    const tables = this.#scan(most, SPLIT_TABLE, false);
    return layTablesInWindow(
      false,
      plain.place,
      segmentPlace,
      segmentsMax,
      tables,
      ENTRY_UNFIT,
      demands,
      memory,
    );
  }

  #scan(most: number, wanted: number, writes: boolean): number {
    if (this.#broken) return 0;
    const position = this.#position;
    let waiting = (this.#seen - position) & INDEX_MASK;
    if (waiting < most) {
      const index = Atomics.load(this.#available, INDEX);
      waiting = (index - position) & INDEX_MASK;
      if (waiting > this.queueSize) return 0; // take() says what is wrong
      this.#seen = index;
    }
    this.#layOut(position);
    const count = Math.min(waiting, most, PLAIN_CHAINS_MAX);
    const { plain, memory } = this;
    const table = this.#table;
    const available = this.#available;
    return scanSplit(
      plain,
      memory,
      this.#place,
      table,
      available,
      position,
      this.#mask,
      count,
      wanted,
      writes,
    );
  }

  /** Chain 0 of `plain` is the one at `position`. */
  #layOut(position: number): void {
    const { plain, queueSize } = this;
    const slot = position & this.#mask;
    const at = FIRST_ELEMENT + (slot << WORDS_PER_ELEMENT_SHIFT);
    plain.layAnswers(at, queueSize - slot, queueSize << WORDS_PER_ELEMENT_SHIFT);
    plain.layPositions(position, INDEX_MASK - position, position - INDEX_MASK - 1);
  }

  chainsSince(position: number): number {
    return (this.#position - position) & INDEX_MASK;
  }

  advance(count: number): void {
    this.#position = (this.#position + count) & INDEX_MASK;
  }

  give(writtenBytes: number): void {
    const position = this.#position;
    const at = FIRST_ELEMENT + ((position & this.#mask) << WORDS_PER_ELEMENT_SHIFT);
    this.#usedElements[at] = this.head;
    this.#usedElements[at + USED_LENGTH] = writtenBytes;
    this.#position = (position + 1) & INDEX_MASK;
  }

  giveFilled(writtenBytes: number): number {
    if (this.chainCount === 1) {
      this.give(writtenBytes);
      return 1;
    }
    const count = this.chainsFor(writtenBytes);
    for (let chain = 0; chain < count; chain++) {
      const slot = (this.#position + chain) & this.#mask;
      const at = FIRST_ELEMENT + (slot << WORDS_PER_ELEMENT_SHIFT);
      this.#usedElements[at] = this.#heads[chain]!;
      this.#usedElements[at + USED_LENGTH] = this.bytesIn(chain, writtenBytes);
    }
    this.#position = (this.#position + count) & INDEX_MASK;
    return count;
  }

  untake(): void {
    // Nothing to take back: only giving moves the position, and take() reads the descriptors afresh.
  }

  publish(): boolean {
    const position = this.#position;
    const before = this.#published;
    Atomics.store(this.#used, INDEX, position);
    this.#published = position;
    if (position === before || !this.#wants(before)) return false;
    this.#wantedSince = before;
    return true;
  }

  wantsInterrupt(): boolean {
    return this.#wants(this.#wantedSince);
  }

  /** Whether the driver wants to hear of what was published since the used index was `before`. */
  #wants(before: number): boolean {
    if (this.#eventIdx)
      return needsEvent(Atomics.load(this.#available, this.#usedEventAt), this.#published, before);
    return (Atomics.load(this.#available, FLAGS) & AvailableFlag.NO_INTERRUPT) === 0;
  }

  available(): number {
    return Math.min((Atomics.load(this.#available, INDEX) - this.#position) & INDEX_MASK, this.queueSize);
  }

  suppressKicks(): void {
    // Under EVENT_IDX the flag must stay 0; an avail_event that is left behind suppresses just as well.
    if (this.#eventIdx || this.#kicksSuppressed) return;
    Atomics.store(this.#used, FLAGS, UsedFlag.NO_NOTIFY);
    this.#kicksSuppressed = true;
  }

  armKicks(): boolean {
    if (this.#eventIdx) Atomics.store(this.#used, this.#availableEventAt, this.#position);
    else Atomics.store(this.#used, FLAGS, 0);
    this.#kicksSuppressed = false;
    return Atomics.load(this.#available, INDEX) !== this.#position;
  }

  get fault(): RingFault | null {
    return this.faultCode === null ? null : this.#describe(this.faultCode);
  }

  #describe(code: RingFaultCode): RingFault | null {
    const { head: headIndex, queueSize, segmentsMax } = this;
    switch (code) {
      case 'AVAILABLE_INDEX_JUMP':
        return { code, availableIndex: this.#factA, position: this.#factB, queueSize };
      case 'HEAD_OUT_OF_RANGE':
        return { code, headIndex, queueSize };
      case 'NEXT_OUT_OF_RANGE':
        return { code, headIndex, nextIndex: this.#factA, tableSize: this.#factB };
      case 'CHAIN_LOOP':
        return { code, headIndex, tableSize: this.#factA };
      case 'CHAIN_TOO_LONG':
        return { code, headIndex, segmentsMax };
      case 'CHAIN_ORDER':
      case 'ZERO_LENGTH':
        return { code, headIndex };
      case 'INDIRECT_MALFORMED':
        return { code, headIndex, defect: this.#defect };
      case 'BUFFER_OUTSIDE_MEMORY':
      case 'BUFFER_READ_ONLY':
        return bufferFault(code, headIndex, this.#factA, this.#factB, this.#factC);
      case 'BAD_QUEUE_SIZE':
      case 'BAD_RING_ADDRESS':
      case 'BAD_POSITION':
        return null; // open() answers with these; a ring that exists never has them
    }
  }

  #walk(head: number): number {
    const table = this.#table;
    const size = this.queueSize;
    let index = head;
    for (let steps = 1; ; steps++) {
      const at = index << DESCRIPTOR_WORDS_SHIFT;
      const low = table[at + ADDRESS_LOW]!;
      const high = table[at + ADDRESS_HIGH]!;
      const length = table[at + LENGTH]! >>> 0;
      const flagsNext = table[at + FLAGS_NEXT]!;
      if ((flagsNext & INDIRECT) !== 0) return this.#walkIndirect(high, low, length, flagsNext);
      const code = this.add(high, low, length, (flagsNext & WRITE) !== 0);
      if (code !== null) {
        if (code === 'CHAIN_TOO_LONG' && !this.#extending && this.#runsInCircles(flagsNext, steps)) {
          return this.#refuse('CHAIN_LOOP', size, 0, 0);
        }
        return this.#refuse(code, high, low, length);
      }
      if ((flagsNext & NEXT) === 0) return this.#end();
      index = flagsNext >>> DESCRIPTOR_NEXT_SHIFT;
      if (index >= size) return this.#refuse('NEXT_OUT_OF_RANGE', index, size, 0);
      if (steps === size) return this.#refuse('CHAIN_LOOP', size, 0, 0);
    }
  }

  /** Whether a chain too long to take has no end either: then the ring is at fault, not the request. */
  #runsInCircles(flagsNext: number, stepsDone: number): boolean {
    let link = flagsNext;
    for (let steps = stepsDone; steps <= this.queueSize; steps++) {
      if ((link & NEXT) === 0 || (link & INDIRECT) !== 0) return false;
      const index = link >>> DESCRIPTOR_NEXT_SHIFT;
      if (index >= this.queueSize) return true;
      link = this.#table[(index << DESCRIPTOR_WORDS_SHIFT) + FLAGS_NEXT]!;
    }
    return true;
  }

  /** The rest of a chain that lies in a table of its own. WRITE on the referring descriptor is ignored (2.7.5.3.2). */
  #walkIndirect(high: number, low: number, lengthBytes: number, referring: number): number {
    const defect = tableDefect(this.#indirect, lengthBytes, (referring & NEXT) !== 0);
    if (defect !== null) return this.#refuseTable(defect);
    const memory = this.memory;
    const entries = lengthBytes / ENTRY_BYTES;
    const whole = memory.translate(high, low, lengthBytes) === lengthBytes;
    // Kept in locals: adding a segment translates too.
    const tableView = memory.piece.view;
    const tableOffset = memory.offset;
    let index = 0;
    for (let steps = 1; ; steps++) {
      let view = tableView;
      let at = tableOffset + index * ENTRY_BYTES;
      if (!whole) {
        if (!this.room.seam.fetch(memory, high, low, index * ENTRY_BYTES)) {
          return this.#refuse('BUFFER_OUTSIDE_MEMORY', high, low, lengthBytes);
        }
        view = this.room.seam.view;
        at = 0;
      }
      const entryLow = view.getInt32(at + ADDRESS_LOW * 4, true);
      const entryHigh = view.getInt32(at + ADDRESS_HIGH * 4, true);
      const length = view.getUint32(at + LENGTH * 4, true);
      const flagsNext = view.getInt32(at + FLAGS_NEXT * 4, true);
      if ((flagsNext & INDIRECT) !== 0) return this.#refuseTable('nested');
      const code = this.add(entryHigh, entryLow, length, (flagsNext & WRITE) !== 0);
      if (code !== null) return this.#refuse(code, entryHigh, entryLow, length);
      if ((flagsNext & NEXT) === 0) return this.#end();
      index = flagsNext >>> DESCRIPTOR_NEXT_SHIFT;
      if (index >= entries) return this.#refuse('NEXT_OUT_OF_RANGE', index, entries, 0);
      if (steps === entries) return this.#refuse('CHAIN_LOOP', entries, 0, 0);
    }
  }

  /** The walk came to its end: a chain without a byte is nothing anybody can use. */
  #end(): number {
    const segments = this.readableCount + this.writableCount;
    return segments === 0 ? this.#refuse('ZERO_LENGTH', 0, 0, 0) : segments;
  }

  #refuseTable(defect: IndirectDefect): number {
    this.#defect = defect;
    return this.#refuse('INDIRECT_MALFORMED', 0, 0, 0);
  }

  #refuse(code: RingFaultCode, factA: number, factB: number, factC: number): number {
    if (this.#extending) return -1;
    this.faultCode = code;
    this.#factA = factA;
    this.#factB = factB;
    this.#factC = factC;
    this.#broken = remedyForCode(code) === 'needs-reset';
    this.clear();
    this.chainCount = 1;
    return -1;
  }
}
