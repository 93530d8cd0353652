/**
 * chain-copy.ts: copies frames between chains of two guests, and between a chain and private memory, at full speed.
 *
 * Theory
 *   Both ends are lists of segments; what is contiguous on both sides is one copy. In the window (copy-window.ts) all of
 *   it is one call of WebAssembly. Elsewhere small copies run as 64-bit words
 *   through the pieces' own views, whose indices stay small. Larger ones are done by WebAssembly, if both pieces lie in
 *   the window (copy-window.ts). Else words go further, and then come block copies: two guests' pieces lie in one arena,
 *   and copyWithin over a view of all of it is a builtin that does not care how large an index is. Views are never made
 *   per frame; where two pieces share no buffer (tests, or a guest in the window and one outside) a subarray is, and that
 *   is slow.
 *
 * Invariants
 *   I1  a copy stays inside segments, so inside what the rings have judged; lengths are cut to what both sides have.
 *   I2  64-bit words are copied as integers: V8 does not allocate them here, and a signalling NaN survives.
 *
 * Limits  overlapping guests' memory (a guest that maps another's) is copied in some order, as such guests deserve.
 */
import { copyInWindow, copySegmentsInWindow, onlySegment, windowPageOf } from './copy-window.js';
import type { DeviceRing } from './device-ring.js';
import type { MemoryPiece } from './guest-memory.js';

const WORD_SHIFT = 2;
/** Above this a block copy is faster than words. */
const WORDS_BYTES_MAX = 288;
/** Above this a call of WebAssembly is. */
const WINDOW_WORDS_BYTES_MAX = 31;

/** The whole buffer behind the pieces last copied between. */
let wide: Uint8Array = new Uint8Array(0);

/** Private memory that chains are copied to and from; in the guests' own arena block copies are fastest. */
export class PrivateMemory {
  readonly piece: MemoryPiece;

  constructor(sizeBytes: number, buffer: ArrayBuffer = new ArrayBuffer(sizeBytes), byteOffset = 0) {
    this.piece = {
      iovaHigh: 0,
      iovaLow: 0,
      sizeBytes,
      address: 0,
      writable: true,
      windowPage: windowPageOf(buffer, byteOffset),
      u8: new Uint8Array(buffer, byteOffset, sizeBytes),
      view: new DataView(buffer, byteOffset, sizeBytes),
    };
  }

  get u8(): Uint8Array {
    return this.piece.u8;
  }
}

/** Copies `length` bytes that lie in one piece on each side. */
export function copyBetween(
  from: MemoryPiece,
  fromAt: number,
  to: MemoryPiece,
  toAt: number,
  length: number,
): void {
  if (length <= WINDOW_WORDS_BYTES_MAX) copyWords(from.view, fromAt, to.view, toAt, length);
  else if (from.windowPage >= 0 && to.windowPage >= 0)
    copyInWindow(to.windowPage, toAt, from.windowPage, fromAt, length);
  else if (length <= WORDS_BYTES_MAX) copyWords(from.view, fromAt, to.view, toAt, length);
  else copyBlock(from.u8, fromAt, to.u8, toAt, length);
}

function copyWords(from: DataView, fromAt: number, to: DataView, toAt: number, length: number): void {
  // Four words a turn: a turn of a loop costs V8 as much as a word. `| 0` saves a check for overflow each.
  let source = fromAt;
  let target = toAt;
  let left = length;
  for (; left >= 32; left -= 32) {
    to.setBigUint64(target, from.getBigUint64(source, true), true);
    to.setBigUint64((target + 8) | 0, from.getBigUint64((source + 8) | 0, true), true);
    to.setBigUint64((target + 16) | 0, from.getBigUint64((source + 16) | 0, true), true);
    to.setBigUint64((target + 24) | 0, from.getBigUint64((source + 24) | 0, true), true);
    source = (source + 32) | 0;
    target = (target + 32) | 0;
  }
  for (; left >= 8; left -= 8) {
    to.setBigUint64(target, from.getBigUint64(source, true), true);
    source = (source + 8) | 0;
    target = (target + 8) | 0;
  }
  if (left === 0) return;
  if (length >= 8) {
    // The last word, some of which is there already.
    to.setBigUint64((target + left - 8) | 0, from.getBigUint64((source + left - 8) | 0, true), true);
    return;
  }
  for (let i = 0; i < left; i++) to.setUint8(target + i, from.getUint8(source + i));
}

