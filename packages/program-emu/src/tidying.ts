/**
 * tidying.ts: a standby puts its own memory in order, once, after it has made everything ahead and before it stands by.
 *
 * Theory
 *   Much was made, once: whoever runs in real time must not be stopped by its traces for a tenth of a second. And the end of
 *   the process, if it is killed while it serves, takes processors from its successor: large pages make it short.
 *
 * Limits  a collection in one go; after it one large page at each step, some milliseconds.
 */
import { useLargePages } from '@virtnet/host-linux';

export class Tidying {
  #tidy = false;
  #steps: Iterator<void> | null = null;
  readonly #collect: () => void;
  readonly #begin: () => Iterator<void>;

  constructor(collect: () => void = () => globalThis.gc?.(), begin: () => Iterator<void> = useLargePages) {
    this.#collect = collect;
    this.#begin = begin;
  }

  /** Everything is in order. */
  get tidy(): boolean {
    return this.#tidy;
  }

  /** Begins, unless it has begun. */
  begin(): void {
    if (this.#tidy || this.#steps !== null) return;
    this.#collect();
    this.#steps = this.#begin();
  }

  /** It is good enough as it is: who is waited for tidies up when V8 thinks fit. */
  skip(): void {
    this.#tidy = true;
  }

  /** Much will be made anew. */
  again(): void {
    this.#tidy = false;
    this.#steps = null;
  }

  /** One step of what was begun; whether there are more. */
  next(): boolean {
    if (this.#steps === null) return false;
    if (this.#steps.next().done !== true) return true;
    this.#steps = null;
    this.#tidy = true;
    return false;
  }
}
