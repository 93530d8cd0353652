/**
 * copy-window.ts: a range of addresses inside which WebAssembly reads descriptors and copies bytes, faster than JavaScript does.
 *
 * Theory
 *   Copies of WebAssembly stay inside its memory. So a memory as large as there may be is reserved, whoever owns it maps
 *   guests' memory over its pages, and copies between any two guests in it are short vector loops (window-module.ts). It
 *   has a limit, so not every guest may fit: what lies elsewhere is copied as before, only slower.
 *   The memory is shared: one thread makes it, and each thread that copies says so once. What bursts look like
 *   (ring-room.ts) lies in a second memory, which each of these threads has for itself.
 *
 * Invariants
 *   I1  what was asked for inside the window is inside what the rings have judged; the window itself is only addresses.
 *
 * Limits  WINDOW_BYTES_MAX; ROOMS_BYTES. The pieces of PIECE_TABLES guests are listed at a time, PIECES_MAX of each.
 */
import {
  COPY_PAGE_BYTES,
  PIECE_ENTRY_BYTES,
  PIECE_TABLE_BYTES,
  PIECES_MAX,
  PiecePart,
  SEGMENTS_BYTES,
  SegmentPart,
} from './window-layout.js';
import { windowModule } from './window-module.js';

/** What a WebAssembly memory of 64-bit addresses may have at most. */
export const WINDOW_BYTES_MAX = 2 ** 34;
const WINDOW_BYTES_MIN = 2 ** 30;
/** Of WebAssembly. */
export const WINDOW_PAGE_BYTES = 2 ** 16;
/** For what bursts look like, in each thread: memory that is not used is only addresses. */
export const ROOMS_BYTES = 2 ** 24;
const WORD_BYTES = 4;
/** Behind a list of one segment: tables of guests' pieces. */
const PIECES_AT = SEGMENTS_BYTES;
const PIECE_TABLES = 512;
export const ROOMS_AT = PIECES_AT + PIECE_TABLES * PIECE_TABLE_BYTES;

/** What is used of WebAssembly, which the language's own library of types does not have. */
interface WebAssemblyApi {
  readonly Memory: {
    new (limits: {
      readonly address: 'i64';
      readonly initial: bigint;
      readonly maximum: bigint;
      readonly shared: true;
    }): WindowMemory;
    new (limits: { readonly initial: number; readonly maximum: number }): WindowMemory;
  };
  readonly Module: new (bytes: Uint8Array) => object;
  readonly Instance: new (
    module: object,
    imports: Readonly<Record<'window' | 'rooms', { readonly memory: WindowMemory }>>,
  ) => { readonly exports: WindowFunctions };
}

/** A shared WebAssembly.Memory: it may be posted to other threads. */
export interface WindowMemory {
  readonly buffer: ArrayBufferLike;
}

type WindowFunction = (...numbers: readonly number[]) => number;
type WindowFunctions = Readonly<
  Record<
    | 'copy'
    | 'copyBurst'
    | 'copySegments'
    | 'copyFrames'
    | 'lookPacked'
    | 'scanPacked'
    | 'scanSplit'
    | 'layPackedTables'
    | 'laySplitTables',
    WindowFunction
  >
>;

const { WebAssembly } = globalThis as unknown as { readonly WebAssembly: WebAssemblyApi };

const noWindow = (): never => {
  throw new Error('this thread has no window');
};

let window: ArrayBufferLike | null = null;
let rooms: ArrayBuffer | null = null;
/** A list of one segment, at the beginning of the memory of rooms. */
let only = new Int32Array(0);
let pieceTables = new Int32Array(0);
/** Whose pieces are in each table: a guest's never change. */
let owners: Found[] = [];
let nextTable = 0;
let copy: WindowFunction = noWindow;
let copyBurst: WindowFunction = noWindow;
let copySegments: WindowFunction = noWindow;
let copyFrames: WindowFunction = noWindow;
let look: WindowFunction = noWindow;
let packed: WindowFunction = noWindow;
let split: WindowFunction = noWindow;
let packedTables: WindowFunction = noWindow;
let splitTables: WindowFunction = noWindow;

/**
 * Reserves a window: 16 GiB of addresses, or as many as the kernel lets us have. Null when it does not let us have even
 * WINDOW_BYTES_MIN. All of it is accessible zeros, which the owner takes away before others may get at it.
 */
export function reserveWindow(): WindowMemory | null {
  for (let bytes = WINDOW_BYTES_MAX; bytes >= WINDOW_BYTES_MIN; bytes /= 2) {
    const pages = BigInt(bytes / WINDOW_PAGE_BYTES);
    try {
      return new WebAssembly.Memory({ address: 'i64', initial: pages, maximum: pages, shared: true });
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
    }
  }
  return null;
}

