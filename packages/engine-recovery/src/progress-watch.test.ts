import { describe, expect, it } from 'vitest';
import {
  HANG_MS,
  type Hang,
  LOOK_MS_MAX,
  ProgressWatch,
  REST_MS,
  SAMPLE_MS,
  type ThreadView,
} from './progress-watch.js';

interface Moment {
  readonly beat: number;
  readonly asleep?: boolean;
  readonly waits?: boolean;
  readonly state?: string;
  readonly cpuMs?: number;
  readonly othersRun?: boolean;
  readonly othersCpuMs?: number;
  readonly waitsIn?: string;
}

const BLOCKED: ThreadView = { state: 'S', cpuMs: 0, othersRun: false, othersCpuMs: 0, waitsIn: '' };

/** Looks at one lane at each of `moments`, `everyMs` apart; when the first hang is told, and which. */
function watch(moments: readonly Moment[], everyMs = SAMPLE_MS): { atMs: number; hang: Hang } | null {
  const progress = new ProgressWatch();
  for (const [index, { beat, asleep = false, waits = false, ...account }] of moments.entries()) {
    const hang = progress.look(index * everyMs, [
      { lane: 0, beat, asleep, waits: () => waits, account: () => ({ ...BLOCKED, ...account }) },
    ]);
    if (hang !== null) return { atMs: index * everyMs, hang };
  }
  return null;
}
const times = (count: number, moment: (index: number) => Moment) =>
  Array.from({ length: count }, (_, i) => moment(i));

describe('progress watch', () => {
  it('a thread that takes turns, or sleeps for want of work, never hangs', () => {
    expect(watch(times(100, (index) => ({ beat: index })))).toBeNull();
    expect(watch(times(100, () => ({ beat: 7, asleep: true })))).toBeNull();
  });

  it('stopped: found within 200 ms of the last turn', () => {
    const found = watch([{ beat: 1 }, ...times(10, () => ({ beat: 1, state: 'T' }))]);
    expect(found?.hang).toMatchObject({ lane: 0, how: 'stopped' });
    expect(found?.atMs).toBeLessThanOrEqual(200);
  });

  it('blocked in a system call: found as well', () => {
    expect(watch(times(10, () => ({ beat: 1, state: 'S' })))?.hang.how).toBe('blocked');
  });

  it('waits for a disk, or for memory of a loaded machine: given four times as long', () => {
    expect(watch(times(12, () => ({ beat: 1, state: 'D' })))).toBeNull();
    expect(watch(times(40, () => ({ beat: 1, state: 'D' })))?.hang.how).toBe('blocked');
  });

  it('blocked while another thread of the process runs, which may be why: given four times as long', () => {
    const found = watch(times(40, (index) => ({ beat: 1, othersRun: true, othersCpuMs: index * SAMPLE_MS })));
    expect(found?.atMs).toBeGreaterThan(HANG_MS * 4 - 1);
    expect(found?.atMs).toBeLessThan(1000);
  });

  it('blocked by a thread that waits for a processor on an overloaded machine: charged what that one has of it', () => {
    expect(watch(times(1000, () => ({ beat: 1, othersRun: true, othersCpuMs: 5 })))).toBeNull();
    const found = watch(times(10_000, (index) => ({ beat: 1, othersRun: true, othersCpuMs: index / 25 })));
    expect(found?.atMs).toBeGreaterThan(HANG_MS * 900);
  });

  it('waits for events: never a hang, however long none comes; blocked elsewhere after that, it is one', () => {
    expect(watch(times(1000, () => ({ beat: 1, waits: true })))).toBeNull();
    const later = [...times(100, () => ({ beat: 1, waits: true })), ...times(12, () => ({ beat: 1 }))];
    expect(watch(later)?.atMs).toBeGreaterThan(100 * SAMPLE_MS);
    const waitsIn = 'futex_do_wait';
    expect(watch(times(12, () => ({ beat: 1, waitsIn })))?.hang).toMatchObject({ how: 'blocked', waitsIn });
  });

  it('stopped while it waits: found within 200 ms, whenever the first look at it comes', () => {
    const waiting = times(5, () => ({ beat: 1, waits: true }));
    const found = watch([...waiting, ...times(10, () => ({ beat: 1, state: 'T' }))]);
    // The first look may come REST_MS after the stop.
    const afterMs = (found?.atMs ?? Number.POSITIVE_INFINITY) - waiting.length * SAMPLE_MS;
    expect(afterMs + REST_MS).toBeLessThanOrEqual(200);
  });

  it('in doubt: while somebody neither takes turns nor waits', () => {
    const progress = new ProgressWatch();
    const look = (at: number, lane: { beat: number; asleep?: boolean; waits?: boolean }) => {
      const { beat, asleep = false, waits = false } = lane;
      progress.look(at * SAMPLE_MS, [{ lane: 0, beat, asleep, waits: () => waits, account: () => BLOCKED }]);
      return progress.inDoubt;
    };
    expect(look(0, { beat: 1 })).toBe(false);
    expect(look(1, { beat: 1, waits: true })).toBe(false);
    expect(look(2, { beat: 1 })).toBe(true);
    expect(look(3, { beat: 2 })).toBe(false);
    expect(look(4, { beat: 2, asleep: true })).toBe(false);
  });

  it('spins without a turn: found once it has used the time itself', () => {
    const found = watch(times(10, (index) => ({ beat: 1, state: 'R', cpuMs: index * SAMPLE_MS })));
    expect(found?.hang.how).toBe('spins');
    expect(found?.atMs).toBeLessThanOrEqual(250);
  });

  it('waits for a processor on an overloaded machine: never a hang, however long it takes', () => {
    expect(watch(times(1000, () => ({ beat: 1, state: 'R', cpuMs: 5 })))).toBeNull();
    // One millisecond of processor a second: a hang only after as much of it as on an idle machine.
    const found = watch(times(10_000, (index) => ({ beat: 1, state: 'R', cpuMs: index / 25 })));
    expect(found?.atMs).toBeGreaterThan(HANG_MS * 900);
  });

  it('the watcher itself was late by a minute: one look is never a hang', () => {
    expect(LOOK_MS_MAX).toBeLessThan(HANG_MS);
    const late = [{ beat: 1 }, { beat: 1, state: 'T' }, { beat: 2 }, { beat: 2, state: 'T' }, { beat: 3 }];
    expect(watch(late, 60_000)).toBeNull();
  });

  it('a turn between clears the charge; a hang is told once', () => {
    const progress = new ProgressWatch();
    const look = (at: number, beat: number) =>
      progress.look(at, [{ lane: 3, beat, asleep: false, waits: () => false, account: () => BLOCKED }]);
    let hangs = 0;
    for (let at = 0; at < 20; at++) hangs += look(at * SAMPLE_MS, Math.floor(at / 3)) === null ? 0 : 1;
    expect(hangs).toBe(0);
    for (let at = 20; at < 40; at++) hangs += look(at * SAMPLE_MS, 99) === null ? 0 : 1;
    expect(hangs).toBe(1);
  });

  it('a thread that ended, or is no longer watched, is forgotten', () => {
    const progress = new ProgressWatch();
    const gone = { lane: 1, beat: 1, asleep: false, waits: () => false, account: () => null };
    for (let at = 0; at < 20; at++) expect(progress.look(at * SAMPLE_MS, [gone])).toBeNull();
    expect(progress.look(2_000, [])).toBeNull();
  });
});
