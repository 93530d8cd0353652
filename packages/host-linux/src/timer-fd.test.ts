import { EpollEvent } from '@virtnet/wire';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Epoll } from './epoll.js';
import { TimerFd } from './timer-fd.js';

describe('a timer of a microsecond’s grain', () => {
  let epoll: Epoll;
  let timer: TimerFd;
  beforeEach(() => {
    epoll = Epoll.create() as Epoll;
    timer = TimerFd.create() as TimerFd;
    epoll.add(timer.fd, EpollEvent.IN | EpollEvent.EDGE, 7);
  });
  afterEach(() => {
    epoll.close();
    timer.close();
  });

  it('ends a sleep, each time it is set, without being read', () => {
    for (const ms of [0.2, 0, 2.5]) {
      const before = performance.now();
      expect(timer.set(ms)).toBe(0);
      expect([epoll.wait(10_000), epoll.token(0)]).toEqual([1, 7]);
      expect(performance.now() - before).toBeGreaterThanOrEqual(ms - 0.01);
    }
  });

  it('set anew, the time before does not count any more', () => {
    timer.set(0.5);
    timer.set(3_600_000);
    expect(epoll.wait(20)).toBe(0);
  });
});