/** From now on this thread copies inside this window by WebAssembly. The buffer that it is seen through. */
export function useWindow(memory: WindowMemory): ArrayBuffer {
  const { buffer } = memory;
  const roomPages = ROOMS_BYTES / WINDOW_PAGE_BYTES;
  const own = new WebAssembly.Memory({ initial: roomPages, maximum: roomPages });
  const module = new WebAssembly.Module(windowModule(buffer.byteLength / WINDOW_PAGE_BYTES, roomPages));
  const { exports } = new WebAssembly.Instance(module, { window: { memory }, rooms: { memory: own } });
  ({ copy, copyBurst, copySegments, copyFrames } = exports);
  ({ lookPacked: look, scanPacked: packed, scanSplit: split } = exports);
  ({ layPackedTables: packedTables, laySplitTables: splitTables } = exports);
  window = buffer;
  rooms = own.buffer as ArrayBuffer;
  only = new Int32Array(rooms, 0, SEGMENTS_BYTES / WORD_BYTES);
  pieceTables = new Int32Array(rooms, PIECES_AT, (PIECE_TABLES * PIECE_TABLE_BYTES) / WORD_BYTES);
  owners = [];
  // Compiled when they are called for the first time, which takes half a millisecond: for nothing, and not for a frame.
  copyBurst(0, 0, 0, 0, 0, 0, 0);
  copySegments(0, 0, 0, 0, 0, 0, 0);
  copyFrames(0, 0, 0, 0, 0, 0, 0, 0, 0);
  look(0, 0, 0, 1, 0, 0);
  packed(0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0);
  split(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  packedTables(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  splitTables(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  return buffer as ArrayBuffer; // the views that are made over it are the same
}

/** Page of the window that begins at byte `byteOffset` of a buffer; -1: none, or the buffer is not this thread's window. */
export const windowPageOf = (buffer: ArrayBufferLike, byteOffset: number): number =>
  buffer === window && byteOffset % COPY_PAGE_BYTES === 0 ? byteOffset / COPY_PAGE_BYTES : -1;

/**
 * Copies `bytes` bytes, at least VECTOR_BYTES of window-module.ts, between places of the window: `to` and `from` bytes behind
 * the beginning of pages. All of them small integers: others would be allocated for the call.
 */
export function copyInWindow(
  toPage: number,
  to: number,
  fromPage: number,
  from: number,
  bytes: number,
): void {
  copy(toPage, to, fromPage, from, bytes);
}

/** This thread's memory for rooms, ROOMS_BYTES, of which the first ROOMS_AT are taken; null: it has no window. */
export const roomsMemory = (): ArrayBuffer | null => rooms;

/**
 * Copies `bytes` bytes between two lists of segments in the memory of rooms, behind so many bytes of each. How many, up to
 * the end of a list, or a segment outside of the window.
 */
export function copySegmentsInWindow(
  from: number,
  fromCount: number,
  fromSkip: number,
  to: number,
  toCount: number,
  toSkip: number,
  bytes: number,
): number {
  return copySegments(from, fromCount, fromSkip, to, toCount, toSkip, bytes);
}

/** A list of one segment of `bytes` bytes, until the next one; where it is in the memory of rooms. */
export function onlySegment(page: number, offset: number, bytes: number): number {
  only[SegmentPart.PAGES / WORD_BYTES] = page;
  only[SegmentPart.OFFSETS / WORD_BYTES] = offset;
  only[SegmentPart.LENGTHS / WORD_BYTES] = bytes;
  return 0;
}

/**
 * Copies up to `most` frames from buffers that a room describes to buffers of another: `from` and `to` are where in
 * roomsMemory() their entries begin. How many, up to one that does not fit or is for another way (window-module.ts).
 */
export function copyBurstInWindow(
  from: number,
  to: number,
  fromHeader: number,
  toHeader: number,
  unwanted: number,
  bytesMax: number,
  most: number,
): number {
  return copyBurst(from, to, fromHeader, toHeader, unwanted, bytesMax, most);
}

/**
 * The same of up to `most` frames whose segments are laid out (FramePart of window-layout.ts): from entry `from` of a room,
 * their list at `segments`, to up to `toCount` buffers from entry `to` on. A frame is spread over `buffersMax` buffers at
 * most; the header says over how many.
 */
export function copyFramesInWindow(
  from: number,
  segments: number,
  to: number,
  toCount: number,
  buffersMax: number,
  fromHeader: number,
  toHeader: number,
  bytesMax: number,
  most: number,
): number {
  return copyFrames(from, segments, to, toCount, buffersMax, fromHeader, toHeader, bytesMax, most);
}

/** Where something is in this thread's window. */
export class WindowPlace {
  /** -1: it is elsewhere. */
  readonly page: number;
  /** Bytes behind the beginning of the page. */
  readonly at: number;

  private constructor(page: number, at: number) {
    this.page = page;
    this.at = at;
  }

  /** Of what is `skip` bytes behind the first one of a view. */
  static of({ buffer, byteOffset }: ArrayBufferView, skip = 0): WindowPlace {
    const at = byteOffset % COPY_PAGE_BYTES;
    return new WindowPlace(windowPageOf(buffer, byteOffset - at), at + skip);
  }
}

/** A guest's memory (guest-memory.ts), and the piece in which something was last found. */
interface Found {
  readonly pieceIndex: number;
  readonly pieces: readonly {
    readonly iovaHigh: number;
    readonly iovaLow: number;
    readonly sizeBytes: number;
    readonly writable: boolean;
    readonly windowPage: number;
  }[];
  /** Its table of pieces, and how many are in it. Ours. */
  pieceTable: number;
  piecesListed: number;
}

/** Where the table of a guest's pieces is in the memory of rooms: it keeps it until as many others wanted one. */
function piecesOf(memory: Found): number {
  if (owners[memory.pieceTable] !== memory) listPieces(memory);
  return PIECES_AT + memory.pieceTable * PIECE_TABLE_BYTES;
}

function listPieces(memory: Found): void {
  const table = nextTable;
  nextTable = (nextTable + 1) % PIECE_TABLES;
  owners[table] = memory;
  memory.pieceTable = table;
  let at = (table * PIECE_TABLE_BYTES) / WORD_BYTES;
  let count = 0;
  for (let i = 0; i < memory.pieces.length && count < PIECES_MAX; i++) {
    const { iovaHigh, iovaLow, sizeBytes, writable, windowPage } = memory.pieces[i]!;
    if (windowPage < 0) continue;
    pieceTables[at + PiecePart.IOVA_HIGH / WORD_BYTES] = iovaHigh;
    pieceTables[at + PiecePart.IOVA_LOW / WORD_BYTES] = iovaLow;
    pieceTables[at + PiecePart.BYTES / WORD_BYTES] = sizeBytes;
    pieceTables[at + PiecePart.WRITABLE / WORD_BYTES] = writable ? sizeBytes : 0;
    pieceTables[at + PiecePart.PAGE / WORD_BYTES] = windowPage;
    pieceTables[at + PiecePart.INDEX / WORD_BYTES] = i;
    at += PIECE_ENTRY_BYTES / WORD_BYTES;
    count++;
  }
  memory.piecesListed = count;
}

/**
 * How many of up to `most` descriptors of a packed ring from `slot` on are available, the first one under `owner` of
 * PACKED_OWNER, and chains of their own.
 */
export function lookPackedInWindow(
  { page, at }: WindowPlace,
  slot: number,
  size: number,
  owner: number,
  most: number,
): number {
  return look(page, at, slot, size, owner, most);
}

/** Lays descriptors out, as scanPacked() of plain-scan.ts does it, of buffers in the window. How many. */
export function scanPackedInWindow(
  room: number,
  { page, at }: WindowPlace,
  slot: number,
  size: number,
  count: number,
  wanted: number,
  writable: boolean,
  memory: Found,
): number {
  const pieces = piecesOf(memory);
  const part = writable ? PiecePart.WRITABLE : PiecePart.BYTES;
  const { piecesListed, pieceIndex } = memory;
  return packed(room, page, at, slot, size, count, wanted, part, pieces, piecesListed, pieceIndex);
}

/** The same as scanSplit() does it. */
export function scanSplitInWindow(
  room: number,
  table: WindowPlace,
  entries: WindowPlace,
  position: number,
  mask: number,
  count: number,
  wanted: number,
  writable: boolean,
  memory: Found,
): number {
  const pieces = piecesOf(memory);
  return split(
    room,
    table.page,
    table.at,
    entries.page,
    entries.at,
    position,
    mask,
    count,
    wanted,
    writable ? PiecePart.WRITABLE : PiecePart.BYTES,
    pieces,
    memory.piecesListed,
    memory.pieceIndex,
  );
}

/** What frames in tables have to be to be laid out. */
export interface FrameDemands {
  /** Bytes in front of each frame. */
  readonly header: number;
  /** Bits that none may have in the first word of its header. */
  readonly unwanted: number;
  /** Longest frame. */
  readonly bytesMax: number;
}

/**
 * The first `count` chains of a room, which are tables of a packed or split ring's memory, become frames with a list of
 * segments at `segments`, segmentsMax of them at most. How many, up to one with any of the bits `unfit` in the last word of
 * an entry, or that is for another way (window-module.ts).
 */
export function layTablesInWindow(
  ofPacked: boolean,
  room: number,
  segments: number,
  segmentsMax: number,
  count: number,
  unfit: number,
  { header, unwanted, bytesMax }: FrameDemands,
  memory: Found,
): number {
  const pieces = piecesOf(memory);
  const lay = ofPacked ? packedTables : splitTables;
  return lay(
    room,
    segments,
    segmentsMax,
    count,
    unfit,
    header,
    unwanted,
    bytesMax,
    pieces,
    memory.piecesListed,
    memory.pieceIndex,
  );
}
