/**
 * window-module.ts: a WebAssembly module of six functions, which read descriptors and copy frames inside its memory.
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
 *     lookPacked(tablePage, table, slot, size, owner, most) -> count
 *       how many of up to `most` descriptors from `slot` on are available, and chains of their own. `owner` is what AVAIL
 *       and USED are in the first one.
 *     scanPacked(room, tablePage, table, slot, size, count, wanted, iovaHigh, iovaLow, sizeBytes, page, piece) -> count
 *     scanSplit(room, tablePage, table, availablePage, available, position, mask, count, wanted, ... the same) -> count
 *       lay descriptors out in a room; how many, up to one of another kind, one without a byte, or one that is not wholly
 *       in the piece of memory that begins at address (iovaHigh, iovaLow).
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
  DescriptorFlag,
  DescriptorWord,
  NetHeader,
  PACKED_FLAGS_SHIFT,
  PackedDescriptor,
  PackedFlag,
  VirtqDescriptor,
} from '@virtnet/wire';
import {
  Access,
  access,
  add32,
  add64,
  FUNCTION_EXPORT,
  FUNCTION_TYPE,
  forever,
  get,
  i32,
  i64,
  type Local,
  leaveIf,
  MEMORY_IMPORT,
  name,
  Op,
  OWN_32,
  Section,
  SHARED_64,
  section,
  set,
  sized,
  tee,
  unsigned,
  ValueType,
  vector,
  when,
  wordAccess,
} from './assembler.js';
import { CHAIN_SEGMENTS_MAX, PLAIN_CHAINS_MAX } from './limits.js';

/** Offsets begin at multiples of this. */
export const COPY_PAGE_BYTES = 4096;
const COPY_PAGE_SHIFT = 12;
/** Least bytes of a copy. */
export const VECTOR_BYTES = 16;
const WORD_BYTES = 4;
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
const SEGMENT_PART_BYTES = CHAIN_SEGMENTS_MAX * WORD_BYTES;
/** The same of a list of segments (ChainRoom), of CHAIN_SEGMENTS_MAX entries at most. */
export const SegmentPart = {
  PAGES: 0,
  OFFSETS: SEGMENT_PART_BYTES,
  LENGTHS: 2 * SEGMENT_PART_BYTES,
} as const;
export const SEGMENTS_BYTES = 3 * SEGMENT_PART_BYTES;
/** Of an entry in a packed ring's journal: a chain of one descriptor. */
export const ONE_SLOT = 1 << 16;
/** What tells descriptors apart, in the word that has their flags. */
export const SPLIT_KIND = DescriptorFlag.NEXT | DescriptorFlag.WRITE | DescriptorFlag.INDIRECT;
export const PACKED_KIND = SPLIT_KIND << PACKED_FLAGS_SHIFT;
const PACKED_NEXT = DescriptorFlag.NEXT << PACKED_FLAGS_SHIFT;
/** AVAIL and USED of a packed ring's descriptor, in the same word. */
export const PACKED_OWNER = (PackedFlag.AVAIL | PackedFlag.USED) << PACKED_FLAGS_SHIFT;
/** From here on the C library's own copy is faster than a loop of vectors. */
const BULK_BYTES_MIN = 512;
const VECTORS_A_TURN = 4;
const ID_MASK = 0xffff;
/** The last word of a plain frame's header, whose upper half is numBuffers: one buffer. */
export const ONE_BUFFER = 1 << 16;
const LAST_WORD_AT = NetHeader.sizeBytes - WORD_BYTES;

/** Of two numbers, a page and what is added to it: the offset they stand for. */
const toOffset = (page: readonly number[], added: readonly number[]): number[] => [
  ...[...page, ...Op.I64_FROM_I32, ...i64(COPY_PAGE_SHIFT), ...Op.I64_SHIFT_LEFT],
  ...[...added, ...Op.I64_FROM_I32, ...Op.I64_ADD],
];
/** An offset and an i32 behind it. */
const behind = (offset: Local, added: readonly number[]): number[] => [
  ...[...get(offset), ...added, ...Op.I64_FROM_I32, ...Op.I64_ADD],
];
const fromRoom = (room: Local, part: number): number[] => [
  ...get(room),
  ...wordAccess(Access.I32_LOAD, part),
];
const toRoom = (room: Local, part: number, value: readonly number[]): number[] => [
  ...[...get(room), ...value],
  ...wordAccess(Access.I32_STORE, part),
];

