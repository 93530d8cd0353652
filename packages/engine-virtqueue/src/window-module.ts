/**
 * window-module.ts: a WebAssembly module of nine functions, which read descriptors and copy frames inside its memory.
 *
 * Theory
 *   JavaScript has no wider word than eight bytes, its block copies cost some 30 ns before the first byte, and it checks
 *   every index. WebAssembly has 16-byte vectors and leaves the checking to the processor, and a call of it costs as much
 *   as one of a function. The module is so small that it is assembled here, instruction by instruction.
 *
 *     copy(toPage, to, fromPage, from, bytes)
 *       bytes >= BULK_BYTES_MIN: memory.copy
 *       else four vectors a turn, then one a turn, then the last VECTOR_BYTES once more, some of which are there already.
 *
 *     copyBurst(from, to, fromHeader, toHeader, unwanted, bytesMax, most) -> count
 *       copies up to `most` frames between buffers that two rooms describe (ring-room.ts); how many, up to one that is
 *       longer than its room or bytesMax, shorter than VECTOR_BYTES, has any of the bits `unwanted` in the first word of
 *       its buffer, or is not in the window on both sides. `from` and `to` are where the first buffers' entries are in
 *       the memory of rooms. In front of a frame that arrives behind a header, that of a plain frame is written, unless
 *       it is there: a driver that uses its buffers again mostly has it, and the cache line then stays with both.
 *
 *     copySegments(from, fromCount, fromSkip, to, toCount, toSkip, bytes) -> count
 *       copies bytes between two lists of segments, behind so many bytes of each; how many, up to the end of a list or a
 *       segment outside of the window. `from` and `to` are where the lists begin in the memory of rooms (SegmentPart).
 *
 *     copyFrames(from, segments, to, toCount, buffersMax, fromHeader, toHeader, bytesMax, most) -> count
 *       copyBurst for frames that layPackedTables() or laySplitTables() has laid out, each of them into as many of the toCount buffers as it needs,
 *       buffersMax at most. The number of buffers is in the header. The one it comes with was judged when it was
 *       laid out.
 *
 *     lookPacked(tablePage, table, slot, size, owner, most) -> count
 *       how many of up to `most` descriptors from `slot` on are available, and chains of their own. `owner` is what AVAIL
 *       and USED are in the first one.
 *     scanPacked(room, tablePage, table, slot, size, count, wanted, sizePart, pieces, pieceCount, piece) -> count
 *     scanSplit(room, tablePage, table, availablePage, available, position, mask, count, wanted, ... the same) -> count
 *       lay descriptors out in a room; how many, up to one of another kind, one without a byte, or one that is not wholly
 *       in one of the guest's pieces of memory. A table of them is at `pieces` in the memory of rooms (PiecePart), where
 *       sizePart says how large each is; `piece` is the one to begin with.
 *
 *     layPackedTables(room, segments, segmentsMax, count, unfit, header, unwanted, bytesMax, pieces, pieceCount, piece)
 *     laySplitTables(... the same) -> count
 *       chains of a room that are tables of readable buffers become frames (FramePart), whose segments are listed in
 *       `segments`; how many, up to one whose table
 *         has an entry with any of the bits `unfit` in its last word, or without a byte, or links them in another order;
 *         names a buffer that is not wholly in one piece of memory, or more than the list of segmentsMax has room for;
 *         names no frame of VECTOR_BYTES to bytesMax bytes behind a header that is in one piece and has none of the bits
 *         `unwanted` in its first word.
 *
 *   All numbers are i32. An offset is passed as a page and what is added to it, because JavaScript would have to allocate
 *   a BigInt for an i64, and a number on its heap for an f64.
 *   Rooms have a memory of their own, of this thread. What comes from the guest's memory is loaded once, then judged, then
 *   used. Frames of a burst do not depend on each other, and the functions are short: the processor waits for the lines of
 *   several frames at once.
 *
 * Limits  a copy has at least VECTOR_BYTES; every byte is inside the memory, or the call traps.
 * Spec    WebAssembly Core 3.0; virtio 1.3, 2.7.5 and 2.8.5 (descriptors), 5.1.6 (header).
 */
import {
  FUNCTION_EXPORT,
  FUNCTION_TYPE,
  MEMORY_IMPORT,
  name,
  OWN_32,
  Section,
  SHARED_64,
  section,
  sized,
  unsigned,
  ValueType,
  vector,
} from './assembler.js';
import {
  copyBurstFunction,
  copyFramesFunction,
  copyFunction,
  copySegmentsFunction,
} from './window-copies.js';
import type { FunctionOf } from './window-layout.js';
import {
  layPackedTablesFunction,
  laySplitTablesFunction,
  lookPackedFunction,
  scanPackedFunction,
  scanSplitFunction,
} from './window-scans.js';

/** What the module exports, in their order. */
const FUNCTIONS = {
  copy: copyFunction,
  copyBurst: copyBurstFunction,
  copySegments: copySegmentsFunction,
  copyFrames: copyFramesFunction,
  lookPacked: lookPackedFunction,
  scanPacked: scanPackedFunction,
  scanSplit: scanSplitFunction,
  layPackedTables: layPackedTablesFunction,
  laySplitTables: laySplitTablesFunction,
} as const;

function typeOf({ parameters, returns }: FunctionOf): number[] {
  const numbers = (count: number) => vector(Array.from({ length: count }, () => [ValueType.I32]));
  return [FUNCTION_TYPE, ...numbers(parameters), ...numbers(returns ? 1 : 0)];
}

/**
 * The module in the binary format: imports window.memory, shared and of exactly `pages` pages, and rooms.memory, of exactly
 * `roomPages` pages and not shared; exports the functions.
 */
export function windowModule(pages: number, roomPages: number): Uint8Array<ArrayBuffer> {
  const memory = [MEMORY_IMPORT, SHARED_64, ...unsigned(pages), ...unsigned(pages)];
  const rooms = [MEMORY_IMPORT, OWN_32, ...unsigned(roomPages), ...unsigned(roomPages)];
  const functions = Object.values(FUNCTIONS).map((make) => make());
  return new Uint8Array([
    ...[0, ...[...'asm'].map((letter) => letter.charCodeAt(0)), 1, 0, 0, 0],
    ...section(Section.TYPE, functions.map(typeOf)),
    ...section(Section.IMPORT, [
      [...name('window'), ...name('memory'), ...memory],
      [...name('rooms'), ...name('memory'), ...rooms],
    ]),
    ...section(
      Section.FUNCTION,
      functions.map((_, i) => [i]),
    ),
    ...section(
      Section.EXPORT,
      Object.keys(FUNCTIONS).map((exported, i) => [...name(exported), FUNCTION_EXPORT, i]),
    ),
    ...section(
      Section.CODE,
      functions.map(({ body }) => sized(body)),
    ),
  ]);
}
