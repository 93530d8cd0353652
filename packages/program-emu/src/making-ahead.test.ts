import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { MakingAhead } from './making-ahead.js';
import { Precedence } from './precedence.js';

describe('what a standby makes ahead', () => {
  let left: number;
  let wanted: boolean;
  const rounds: boolean[] = [];
  let making: MakingAhead;

  beforeEach(() => {
    vi.useFakeTimers();
    [left, wanted, rounds.length] = [0, true, 0];
    making = new MakingAhead(new Precedence(), {
      wanted: () => wanted,
      one: () => {
        left -= 1;
        vi.advanceTimersByTime(1); // what making one takes
        return left > 0;
      },
      made: (more) => rounds.push(more),
    });
  });
  afterEach(() => vi.useRealTimers());

  it('several changes within moments: once, when they are over', () => {
    left = 1;
    for (let change = 0; change < 5; change++) making.later();
    vi.advanceTimersByTime(10);
    expect(rounds).toEqual([]);
    vi.advanceTimersByTime(1_000);
    expect(rounds).toEqual([false]);
  });

  it('much: in rounds, between which everything else has its turn', () => {
    left = 7;
    making.soon();
    vi.advanceTimersByTime(1_000);
    expect([left, rounds]).toEqual([0, [true, true, false]]);
  });

  it('not wanted, before or while it waits, or stopped: nothing', () => {
    making.later();
    wanted = false;
    vi.advanceTimersByTime(1_000);
    making.soon();
    vi.advanceTimersByTime(1_000);
    wanted = true;
    making.later();
    making.stop();
    vi.advanceTimersByTime(1_000);
    expect(rounds).toEqual([]);
  });
});
