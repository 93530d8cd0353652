/**
 * making-ahead.ts: when a standby makes ahead what a takeover needs.
 *
 * Theory
 *   A function that comes about, or that a driver brings up, changes several times within moments: what is made of it
 *   waits until that is over. Then things are made one by one, for some milliseconds at a time, between which
 *   everything else has its turn, and behind all others that want the processor.
 *
 * Limits  AFTER_MS behind a change; ROUND_MS in one go.
 */
import type { Precedence } from './precedence.js';

const AFTER_MS = 50;
/** For how long other events wait meanwhile. */
const ROUND_MS = 3;

export interface MakingAheadPorts {
  /** Whether anything is to be made at all now. */
  wanted(): boolean;
  /** Makes one thing; whether there are more. */
  one(): boolean;
  /** After each round. */
  made(more: boolean): void;
}

export class MakingAhead {
  readonly #precedence: Precedence;
  readonly #ports: MakingAheadPorts;
  #timer: NodeJS.Timeout | undefined;

  constructor(precedence: Precedence, ports: MakingAheadPorts) {
    this.#precedence = precedence;
    this.#ports = ports;
  }

  /** Something is new. */
  later(): void {
    this.#in(AFTER_MS);
  }

  /** Something is new, and more of it is not expected. */
  soon(): void {
    this.#in(0);
  }

  stop(): void {
    clearTimeout(this.#timer);
  }

  #in(delayMs: number): void {
    if (this.#timer !== undefined || !this.#ports.wanted()) return;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      if (this.#ports.wanted()) this.#round();
    }, delayMs);
  }

  #round(): void {
    let more = true;
    this.#precedence.meanwhile(() => {
      const endMs = performance.now() + ROUND_MS;
      while (more && performance.now() < endMs) more = this.#ports.one();
    });
    if (more) this.soon();
    this.#ports.made(more);
  }
}
