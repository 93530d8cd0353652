/**
 * dynamic-moderation.ts: finds the strongest moderation of interrupts that costs a queue no throughput (DIM).
 *
 * Theory
 *   Levels go from none to strong. What load there is, and what the driver does with it, is not known, so the level is
 *   searched for: interrupts are counted off in samples, each sample is compared with the one before, and the search
 *   goes on in its direction while things get better and turns when they do not. More bytes are better; with as many
 *   bytes, more frames; with as many frames, fewer interrupts. Only a difference of more than a tenth counts.
 *   When several steps were better, the next was not, and the step back from it was, the best level is reached. The
 *   search rests there, as it does at either end, until a sample differs from the one before: the load has changed. A
 *   search that goes to and fro without an end rests as well, for a number of samples.
 *   A queue with little traffic is never kept waiting: the time of each level runs from the interrupt before.
 *
 * States            searching -> resting (best, end) -> searching (the load changed)
 *                   searching -> tired (too many steps back) -> searching (REST_SAMPLES later)
 *
 * Invariants
 *   I1  0 <= level < DYNAMIC_LEVELS.length.
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
/** A sample may take no longer: rates over a pause say nothing about the load. */
const SAMPLE_MS_MAX = 1000;
/** Differences up to this part are noise. */
const NOISE = 0.1;
/** Steps in the other direction after which a search is tired, and how long it rests then. */
const STEPS_BACK_MAX = 2 * DYNAMIC_LEVELS.length;
const REST_SAMPLES = 10;

interface Rates {
  readonly bytes: number;
  readonly frames: number;
  readonly interrupts: number;
}

type Verdict = 'better' | 'same' | 'worse';

function compareRates(now: number, before: number): Verdict {
  if (Math.abs(now - before) <= NOISE * before) return 'same';
  return now > before ? 'better' : 'worse';
}

function compare(now: Rates, before: Rates): Verdict {
  const bytes = compareRates(now.bytes, before.bytes);
  if (bytes !== 'same') return bytes;
  const frames = compareRates(now.frames, before.frames);
  if (frames !== 'same') return frames;
  const interrupts = compareRates(now.interrupts, before.interrupts);
  if (interrupts === 'same') return 'same';
  return interrupts === 'worse' ? 'better' : 'worse';
}

type Search = 'searching' | 'resting' | 'tired';

export class DynamicModeration {
  level: number;
  #state: Search = 'searching';
  #direction: 1 | -1 = 1;
  /** Steps since the last turn, and in the direction before it. */
  #steps = 0;
  #stepsBefore = 0;
  #stepsBack = 0;
  #rest = 0;
  #before: Rates | null = null;
  /** Begin of the sample under way. */
  #sinceMs = Number.NEGATIVE_INFINITY;
  #framesSince = 0;
  #bytesSince = 0;
  #interrupts = 0;

  constructor(level = 0) {
    this.level = Math.min(Math.max(0, Math.trunc(level)), TOP);
  }

  get moderation(): Moderation {
    return DYNAMIC_LEVELS[this.level]!;
  }

  /** The driver was interrupted; the counters are the queue's. True when the level changed. */
  interrupted(nowMs: number, frames: number, bytes: number): boolean {
    this.#interrupts++;
    const elapsedMs = nowMs - this.#sinceMs;
    if (elapsedMs > SAMPLE_MS_MAX) {
      this.#begin(nowMs, frames, bytes); // a pause, or the very first
      return false;
    }
    if (this.#interrupts < SAMPLE_INTERRUPTS || elapsedMs <= 0) return false;
    const rates = {
      bytes: (bytes - this.#bytesSince) / elapsedMs,
      frames: (frames - this.#framesSince) / elapsedMs,
      interrupts: this.#interrupts / elapsedMs,
    };
    this.#begin(nowMs, frames, bytes);
    const before = this.#before;
    this.#before = rates;
    if (before === null) return this.#step(); // there is nothing to compare with yet
    return this.#decide(compare(rates, before));
  }

  #begin(nowMs: number, frames: number, bytes: number): void {
    this.#sinceMs = nowMs;
    this.#framesSince = frames;
    this.#bytesSince = bytes;
    this.#interrupts = 0;
  }

  #decide(verdict: Verdict): boolean {
    switch (this.#state) {
      case 'resting':
        return verdict === 'same' ? false : this.#searchAnew();
      case 'tired':
        return --this.#rest > 0 ? false : this.#searchAnew();
      case 'searching':
        break;
    }
    if (verdict !== 'better') this.#turn();
    if (this.#steps === 1 && this.#stepsBefore > 1) {
      this.#state = 'resting';
      return false;
    }
    return this.#step();
  }

  #turn(): void {
    this.#direction = this.#direction === 1 ? -1 : 1;
    this.#stepsBefore = this.#steps;
    this.#steps = 0;
  }

  #step(): boolean {
    const next = this.level + this.#direction;
    if (next < 0 || next > TOP) {
      this.#state = 'resting';
      return false;
    }
    if (this.#direction === -1 && ++this.#stepsBack > STEPS_BACK_MAX) {
      this.#state = 'tired';
      this.#rest = REST_SAMPLES;
      return false;
    }
    this.#steps++;
    this.level = next;
    return true;
  }

  #searchAnew(): boolean {
    this.#state = 'searching';
    this.#direction = this.level === 0 ? 1 : -1;
    this.#steps = 0;
    this.#stepsBefore = 0;
    this.#stepsBack = 0;
    return this.#step();
  }
}
