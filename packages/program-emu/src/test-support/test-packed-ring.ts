/** test-packed-ring.ts: one packed ring from the driver's side, as test-ring.ts has a split one. */
import {
  DescriptorFlag,
  PackedDescriptor,
  PackedEvent,
  PackedEventFlag,
  PackedFlag,
  PackedPosition,
  packedDescriptorAreaBytes,
} from '@virtnet/wire';
import type { TestMemory } from './test-ring.js';

const { AVAIL, USED } = PackedFlag;

/** A slot of the ring under a wrap counter. */
interface Place {
  readonly index: number;
  readonly wrap: boolean;
}

/** Chains are given back in the order in which they were added. */
export class TestPackedRing {
  readonly memory: TestMemory;
  readonly size: number;
  readonly descriptorAddress: bigint;
  readonly driverAddress: bigint;
  readonly deviceAddress: bigint;
  readonly #bufferBytes: number;
  readonly #buffers: bigint;
  /** What the device has: place and number of slots of each chain. */
  readonly #chains: { readonly place: Place; readonly slots: number }[] = [];
  /** Flags of descriptors that are not visible yet. */
  readonly #unpublished: { readonly at: number; readonly flags: number }[] = [];
  #next: Place = { index: 0, wrap: true };
  #collected: Place = { index: 0, wrap: true };

  constructor(memory: TestMemory, size: number, bufferBytes = 2048) {
    this.memory = memory;
    this.size = size;
    this.descriptorAddress = memory.allocate(packedDescriptorAreaBytes(size));
    this.driverAddress = memory.allocate(PackedEvent.sizeBytes);
    this.deviceAddress = memory.allocate(PackedEvent.sizeBytes);
    this.#bufferBytes = bufferBytes;
    this.#buffers = memory.allocate(size * bufferBytes);
  }

  get addresses() {
    const { size: queueSize, descriptorAddress, driverAddress, deviceAddress } = this;
    return { queueSize, descriptorAddress, driverAddress, deviceAddress };
  }

  /** Puts a chain into the ring, not yet visible. */
  add(readable: readonly Uint8Array[], writable: readonly number[] = []): void {
    const parts = [...readable, ...writable];
    this.#chains.push({ place: this.#next, slots: parts.length });
    for (const [i, part] of parts.entries()) {
      const { index, wrap } = this.#next;
      const isRead = typeof part !== 'number';
      const address = this.#buffers + BigInt(index * this.#bufferBytes);
      if (isRead) this.memory.slice(address, part.length).set(part);
      const at = this.#at(index);
      const lengthBytes = isRead ? part.length : part;
      const entry = { address, lengthBytes, id: index, flags: this.#flags(index) };
      PackedDescriptor.encode(this.memory.view, at, entry);
      const flags =
        (isRead ? 0 : DescriptorFlag.WRITE) |
        (i < parts.length - 1 ? DescriptorFlag.NEXT : 0) |
        (wrap ? AVAIL : USED);
      this.#unpublished.push({ at, flags });
      this.#next = this.#step(this.#next, 1);
    }
  }

  /** Makes what was added visible; whether the device asked for a kick. Without EVENT_IDX. */
  publish(): boolean {
    for (const { at, flags } of this.#unpublished.splice(0).reverse())
      this.memory.view.setUint16(at + PackedDescriptor.at.flags, flags, true);
    return this.wantsKick;
  }

  get wantsKick(): boolean {
    const at = this.memory.at(this.deviceAddress) + PackedEvent.at.flags;
    return this.memory.view.getUint16(at, true) !== PackedEventFlag.DISABLE;
  }

  /** How many chains the device gave back since the last call. */
  collect(): number {
    let count = 0;
    for (; this.#chains.length > 0; count++) {
      const { place, slots } = this.#chains[0]!;
      if ((this.#flags(place.index) & (AVAIL | USED)) !== (place.wrap ? AVAIL | USED : 0)) break;
      this.#chains.shift();
      this.#collected = this.#step(place, slots);
    }
    return count;
  }

  /** Whether the device shall interrupt for every chain, or for none. */
  interrupts(wanted: boolean): void {
    this.#setEvent(wanted ? PackedEventFlag.ENABLE : PackedEventFlag.DISABLE, this.#collected);
  }

  /** With EVENT_IDX: interrupt when the `chains`-th chain from now, of `slots` descriptors each, is given back. */
  interruptAfter(chains: number, slots: number): void {
    this.#setEvent(PackedEventFlag.DESCRIPTOR, this.#step(this.#collected, (chains - 1) * slots));
  }

  #setEvent(flags: number, { index, wrap }: Place): void {
    const position = index | (wrap ? PackedPosition.WRAP : 0);
    PackedEvent.encode(this.memory.view, this.memory.at(this.driverAddress), { position, flags });
  }

  #at(index: number): number {
    return this.memory.at(this.descriptorAddress) + index * PackedDescriptor.sizeBytes;
  }

  #flags(index: number): number {
    return this.memory.view.getUint16(this.#at(index) + PackedDescriptor.at.flags, true);
  }

  #step({ index, wrap }: Place, slots: number): Place {
    const next = index + slots;
    return next < this.size ? { index: next, wrap } : { index: next - this.size, wrap: !wrap };
  }
}
