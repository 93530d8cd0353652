/**
 * driver-ring.ts: the driver's side of a split ring in which every buffer is one descriptor.
 *
 * Theory
 *   Descriptor i always names slot i, a piece of memory of a fixed size: header and frame behind one another. Nothing
 *   is chained, so a ring needs no account of chains, and the hot path writes a length and an index.
 *   Interrupts are wanted or not. Under EVENT_IDX unwanted means that the event is not moved on: the device signals
 *   once when it passes it, and then no more.
 *
 * Parties
 *   device   another process. What it puts into the used ring is checked: an index that it does not hold, or more
 *            bytes than the slot has, is a fault, and the ring is not to be used any more.
 *
 * Invariants
 *   I1  a slot is free, the caller's (taken), or the device's (offered and not yet collected).
 *   I2  nothing is allocated after construction.
 *
 * Limits  sizes that are powers of two up to 32768.
 * Spec    virtio 1.3, 2.7.
 */
import {
  AvailableFlag,
  availableEventAt,
  DESCRIPTOR_WORDS_SHIFT,
  DescriptorFlag,
  DescriptorWord,
  descriptorAreaBytes,
  deviceAreaBytes,
  driverAreaBytes,
  RingWord,
  UsedFlag,
  UsedWord,
  usedEventAt,
} from '@virtnet/wire';

const INDEX_MASK = 0xffff;
const HIGH_WORD = 2 ** 32;
/** Parts and slots begin at multiples of this. */
export const RING_ALIGN_BYTES = 4096;

/** collect(): nothing was used. */
export const NOTHING_USED = -1;
/** collect(): the device broke the ring. */
export const RING_FAULT = -2;

const aligned = (bytes: number): number => Math.ceil(bytes / RING_ALIGN_BYTES) * RING_ALIGN_BYTES;

/** Where the parts of a ring and its slots are, as offsets in memory. */
export interface RingPlan {
  readonly size: number;
  readonly slotBytes: number;
  readonly descriptorAt: number;
  readonly driverAt: number;
  readonly deviceAt: number;
  readonly slotsAt: number;
  /** The first byte behind it. */
  readonly end: number;
}

/** Lays a ring of `size` entries with slots of `slotBytes` (rounded up) out from `at` on. */
export function planRing(size: number, slotBytes: number, at: number): RingPlan {
  const descriptorAt = aligned(at);
  const driverAt = aligned(descriptorAt + descriptorAreaBytes(size));
  const deviceAt = aligned(driverAt + driverAreaBytes(size));
  const slotsAt = aligned(deviceAt + deviceAreaBytes(size));
  const slot = Math.ceil(slotBytes / 64) * 64;
  return {
    size,
    slotBytes: slot,
    descriptorAt,
    driverAt,
    deviceAt,
    slotsAt,
    end: aligned(slotsAt + size * slot),
  };
}

export interface DriverRingOptions {
  readonly buffer: ArrayBuffer;
  /** Address at which the device finds offset 0. */
  readonly iova: bigint;
  readonly plan: RingPlan;
  readonly eventIdx: boolean;
  /** The device writes into the slots. */
  readonly writable: boolean;
}

export class DriverRing {
  readonly plan: RingPlan;
  readonly #eventIdx: boolean;
  readonly #writable: boolean;
  readonly #descriptors: Uint32Array;
  readonly #available: Uint16Array;
  readonly #used: Uint16Array;
  readonly #usedWords: Uint32Array;
  /** Stack of the free slots. */
  readonly #free: Uint16Array;
  #freeCount: number;
  /** 1 where the device has the slot. */
  readonly #held: Uint8Array;
  #heldCount = 0;
  #added = 0;
  #published = 0;
  #collected = 0;
  /** Of the slot collected last: bytes the device wrote. */
  usedBytes = 0;