/** Variables of a function that copies. */
interface CopyLocals {
  readonly left: Local;
  readonly vector: Local;
  readonly target: Local;
  readonly source: Local;
}

/** Copies so many vectors a turn while there are as many. */
function turns(vectors: number, { left, target, source }: CopyLocals): number[] {
  const bytes = vectors * VECTOR_BYTES;
  const copies = Array.from({ length: vectors }, (_, i) => [
    ...[...get(target), ...get(source)],
    ...access(Access.V128_LOAD, i * VECTOR_BYTES),
    ...access(Access.V128_STORE, i * VECTOR_BYTES),
  ]);
  return forever([
    ...leaveIf([...get(left), ...i32(bytes), ...Op.I32_LESS]),
    ...copies.flat(),
    ...[...add64(target, bytes), ...add64(source, bytes), ...add32(left, -bytes)],
  ]);
}

/** Copies `left` bytes from `source` to `target`. */
function copyBytes(locals: CopyLocals): number[] {
  const { left, vector: last, target, source } = locals;
  /** Where the last vector begins. */
  const lastVector = (end: Local): number[] => [
    ...[...behind(end, get(left)), ...i64(-VECTOR_BYTES), ...Op.I64_ADD],
  ];
  return [
    ...[...get(left), ...i32(BULK_BYTES_MIN), ...Op.I32_NOT_LESS],
    ...Op.IF,
    ...[...get(target), ...get(source), ...get(left), ...Op.I64_FROM_I32, ...Op.MEMORY_COPY],
    ...Op.ELSE,
    ...turns(VECTORS_A_TURN, locals),
    ...turns(1, locals),
    ...when(get(left), [
      ...[...lastVector(source), ...access(Access.V128_LOAD, 0), ...set(last)],
      ...[...lastVector(target), ...get(last), ...access(Access.V128_STORE, 0)],
    ]),
    ...Op.END,
  ];
}

interface FunctionOf {
  readonly parameters: number;
  readonly returns: boolean;
  readonly body: readonly number[];
}

function copyFunction(): FunctionOf {
  const [toPage, to, fromPage, from] = [0, 1, 2, 3] as const;
  const variables = [
    [1, ValueType.V128],
    [2, ValueType.I64],
  ];
  const locals = { left: 4, vector: 5, target: 6, source: 7 };
  const code = [
    ...vector(variables),
    ...[...toOffset(get(toPage), get(to)), ...set(locals.target)],
    ...[...toOffset(get(fromPage), get(from)), ...set(locals.source)],
    ...copyBytes(locals),
    ...Op.END,
  ];
  return { parameters: 5, returns: false, body: code };
}

/** Writes the header of a plain frame to `target`, unless it is there. */
const plainHeader = (target: Local): number[] =>
  when(
    [
      ...[...get(target), ...access(Access.I64_LOAD, 0), ...Op.I64_NOT_ZERO],
      ...[...get(target), ...access(Access.I32_LOAD, LAST_WORD_AT), ...i32(ONE_BUFFER), ...Op.I32_XOR],
      ...Op.I32_OR,
    ],
    [
      ...[...get(target), ...i64(0), ...access(Access.I64_STORE, 0)],
      ...[...get(target), ...i32(ONE_BUFFER), ...access(Access.I32_STORE, LAST_WORD_AT)],
    ],
  );

/** Parameters and variables of a function that makes many copies; what `other` is, is its own. */
const MANY_PARAMETERS = 7;
const MANY_LOCALS = { left: 7, vector: 8, target: 9, source: 10, done: 11, other: 12 } as const;
const MANY_VARIABLES = vector([
  [1, ValueType.I32],
  [1, ValueType.V128],
  [2, ValueType.I64],
  [2, ValueType.I32],
]);

