/**
 * guest-memory.ts: the memory of one guest as a device may see it.
 *
 * Theory
 *   The client hands over regions of its address space (IOVA); the host maps them. A region is cut into pieces at
 *   multiples of PIECE_BYTES, each with views of its own, so that the datapath only meets small element indices.
 *   `translate` turns an address, given as two 32-bit words, into a piece and an offset, and says how many bytes
 *   follow there; a buffer that crosses pieces is asked for again at its remainder. No BigInt on that way.
 *   A ring part is asked for as a whole (`slice`) and gets views over exactly that part, across pieces of one region.
 *
 * Parties
 *   driver   writes this memory at any instant. Whatever is judged must be copied out first.
 *   owner    builds a new GuestMemory when regions come or go; this one never changes.
 *
 * Invariants
 *   I1  regions are sorted, do not overlap, do not wrap at 2^64; the constructor refuses anything else, because the
 *       owner was to answer the client with an error before.
 *   I2  piece, pieceIndex and offset belong to the last successful translate.
 *
 * Limits  PIECE_BYTES (limits.ts). A ring part in two regions is refused even where the addresses adjoin: their
 *         process addresses do not.
 */
import { windowPageOf } from './copy-window.js';
import { PIECE_BYTES } from './limits.js';

/** A range of the guest's address space that is mapped here. */
export interface MemoryRegion {
  readonly iova: bigint;
  readonly sizeBytes: number;
  readonly buffer: ArrayBuffer;
  readonly byteOffset: number;
  /** Process address of the first byte, below 2^53. */
  readonly address: number;
  readonly writable: boolean;
}

/** At most PIECE_BYTES of a region. Address words are signed 32-bit, so that V8 keeps them small integers. */
export interface MemoryPiece {
  readonly iovaHigh: number;
  readonly iovaLow: number;
  readonly sizeBytes: number;
  readonly address: number;
  readonly writable: boolean;
  /** Page of this thread's window (copy-window.ts) that it begins with, -1: it is elsewhere. */
  readonly windowPage: number;
  readonly u8: Uint8Array;
  readonly view: DataView;
}

/** Views over exactly one ring part. */
export class MemorySlice {
  readonly #buffer: ArrayBuffer;
  readonly #byteOffset: number;
  readonly lengthBytes: number;
  readonly writable: boolean;

  constructor(buffer: ArrayBuffer, byteOffset: number, lengthBytes: number, writable: boolean) {
    this.#buffer = buffer;
    this.#byteOffset = byteOffset;
    this.lengthBytes = lengthBytes;
    this.writable = writable;
  }

