/**
 * chain.ts: the current descriptor chains of a ring, as segments of process memory.
 *
 * Theory
 *   A ring walks its descriptors and adds each buffer here. Adding translates the address, cuts the buffer where its
 *   memory is cut, and stores what follows from it in preallocated arrays (ring-room.ts). Everything later (system
 *   calls, copies) works on these arrays only, never on descriptors: what was judged is what is used.
 *   Usually one chain is current. A frame that is spread over several (mergeable receive buffers) has several, whose
 *   writable segments follow each other; `chainEnds` remembers where each ends.
 *
 * Invariants
 *   I1  segments 0..readableCount-1 are readable, the next writableCount ones writable.
 *   I2  every segment lies inside one piece of the guest's memory; writable ones in memory the device may write.
 *   I3  descriptors without a byte become no segments, and count as such: walking them costs as much.
 *
 * Limits  segmentsMax segments and empty descriptors, at most CHAIN_SEGMENTS_MAX.
 */
import type { RingFaultCode } from './fault.js';
import type { GuestMemory, MemoryPiece } from './guest-memory.js';
import { COPY_LOOP_BYTES_MAX } from './limits.js';
import { PlainChains } from './plain-chains.js';
import { ChainRoom, type RingRooms } from './ring-room.js';

const WORD_BYTES = 4;

export class Chain {
  readonly memory: GuestMemory;
  /** Where the segments are in the memory of rooms (ring-room.ts); -1: elsewhere. */
  readonly segmentPlace: number;
  readonly #segmentPage: Int32Array;
  readonly segmentAddress: Float64Array;
  readonly segmentLength: Uint32Array;
  readonly segmentPiece: Int32Array;
  readonly segmentOffset: Int32Array;
  readonly plain: PlainChains;
  readableCount = 0;
  writableCount = 0;
  readableBytes = 0;
  writableBytes = 0;
  chainCount = 0;
  /** Descriptors without a byte in the current chains. */
  protected empties = 0;
  protected readonly segmentsMax: number;
  /** Writable bytes up to the end of each current chain; kept when there are several. */
  protected readonly chainEnds: Uint32Array;
  protected readonly room: ChainRoom;

  /** `answers`: where the ring's answers go (plain-chains.ts). */
  constructor(memory: GuestMemory, segmentsMax: number, answers: Uint32Array, rooms: RingRooms) {
    const room = rooms.chainRoom ?? new ChainRoom(segmentsMax);
    if (room.segmentsMax < segmentsMax) throw new RangeError(`room for ${room.segmentsMax} segments`);
    this.memory = memory;
    this.plain = new PlainChains(answers, rooms.plainRoom);
    this.segmentsMax = segmentsMax;
    this.room = room;
    this.segmentPlace = room.place;
    this.#segmentPage = room.segmentPage;
    this.segmentAddress = room.segmentAddress;
    this.segmentLength = room.segmentLength;
    this.segmentPiece = room.segmentPiece;
    this.segmentOffset = room.segmentOffset;
    this.chainEnds = room.chainEnds;
  }

  /** How many of the current chains the first `writtenBytes` writable bytes lie in; at least 1. */
  chainsFor(writtenBytes: number): number {
    const last = this.chainCount - 1;
    let chain = 0;
    if (last > 0) while (chain < last && this.chainEnds[chain]! < writtenBytes) chain++;
    return chain + 1;
  }

  protected clear(): void {
    this.readableCount = 0;
    this.writableCount = 0;
    this.readableBytes = 0;
    this.writableBytes = 0;
    this.chainCount = 0;
    this.empties = 0;
  }

  /** Only what was current before is current again: segments, bytes and empty descriptors. */
  protected restore(
    readableCount: number,
    readableBytes: number,
    writableCount: number,
    writableBytes: number,
    empties: number,
  ): void {
    this.readableCount = readableCount;
    this.readableBytes = readableBytes;
    this.writableCount = writableCount;
    this.writableBytes = writableBytes;
    this.empties = empties;
  }

  /** Bytes of `writtenBytes` that lie in current chain `chain`, every chain before it being full. */
  protected bytesIn(chain: number, writtenBytes: number): number {
    const start = chain === 0 ? 0 : this.chainEnds[chain - 1]!;
    const end = chain === this.chainCount - 1 ? this.writableBytes : this.chainEnds[chain]!;
    return Math.min(writtenBytes, end) - start;
  }

