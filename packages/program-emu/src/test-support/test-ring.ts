/** test-ring.ts: memory and one split ring from the driver's side, as small as the tests of this package need it. */
import type { MemoryRegion } from '@virtnet/engine-virtqueue';
import { type Arena, close, memfdCreate } from '@virtnet/host-linux';
import {
  AvailableFlag,
  DescriptorFlag,
  descriptorAreaBytes,
  deviceAreaBytes,
  driverAreaBytes,
  RingWord,
  UsedFlag,
  UsedWord,
  usedEventAt,
  VirtqDescriptor,
} from '@virtnet/wire';

const PAGE = 4096;

/** Guest memory: plain, or a memfd mapped in an arena so that the kernel can reach it. */
export class TestMemory {
  readonly iova: bigint;
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly region: MemoryRegion;
  /** -1 for plain memory. */
  readonly fd: number;
  /** In the arena; 0 for plain memory. */
  readonly arenaOffset: number;
  readonly #arena: Arena | null;
  #used = 0;

  constructor(sizeBytes: number, { arena = null, iova = 0x10_0000n }: TestMemoryOptions = {}) {
    this.iova = iova;
    this.#arena = arena;
    this.fd = arena === null ? -1 : memfdCreate('test-memory', sizeBytes);
    this.arenaOffset = arena === null ? 0 : arena.map(this.fd, 0, sizeBytes, { writable: true });
    const buffer = arena === null ? new ArrayBuffer(sizeBytes) : arena.buffer;
    const address = Number(arena?.base ?? 0x7f00_0000_0000n) + this.arenaOffset;
    this.bytes = new Uint8Array(buffer, this.arenaOffset, sizeBytes);
    this.view = new DataView(buffer, this.arenaOffset, sizeBytes);
    this.region = { iova, sizeBytes, buffer, byteOffset: this.arenaOffset, address, writable: true };
  }

  get sizeBytes(): number {
    return this.bytes.length;
  }