function copyBurstFunction(): FunctionOf {
  const [from, to, fromHeader, toHeader, unwanted, bytesMax, most] = [0, 1, 2, 3, 4, 5, 6] as const;
  const { left, target, source, done, other: page } = MANY_LOCALS;
  const { PAGES, OFFSETS, LENGTHS } = RoomPart;
  const room = [...fromRoom(to, LENGTHS), ...get(toHeader), ...Op.I32_SUB];
  const pages = [...fromRoom(from, PAGES), ...fromRoom(to, PAGES), ...tee(page), ...Op.I32_OR];
  const code = [
    ...MANY_VARIABLES,
    ...forever([
      ...leaveIf([...get(done), ...get(most), ...Op.I32_NOT_LESS]),
      ...[...fromRoom(from, LENGTHS), ...get(fromHeader), ...Op.I32_SUB, ...set(left)],
      ...leaveIf([...get(left), ...room, ...Op.I32_MORE]),
      ...leaveIf([...get(left), ...get(bytesMax), ...Op.I32_MORE]),
      ...leaveIf([...get(left), ...i32(VECTOR_BYTES), ...Op.I32_LESS]),
      ...leaveIf([...pages, ...i32(0), ...Op.I32_LESS]),
      ...[...toOffset(fromRoom(from, PAGES), fromRoom(from, OFFSETS)), ...set(source)],
      ...leaveIf([...get(source), ...access(Access.I32_LOAD, 0), ...get(unwanted), ...Op.I32_AND]),
      ...[...behind(source, get(fromHeader)), ...set(source)],
      ...[...toOffset(get(page), fromRoom(to, OFFSETS)), ...set(target)],
      ...when(get(toHeader), [...plainHeader(target), ...behind(target, get(toHeader)), ...set(target)]),
      ...copyBytes(MANY_LOCALS),
      ...[...add32(from, WORD_BYTES), ...add32(to, WORD_BYTES), ...add32(done, 1)],
    ]),
    ...[...get(done), ...Op.END],
  ];
  return { parameters: MANY_PARAMETERS, returns: true, body: code };
}

/** Copies `left` bytes, however few. */
const copyAny = (locals: CopyLocals): number[] => [
  ...[...get(locals.left), ...i32(VECTOR_BYTES), ...Op.I32_NOT_LESS],
  ...Op.IF,
  ...copyBytes(locals),
  ...Op.ELSE,
  ...forever([
    ...leaveIf([...get(locals.left), ...i32(1), ...Op.I32_LESS]),
    ...[...get(locals.target), ...get(locals.source)],
    ...[...access(Access.I32_LOAD_8, 0), ...access(Access.I32_STORE_8, 0)],
    ...[...add64(locals.target, 1), ...add64(locals.source, 1), ...add32(locals.left, -1)],
  ]),
  ...Op.END,
];

function copySegmentsFunction(): FunctionOf {
  const [from, fromCount, fromSkip, to, toCount, toSkip, bytes] = [0, 1, 2, 3, 4, 5, 6] as const;
  const { left, target, source, done, other: room } = MANY_LOCALS;
  const { PAGES, OFFSETS, LENGTHS } = SegmentPart;
  /** What is left of a segment becomes `room`; a segment that is left behind is passed. */
  const segment = (list: Local, count: Local, skip: Local) => [
    ...leaveIf([...get(count), ...i32(1), ...Op.I32_LESS]),
    ...[...fromRoom(list, LENGTHS), ...get(skip), ...Op.I32_SUB, ...set(room)],
    ...when(
      [...get(room), ...i32(1), ...Op.I32_LESS],
      [
        ...[...i32(0), ...get(room), ...Op.I32_SUB, ...set(skip)],
        ...[...add32(list, WORD_BYTES), ...add32(count, -1)],
        ...[Op.BREAK, 1],
      ],
    ),
  ];
  const atMostRoom = when([...get(left), ...get(room), ...Op.I32_MORE], [...get(room), ...set(left)]);
  const place = (list: Local, skip: Local) =>
    toOffset(fromRoom(list, PAGES), [...fromRoom(list, OFFSETS), ...get(skip), ...Op.I32_ADD]);
  const moveOn = (skip: Local) => [...get(skip), ...get(left), ...Op.I32_ADD, ...set(skip)];
  const code = [
    ...MANY_VARIABLES,
    ...forever([
      ...leaveIf([...get(done), ...get(bytes), ...Op.I32_NOT_LESS]),
      ...[...get(bytes), ...get(done), ...Op.I32_SUB, ...set(left)],
      ...[...segment(from, fromCount, fromSkip), ...atMostRoom],
      ...[...segment(to, toCount, toSkip), ...atMostRoom],
      ...leaveIf([...fromRoom(from, PAGES), ...fromRoom(to, PAGES), ...Op.I32_OR, ...i32(0), ...Op.I32_LESS]),
      ...[...place(from, fromSkip), ...set(source), ...place(to, toSkip), ...set(target)],
      ...[...moveOn(fromSkip), ...moveOn(toSkip), ...moveOn(done)],
      ...copyAny(MANY_LOCALS),
    ]),
    ...[...get(done), ...Op.END],
  ];
  return { parameters: MANY_PARAMETERS, returns: true, body: code };
}

