/**
 * switched-frame.ts: the frame a switch is deciding on, wherever it lies.
 *
 * Theory
 *   A frame comes out of a transmit ring's current chain, and then stays there until it is copied, once, into the chain
 *   of whoever receives it; or it was made or read by us (a segment, a frame from the uplink) and lies in private
 *   memory; or it is plain (port.ts of engine-virtio-net) and lies in one piece of the sender's. Header and first bytes are read once into private memory: what decided is what is delivered under.
 *
 * Invariants
 *   I1  one object serves all frames of a switch: nothing is allocated per frame.
 *   I2  `head` holds zeros behind the end of a short frame.
 */
import { OFFLOAD_HEAD_BYTES, vlanOf } from '@virtnet/engine-virtio-net';
import {
  copyBetween,
  copyChain,
  type DeviceRing,
  type MemoryPiece,
  PrivateMemory,
  readChain,
  writeChain,
} from '@virtnet/engine-virtqueue';
import { NetHeader } from '@virtnet/wire';

const NOTHING = new PrivateMemory(0);
const HEADER_BYTES = NetHeader.sizeBytes;
/** Both addresses, the type, and of a tagged frame the tag. */
const ALIKE_BYTES = 16;

export class SwitchedFrame {
  readonly #headerWords = new Int32Array(HEADER_BYTES / 4);
  /** struct virtio_net_hdr_v1. */
  readonly header = new Uint8Array(this.#headerWords.buffer);
  /** The first OFFLOAD_HEAD_BYTES bytes. */
  readonly head: Uint8Array;
  /** Bytes, header not counted. */
  bytes = 0;
  /** VLAN id, or UNTAGGED. */
  vlan = 0;
  /** Where the frame is: in this ring's current chain, or, when it is null, in one piece of memory. */
  ring: DeviceRing | null = null;
  piece: MemoryPiece = NOTHING.piece;
  /** It asks for nothing, and lies in `piece`. */
  plain = false;
  /** Where it begins there. */
  offset = 0;
  readonly #headMemory = new PrivateMemory(OFFLOAD_HEAD_BYTES);

  constructor() {
    this.head = this.#headMemory.u8;
  }

  /** The frame in the readable segments of `ring`'s current chain, behind `offset` bytes of the driver's header. */
  fromRing(ring: DeviceRing, header: Uint8Array, offset: number): void {
    this.ring = ring;
    this.plain = false;
    this.offset = offset;
    this.bytes = ring.readableBytes - offset;
    for (let i = 0; i < HEADER_BYTES; i++) this.header[i] = header[i]!;
    this.#known(readChain(ring, offset, this.#headMemory, 0, OFFLOAD_HEAD_BYTES));
  }

  /** `bytes` of private memory from `offset` on. `header` null: it asks for nothing. */
  fromMemory(memory: PrivateMemory, offset: number, bytes: number, header: Uint8Array | null): void {
    this.fromPiece(memory.piece, offset, bytes);
    this.plain = false;
    if (header !== null) for (let i = 0; i < HEADER_BYTES; i++) this.header[i] = header[i]!;
  }

  /** A plain frame: `bytes` bytes of a guest's memory from `offset` on. */
  fromPiece(piece: MemoryPiece, offset: number, bytes: number): void {
    this.ring = null;
    this.plain = true;
    this.piece = piece;
    this.offset = offset;
    this.bytes = bytes;
    const words = this.#headerWords;
    for (let i = 0; i < words.length; i++) words[i] = 0;
    const known = Math.min(bytes, OFFLOAD_HEAD_BYTES);
    copyBetween(piece, offset, this.#headMemory.piece, 0, known);
    this.#known(known);
  }

  /**
   * Frame `index` of those in pieces that `ring` has laid out (DeviceRing.scanFrames): what is known of it is its first
   * piece behind the header. False when that has not even addresses, type and tag.
   */
  fromPieces(ring: DeviceRing, index: number, frameOffset: number): boolean {
    if (!this.#locate(ring, index, frameOffset)) return false;
    const { piece, offset, bytes } = this;
    this.fromPiece(piece, offset, bytes);
    return true;
  }

  /** Sets piece, offset and bytes to the first piece of frame `index`, of ALIKE_BYTES at least. */
  #locate(ring: DeviceRing, index: number, frameOffset: number): boolean {
    const { segmentLength, segmentOffset, segmentPiece, plain, memory } = ring;
    const first = plain.firstSegment(index);
    const end = first + plain.segmentCount(index);
    let skip = frameOffset;
    let segment = first;
    for (; segment < end && skip >= segmentLength[segment]!; segment++) skip -= segmentLength[segment]!;
    if (segment === end) return false;
    this.piece = memory.pieces[segmentPiece[segment]!]!;
    this.offset = segmentOffset[segment]! + skip;
    this.bytes = segmentLength[segment]! - skip;
    return this.bytes >= ALIKE_BYTES;
  }

  /** alike() for frames in pieces. */
  alikeInPieces(ring: DeviceRing, first: number, most: number, frameOffset: number): number {
    for (let count = 1; count < most; count++) {
      if (!this.#locate(ring, first + count, frameOffset)) return count;
      if (!this.#beginsAlike(this.piece.view, this.offset)) return count;
    }
    return most;
  }

  /** Whether what is there has this frame's addresses, type and tag. */
  #beginsAlike(view: DataView, at: number): boolean {
    const { view: head } = this.#headMemory.piece;
    return (
      view.getInt32(at, true) === head.getInt32(0, true) &&
      view.getInt32((at + 4) | 0, true) === head.getInt32(4, true) &&
      view.getInt32((at + 8) | 0, true) === head.getInt32(8, true) &&
      view.getInt32((at + 12) | 0, true) === head.getInt32(12, true)
    );
  }

  /**
   * How many of the plain chains of `ring` from `first` on begin as this frame does, which is that of `first`: the same
   * addresses, type and tag, so that they are switched alike. At most `most`, at least 1.
   */
  alike(ring: DeviceRing, first: number, most: number, frameOffset: number): number {
    if (this.bytes < ALIKE_BYTES) return 1;
    const { offsets, lengths, pieces: places } = ring.plain;
    const { pieces } = ring.memory;
    const { view: head } = this.#headMemory.piece;
    const word0 = head.getInt32(0, true);
    const word1 = head.getInt32(4, true);
    const word2 = head.getInt32(8, true);
    const word3 = head.getInt32(12, true);
    for (let count = 1; count < most; count++) {
      const chain = (first + count) | 0;
      if (lengths[chain]! - frameOffset < ALIKE_BYTES) return count;
      const { view } = pieces[places[chain]!]!;
      const at = (offsets[chain]! + frameOffset) | 0;
      if (
        view.getInt32(at, true) !== word0 ||
        view.getInt32((at + 4) | 0, true) !== word1 ||
        view.getInt32((at + 8) | 0, true) !== word2 ||
        view.getInt32((at + 12) | 0, true) !== word3
      )
        return count;
    }
    return most;
  }

  /** The frame's first bytes, as many as `target` holds or there are; how many. */
  read(target: PrivateMemory): number {
    const length = Math.min(this.bytes, target.u8.length);
    if (this.ring !== null) return readChain(this.ring, this.offset, target, 0, length);
    copyBetween(this.piece, this.offset, target.piece, 0, length);
    return length;
  }

  /** Copies the frame into the writable segments of `to`'s current chain, `at` bytes into them. */
  copyTo(to: DeviceRing, at: number): number {
    if (this.ring !== null) return copyChain(this.ring, this.offset, to, at, this.bytes);
    return writeChain(this, this.offset, to, at, this.bytes);
  }

  /** For a segmenter: bytes of the frame's memory, from its beginning. */
  gather(offset: number, target: Uint8Array, targetOffset: number, length: number): number {
    if (this.ring !== null) return this.ring.gather(this.offset + offset, target, targetOffset, length);
    const count = Math.max(0, Math.min(length, this.bytes - offset));
    const from = this.offset + offset;
    target.set(this.piece.u8.subarray(from, from + count), targetOffset);
    return count;
  }

  #known(bytes: number): void {
    for (let i = bytes; i < OFFLOAD_HEAD_BYTES; i++) this.head[i] = 0;
    this.vlan = vlanOf(this.head);
  }
}
