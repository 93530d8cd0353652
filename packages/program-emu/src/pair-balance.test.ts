import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  EASY_LOAD,
  GAIN,
  type GroupMove,
  LASTING_PERIODS,
  type LoadedGroup,
  PairBalance,
  REST_PERIODS,
} from './pair-balance.js';

/** As many periods without a move as show that there will be none: everybody has rested and been looked at. */
const QUIET = REST_PERIODS + LASTING_PERIODS;
const BUSY = 4 * EASY_LOAD;

interface Group extends LoadedGroup {
  worker: number;
  load: number;
}

const group = (id: string, worker: number, load: number, stay = false): Group => ({ id, worker, load, stay });

function loadsOf(groups: readonly Group[], workers: number): number[] {
  const loads = new Array<number>(workers).fill(0);
  for (const { worker, load } of groups) loads[worker]! += load;
  return loads;
}

/** Follows what is named until nothing is for long; calls `before` with each move and the period it came in. */
function settle(
  workers: number,
  groups: readonly Group[],
  before: (move: GroupMove<Group>, period: number) => void = () => {},
): number {
  const balance = new PairBalance(workers);
  let moves = 0;
  for (let period = 1, quiet = 0; quiet < QUIET; period++, quiet++) {
    const move = balance.next(groups);
    if (move === null) continue;
    before(move, period);
    move.group.worker = move.to;
    moves++;
    quiet = 0;
    if (moves > 100 * groups.length) throw new Error('it does not come to rest');
  }
  return moves;
}

const system = fc.integer({ min: 2, max: 8 }).chain((workers) =>
  fc.record({
    workers: fc.constant(workers),
    groups: fc
      .array(
        fc.record({
          worker: fc.nat(workers - 1),
          load: fc.oneof(fc.nat(1_000_000), fc.nat(EASY_LOAD), fc.constant(0), fc.constant(BUSY)),
          stay: fc.oneof({ weight: 3, arbitrary: fc.constant(false) }, fc.constant(true)),
        }),
        { maxLength: 24 },
      )
      .map((list) => list.map((each, i) => ({ ...each, id: `${i}` }))),
  }),
);

