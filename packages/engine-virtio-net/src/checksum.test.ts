import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { foldSum, SUM_BYTES_MAX, sumWords } from './checksum.js';

/** As RFC 1071 writes it down. */
function naive(bytes: Uint8Array): number {
  let sum = 0;
  for (let i = 0; i < bytes.length; i += 2) sum += bytes[i]! * 256 + (bytes[i + 1] ?? 0);
  while (sum > 0xffff) sum = (sum % 0x1_0000) + Math.floor(sum / 0x1_0000);
  return sum;
}

const viewOf = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

describe('Internet checksum', () => {
  it('is the sum RFC 1071 asks for, whatever the length and the alignment', () => {
    const ranges = fc.tuple(fc.uint8Array({ maxLength: 300 }), fc.nat(20), fc.nat(20));
    fc.assert(
      fc.property(ranges, ([bytes, head, tail]) => {
        const from = Math.min(head, bytes.length);
        const to = Math.max(from, bytes.length - tail);
        // 0 and 0xffff are one number in one's complement, and only zeros sum up to 0.
        expect(sumWords(viewOf(bytes), from, to)).toBe(naive(bytes.subarray(from, to)));
      }),
      { numRuns: 500 },
    );
  });

  it('does not overflow at its limit', () => {
    const ones = new Uint8Array(SUM_BYTES_MAX).fill(0xff);
    expect(sumWords(viewOf(ones), 0, ones.length)).toBe(0xffff);
    expect(foldSum(0x7fff_ffff)).toBe(naive(new Uint8Array([0x7f, 0xff, 0xff, 0xff])));
  });
});
