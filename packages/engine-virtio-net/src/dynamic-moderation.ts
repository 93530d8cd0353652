/**
 * dynamic-moderation.ts: finds the strongest moderation of interrupts that costs a queue no throughput (DIM).
 *
 * Theory
 *   Levels go from none to strong. What load there is, and what the driver does with it, is not known, so the level is
 *   searched for: interrupts are counted off in samples, and the bytes of a sample are compared with what is usual. The search
 *   goes up a level as long as the bytes stay. It does not ask whether interrupts became fewer: between two levels that are
 *   both shorter than the pause from frame to frame nothing changes, and behind them much does. Where bytes become fewer,
 *   the level below is the best; there, or at the top, the search rests.
 *   What is usual is the mean of the samples since the search began, not the sample before: several levels that cost a little
 *   each would cost much together. One sample alone proves nothing, for on a busy machine they differ by more than a level
 *   costs: it takes several to know what is usual at the first level, and several in a row to refuse a level or to take
 *   the load for another one.
 *   A rest below the top is ended now and then by another try, for a load that fell while the search was under way looked like
 *   a level that costs. When the load changes, the search begins anew from below.
 *   A queue with little traffic is never kept waiting: the time of each level runs from the interrupt before.
 *
 * States            climbing -> resting (a level costs, or the top) -> climbing (from below: the load changed; a level up: some time later)
 *
 * Invariants
 *   I1  0 <= level < DYNAMIC_LEVELS.length.
 *   I2  the level at which a search begins is not refused: it is only left upwards, after its samples are what is usual.
 *
 * Limits  SAMPLE_INTERRUPTS interrupts a sample, so a load's end is not noticed before the next interrupts come.
 */
import type { Moderation } from './moderation.js';

const FRAMES_MAX = 512;
const level = (usecs: number): Moderation => ({ mode: 'last-interrupt', usecs, frames: FRAMES_MAX });

/** Microseconds between interrupts at least: below the first an interrupt costs more than the wait. */
export const DYNAMIC_LEVELS: readonly Moderation[] = [
  { mode: 'last-interrupt', usecs: 0, frames: 1 },
  level(8),
  level(32),
  level(64),
  level(128),
  level(256),
];
const TOP = DYNAMIC_LEVELS.length - 1;

/** Interrupts of one sample: enough for a rate, few enough to react within milliseconds under load. */
export const SAMPLE_INTERRUPTS = 64;
/** A sample takes no less: a few bursts more or less are much of a shorter one. */
const SAMPLE_MS_MIN = 4;
/** And no longer: rates over a pause say nothing about the load. */
const SAMPLE_MS_MAX = 1000;
/** Part of the bytes that a level may cost. */
const LOSS_MAX = 0.03;
/** Part by which a load differs from another one. */
const CHANGE_MIN = 0.1;
/** Samples in a row that have to say the same. */
const AGREEING = 3;
/** How many samples what is usual is the mean of, at most; older ones fade. */
const USUAL_SAMPLES_MAX = 16;
/** A rest below the top lasts so many times as long as the next try, in which the level above may cost a lot: 0.5 to 2 s. */
const REST_TRIES = 40;

/** How long a level is tried before it is refused. */
function tryMs(level: number): number {
  const sampleMs = (SAMPLE_INTERRUPTS * DYNAMIC_LEVELS[level]!.usecs) / 1000;
  return AGREEING * Math.max(SAMPLE_MS_MIN, sampleMs);
}

export class DynamicModeration {
  level: number;
  #climbing = true;
  /** Bytes a millisecond, of how many samples. */
  #usual = 0;
  #usualSamples = 0;
  /** Samples in a row that were above what is usual; negative: below. */
  #unusual = 0;
  #restsSinceMs = 0;
  /** Begin of the sample under way. */
  #sinceMs = Number.NEGATIVE_INFINITY;
  #bytesSince = 0;
  #interrupts = 0;

  constructor(level = 0) {
    this.level = Math.min(Math.max(0, Math.trunc(level)), TOP);
  }

  get moderation(): Moderation {
    return DYNAMIC_LEVELS[this.level]!;
  }

  /** The driver was interrupted; `bytes` is the queue's counter. True when the level changed. */
  interrupted(nowMs: number, bytes: number): boolean {
    this.#interrupts++;
    const elapsedMs = nowMs - this.#sinceMs;
    if (elapsedMs > SAMPLE_MS_MAX) {
      this.#begin(nowMs, bytes); // a pause, or the very first
      return false;
    }
    if (this.#interrupts < SAMPLE_INTERRUPTS || elapsedMs < SAMPLE_MS_MIN) return false;
    const rate = (bytes - this.#bytesSince) / elapsedMs;
    this.#begin(nowMs, bytes);
    const before = this.level;
    if (this.#climbing) this.#climb(rate, nowMs);
    else this.#rest(rate, nowMs);
    return this.level !== before;
  }

  #begin(nowMs: number, bytes: number): void {
    this.#sinceMs = nowMs;
    this.#bytesSince = bytes;
    this.#interrupts = 0;
  }

  #climb(rate: number, nowMs: number): void {
    if (this.#usualSamples >= AGREEING && rate < (1 - LOSS_MAX) * this.#usual) {
      if (this.#agree(-1)) this.#restAt(this.level - 1, nowMs);
      return;
    }
    this.#asUsual(rate);
    if (this.#usualSamples < AGREEING) return;
    if (this.level === TOP) this.#restAt(TOP, nowMs);
    else this.level++;
  }

  #rest(rate: number, nowMs: number): void {
    if (Math.abs(rate - this.#usual) > CHANGE_MIN * this.#usual) {
      if (this.#agree(Math.sign(rate - this.#usual))) this.#climbFromBelow();
      return;
    }
    this.#asUsual(rate);
    if (this.level === TOP || nowMs - this.#restsSinceMs < REST_TRIES * tryMs(this.level + 1)) return;
    this.#climbing = true;
    this.level++;
  }

  /** Another unusual sample, of more (1) or fewer bytes (-1); whether there were enough of its kind in a row. */
  #agree(sign: number): boolean {
    this.#unusual = this.#unusual * sign > 0 ? this.#unusual + sign : sign;
    if (Math.abs(this.#unusual) < AGREEING) return false;
    this.#unusual = 0;
    return true;
  }

  #asUsual(rate: number): void {
    this.#unusual = 0;
    if (this.#usualSamples < USUAL_SAMPLES_MAX) this.#usualSamples++;
    this.#usual += (rate - this.#usual) / this.#usualSamples;
  }

  #restAt(level: number, nowMs: number): void {
    this.#climbing = false;
    this.level = level;
    this.#restsSinceMs = nowMs;
  }

  #climbFromBelow(): void {
    this.#climbing = true;
    this.level = 0;
    this.#usual = 0;
    this.#usualSamples = 0;
  }
}
