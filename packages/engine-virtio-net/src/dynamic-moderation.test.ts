import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DYNAMIC_LEVELS, DynamicModeration, SAMPLE_INTERRUPTS } from './dynamic-moderation.js';
import { InterruptModeration } from './interrupt-moderation.js';
import type { Moderation } from './moderation.js';

const TOP = DYNAMIC_LEVELS.length - 1;
const FRAME_BYTES = 1500;
const TURN_MS = 0.005;

/** A queue under load, by a clock of its own. Frames of a turn are published together, as a worker does it. */
class Simulation {
  nowMs = 1000;
  frames = 0;
  interrupts = 0;
  delayMsMax = 0;
  readonly moderation: InterruptModeration;
  #wantedMs = -1;

  constructor(moderation: Moderation | 'dynamic') {
    this.moderation = new InterruptModeration({ moderation, frames: 0, level: 0, queueSize: 1024 });
  }

  /** One turn of the worker in which so many frames came; whether the driver was interrupted. */
  turn(frames: number, turnMs = TURN_MS): boolean {
    this.nowMs += turnMs;
    this.frames += frames;
    if (frames > 0 && this.#wantedMs < 0) this.#wantedMs = this.nowMs;
    if (!this.moderation.note(frames > 0, this.nowMs, this.frames)) return false;
    this.delayMsMax = Math.max(this.delayMsMax, this.nowMs - this.#wantedMs);
    this.#wantedMs = -1;
    this.interrupts++;
    this.moderation.sent(this.nowMs, this.frames, this.frames * FRAME_BYTES);
    return true;
  }

  /** Load that does not depend on when the driver hears of it. */
  stream(framesPerMs: number, durationMs: number): void {
    let owed = 0;
    for (const end = this.nowMs + durationMs; this.nowMs < end; ) {
      owed += framesPerMs * TURN_MS;
      const frames = Math.floor(owed);
      owed -= frames;
      this.turn(frames);
    }
  }

  /** A peer that sends the next frame `thinkMs` after the driver heard of the one before; frames exchanged. */
  pingPong(thinkMs: number, durationMs: number): number {
    const before = this.frames;
    for (const end = this.nowMs + durationMs; this.nowMs < end; ) {
      let told = this.turn(1, thinkMs);
      while (!told) told = this.turn(0);
    }
    return this.frames - before;
  }
}

const OFF: Moderation = { mode: 'first-frame', usecs: 1, frames: 1 };

describe('dynamic moderation', () => {
  it('a fast stream is interrupted for at most a third as often, and arrives whole', () => {
    const without = new Simulation(OFF);
    without.stream(500, 400);
    const dynamic = new Simulation('dynamic');
    dynamic.stream(500, 400);
    expect(dynamic.frames).toBe(without.frames);
    expect(without.interrupts / dynamic.interrupts).toBeGreaterThan(3);
    expect(dynamic.moderation.level).toBe(TOP);
    expect(dynamic.delayMsMax).toBeLessThan(0.3);
  });

  it.each([0.03, 0.1, 0.5])('two that wait for each other for %d ms lose nothing by it', (thinkMs) => {
    const without = new Simulation(OFF).pingPong(thinkMs, 4000);
    const dynamic = new Simulation('dynamic').pingPong(thinkMs, 4000);
    expect(dynamic / without).toBeGreaterThan(0.9);
  });

  it('a single frame after a rest is told at once, whatever level the load before has led to', () => {
    const dynamic = new Simulation('dynamic');
    dynamic.stream(500, 400);
    for (let i = 0; i < 20; i++) expect(dynamic.turn(1, 10)).toBe(true);
  });

  it('a load that turns from stream to question and answer is searched for anew', () => {
    const dynamic = new Simulation('dynamic');
    dynamic.stream(500, 400);
    expect(dynamic.moderation.level).toBe(TOP);
    const slow = dynamic.pingPong(0.03, 200);
    const settled = dynamic.pingPong(0.03, 2000) / 10;
    expect(settled).toBeGreaterThan(slow);
    expect(DYNAMIC_LEVELS[dynamic.moderation.level]!.usecs).toBeLessThanOrEqual(64);
  });

  it('the level is always one that exists, whatever it is told', () => {
    const step = fc.record({
      ms: fc.double({ min: 0, max: 20, noNaN: true }),
      frames: fc.integer({ min: 0, max: 5000 }),
      bytes: fc.integer({ min: 0, max: 1e9 }),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), fc.integer(), (steps, start) => {
        const dynamic = new DynamicModeration(start);
        let [ms, frames, bytes] = [0, 0, 0];
        for (const by of steps) {
          for (let i = 0; i < SAMPLE_INTERRUPTS; i++) {
            ms += by.ms / SAMPLE_INTERRUPTS;
            frames += by.frames;
            bytes += by.bytes;
            dynamic.interrupted(ms, frames, bytes);
          }
          expect(DYNAMIC_LEVELS[dynamic.level]).toBe(dynamic.moderation);
        }
      }),
    );
  });

  it('goes on at the level of a predecessor', () => {
    expect(new DynamicModeration(3).level).toBe(3);
    expect(new DynamicModeration(77).level).toBe(TOP);
  });
});
