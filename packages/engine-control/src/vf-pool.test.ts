import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CONTROL_ERRORS, isFailure } from './errors.js';
import {
  pairsWithVectors,
  shareWarning,
  shareWithPairs,
  shareWithVectors,
  type VfShare,
  vfPool,
} from './vf-pool.js';

const errnoOf = (name: string) => CONTROL_ERRORS.find((row) => row.name === name)!.errno;

/** A PF whose VFs start with 32 vectors and 32 queue pairs, as in the guide's two examples. */
const rules = {
  initial: { msixVectors: 32, queuePairs: 32 },
  most: { msixVectors: 256, queuePairs: 127 },
};

class Pf {
  readonly shares: VfShare[] = [rules.initial, rules.initial];

  get pool() {
    return vfPool(rules, this.shares);
  }

  modify(vf: number, option: 'n' | 'qp', value: number): number {
    const change = option === 'n' ? shareWithVectors : shareWithPairs;
    const share = change(this.pool, this.shares[vf]!, value);
    if (isFailure(share)) return share.errno;
    this.shares[vf] = share;
    return 0;
  }
}

describe('MSI-X vectors and queue pairs of VFs', () => {
  it('the guide’s example of MSI-X: VF 1 gives 28 vectors back, VF 0 takes 16 of them', () => {
    const pf = new Pf();
    expect(pf.pool.msixFree).toBe(0);
    expect(pf.modify(1, 'n', 4)).toBe(0);
    expect(pf.pool.msixFree).toBe(28);
    expect(pf.modify(0, 'n', 48)).toBe(0);
    expect([pf.shares.map((share) => share.msixVectors), pf.pool.msixFree]).toEqual([[48, 4], 12]);
  });

  it('the guide’s example of queue pairs: VF 1 keeps one, VF 0 is set to 23', () => {
    const pf = new Pf();
    expect(pf.modify(1, 'qp', 1)).toBe(0);
    expect(pf.pool.queuePairsFree).toBe(31);
    expect(pf.modify(0, 'qp', 23)).toBe(0);
    expect([pf.shares.map((share) => share.queuePairs), pf.pool.queuePairsFree]).toEqual([[23, 1], 40]);
  });

  it('more than the pool has is refused, by the row of what is missing', () => {
    const pf = new Pf();
    expect(pf.modify(0, 'n', 34)).toBe(errnoOf('MSIX_INVALID'));
    expect(pf.modify(0, 'qp', 33)).toBe(errnoOf('QUEUES_INVALID'));
    pf.modify(1, 'n', 4);
    expect(pf.modify(0, 'n', 62)).toBe(errnoOf('MSIX_INVALID'));
    expect(pf.modify(0, 'n', 60)).toBe(0);
  });

  it.for([2, 3, 5, 33, 258, -2])('%i vectors are no number of vectors', (vectors) => {
    const pf = new Pf();
    pf.modify(1, 'n', 0);
    expect(pf.modify(0, 'n', vectors)).toBe(errnoOf('MSIX_INVALID'));
  });

  it('more than the cap is refused even if the pool has it', () => {
    const small = { ...rules, most: { msixVectors: 40, queuePairs: 33 } };
    const pool = vfPool(small, [rules.initial, { msixVectors: 0, queuePairs: 0 }]);
    expect(shareWithVectors(pool, rules.initial, 42)).toMatchObject({ errno: errnoOf('MSIX_INVALID') });
    expect(shareWithPairs(pool, rules.initial, 34)).toMatchObject({ errno: errnoOf('QUEUES_INVALID') });
  });

  it('vectors decide about queue pairs: two for each, one for configuration, one for control', () => {
    expect([4, 32, 48, 64, 256].map(pairsWithVectors)).toEqual([1, 15, 23, 31, 127]);
  });

  it('a VF may be left with nothing, which is answered with a warning', () => {
    const pf = new Pf();
    expect(pf.modify(0, 'n', 0)).toBe(0);
    expect(pf.shares[0]).toEqual({ msixVectors: 0, queuePairs: 0 });
    expect(shareWarning(pf.shares[0]!)).toBe('DEV_NOT_FUNCTIONAL');
    expect(shareWarning(pf.shares[1]!)).toBe(null);
  });

  it('whatever is asked for, nothing is given away that is not there, and nothing is lost', () => {
    const step = fc.record({
      vf: fc.integer({ min: 0, max: 1 }),
      option: fc.constantFrom<'n' | 'qp'>('n', 'qp'),
      value: fc.integer({ min: -2, max: 140 }),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
        const pf = new Pf();
        for (const { vf, option, value } of steps) pf.modify(vf, option, value);
        const { msixFree, queuePairsFree } = pf.pool;
        expect(Math.min(msixFree, queuePairsFree)).toBeGreaterThanOrEqual(0);
        const total = pf.shares.reduce((sum, share) => sum + share.msixVectors, msixFree);
        expect(total).toBe(2 * rules.initial.msixVectors);
      }),
    );
  });
});
