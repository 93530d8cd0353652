/** A whole service in one thread: nothing is lost whatever dies, and the simulator would notice if it were. */
import { describe, expect, it } from 'vitest';
import { type Flaws, LOSS_EVERY, simulate } from './simulation.js';

const SEEDS = 100;
/** From here on each of the mistakes shows within a few schedules; the others are for the day when schedules change. */
const FIRST_SEED_FOR_A_FLAW = 320;
const SEEDS_FOR_A_FLAW = 1_000;
/** Here a standby hears of a function without what was said of it first: its keeper dies behind its back. */
const LEFT_OUT_SEED = 9951;
const FLAW_TIMEOUT_MS = 120_000;

/** Some seconds of a processor, and a busy machine may have little of it. */
const TEST_MS = 120_000;

describe('simulated service', { timeout: TEST_MS }, () => {
  it(`${SEEDS} schedules of crashes: every promise is kept`, () => {
    const totals: Record<string, number> = {};
    for (let seed = 1; seed <= SEEDS; seed++) {
      const { violation, counters, trace } = simulate(seed);
      expect(violation, `scripts/simulate --seed ${seed}\n${trace.slice(-40).join('\n')}`).toBeNull();
      for (const [name, count] of Object.entries(counters)) totals[name] = (totals[name] ?? 0) + count;
    }
    // Nothing of this is true by never happening.
    for (const name of ['deaths.controller', 'deaths.keeper', 'deaths.emulator', 'promotions.crash'])
      expect(totals[name], name).toBeGreaterThan(SEEDS / 10);
    for (const name of [
      'frames',
      'requests',
      'replays',
      'commands asked again',
      'links broken',
      'quarantines',
      'answers held back',
      'inherited',
      'losses',
      'made anew',
    ])
      expect(totals[name], name).toBeGreaterThan(0);
  });

  it('a function that nobody knows whole is made from its recovery file, without the loss of everything', () => {
    const { violation, counters } = simulate(LEFT_OUT_SEED);
    expect(violation).toBeNull();
    expect(counters).toMatchObject({ 'left out': 1, 'made anew': 1 });
    expect(counters.losses).toBeUndefined();
    expect(simulate(LEFT_OUT_SEED, { noFiles: true }).violation).toMatch(/is lost/);
  });

  it('the same seed is the same schedule, another seed another one', () => {
    const hashes = [7, 7, 8].map((seed) => simulate(seed).hash);
    expect(hashes[1]).toBe(hashes[0]);
    expect(hashes[2]).not.toBe(hashes[0]);
  });

  it.each<[string, Flaws, RegExp]>([
    [
      'a standby that does not wait for the death of its predecessor',
      { noFencing: true },
      /is worked by \d+ and by/,
    ],
    ['a request that is worked twice', { noReplay: true }, /raised to \d+ where|queue \d went back|does not/],
    ['a command that is carried out twice', { noMemory: true }, /hotplug of|unplug of|modified/],
    [
      'an answer that is forgotten',
      { answerUnkept: true },
      /although nobody|is lost|raised|modified|removed|gave back|broke|late|waits/,
    ],
    [
      'what a dead keeper had not passed on and nobody takes',
      { noInheritance: true },
      /although nobody|is lost|raised|modified|removed|gave back|broke|late|waits|hotplug|unplug|RING/,
    ],
    ['rings that begin anew', { restartRings: true }, /went back|gave back/],
  ])(
    '%s is noticed',
    (_, flaws, violation) => {
      let noticed: string | null = null;
      for (let i = 0; noticed === null && i < SEEDS_FOR_A_FLAW; i++)
        noticed = simulate(FIRST_SEED_FOR_A_FLAW + i, flaws).violation;
      expect(noticed).toMatch(violation);
    },
    FLAW_TIMEOUT_MS,
  );

  it.each<[string, Flaws, RegExp]>([
    ['a function that nobody makes from its recovery file', { noFiles: true }, /is lost|no such function/],
    [
      'a recovery file that outlives its function',
      { fileLast: true },
      /removed and is there|no such function/,
    ],
    ['what is modified and in no recovery file', { staleFiles: true }, /modified to|does not say/],
  ])(
    '%s is noticed where everything dies',
    (_, flaws, violation) => {
      let noticed: string | null = null;
      for (let i = 0; noticed === null && i < SEEDS_FOR_A_FLAW; i++)
        noticed = simulate(FIRST_SEED_FOR_A_FLAW + i * LOSS_EVERY, flaws).violation;
      expect(noticed).toMatch(violation);
    },
    FLAW_TIMEOUT_MS,
  );
});
