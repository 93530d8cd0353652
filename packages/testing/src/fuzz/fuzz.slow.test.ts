/** A short run of every fuzzer, the same each time, and that each of its alarms goes off. */
import { describe, expect, it } from 'vitest';
import { FuzzFailure, type FuzzTarget, fuzz, runCase } from './fuzzer.js';
import { GuardedMemory } from './guarded-memory.js';
import { FUZZ_TARGETS } from './targets.js';

const CASES = 1_500;
/** For a machine that does much else meanwhile. */
const TIMEOUT_MS = 60_000;
const SEED = 20_261_126;

describe.each(Object.entries(FUZZ_TARGETS))('fuzzing %s', (_, make) => {
  it(
    `${CASES} cases: nothing happens that must not`,
    () => {
      const report = fuzz(make(), { seed: SEED, more: (cases) => cases < CASES });
      expect(report.problems).toEqual([]);
      expect(report.corpus).toBeGreaterThan(10);
    },
    TIMEOUT_MS,
  );
});

describe('a fuzzer', () => {
  const finds = (name: string, run: FuzzTarget['run']): FuzzTarget => ({
    name,
    seeds: [new Uint8Array(4)],
    run,
  });

  it('finds its way to a value it is led to step by step, and tells of it once', () => {
    const target = finds('steps', (input, watch) => {
      for (const [i, wanted] of [7, 64, 255].entries()) {
        if (input[i] !== wanted) return;
        watch.saw(i);
      }
      throw new FuzzFailure(`found in case ${input[3]}`);
    });
    const { problems } = fuzz(target, { seed: 1, more: (cases) => cases < 60_000 });
    expect(problems.map(({ input }) => [...input.subarray(0, 3)])).toEqual([[7, 64, 255]]);
  });

  it('tells of what throws, and of a step that is slow each time', () => {
    const throws = finds('throws', () => {
      throw new TypeError('not this');
    });
    expect(runCase(throws, new Uint8Array(1)).problem).toContain('TypeError: not this');
    const slow = finds('slow', (_, watch) => {
      watch.step(() => {
        for (const end = performance.now() + 1.2; performance.now() < end; );
      });
    });
    const { problems } = fuzz(slow, { seed: 1, more: (cases) => cases < 1 });
    expect(problems.map(({ message }) => message)).toEqual([expect.stringMatching(/^a step took \d/)]);
  });

  it('does not take a step for slow that something delayed a dozen times', () => {
    let runs = 0;
    const delayed = finds('delayed', (_, watch) => {
      const end = performance.now() + (runs++ < 12 ? 20 : 0);
      watch.step(() => {
        while (performance.now() < end);
      });
    });
    const { problems, slowestMs } = fuzz(delayed, { seed: 1, more: () => false });
    expect(problems).toEqual([]);
    expect(runs).toBeGreaterThan(12);
    expect(slowestMs).toBeLessThan(20);
  });

  it('does not take a case for slow of which each run delays another step', () => {
    let runs = 0;
    const busy = finds('busy', (_, watch) => {
      const delayed = runs++ % 3;
      for (let step = 0; step < 3; step++) {
        const end = performance.now() + (step === delayed ? 20 : 0);
        watch.step(() => {
          while (performance.now() < end);
        });
      }
    });
    const { problems, slowestMs } = fuzz(busy, { seed: 1, more: () => false });
    expect(problems).toEqual([]);
    expect(slowestMs).toBeLessThan(20);
  });

  it('repeats itself with the same seed', () => {
    const make = FUZZ_TARGETS.split!;
    const run = () => fuzz(make(), { seed: 5, more: (cases) => cases < 300 });
    const [first, second] = [run(), run()];
    expect([second.corpus, second.features]).toEqual([first.corpus, first.features]);
  });
});

describe('guarded memory', () => {
  const make = () =>
    new GuardedMemory([
      { iova: 0x1000n, sizeBytes: 0x1000, writable: true },
      { iova: 0x2000n, sizeBytes: 0x1000, writable: false },
    ]);

  it('a write one byte outside a region is found', () => {
    for (const [region, offset] of [
      [0, -1],
      [0, 0x1000],
      [1, 0x1000],
    ] as const) {
      const guarded = make();
      guarded.check();
      const { buffer, byteOffset } = guarded.regions[region]!;
      new Uint8Array(buffer)[byteOffset + offset]! ^= 1;
      expect(() => guarded.check()).toThrow(FuzzFailure);
      guarded.check();
    }
  });

  it('a write into what may only be read is found', () => {
    const guarded = make();
    const { buffer, byteOffset } = guarded.regions[1]!;
    new Uint8Array(buffer)[byteOffset + 5] = 0xff;
    expect(() => guarded.check()).toThrow(FuzzFailure);
  });

  it('what was read outside shows', () => {
    const guarded = make();
    const { buffer, byteOffset } = guarded.regions[0]!;
    const outside = new Uint8Array(buffer).slice(byteOffset - 15, byteOffset + 3);
    expect(() => guarded.reveals(outside)).toThrow(FuzzFailure);
    guarded.reveals(outside.fill(0));
  });
});
