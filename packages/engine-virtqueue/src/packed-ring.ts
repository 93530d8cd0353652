/**
 * packed-ring.ts: the device's end of one packed virtqueue.
 *
 * Theory
 *   Driver and device share a single ring of 16-byte descriptors, and neither publishes an index. Each descriptor has
 *   two bits, AVAIL and USED; each side keeps a wrap counter that flips when it passes the end. A slot is ours when
 *   AVAIL equals the driver's wrap counter and USED does not; we hand it back by making both equal to our own. A chain
 *   of n descriptors is answered in the first one of its slots, and the next answer is n slots further on.
 *   Chains are given back in the order they were taken, so the next entry to take is also the next to answer, and one
 *   index with one wrap counter says where the ring goes on.
 *   An answer overwrites the descriptor it answers. So give() only notes it in the journal (the state page, where a
 *   crash leaves it), and publish() writes the whole burst into the ring, the flags of the first answer last: the
 *   driver looks there first and finds all of it or nothing. Until then guest memory is as the driver left it, and a
 *   chain that is not given can always be taken again, by a successor too. The short way (plain-chains.ts) writes the
 *   journal's entries itself.
 *
 * Parties
 *   driver   writes available descriptors and its event structure; may be hostile, may be mid-write at any instant.
 *   device   this object, on exactly one thread; writes used descriptors and its event structure.
 *
 * Visibility
 *   The flags of a chain's first descriptor are loaded before anything else of it is read: the flags of everything that
 *   waits, and then loads are kept in order. Of a burst, the flags of its first answer are stored last (Atomics). Both sides of
 *   "publish, then look whether the other wants to know" are sequentially consistent (split-ring.ts).
 *
 * States            running -> broken, on a fault whose remedy is needs-reset
 *   broken -> any   Prohibited, see device-ring.ts.
 *
 * Invariants
 *   I1  every descriptor is read once into locals, then judged, then used (failure C13); the look ahead that counts
 *       what waits reads flags only, and nothing but the count follows from it.
 *   I2  index < queueSize, and descriptors given and not published never exceed queueSize.
 *   I3  a walk ends after at most as many steps as the ring or the table has entries.
 *   I4  position.used .. position.available is exactly what the journal holds.
 *
 * Limits  PACKED_QUEUE_SIZE_MAX entries, any number; chainSegmentsMax segments a chain, descriptors without a byte counted
 *         with them; INDIRECT_ENTRIES_MAX entries a table; a full journal is published without being asked.
 * Saved   position, and the journal while the two halves of the position differ. Nothing else.
 * Spec    virtio 1.3, 2.8.
 */
import {
  DescriptorFlag,
  JOURNAL_ENTRY_WORDS,
  PACKED_FLAGS_SHIFT,
  PACKED_QUEUE_SIZE_MAX,
  PackedDescriptor,
  PackedEventFlag,
  PackedFlag,
  PackedPosition,
  PackedWord,
} from '@virtnet/wire';
import { Chain } from './chain.js';
import { type FrameDemands, layTablesInWindow, lookPackedInWindow } from './copy-window.js';
import type { DeviceRing } from './device-ring.js';
import {
  bufferFault,
  type IndirectDefect,
  type RingFault,
  type RingFaultCode,
  remedyForCode,
} from './fault.js';
import { tableDefect } from './indirect-table.js';
import { CHAIN_SEGMENTS_MAX, PLAIN_CHAINS_MAX } from './limits.js';
import { orderLoads } from './load-order.js';
import type { PackedRingConfig } from './packed-config.js';
import { ANYWHERE, lapOffset, wantsPassed } from './packed-position.js';
import { ScanPlace, scanPacked } from './plain-scan.js';
import { openParts, type RingParts } from './ring-parts.js';
import { PACKED_OWNER, PACKED_TABLE } from './window-layout.js';

const { NEXT, WRITE, INDIRECT } = DescriptorFlag;
const { ADDRESS_LOW, ADDRESS_HIGH, LENGTH, ID_FLAGS } = PackedWord;
const { INDEX_MASK, WRAP, USED_SHIFT } = PackedPosition;
const ENTRY_BYTES = PackedDescriptor.sizeBytes;
const DESCRIPTOR_WORDS_SHIFT = 2;
const ID_MASK = 0xffff;
const WRAP_SHIFT = 15;
/** What PACKED_OWNER has in a descriptor that is available under wrap counter 1 and 0. */
const AVAILABLE_1 = PackedFlag.AVAIL << PACKED_FLAGS_SHIFT;
const AVAILABLE_0 = PackedFlag.USED << PACKED_FLAGS_SHIFT;
const NEXT_BIT = NEXT << PACKED_FLAGS_SHIFT;
const WRITE_BIT = WRITE << PACKED_FLAGS_SHIFT;
const INDIRECT_BIT = INDIRECT << PACKED_FLAGS_SHIFT;

