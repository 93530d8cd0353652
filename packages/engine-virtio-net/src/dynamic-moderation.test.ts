import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DYNAMIC_LEVELS, DynamicModeration, SAMPLE_INTERRUPTS } from './dynamic-moderation.js';
import { InterruptModeration } from './interrupt-moderation.js';
import type { Moderation } from './moderation.js';

const TOP = DYNAMIC_LEVELS.length - 1;
const FRAME_BYTES = 1500;
/** A turn of the worker, in which it publishes what has come and there is room for. */
const TURN_MS = 0.005;
const QUEUE_SIZE = 256;
/** Frames that wait where the worker takes them from; more are lost. */
const WAITING_MAX = 500;
/** What an interrupt and a frame cost the driver. */
const WAKE_MS = 0.004;
const FRAME_MS = 0.0005;

/**
 * A queue and its driver, by a clock of their own. The driver sleeps until it is interrupted, then takes frames one by one and
 * gives their buffers back, and when it finds no more wants to be interrupted for the next: what it has received is
 * what the interrupts have let it.
 */
class Simulation {
  nowMs = 1000;
  interrupts = 0;
  received = 0;
  /** Longest time for which a frame was there and the driver, which wanted to know, was not told. */
  delayMsMax = 0;
  readonly moderation: InterruptModeration;
  #published = 0;
  #waiting = 0;
  #buffers = QUEUE_SIZE;
  #unread = 0;
  #asleep = true;
  #wantedMs = -1;
  /** Until when the driver is busy. */
  #busyMs = 0;

  constructor(moderation: Moderation | 'dynamic') {
    this.moderation = new InterruptModeration({ moderation, frames: 0, level: 0, queueSize: QUEUE_SIZE });
  }

  /** One turn in which so many frames have come; whether the driver was interrupted. */
  turn(frames: number, turnMs = TURN_MS): boolean {
    this.nowMs += turnMs;
    this.#receive();
    this.#waiting = Math.min(this.#waiting + frames, WAITING_MAX);
    const moved = Math.min(this.#waiting, this.#buffers);
    this.#waiting -= moved;
    this.#buffers -= moved;
    this.#unread += moved;
    this.#published += moved;
    const wanted = moved > 0 && this.#asleep && this.#wantedMs < 0;
    if (wanted) this.#wantedMs = this.nowMs;
    if (!this.moderation.note(wanted, this.nowMs, this.#published)) return false;
    this.delayMsMax = Math.max(this.delayMsMax, this.nowMs - this.#wantedMs);
    this.#wantedMs = -1;
    this.#asleep = false;
    this.#busyMs = this.nowMs + WAKE_MS;
    this.interrupts++;
    this.moderation.sent(this.nowMs, this.#published * FRAME_BYTES);
    return true;
  }

  /** Load that does not depend on what the driver receives. */
  stream(framesPerMs: number, durationMs: number): void {
    let owed = 0;
    for (const end = this.nowMs + durationMs; this.nowMs < end; ) {
      owed += framesPerMs * TURN_MS;
      const frames = Math.floor(owed);
      owed -= frames;
      this.turn(frames);
    }
  }

  /** A peer with at most `window` frames under way, which hears of what was received after `roundMs`. */
  answered(window: number, roundMs: number, durationMs: number): number {
    while (this.#waiting + this.#unread > 0) this.turn(0); // of another load
    const before = this.received;
    const heard: number[] = new Array(Math.round(roundMs / TURN_MS)).fill(this.received);
    let sent = before;
    for (const end = this.nowMs + durationMs; this.nowMs < end; ) {
      heard.push(this.received);
      const may = Math.min(heard.shift()! + window - sent, SENT_A_TURN);
      sent += may;
      this.turn(may);
    }
    return this.received - before;
  }

  #receive(): void {
    if (this.#asleep) return;
    while (this.#unread > 0 && this.#busyMs + FRAME_MS <= this.nowMs) {
      this.#busyMs += FRAME_MS;
      this.#unread--;
      this.#buffers++;
      this.received++;
    }
    if (this.#unread === 0) this.#asleep = true;
  }
}

/** What a peer can send in a turn: 3 million frames a second. */
const SENT_A_TURN = 15;
const OFF: Moderation = { mode: 'first-frame', usecs: 1, frames: 1 };
const KEPT_MIN = 0.97;

describe('dynamic moderation', () => {
  it.each([100, 300, 1000])(
    'a stream of %d frames/ms is interrupted for at most a third as often, and arrives',
    (rate) => {
      const without = new Simulation(OFF);
      without.stream(rate, 1000);
      const dynamic = new Simulation('dynamic');
      dynamic.stream(rate, 1000);
      expect(without.received).toBeGreaterThan(KEPT_MIN * rate * 1000);
      expect(dynamic.received / without.received).toBeGreaterThanOrEqual(KEPT_MIN);
      expect(without.interrupts / dynamic.interrupts).toBeGreaterThan(3);
      expect(dynamic.delayMsMax).toBeLessThan(0.3);
    },
  );

  it.each([
    { window: 1, roundMs: 0.03 },
    { window: 1, roundMs: 0.1 },
    { window: 1, roundMs: 0.5 },
    { window: 16, roundMs: 0.1 },
    { window: 64, roundMs: 0.1 },
    { window: 64, roundMs: 1 },
    { window: 512, roundMs: 0.3 },
  ])(
    'a peer that waits for an answer ($window under way, $roundMs ms) loses nothing by it',
    ({ window, roundMs }) => {
      const without = new Simulation(OFF).answered(window, roundMs, 4000);
      const dynamic = new Simulation('dynamic').answered(window, roundMs, 4000);
      expect(dynamic / without).toBeGreaterThanOrEqual(KEPT_MIN);
    },
  );

  it('a stream that wavers is not taken for a level that costs', () => {
    const waver = (moderation: Moderation | 'dynamic'): Simulation => {
      const simulation = new Simulation(moderation);
      for (let i = 0, random = 1; i < 500; i++) {
        random = (random * 75) % 65537;
        simulation.stream(150 + (random / 65537) * 200, 5);
      }
      return simulation;
    };
    const [without, dynamic] = [waver(OFF), waver('dynamic')];
    expect(dynamic.received / without.received).toBeGreaterThanOrEqual(KEPT_MIN);
    expect(without.interrupts / dynamic.interrupts).toBeGreaterThan(5);
  });

  it('a load that falls a little while the search is under way is searched through in the end', () => {
    const dynamic = new Simulation('dynamic');
    dynamic.stream(500, 10);
    dynamic.stream(468, 100);
    expect(dynamic.moderation.level).toBeLessThan(TOP);
    dynamic.stream(468, 5000);
    expect(dynamic.moderation.level).toBe(TOP);
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
    const slow = dynamic.answered(1, 0.03, 200);
    const settled = dynamic.answered(1, 0.03, 2000) / 10;
    expect(settled).toBeGreaterThan(slow);
    expect(DYNAMIC_LEVELS[dynamic.moderation.level]!.usecs).toBeLessThanOrEqual(64);
  });

  it('the level is always one that exists, whatever it is told', () => {
    const step = fc.record({
      ms: fc.double({ min: 0, max: 20, noNaN: true }),
      bytes: fc.integer({ min: 0, max: 1e9 }),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), fc.integer(), (steps, start) => {
        const dynamic = new DynamicModeration(start);
        let [ms, bytes] = [0, 0];
        for (const by of steps) {
          for (let i = 0; i < SAMPLE_INTERRUPTS; i++) {
            ms += by.ms / SAMPLE_INTERRUPTS;
            bytes += by.bytes;
            dynamic.interrupted(ms, bytes);
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
