/**
 * packed-driver.ts: the driver's side of a packed ring, well-behaved and hostile.
 *
 * Theory
 *   As split-driver.ts. Buffer ids are handed out so that they have nothing to do with places in the ring. A chain's
 *   first descriptor becomes available last; of several added chains the first one with publish(), so that the device
 *   sees all of them or none. Decisions about notification are made by walking the slots in between one by one.
 *
 * Parties
 *   device   the object under test; may be on another thread.
 *
 * Invariants
 *   I1  an id is in the free list or belongs to exactly one outstanding chain.
 *   I2  slots in use never exceed the queue size.
 *
 * Limits  chains as long as there are free slots; memory as DriverMemory has it.
 * Spec    virtio 1.3, 2.8.
 */
import {
  type Decoded,
  DescriptorFlag,
  PACKED_FLAGS_SHIFT,
  PackedAlignment,
  PackedDescriptor,
  PackedEvent,
  PackedEventFlag,
  PackedFlag,
  PackedPosition,
  PackedWord,
  packedDescriptorAreaBytes,
} from '@virtnet/wire';
import { type LaidOut, layOut, takeBack } from './driver-buffers.js';
import type { DriverMemory } from './driver-memory.js';
import type { AddOptions, ChainSpec, RingDriver, UsedChain } from './ring-driver.js';

export type PackedEntry = Decoded<typeof PackedDescriptor>;

export interface PackedDriverOptions {
  readonly memory: DriverMemory;
  readonly queueSize: number;
  readonly eventIdx?: boolean;
  /** Position (both halves) the ring starts at, as after a resume. */
  readonly startPosition?: number;
}

interface Outstanding extends LaidOut {
  readonly slots: number;
}

/** A place in the ring under a wrap counter. */
export interface Place {
  readonly index: number;
  readonly wrap: number;
}

const NOWHERE = 0xffff_ffff_0000_0000n;
const { AVAIL, USED } = PackedFlag;

export const placeOf = (half: number): Place => ({
  index: half & PackedPosition.INDEX_MASK,
  wrap: (half >>> 15) & 1,
});

export class PackedDriver implements RingDriver {
  readonly memory: DriverMemory;
  readonly queueSize: number;
  readonly eventIdx: boolean;
  readonly descriptorAddress: bigint;
  readonly driverAddress: bigint;
  readonly deviceAddress: bigint;

  readonly #table: Int32Array;
  readonly #driverEvent: Int32Array;
  readonly #deviceEvent: Int32Array;
  readonly #freeIds: number[];
  readonly #outstanding = new Map<number, Outstanding>();
  #freeSlots: number;
  #added: Place;
  #published: Place;
  #collected: Place;
  /** Word ID_FLAGS of the first chain added since the last publish, held back. */
  #held: { readonly index: number; readonly word: number } | null = null;

