/**
 * interrupt-moderation.ts: when the driver is interrupted for what a queue has published.
 *
 * Theory
 *   Without moderation each burst that the driver wants to hear of interrupts it. With moderation an interrupt that is
 *   due waits until enough frames have come or enough time has passed; the three modes differ in when time begins:
 *     first-frame      with the first frame that waits: what the driver asks for (virtio 1.3, 5.1.6.5.7)
 *     last-interrupt   with the interrupt before: a limit of their rate, which costs a queue nothing that is seldom used
 *     last-frame       with the latest frame: the burst is over
 *   Under `dynamic` the time of last-interrupt is chosen by DynamicModeration.
 *
 * States            quiet -> pending (note, wanted) -> quiet (sent, or forget);  pending -> due as frames or time come
 *
 * Parties
 *   worker   calls note() after each poll, waits no longer than `deadlineMs`, interrupts when told, and calls sent(); or
 *            forget(), if the driver suppresses interrupts by then: it has seen what this one is for.
 *            Whoever lets go of a queue interrupts at once when `pending`: nothing may wait for a timer that is gone.
 *
 * Invariants
 *   I1  an interrupt that was wanted is due after at most `usecs` of its mode (last-frame: times `frames`).
 *   I2  nothing is due that was not wanted since the last interrupt.
 *
 * Limits  time is the caller's, in milliseconds with fractions.
 */
import { DynamicModeration } from './dynamic-moderation.js';
import type { Moderation, ModerationMode } from './moderation.js';

export interface ModerationStart {
  readonly moderation: Moderation | 'dynamic';
  /** The queue's counter of frames now. */
  readonly frames: number;
  /** Where dynamic moderation begins: at the level of a predecessor. */
  readonly level: number;
  readonly queueSize: number;
}

const USECS_PER_MS = 1000;

export class InterruptModeration {
  /** An interrupt waits. */
  pending = false;
  /** When it is due whatever comes; meaningful while one is pending. */
  deadlineMs = 0;
  readonly #mode: ModerationMode;
  readonly #dynamic: DynamicModeration | null;
  readonly #bufferFrames: number;
  #waitMs: number;
  #framesMax: number;
  /** Frames counted when the queue was last looked at, and when the pending interrupt began to wait. */
  #seen = 0;
  #from = 0;
  #sentMs = Number.NEGATIVE_INFINITY;

  constructor({ moderation, frames, level, queueSize }: ModerationStart) {
    this.#seen = frames;
    this.#bufferFrames = Math.max(1, queueSize - (queueSize >> 2));
    this.#dynamic = moderation === 'dynamic' ? new DynamicModeration(level) : null;
    const start = moderation === 'dynamic' ? this.#dynamic!.moderation : moderation;
    this.#mode = start.mode;
    this.#waitMs = start.usecs / USECS_PER_MS;
    this.#framesMax = start.frames;
    this.#bound();
  }

  /** Level of dynamic moderation; 0 without it. */
  get level(): number {
    return this.#dynamic?.level ?? 0;
  }

  /**
   * The queue was looked at: `wanted` says whether the driver is to be interrupted for what is new, `frames` is its
   * counter. True: interrupt now.
   */
  note(wanted: boolean, nowMs: number, frames: number): boolean {
    if (this.pending) {
      if (this.#mode === 'last-frame' && frames > this.#seen) this.deadlineMs = nowMs + this.#waitMs;
    } else if (wanted) {
      this.pending = true;
      this.#from = this.#seen;
      this.deadlineMs = (this.#mode === 'last-interrupt' ? this.#sentMs : nowMs) + this.#waitMs;
    }
    this.#seen = frames;
    return this.pending && (nowMs >= this.deadlineMs || frames - this.#from >= this.#framesMax);
  }

  /** The driver was interrupted; `bytes` is the queue's counter. True when the level of dynamic moderation changed. */
  sent(nowMs: number, bytes: number): boolean {
    this.pending = false;
    this.#sentMs = nowMs;
    if (this.#dynamic?.interrupted(nowMs, bytes) !== true) return false;
    const { usecs, frames: framesMax } = this.#dynamic.moderation;
    this.#waitMs = usecs / USECS_PER_MS;
    this.#framesMax = framesMax;
    this.#bound();
    return true;
  }

  /** The driver does not want the pending interrupt any more; it was not sent. */
  forget(): void {
    this.pending = false;
  }

  /** A quarter of the buffers is left: dynamic moderation was not asked to let the driver run out of them. */
  #bound(): void {
    if (this.#dynamic !== null) this.#framesMax = Math.min(this.#framesMax, this.#bufferFrames);
  }
}
