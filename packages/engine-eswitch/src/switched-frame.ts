/**
 * switched-frame.ts: the frame a switch is deciding on, wherever it lies.
 *
 * Theory
 *   A frame comes out of a transmit ring's current chain, and then stays there until it is copied, once, into the chain
 *   of whoever receives it; or it was made or read by us (a segment, a frame from the uplink) and lies in private
 *   memory. Header and first bytes are read once into private memory: what decided is what is delivered under.
 *
 * Invariants
 *   I1  one object serves all frames of a switch: nothing is allocated per frame.
 *   I2  `head` holds zeros behind the end of a short frame.
 */
import { OFFLOAD_HEAD_BYTES, vlanOf } from '@virtnet/engine-virtio-net';
import { copyChain, type DeviceRing, PrivateMemory, readChain, writeChain } from '@virtnet/engine-virtqueue';
import { NetHeader } from '@virtnet/wire';

const NOTHING = new PrivateMemory(0);
const HEADER_BYTES = NetHeader.sizeBytes;

export class SwitchedFrame {
  /** struct virtio_net_hdr_v1. */
  readonly header = new Uint8Array(HEADER_BYTES);
  /** The first OFFLOAD_HEAD_BYTES bytes. */
  readonly head: Uint8Array;
  /** Bytes, header not counted. */
  bytes = 0;
  /** VLAN id, or UNTAGGED. */
  vlan = 0;
  /** Where the frame is: in this ring's current chain, or, when it is null, in private memory. */
  ring: DeviceRing | null = null;
  /** Where it begins there. */
  offset = 0;
  #memory = NOTHING;
  readonly #headMemory = new PrivateMemory(OFFLOAD_HEAD_BYTES);

  constructor() {
    this.head = this.#headMemory.u8;
  }

  /** The frame in the readable segments of `ring`'s current chain, behind `offset` bytes of the driver's header. */
  fromRing(ring: DeviceRing, header: Uint8Array, offset: number): void {
    this.ring = ring;
    this.offset = offset;
    this.bytes = ring.readableBytes - offset;
    for (let i = 0; i < HEADER_BYTES; i++) this.header[i] = header[i]!;
    this.#known(readChain(ring, offset, this.#headMemory, 0, OFFLOAD_HEAD_BYTES));
  }

  /** `bytes` of private memory from `offset` on. `header` null: it asks for nothing. */
  fromMemory(memory: PrivateMemory, offset: number, bytes: number, header: Uint8Array | null): void {
    this.ring = null;
    this.#memory = memory;
    this.offset = offset;
    this.bytes = bytes;
    for (let i = 0; i < HEADER_BYTES; i++) this.header[i] = header === null ? 0 : header[i]!;
    const known = Math.min(bytes, OFFLOAD_HEAD_BYTES);
    for (let i = 0; i < known; i++) this.head[i] = memory.u8[offset + i]!;
    this.#known(known);
  }

  /** Copies the frame into the writable segments of `to`'s current chain, `at` bytes into them. */
  copyTo(to: DeviceRing, at: number): number {
    if (this.ring !== null) return copyChain(this.ring, this.offset, to, at, this.bytes);
    return writeChain(this.#memory, this.offset, to, at, this.bytes);
  }

  /** For a segmenter: bytes of the frame's memory, from its beginning. */
  gather(offset: number, target: Uint8Array, targetOffset: number, length: number): number {
    if (this.ring !== null) return this.ring.gather(this.offset + offset, target, targetOffset, length);
    const count = Math.max(0, Math.min(length, this.bytes - offset));
    const from = this.offset + offset;
    target.set(this.#memory.u8.subarray(from, from + count), targetOffset);
    return count;
  }

  #known(bytes: number): void {
    for (let i = bytes; i < OFFLOAD_HEAD_BYTES; i++) this.head[i] = 0;
    this.vlan = vlanOf(this.head);
  }
}