/** Where a function that scans has what it needs: its last parameters, and then its variables. */
function scanLocals(first: Local) {
  const [count, wanted, iovaHigh, iovaLow, sizeBytes, page, piece] = [0, 1, 2, 3, 4, 5, 6].map(
    (i) => first + i,
  ) as [Local, Local, Local, Local, Local, Local, Local];
  const [done, word, length, offset, at, table, available] = [7, 8, 9, 10, 11, 12, 13].map(
    (i) => first + i,
  ) as [Local, Local, Local, Local, Local, Local, Local];
  const parameters = { count, wanted, iovaHigh, iovaLow, sizeBytes, page, piece };
  return { ...parameters, done, word, length, offset, at, table, available };
}
const SCAN_PARAMETERS = 7;
const SCAN_VARIABLES = vector([
  [4, ValueType.I32],
  [3, ValueType.I64],
]);

/** Judges the descriptor at `at` and lays it out; leaves where it is for another way. `id` is what its answer begins with. */
function layOut(
  locals: ReturnType<typeof scanLocals>,
  room: Local,
  kind: number,
  id: readonly number[],
): number[] {
  const { wanted, iovaHigh, iovaLow, sizeBytes, page, piece, done, word, length, offset, at } = locals;
  const { ADDRESS_LOW, ADDRESS_HIGH, LENGTH, FLAGS_NEXT } = DescriptorWord;
  const field = (index: number): number[] => [...get(at), ...access(Access.I32_LOAD, index * WORD_BYTES)];
  return [
    ...[...field(FLAGS_NEXT), ...set(word)],
    ...leaveIf([...get(word), ...i32(kind), ...Op.I32_AND, ...get(wanted), ...Op.I32_NOT_EQUAL]),
    ...[...field(LENGTH), ...set(length)],
    ...leaveIf([...get(length), ...i32(1), ...Op.I32_LESS]),
    ...leaveIf([...field(ADDRESS_HIGH), ...get(iovaHigh), ...Op.I32_NOT_EQUAL]),
    ...[...field(ADDRESS_LOW), ...get(iovaLow), ...Op.I32_SUB, ...set(offset)],
    ...leaveIf([...get(offset), ...i32(0), ...Op.I32_LESS]),
    ...leaveIf([...get(length), ...get(sizeBytes), ...get(offset), ...Op.I32_SUB, ...Op.I32_MORE]),
    ...toRoom(room, RoomPart.IDS, id),
    ...toRoom(room, RoomPart.PAGES, get(page)),
    ...toRoom(room, RoomPart.OFFSETS, get(offset)),
    ...toRoom(room, RoomPart.LENGTHS, get(length)),
    ...toRoom(room, RoomPart.PIECES, get(piece)),
    ...[...add32(room, WORD_BYTES), ...add32(done, 1)],
  ];
}

const slotBytes = (slot: Local): number[] => [
  ...[...get(slot), ...i32(Math.log2(PackedDescriptor.sizeBytes)), ...Op.I32_SHIFT_LEFT],
];

