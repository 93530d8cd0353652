/**
 * stream-analysis.ts: what a receiver can say about a numbered stream.
 *
 * Theory
 *   The sender numbers its packets and stamps them with its clock; the receiver stamps their arrival with its own.
 *   A pause is the time by which the gap between two arrivals is longer than the gap between their departures, plus
 *   nothing else: a sender that itself was late does not count as a pause of what is between. Packets held back and
 *   then delivered together show one gap, as long as they were held.
 *
 * Invariants
 *   I1  received + lost = expected + duplicated.
 *
 * Limits  The clocks of the two ends need not agree; only differences on the same clock are used. Packets lost after
 *         the last arrival can be counted only when the number sent is known.
 */

/** One packet that arrived, in the order of arrival. Times in microseconds of the end that took them. */
export interface Arrival {
  readonly sequence: number;
  readonly sentUs: number;
  readonly arrivedUs: number;
}

export interface StreamReport {
  readonly expected: number;
  readonly received: number;
  readonly lost: readonly number[];
  readonly duplicated: readonly number[];
  /** Packets that arrived after one with a higher number. */
  readonly reordered: number;
}

/** Compares what arrived with the numbers `first` .. `first + expected - 1`. */
export function analyseStream(arrivals: readonly Arrival[], first: number, expected: number): StreamReport {
  const seen = new Set<number>();
  const duplicated: number[] = [];
  let reordered = 0;
  let highest = first - 1;
  for (const { sequence } of arrivals) {
    if (sequence < first || sequence >= first + expected)
      throw new RangeError(`packet ${sequence} is not one of the ${expected} from ${first} on`);
    if (seen.has(sequence)) duplicated.push(sequence);
    else if (sequence < highest) reordered += 1;
    seen.add(sequence);
    highest = Math.max(highest, sequence);
  }
  const lost: number[] = [];
  for (let sequence = first; sequence < first + expected; sequence++)
    if (!seen.has(sequence)) lost.push(sequence);
  return { expected, received: arrivals.length, lost, duplicated, reordered };
}

/** Runs of lost packets, each with what the ends' clocks say about the time around it; for a message, not for a verdict. */
export function describeLoss(arrivals: readonly Arrival[], { lost }: StreamReport): string {
  const runs: { from: number; to: number }[] = [];
  for (const sequence of lost) {
    const last = runs.at(-1);
    if (last !== undefined && last.to === sequence - 1) last.to = sequence;
    else runs.push({ from: sequence, to: sequence });
  }
  const bySequence = new Map(arrivals.map((arrival) => [arrival.sequence, arrival]));
  const describe = ({ from, to }: { from: number; to: number }): string => {
    const [before, after] = [bySequence.get(from - 1), bySequence.get(to + 1)];
    if (before === undefined || after === undefined) return `${from}..${to} at an end of the stream`;
    const ms = (us: number): string => (us / 1000).toFixed(1);
    const since = before.arrivedUs - (arrivals[0]?.arrivedUs ?? before.arrivedUs);
    return (
      `${from}..${to}, between packets sent ${ms(after.sentUs - before.sentUs)} ms apart that arrived ` +
      `${ms(after.arrivedUs - before.arrivedUs)} ms apart, the former ${ms(since)} ms after the first`
    );
  };
  return runs.length === 0 ? 'nothing' : runs.map(describe).join('; ');
}

/** The first packet that came again or late, with those around it and both ends' clocks; for a message, not for a verdict. */
export function describeDisorder(arrivals: readonly Arrival[]): string {
  const at = arrivals.findIndex(({ sequence }, i) => i > 0 && sequence <= arrivals[i - 1]!.sequence);
  if (at < 0) return 'all in order';
  const { sentUs, arrivedUs } = arrivals[0]!;
  return arrivals
    .slice(Math.max(0, at - 3), at + 4)
    .map(
      (one) => `${one.sequence} (sent at ${one.sentUs - sentUs}, there at ${one.arrivedUs - arrivedUs} us)`,
    )
    .join(', ');
}

export interface Pause {
  /** Index in the arrivals of the packet that ended it. */
  readonly index: number;
  readonly pauseMs: number;
}

/** The longest pause among the arrivals for which `inside` holds; null when there is none. */
export function longestPause(
  arrivals: readonly Arrival[],
  inside: (arrival: Arrival) => boolean,
): Pause | null {
  let longest: Pause | null = null;
  for (let index = 1; index < arrivals.length; index++) {
    const before = arrivals[index - 1];
    const after = arrivals[index];
    if (before === undefined || after === undefined || !inside(after)) continue;
    const silent = after.arrivedUs - before.arrivedUs;
    const between = Math.max(0, after.sentUs - before.sentUs);
    const pauseMs = Math.max(0, silent - between) / 1000;
    if (longest === null || pauseMs > longest.pauseMs) longest = { index, pauseMs };
  }
  return longest;
}

export interface Summary {
  readonly count: number;
  readonly min: number;
  readonly median: number;
  readonly p99: number;
  readonly max: number;
}

/** Order statistics; a percentile is the smallest value that many per cent do not exceed. */
export function summarise(values: readonly number[]): Summary {
  if (values.length === 0) throw new RangeError('nothing to summarise');
  const sorted = [...values].sort((a, b) => a - b);
  const at = (part: number): number => sorted[Math.max(0, Math.ceil(part * sorted.length) - 1)] ?? Number.NaN;
  return { count: sorted.length, min: at(0), median: at(0.5), p99: at(0.99), max: at(1) };
}
