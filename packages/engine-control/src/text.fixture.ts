/** Text of any characters at all, for properties. */
import fc from 'fast-check';

/** Every code point but the surrogates. fast-check's own `binary` takes seconds of a processor to be made. */
const character = fc
  .oneof(fc.integer({ min: 0, max: 0xd7ff }), fc.integer({ min: 0xe000, max: 0x10ffff }))
  .map((point) => String.fromCodePoint(point));

/** @param maxLength in characters */
export const anyText = (maxLength?: number): fc.Arbitrary<string> =>
  fc.string({ unit: character, ...(maxLength === undefined ? {} : { maxLength }) });
