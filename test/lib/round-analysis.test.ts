import { describe, expect, test } from 'vitest';
import {
  compare,
  countDiscards,
  discardOf,
  geometricMean,
  slowerThan,
  type Window,
} from './round-analysis.ts';

const sound: Window = {
  side: 'virtnet',
  round: 0,
  framesPerSecond: 10,
  pingPongNs: [30, 35],
  waited: { driver: 0, device: 0.01 },
  windowError: 0.001,
  frames: { driver: 1000, device: 1000 },
  onTheWay: 100,
};
let rounds = 0;
/** The only window of a round of its own. */
const round = (side: Window['side'], framesPerSecond: number, ns = 30): Window => ({
  ...sound,
  side,
  round: rounds++,
  framesPerSecond,
  pingPongNs: [ns, ns],
});

describe('a window is left out', () => {
  test.each<[string, Partial<Window>, ReturnType<typeof discardOf>]>([
    ['sound', {}, null],
    ['far is a state as good as near', { pingPongNs: [160, 170] }, null],
    ['near before, far after', { pingPongNs: [30, 165] }, 'state changed'],
    ['the driver waited for a processor', { waited: { driver: 0.1, device: 0 } }, 'no processor'],
    ['the device waited for a processor', { waited: { driver: 0, device: 0.5 } }, 'no processor'],
    ['nobody knows how long it was', { windowError: 0.1 }, 'clock'],
    ['not one frame', { framesPerSecond: 0 }, 'nothing moved'],
    ['frames on the way', { frames: { driver: 1000, device: 901 } }, null],
    ['more than can be on the way', { frames: { driver: 1000, device: 899 } }, 'frames missing'],
    ['the same the other way', { frames: { driver: 899, device: 1000 } }, 'frames missing'],
  ])('%s', (_, change, reason) => {
    expect(discardOf({ ...sound, ...change })).toBe(reason);
  });

  test('how many and why is counted', () => {
    const rounds = [sound, { ...sound, windowError: 1 }, { ...sound, windowError: 1 }];
    expect(countDiscards(rounds)).toEqual({ clock: 2 });
  });
});

describe('comparison', () => {
  test('medians of both sides and their ratio', () => {
    const rounds = [
      ...[8, 12, 100].map((rate) => round('virtnet', rate)),
      ...[5, 7].map((rate) => round('dpdk', rate)),
    ];
    expect(compare(rounds)).toEqual([
      {
        state: 'near',
        virtnet: { rounds: 3, windows: 3, median: 12, lower: 10, upper: 56, min: 8, max: 100 },
        dpdk: { rounds: 2, windows: 2, median: 6, lower: 5.5, upper: 6.5, min: 5, max: 7 },
        ratio: 2,
      },
    ]);
  });

  test('only rounds of the same state meet: both states are reported when both occur', () => {
    const rounds = [
      ...[10, 10].map((rate) => round('virtnet', rate)),
      ...[2, 2].map((rate) => round('virtnet', rate, 165)),
      ...[5, 5].map((rate) => round('dpdk', rate)),
      ...[4, 4].map((rate) => round('dpdk', rate, 165)),
    ];
    expect(compare(rounds).map(({ state, ratio }) => [state, ratio])).toEqual([
      ['near', 2],
      ['far', 0.5],
    ]);
  });

  test('windows of one round only say nothing, those of two do', () => {
    const both = [round('dpdk', 5), round('dpdk', 5)];
    const first = round('virtnet', 10);
    expect(compare([...both, first, { ...first, framesPerSecond: 20 }])).toEqual([]);
    const [comparison] = compare([...both, first, { ...first, framesPerSecond: 20 }, round('virtnet', 20)]);
    expect(comparison?.virtnet).toMatchObject({ rounds: 2, windows: 3, median: 20 });
  });

  test('one side near and the other far say nothing about each other, nor does a single round', () => {
    const twice = [round('virtnet', 10), round('virtnet', 10)];
    expect(compare([...twice, round('dpdk', 5, 165), round('dpdk', 5, 165)])).toEqual([]);
    expect(compare([...twice, round('dpdk', 5)])).toEqual([]);
  });

  test('a discarded round does not count', () => {
    const rounds = [round('virtnet', 10), round('virtnet', 10), round('dpdk', 5), round('dpdk', 5)];
    const [comparison] = compare([...rounds, { ...round('dpdk', 1000), windowError: 1 }]);
    expect(comparison?.dpdk.max).toBe(5);
  });
});

test('the geometric mean of a half and two is one', () => {
  expect(geometricMean([0.5, 2])).toBeCloseTo(1);
});

describe('a run beside a former one', () => {
  const cell = (name: string, virtnet: readonly number[], dpdk = [10, 10], ns = 30) => ({
    cell: name,
    comparisons: compare([
      ...virtnet.map((rate) => round('virtnet', rate, ns)),
      ...dpdk.map((rate) => round('dpdk', rate, ns)),
    ]),
  });

  test('what lost more than a twentieth is named, the worst first, and whether the rounds leave a doubt', () => {
    const before = [cell('a', [10, 10]), cell('b', [10, 10]), cell('c', [10, 10]), cell('d', [10, 10])];
    const now = [cell('a', [9.6, 9.6]), cell('b', [9, 9]), cell('c', [4, 12.4]), cell('d', [20, 20])];
    expect(slowerThan(before, now)).toEqual([
      { cell: 'c', state: 'near', before: 1, now: 0.82, certain: false },
      { cell: 'b', state: 'near', before: 1, now: 0.9, certain: true },
    ]);
  });

  test('a slower machine is not a slower device', () => {
    expect(slowerThan([cell('a', [10, 10])], [cell('a', [5, 5], [5, 5])])).toEqual([]);
  });

  test('another state of the machine, and cells that only one of them has, are not compared', () => {
    expect(slowerThan([cell('a', [10, 10])], [cell('a', [5, 5], [10, 10], 160)])).toEqual([]);
    expect(slowerThan([cell('a', [10, 10])], [cell('b', [5, 5])])).toEqual([]);
  });
});
