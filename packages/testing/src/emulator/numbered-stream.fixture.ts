/**
 * numbered-stream.fixture.ts: as many numbered frames from one guest to another as they and what is between them manage,
 * through rings whose buffers are laid out once. The guests' own rings are not to be used beside it.
 *
 * The upper byte of a number is that of its stream.
 */
import {
  availableEventAt,
  DescriptorFlag,
  NetHeader,
  RingWord,
  UsedWord,
  VirtqDescriptor,
  viewOf,
} from '@virtnet/wire';
import type { SplitDriver } from '../split-driver.js';
import type { Guest } from './guest.fixture.js';
import { GUEST_ADDRESS, HOST_ADDRESS, numberOf, PORT } from './network.fixture.js';
import { IPV4_UDP_HEADER_BYTES, udpFrame } from './udp-frame.fixture.js';

const PAYLOAD_BYTES = 64;
const STREAM_SHIFT = 24;
const COUNT_MASK = 2 ** STREAM_SHIFT - 1;
const HEADER_BYTES = NetHeader.sizeBytes;
const NUMBER_AT = HEADER_BYTES + 14 + IPV4_UDP_HEADER_BYTES;
const FRAME_BYTES = NUMBER_AT + PAYLOAD_BYTES;
const SLOT_BYTES = 2048;
const INDEX_MASK = 0xffff;
/** Frames under way at once: fewer than a ring or the representor's queue hold. */
const WINDOW = 120;

const macOf = ({ guest }: StreamEnd) =>
  Uint8Array.from(guest.device.mac.split(':'), (byte) => Number.parseInt(byte, 16));

/** A ring with EVENT_IDX, of which every descriptor has a buffer for good. The device gives them back in order. */
class SlotRing {
  readonly #guest: Guest;
  readonly #queue: number;
  readonly #size: number;
  readonly #bytes: Uint8Array;
  readonly #slotsAt: number;
  readonly #available: Uint16Array;
  readonly #used: Uint16Array;
  readonly #usedWords: Uint32Array;
  #offered = 0;
  #published = 0;
  #collected = 0;

  constructor(guest: Guest, queue: number, flags: number, lengthBytes: number) {
    const ring: SplitDriver = guest.driver.ring(queue);
    const { memory, queueSize } = ring;
    this.#guest = guest;
    this.#queue = queue;
    this.#size = queueSize;
    this.#bytes = memory.bytes;
    const slots = memory.allocate(queueSize * SLOT_BYTES);
    this.#slotsAt = memory.at(slots);
    const { buffer, byteOffset } = memory.bytes;
    this.#available = new Uint16Array(buffer, byteOffset + memory.at(ring.driverAddress));
    this.#used = new Uint16Array(buffer, byteOffset + memory.at(ring.deviceAddress));
    this.#usedWords = new Uint32Array(this.#used.buffer, this.#used.byteOffset);
    for (let slot = 0; slot < queueSize; slot++) {
      const address = slots + BigInt(slot * SLOT_BYTES);
      const at = memory.at(ring.descriptorAddress) + slot * VirtqDescriptor.sizeBytes;
      VirtqDescriptor.encode(viewOf(memory.bytes), at, { address, lengthBytes, flags, next: 0 });
    }
  }

  get size(): number {
    return this.#size;
  }

  /** Slots the device has. */
  get held(): number {
    return this.#offered - this.#collected;
  }

  slot(index: number): Uint8Array {
    const at = this.#slotsAt + (index % this.#size) * SLOT_BYTES;
    return this.#bytes.subarray(at, at + SLOT_BYTES);
  }

