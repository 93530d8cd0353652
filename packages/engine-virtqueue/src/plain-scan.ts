/**
 * plain-scan.ts: lays the descriptors of a burst out (plain-chains.ts), of either kind of ring.
 *
 * Theory
 *   In the window (copy-window.ts) WebAssembly does it. What is left of the burst is laid out here: a ring or memory
 *   elsewhere.
 *   A chain that is not one whole buffer in one piece ends the burst.
 *
 * Invariants
 *   I1  every word of a descriptor is read once into a local, then judged, then used (failure C13).
 */
import { DESCRIPTOR_WORDS_SHIFT, DescriptorWord, RingWord } from '@virtnet/wire';
import { scanPackedInWindow, scanSplitInWindow, WindowPlace } from './copy-window.js';
import type { GuestMemory, MemorySlice } from './guest-memory.js';
import type { PlainChains } from './plain-chains.js';
import { ONE_SLOT, PACKED_KIND, SPLIT_KIND } from './window-layout.js';

// Locals of the module: an imported object's property costs a load per use.
const { ADDRESS_LOW, ADDRESS_HIGH, LENGTH, FLAGS_NEXT } = DescriptorWord;
const { FIRST_ENTRY } = RingWord;
const ID_MASK = 0xffff;

/** Where a ring's descriptors are, and a split ring's available entries. */
export class ScanPlace {
  readonly table: WindowPlace;
  readonly available: WindowPlace;

  constructor(table: MemorySlice, available: MemorySlice = table) {
    const entries = available.u16;
    this.table = WindowPlace.of(table.i32);
    this.available = WindowPlace.of(entries, FIRST_ENTRY * entries.BYTES_PER_ELEMENT);
  }

  /** WebAssembly can lay chains out in `plain`. */
  reaches({ place }: PlainChains): boolean {
    return place >= 0 && this.table.page >= 0 && this.available.page >= 0;
  }
}

/**
 * Lays out up to `count` chains of a packed ring from `slot` on, whose descriptors have `wanted` of PACKED_KIND; they are
 * known to be available. `writes`: into memory that may be written. How many.
 */
export function scanPacked(
  plain: PlainChains,
  memory: GuestMemory,
  place: ScanPlace,
  table: Int32Array,
  first: number,
  count: number,
  wanted: number,
  writes: boolean,
): number {
  const { pieces, pages, offsets, lengths, ids } = plain;
  const size = table.length >>> DESCRIPTOR_WORDS_SHIFT;
  let i = 0;
  if (place.reaches(plain)) {
    i = scanPackedInWindow(plain.place, place.table, first, size, count, wanted, writes, memory);
    if (i > 0) memory.pointTo(pieces[i - 1]!);
    if (i === count) return i;
  }
  let slot = first + i;
  if (slot >= size) slot -= size;
  for (; ; i++) {
    const { piece, pieceIndex } = memory;
    const { iovaHigh, iovaLow, sizeBytes, writable, windowPage } = piece;
    let low = 0;
    let high = 0;
    let length = 0;
    // Nothing is called in this loop, so that all it needs stays in registers.
    for (; i < count; i++) {
      const at = slot << DESCRIPTOR_WORDS_SHIFT;
      low = table[at + ADDRESS_LOW]!;
      high = table[at + ADDRESS_HIGH]!;
      length = table[at + LENGTH]!;
      const word = table[at + FLAGS_NEXT]!;
      if ((word & PACKED_KIND) !== wanted || length <= 0) return i;
      ids[i] = (word & ID_MASK) | ONE_SLOT;
      if (++slot === size) slot = 0;
      const offset = (low - iovaLow) | 0;
      if (high !== iovaHigh || offset < 0 || length > sizeBytes - offset) break;
      if (writes && !writable) return i;
      pieces[i] = pieceIndex;
      pages[i] = windowPage;
      offsets[i] = offset;
      lengths[i] = length;
    }
    // In another piece, which the next ones may be in as well.
    if (i === count || !layTranslated(plain, memory, i, high, low, length, writes)) return i;
  }
}

/**
 * Lays out up to `count` chains of a split ring from `position` on, whose descriptors have `wanted` of SPLIT_KIND; they are
 * known to be available. `writes`: into memory that may be written. How many.
 */
export function scanSplit(
  plain: PlainChains,
  memory: GuestMemory,
  place: ScanPlace,
  table: Int32Array,
  available: Uint16Array,
  position: number,
  mask: number,
  count: number,
  wanted: number,
  writes: boolean,
): number {
  const { pieces, pages, offsets, lengths, ids } = plain;
  let i = 0;
  if (place.reaches(plain)) {
    i = scanSplitInWindow(
      plain.place,
      place.table,
      place.available,
      position,
      mask,
      count,
      wanted,
      writes,
      memory,
    );
    if (i > 0) memory.pointTo(pieces[i - 1]!);
    if (i === count) return i;
  }
  for (; ; i++) {
    const { piece, pieceIndex } = memory;
    const { iovaHigh, iovaLow, sizeBytes, writable, windowPage } = piece;
    let low = 0;
    let high = 0;
    let length = 0;
    // Nothing is called in this loop, so that all it needs stays in registers.
    for (; i < count; i++) {
      const head = available[FIRST_ENTRY + ((position + i) & mask)]!;
      if (head > mask) return i;
      const at = head << DESCRIPTOR_WORDS_SHIFT;
      low = table[at + ADDRESS_LOW]!;
      high = table[at + ADDRESS_HIGH]!;
      length = table[at + LENGTH]!;
      if ((table[at + FLAGS_NEXT]! & SPLIT_KIND) !== wanted || length <= 0) return i;
      ids[i] = head;
      const offset = (low - iovaLow) | 0;
      if (high !== iovaHigh || offset < 0 || length > sizeBytes - offset) break;
      if (writes && !writable) return i;
      pieces[i] = pieceIndex;
      pages[i] = windowPage;
      offsets[i] = offset;
      lengths[i] = length;
    }
    // In another piece, which the next ones may be in as well.
    if (i === count || !layTranslated(plain, memory, i, high, low, length, writes)) return i;
  }
}

/** Lays chain `i` out in the piece its buffer is in; false: it is not wholly in one that serves. */
function layTranslated(
  { pieces, pages, offsets, lengths }: PlainChains,
  memory: GuestMemory,
  i: number,
  high: number,
  low: number,
  length: number,
  writable: boolean,
): boolean {
  if (memory.translate(high, low, length) !== length) return false;
  if (writable && !memory.writable) return false;
  pieces[i] = memory.pieceIndex;
  pages[i] = memory.piece.windowPage;
  offsets[i] = memory.offset;
  lengths[i] = length;
  return true;
}