  /** A zeroed block at a page of its own; blocks are never given back. */
  allocate(sizeBytes: number): bigint {
    const at = this.#used;
    this.#used += Math.ceil(sizeBytes / PAGE) * PAGE;
    if (this.#used > this.sizeBytes) throw new RangeError('test memory is full');
    return this.iova + BigInt(at);
  }

  at(iova: bigint): number {
    return Number(iova - this.iova);
  }

  slice(iova: bigint, lengthBytes: number): Uint8Array {
    return this.bytes.subarray(this.at(iova), this.at(iova) + lengthBytes);
  }

  close(): void {
    if (this.#arena === null) return;
    this.#arena.unmap(this.arenaOffset, this.sizeBytes);
    close(this.fd);
  }
}

export interface TestMemoryOptions {
  readonly arena?: Arena | null;
  readonly iova?: bigint;
}

/** A chain the device gave back. */
export interface GivenBack {
  readonly head: number;
  readonly lengthBytes: number;
  /** Its writable bytes, joined. */
  readonly written: Uint8Array;
}

/** Chains are laid out once each, in descriptors and blocks that are not used again before they were given back. */
export class TestRing {
  readonly memory: TestMemory;
  readonly size: number;
  readonly descriptorAddress: bigint;
  readonly driverAddress: bigint;
  readonly deviceAddress: bigint;
  readonly #bufferBytes: number;
  readonly #buffers: bigint;
  readonly #available: Uint16Array;
  readonly #used: Uint16Array;
  readonly #usedElements: Uint32Array;
  readonly #chains = new Map<number, { readonly from: number; readonly count: number }>();
  #next = 0;
  #added = 0;
  #collected = 0;

  /** `bufferBytes`: most a descriptor can name. */
  constructor(memory: TestMemory, size: number, bufferBytes = 2048) {
    this.memory = memory;
    this.size = size;
    this.descriptorAddress = memory.allocate(descriptorAreaBytes(size));
    this.driverAddress = memory.allocate(driverAreaBytes(size));
    this.deviceAddress = memory.allocate(deviceAreaBytes(size));
    this.#bufferBytes = bufferBytes;
    this.#buffers = memory.allocate(size * bufferBytes);
    const { buffer, byteOffset } = memory.bytes;
    this.#available = new Uint16Array(
      buffer,
      byteOffset + memory.at(this.driverAddress),
      driverAreaBytes(size) / 2,
    );
    const usedAt = byteOffset + memory.at(this.deviceAddress);
    this.#used = new Uint16Array(buffer, usedAt, deviceAreaBytes(size) / 2);
    this.#usedElements = new Uint32Array(buffer, usedAt, Math.floor(deviceAreaBytes(size) / 4));
  }

  get addresses() {
    const { size: queueSize, descriptorAddress, driverAddress, deviceAddress } = this;
    return { queueSize, descriptorAddress, driverAddress, deviceAddress };
  }

  /** Puts a chain into the ring, not yet visible; its head. */
  add(readable: readonly Uint8Array[], writable: readonly number[] = []): number {
    const parts = [...readable, ...writable];
    const head = this.#next;
    for (const [i, part] of parts.entries()) {
      const index = (head + i) % this.size;
      const isRead = typeof part !== 'number';
      const address = this.#buffers + BigInt(index * this.#bufferBytes);
      if (isRead) this.memory.slice(address, part.length).set(part);
      this.writeDescriptor(index, {
        address,
        lengthBytes: isRead ? part.length : part,
        flags: (isRead ? 0 : DescriptorFlag.WRITE) | (i < parts.length - 1 ? DescriptorFlag.NEXT : 0),
        next: (index + 1) % this.size,
      });
    }
    this.#next = (head + parts.length) % this.size;
    this.#chains.set(head, { from: readable.length, count: writable.length });
    this.offer(head);
    return head;
  }

  /** Raw: any bytes as a descriptor. */
  writeDescriptor(index: number, descriptor: Parameters<typeof VirtqDescriptor.encode>[2]): void {
    const at = this.memory.at(this.descriptorAddress) + index * VirtqDescriptor.sizeBytes;
    VirtqDescriptor.encode(this.memory.view, at, descriptor);
  }

  /** Raw: any number as a head. */
  offer(head: number): void {
    this.#available[RingWord.FIRST_ENTRY + (this.#added % this.size)] = head;
    this.#added = (this.#added + 1) & 0xffff;
  }

  /** Makes what was added visible; whether the device asked for a kick. Without EVENT_IDX. */
  publish(): boolean {
    Atomics.store(this.#available, RingWord.INDEX, this.#added);
    return this.wantsKick;
  }

  get wantsKick(): boolean {
    return (Atomics.load(this.#used, RingWord.FLAGS) & UsedFlag.NO_NOTIFY) === 0;
  }

  /** Whether the device shall interrupt for every chain, or for none. Without EVENT_IDX. */
  interrupts(wanted: boolean): void {
    Atomics.store(this.#available, RingWord.FLAGS, wanted ? 0 : AvailableFlag.NO_INTERRUPT);
  }

  /** With EVENT_IDX: interrupt when the `chains`-th chain from now is given back. */
  interruptAfter(chains: number): void {
    Atomics.store(this.#available, usedEventAt(this.size), (this.#collected + chains - 1) & 0xffff);
  }

  get usedIndex(): number {
    return Atomics.load(this.#used, RingWord.INDEX);
  }

  collect(): GivenBack[] {
    const given: GivenBack[] = [];
    for (; this.#collected !== this.usedIndex; this.#collected = (this.#collected + 1) & 0xffff) {
      const at = UsedWord.FIRST_ELEMENT + ((this.#collected % this.size) << UsedWord.WORDS_PER_ELEMENT_SHIFT);
      const head = this.#usedElements[at]!;
      const chain = this.#chains.get(head);
      if (chain === undefined) throw new Error(`head ${head} was not the device's to give back`);
      this.#chains.delete(head);
      given.push({
        head,
        lengthBytes: this.#usedElements[at + UsedWord.LENGTH]!,
        written: this.#written(head, chain),
      });
    }
    return given;
  }

  #written(head: number, { from, count }: { from: number; count: number }): Uint8Array {
    const bytes: number[] = [];
    for (let i = from; i < from + count; i++) {
      const index = (head + i) % this.size;
      const at = this.memory.at(this.descriptorAddress) + index * VirtqDescriptor.sizeBytes;
      const { address, lengthBytes } = VirtqDescriptor.decode(this.memory.view, at);
      bytes.push(...this.memory.slice(address, lengthBytes));
    }
    return Uint8Array.from(bytes);
  }
}