  constructor(options: PackedDriverOptions) {
    const { memory, queueSize, startPosition = 0x8000_8000 } = options;
    this.memory = memory;
    this.queueSize = queueSize;
    this.eventIdx = options.eventIdx ?? false;
    this.descriptorAddress = memory.allocate(
      packedDescriptorAreaBytes(queueSize),
      PackedAlignment.DESCRIPTOR,
    );
    this.driverAddress = memory.allocate(PackedEvent.sizeBytes, PackedAlignment.DRIVER);
    this.deviceAddress = memory.allocate(PackedEvent.sizeBytes, PackedAlignment.DEVICE);
    const words = (iova: bigint, count: number) =>
      new Int32Array(memory.bytes.buffer, memory.bytes.byteOffset + memory.at(iova), count);
    this.#table = words(this.descriptorAddress, queueSize * 4);
    this.#driverEvent = words(this.driverAddress, 1);
    this.#deviceEvent = words(this.deviceAddress, 1);
    this.#freeIds = Array.from({ length: queueSize }, (_, i) => (i * 7 + 3) % queueSize);
    if (new Set(this.#freeIds).size < queueSize)
      this.#freeIds = Array.from({ length: queueSize }, (_, i) => i);
    this.#freeSlots = queueSize;
    this.#added = placeOf(startPosition);
    this.#published = this.#added;
    this.#collected = this.#added;
    // Every slot as its last lap left it: used.
    for (let index = 0; index < queueSize; index++) {
      const lap = index < this.#added.index ? this.#added.wrap : this.#added.wrap ^ 1;
      const flags = lap === 1 ? AVAIL | USED : 0;
      Atomics.store(this.#table, index * 4 + PackedWord.ID_FLAGS, flags << PACKED_FLAGS_SHIFT);
    }
  }

  /** Chains the device holds. */
  get outstanding(): number {
    return this.#outstanding.size;
  }

  add(chain: ChainSpec, options: AddOptions = {}): number {
    const total = (chain.readable?.length ?? 0) + (chain.writable?.length ?? 0);
    // A table must be the whole chain (2.8.8); where the split ring begins it in the middle, here it holds everything.
    const indirect = options.indirectFrom !== undefined && options.indirectFrom < total;
    const needed = indirect ? 1 : total;
    if (needed === 0 || needed > this.#freeSlots) return -1;
    const { readable, writable } = layOut(this.memory, chain);
    const entries = [...readable, ...writable].map(({ iova, sizeBytes }, i) => ({
      address: iova,
      lengthBytes: sizeBytes,
      id: 0,
      flags: i < readable.length ? 0 : DescriptorFlag.WRITE,
    }));
    if (!indirect) return this.#offerChain(entries, { readable, writable, slots: needed });
    const lengthBytes = entries.length * PackedDescriptor.sizeBytes;
    const table = this.memory.allocate(lengthBytes);
    entries.forEach((entry, i) => {
      // Ids and links mean nothing in a table: leave some.
      this.writeEntry(table, i, { ...entry, id: 0xbeef, flags: entry.flags | DescriptorFlag.NEXT });
    });
    const content = this.memory.slice(table, lengthBytes).slice();
    const referring = { address: table, lengthBytes, id: 0, flags: DescriptorFlag.INDIRECT };
    const kept = [...readable, { iova: table, sizeBytes: lengthBytes, content }];
    return this.#offerChain([referring], { readable: kept, writable, slots: 1 });
  }

  addOutside(): number {
    if (this.#freeSlots === 0) return -1;
    const entry = { address: NOWHERE, lengthBytes: 64, id: 0, flags: DescriptorFlag.WRITE };
    return this.#offerChain([entry], { readable: [], writable: [], slots: 1 });
  }

  publish(): boolean {
    const before = this.#published;
    if (this.#held !== null) {
      Atomics.store(this.#table, this.#held.index * 4 + PackedWord.ID_FLAGS, this.#held.word);
      this.#held = null;
    }
    this.#published = this.#added;
    return this.#passes(Atomics.load(this.#deviceEvent, 0), before, this.#added);
  }

  collect(): UsedChain[] {
    const chains: UsedChain[] = [];
    while (this.#outstanding.size > 0) {
      const { index, wrap } = this.#collected;
      const word = Atomics.load(this.#table, index * 4 + PackedWord.ID_FLAGS);
      const flags = word >>> PACKED_FLAGS_SHIFT;
      const used = wrap === 1 ? AVAIL | USED : 0;
      if ((flags & (AVAIL | USED)) !== used) break;
      const id = word & 0xffff;
      const chain = this.#outstanding.get(id);
      if (chain === undefined) throw new Error(`the device gave back id ${id}, which it does not have`);
      this.#outstanding.delete(id);
      this.#freeIds.push(id);
      this.#freeSlots += chain.slots;
      this.#collected = this.step(this.#collected, chain.slots);
      const lengthBytes =
        (flags & DescriptorFlag.WRITE) === 0 ? 0 : this.#table[index * 4 + PackedWord.LENGTH]! >>> 0;
      chains.push(takeBack(this.memory, id, lengthBytes, chain));
    }
    return chains;
  }

  wantInterrupts(wanted: boolean): void {
    if (!wanted) this.setDriverEvent(PackedEventFlag.DISABLE);
    else if (this.eventIdx) this.setDriverEvent(PackedEventFlag.DESCRIPTOR, this.#collected);
    else this.setDriverEvent(PackedEventFlag.ENABLE);
  }

  /** Whether a driver that follows the rules expects an interrupt when the device's place goes from before to after. */
  expectsInterrupt(before: Place, after: Place): boolean {
    return this.#passes(Atomics.load(this.#driverEvent, 0), before, after);
  }

  /** The place `slots` further on. */
  step({ index, wrap }: Place, slots: number): Place {
    const next = index + slots;
    return next < this.queueSize ? { index: next, wrap } : { index: next - this.queueSize, wrap: wrap ^ 1 };
  }

  /** Hostile from here on: raw stores, no account kept. */

  /** Flags that make a descriptor available at `place`. */
  availableFlags({ wrap }: Place): number {
    return wrap === 1 ? AVAIL : USED;
  }

  writeDescriptor(index: number, entry: PackedEntry): void {
    this.writeEntry(this.descriptorAddress, index, entry);
  }

  /** Writes entry `index` of a table anywhere in memory. */
  writeEntry(table: bigint, index: number, entry: PackedEntry): void {
    PackedDescriptor.encode(
      this.memory.view,
      this.memory.at(table) + index * PackedDescriptor.sizeBytes,
      entry,
    );
  }

  setDriverEvent(flags: number, place: Place = { index: 0, wrap: 0 }): void {
    const position = (place.wrap << 15) | place.index;
    Atomics.store(this.#driverEvent, 0, (flags << PACKED_FLAGS_SHIFT) | position);
  }

  /** What the device says about kicks. */
  get deviceEvent(): { readonly flags: number; readonly place: Place } {
    const word = Atomics.load(this.#deviceEvent, 0);
    return { flags: (word >>> PACKED_FLAGS_SHIFT) & 0xffff, place: placeOf(word & 0xffff) };
  }

  /** Whether the next chain to come back has come back. */
  get hasUsed(): boolean {
    const { index, wrap } = this.#collected;
    const flags = Atomics.load(this.#table, index * 4 + PackedWord.ID_FLAGS) >>> PACKED_FLAGS_SHIFT;
    return this.#outstanding.size > 0 && (flags & (AVAIL | USED)) === (wrap === 1 ? AVAIL | USED : 0);
  }

  get addedPlace(): Place {
    return this.#added;
  }
  get collectedPlace(): Place {
    return this.#collected;
  }

  #offerChain(entries: readonly PackedEntry[], chain: Outstanding): number {
    const id = this.#freeIds.shift()!;
    this.#outstanding.set(id, chain);
    this.#freeSlots -= entries.length;
    const first = this.#added;
    let place = first;
    let firstWord = 0;
    for (const [i, entry] of entries.entries()) {
      const last = i === entries.length - 1;
      const flags = entry.flags | (last ? 0 : DescriptorFlag.NEXT) | this.availableFlags(place);
      // The id counts in the last descriptor only.
      const word = (last ? id : 0xdead) | (flags << PACKED_FLAGS_SHIFT);
      const at = place.index * 4;
      this.#table[at + PackedWord.ADDRESS_LOW] = Number(entry.address & 0xffff_ffffn) | 0;
      this.#table[at + PackedWord.ADDRESS_HIGH] = Number(entry.address >> 32n) | 0;
      this.#table[at + PackedWord.LENGTH] = entry.lengthBytes | 0;
      if (i === 0) firstWord = word;
      else Atomics.store(this.#table, at + PackedWord.ID_FLAGS, word);
      place = this.step(place, 1);
    }
    this.#added = place;
    if (this.#held === null) this.#held = { index: first.index, word: firstWord };
    else Atomics.store(this.#table, first.index * 4 + PackedWord.ID_FLAGS, firstWord);
    return id;
  }

  #passes(event: number, before: Place, after: Place): boolean {
    if (before.index === after.index && before.wrap === after.wrap) return false;
    const flags = (event >>> PACKED_FLAGS_SHIFT) & 3;
    if (flags === PackedEventFlag.DISABLE) return false;
    if (flags !== PackedEventFlag.DESCRIPTOR || !this.eventIdx) return true;
    const wanted = placeOf(event & 0xffff);
    let place = before;
    do {
      if (place.index === wanted.index && place.wrap === wanted.wrap) return true;
      place = this.step(place, 1);
    } while (place.index !== after.index || place.wrap !== after.wrap);
    return false;
  }
}