  /** Adds one buffer, given as address words and length; null, or what is wrong with it. */
  protected add(high: number, low: number, lengthBytes: number, writable: boolean): RingFaultCode | null {
    const at = this.readableCount + this.writableCount;
    const full = at + this.empties >= this.segmentsMax;
    if (lengthBytes === 0) {
      if (full) return 'CHAIN_TOO_LONG';
      this.empties++;
      return null;
    }
    const memory = this.memory;
    const contiguous = memory.translate(high, low, lengthBytes);
    if (contiguous === 0) return 'BUFFER_OUTSIDE_MEMORY';
    const piece = memory.piece;
    if (writable) {
      if (!piece.writable) return 'BUFFER_READ_ONLY';
    } else if (this.writableCount !== 0) return 'CHAIN_ORDER';
    if (full) return 'CHAIN_TOO_LONG';
    const offset = memory.offset;
    this.segmentAddress[at] = piece.address + offset;
    this.segmentLength[at] = contiguous;
    this.segmentPiece[at] = memory.pieceIndex;
    this.#segmentPage[at] = piece.windowPage;
    this.segmentOffset[at] = offset;
    if (writable) {
      this.writableCount++;
      this.writableBytes += contiguous;
    } else {
      this.readableCount++;
      this.readableBytes += contiguous;
    }
    return contiguous === lengthBytes ? null : this.#addRest(high, low, lengthBytes, contiguous, writable);
  }

  /** The part of a buffer behind the end of a piece. Recursion ends after as many steps as there are segments. */
  #addRest(
    high: number,
    low: number,
    lengthBytes: number,
    done: number,
    writable: boolean,
  ): RingFaultCode | null {
    const next = (low >>> 0) + done;
    const carry = next > 0xffff_ffff ? 1 : 0;
    if (carry === 1 && high >>> 0 === 0xffff_ffff) return 'BUFFER_OUTSIDE_MEMORY'; // past 2^64
    return this.add((high + carry) | 0, next | 0, lengthBytes - done, writable);
  }

  gather(offset: number, target: Uint8Array, targetOffset: number, length: number): number {
    return this.#copyOut(0, this.readableCount, offset, target, targetOffset, length);
  }

  readBack(offset: number, target: Uint8Array, targetOffset: number, length: number): number {
    const first = this.readableCount;
    return this.#copyOut(first, first + this.writableCount, offset, target, targetOffset, length);
  }

  scatter(offset: number, source: Uint8Array, sourceOffset: number, length: number): number {
    const end = this.readableCount + this.writableCount;
    let skip = offset;
    let done = 0;
    for (let i = this.readableCount; i < end && done < length; i++) {
      const size = this.segmentLength[i]!;
      if (skip >= size) {
        skip -= size;
        continue;
      }
      const count = Math.min(size - skip, length - done);
      write(this.#piece(i), this.segmentOffset[i]! + skip, source, sourceOffset + done, count);
      done += count;
      skip = 0;
    }
    return done;
  }

  readWords(target: Int32Array, count: number): boolean {
    if (this.readableCount === 0 || this.segmentLength[0]! < count * WORD_BYTES) return false;
    const { view } = this.#piece(0);
    let at = this.segmentOffset[0]!;
    for (let i = 0; i < count; i++, at += WORD_BYTES) target[i] = view.getInt32(at, true);
    return true;
  }

  writeWords(source: Int32Array, count: number): boolean {
    const first = this.readableCount;
    if (this.writableCount === 0 || this.segmentLength[first]! < count * WORD_BYTES) return false;
    const { view } = this.#piece(first);
    let at = this.segmentOffset[first]!;
    for (let i = 0; i < count; i++, at += WORD_BYTES) view.setInt32(at, source[i]!, true);
    return true;
  }

  #copyOut(
    from: number,
    to: number,
    offset: number,
    target: Uint8Array,
    targetOffset: number,
    length: number,
  ): number {
    let skip = offset;
    let done = 0;
    for (let i = from; i < to && done < length; i++) {
      const size = this.segmentLength[i]!;
      if (skip >= size) {
        skip -= size;
        continue;
      }
      const count = Math.min(size - skip, length - done);
      read(this.#piece(i), this.segmentOffset[i]! + skip, target, targetOffset + done, count);
      done += count;
      skip = 0;
    }
    return done;
  }

  #piece(segment: number): MemoryPiece {
    return this.memory.pieces[this.segmentPiece[segment]!]!;
  }
}

function read(piece: MemoryPiece, offset: number, target: Uint8Array, at: number, count: number): void {
  const from = piece.u8;
  if (count <= COPY_LOOP_BYTES_MAX) for (let i = 0; i < count; i++) target[at + i] = from[offset + i]!;
  else target.set(from.subarray(offset, offset + count), at);
}

function write(piece: MemoryPiece, offset: number, source: Uint8Array, at: number, count: number): void {
  const to = piece.u8;
  if (count <= COPY_LOOP_BYTES_MAX) for (let i = 0; i < count; i++) to[offset + i] = source[at + i]!;
  else to.set(source.subarray(at, at + count), offset);
}