function scanPackedFunction(): FunctionOf {
  const [room, tablePage, tableAt, slot, size] = [0, 1, 2, 3, 4] as const;
  const locals = scanLocals(5);
  const { count, done, word, at, table } = locals;
  const id = [...get(word), ...i32(ID_MASK), ...Op.I32_AND, ...i32(ONE_SLOT), ...Op.I32_OR];
  const code = [
    ...SCAN_VARIABLES,
    ...[...toOffset(get(tablePage), get(tableAt)), ...set(table)],
    ...[...behind(table, slotBytes(slot)), ...set(at)],
    ...forever([
      ...leaveIf([...get(done), ...get(count), ...Op.I32_NOT_LESS]),
      ...layOut(locals, room, PACKED_KIND, id),
      ...[...add64(at, PackedDescriptor.sizeBytes), ...add32(slot, 1)],
      ...when(
        [...get(slot), ...get(size), ...Op.I32_EQUAL],
        [...get(table), ...set(at), ...i32(0), ...set(slot)],
      ),
    ]),
    ...[...get(done), ...Op.END],
  ];
  return { parameters: 5 + SCAN_PARAMETERS, returns: true, body: code };
}

function scanSplitFunction(): FunctionOf {
  const [room, tablePage, tableAt, availablePage, availableAt, position, mask] = [
    0, 1, 2, 3, 4, 5, 6,
  ] as const;
  const locals = scanLocals(7);
  const { count, done, at, table, available, offset } = locals;
  const head = offset; // until the descriptor is read
  const entry = [...get(position), ...get(mask), ...Op.I32_AND, ...i32(1), ...Op.I32_SHIFT_LEFT];
  const headBytes = [...get(head), ...i32(Math.log2(VirtqDescriptor.sizeBytes)), ...Op.I32_SHIFT_LEFT];
  const code = [
    ...SCAN_VARIABLES,
    ...[...toOffset(get(tablePage), get(tableAt)), ...set(table)],
    ...[...toOffset(get(availablePage), get(availableAt)), ...set(available)],
    ...forever([
      ...leaveIf([...get(done), ...get(count), ...Op.I32_NOT_LESS]),
      ...[...behind(available, entry), ...access(Access.I32_LOAD_16, 0), ...set(head)],
      ...leaveIf([...get(head), ...get(mask), ...Op.I32_MORE]),
      ...[...behind(table, headBytes), ...set(at)],
      // Kept in the room, which has it in any case: the descriptor may turn out to be for another way.
      ...toRoom(room, RoomPart.IDS, get(head)),
      ...layOut(locals, room, SPLIT_KIND, fromRoom(room, RoomPart.IDS)),
      ...add32(position, 1),
    ]),
    ...[...get(done), ...Op.END],
  ];
  return { parameters: 7 + SCAN_PARAMETERS, returns: true, body: code };
}

function lookPackedFunction(): FunctionOf {
  const [tablePage, tableAt, slot, size, owner, most] = [0, 1, 2, 3, 4, 5] as const;
  const [done, word, at, table] = [6, 7, 8, 9] as const;
  const variables = vector([
    [2, ValueType.I32],
    [2, ValueType.I64],
  ]);
  const flags = access(Access.I32_LOAD, DescriptorWord.FLAGS_NEXT * WORD_BYTES);
  const code = [
    ...variables,
    ...[...toOffset(get(tablePage), get(tableAt)), ...set(table)],
    ...[...behind(table, slotBytes(slot)), ...set(at)],
    ...forever([
      ...leaveIf([...get(done), ...get(most), ...Op.I32_NOT_LESS]),
      ...[...get(at), ...flags, ...i32(PACKED_OWNER | PACKED_NEXT), ...Op.I32_AND, ...set(word)],
      ...leaveIf([...get(word), ...get(owner), ...Op.I32_NOT_EQUAL]),
      ...[...add32(done, 1), ...add64(at, PackedDescriptor.sizeBytes), ...add32(slot, 1)],
      ...when(
        [...get(slot), ...get(size), ...Op.I32_EQUAL],
        [
          ...[...get(table), ...set(at), ...i32(0), ...set(slot)],
          ...[...get(owner), ...i32(PACKED_OWNER), ...Op.I32_XOR, ...set(owner)],
        ],
      ),
    ]),
    ...[...get(done), ...Op.END],
  ];
  return { parameters: 6, returns: true, body: code };
}

/** What the module exports, in their order. */
const FUNCTIONS = {
  copy: copyFunction,
  copyBurst: copyBurstFunction,
  copySegments: copySegmentsFunction,
  lookPacked: lookPackedFunction,
  scanPacked: scanPackedFunction,
  scanSplit: scanSplitFunction,
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
