/**
 * split-driver.ts: the driver's side of a split ring, well-behaved and hostile.
 *
 * Theory
 *   The well-behaved half (add, publish, collect) lays buffers out in driver memory, keeps account of what the
 *   device holds, and objects when the device gives back anything else. The hostile half (write…, offer,
 *   setAvailableIndex) writes what it is told to, checks nothing and keeps no account.
 *   Decisions about notification are made by looking at every index in turn, not by the formula the device uses, so
 *   that a mistake there is not repeated here.
 *
 * Parties
 *   device   the object under test; may be on another thread.
 *
 * Invariants
 *   I1  a descriptor is in the free list or in exactly one outstanding chain.
 *
 * Limits  chains as long as there are free descriptors; memory as DriverMemory has it.
 * Spec    virtio 1.3, 2.7.
 */
import {
  AvailableFlag,
  availableEventAt,
  type Decoded,
  DescriptorFlag,
  descriptorAreaBytes,
  deviceAreaBytes,
  driverAreaBytes,
  RingWord,
  SplitAlignment,
  UsedFlag,
  UsedWord,
  usedEventAt,
  VirtqDescriptor,
} from '@virtnet/wire';
import { type LaidOut, layOut, takeBack } from './driver-buffers.js';
import type { DriverMemory } from './driver-memory.js';
import type { AddOptions, ChainSpec, RingDriver, UsedChain } from './ring-driver.js';

export type Descriptor = Decoded<typeof VirtqDescriptor>;

export interface SplitDriverOptions {
  readonly memory: DriverMemory;
  readonly queueSize: number;
  readonly eventIdx?: boolean;
  /** Both indices start here, as after a resume. */
  readonly startIndex?: number;
}

interface Outstanding extends LaidOut {
  readonly descriptors: readonly number[];
}

const INDEX_MASK = 0xffff;
const NOWHERE = 0xffff_ffff_0000_0000n;

export class SplitDriver implements RingDriver {
  readonly memory: DriverMemory;
  readonly queueSize: number;
  readonly eventIdx: boolean;
  readonly descriptorAddress: bigint;
  readonly driverAddress: bigint;
  readonly deviceAddress: bigint;

  readonly #available: Uint16Array;
  readonly #used: Uint16Array;
  readonly #usedElements: Uint32Array;
  readonly #free: number[];
  readonly #outstanding = new Map<number, Outstanding>();
  #added: number;
  #published: number;
  #collected: number;

