/** window-scans.ts: the functions of window-module.ts that read descriptors. */
import { DescriptorFlag, DescriptorWord, PackedDescriptor, VirtqDescriptor } from '@virtnet/wire';
import {
  Access,
  access,
  add32,
  add64,
  forever,
  get,
  i32,
  i64,
  type Local,
  leaveIf,
  Op,
  set,
  tee,
  ValueType,
  vector,
  when,
  wordAccess,
} from './assembler.js';
import { INDIRECT_ENTRIES_MAX } from './limits.js';
import {
  behind,
  FramePart,
  type FunctionOf,
  fromRoom,
  numbered,
  ONE_SLOT,
  PACKED_KIND,
  PACKED_NEXT,
  PACKED_OWNER,
  PIECE_ENTRY_BYTES,
  PiecePart,
  RoomPart,
  SegmentPart,
  SPLIT_KIND,
  toOffset,
  toRoom,
  VECTOR_BYTES,
  WORD_BYTES,
} from './window-layout.js';

const { ADDRESS_LOW, LENGTH, FLAGS_NEXT } = DescriptorWord;
const ID_MASK = 0xffff;
const ENTRY_BYTES = VirtqDescriptor.sizeBytes;
/** Bytes of a frame that is laid out here: more than any has, and so few that sums stay small. */
const FRAME_LIMIT = 2 ** 24;

/** Where a function finds an address in the guest's pieces: in which table, how many there are, and the one to begin with. */
interface Lookup {
  readonly pieces: Local;
  readonly pieceCount: Local;
  readonly piece: Local;
  /** Of the piece: where its entry is, and what that says. */
  readonly entry: Local;
  readonly iova: Local;
  readonly sizeBytes: Local;
  /** While one is looked for: which are behind it. */
  readonly end: Local;
  /** Of the buffer: its address, and how far behind that of the piece it is. */
  readonly address: Local;
  readonly distance: Local;
  readonly length: Local;
}

const toEntry = ({ pieces, entry }: Lookup, number: readonly number[]): number[] => [
  ...[...number, ...i32(Math.log2(PIECE_ENTRY_BYTES)), ...Op.I32_SHIFT_LEFT],
  ...[...get(pieces), ...Op.I32_ADD, ...set(entry)],
];

/** Loads what is known of the piece. `sizePart`: BYTES or WRITABLE. */
const loadPiece = (lookup: Lookup, sizePart: readonly number[]): number[] => [
  ...toEntry(lookup, get(lookup.piece)),
  ...[...get(lookup.entry), ...wordAccess(Access.I64_LOAD, PiecePart.IOVA_LOW), ...set(lookup.iova)],
  ...[...get(lookup.entry), ...sizePart, ...Op.I32_ADD],
  ...[...wordAccess(Access.I32_LOAD, 0), ...set(lookup.sizeBytes)],
];

/** Whether the buffer is not wholly in the piece. */
const isOutside = ({ address, iova, distance, length, sizeBytes }: Lookup): number[] => [
  ...[...get(address), ...get(iova), ...Op.I64_SUB, ...tee(distance), ...i64(0), ...Op.I64_LESS],
  ...[...get(distance), ...get(sizeBytes), ...get(length), ...Op.I32_SUB, ...Op.I64_FROM_I32, ...Op.I64_MORE],
  ...Op.I32_OR,
];

/** Finds the buffer's piece, most often the last one; leaves what is around it if there is none. */
const findPiece = (lookup: Lookup, sizePart: readonly number[]): number[] => {
  const { pieceCount, piece, entry, end, address } = lookup;
  const middle = [...get(piece), ...get(end), ...Op.I32_ADD, ...i32(1), ...Op.I32_SHIFT_RIGHT];
  return [
    ...when(isOutside(lookup), [
      // The last one that begins at the address or in front of it.
      ...[...i32(0), ...set(piece), ...get(pieceCount), ...set(end)],
      ...forever([
        ...leaveIf([...get(piece), ...get(end), ...Op.I32_NOT_LESS]),
        ...toEntry(lookup, middle),
        ...[...get(entry), ...wordAccess(Access.I64_LOAD, PiecePart.IOVA_LOW), ...get(address)],
        ...[...Op.I64_NOT_ABOVE, ...Op.IF],
        ...[...middle, ...i32(1), ...Op.I32_ADD, ...set(piece)],
        ...[...Op.ELSE, ...middle, ...set(end), ...Op.END],
      ]),
      ...add32(piece, -1),
      ...when(
        [...get(piece), ...i32(0), ...Op.I32_NOT_LESS],
        [...loadPiece(lookup, sizePart), ...when(isOutside(lookup), [...i32(-1), ...set(piece)])],
      ),
    ]),
    ...leaveIf([...get(piece), ...get(pieceCount), ...Op.I32_NOT_BELOW]),
  ];
};

/** Where in its piece the buffer is. */
const offsetIn = ({ distance }: Lookup): number[] => [...get(distance), ...Op.I32_FROM_I64];