function copyBlock(from: Uint8Array, fromAt: number, to: Uint8Array, toAt: number, length: number): void {
  const { buffer } = to;
  if (from.buffer !== buffer) {
    to.set(from.subarray(fromAt, fromAt + length), toAt);
    return;
  }
  if (wide.buffer !== buffer) wide = new Uint8Array(buffer);
  const start = from.byteOffset + fromAt;
  wide.copyWithin(to.byteOffset + toAt, start, start + length);
}

/** Copies readable bytes of one ring's current chain into the writable ones of another's; how many found room. */
export function copyChain(
  from: DeviceRing,
  fromOffset: number,
  to: DeviceRing,
  toOffset: number,
  length: number,
): number {
  let done = 0;
  if (from.segmentPlace >= 0 && to.segmentPlace >= 0) {
    const target = to.segmentPlace + (to.readableCount << WORD_SHIFT);
    const { readableCount } = from;
    done = copySegmentsInWindow(
      from.segmentPlace,
      readableCount,
      fromOffset,
      target,
      to.writableCount,
      toOffset,
      length,
    );
    if (done === length) return done;
  }
  return done + copyOutside(from, fromOffset + done, to, toOffset + done, length - done);
}

/** The same where some of it is not in the window. */
function copyOutside(
  from: DeviceRing,
  fromOffset: number,
  to: DeviceRing,
  toOffset: number,
  length: number,
): number {
  const fromEnd = from.readableCount;
  const toEnd = to.readableCount + to.writableCount;
  let source = 0;
  let target = to.readableCount;
  let sourceSkip = fromOffset;
  let targetSkip = toOffset;
  while (source < fromEnd && sourceSkip >= from.segmentLength[source]!)
    sourceSkip -= from.segmentLength[source++]!;
  while (target < toEnd && targetSkip >= to.segmentLength[target]!) targetSkip -= to.segmentLength[target++]!;
  let done = 0;
  while (done < length && source < fromEnd && target < toEnd) {
    const sourceLeft = from.segmentLength[source]! - sourceSkip;
    const targetLeft = to.segmentLength[target]! - targetSkip;
    const count = Math.min(length - done, sourceLeft, targetLeft);
    copyBetween(
      from.memory.pieces[from.segmentPiece[source]!]!,
      from.segmentOffset[source]! + sourceSkip,
      to.memory.pieces[to.segmentPiece[target]!]!,
      to.segmentOffset[target]! + targetSkip,
      count,
    );
    done += count;
    if (count === sourceLeft) {
      source++;
      sourceSkip = 0;
    } else sourceSkip += count;
    if (count === targetLeft) {
      target++;
      targetSkip = 0;
    } else targetSkip += count;
  }
  return done;
}

/** Copies readable bytes of the current chain, from `offset`, into private memory; how many there were. */
export function readChain(
  from: DeviceRing,
  offset: number,
  { piece }: PrivateMemory,
  at: number,
  length: number,
): number {
  let done = 0;
  if (from.segmentPlace >= 0 && piece.windowPage >= 0) {
    const only = onlySegment(piece.windowPage, at, length);
    done = copySegmentsInWindow(from.segmentPlace, from.readableCount, offset, only, 1, 0, length);
    if (done === length) return done;
  }
  let skip = offset + done;
  for (let i = 0; i < from.readableCount && done < length; i++) {
    const size = from.segmentLength[i]!;
    if (skip >= size) {
      skip -= size;
      continue;
    }
    const count = Math.min(size - skip, length - done);
    copyBetween(
      from.memory.pieces[from.segmentPiece[i]!]!,
      from.segmentOffset[i]! + skip,
      piece,
      at + done,
      count,
    );
    done += count;
    skip = 0;
  }
  return done;
}

/** Copies bytes of one piece into the writable segments of the current chain, from `offset`; how many found room. */
export function writeChain(
  { piece }: { readonly piece: MemoryPiece },
  at: number,
  to: DeviceRing,
  offset: number,
  length: number,
): number {
  const first = to.readableCount;
  let done = 0;
  if (to.segmentPlace >= 0 && piece.windowPage >= 0) {
    const only = onlySegment(piece.windowPage, at, length);
    const target = to.segmentPlace + (first << WORD_SHIFT);
    done = copySegmentsInWindow(only, 1, 0, target, to.writableCount, offset, length);
    if (done === length) return done;
  }
  const end = first + to.writableCount;
  let skip = offset + done;
  for (let i = first; i < end && done < length; i++) {
    const size = to.segmentLength[i]!;
    if (skip >= size) {
      skip -= size;
      continue;
    }
    const count = Math.min(size - skip, length - done);
    copyBetween(piece, at + done, to.memory.pieces[to.segmentPiece[i]!]!, to.segmentOffset[i]! + skip, count);
    done += count;
    skip = 0;
  }
  return done;
}