describe('pair balance', () => {
  it('two busy pairs on one worker of two: one of them goes, when that has lasted', () => {
    const groups = [group('a', 0, BUSY), group('b', 0, BUSY)];
    const moves: [string, number, number][] = [];
    expect(settle(2, groups, ({ group: { id }, to }, period) => moves.push([id, to, period]))).toBe(1);
    expect(moves).toEqual([['a', 1, LASTING_PERIODS]]);
  });

  it('a single busy pair stays: whoever had it would be as busy', () => {
    expect(settle(2, [group('a', 0, BUSY), group('b', 0, BUSY / 10)])).toBe(0);
  });

  it('a load that one worker carries easily stays together', () => {
    expect(settle(2, [group('a', 0, EASY_LOAD / 2 - 1), group('b', 0, EASY_LOAD / 2)])).toBe(0);
    expect(settle(2, [group('a', 0, EASY_LOAD / 2), group('b', 0, EASY_LOAD / 2)])).toBe(1);
  });

  it('a gain of less than an eighth moves nothing', () => {
    const least = BUSY * GAIN;
    expect(settle(2, [group('a', 0, BUSY - least + 1), group('b', 0, least - 1)])).toBe(0);
    expect(settle(2, [group('a', 0, BUSY - least - 1), group('b', 0, least + 1)])).toBe(1);
  });

  it('of several that could go, the one after which the busier has least', () => {
    const groups = [group('small', 0, BUSY / 4), group('half', 0, BUSY), group('large', 0, 2 * BUSY)];
    const [first] = named(groups, 2);
    expect(first?.group.id).toBe('large');
    groups.push(group('other', 1, BUSY));
    const [second] = named(groups, 2);
    expect(second?.group.id).toBe('half');
  });

  /** What is named in the periods of one imbalance, nothing of which is carried out. */
  function named(groups: readonly Group[], workers: number): GroupMove<Group>[] {
    const balance = new PairBalance(workers);
    return Array.from({ length: LASTING_PERIODS }, () => balance.next(groups)).filter(
      (move) => move !== null,
    );
  }

  it('an imbalance that comes and goes moves nothing', () => {
    const balance = new PairBalance(2);
    const groups = [group('a', 0, BUSY), group('b', 0, BUSY)];
    const quiet = groups.map((each) => ({ ...each, load: 0 }));
    for (let period = 1; period < 100; period++)
      expect(balance.next(period % LASTING_PERIODS === 0 ? quiet : groups)).toBeNull();
  });

  it('two workers that take turns at being the busiest by a little are both relieved by a third', () => {
    const balance = new PairBalance(3);
    const groups = [0, 0, 1, 1].map((worker, i) => group(`${i}`, worker, BUSY));
    const move = Array.from({ length: LASTING_PERIODS }, (_, period) => {
      for (const each of groups) each.load = BUSY + ((period + each.worker) % 2);
      return balance.next(groups);
    }).at(-1);
    expect(move?.to).toBe(2);
  });

  it('what was named rests, whatever becomes of the loads; others do not', () => {
    const balance = new PairBalance(2);
    const groups = [group('a', 0, BUSY), group('b', 0, BUSY)];
    const periodsOf = new Map<string, number[]>();
    for (let period = 1; period <= 4 * REST_PERIODS; period++) {
      // Whoever names one finds both where that one went: as bad a luck as there can be.
      const move = balance.next(groups);
      if (move === null) continue;
      for (const each of groups) each.worker = move.to;
      periodsOf.set(move.group.id, [...(periodsOf.get(move.group.id) ?? []), period]);
    }
    expect(periodsOf.size).toBe(2);
    for (const periods of periodsOf.values()) {
      expect(periods.length).toBeGreaterThan(1);
      for (let i = 1; i < periods.length; i++)
        expect(periods[i]! - periods[i - 1]!).toBeGreaterThanOrEqual(REST_PERIODS);
    }
  });

  it('of two workers that are too busy the busier is relieved first; one that cannot be keeps nobody waiting', () => {
    const groups = [0, 0, 1, 1].map((worker, i) => group(`${i}`, worker, BUSY + worker));
    expect(named(groups, 3)[0]?.group.id).toBe('2');
    groups.push(group('switch', 0, 10 * BUSY, true));
    expect(named(groups.slice(2), 3)[0]?.group.id).toBe('2');
  });

  it('each move makes its worker less busy by an eighth or more, the other stays below that, and who has to stay stays', () => {
    fc.assert(
      fc.property(system, ({ workers, groups }) => {
        let most = Math.max(...loadsOf(groups, workers));
        settle(workers, groups, ({ group: { worker: from, load, stay }, to }) => {
          const loads = loadsOf(groups, workers);
          const before = loads[from]!;
          expect(stay).toBe(false);
          expect(before).toBeGreaterThanOrEqual(EASY_LOAD);
          expect(Math.max(before - load, loads[to]! + load)).toBeLessThanOrEqual(before * (1 - GAIN));
          expect(Math.max(...loads)).toBeLessThanOrEqual(most);
          most = Math.max(...loads);
        });
      }),
    );
  });

  it('under loads that stay as they are everything comes to rest, and is never twice the same', () => {
    fc.assert(
      fc.property(system, ({ workers, groups }) => {
        const seen = new Set<string>();
        settle(workers, groups, () => {
          const where = groups.map(({ worker }) => worker).join();
          expect(seen.has(where)).toBe(false);
          seen.add(where);
        });
      }),
    );
  });

  it('when it has come to rest no single move would be worth it', () => {
    fc.assert(
      fc.property(system, ({ workers, groups }) => {
        settle(workers, groups);
        const loads = loadsOf(groups, workers);
        for (const { worker, load, stay } of groups) {
          const before = loads[worker]!;
          if (stay || before < EASY_LOAD) continue;
          for (let to = 0; to < workers; to++) {
            if (to === worker) continue;
            const busier = Math.max(before - load, loads[to]! + load);
            expect(busier).toBeGreaterThanOrEqual(before * (1 - GAIN));
          }
        }
      }),
    );
  });

  it('one move in so many periods, however the loads change', () => {
    const rounds = fc.array(fc.array(fc.nat(1_000_000), { minLength: 12, maxLength: 12 }), { maxLength: 60 });
    fc.assert(
      fc.property(rounds, (list) => {
        const balance = new PairBalance(4);
        const groups = Array.from({ length: 12 }, (_, i) => group(`${i}`, i % 4, 0));
        let last = 0;
        for (const [i, loads] of list.entries()) {
          for (const [at, load] of loads.entries()) groups[at]!.load = load;
          const move = balance.next(groups);
          if (move === null) continue;
          expect(i + 1 - last).toBeGreaterThanOrEqual(LASTING_PERIODS);
          last = i + 1;
          move.group.worker = move.to;
        }
      }),
    );
  });
});
