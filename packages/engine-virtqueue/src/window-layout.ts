/** window-layout.ts: what window-module.ts and its users agree upon, and code that its functions have in common. */
import { DescriptorFlag, NetHeader, PACKED_FLAGS_SHIFT, PackedFlag } from '@virtnet/wire';
import { Access, get, i64, type Local, Op, wordAccess } from './assembler.js';
import { CHAIN_SEGMENTS_MAX, PLAIN_CHAINS_MAX } from './limits.js';

/** Offsets begin at multiples of this. */
export const COPY_PAGE_BYTES = 4096;
const COPY_PAGE_SHIFT = 12;
/** Least bytes of a copy. */
export const VECTOR_BYTES = 16;
export const WORD_BYTES = 4;
const PLAIN_PART_BYTES = PLAIN_CHAINS_MAX * WORD_BYTES;
/** Where the parts of a room are (PlainRoom of ring-room.ts), in bytes from its beginning; an entry is a word. */
export const RoomPart = {
  PAGES: 0,
  OFFSETS: PLAIN_PART_BYTES,
  LENGTHS: 2 * PLAIN_PART_BYTES,
  PIECES: 3 * PLAIN_PART_BYTES,
  IDS: 4 * PLAIN_PART_BYTES,
} as const;
export const PLAIN_ROOM_BYTES = 5 * PLAIN_PART_BYTES;
/** Of a chain that was laid out with its segments: how many there are, and the number of the first one in their list. */
export const FramePart = { SEGMENTS: RoomPart.PAGES, FIRST: RoomPart.OFFSETS } as const;
const SEGMENT_PART_BYTES = CHAIN_SEGMENTS_MAX * WORD_BYTES;
/** The same of a list of segments (ChainRoom), of CHAIN_SEGMENTS_MAX entries at most. */
export const SegmentPart = {
  PAGES: 0,
  OFFSETS: SEGMENT_PART_BYTES,
  LENGTHS: 2 * SEGMENT_PART_BYTES,
  PIECES: 3 * SEGMENT_PART_BYTES,
} as const;
export const SEGMENTS_BYTES = 4 * SEGMENT_PART_BYTES;
/**
 * A guest's pieces of memory in the window, by address, as WebAssembly looks addresses up in them: an entry's parts, in bytes
 * from its beginning. WRITABLE is as BYTES, or 0 for one that must not be written; INDEX is that in GuestMemory.pieces.
 */
export const PiecePart = { IOVA_LOW: 0, IOVA_HIGH: 4, BYTES: 8, WRITABLE: 12, PAGE: 16, INDEX: 20 } as const;
export const PIECE_ENTRY_BYTES = 32;
/** What lies in further ones is for another way. */
export const PIECES_MAX = 128;
export const PIECE_TABLE_BYTES = PIECES_MAX * PIECE_ENTRY_BYTES;
/** Of an entry in a packed ring's journal: a chain of one descriptor. */
export const ONE_SLOT = 1 << 16;
/** What tells descriptors apart, in the word that has their flags. */
export const SPLIT_KIND = DescriptorFlag.NEXT | DescriptorFlag.WRITE | DescriptorFlag.INDIRECT;
export const PACKED_KIND = SPLIT_KIND << PACKED_FLAGS_SHIFT;
export const PACKED_NEXT = DescriptorFlag.NEXT << PACKED_FLAGS_SHIFT;
/** In place of the flag that makes buffers writable: chains that are a table. */
export const SPLIT_TABLE = DescriptorFlag.INDIRECT;
export const PACKED_TABLE = SPLIT_TABLE << PACKED_FLAGS_SHIFT;
/** AVAIL and USED of a packed ring's descriptor, in the same word. */
export const PACKED_OWNER = (PackedFlag.AVAIL | PackedFlag.USED) << PACKED_FLAGS_SHIFT;
/** The last word of a plain frame's header, whose upper half is numBuffers: one buffer. */
export const ONE_BUFFER = 1 << 16;
export const LAST_WORD_AT = NetHeader.sizeBytes - WORD_BYTES;

/** Of two numbers, a page and what is added to it: the offset they stand for. */
export const toOffset = (page: readonly number[], added: readonly number[]): number[] => [
  ...[...page, ...Op.I64_FROM_I32, ...i64(COPY_PAGE_SHIFT), ...Op.I64_SHIFT_LEFT],
  ...[...added, ...Op.I64_FROM_I32, ...Op.I64_ADD],
];
/** An offset and an i32 behind it. */
export const behind = (offset: Local, added: readonly number[]): number[] => [
  ...[...get(offset), ...added, ...Op.I64_FROM_I32, ...Op.I64_ADD],
];
export const fromRoom = (room: Local, part: number): number[] => [
  ...get(room),
  ...wordAccess(Access.I32_LOAD, part),
];
export const toRoom = (room: Local, part: number, value: readonly number[]): number[] => [
  ...[...get(room), ...value],
  ...wordAccess(Access.I32_STORE, part),
];

export interface FunctionOf {
  readonly parameters: number;
  readonly returns: boolean;
  readonly body: readonly number[];
}

/** Numbers variables, from `first` on. */
export const numbered = <Name extends string>(first: Local, names: readonly Name[]): Record<Name, Local> =>
  Object.fromEntries(names.map((name, i) => [name, first + i])) as Record<Name, Local>;
