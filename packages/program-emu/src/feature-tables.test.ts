/** What planning takes for a set of features that can be offered, and what a device is made with, are the same. */
import { featureProblem } from '@virtnet/engine-control';
import { featureProblems, SUPPORTED_FEATURES } from '@virtnet/engine-virtio-net';
import { featureMask } from '@virtnet/wire';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';

const planned = (mask: bigint) => featureProblem(mask) === null;
const made = (mask: bigint) => featureProblems(mask, 'offered').length === 0;

describe('the two tables of what features need', () => {
  it('agree about every pair of bits, and about everything without them', () => {
    for (let one = 0; one < 64; one++)
      for (let other = one; other < 64; other++) {
        const pair = featureMask([one, other]);
        expect(planned(pair), `${one}, ${other}`).toBe(made(pair));
        const rest = (2n ** 64n - 1n) & ~pair;
        expect(planned(rest), `all but ${one}, ${other}`).toBe(made(rest));
      }
  });

  it('agree about any set', () => {
    const supported = fc.bigInt(0n, 2n ** 64n - 1n).map((bits) => bits & SUPPORTED_FEATURES);
    fc.assert(
      fc.property(supported, (mask) => {
        expect(planned(mask)).toBe(made(mask));
      }),
      { numRuns: 2000 },
    );
  });
});
