import { describe, expect, it } from 'vitest';
import { isStuck } from './datapath.js';
import { WORKER_ANSWER_MS } from './limits.js';

describe('a worker that owes an answer', () => {
  const before = { heartbeat: 7, processorWaitMs: 100 };

  it('takes turns: it is slow, and believed', () => {
    expect(isStuck(before, { heartbeat: 8, processorWaitMs: 100 })).toBe(false);
  });

  it('takes none, because the process does not get the processors: believed', () => {
    expect(isStuck(before, { heartbeat: 7, processorWaitMs: 100 + WORKER_ANSWER_MS })).toBe(false);
  });

  it('takes none, although it could', () => {
    expect(isStuck(before, { heartbeat: 7, processorWaitMs: 105 })).toBe(true);
  });
});
