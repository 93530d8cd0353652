/**
 * fuzzer.ts: looks for inputs under which something happens that must never happen.
 *
 * Theory
 *   A target runs one input and says what it saw happen, as numbers: the outcome of each step, and which outcome
 *   followed which. An input under which something happened for the first time joins the corpus, and new inputs are
 *   made from the corpus. So the search goes where the target behaves differently, which for code whose every branch
 *   ends in a fault, a counter or a length is where its branches are.
 *   How long the slowest step of all took is kept. An input that seems slower than all before it is repeated, and of each
 *   of its steps the best time counts: what is slow by itself is slow every time, what a busy machine delayed is not. A
 *   machine that is busy enough delays some step in every repetition, but not the same one each time.
 *
 * Invariants
 *   I1  the same seed, corpus and number of cases make the same inputs.
 *
 * Limits  INPUT_BYTES_MAX an input (fuzz-random.ts).
 */
import { FuzzRandom, mutate } from './fuzz-random.js';

/** Longest a step of the code under test may take. */
export const STEP_MS_MAX = 1;
/** How often an input that seems slower than all before it is tried again. */
const SLOW_RETRIES = 8;
/** The same while a step seems to take too long: on a machine with ten times the work it can do, eight are soon delayed. */
const TOO_SLOW_RETRIES = 100;
const CORPUS_MAX = 20_000;

/** What must never happen has happened. */
export class FuzzFailure extends Error {
  override readonly name = 'FuzzFailure';
}

export interface FuzzTarget {
  readonly name: string;
  /** Inputs to begin with. */
  readonly seeds: readonly Uint8Array[];
  /** Runs one input. Throws when something happened that must not. */
  run(input: Uint8Array, watch: FuzzWatch): void;
}

/** What a target reports to while it runs an input. */
export class FuzzWatch {
  readonly seen = new Set<number>();
  /** What each step took. */
  readonly #stepsMs: number[] = [];
  #last = 0;

  /** Of the slowest step. */
  get slowestMs(): number {
    return this.#stepsMs.reduce((slowest, ms) => Math.max(slowest, ms), 0);
  }

  /** Something happened; kinds are small numbers, details any. */
  saw(kind: number, detail = 0): void {
    const event = Math.imul(kind + 1, 0x9e37_79b1) ^ Math.imul(detail + 1, 0x85eb_ca6b);
    this.seen.add(event | 0);
    this.seen.add((Math.imul(this.#last, 31) ^ event) | 0);
    this.#last = event;
  }

  /** A number of which only the size matters. */
  sawSize(kind: number, size: number): void {
    this.saw(kind, size <= 4 ? size : 36 - Math.clz32(size));
  }

  /** Runs a step of the code under test, which may take as long as `steps` of them. */
  step<T>(code: () => T, steps = 1): T {
    const start = performance.now();
    const result = code();
    this.#stepsMs.push((performance.now() - start) / steps);
    return result;
  }

  /** The same input was run again: of each step the better time is kept. */
  keepBest(again: FuzzWatch): void {
    for (const [step, ms] of again.#stepsMs.entries())
      if (step < this.#stepsMs.length) this.#stepsMs[step] = Math.min(this.#stepsMs[step]!, ms);
  }
}

export interface FuzzOptions {
  readonly seed: number;
  /** Inputs of former runs. */
  readonly corpus?: readonly Uint8Array[];
  /** Asked before each case with the number done. */
  readonly more: (cases: number) => boolean;
  readonly onKept?: (input: Uint8Array) => void;
}

export interface FuzzProblem {
  readonly input: Uint8Array;
  readonly message: string;
}

export interface FuzzReport {
  readonly cases: number;
  readonly corpus: number;
  /** Different things seen to happen. */
  readonly features: number;
  /** Of the slowest step, by the best times of inputs that seemed slower than all before them. */
  readonly slowestMs: number;
  /** The first of each kind. */
  readonly problems: readonly FuzzProblem[];
}

export function fuzz(target: FuzzTarget, options: FuzzOptions): FuzzReport {
  const random = new FuzzRandom(options.seed);
  const corpus: Uint8Array[] = [];
  const features = new Set<number>();
  const problems = new Map<string, FuzzProblem>();
  let slowestMs = 0;
  let cases = 0;

  const tryInput = (input: Uint8Array): void => {
    cases++;
    const { watch, problem } = runCase(target, input);
    const limit = Math.min(slowestMs, STEP_MS_MAX);
    if (problem === null && watch.slowestMs > limit) tryAgain(target, input, watch, limit);
    if (watch.slowestMs > slowestMs) slowestMs = watch.slowestMs;
    const found = problem ?? (watch.slowestMs > STEP_MS_MAX ? tooSlow(watch) : null);
    if (found !== null) {
      const kind = found.replace(/\d+/g, '#');
      if (!problems.has(kind)) problems.set(kind, { input, message: found });
      return;
    }
    const before = features.size;
    for (const feature of watch.seen) features.add(feature);
    if (features.size === before || corpus.length >= CORPUS_MAX) return;
    corpus.push(input);
    options.onKept?.(input);
  };

  for (const input of [...target.seeds, ...(options.corpus ?? [])]) tryInput(input);
  // What was found last is tried most: half of the time among the last of the corpus.
  const choose = (): Uint8Array => {
    const recent = random.below(2) === 0 ? Math.min(corpus.length, 64) : corpus.length;
    return corpus[corpus.length - 1 - random.below(recent)] ?? random.bytes(64);
  };
  while (options.more(cases)) tryInput(mutate(choose(), choose(), random));
  return {
    cases,
    corpus: corpus.length,
    features: features.size,
    slowestMs,
    problems: [...problems.values()],
  };
}

/** Runs one input; `problem` says what must not have happened, null when nothing did. */
export function runCase(
  target: FuzzTarget,
  input: Uint8Array,
): { readonly watch: FuzzWatch; readonly problem: string | null } {
  const watch = new FuzzWatch();
  try {
    target.run(input, watch);
    return { watch, problem: null };
  } catch (error) {
    if (error instanceof FuzzFailure) return { watch, problem: error.message };
    return { watch, problem: `threw ${error instanceof Error ? error.stack : String(error)}` };
  }
}

/** Tries an input that seems slower than `limit` again, as long as it does, and keeps its steps' best times in `watch`. */
function tryAgain(target: FuzzTarget, input: Uint8Array, watch: FuzzWatch, limit: number): void {
  const retries = (): number => (watch.slowestMs > STEP_MS_MAX ? TOO_SLOW_RETRIES : SLOW_RETRIES);
  for (let i = 0; watch.slowestMs > limit && i < retries(); i++) {
    watch.keepBest(runCase(target, input).watch);
  }
}

const tooSlow = ({ slowestMs }: FuzzWatch): string => `a step took ${slowestMs.toFixed(2)} ms`;
