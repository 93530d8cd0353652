/** Text of any characters at all, for properties. */
import fc from 'fast-check';

function toPoint(text: unknown): number {
  if (typeof text !== 'string' || [...text].length !== 1) throw new TypeError('not one character');
  return text.codePointAt(0)!;
}

/** Every code point but the surrogates. fast-check's own `binary` takes seconds of a processor to be made. */
const character = fc
  .oneof(
    fc.integer({ min: 0x20, max: 0x7e }), // what the grammars here are made of
    fc.integer({ min: 0, max: 0xd7ff }),
    fc.integer({ min: 0xe000, max: 0x10ffff }),
  )
  .map((point) => String.fromCodePoint(point), toPoint);

/** @param maxLength in characters */
export const anyText = (maxLength?: number): fc.Arbitrary<string> =>
  fc.string({ unit: character, ...(maxLength === undefined ? {} : { maxLength }) });