export class PackedRing extends Chain implements DeviceRing {
  readonly queueSize: number;
  head = 0;
  faultCode: RingFaultCode | null = null;

  readonly #indirect: boolean;
  readonly #eventIdx: boolean;
  /** Bit of a table's entry that makes its buffer writable. */
  readonly #tableWriteBit: number;
  /** Views over exactly the three parts. */
  readonly #table: Int32Array;
  readonly #place: ScanPlace;
  readonly #driverEvent: Int32Array;
  readonly #deviceEvent: Int32Array;
  readonly #journal: Uint32Array;
  readonly #journalMax: number;
  /** Buffer id and descriptors of each current chain. */
  readonly #ids: Uint16Array;
  readonly #slots: Uint16Array;

  /** The next entry to take and to answer. */
  #index: number;
  #wrap: number;
  /** The first answer that is not published; `#noted` of them are in the journal, over `#notedSlots` slots. */
  #used: number;
  #usedWrap: number;
  #noted = 0;
  #notedSlots = 0;
  /** What was published when publish() was last asked, which is what the driver's wish is judged against. */
  #told: number;
  /** The journal was full meanwhile and published without being asked. */
  #toldLess = false;
  /** What was published before the last publish() that said the driver wants an interrupt, or ANYWHERE. */
  #wantedSince = ANYWHERE;
  /** Chains and slots from `#index` on that were seen to be available; `#ahead` is behind them. */
  #waiting = 0;
  #waitingSlots = 0;
  #ahead: number;
  #aheadWrap: number;
  /** Slots of the current chains, and the first one behind them. */
  #currentSlots = 0;
  #cursor: number;
  /** Chains of `plain` that are given. */
  #plainGiven = 0;

  #kicksSuppressed = false;
  #broken = false;
  #factA = 0;
  #factB = 0;
  #factC = 0;
  #defect: IndirectDefect = 'empty';
  #extending = false;

  /** Opens the ring, or says what is wrong with its size, addresses or position. Writes nothing. */
  static open(config: PackedRingConfig): PackedRing | RingFault {
    const { queueSize, chainSegmentsMax, position, journal } = config;
    if (!(queueSize > 0 && queueSize <= PACKED_QUEUE_SIZE_MAX)) return { code: 'BAD_QUEUE_SIZE', queueSize };
    if (!(chainSegmentsMax >= 1 && chainSegmentsMax <= CHAIN_SEGMENTS_MAX)) {
      throw new RangeError(`chainSegmentsMax ${chainSegmentsMax}`); // the owner's fault, not the driver's
    }
    if (journal.length < JOURNAL_ENTRY_WORDS) throw new RangeError('journal without an entry');
    const parts = openParts(config, true);
    if ('code' in parts) return parts;
    const ring = new PackedRing(config, parts);
    return (position === null ? null : ring.resumeAt(position)) ?? ring;
  }

  private constructor(config: PackedRingConfig, parts: RingParts) {
    super(config.memory, config.chainSegmentsMax, config.journal, config);
    this.queueSize = config.queueSize;
    this.#indirect = config.indirect;
    this.#tableWriteBit = config.readsOnly === true ? 0 : WRITE_BIT;
    this.#eventIdx = config.eventIdx;
    this.#table = parts.descriptor.i32;
    this.#place = new ScanPlace(parts.descriptor);
    this.#driverEvent = parts.driver.i32;
    this.#deviceEvent = parts.device.i32;
    this.#journal = config.journal;
    this.#journalMax = Math.floor(config.journal.length / JOURNAL_ENTRY_WORDS);
    this.#ids = this.room.ids;
    this.#slots = this.room.slots;
    this.#index = 0;
    this.#wrap = 1;
    this.#used = 0;
    this.#usedWrap = 1;
    this.#told = 0;
    this.#ahead = 0;
    this.#aheadWrap = 1;
    this.#cursor = 0;
  }