  constructor({ buffer, iova, plan, eventIdx, writable }: DriverRingOptions) {
    const { size } = plan;
    this.plan = plan;
    this.#eventIdx = eventIdx;
    this.#writable = writable;
    this.#descriptors = new Uint32Array(buffer, plan.descriptorAt, size << DESCRIPTOR_WORDS_SHIFT);
    this.#available = new Uint16Array(buffer, plan.driverAt, driverAreaBytes(size) >>> 1);
    this.#used = new Uint16Array(buffer, plan.deviceAt, deviceAreaBytes(size) >>> 1);
    this.#usedWords = new Uint32Array(buffer, plan.deviceAt, deviceAreaBytes(size) >>> 2);
    this.#free = Uint16Array.from({ length: size }, (_, i) => size - 1 - i);
    this.#freeCount = size;
    this.#held = new Uint8Array(size);
    const base = Number(iova) + plan.slotsAt;
    for (let slot = 0; slot < size; slot++) {
      const address = base + slot * plan.slotBytes;
      const at = slot << DESCRIPTOR_WORDS_SHIFT;
      this.#descriptors[at + DescriptorWord.ADDRESS_LOW] = address;
      this.#descriptors[at + DescriptorWord.ADDRESS_HIGH] = address / HIGH_WORD;
      this.#descriptors[at + DescriptorWord.FLAGS_NEXT] = writable ? DescriptorFlag.WRITE : 0;
    }
  }

  /** Slots the device has. */
  get held(): number {
    return this.#heldCount;
  }

  /** Offset in memory of a slot. */
  slotAt(slot: number): number {
    return this.plan.slotsAt + slot * this.plan.slotBytes;
  }

  /** A free slot, now the caller's; -1 when there is none. */
  take(): number {
    if (this.#freeCount === 0) return -1;
    this.#freeCount--;
    return this.#free[this.#freeCount]!;
  }

  /** Gives a slot back that was taken or collected. */
  release(slot: number): void {
    this.#free[this.#freeCount++] = slot;
  }

  /** Puts a taken or collected slot into the ring with its first `lengthBytes`, not yet visible to the device. */
  offer(slot: number, lengthBytes: number): void {
    this.#descriptors[(slot << DESCRIPTOR_WORDS_SHIFT) + DescriptorWord.LENGTH] = lengthBytes;
    this.#held[slot] = 1;
    this.#heldCount++;
    this.#available[RingWord.FIRST_ENTRY + (this.#added & (this.plan.size - 1))] = slot;
    this.#added = (this.#added + 1) & INDEX_MASK;
  }

  /** Makes what was offered visible; whether the device wants to be kicked. */
  publish(): boolean {
    const before = this.#published;
    const now = this.#added;
    if (before === now) return false;
    Atomics.store(this.#available, RingWord.INDEX, now);
    this.#published = now;
    if (!this.#eventIdx) return (Atomics.load(this.#used, RingWord.FLAGS) & UsedFlag.NO_NOTIFY) === 0;
    const event = Atomics.load(this.#used, availableEventAt(this.plan.size));
    return ((now - event - 1) & INDEX_MASK) < ((now - before) & INDEX_MASK);
  }

  /** The next slot the device gave back, now the caller's (`usedBytes` tells of it); NOTHING_USED or RING_FAULT. */
  collect(): number {
    if (Atomics.load(this.#used, RingWord.INDEX) === this.#collected) return NOTHING_USED;
    const entry = this.#collected & (this.plan.size - 1);
    const at = UsedWord.FIRST_ELEMENT + (entry << UsedWord.WORDS_PER_ELEMENT_SHIFT);
    const slot = this.#usedWords[at]!;
    const bytes = this.#usedWords[at + UsedWord.LENGTH]!;
    if (slot >= this.plan.size || this.#held[slot] === 0) return RING_FAULT;
    if (bytes > (this.#writable ? this.plan.slotBytes : 0)) return RING_FAULT;
    this.#held[slot] = 0;
    this.#heldCount--;
    this.#collected = (this.#collected + 1) & INDEX_MASK;
    this.usedBytes = bytes;
    return slot;
  }

  /** The device need not signal. */
  interruptsOff(): void {
    if (!this.#eventIdx) Atomics.store(this.#available, RingWord.FLAGS, AvailableFlag.NO_INTERRUPT);
  }

  /** The device shall signal when `after` more slots than now are used; whether that is so already. */
  interruptsOn(after = 1): boolean {
    if (this.#eventIdx) {
      const event = (this.#collected + after - 1) & INDEX_MASK;
      Atomics.store(this.#available, usedEventAt(this.plan.size), event);
    } else Atomics.store(this.#available, RingWord.FLAGS, 0);
    const used = Atomics.load(this.#used, RingWord.INDEX);
    return ((used - this.#collected) & INDEX_MASK) >= after;
  }
}
