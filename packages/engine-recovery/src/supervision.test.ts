import { describe, expect, it } from 'vitest';
import {
  CRASH_LOOP_DEATHS,
  CRASH_LOOP_WINDOW_MS,
  childEvents,
  childStates,
  RESTART_DELAY_MAX_MS,
  restartDelayMs,
  supervisionTable,
} from './supervision.js';

const cells = childStates.flatMap((state) =>
  childEvents.map((event) => ({ state, event, cell: supervisionTable[state][event] })),
);

describe('supervision', () => {
  it.each(cells)('$state, $event: a move to a known state, or a reason why there is none', ({ cell }) => {
    if ('next' in cell) expect(childStates).toContain(cell.next);
    else expect(('ignored' in cell ? cell.ignored : cell.prohibited).length).toBeGreaterThan(10);
  });

  it('has no state and no event beyond the declared ones', () => {
    expect(Object.keys(supervisionTable).sort()).toEqual([...childStates].sort());
    for (const state of childStates)
      expect(Object.keys(supervisionTable[state]).sort()).toEqual([...childEvents].sort());
  });

  it('gone is entered by exit alone, and never left', () => {
    for (const { state, event, cell } of cells) {
      if (!('next' in cell)) continue;
      expect(state).not.toBe('gone');
      if (cell.next === 'gone') expect(event).toBe('exit');
    }
  });

  it('every death is tallied except one that was asked for, and everything is cleaned up after each', () => {
    for (const { state, event, cell } of cells) {
      if (event !== 'exit' || !('next' in cell)) continue;
      expect(cell.actions).toContain('clean-up');
      expect(cell.actions.includes('tally')).toBe(state !== 'stopping');
    }
  });

  it('a process is killed only on its way to an awaited death', () => {
    for (const { cell } of cells)
      if ('next' in cell && cell.actions.includes('kill'))
        expect(['fencing', 'stopping']).toContain(cell.next);
  });

  it('child is up but never ready: it is killed, and its death is tallied', () => {
    const silent = supervisionTable.starting.silent;
    expect(silent).toMatchObject({ next: 'fencing' });
    expect(supervisionTable.fencing.exit).toMatchObject({
      next: 'gone',
      actions: expect.arrayContaining(['tally']),
    });
  });
});

describe('crash loop', () => {
  const deaths = (count: number, everyMs: number) =>
    Array.from({ length: count }, (_, index) => index * everyMs);

  it('up to four deaths within a minute, restarts at once', () => {
    for (let count = 0; count < CRASH_LOOP_DEATHS; count++)
      expect(restartDelayMs(deaths(count, 10), 100)).toBe(0);
  });

  it('from the fifth on, waits twice as long each time and never longer than the maximum', () => {
    const delays = [5, 6, 7, 8, 9, 100].map((count) => restartDelayMs(deaths(count, 10), 1_000));
    expect(delays).toEqual([125, 250, 500, RESTART_DELAY_MAX_MS, RESTART_DELAY_MAX_MS, RESTART_DELAY_MAX_MS]);
  });

  it('deaths older than the window no longer count', () => {
    expect(restartDelayMs(deaths(5, 10), CRASH_LOOP_WINDOW_MS + 5)).toBe(0);
  });
});