  get position(): number {
    const used = (this.#usedWrap << WRAP_SHIFT) | this.#used;
    return (used << USED_SHIFT) | (this.#wrap << WRAP_SHIFT) | this.#index;
  }

  resumeAt(position: number): RingFault | null {
    if (this.#resume(position)) return null;
    return { code: 'BAD_POSITION', position: position >>> 0, queueSize: this.queueSize };
  }

  #resume(position: number): boolean {
    const size = this.queueSize;
    const available = lapOffset(position & 0xffff, size);
    const used = lapOffset(position >>> USED_SHIFT, size);
    if (available < 0 || used < 0) return false;
    this.#index = position & INDEX_MASK;
    this.#wrap = (position & WRAP) === 0 ? 0 : 1;
    this.#ahead = this.#index;
    this.#aheadWrap = this.#wrap;
    this.#told = used;
    const behind = available >= used ? available - used : available - used + 2 * size;
    if (behind > size) return false;
    const usedIndex = (position >>> USED_SHIFT) & INDEX_MASK;
    const usedWrap = (position >>> (USED_SHIFT + WRAP_SHIFT)) & 1;
    const word = Atomics.load(this.#table, (usedIndex << DESCRIPTOR_WORDS_SHIFT) + ID_FLAGS);
    const usedBit = (word >>> (PACKED_FLAGS_SHIFT + 15)) & 1;
    if (behind === 0 || usedBit === usedWrap) {
      // Everything is published: the predecessor died before it could say so, and the driver may have moved on.
      this.#used = this.#index;
      this.#usedWrap = this.#wrap;
      return true;
    }
    this.#used = usedIndex;
    this.#usedWrap = usedWrap;
    let slots = 0;
    let entries = 0;
    while (slots < behind && entries < this.#journalMax) {
      const count = this.#journal[entries * JOURNAL_ENTRY_WORDS]! >>> 16;
      if (count === 0) return false;
      slots += count;
      entries++;
    }
    this.#noted = entries;
    this.#notedSlots = slots;
    return slots === behind;
  }

  take(): number {
    if (this.#broken) return -1;
    if (this.#waiting === 0 && this.#look() === 0) return 0;
    this.clear();
    this.chainCount = 1;
    this.#currentSlots = 0;
    this.#cursor = this.#index;
    const segments = this.#walk(0);
    this.head = this.#ids[0]!;
    return segments;
  }

  extend(): boolean {
    const { chainCount, readableCount, readableBytes, writableCount, writableBytes, empties } = this;
    if (chainCount === 0 || chainCount >= this.#journalMax || chainCount >= this.segmentsMax) return false;
    if (this.#waiting <= chainCount && this.#look() <= chainCount) return false;
    const cursor = this.#cursor;
    const slots = this.#currentSlots;
    this.#extending = true;
    const segments = this.#walk(chainCount);
    this.#extending = false;
    if (segments < 0 || this.readableCount !== readableCount || this.writableBytes === writableBytes) {
      this.restore(readableCount, readableBytes, writableCount, writableBytes, empties);
      this.#cursor = cursor;
      this.#currentSlots = slots;
      return false;
    }
    this.chainEnds[chainCount - 1] = writableBytes;
    this.chainCount = chainCount + 1;
    return true;
  }

  scan(most: number, writable: boolean): number {
    return this.#scan(most, writable ? WRITE_BIT : 0, writable);
  }

  scanFrames(most: number, demands: FrameDemands): number {
    const { plain, memory, segmentPlace, segmentsMax } = this;
    if (!this.#indirect || segmentPlace < 0 || !this.#place.reaches(plain)) return 0;
    const tables = this.#scan(most, PACKED_TABLE, false);
    const unfit = INDIRECT_BIT | this.#tableWriteBit;
    return layTablesInWindow(true, plain.place, segmentPlace, segmentsMax, tables, unfit, demands, memory);
  }

  #scan(most: number, wanted: number, writes: boolean): number {
    if (this.#broken) return 0;
    const wished = Math.min(most, PLAIN_CHAINS_MAX);
    if (this.#waiting < wished && this.#look() === 0) return 0;
    if (this.#noted > 0 && this.#journalMax - this.#noted < wished) this.#makeRoom();
    this.#plainGiven = 0;
    this.#layOut();
    // Of a driver that links descriptors after they were seen, more chains wait than slots.
    const waiting = Math.min(this.#waiting, this.#waitingSlots);
    const count = Math.min(waiting, wished, this.#journalMax - this.#noted);
    return scanPacked(this.plain, this.memory, this.#place, this.#table, this.#index, count, wanted, writes);
  }

  /** Where the answers to the chains of `plain` go, and the positions behind them. */
  #layOut(): void {
    const index = this.#index - this.#plainGiven; // where chain 0 was, or would have been in this lap
    const lap = (((this.#usedWrap << WRAP_SHIFT) | this.#used) << USED_SHIFT) + (this.#wrap << WRAP_SHIFT);
    const nextLap = lap + (this.#wrap === 1 ? -WRAP : WRAP) - this.queueSize;
    this.plain.layAnswers((this.#noted - this.#plainGiven) * JOURNAL_ENTRY_WORDS, PLAIN_CHAINS_MAX, 0);
    this.plain.layPositions((lap + index) | 0, this.queueSize - 1 - index, (nextLap + index) | 0);
  }

  chainsSince(position: number): number {
    const [from, to] = [position, this.position].map((half) => lapOffset(half & 0xffff, this.queueSize));
    const entries = to! - from!;
    return entries < 0 ? entries + 2 * this.queueSize : entries;
  }

  advance(count: number): void {
    this.#plainGiven += count;
    this.#moveOn(count, count);
  }

  give(writtenBytes: number): void {
    if (this.#noted === this.#journalMax) this.#makeRoom();
    this.#note(0, writtenBytes);
  }

  giveFilled(writtenBytes: number): number {
    const count = this.chainsFor(writtenBytes);
    // All answers of a frame become visible together.
    if (this.#noted + count > this.#journalMax) this.#makeRoom();
    for (let chain = 0; chain < count; chain++) this.#note(chain, this.bytesIn(chain, writtenBytes));
    return count;
  }

  untake(): void {
    // Nothing to take back: only giving moves the index, and take() reads the descriptors afresh.
  }

  publish(): boolean {
    this.#flush();
    const before = this.#toldLess ? ANYWHERE : this.#told;
    const after = this.#usedWrap === 1 ? this.#used : this.#used + this.queueSize;
    if (after === before) return false;
    this.#told = after;
    this.#toldLess = false;
    if (!this.#wants(before)) return false;
    this.#wantedSince = before;
    return true;
  }

  wantsInterrupt(): boolean {
    return this.#wants(this.#wantedSince);
  }

  #wants(before: number): boolean {
    const event = Atomics.load(this.#driverEvent, 0);
    return wantsPassed(event, this.#eventIdx, before, this.#told, this.queueSize);
  }

  available(): number {
    return this.#broken ? 0 : this.#look();
  }

  suppressKicks(): void {
    if (this.#kicksSuppressed) return;
    Atomics.store(this.#deviceEvent, 0, PackedEventFlag.DISABLE << PACKED_FLAGS_SHIFT);
    this.#kicksSuppressed = true;
  }

  armKicks(): boolean {
    // With EVENT_IDX for the very next entry; position and flags are one word, so one store.
    const word = this.#eventIdx
      ? (PackedEventFlag.DESCRIPTOR << PACKED_FLAGS_SHIFT) | (this.#wrap << WRAP_SHIFT) | this.#index
      : PackedEventFlag.ENABLE << PACKED_FLAGS_SHIFT;
    Atomics.store(this.#deviceEvent, 0, word);
    this.#kicksSuppressed = false;
    return this.#look() > 0;
  }

  get fault(): RingFault | null {
    return this.faultCode === null ? null : this.#describe(this.faultCode);
  }

  #describe(code: RingFaultCode): RingFault | null {
    const { head: headIndex, segmentsMax } = this;
    switch (code) {
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
      default:
        return null; // faults of opening, and of indices, which a packed ring does not have
    }
  }

  /** Counts what is available; chains that wait, the current ones included. */
  #look(): number {
    const table = this.#table;
    const size = this.queueSize;
    const most = size - this.#notedSlots;
    let slots = this.#waitingSlots;
    if (slots >= most) return this.#waiting;
    let ahead = this.#ahead;
    let wanted = this.#aheadWrap === 1 ? AVAILABLE_1 : AVAILABLE_0;
    let word = Atomics.load(table, (ahead << DESCRIPTOR_WORDS_SHIFT) + ID_FLAGS);
    if ((word & PACKED_OWNER) !== wanted) return this.#waiting;
    let waiting = this.#waiting;
    if (this.#place.table.page >= 0) {
      const simple = lookPackedInWindow(this.#place.table, ahead, size, wanted, most - slots);
      waiting += simple;
      slots += simple;
      ahead += simple;
      if (ahead >= size) {
        ahead -= size;
        wanted ^= PACKED_OWNER;
      }
      if (simple > 0 && slots < most)
        word = Atomics.load(table, (ahead << DESCRIPTOR_WORDS_SHIFT) + ID_FLAGS);
    }
    // The first one is known to be available; of a chain only its first one need be.
    for (let known = slots < most && (word & PACKED_OWNER) === wanted; known; ) {
      const linked = (word & NEXT_BIT) !== 0;
      slots++;
      if (++ahead === size) {
        ahead = 0;
        wanted ^= PACKED_OWNER;
      }
      if (!linked || slots === most) waiting++;
      if (slots === most) break;
      word = table[(ahead << DESCRIPTOR_WORDS_SHIFT) + ID_FLAGS]!;
      known = linked || (word & PACKED_OWNER) === wanted;
    }
    orderLoads(); // what comes next may not be read before any of these flags
    this.#ahead = ahead;
    this.#aheadWrap = wanted === AVAILABLE_1 ? 1 : 0;
    this.#waitingSlots = slots;
    this.#waiting = waiting;
    return waiting;
  }

  /** Notes the answer to current chain `chain` and moves on behind it. */
  #note(chain: number, writtenBytes: number): void {
    const slots = this.#slots[chain]!;
    const at = this.#noted * JOURNAL_ENTRY_WORDS;
    this.#journal[at] = this.#ids[chain]! | (slots << 16);
    this.#journal[at + 1] = writtenBytes;
    this.#moveOn(1, slots);
  }

  /** `chains` more answers are in the journal, over `slots` slots. */
  #moveOn(chains: number, slots: number): void {
    this.#noted += chains;
    this.#notedSlots += slots;
    let index = this.#index + slots;
    if (index >= this.queueSize) {
      index -= this.queueSize;
      this.#wrap ^= 1;
    }
    this.#index = index;
    this.#waiting -= chains;
    this.#waitingSlots -= slots;
    if (this.#waiting > 0 && this.#waitingSlots > 0) return;
    // All that was seen is done; or a driver that rewrote its links: then what follows is looked at again.
    this.#waiting = 0;
    this.#waitingSlots = 0;
    this.#ahead = index;
    this.#aheadWrap = this.#wrap;
  }

  #makeRoom(): void {
    this.#flush();
    this.#toldLess = true;
  }

  /** Writes what is noted into the ring, the flags of the first answer last. */
  #flush(): void {
    const count = this.#noted;
    if (count === 0) return;
    const table = this.#table;
    const journal = this.#journal;
    const size = this.queueSize;
    const firstAt = (this.#used << DESCRIPTOR_WORDS_SHIFT) + ID_FLAGS;
    let first = 0;
    let index = this.#used;
    let owner = this.#usedWrap === 1 ? PACKED_OWNER : 0;
    for (let entry = 0; entry < count; entry++) {
      const note = (entry * JOURNAL_ENTRY_WORDS) | 0;
      const answer = journal[note]!;
      const writtenBytes = journal[note + 1]!;
      const at = index << DESCRIPTOR_WORDS_SHIFT;
      const word = (answer & ID_MASK) | owner | (writtenBytes === 0 ? 0 : WRITE_BIT);
      table[at + LENGTH] = writtenBytes;
      if (entry === 0) first = word;
      else table[at + ID_FLAGS] = word;
      index = (index + (answer >>> 16)) | 0;
      if (index >= size) {
        index = (index - size) | 0;
        owner ^= PACKED_OWNER;
      }
    }
    Atomics.store(table, firstAt, first);
    this.#used = index;
    this.#usedWrap = owner === 0 ? 0 : 1;
    this.#noted = 0;
    this.#notedSlots = 0;
    this.#layOut();
  }

  /** Lays the chain at the cursor out behind what is current, as chain number `chain`. */
  #walk(chain: number): number {
    const table = this.#table;
    const size = this.queueSize;
    let slot = this.#cursor;
    for (let steps = 1; ; steps++) {
      const at = slot << DESCRIPTOR_WORDS_SHIFT;
      const low = table[at + ADDRESS_LOW]!;
      const high = table[at + ADDRESS_HIGH]!;
      const length = table[at + LENGTH]! >>> 0;
      const word = table[at + ID_FLAGS]!;
      if (++slot === size) slot = 0;
      if ((word & INDIRECT_BIT) !== 0) {
        const linked = steps > 1 || (word & NEXT_BIT) !== 0;
        const defect = tableDefect(this.#indirect, length, linked);
        if (defect !== null) this.#defect = defect;
        const code = defect === null ? this.#walkTable(high, low, length) : 'INDIRECT_MALFORMED';
        return this.#end(chain, slot, steps, word, code);
      }
      const code = this.add(high, low, length, (word & WRITE_BIT) !== 0);
      if (code !== null) {
        this.#setFacts(high, low, length);
        return this.#end(chain, slot, steps, word, code);
      }
      if ((word & NEXT_BIT) === 0) return this.#end(chain, slot, steps, word, null);
      if (steps === size) return this.#refuse('CHAIN_LOOP', size, 0, 0);
    }
  }

  /** The entries of a table, one after the other: no links, no ids, and of the flags only WRITE (2.8.8). */
  #walkTable(high: number, low: number, lengthBytes: number): RingFaultCode | null {
    const memory = this.memory;
    const whole = memory.translate(high, low, lengthBytes) === lengthBytes;
    // Kept in locals: adding a segment translates too.
    const tableView = memory.piece.view;
    const tableOffset = memory.offset;
    for (let offset = 0; offset < lengthBytes; offset += ENTRY_BYTES) {
      let view = tableView;
      let at = tableOffset + offset;
      if (!whole) {
        if (!this.room.seam.fetch(memory, high, low, offset)) {
          this.#setFacts(high, low, lengthBytes);
          return 'BUFFER_OUTSIDE_MEMORY';
        }
        view = this.room.seam.view;
        at = 0;
      }
      const entryLow = view.getInt32(at + ADDRESS_LOW * 4, true);
      const entryHigh = view.getInt32(at + ADDRESS_HIGH * 4, true);
      const length = view.getUint32(at + LENGTH * 4, true);
      const word = view.getInt32(at + ID_FLAGS * 4, true);
      if ((word & INDIRECT_BIT) !== 0) {
        this.#defect = 'nested';
        return 'INDIRECT_MALFORMED';
      }
      const code = this.add(entryHigh, entryLow, length, (word & this.#tableWriteBit) !== 0);
      if (code !== null) {
        this.#setFacts(entryHigh, entryLow, length);
        return code;
      }
    }
    return null;
  }

  /**
   * The walk came to descriptor `word`, in front of `slot`, and found `code`. The rest of a refused chain is walked for
   * its id and its end, without which it could not be given back.
   */
  #end(chain: number, slot: number, steps: number, word: number, code: RingFaultCode | null): number {
    const size = this.queueSize;
    let last = word;
    let next = slot;
    let count = steps;
    while ((last & NEXT_BIT) !== 0) {
      if (count === size) return this.#refuse('CHAIN_LOOP', size, 0, 0);
      last = this.#table[(next << DESCRIPTOR_WORDS_SHIFT) + ID_FLAGS]!;
      if (++next === size) next = 0;
      count++;
    }
    // More than the ring holds: what was given is not visible yet, so nobody can have used its slots again.
    if (this.#notedSlots + this.#currentSlots + count > size) return this.#refuse('CHAIN_LOOP', size, 0, 0);
    this.#ids[chain] = last & ID_MASK;
    this.#slots[chain] = count;
    this.#cursor = next;
    this.#currentSlots += count;
    const segments = this.readableCount + this.writableCount;
    const found = code ?? (segments === 0 ? 'ZERO_LENGTH' : null);
    return found === null ? segments : this.#refuse(found, this.#factA, this.#factB, this.#factC);
  }

  #setFacts(high: number, low: number, lengthBytes: number): void {
    this.#factA = high;
    this.#factB = low;
    this.#factC = lengthBytes;
  }

  #refuse(code: RingFaultCode, factA: number, factB: number, factC: number): number {
    if (this.#extending) return -1;
    this.faultCode = code;
    this.#setFacts(factA, factB, factC);
    this.#broken = remedyForCode(code) === 'needs-reset';
    this.clear();
    this.chainCount = 1;
    return -1;
  }
}
