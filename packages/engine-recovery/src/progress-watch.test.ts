import { describe, expect, it } from 'vitest';
import {
  HANG_MS,
  type Hang,
  LOOK_MS_MAX,
  ProgressWatch,
  SAMPLE_MS,
  type ThreadView,
} from './progress-watch.js';

interface Moment {
  readonly beat: number;
  readonly asleep?: boolean;
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
  for (const [index, { beat, asleep = false, ...account }] of moments.entries()) {
    const hang = progress.look(index * everyMs, [
      { lane: 0, beat, asleep, account: () => ({ ...BLOCKED, ...account }) },
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

  it.each(['do_epoll_wait', 'ep_poll'])(
    'waits for events (%s) and its timer is late: given four times as long',
    (waitsIn) => {
      expect(watch(times(12, () => ({ beat: 1, waitsIn })))).toBeNull();
      expect(watch(times(40, () => ({ beat: 1, waitsIn })))?.hang).toMatchObject({ how: 'blocked', waitsIn });
      expect(watch(times(12, () => ({ beat: 1, waitsIn: 'futex_do_wait' })))?.hang.how).toBe('blocked');
    },
  );

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
      progress.look(at, [{ lane: 3, beat, asleep: false, account: () => BLOCKED }]);
    let hangs = 0;
    for (let at = 0; at < 20; at++) hangs += look(at * SAMPLE_MS, Math.floor(at / 3)) === null ? 0 : 1;
    expect(hangs).toBe(0);
    for (let at = 20; at < 40; at++) hangs += look(at * SAMPLE_MS, 99) === null ? 0 : 1;
    expect(hangs).toBe(1);
  });

  it('a thread that ended, or is no longer watched, is forgotten', () => {
    const progress = new ProgressWatch();
    const gone = { lane: 1, beat: 1, asleep: false, account: () => null };
    for (let at = 0; at < 20; at++) expect(progress.look(at * SAMPLE_MS, [gone])).toBeNull();
    expect(progress.look(2_000, [])).toBeNull();
  });
});
