/**
 * hiccup-analysis.ts: what the times between a loop's turns say, and why the longest were so long.
 *
 * A record of turns only grows. What happened in a window is the difference of two readings of it.
 */

/** A turn that came late. */
export interface Hiccup {
  readonly gapMs: number;
  /** Of that: how long the thread could have run and had no processor. */
  readonly waitedMs: number;
  /** How long the collector ran. */
  readonly collectedMs: number;
  /** Optimised code was given up meanwhile, or shortly before. */
  readonly deoptimised: boolean;
  /** Pages that had to be found meanwhile, or shortly before. */
  readonly faults: number;
}

export interface Reading {
  readonly turns: number;
  /** Turns by the microseconds since the one before; in the last place are all that took longer. */
  readonly histogram: Float64Array;
  /** How many turns came late. */
  readonly noted: number;
  /** The last of them, oldest first. */
  readonly hiccups: readonly Hiccup[];
}

export interface Hiccups {
  readonly turns: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly p9999Ms: number;
  /** The same of all turns but those that came late because the thread had no processor. */
  readonly ranP9999Ms: number;
  readonly maxMs: number;
  /** Longest first. */
  readonly worst: readonly (Hiccup & { readonly reason: Reason })[];
  /** How many late turns have which reason, and how many of those took LONG_MS or more. */
  readonly reasons: Partial<Record<Reason, { readonly late: number; readonly long: number }>>;
  /** The time since the turn before, of the `rank` turns for which it was longest the least of them. */
  longest(rank: number): number;
}

/** `machine`: nothing the thread or its kernel knows of; an interrupt, or the hypervisor ran something else. */
export type Reason = 'collector' | 'scheduler' | 'deoptimisation' | 'page faults' | 'machine';

/** What is late is worth a look; this is too long. */
export const LONG_MS = 1;
const US_PER_MS = 1_000;
const WORST = 8;
/** What finding a page costs at least. */
const FAULT_MS = 0.000_5;

/** A part of the time that is most of it is its reason. */
export function reasonOf({ gapMs, waitedMs, collectedMs, deoptimised, faults }: Hiccup): Reason {
  if (waitedMs >= gapMs / 2) return 'scheduler';
  if (collectedMs >= gapMs / 2) return 'collector';
  if (deoptimised) return 'deoptimisation';
  if (faults * FAULT_MS >= gapMs / 2) return 'page faults';
  return 'machine';
}

/** The time that a share of all turns did not take longer than, to the microsecond; NaN without a turn. */
export function quantileMs(histogram: Float64Array, share: number): number {
  const turns = histogram.reduce((sum, count) => sum + count, 0);
  if (turns === 0) return Number.NaN;
  let left = Math.ceil(turns * share);
  for (let us = 0; us < histogram.length; us++) {
    left -= histogram[us]!;
    if (left <= 0) return (us + 1) / US_PER_MS;
  }
  return histogram.length / US_PER_MS;
}

/** What happened between two readings of the same record. */
export function between(before: Reading, after: Reading): Hiccups {
  const histogram = after.histogram.map((count, us) => count - before.histogram[us]!);
  const fresh = Math.min(after.noted - before.noted, after.hiccups.length);
  const late = after.hiccups
    .slice(after.hiccups.length - fresh)
    .map((hiccup) => ({ ...hiccup, reason: reasonOf(hiccup) }));
  const reasons: Partial<Record<Reason, { late: number; long: number }>> = {};
  const ran = histogram.slice();
  for (const { reason, gapMs } of late) {
    reasons[reason] ??= { late: 0, long: 0 };
    const count = reasons[reason];
    count.late++;
    if (gapMs >= LONG_MS) count.long++;
    const us = Math.min(Math.floor(gapMs * US_PER_MS), ran.length - 1);
    if (reason === 'scheduler') ran[us] = ran[us]! - 1;
  }
  const turns = after.turns - before.turns;
  const worst = late.toSorted((a, b) => b.gapMs - a.gapMs).slice(0, WORST);
  return {
    turns,
    p50Ms: quantileMs(histogram, 0.5),
    p99Ms: quantileMs(histogram, 0.99),
    p9999Ms: quantileMs(histogram, 0.9999),
    ranP9999Ms: quantileMs(ran, 0.9999),
    maxMs: worst[0]?.gapMs ?? quantileMs(histogram, 1),
    worst,
    reasons,
    longest: (rank) => quantileMs(histogram, 1 - (rank - 1) / turns),
  };
}
