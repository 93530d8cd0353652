import { describe, expect, test } from 'vitest';
import { between, type Hiccup, quantileMs, type Reading, reasonOf } from './hiccup-analysis.ts';

const none: Hiccup = { gapMs: 1, waitedMs: 0, collectedMs: 0, deoptimised: false, faults: 0 };
const histogram = (...counts: (readonly [us: number, count: number])[]): Float64Array => {
  const bins = new Float64Array(1_000);
  for (const [us, count] of counts) bins[us] = count;
  return bins;
};
const reading = (change: Partial<Reading>): Reading => ({
  turns: 0,
  histogram: histogram(),
  noted: 0,
  hiccups: [],
  ...change,
});

describe('the reason of a late turn', () => {
  test.each<[string, Partial<Hiccup>, ReturnType<typeof reasonOf>]>([
    ['nothing is known', {}, 'machine'],
    ['it waited most of the time', { waitedMs: 0.5 }, 'scheduler'],
    ['it waited for less than that', { waitedMs: 0.4 }, 'machine'],
    ['the collector ran most of the time', { collectedMs: 0.6 }, 'collector'],
    [
      'the collector ran, but what took long was that it waited',
      { collectedMs: 1, waitedMs: 0.8 },
      'scheduler',
    ],
    ['code was given up', { deoptimised: true }, 'deoptimisation'],
    ['a page or two', { faults: 2 }, 'machine'],
    ['very many pages', { faults: 2_000 }, 'page faults'],
  ])('%s', (_, change, reason) => {
    expect(reasonOf({ ...none, ...change })).toBe(reason);
  });
});

describe('what happened in a window', () => {
  test('a quantile is the upper end of its microsecond', () => {
    const turns = histogram([5, 9_990], [200, 9], [900, 1]);
    expect(quantileMs(turns, 0.5)).toBeCloseTo(0.006, 9);
    expect(quantileMs(turns, 0.999)).toBeCloseTo(0.006, 9);
    expect(quantileMs(turns, 0.9999)).toBeCloseTo(0.201, 9);
    expect(quantileMs(turns, 1)).toBeCloseTo(0.901, 9);
    expect(quantileMs(histogram(), 0.5)).toBeNaN();
  });

  test('what was before it does not count', () => {
    const slow = { ...none, gapMs: 50 };
    const before = reading({ turns: 10, histogram: histogram([10, 9], [999, 1]), noted: 1, hiccups: [slow] });
    const late = [0.5, 2, 0.7].map((gapMs) => ({ ...none, gapMs, waitedMs: gapMs === 2 ? 2 : 0 }));
    const after = reading({
      turns: 1_010,
      histogram: histogram([10, 1_006], [500, 1], [700, 1], [999, 2]),
      noted: 4,
      hiccups: [slow, ...late],
    });
    const { turns, p50Ms, maxMs, worst, reasons, ranP9999Ms, p9999Ms, longest } = between(before, after);
    expect(turns).toBe(1_000);
    expect(p50Ms).toBeCloseTo(0.011, 9);
    expect(maxMs).toBe(2);
    expect(worst.map(({ gapMs, reason }) => [gapMs, reason])).toEqual([
      [2, 'scheduler'],
      [0.7, 'machine'],
      [0.5, 'machine'],
    ]);
    expect(reasons).toEqual({ scheduler: { late: 1, long: 1 }, machine: { late: 2, long: 0 } });
    // Whatever is longer than the histogram is in its last place.
    expect([1, 2, 3, 4].map(longest)).toEqual([1, 0.701, 0.501, 0.011].map((ms) => expect.closeTo(ms, 9)));
    expect([p9999Ms, ranP9999Ms]).toEqual([1, 0.701].map((ms) => expect.closeTo(ms, 9)));
  });

  test('of more late turns than are kept, those that are', () => {
    const kept = reading({ noted: 100, hiccups: [none, none] });
    expect(between(reading({}), kept).worst).toHaveLength(2);
  });
});
