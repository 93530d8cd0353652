import { LastWord, MAIN_LANE } from '@virtnet/wire';
import { describe, expect, it } from 'vitest';
import { type DeathFacts, deathCause, deathLane, mayBeGuestsFault } from './death-cause.js';

const facts = (some: Partial<DeathFacts>): DeathFacts => ({
  sentence: null,
  code: null,
  signal: null,
  lastWord: LastWord.NOTHING,
  ...some,
});

describe('cause of a death', () => {
  it.each([
    ['a SIGKILL of somebody else', { signal: 'SIGKILL' }, 'killed', false],
    ['another signal of somebody else', { signal: 'SIGQUIT' }, 'killed', false],
    ['a SIGSEGV of somebody else', { signal: 'SIGKILL', lastWord: LastWord.FOREIGN_SIGNAL }, 'killed', false],
    ['a signal of its own making', { signal: 'SIGBUS' }, 'crash', true],
    ['an abort of the runtime, out of memory', { code: 134 }, 'crash', true],
    [
      'our own kill for a main thread that stood still',
      { signal: 'SIGKILL', sentence: 'hang' },
      'hang',
      true,
    ],
    ['… for a thread', { signal: 'SIGKILL', sentence: 'worker-hang' }, 'worker-hang', true],
    ['… for questions unanswered', { signal: 'SIGKILL', sentence: 'silent' }, 'silent', false],
    ['… because somebody had stopped it', { signal: 'SIGKILL', sentence: 'stopped' }, 'stopped', false],
    ['… of one that had crashed a moment before', { signal: 'SIGSEGV', sentence: 'silent' }, 'crash', true],
    ['an exception', { code: 1, lastWord: LastWord.EXCEPTION }, 'exception', true],
    ['an exception in a datapath thread', { code: 1, lastWord: LastWord.WORKER }, 'worker', true],
    ['asked to end', { signal: 'SIGTERM' }, 'exit', false],
    ['no child of ours: nothing is known', {}, 'exit', false],
  ] as const)('%s', (_, some, cause, guests) => {
    expect(deathCause(facts(some))).toBe(cause);
    expect(mayBeGuestsFault(cause)).toBe(guests);
  });

  it.each([
    ['a thread that stood still: the one it was killed for', 'worker-hang', 3, null, 3],
    ['the main thread', 'hang', MAIN_LANE, null, MAIN_LANE],
    ['a thread that failed: as it said itself', 'worker', null, 2, 2],
    ['… before the kill for another one', 'exception', 3, MAIN_LANE, MAIN_LANE],
    ['a signal: nobody knows', 'crash', null, 2, null],
    ['somebody had stopped it: no thread is the reason', 'stopped', 1, null, null],
  ] as const)('its thread: %s', (_, cause, hung, lastLane, lane) => {
    expect(deathLane(cause, hung, lastLane)).toBe(lane);
  });
});
