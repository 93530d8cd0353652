import { HASH_KEY_BYTES_MAX } from '@virtnet/wire';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { INPUT_BYTES_MAX, Toeplitz } from './toeplitz.js';

/** The definition: for each set bit of the input, the 32 leftmost bits of the key shifted so far. */
function byDefinition(key: readonly number[], input: Uint8Array): number {
  let bits = 0n;
  for (const byte of key) bits = (bits << 8n) | BigInt(byte);
  let sum = 0n;
  for (let i = 0; i < input.length * 8; i++) {
    if (((input[i >> 3]! >> (7 - (i & 7))) & 1) === 0) continue;
    sum ^= (bits >> BigInt(key.length * 8 - 32 - i)) & 0xffff_ffffn;
  }
  return Number(sum) | 0;
}

describe('RSS-1 Toeplitz', () => {
  it('is what its definition says, for any key and input', () => {
    const bytes = (least: number, most: number) => fc.uint8Array({ minLength: least, maxLength: most });
    fc.assert(
      fc.property(bytes(HASH_KEY_BYTES_MAX, HASH_KEY_BYTES_MAX), bytes(0, INPUT_BYTES_MAX), (key, input) => {
        expect(new Toeplitz(key).hash(input, input.length)).toBe(byDefinition([...key], input));
      }),
    );
  });

  it('a key that is too short is one with zeros behind it', () => {
    const input = Uint8Array.from({ length: INPUT_BYTES_MAX }, (_, i) => 37 * i);
    const key = [0x6d, 0x5a, 0x56, 0xda, 0x25];
    const long = [...key, ...new Array(HASH_KEY_BYTES_MAX - key.length).fill(0)];
    expect(new Toeplitz(key).hash(input, input.length)).toBe(byDefinition(long, input));
    expect(new Toeplitz([]).hash(input, input.length)).toBe(0);
  });
});
