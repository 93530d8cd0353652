/** window-copies.ts: the functions of window-module.ts that copy. */
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
} from './assembler.js';
import {
  behind,
  FramePart,
  type FunctionOf,
  fromRoom,
  LAST_WORD_AT,
  numbered,
  ONE_BUFFER,
  RoomPart,
  SegmentPart,
  toOffset,
  VECTOR_BYTES,
  WORD_BYTES,
} from './window-layout.js';

/** From here on the C library's own copy is faster than a loop of vectors. */
const BULK_BYTES_MIN = 512;
const VECTORS_A_TURN = 4;
/** Of numBuffers, which is the upper half of the header's last word. */
const BUFFERS_SHIFT = 16;

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

export function copyFunction(): FunctionOf {
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

/** Writes the header of a plain frame, whose last word is `last`, to `target`, unless it is there. */
const plainHeader = (target: Local, last: readonly number[]): number[] =>
  when(
    [
      ...[...get(target), ...access(Access.I64_LOAD, 0), ...Op.I64_NOT_ZERO],
      ...[...get(target), ...access(Access.I32_LOAD, LAST_WORD_AT), ...last, ...Op.I32_XOR],
      ...Op.I32_OR,
    ],
    [
      ...[...get(target), ...i64(0), ...access(Access.I64_STORE, 0)],
      ...[...get(target), ...last, ...access(Access.I32_STORE, LAST_WORD_AT)],
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

export function copyBurstFunction(): FunctionOf {
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
      ...when(get(toHeader), [
        ...plainHeader(target, i32(ONE_BUFFER)),
        ...behind(target, get(toHeader)),
        ...set(target),
      ]),
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

/** A list of segments that is walked: where its next entry is, how many are left, and bytes to pass over. */
interface Walk {
  readonly list: Local;
  readonly count: Local;
  readonly skip: Local;
  readonly parts: { readonly PAGES: number; readonly OFFSETS: number; readonly LENGTHS: number };
}

/**
 * Copies `bytes` bytes between two lists; `done` becomes how many, up to the end of a list or a segment outside of the
 * window.
 */
function copyWalks(
  from: Walk,
  to: Walk,
  bytes: Local,
  locals: CopyLocals,
  done: Local,
  room: Local,
): number[] {
  const { left, target, source } = locals;
  /** What is left of a segment becomes `room`; a segment that is left behind is passed. */
  const segment = ({ list, count, skip, parts }: Walk) => [
    ...leaveIf([...get(count), ...i32(1), ...Op.I32_LESS]),
    ...[...fromRoom(list, parts.LENGTHS), ...get(skip), ...Op.I32_SUB, ...set(room)],
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
  const page = ({ list, parts }: Walk) => fromRoom(list, parts.PAGES);
  const place = ({ list, skip, parts }: Walk) =>
    toOffset(fromRoom(list, parts.PAGES), [...fromRoom(list, parts.OFFSETS), ...get(skip), ...Op.I32_ADD]);
  const moveOn = (skip: Local) => [...get(skip), ...get(left), ...Op.I32_ADD, ...set(skip)];
  return forever([
    ...leaveIf([...get(done), ...get(bytes), ...Op.I32_NOT_LESS]),
    ...[...get(bytes), ...get(done), ...Op.I32_SUB, ...set(left)],
    ...[...segment(from), ...atMostRoom],
    ...[...segment(to), ...atMostRoom],
    ...leaveIf([...page(from), ...page(to), ...Op.I32_OR, ...i32(0), ...Op.I32_LESS]),
    ...[...place(from), ...set(source), ...place(to), ...set(target)],
    ...[...moveOn(from.skip), ...moveOn(to.skip), ...moveOn(done)],
    ...copyAny(locals),
  ]);
}

export function copySegmentsFunction(): FunctionOf {
  const [from, fromCount, fromSkip, to, toCount, toSkip, bytes] = [0, 1, 2, 3, 4, 5, 6] as const;
  const { done, other: room } = MANY_LOCALS;
  const source = { list: from, count: fromCount, skip: fromSkip, parts: SegmentPart };
  const target = { list: to, count: toCount, skip: toSkip, parts: SegmentPart };
  const code = [
    ...MANY_VARIABLES,
    ...copyWalks(source, target, bytes, MANY_LOCALS, done, room),
    ...[...get(done), ...Op.END],
  ];
  return { parameters: MANY_PARAMETERS, returns: true, body: code };
}

export function copyFramesFunction(): FunctionOf {
  const parameters = [
    ...(['from', 'segments', 'to', 'toCount', 'buffersMax'] as const),
    ...(['fromHeader', 'toHeader', 'bytesMax', 'most'] as const),
  ];
  const words = [
    ...(['frames', 'left', 'copied', 'room', 'bytes', 'needed', 'buffers', 'capacity', 'pages'] as const),
    ...(['list', 'listCount', 'fromSkip', 'toList', 'toListCount', 'toSkip'] as const),
  ];
  const locals = numbered(0, [...parameters, ...words, 'vector', 'target', 'source']);
  const { from, segments, to, toCount, buffersMax, fromHeader, toHeader, bytesMax, most } = locals;
  const { frames, copied, room, bytes, needed, buffers, capacity, pages, target } = locals;
  const { list, listCount, fromSkip, toList, toListCount, toSkip } = locals;
  const variables = [
    [words.length, ValueType.I32],
    [1, ValueType.V128],
    [2, ValueType.I64],
  ];
  const inWords = (number: readonly number[]) => [
    ...[...number, ...i32(Math.log2(WORD_BYTES)), ...Op.I32_SHIFT_LEFT],
  ];
  const walked = { list, count: listCount, skip: fromSkip, parts: SegmentPart };
  const filled = { list: toList, count: toListCount, skip: toSkip, parts: RoomPart };
  /** As many buffers as the frame needs, or there are. */
  const takeBuffers = forever([
    ...leaveIf([...get(capacity), ...get(needed), ...Op.I32_NOT_LESS]),
    ...leaveIf([...get(buffers), ...get(buffersMax), ...Op.I32_NOT_LESS]),
    ...leaveIf([...get(buffers), ...get(toCount), ...Op.I32_NOT_LESS]),
    ...[...get(capacity), ...fromRoom(toList, RoomPart.LENGTHS), ...Op.I32_ADD, ...set(capacity)],
    ...[...get(pages), ...fromRoom(toList, RoomPart.PAGES), ...Op.I32_OR, ...set(pages)],
    ...[...add32(toList, WORD_BYTES), ...add32(buffers, 1)],
  ]);
  const zero = (...all: readonly Local[]) => all.flatMap((local) => [...i32(0), ...set(local)]);
  const last = [...get(buffers), ...i32(BUFFERS_SHIFT), ...Op.I32_SHIFT_LEFT];
  const code = [
    ...vector(variables),
    ...forever([
      ...leaveIf([...get(frames), ...get(most), ...Op.I32_NOT_LESS]),
      ...[...fromRoom(from, RoomPart.LENGTHS), ...get(fromHeader), ...Op.I32_SUB, ...set(bytes)],
      ...leaveIf([...get(bytes), ...get(bytesMax), ...Op.I32_MORE]),
      ...[...get(bytes), ...get(toHeader), ...Op.I32_ADD, ...set(needed)],
      ...[...zero(buffers, capacity, pages, copied), ...get(to), ...set(toList), ...takeBuffers],
      ...leaveIf([...get(capacity), ...get(needed), ...Op.I32_LESS]),
      ...leaveIf([...get(pages), ...i32(0), ...Op.I32_LESS]),
      ...leaveIf([...fromRoom(to, RoomPart.LENGTHS), ...get(toHeader), ...Op.I32_LESS]),
      ...[...get(segments), ...inWords(fromRoom(from, FramePart.FIRST)), ...Op.I32_ADD, ...set(list)],
      ...[...fromRoom(from, FramePart.SEGMENTS), ...set(listCount), ...get(fromHeader), ...set(fromSkip)],
      ...[...get(to), ...set(toList), ...get(buffers), ...set(toListCount), ...get(toHeader), ...set(toSkip)],
      ...when(get(toHeader), [
        ...[...toOffset(fromRoom(to, RoomPart.PAGES), fromRoom(to, RoomPart.OFFSETS)), ...set(target)],
        ...plainHeader(target, last),
      ]),
      ...copyWalks(walked, filled, bytes, locals, copied, room),
      ...leaveIf([...get(copied), ...get(bytes), ...Op.I32_LESS]),
      ...[...add32(from, WORD_BYTES), ...add32(frames, 1)],
      ...[...get(toCount), ...get(buffers), ...Op.I32_SUB, ...set(toCount)],
      ...[...inWords(get(buffers)), ...get(to), ...Op.I32_ADD, ...set(to)],
    ]),
    ...[...get(frames), ...Op.END],
  ];
  return { parameters: parameters.length, returns: true, body: code };
}
