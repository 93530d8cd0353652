/**
 * copy-module.ts: a WebAssembly module of one function, which copies bytes inside its memory.
 *
 * Theory
 *   JavaScript has no wider word than eight bytes, and its block copies cost some 30 ns before the first byte. WebAssembly
 *   has 16-byte vectors, and a call of it costs as much as one of a function. The module is so small that it is
 *   assembled here, instruction by instruction.
 *
 *     copy(toPage: i32, to: i32, fromPage: i32, from: i32, bytes: i32)
 *       bytes >= BULK_BYTES_MIN: memory.copy
 *       else four vectors a turn, then one a turn, then the last VECTOR_BYTES once more, some of which are there already.
 *
 *   An offset is passed as a page and what is added to it, because JavaScript would have to allocate a BigInt for an i64,
 *   and a number on its heap for an f64.
 *
 * Limits  at least VECTOR_BYTES; every byte inside the memory, or the call traps.
 * Spec    WebAssembly Core 3.0, 5 (binary format).
 */

/** Offsets begin at multiples of this. */
export const COPY_PAGE_BYTES = 4096;
const COPY_PAGE_SHIFT = 12;
/** Least bytes of a copy. */
export const VECTOR_BYTES = 16;
/** From here on the C library's own copy is faster than a loop of vectors. */
const BULK_BYTES_MIN = 512;
const VECTORS_A_TURN = 4;

const ValueType = { I32: 0x7f, I64: 0x7e, V128: 0x7b, NONE: 0x40 } as const;
const Section = { TYPE: 1, IMPORT: 2, FUNCTION: 3, EXPORT: 7, CODE: 10 } as const;
const FUNCTION_TYPE = 0x60;
const MEMORY_IMPORT = 2;
const FUNCTION_EXPORT = 0;
/** Limits of a memory: shared, with a maximum, addressed with i64. */
const SHARED_64 = 0x07;
/** Of an instruction that reads or writes memory: any alignment. */
const UNALIGNED = 0;

const Op = {
  BLOCK: [0x02, ValueType.NONE],
  LOOP: [0x03, ValueType.NONE],
  IF: [0x04, ValueType.NONE],
  END: [0x0b],
  BREAK: 0x0c,
  BREAK_IF: 0x0d,
  RETURN: [0x0f],
  GET: 0x20,
  SET: 0x21,
  I32_CONST: 0x41,
  I64_CONST: 0x42,
  I32_LESS: [0x48],
  I32_NOT_LESS: [0x4e],
  I32_SUB: [0x6b],
  I64_ADD: [0x7c],
  I64_SHIFT_LEFT: [0x86],
  I64_FROM_I32: [0xac],
  V128_LOAD: [0xfd, 0x00],
  V128_STORE: [0xfd, 0x0b],
  MEMORY_COPY: [0xfc, 0x0a, 0, 0],
} as const;

/** Parameters and variables of the function. */
const Local = { TO_PAGE: 0, TO: 1, FROM_PAGE: 2, FROM: 3, LEFT: 4, VECTOR: 5, TARGET: 6, SOURCE: 7 } as const;

const PARAMETERS = Array.from({ length: 5 }, () => [ValueType.I32]);
const { TARGET, SOURCE, LEFT, VECTOR } = Local;

function unsigned(value: number): number[] {
  const bytes: number[] = [];
  for (let rest = value; ; rest = Math.floor(rest / 128)) {
    if (rest < 128) return [...bytes, rest];
    bytes.push((rest % 128) | 0x80);
  }
}

function signed(value: number): number[] {
  const bytes: number[] = [];
  for (let rest = value; ; rest >>= 7) {
    if (rest >= -64 && rest < 64) return [...bytes, rest & 0x7f];
    bytes.push((rest & 0x7f) | 0x80);
  }
}

const vector = (items: readonly (readonly number[])[]): number[] => [
  ...unsigned(items.length),
  ...items.flat(),
];
const sized = (bytes: readonly number[]): number[] => [...unsigned(bytes.length), ...bytes];
const name = (text: string): number[] => sized([...text].map((letter) => letter.charCodeAt(0)));
const section = (id: number, items: readonly (readonly number[])[]): number[] => [
  id,
  ...sized(vector(items)),
];

