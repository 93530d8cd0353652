import { describe, expect, it } from 'vitest';
import { InterruptModeration } from './interrupt-moderation.js';
import type { ModerationMode } from './moderation.js';

/** An eighth of a millisecond, 8 frames. */
function start(mode: ModerationMode): InterruptModeration {
  const moderation = { mode, usecs: 125, frames: 8 };
  return new InterruptModeration({ moderation, frames: 1000, level: 0, queueSize: 256 });
}

/** Steps of the clock in a millisecond: the time of `start` is 8 of them. */
const STEPS = 64;

/** Frames that come at these steps, one by one; the steps at which the driver is interrupted. */
function interrupts(mode: ModerationMode, arrivals: readonly number[]): number[] {
  const moderation = start(mode);
  const at: number[] = [];
  let frames = 1000;
  for (let step = 0; step < 2 * STEPS; step++) {
    const nowMs = 50 + step / STEPS;
    const came = arrivals.filter((arrival) => arrival === step).length;
    frames += came;
    if (!moderation.note(came > 0, nowMs, frames)) continue;
    at.push(step);
    moderation.sent(nowMs, 0);
  }
  return at;
}

const every = (steps: number, count: number) => Array.from({ length: count }, (_, i) => i * steps);

describe('moderated interrupts', () => {
  it('COAL-3 first-frame: the time after the first frame, or the number of frames', () => {
    expect(interrupts('first-frame', [16, 20])).toEqual([24]);
    expect(interrupts('first-frame', [0, 2, 40])).toEqual([8, 48]);
    expect(interrupts('first-frame', every(1, 8))).toEqual([7]);
    expect(interrupts('first-frame', new Array(24).fill(16))).toEqual([16]);
  });

  it('last-interrupt: at once after a rest, and not more often than the time', () => {
    expect(interrupts('last-interrupt', [0, 2, 4, 40])).toEqual([0, 8, 40]);
    expect(interrupts('last-interrupt', [0, ...new Array(8).fill(3)])).toEqual([0, 3]);
  });

  it('last-frame: when no more frames come for the time, or the number of frames', () => {
    expect(interrupts('last-frame', [0, 4, 8])).toEqual([16]);
    expect(interrupts('last-frame', every(4, 8))).toEqual([28]);
  });

  it('nothing is due that the driver did not want to hear of', () => {
    const moderation = start('first-frame');
    for (let i = 1; i < 50; i++) expect(moderation.note(false, i, 1000 + i)).toBe(false);
    expect(moderation.pending).toBe(false);
    // and what it did not want to hear of does not count towards what it wants to
    expect(moderation.note(true, 60, 1051)).toBe(false);
    expect(moderation.pending).toBe(true);
  });

  it('while one waits, more of what is wanted changes nothing but the number', () => {
    const moderation = start('first-frame');
    expect(moderation.note(true, 1, 1001)).toBe(false);
    const { deadlineMs } = moderation;
    expect(moderation.note(true, 1.05, 1002)).toBe(false);
    expect(moderation.deadlineMs).toBe(deadlineMs);
    expect(moderation.note(false, 1.06, 1008)).toBe(true);
  });

  it('dynamic moderation leaves a quarter of the buffers of a small queue to the driver', () => {
    const moderation = new InterruptModeration({
      moderation: 'dynamic',
      frames: 0,
      level: 5,
      queueSize: 16,
    });
    moderation.sent(10, 0);
    expect(moderation.note(true, 10.001, 11)).toBe(false);
    expect(moderation.note(true, 10.002, 12)).toBe(true);
  });
});
