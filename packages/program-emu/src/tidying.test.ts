import { beforeEach, describe, expect, it } from 'vitest';
import { Tidying } from './tidying.js';

describe('a standby tidies up', () => {
  let done: string[];
  let tidying: Tidying;

  beforeEach(() => {
    done = [];
    tidying = new Tidying(
      () => done.push('collect'),
      function* () {
        for (const step of ['one', 'two']) {
          done.push(step);
          yield;
        }
      },
    );
  });

  it('nothing was begun: no step, and not tidy', () => {
    expect([tidying.next(), tidying.tidy, done]).toEqual([false, false, []]);
  });

  it('collects once, then goes on step by step until all is in order', () => {
    tidying.begin();
    tidying.begin();
    expect(done).toEqual(['collect']);
    expect([tidying.next(), tidying.next(), tidying.tidy]).toEqual([true, true, false]);
    expect([tidying.next(), tidying.tidy, tidying.next()]).toEqual([false, true, false]);
    tidying.begin();
    expect(done).toEqual(['collect', 'one', 'two']);
  });

  it('skipped: tidy, with nothing done', () => {
    tidying.skip();
    tidying.begin();
    expect([tidying.tidy, tidying.next(), done]).toEqual([true, false, []]);
  });

  it('everything is told anew, in the middle of it or behind it: all of it again', () => {
    tidying.begin();
    tidying.next();
    tidying.again();
    expect([tidying.next(), tidying.tidy]).toEqual([false, false]);
    tidying.begin();
    while (tidying.next());
    tidying.again();
    expect(tidying.tidy).toBe(false);
    expect(done).toEqual(['collect', 'one', 'collect', 'one', 'two']);
  });
});
