/** assembler.ts: writes WebAssembly's binary format (WebAssembly Core 3.0, 5), as far as window-module.ts needs it. */

export const ValueType = { I32: 0x7f, I64: 0x7e, V128: 0x7b, NONE: 0x40 } as const;
export const Section = { TYPE: 1, IMPORT: 2, FUNCTION: 3, EXPORT: 7, CODE: 10 } as const;
export const FUNCTION_TYPE = 0x60;
export const MEMORY_IMPORT = 2;
export const FUNCTION_EXPORT = 0;
/** Limits of a memory: shared, with a maximum, addressed with i64; and not shared, with a maximum, addressed with i32. */
export const SHARED_64 = 0x07;
export const OWN_32 = 0x01;

/** LESS and MORE are of signed numbers, BELOW and ABOVE of unsigned ones. */
export const Op = {
  BLOCK: [0x02, ValueType.NONE],
  LOOP: [0x03, ValueType.NONE],
  IF: [0x04, ValueType.NONE],
  ELSE: [0x05],
  END: [0x0b],
  BREAK: 0x0c,
  BREAK_IF: 0x0d,
  GET: 0x20,
  SET: 0x21,
  TEE: 0x22,
  I32_CONST: 0x41,
  I64_CONST: 0x42,
  I32_EQUAL: [0x46],
  I32_NOT_EQUAL: [0x47],
  I32_LESS: [0x48],
  I32_MORE: [0x4a],
  I32_NOT_LESS: [0x4e],
  I32_NOT_BELOW: [0x4f],
  I32_ADD: [0x6a],
  I32_SUB: [0x6b],
  I32_AND: [0x71],
  I32_OR: [0x72],
  I32_XOR: [0x73],
  I32_SHIFT_LEFT: [0x74],
  I32_SHIFT_RIGHT: [0x76],
  I64_LESS: [0x53],
  I64_MORE: [0x55],
  I64_NOT_ABOVE: [0x58],
  I64_ADD: [0x7c],
  I64_SUB: [0x7d],
  I64_OR: [0x84],
  I64_SHIFT_LEFT: [0x86],
  I64_FROM_I32: [0xac],
  I32_FROM_I64: [0xa7],
  I64_NOT_ZERO: [0x50, 0x45],
  MEMORY_COPY: [0xfc, 0x0a, 0, 0],
} as const;

/** Loads and stores: their codes, and the two memories a module has. */
export const Access = {
  I32_LOAD: [0x28],
  I64_LOAD: [0x29],
  I32_LOAD_8: [0x2d],
  I32_LOAD_16: [0x2f],
  I32_STORE: [0x36],
  I64_STORE: [0x37],
  I32_STORE_8: [0x3a],
  V128_LOAD: [0xfd, 0x00],
  V128_STORE: [0xfd, 0x0b],
} as const;
/** Any alignment in memory 0; words in memory 1. */
const UNALIGNED = [0];
const WORDS = [0x42, 1];

/** Variables of a function are numbers, its parameters first. */
export type Local = number;

export function unsigned(value: number): number[] {
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

export const vector = (items: readonly (readonly number[])[]): number[] => [
  ...unsigned(items.length),
  ...items.flat(),
];
export const sized = (bytes: readonly number[]): number[] => [...unsigned(bytes.length), ...bytes];
export const name = (text: string): number[] => sized([...text].map((letter) => letter.charCodeAt(0)));
export const section = (id: number, items: readonly (readonly number[])[]): number[] => [
  id,
  ...sized(vector(items)),
];

export const get = (local: Local): number[] => [Op.GET, local];
export const set = (local: Local): number[] => [Op.SET, local];
export const tee = (local: Local): number[] => [Op.TEE, local];
export const i32 = (value: number): number[] => [Op.I32_CONST, ...signed(value)];
export const i64 = (value: number): number[] => [Op.I64_CONST, ...signed(value)];

/** An access to memory 0, `offset` bytes behind the address on the stack. */
export const access = (code: readonly number[], offset: number): number[] => [
  ...code,
  ...UNALIGNED,
  ...unsigned(offset),
];
/** The same, of a word in memory 1. */
export const wordAccess = (code: readonly number[], offset: number): number[] => [
  ...code,
  ...WORDS,
  ...unsigned(offset),
];

export const add32 = (local: Local, value: number): number[] => [
  ...get(local),
  ...i32(value),
  ...Op.I32_ADD,
  ...set(local),
];
export const add64 = (local: Local, value: number): number[] => [
  ...get(local),
  ...i64(value),
  ...Op.I64_ADD,
  ...set(local),
];
/** Repeats `body` until it leaves by `leaveIf`. */
export const forever = (body: readonly number[]): number[] => [
  ...Op.BLOCK,
  ...Op.LOOP,
  ...body,
  ...[Op.BREAK, 0, ...Op.END, ...Op.END],
];
/** In the body of `forever`, and in no block of it: ends it if the condition holds. */
export const leaveIf = (condition: readonly number[]): number[] => [...condition, Op.BREAK_IF, 1];
export const when = (condition: readonly number[], body: readonly number[]): number[] => [
  ...condition,
  ...Op.IF,
  ...body,
  ...Op.END,
];
