import { describe, expect, it } from 'vitest';
import { type UpdateFacts, updateAnswer } from './update-answers.js';

const facts: UpdateFacts = {
  ongoing: false,
  original: '0.1.0',
  destination: '0.2.0',
  result: 'success',
  reason: null,
  phase: 'controller',
  timeUsedMs: 1655.439,
  phasesMs: { start: 900.5, switch: 12 },
  pausesMs: Array.from({ length: 200 }, (_, index) => (index + 1) / 10),
};

describe('update -t', () => {
  it('begins with the keys of the guide, in their order', () => {
    const answer = updateAnswer(facts) as object;
    expect(Object.entries(answer).slice(0, 3)).toEqual([
      ['status', 'inactive'],
      ['last live update status', 'success'],
      ['time_used (s)', 1.655439],
    ]);
  });

  it('shows phases and the pauses of devices: the least value that so many do not exceed', () => {
    expect(updateAnswer(facts)).toMatchObject({
      original: 'v0.1.0',
      destination: 'v0.2.0',
      'phases (s)': { start: 0.9005, switch: 0.012 },
      'device pauses (ms)': { devices: 200, p50: 10, p99: 19.8, max: 20 },
    });
    expect(updateAnswer({ ...facts, pausesMs: [] })).toMatchObject({
      'device pauses (ms)': { devices: 0, p50: 0, p99: 0, max: 0 },
    });
  });

  it('while one is under way, after one that failed, and before the first', () => {
    expect(updateAnswer({ ...facts, ongoing: true, result: null })).toMatchObject({
      status: 'ongoing',
      'last live update status': 'none',
    });
    expect(updateAnswer({ ...facts, result: 'failed', reason: 'too old' })).toMatchObject({
      status: 'inactive',
      'last live update status': 'failed',
      reason: 'too old',
    });
    expect(updateAnswer(null)).toEqual({
      status: 'inactive',
      'last live update status': 'none',
      'time_used (s)': 0,
    });
  });
});