  get u8(): Uint8Array {
    return new Uint8Array(this.#buffer, this.#byteOffset, this.lengthBytes);
  }
  get u16(): Uint16Array {
    return new Uint16Array(this.#buffer, this.#byteOffset, this.lengthBytes >>> 1);
  }
  get u32(): Uint32Array {
    return new Uint32Array(this.#buffer, this.#byteOffset, this.lengthBytes >>> 2);
  }
  get i32(): Int32Array {
    return new Int32Array(this.#buffer, this.#byteOffset, this.lengthBytes >>> 2);
  }
}

const WORD_MASK = 0xffff_ffffn;
const ADDRESS_SPACE = 1n << 64n;

const highWord = (iova: bigint): number => Number((iova >> 32n) & WORD_MASK) | 0;
const lowWord = (iova: bigint): number => Number(iova & WORD_MASK) | 0;

/** Stands for "no piece yet"; nothing is inside it. */
const NOWHERE: MemoryPiece = {
  iovaHigh: 0,
  iovaLow: 0,
  sizeBytes: 0,
  address: 0,
  writable: false,
  windowPage: -1,
  u8: new Uint8Array(0),
  view: new DataView(new ArrayBuffer(0)),
};

function checkRegions(regions: readonly MemoryRegion[]): void {
  let end = 0n;
  for (const { iova, sizeBytes, buffer, byteOffset } of regions) {
    if (!Number.isSafeInteger(sizeBytes) || sizeBytes <= 0)
      throw new RangeError(`region size ${sizeBytes} (I1)`);
    if (iova < end) throw new RangeError(`region at 0x${iova.toString(16)} overlaps or is negative (I1)`);
    end = iova + BigInt(sizeBytes);
    if (end > ADDRESS_SPACE) throw new RangeError(`region at 0x${iova.toString(16)} wraps (I1)`);
    if (byteOffset + sizeBytes > buffer.byteLength) throw new RangeError('region leaves its buffer (I1)');
  }
}

function cut(region: MemoryRegion): MemoryPiece[] {
  const pieces: MemoryPiece[] = [];
  const inFirst = PIECE_BYTES - Number(region.iova % BigInt(PIECE_BYTES));
  for (let at = 0; at < region.sizeBytes; ) {
    const sizeBytes = Math.min(at === 0 ? inFirst : PIECE_BYTES, region.sizeBytes - at);
    const iova = region.iova + BigInt(at);
    const byteOffset = region.byteOffset + at;
    pieces.push({
      iovaHigh: highWord(iova),
      iovaLow: lowWord(iova),
      sizeBytes,
      address: region.address + at,
      writable: region.writable,
      windowPage: windowPageOf(region.buffer, byteOffset),
      u8: new Uint8Array(region.buffer, byteOffset, sizeBytes),
      view: new DataView(region.buffer, byteOffset, sizeBytes),
    });
    at += sizeBytes;
  }
  return pieces;
}

export class GuestMemory {
  readonly pieces: readonly MemoryPiece[];
  /** Where the last successful translate led. */
  piece: MemoryPiece;
  pieceIndex = 0;
  offset = 0;
  /** copy-window.ts's: which table its pieces are in, and how many. */
  pieceTable = 0;
  piecesListed = 0;
  readonly #regions: readonly MemoryRegion[];

  /** Regions in any order. RangeError when they break I1: that is the owner's fault, not the guest's. */
  constructor(regions: readonly MemoryRegion[]) {
    this.#regions = [...regions].sort((a, b) => (a.iova < b.iova ? -1 : a.iova > b.iova ? 1 : 0));
    checkRegions(this.#regions);
    this.pieces = this.#regions.flatMap(cut);
    this.piece = this.pieces[0] ?? NOWHERE;
  }

  /**
   * Looks up an address given as two 32-bit words, signed or not. Returns how many of `lengthBytes` (at least 1) lie
   * contiguously there, 0 when the address is outside; sets piece, pieceIndex and offset unless it is.
   */
  translate(high: number, low: number, lengthBytes: number): number {
    const piece = this.piece;
    const offset = (low - piece.iovaLow) | 0;
    if ((high | 0) === piece.iovaHigh && offset >= 0 && offset < piece.sizeBytes) {
      this.offset = offset;
      return Math.min(lengthBytes, piece.sizeBytes - offset);
    }
    return this.#search(high >>> 0, low >>> 0, lengthBytes);
  }

  /** What was found last, elsewhere, is in piece `index`: the next is looked for there first. */
  pointTo(index: number): void {
    if (index === this.pieceIndex) return;
    this.pieceIndex = index;
    this.piece = this.pieces[index]!;
  }

  /** Process address of the last successful translate. */
  get address(): number {
    return this.piece.address + this.offset;
  }

  /** Whether the device may write where the last successful translate led. */
  get writable(): boolean {
    return this.piece.writable;
  }

  /** Views over exactly this range; null when it is not inside one region or not aligned to `alignBytes`. */
  slice(iova: bigint, lengthBytes: number, alignBytes = 4): MemorySlice | null {
    for (const region of this.#regions) {
      const offset = iova - region.iova;
      if (offset < 0n || offset + BigInt(lengthBytes) > BigInt(region.sizeBytes)) continue;
      const byteOffset = region.byteOffset + Number(offset);
      if (iova % BigInt(alignBytes) !== 0n || byteOffset % alignBytes !== 0) return null;
      return new MemorySlice(region.buffer, byteOffset, lengthBytes, region.writable);
    }
    return null;
  }

  /** Copies guest bytes into private memory; false, and nothing copied, when any byte is outside. */
  copyOut(iova: bigint, target: Uint8Array): boolean {
    return this.#copy(iova, target, false);
  }

  /** Copies private bytes into guest memory; false, and nothing copied, when any byte is outside or read-only. */
  copyIn(iova: bigint, source: Uint8Array): boolean {
    return this.#copy(iova, source, true);
  }

  #copy(iova: bigint, bytes: Uint8Array, into: boolean): boolean {
    if (iova < 0n || iova + BigInt(bytes.length) > ADDRESS_SPACE) return false;
    for (const pass of ['check', 'copy'] as const) {
      for (let done = 0; done < bytes.length; ) {
        const at = iova + BigInt(done);
        const contiguous = this.translate(highWord(at), lowWord(at), bytes.length - done);
        if (contiguous === 0 || (into && !this.piece.writable)) return false;
        if (pass === 'copy') {
          const there = this.piece.u8.subarray(this.offset, this.offset + contiguous);
          const here = bytes.subarray(done, done + contiguous);
          if (into) there.set(here);
          else here.set(there);
        }
        done += contiguous;
      }
    }
    return true;
  }

  /** Binary search for the last piece that begins at or before the address; words unsigned. */
  #search(high: number, low: number, lengthBytes: number): number {
    let from = 0;
    let to = this.pieces.length;
    while (from < to) {
      const middle = (from + to) >>> 1;
      const piece = this.pieces[middle]!;
      const pieceHigh = piece.iovaHigh >>> 0;
      if (pieceHigh < high || (pieceHigh === high && piece.iovaLow >>> 0 <= low)) from = middle + 1;
      else to = middle;
    }
    if (from === 0) return 0;
    const piece = this.pieces[from - 1]!;
    const offset = low - (piece.iovaLow >>> 0);
    if (piece.iovaHigh >>> 0 !== high || offset >= piece.sizeBytes) return 0;
    this.piece = piece;
    this.pieceIndex = from - 1;
    this.offset = offset;
    return Math.min(lengthBytes, piece.sizeBytes - offset);
  }
}
