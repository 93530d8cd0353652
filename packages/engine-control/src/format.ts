/**
 * How values look in the command line's output: bit keys in width 5, hexadecimal strings, MAC addresses, and the
 * Python-style line that shows the parameters of a request before its answer.
 */

/** Width of a bit number used as a key, right-aligned. */
const BIT_KEY_WIDTH = 5;
const MAC_PATTERN = /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i;
export const MAC_BYTES = 6;

/** `0x` and lower-case digits. Negative values keep Python's form, `-0x1`. */
export function hexLower(value: number | bigint): string {
  return value < 0 ? `-0x${(-value).toString(16)}` : `0x${value.toString(16)}`;
}

/** `0x` and upper-case digits, as identifiers and vectors are shown. */
export function hexUpper(value: number | bigint): string {
  return `0x${value.toString(16).toUpperCase()}`;
}

/** A bit number as an object key: `"    0"`, `"   11"`. The padding also keeps JavaScript from reordering the keys. */
export function bitKey(bit: number): string {
  return String(bit).padStart(BIT_KEY_WIDTH);
}

/**
 * The object that explains a mask: `value`, then one key per bit set, ascending. Every bit set has a key, also one
 * that `labelOf` does not know: `unknown` is its label then.
 */
export function bitObject(
  mask: number | bigint,
  labelOf: (bit: number) => string | undefined,
  unknown = 'UNKNOWN',
): Record<string, string> {
  const out: Record<string, string> = { value: hexLower(mask) };
  let rest = BigInt(mask);
  for (let bit = 0; rest > 0n; bit++, rest >>= 1n)
    if ((rest & 1n) === 1n) out[bitKey(bit)] = labelOf(bit) ?? unknown;
  return out;
}

/** The six bytes of a MAC address in colon notation; null for any other text. */
export function parseMac(text: string): Uint8Array | null {
  if (!MAC_PATTERN.test(text)) return null;
  return Uint8Array.from(text.split(':'), (byte) => Number.parseInt(byte, 16));
}

/** A MAC address in upper-case colon notation. */
export function formatMac(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0').toUpperCase()).join(':');
}

/** Parameters in the order in which they are shown. Numbers are shown in hexadecimal, strings as they were typed. */
export type EchoParams = Readonly<Record<string, number | string>>;

/** The parameters as Python would print the dictionary: `{'all': '0x0', 'pf': '0x0'}`. */
export function pythonDict(params: EchoParams): string {
  const items = Object.entries(params).map(([key, value]) => {
    const shown = typeof value === 'number' ? hexLower(value) : value;
    return `${pythonString(key)}: ${pythonString(shown)}`;
  });
  return `{${items.join(', ')}}`;
}

const SHORT_ESCAPES: Readonly<Record<string, string>> = {
  '\\': '\\\\',
  '\n': '\\n',
  '\r': '\\r',
  '\t': '\\t',
};

/** A string literal as Python's repr() writes it. The result has no control characters, whatever the text has. */
export function pythonString(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  let out = quote;
  for (const character of text) {
    if (character === quote) out += `\\${character}`;
    else if (character in SHORT_ESCAPES) out += SHORT_ESCAPES[character];
    else if (character !== ' ' && /[\p{C}\p{Z}]/u.test(character)) out += codePointEscape(character);
    else out += character;
  }
  return out + quote;
}

function codePointEscape(character: string): string {
  const point = character.codePointAt(0)!;
  if (point < 0x100) return `\\x${point.toString(16).padStart(2, '0')}`;
  if (point < 0x1_0000) return `\\u${point.toString(16).padStart(4, '0')}`;
  return `\\U${point.toString(16).padStart(8, '0')}`;
}