/** Where a function that scans has what it needs: its last parameters, and then its variables. */
const scanLocals = (first: Local) =>
  numbered(first, [
    ...(['count', 'wanted', 'sizePart', 'pieces', 'pieceCount', 'piece'] as const),
    ...(['done', 'word', 'entry', 'sizeBytes', 'end', 'length'] as const),
    ...(['iova', 'address', 'distance', 'at', 'table', 'available'] as const),
  ]);
const SCAN_PARAMETERS = 6;
const SCAN_VARIABLES = vector([
  [6, ValueType.I32],
  [6, ValueType.I64],
]);

/** Judges the descriptor at `at` and lays it out; leaves where it is for another way. `id` is what its answer begins with. */
function layOut(
  locals: ReturnType<typeof scanLocals>,
  room: Local,
  kind: number,
  id: readonly number[],
): number[] {
  const { wanted, entry, done, word, address, length, at } = locals;
  const field = (index: number): number[] => [...get(at), ...access(Access.I32_LOAD, index * WORD_BYTES)];
  return [
    ...[...field(FLAGS_NEXT), ...set(word)],
    ...leaveIf([...get(word), ...i32(kind), ...Op.I32_AND, ...get(wanted), ...Op.I32_NOT_EQUAL]),
    ...[...field(LENGTH), ...set(length)],
    ...leaveIf([...get(length), ...i32(1), ...Op.I32_LESS]),
    ...[...get(at), ...access(Access.I64_LOAD, ADDRESS_LOW * WORD_BYTES), ...set(address)],
    ...findPiece(locals, get(locals.sizePart)),
    ...toRoom(room, RoomPart.IDS, id),
    ...toRoom(room, RoomPart.PAGES, fromRoom(entry, PiecePart.PAGE)),
    ...toRoom(room, RoomPart.OFFSETS, offsetIn(locals)),
    ...toRoom(room, RoomPart.LENGTHS, get(length)),
    ...toRoom(room, RoomPart.PIECES, fromRoom(entry, PiecePart.INDEX)),
    ...[...add32(room, WORD_BYTES), ...add32(done, 1)],
  ];
}

const slotBytes = (slot: Local): number[] => [
  ...[...get(slot), ...i32(Math.log2(PackedDescriptor.sizeBytes)), ...Op.I32_SHIFT_LEFT],
];

