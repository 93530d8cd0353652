/**
 * round-analysis.ts: what rounds of two sides that were measured in turn say about each other.
 *
 * Theory
 *   A virtual machine's processors are sometimes close to each other and sometimes far apart, and everything that two
 *   of them do together changes by a factor of two to five with it. So a round has windows, each of which says how long a
 *   word takes from one to the other, before it and after it, and only windows of one state are compared. A window during
 *   which the state changed, or one of whose threads was not let run, measured something else and is left out, with its
 *   reason.
 *
 * Limits  Windows of ROUNDS_MIN rounds of each side, or a state is not judged.
 */

export const sides = ['virtnet', 'dpdk'] as const;
export type Side = (typeof sides)[number];
export type MachineState = 'near' | 'far';
export type Discard = 'state changed' | 'no processor' | 'clock' | 'frames missing' | 'nothing moved';

/** A window of a round. */
export interface Window {
  readonly side: Side;
  /** Which round it is of: windows of the same one say less than those of several. */
  readonly round: number;
  readonly framesPerSecond: number;
  /** One way between the two processors, before and after. */
  readonly pingPongNs: readonly [number, number];
  /** Shares of the time in which driver's and device's thread could have run and had no processor. */
  readonly waited: { readonly driver: number; readonly device: number };
  /** How far the length of the window may be off, as a share. */
  readonly windowError: number;
  /** Frames of the whole round, by the counters of either side. */
  readonly frames: { readonly driver: number; readonly device: number };
  /** How many of them may be on their way at the end. */
  readonly onTheWay: number;
}

/** Frames a second of the windows of one side in one state. */
export interface SideSummary {
  readonly rounds: number;
  readonly windows: number;
  readonly median: number;
  /** A quarter of the windows had less, a quarter more. */
  readonly lower: number;
  readonly upper: number;
  readonly min: number;
  readonly max: number;
}

export interface Comparison {
  readonly state: MachineState;
  readonly virtnet: SideSummary;
  readonly dpdk: SideSummary;
  readonly ratio: number;
}

/** Between the two states, which are some 30 ns and some 165 ns. */
const NEAR_NS_MAX = 80;
/** A thread that waited for its processor for more than this was disturbed. */
const WAITED_MAX = 0.07;
/** At worst; a window of 0.1 s between two answers of some milliseconds each. */
const WINDOW_ERROR_MAX = 0.05;
const ROUNDS_MIN = 2;
/** Less of a loss says nothing on any machine. */
const SLOWER_SHARE = 0.05;

const stateOf = (pingPongNs: number): MachineState => (pingPongNs <= NEAR_NS_MAX ? 'near' : 'far');

/** Why a window says nothing; null: it does. */
export function discardOf(window: Window): Discard | null {
  const { pingPongNs, waited, windowError, frames, onTheWay } = window;
  if (!(window.framesPerSecond > 0)) return 'nothing moved';
  if (Math.abs(frames.driver - frames.device) > onTheWay) return 'frames missing';
  if (waited.driver > WAITED_MAX || waited.device > WAITED_MAX) return 'no processor';
  if (stateOf(pingPongNs[0]) !== stateOf(pingPongNs[1])) return 'state changed';
  if (windowError > WINDOW_ERROR_MAX) return 'clock';
  return null;
}

/** How often each reason occurs. */
export function countDiscards(windows: readonly Window[]): Partial<Record<Discard, number>> {
  const counts: Partial<Record<Discard, number>> = {};
  for (const reason of windows.map(discardOf))
    if (reason !== null) counts[reason] = (counts[reason] ?? 0) + 1;
  return counts;
}

/** Both sides in each state that has enough windows of both. */
export function compare(windows: readonly Window[]): Comparison[] {
  const usable = windows.filter((window) => discardOf(window) === null);
  return (['near', 'far'] as const).flatMap((state): Comparison[] => {
    const [virtnet, dpdk] = sides.map((side) =>
      summary(usable.filter((window) => window.side === side && stateOf(window.pingPongNs[0]) === state)),
    );
    if (virtnet === null || virtnet === undefined || dpdk === null || dpdk === undefined) return [];
    return [{ state, virtnet, dpdk, ratio: virtnet.median / dpdk.median }];
  });
}

/** What a cell was in a run. */
export interface Compared {
  readonly cell: string;
  readonly comparisons: readonly Comparison[];
}

/** A cell whose ratio to DPDK is less than it was, in the same state of the machine. */
export interface Slower {
  readonly cell: string;
  readonly state: MachineState;
  readonly before: number;
  readonly now: number;
  /** Whether what the better windows of now say is less than what the worse ones of before said. */
  readonly certain: boolean;
}

/** Cells that lost more than SLOWER_SHARE of their ratio since another run, the worst first. */
export function slowerThan(before: readonly Compared[], now: readonly Compared[]): Slower[] {
  const former = new Map(
    before.flatMap(({ cell, comparisons }) => comparisons.map((each) => [`${cell}/${each.state}`, each])),
  );
  const slower = now.flatMap(({ cell, comparisons }) =>
    comparisons.flatMap((each): Slower[] => {
      const then = former.get(`${cell}/${each.state}`);
      if (then === undefined || each.ratio >= then.ratio * (1 - SLOWER_SHARE)) return [];
      const certain = each.virtnet.upper / each.dpdk.lower < then.virtnet.lower / then.dpdk.upper;
      return [{ cell, state: each.state, before: then.ratio, now: each.ratio, certain }];
    }),
  );
  return slower.sort((a, b) => a.now / a.before - b.now / b.before);
}

function summary(windows: readonly Window[]): SideSummary | null {
  const rounds = new Set(windows.map(({ round }) => round)).size;
  if (rounds < ROUNDS_MIN) return null;
  const rates = windows.map(({ framesPerSecond }) => framesPerSecond).sort((a, b) => a - b);
  const [lower, middle, upper] = [0.25, 0.5, 0.75].map((share) => quantile(rates, share));
  return {
    rounds,
    windows: rates.length,
    median: middle!,
    lower: lower!,
    upper: upper!,
    min: rates[0]!,
    max: rates.at(-1)!,
  };
}

/** Of sorted numbers, between two of them if need be. */
function quantile(sorted: readonly number[], share: number): number {
  const place = (sorted.length - 1) * share;
  const before = sorted[Math.floor(place)]!;
  return before + (sorted[Math.ceil(place)]! - before) * (place % 1);
}

export function geometricMean(values: readonly number[]): number {
  return Math.exp(values.reduce((sum, value) => sum + Math.log(value), 0) / values.length);
}