  /** The slot that is offered next; not while the device has all. */
  get next(): Uint8Array {
    return this.slot(this.#offered);
  }

  offer(): void {
    const slot = this.#offered % this.#size;
    this.#available[RingWord.FIRST_ENTRY + slot] = slot;
    this.#offered++;
  }

  /** Makes what was offered visible, and notifies the device if it asked for that. */
  async publish(): Promise<void> {
    const [before, now] = [this.#published, this.#offered];
    if (before === now) return;
    this.#published = now;
    Atomics.store(this.#available, RingWord.INDEX, now & INDEX_MASK);
    const event = Atomics.load(this.#used, availableEventAt(this.#size));
    if (((now - event - 1) & INDEX_MASK) < now - before) await this.#guest.notify(this.#queue, now);
  }

  /** The next slot that the device gave back; null when there is none. */
  collect(): Uint8Array | null {
    if (Atomics.load(this.#used, RingWord.INDEX) === (this.#collected & INDEX_MASK)) return null;
    const entry = this.#collected % this.#size;
    const slot = this.#usedWords[UsedWord.FIRST_ELEMENT + (entry << UsedWord.WORDS_PER_ELEMENT_SHIFT)]!;
    if (slot !== entry) throw new Error(`queue ${this.#queue}: ${slot} was given back before ${entry}`);
    this.#collected++;
    return this.slot(slot);
  }
}

/** A guest as the end of streams, on its first pair. */
export class StreamEnd {
  readonly guest: Guest;
  readonly #transmit: SlotRing;
  readonly #receive: SlotRing;
  /** By the number of their stream. */
  readonly #arrivals = new Map<number, number[]>();

  /** Its rings are as they began. */
  constructor(guest: Guest) {
    this.guest = guest;
    this.#transmit = new SlotRing(guest, 1, 0, FRAME_BYTES);
    this.#receive = new SlotRing(guest, 0, DescriptorFlag.WRITE, SLOT_BYTES);
  }

  /** Frames that it can send now. */
  get room(): number {
    return this.#transmit.size - this.#transmit.held;
  }

  arrivals(stream: number): number[] {
    const known = this.#arrivals.get(stream) ?? [];
    this.#arrivals.set(stream, known);
    return known;
  }

  /** Takes back what the device has done. */
  async take(): Promise<void> {
    for (let slot = this.#receive.collect(); slot !== null; slot = this.#receive.collect()) {
      const number = numberOf(slot.subarray(HEADER_BYTES));
      if (number >= 0) this.arrivals(number >>> STREAM_SHIFT).push(number & COUNT_MASK);
    }
    while (this.#receive.held < this.#receive.size) this.#receive.offer();
    await this.#receive.publish();
    while (this.#transmit.collect() !== null) {
      // it was sent
    }
  }

  add(frame: Uint8Array): void {
    this.#transmit.next.set(frame);
    this.#transmit.offer();
  }

  send(): Promise<void> {
    return this.#transmit.publish();
  }
}

export class NumberedStream {
  readonly #id: number;
  readonly #from: StreamEnd;
  readonly #frame = new Uint8Array(FRAME_BYTES);
  /** Numbers that arrived, in order. */
  readonly arrived: readonly number[];
  #sent = 0;

  constructor(id: number, from: StreamEnd, to: StreamEnd) {
    this.#id = id;
    this.#from = from;
    this.arrived = to.arrivals(id);
    const frame = udpFrame({
      ...{ destination: macOf(to), source: macOf(from), payload: new Uint8Array(PAYLOAD_BYTES) },
      ...{ from: GUEST_ADDRESS, to: HOST_ADDRESS, fromPort: PORT, toPort: PORT },
    });
    this.#frame.set(frame, HEADER_BYTES);
  }

  get sent(): number {
    return this.#sent;
  }

  /** Sends as many frames as the window has room for. */
  send(): Promise<void> {
    const room = Math.min(WINDOW - (this.#sent - this.arrived.length), this.#from.room);
    for (let i = 0; i < room; i++) {
      viewOf(this.#frame).setUint32(NUMBER_AT, (this.#id << STREAM_SHIFT) | this.#sent++);
      this.#from.add(this.#frame);
    }
    return this.#from.send();
  }

  /** What is wrong with numbers that should be 0, 1, 2, ... */
  judge() {
    const { arrived } = this;
    const distinct = new Set(arrived);
    const disordered = arrived.filter((number, i) => i > 0 && number < arrived[i - 1]!).length;
    return { lost: this.#sent - distinct.size, repeated: arrived.length - distinct.size, disordered };
  }
}