const get = (local: number): number[] => [Op.GET, local];
const set = (local: number): number[] => [Op.SET, local];
const i32 = (value: number): number[] => [Op.I32_CONST, ...signed(value)];
const i64 = (value: number): number[] => [Op.I64_CONST, ...signed(value)];
const load = (offset: number): number[] => [...Op.V128_LOAD, UNALIGNED, ...unsigned(offset)];
const store = (offset: number): number[] => [...Op.V128_STORE, UNALIGNED, ...unsigned(offset)];
const offsetOf = (page: number, added: number, local: number): number[] => [
  ...[...get(page), ...Op.I64_FROM_I32, ...i64(COPY_PAGE_SHIFT), ...Op.I64_SHIFT_LEFT],
  ...[...get(added), ...Op.I64_FROM_I32, ...Op.I64_ADD],
  ...set(local),
];
const moveOn = (local: number, bytes: number): number[] => [
  ...get(local),
  ...i64(bytes),
  ...Op.I64_ADD,
  ...set(local),
];

/** Copies so many vectors a turn while there are as many. */
function turns(vectors: number): number[] {
  const bytes = vectors * VECTOR_BYTES;
  const copies = Array.from({ length: vectors }, (_, i) => [
    ...get(TARGET),
    ...get(SOURCE),
    ...load(i * VECTOR_BYTES),
    ...store(i * VECTOR_BYTES),
  ]);
  return [
    ...[...Op.BLOCK, ...Op.LOOP],
    ...[...get(LEFT), ...i32(bytes), ...Op.I32_LESS, Op.BREAK_IF, 1],
    ...copies.flat(),
    ...[...moveOn(TARGET, bytes), ...moveOn(SOURCE, bytes)],
    ...[...get(LEFT), ...i32(bytes), ...Op.I32_SUB, ...set(LEFT)],
    ...[Op.BREAK, 0],
    ...[...Op.END, ...Op.END],
  ];
}

/** Where the last vector ends: `local` and what is left. */
const lastVector = (local: number): number[] => [
  ...[...get(local), ...get(LEFT), ...Op.I64_FROM_I32, ...Op.I64_ADD],
  ...[...i64(-VECTOR_BYTES), ...Op.I64_ADD],
];

function copyFunction(): number[] {
  const variables = vector([
    [1, ValueType.V128],
    [2, ValueType.I64],
  ]);
  return sized([
    ...variables,
    ...offsetOf(Local.TO_PAGE, Local.TO, TARGET),
    ...offsetOf(Local.FROM_PAGE, Local.FROM, SOURCE),
    ...[...get(LEFT), ...i32(BULK_BYTES_MIN), ...Op.I32_NOT_LESS],
    ...Op.IF,
    ...[...get(TARGET), ...get(SOURCE), ...get(LEFT), ...Op.I64_FROM_I32, ...Op.MEMORY_COPY],
    ...[...Op.RETURN, ...Op.END],
    ...turns(VECTORS_A_TURN),
    ...turns(1),
    ...[...get(LEFT), ...Op.IF],
    ...[...lastVector(SOURCE), ...load(0), ...set(VECTOR)],
    ...[...lastVector(TARGET), ...get(VECTOR), ...store(0)],
    ...[...Op.END, ...Op.END],
  ]);
}

/** The module in the binary format: imports window.memory, shared and of exactly `pages` pages, and exports `copy`. */
export function copyModule(pages: number): Uint8Array<ArrayBuffer> {
  const copyType = [FUNCTION_TYPE, ...vector(PARAMETERS), 0];
  const memory = [MEMORY_IMPORT, SHARED_64, ...unsigned(pages), ...unsigned(pages)];
  return new Uint8Array([
    ...[0, ...[...'asm'].map((letter) => letter.charCodeAt(0)), 1, 0, 0, 0],
    ...section(Section.TYPE, [copyType]),
    ...section(Section.IMPORT, [[...name('window'), ...name('memory'), ...memory]]),
    ...section(Section.FUNCTION, [[0]]),
    ...section(Section.EXPORT, [[...name('copy'), FUNCTION_EXPORT, 0]]),
    ...section(Section.CODE, [copyFunction()]),
  ]);
}
