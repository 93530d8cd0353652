/**
 * hiccup-record.ts: how long a loop takes from one turn to the next, kept by its own thread in a file that others read.
 *
 * Theory
 *   Each turn reads the clock once and counts the time since the last one, in a histogram of microseconds. A time of
 *   NOTED_MS or more is written down by itself, with what is known of it: how long the thread waited for a processor
 *   (the scheduler's account), how long the collector ran, whether optimised code was given up, which pages had to be
 *   found. What has no such reason was taken by the machine: an interrupt, or the hypervisor.
 *   Finding that out takes time as well, which is not counted: the next turn begins behind it.
 *
 * Parties
 *   thread   the only writer, through a mapping.
 *   reader   reads the file; what happened in a window is the difference of two readings (hiccup-analysis.ts).
 *
 * Limits  BINS microseconds, longer times are counted in the last place. EVENTS_MAX times written down; the oldest go
 *         first. V8 says which code a process gave up, not which thread of it.
 */
import { closeSync, ftruncateSync, openSync, readFileSync, readSync, statSync } from 'node:fs';
import v8 from 'node:v8';
import { sharedMapping } from '@virtnet/host-linux';
import type { Hiccup, Reading } from '../../test/lib/hiccup-analysis.ts';

/** A turn of a busy worker takes some 10 us. */
const NOTED_MS = 0.1;
const US_PER_MS = 1_000;
const NS_PER_MS = 1_000_000;
const BINS = 100_000;
const EVENTS_MAX = 8_192;
/** Turns between two looks at the accounts, so that they say little of what was before an event. */
const LOOK_TURNS = 4_096;

/** 64-bit words of the file: counters, histogram, events. */
const Word = { TURNS: 0, NOTED: 1, LAST_MS: 2, HISTOGRAM: 8 } as const;
const EventWord = { GAP: 0, WAITED: 1, COLLECTED: 2, DEOPTIMISED: 3, FAULTS: 4, COUNT: 8 } as const;
const EVENTS_AT = Word.HISTOGRAM + BINS;
const WORDS = EVENTS_AT + EVENTS_MAX * EventWord.COUNT;
const NEVER = -1;

/** Place in schedstat, and places in stat behind the name (proc(5)): pages that were in memory, and that were not. */
const WAITED_FIELD = 1;
const FAULT_FIELDS = [7, 9] as const;

export class HiccupRecord {
  readonly #words: Float64Array;
  readonly #text = Buffer.alloc(1024);
  readonly #schedule: number;
  readonly #status: number;
  readonly #trace: string;
  readonly #collector = new v8.GCProfiler();
  #untilLook = LOOK_TURNS;
  #waitedMs = 0;
  #faults = 0;
  #traceBytes = 0;

  /** Of the calling thread, in a new file. With `traced`, what code its process gives up is noticed too. */
  constructor(path: string, traced: boolean) {
    const fd = openSync(path, 'w+');
    ftruncateSync(fd, WORDS * 8);
    const mapping = sharedMapping(fd, WORDS * 8);
    closeSync(fd);
    if (typeof mapping === 'number') throw new Error(`${path}: errno ${-mapping}`);
    this.#words = new Float64Array(mapping.buffer, 0, WORDS);
    this.#words[Word.LAST_MS] = NEVER;
    this.#schedule = openSync('/proc/thread-self/schedstat', 'r');
    this.#status = openSync('/proc/thread-self/stat', 'r');
    this.#trace = `${path}.trace`;
    if (traced)
      for (const flag of ['trace-deopt', 'redirect-code-traces', `redirect-code-traces-to=${this.#trace}`])
        v8.setFlagsFromString(`--${flag}`);
    this.#collector.start();
    this.#look();
  }

  /** A turn begins. */
  turn(): void {
    const words = this.#words;
    const now = performance.now();
    const last = words[Word.LAST_MS]!;
    words[Word.LAST_MS] = now;
    if (last === NEVER) return;
    const gapMs = now - last;
    const bin = Word.HISTOGRAM + Math.min((gapMs * US_PER_MS) | 0, BINS - 1);
    words[bin] = words[bin]! + 1;
    words[Word.TURNS] = words[Word.TURNS]! + 1;
    if (gapMs >= NOTED_MS) this.#note(gapMs);
    else if (--this.#untilLook > 0) return;
    else this.#look();
    words[Word.LAST_MS] = performance.now();
  }

  /** What comes now is not of a turn. */
  pause(): void {
    this.#words[Word.LAST_MS] = NEVER;
  }

  #note(gapMs: number): void {
    const words = this.#words;
    // A collection that explains this gap took most of it; a shorter one may have been long before.
    const costs = this.#collector.stop()?.statistics.map(({ cost }) => cost / US_PER_MS) ?? [];
    const collectedMs = costs.filter((ms) => ms >= NOTED_MS / 2).reduce((sum, ms) => sum + ms, 0);
    const [waitedMs, faults, traceBytes] = [this.#waitedMs, this.#faults, this.#traceBytes];
    this.#look();
    const at = EVENTS_AT + (words[Word.NOTED]! % EVENTS_MAX) * EventWord.COUNT;
    words[at + EventWord.GAP] = gapMs;
    words[at + EventWord.WAITED] = Math.min(gapMs, this.#waitedMs - waitedMs);
    words[at + EventWord.COLLECTED] = Math.min(gapMs, collectedMs);
    words[at + EventWord.DEOPTIMISED] = this.#traceBytes > traceBytes ? 1 : 0;
    words[at + EventWord.FAULTS] = this.#faults - faults;
    words[Word.NOTED] = words[Word.NOTED]! + 1;
    this.#collector.start();
  }

  /** Reads the accounts. */
  #look(): void {
    this.#untilLook = LOOK_TURNS;
    this.#waitedMs = Number(this.#fields(this.#schedule)[WAITED_FIELD]) / NS_PER_MS;
    const fields = this.#fields(this.#status);
    this.#faults = FAULT_FIELDS.reduce((sum, field) => sum + Number(fields[field]), 0);
    this.#traceBytes = statSync(this.#trace, { throwIfNoEntry: false })?.size ?? 0;
  }

  /** Of a file of /proc, behind the name of the thread if there is one. */
  #fields(fd: number): string[] {
    const text = this.#text.toString('latin1', 0, readSync(fd, this.#text, 0, this.#text.length, 0));
    return text
      .slice(text.lastIndexOf(') ') + 1)
      .trim()
      .split(' ');
  }
}

export function readRecord(path: string): Reading {
  const bytes = readFileSync(path);
  const words = new Float64Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + WORDS * 8));
  const noted = words[Word.NOTED]!;
  const first = Math.max(0, noted - EVENTS_MAX);
  const hiccups = Array.from({ length: noted - first }, (_, i): Hiccup => {
    const at = EVENTS_AT + ((first + i) % EVENTS_MAX) * EventWord.COUNT;
    return {
      gapMs: words[at + EventWord.GAP]!,
      waitedMs: words[at + EventWord.WAITED]!,
      collectedMs: words[at + EventWord.COLLECTED]!,
      deoptimised: words[at + EventWord.DEOPTIMISED] === 1,
      faults: words[at + EventWord.FAULTS]!,
    };
  });
  return { turns: words[Word.TURNS]!, histogram: words.subarray(Word.HISTOGRAM, EVENTS_AT), noted, hiccups };
}
