import { EpollEvent, Errno } from '@virtnet/wire';
import { describe, expect, it } from 'vitest';
import { Epoll, EVENTS_PER_WAIT } from './epoll.js';
import { close, closeAll, dup, eventfd, eventfdDrain, eventfdSignal } from './fd.js';

function newEpoll(): Epoll {
  const epoll = Epoll.create();
  if (typeof epoll === 'number') throw new Error(`${epoll}`);
  return epoll;
}

describe('epoll', () => {
  it('tells the token and the events of a ready descriptor, until it is drained', () => {
    const epoll = newEpoll();
    const bell = eventfd();
    expect(epoll.add(bell, EpollEvent.IN, 0xffff_ffff)).toBe(0);
    expect(epoll.wait(0)).toBe(0);
    eventfdSignal(bell);
    expect(epoll.wait(-1)).toBe(1);
    expect(epoll.token(0)).toBe(0xffff_ffff);
    expect(epoll.events(0)).toBe(EpollEvent.IN);
    eventfdDrain(bell);
    expect(epoll.wait(0)).toBe(0);
    close(bell);
    epoll.close();
  });

  it('modify replaces events and token, remove forgets', () => {
    const epoll = newEpoll();
    const bell = eventfd(1);
    epoll.add(bell, EpollEvent.IN, 1);
    expect(epoll.modify(bell, EpollEvent.OUT, 2)).toBe(0);
    expect(epoll.wait(0)).toBe(1);
    expect([epoll.token(0), epoll.events(0)]).toEqual([2, EpollEvent.OUT]);
    expect(epoll.remove(bell)).toBe(0);
    expect(epoll.wait(0)).toBe(0);
    expect(epoll.remove(bell)).toBe(-Errno.ENOENT);
    close(bell);
    epoll.close();
  });

  it('edge-triggered, reports each signal once', () => {
    const epoll = newEpoll();
    const bell = eventfd();
    epoll.add(bell, EpollEvent.IN | EpollEvent.EDGE, 1);
    eventfdSignal(bell);
    expect(epoll.wait(0)).toBe(1);
    expect(epoll.wait(0)).toBe(0);
    eventfdSignal(bell);
    expect(epoll.wait(0)).toBe(1);
    close(bell);
    epoll.close();
  });

  it('with more ready descriptors than fit, reports all of them over two waits', () => {
    const epoll = newEpoll();
    const bells = Array.from({ length: EVENTS_PER_WAIT + 44 }, () => eventfd(1));
    for (const [token, bell] of bells.entries()) expect(epoll.add(bell, EpollEvent.IN, token)).toBe(0);
    const seen = new Set<number>();
    for (let wait = 0; wait < 2; wait++) {
      const count = epoll.wait(0);
      for (let i = 0; i < count; i++) seen.add(epoll.token(i));
    }
    expect(seen.size).toBe(bells.length);
    closeAll(bells);
    epoll.close();
  });

  it('waits as long as it was told', () => {
    const epoll = newEpoll();
    const start = performance.now();
    expect(epoll.wait(30)).toBe(0);
    expect(performance.now() - start).toBeGreaterThan(25);
    epoll.close();
  });

  it('errors come back as numbers', () => {
    const epoll = newEpoll();
    const bell = eventfd();
    epoll.add(bell, EpollEvent.IN, 1);
    expect(epoll.add(bell, EpollEvent.IN, 1)).toBe(-Errno.EEXIST);
    expect(epoll.add(1_000_000, EpollEvent.IN, 1)).toBe(-Errno.EBADF);
    epoll.close();
    expect(epoll.wait(0)).toBe(-Errno.EBADF);
    close(bell);
  });

  it('an event of a closed descriptor whose file lives on keeps its own token when the number is reused', () => {
    const epoll = newEpoll();
    const first = eventfd(1);
    const alias = dup(first, 200);
    epoll.add(first, EpollEvent.IN, 1);
    close(first);
    const second = eventfd(); // takes the number of the first
    expect(second).toBe(first);
    expect(epoll.add(second, EpollEvent.IN, 2)).toBe(0);
    expect(epoll.wait(0)).toBe(1);
    expect(epoll.token(0)).toBe(1);
    closeAll([second, alias]);
    epoll.close();
  });
});