  constructor(options: SplitDriverOptions) {
    const { memory, queueSize, startIndex = 0 } = options;
    this.memory = memory;
    this.queueSize = queueSize;
    this.eventIdx = options.eventIdx ?? false;
    this.descriptorAddress = memory.allocate(descriptorAreaBytes(queueSize), SplitAlignment.DESCRIPTOR);
    this.driverAddress = memory.allocate(driverAreaBytes(queueSize), SplitAlignment.DRIVER);
    this.deviceAddress = memory.allocate(deviceAreaBytes(queueSize), SplitAlignment.DEVICE);
    const words = (iova: bigint, bytes: number) =>
      new Uint16Array(memory.bytes.buffer, memory.bytes.byteOffset + memory.at(iova), bytes >>> 1);
    this.#available = words(this.driverAddress, driverAreaBytes(queueSize));
    this.#used = words(this.deviceAddress, deviceAreaBytes(queueSize));
    this.#usedElements = new Uint32Array(
      memory.bytes.buffer,
      memory.bytes.byteOffset + memory.at(this.deviceAddress),
      deviceAreaBytes(queueSize) >>> 2,
    );
    this.#free = Array.from({ length: queueSize }, (_, i) => queueSize - 1 - i);
    this.#added = startIndex;
    this.#published = startIndex;
    this.#collected = startIndex;
    Atomics.store(this.#available, RingWord.INDEX, startIndex);
    Atomics.store(this.#used, RingWord.INDEX, startIndex);
  }

  /** Chains the device holds. */
  get outstanding(): number {
    return this.#outstanding.size;
  }

  add(chain: ChainSpec, options: AddOptions = {}): number {
    const { memory } = this;
    const total = (chain.readable?.length ?? 0) + (chain.writable?.length ?? 0);
    const direct = Math.min(options.indirectFrom ?? total, total);
    const needed = direct < total ? direct + 1 : direct;
    if (needed === 0 || needed > this.#free.length) return -1;

    const laidOut = layOut(memory, chain);
    const readable = [...laidOut.readable];
    const { writable } = laidOut;
    const described: Descriptor[] = [...readable, ...writable].map(({ iova, sizeBytes }, i) => ({
      address: iova,
      lengthBytes: sizeBytes,
      flags: i < readable.length ? 0 : DescriptorFlag.WRITE,
      next: 0,
    }));

    if (direct < total) {
      const entries = described.splice(direct);
      const table = memory.allocate(entries.length * VirtqDescriptor.sizeBytes);
      entries.forEach((entry, i) => {
        const last = i === entries.length - 1;
        const flags = last ? entry.flags : entry.flags | DescriptorFlag.NEXT;
        this.writeEntry(table, i, { ...entry, flags, next: last ? 0 : i + 1 });
      });
      const lengthBytes = entries.length * VirtqDescriptor.sizeBytes;
      described.push({ address: table, lengthBytes, flags: DescriptorFlag.INDIRECT, next: 0 });
      readable.push({
        iova: table,
        sizeBytes: lengthBytes,
        content: memory.slice(table, lengthBytes).slice(),
      });
    }
    const descriptors = described.map(() => this.#free.pop()!);
    described.forEach((entry, i) => {
      const last = i === described.length - 1;
      const flags = last ? entry.flags : entry.flags | DescriptorFlag.NEXT;
      this.writeDescriptor(descriptors[i]!, { ...entry, flags, next: last ? 0 : descriptors[i + 1]! });
    });
    const head = descriptors[0]!;
    this.#outstanding.set(head, { descriptors, readable, writable });
    this.offer(head);
    return head;
  }

  addOutside(): number {
    const head = this.#free.pop();
    if (head === undefined) return -1;
    this.writeDescriptor(head, { address: NOWHERE, lengthBytes: 64, flags: DescriptorFlag.WRITE, next: 0 });
    this.#outstanding.set(head, { descriptors: [head], readable: [], writable: [] });
    this.offer(head);
    return head;
  }

  publish(): boolean {
    const before = this.#published;
    Atomics.store(this.#available, RingWord.INDEX, this.#added);
    this.#published = this.#added;
    if (!this.eventIdx) {
      return before !== this.#added && (Atomics.load(this.#used, RingWord.FLAGS) & UsedFlag.NO_NOTIFY) === 0;
    }
    const event = Atomics.load(this.#used, availableEventAt(this.queueSize));
    return passes(event, before, this.#added);
  }

  collect(): UsedChain[] {
    const chains: UsedChain[] = [];
    const end = Atomics.load(this.#used, RingWord.INDEX);
    while (this.#collected !== end) {
      const slot = this.#collected % this.queueSize;
      const at = UsedWord.FIRST_ELEMENT + (slot << UsedWord.WORDS_PER_ELEMENT_SHIFT);
      chains.push(this.#take(this.#usedElements[at]!, this.#usedElements[at + UsedWord.LENGTH]!));
      this.#collected = (this.#collected + 1) & INDEX_MASK;
    }
    return chains;
  }

  wantInterrupts(wanted: boolean): void {
    if (!this.eventIdx) {
      Atomics.store(this.#available, RingWord.FLAGS, wanted ? 0 : AvailableFlag.NO_INTERRUPT);
    } else this.setUsedEvent(wanted ? this.#collected : (this.#collected - 1) & INDEX_MASK);
  }

  /** Whether a driver that follows the rules expects an interrupt when the used index goes from before to after. */
  expectsInterrupt(before: number, after: number): boolean {
    if (this.eventIdx) return passes(this.#available[usedEventAt(this.queueSize)]!, before, after);
    return before !== after && this.#available[RingWord.FLAGS] === 0;
  }

  /** Hostile from here on: raw stores, no account kept. */

  writeDescriptor(index: number, descriptor: Descriptor): void {
    this.writeEntry(this.descriptorAddress, index, descriptor);
  }

  /** Writes entry `index` of a table anywhere in memory. */
  writeEntry(table: bigint, index: number, descriptor: Descriptor): void {
    const offset = this.memory.at(table) + index * VirtqDescriptor.sizeBytes;
    VirtqDescriptor.encode(this.memory.view, offset, descriptor);
  }

  /** Puts a head into the available ring, whatever it is. */
  offer(head: number): void {
    this.#available[RingWord.FIRST_ENTRY + (this.#added % this.queueSize)] = head;
    this.#added = (this.#added + 1) & INDEX_MASK;
  }

  setAvailableIndex(index: number): void {
    this.#added = index & INDEX_MASK;
    this.#published = this.#added;
    Atomics.store(this.#available, RingWord.INDEX, this.#added);
  }

  setAvailableFlags(flags: number): void {
    Atomics.store(this.#available, RingWord.FLAGS, flags);
  }

  setUsedEvent(index: number): void {
    Atomics.store(this.#available, usedEventAt(this.queueSize), index & INDEX_MASK);
  }

  /** Whether the next chain to come back has come back. */
  get hasUsed(): boolean {
    return this.usedIndex !== this.#collected;
  }

  get availableIndex(): number {
    return Atomics.load(this.#available, RingWord.INDEX);
  }
  get usedIndex(): number {
    return Atomics.load(this.#used, RingWord.INDEX);
  }
  get usedFlags(): number {
    return Atomics.load(this.#used, RingWord.FLAGS);
  }
  get availableEvent(): number {
    return Atomics.load(this.#used, availableEventAt(this.queueSize));
  }

  #take(id: number, lengthBytes: number): UsedChain {
    const chain = this.#outstanding.get(id);
    if (chain === undefined) throw new Error(`the device gave back head ${id}, which it does not have`);
    this.#outstanding.delete(id);
    this.#free.push(...chain.descriptors);
    return takeBack(this.memory, id, lengthBytes, chain);
  }
}

/** Whether entry `event` is among those from `before` up to, and without, `after`. */
function passes(event: number, before: number, after: number): boolean {
  for (let index = before; index !== after; index = (index + 1) & INDEX_MASK) {
    if (index === event) return true;
  }
  return false;
}