export function scanPackedFunction(): FunctionOf {
  const [room, tablePage, tableAt, slot, size] = [0, 1, 2, 3, 4] as const;
  const locals = scanLocals(5);
  const { count, done, word, at, table } = locals;
  const id = [...get(word), ...i32(ID_MASK), ...Op.I32_AND, ...i32(ONE_SLOT), ...Op.I32_OR];
  const code = [
    ...SCAN_VARIABLES,
    ...loadPiece(locals, get(locals.sizePart)),
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

export function scanSplitFunction(): FunctionOf {
  const [room, tablePage, tableAt, availablePage, availableAt, position, mask] = [
    0, 1, 2, 3, 4, 5, 6,
  ] as const;
  const locals = scanLocals(7);
  const { count, done, at, table, available, length } = locals;
  const head = length; // until the descriptor is read
  const entry = [...get(position), ...get(mask), ...Op.I32_AND, ...i32(1), ...Op.I32_SHIFT_LEFT];
  const headBytes = [...get(head), ...i32(Math.log2(VirtqDescriptor.sizeBytes)), ...Op.I32_SHIFT_LEFT];
  const code = [
    ...SCAN_VARIABLES,
    ...loadPiece(locals, get(locals.sizePart)),
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

export function lookPackedFunction(): FunctionOf {
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

/**
 * Lays the buffers out that tables of descriptors name, of either kind of ring. An entry of a split ring's table links the
 * next one, and the last one none; a packed ring's are all there is.
 */
function layTablesFunction(packed: boolean): FunctionOf {
  const parameters = [
    ...(['room', 'segments', 'segmentsMax', 'count', 'unfit'] as const),
    ...(['header', 'unwanted', 'bytesMax', 'pieces', 'pieceCount', 'piece'] as const),
  ];
  const words = [
    ...(['entry', 'sizeBytes', 'end', 'length', 'done', 'used', 'first', 'total'] as const),
    ...(['index', 'tableBytes', 'word', 'more', 'segment'] as const),
  ];
  const long = ['iova', 'address', 'distance', 'at'] as const;
  const locals = numbered(0, [...parameters, ...words, ...long]);
  const { room, segments, segmentsMax, count, unfit, header, unwanted, bytesMax } = locals;
  const { entry, length, address, done, used, first, total, index, tableBytes, word, more, segment, at } =
    locals;
  const variables = [
    [words.length, ValueType.I32],
    [long.length, ValueType.I64],
  ];
  const { NEXT } = DescriptorFlag;
  const field = (number: number): number[] => [...get(at), ...access(Access.I32_LOAD, number * WORD_BYTES)];
  const bytes = i32(PiecePart.BYTES);
  const linked = [...get(word), ...i32(NEXT), ...Op.I32_AND];
  /** What a word is that links the entry behind it: its number is `index` divided by the bytes of one. */
  const linksNext = [
    ...[...get(index), ...i32(16 - Math.log2(ENTRY_BYTES)), ...Op.I32_SHIFT_LEFT, ...i32(NEXT), ...Op.I32_OR],
  ];
  const within = [...get(index), ...get(tableBytes), ...Op.I32_LESS];
  const not = (condition: readonly number[]) => [...condition, ...i32(0), ...Op.I32_EQUAL];
  const goOn = packed
    ? [...within, ...set(more), ...leaveIf(not(get(more)))]
    : [
        ...[...linked, ...set(more), ...leaveIf(not(get(more)))],
        ...leaveIf([...get(word), ...linksNext, ...Op.I32_NOT_EQUAL]),
        ...leaveIf(not(within)),
      ];
  const entries = forever([
    ...[...i32(1), ...set(more)],
    ...leaveIf([...get(used), ...get(segmentsMax), ...Op.I32_NOT_LESS]),
    ...[...field(FLAGS_NEXT), ...set(word)],
    ...leaveIf([...get(word), ...get(unfit), ...Op.I32_AND]),
    ...[...field(LENGTH), ...set(length)],
    ...leaveIf([...get(length), ...i32(1), ...Op.I32_LESS]),
    ...[...get(at), ...access(Access.I64_LOAD, ADDRESS_LOW * WORD_BYTES), ...set(address)],
    ...findPiece(locals, bytes),
    ...leaveIf([...get(length), ...i32(FRAME_LIMIT), ...Op.I32_MORE]),
    ...[...get(total), ...get(length), ...Op.I32_ADD, ...set(total)],
    ...leaveIf([...get(total), ...i32(FRAME_LIMIT), ...Op.I32_MORE]),
    ...toRoom(segment, SegmentPart.PAGES, fromRoom(entry, PiecePart.PAGE)),
    ...toRoom(segment, SegmentPart.OFFSETS, offsetIn(locals)),
    ...toRoom(segment, SegmentPart.LENGTHS, get(length)),
    ...toRoom(segment, SegmentPart.PIECES, fromRoom(entry, PiecePart.INDEX)),
    ...[...add32(used, 1), ...add32(segment, WORD_BYTES)],
    ...[...add32(index, ENTRY_BYTES), ...add64(at, ENTRY_BYTES)],
    ...goOn,
  ]);
  /** Where the first segment's entry is, which has the header. */
  const firstSegment = [
    ...[...get(first), ...i32(Math.log2(WORD_BYTES)), ...Op.I32_SHIFT_LEFT, ...get(segments), ...Op.I32_ADD],
  ];
  const headed = entry; // the next table looks its buffers up anew
  const code = [
    ...vector(variables),
    ...[...get(segments), ...set(segment)],
    ...forever([
      ...leaveIf([...get(done), ...get(count), ...Op.I32_NOT_LESS]),
      ...[...fromRoom(room, RoomPart.LENGTHS), ...set(tableBytes)],
      ...leaveIf([...get(tableBytes), ...i32(ENTRY_BYTES - 1), ...Op.I32_AND]),
      ...leaveIf([...get(tableBytes), ...i32(INDIRECT_ENTRIES_MAX * ENTRY_BYTES), ...Op.I32_MORE]),
      ...leaveIf([...fromRoom(room, RoomPart.PAGES), ...i32(0), ...Op.I32_LESS]),
      ...[...toOffset(fromRoom(room, RoomPart.PAGES), fromRoom(room, RoomPart.OFFSETS)), ...set(at)],
      ...[...get(used), ...set(first), ...i32(0), ...set(total), ...i32(0), ...set(index)],
      ...[...loadPiece(locals, bytes), ...entries],
      ...leaveIf(get(more)),
      ...[...get(total), ...get(header), ...Op.I32_SUB, ...set(length)],
      ...leaveIf([...get(length), ...i32(VECTOR_BYTES), ...Op.I32_LESS]),
      ...leaveIf([...get(length), ...get(bytesMax), ...Op.I32_MORE]),
      // The header is in one piece, and read once.
      ...[...firstSegment, ...set(headed)],
      ...leaveIf([...fromRoom(headed, SegmentPart.LENGTHS), ...get(header), ...Op.I32_LESS]),
      ...toOffset(fromRoom(headed, SegmentPart.PAGES), fromRoom(headed, SegmentPart.OFFSETS)),
      ...leaveIf([...access(Access.I32_LOAD, 0), ...get(unwanted), ...Op.I32_AND]),
      ...toRoom(room, FramePart.SEGMENTS, [...get(used), ...get(first), ...Op.I32_SUB]),
      ...toRoom(room, FramePart.FIRST, get(first)),
      ...toRoom(room, RoomPart.LENGTHS, get(total)),
      ...[...add32(room, WORD_BYTES), ...add32(done, 1)],
    ]),
    ...[...get(done), ...Op.END],
  ];
  return { parameters: parameters.length, returns: true, body: code };
}

export const layPackedTablesFunction = (): FunctionOf => layTablesFunction(true);
export const laySplitTablesFunction = (): FunctionOf => layTablesFunction(false);
