/**
 * chaos-verdict.ts: what the streams may have suffered from what happened, and what was too much.
 *
 * Theory
 *   Frames that were lost or came twice are compared with what all events may cost: nobody on the way may drop any
 *   (representors keep those of a minute, and testpmd waits for room), so there is nothing to leave out of the account.
 *   A pause is charged to the event before it. Each kind of event has a bound on pauses. What the machine itself shows
 *   is added, the longest pause in the time before the first event and the time in which somebody waited for a
 *   processor, up to EXCUSE times the bound.
 */
import { longestPause } from '../../test/lib/stream-analysis.ts';
import type { ChaosEvent } from './chaos-kinds.ts';
import type { Traffic } from './chaos-stage.ts';

/** Without events, before the first one. */
export const CALM_MS = 2_000;
const EXCUSE = 2;
/** Instead of an event: nothing arrived any more. */
const AT_THE_END = -1;

export interface Happened {
  /** Name of its row. */
  readonly name: string;
  readonly event: ChaosEvent;
  /** Bound on pauses. */
  readonly pauseMs: number;
  readonly atUs: number;
  /** processorWaitUs() then. */
  readonly waitedUs: number;
}

export interface Moment {
  readonly atUs: number;
  readonly waitedUs: number;
}

export interface Paused {
  readonly happened: Happened;
  /** The longest of each stream until the next event. */
  readonly pausesMs: readonly number[];
  /** How long somebody waited for a processor meanwhile. */
  readonly waitedMs: number;
}

function longestOf({ arrivals }: Traffic, fromUs: number, toUs: number): number {
  return longestPause(arrivals, ({ arrivedUs }) => arrivedUs >= fromUs && arrivedUs < toUs)?.pauseMs ?? 0;
}

export function pausesOf(happened: readonly Happened[], traffic: readonly Traffic[], end: Moment): Paused[] {
  return happened.map((one, index) => {
    const next = happened[index + 1] ?? end;
    const pausesMs = traffic.map((stream) => longestOf(stream, one.atUs, next.atUs));
    return { happened: one, pausesMs, waitedMs: (next.waitedUs - one.waitedUs) / 1000 };
  });
}

/** The longest pause of the time before the first event. */
export function calmPause(happened: readonly Happened[], traffic: readonly Traffic[]): number {
  const toUs = happened[0]?.atUs ?? 0;
  return Math.max(...traffic.map((stream) => longestOf(stream, toUs - CALM_MS * 1000, toUs)));
}

export function tooLong(pauses: readonly Paused[], calmMs: number): string[] {
  return pauses.flatMap(({ happened: { name, pauseMs }, pausesMs, waitedMs }, index) => {
    const allowed = pauseMs + Math.min(EXCUSE * pauseMs, calmMs + waitedMs);
    const longest = Math.max(...pausesMs);
    if (longest <= allowed) return [];
    return [
      `event ${index + 1}, ${name}: a pause of ${longest.toFixed(0)} ms, ${allowed.toFixed(0)} allowed (of each stream: ${pausesMs.map((ms) => ms.toFixed(0)).join(', ')})`,
    ];
  });
}

/** What the streams lost beyond what the events may cost them. */
export function losses(happened: readonly Happened[], traffic: readonly Traffic[]): string[] {
  const frames = happened.reduce((sum, { event }) => sum + event.frames, 0);
  return traffic.flatMap((stream) => {
    const { name, report, queues } = stream;
    const damaged = report.lost.length + report.duplicated.length;
    const found: string[] = [];
    if (damaged > frames * queues)
      found.push(
        `${name}: ${damaged} frames lost or repeated, ${frames * queues} allowed${whenLost(stream, happened)}`,
      );
    if (report.reordered > 0) found.push(`${name}: ${report.reordered} frames out of order`);
    if (report.received === 0) found.push(`${name}: nothing arrived`);
    return found;
  });
}

/** The last events before the stream went on behind frames that were lost, each with how many these were. */
function whenLost({ arrivals, report }: Traffic, happened: readonly Happened[]): string {
  const inOrder = [...arrivals].sort((a, b) => a.sequence - b.sequence);
  const counts = new Map<number, number>();
  let at = 0;
  for (const sequence of [...report.lost].sort((a, b) => a - b)) {
    while (at < inOrder.length && inOrder[at]!.sequence < sequence) at += 1;
    const next = inOrder[at];
    const event =
      next === undefined ? AT_THE_END : happened.findLastIndex(({ atUs }) => atUs <= next.arrivedUs) + 1;
    counts.set(event, (counts.get(event) ?? 0) + 1);
  }
  const words = [...counts].map(([event, count]) =>
    event === AT_THE_END
      ? `${count} at the end`
      : `${count} by event ${event}, ${happened[event - 1]?.name ?? 'the start'}`,
  );
  return words.length === 0 ? '' : ` (${words.join('; ')})`;
}
