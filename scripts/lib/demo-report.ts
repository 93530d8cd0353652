/** What the demo measured, as a table and as a verdict. */
import type { LinkEvents } from '../../test/lib/guest.ts';
import type { Kill } from '../../test/lib/service.ts';
import { type Arrival, longestPause, type StreamReport } from '../../test/lib/stream-analysis.ts';
import type { TransferResult } from '../../test/lib/transfer.ts';

/** A pause that ends so long after a kill is charged to it. */
const WINDOW_US = 1_000_000;
/** The sender's stamp of the first packet that was held back may be a little older than the kill. */
const SLACK_US = 2_000;
/** TCP retransmits after 200 ms at the earliest: what is shorter, no connection notices. */
const PAUSE_MS_MAX = 200;

export interface Pings {
  readonly sent: number;
  readonly received: number;
  readonly duplicated: number;
}

export interface Pauses {
  /** Per kill; null when nothing arrived in its window. */
  readonly perKillMs: readonly (number | null)[];
  /** Longest silence that no kill explains: how far the machine itself can be trusted. */
  readonly otherwiseMs: number;
}

export interface StreamSummary extends StreamReport {
  readonly pauses: Pauses;
}

export interface DemoResult {
  readonly pings: Pings;
  readonly toGuest: StreamSummary;
  readonly fromGuest: StreamSummary;
  /** As the successors themselves measured. */
  readonly takeoversMs: readonly number[];
  readonly transfers: readonly (TransferResult & { readonly intact: boolean })[];
  readonly linkEvents: LinkEvents;
  readonly recoveriesCounted: number;
  /** Pids of the emulators that were killed. */
  readonly kills: readonly number[];
}

export function parsePings(text: string): Pings {
  const counts = /(\d+) packets transmitted, (\d+) received(?:, \+(\d+) duplicates)?/.exec(text);
  if (counts === null) throw new Error(`ping said: ${text}`);
  const [, sent, received, duplicated = '0'] = counts;
  return { sent: Number(sent), received: Number(received), duplicated: Number(duplicated) };
}

/** Pauses of a stream around kills; `clock` is the stamp that was taken by the clock the kills are told by. */
export function pauses(
  arrivals: readonly Arrival[],
  kills: readonly Kill[],
  clock: 'sentUs' | 'arrivedUs',
): Pauses {
  const inside = (arrival: Arrival, { atUs }: Kill): boolean =>
    arrival[clock] >= atUs - SLACK_US && arrival[clock] < atUs + WINDOW_US;
  return {
    perKillMs: kills.map(
      (kill) => longestPause(arrivals, (arrival) => inside(arrival, kill))?.pauseMs ?? null,
    ),
    otherwiseMs:
      longestPause(arrivals, (arrival) => !kills.some((kill) => inside(arrival, kill)))?.pauseMs ?? 0,
  };
}

/** What is not as it should be; empty when all is well. */
export function verdict(result: DemoResult): string[] {
  const problems: string[] = [];
  const { pings, toGuest, fromGuest, linkEvents, kills } = result;
  const bound = kills.length;
  for (const [name, { lost, duplicated }] of [
    ['to', toGuest],
    ['from', fromGuest],
  ] as const)
    if (lost.length + duplicated.length > bound)
      problems.push(
        `${lost.length} packets lost and ${duplicated.length} repeated ${name} the guest in ${bound} kills`,
      );
  // A ping crosses both queues.
  if (pings.sent - pings.received + pings.duplicated > 2 * bound)
    problems.push('too many pings lost or repeated');
  if (!result.transfers.every(({ intact }) => intact)) problems.push('a transfer arrived damaged');
  for (const direction of ['to guest', 'from guest'])
    if (!result.transfers.some((transfer) => transfer.direction === direction))
      problems.push(`nothing was transferred ${direction}`);
  if (linkEvents.carrierChanges !== 0 || linkEvents.monitored.length > 0)
    problems.push(
      `the guest saw link events: ${[linkEvents.carrierChanges, ...linkEvents.monitored].join(' / ')}`,
    );
  if (linkEvents.resets.length > 0) problems.push(`the guest saw a reset: ${linkEvents.resets.join(' / ')}`);
  const longest = [...toGuest.pauses.perKillMs, ...fromGuest.pauses.perKillMs].map(
    (pause) => pause ?? Infinity,
  );
  if (!longest.every((pause) => pause < PAUSE_MS_MAX))
    problems.push(`a pause was not below ${PAUSE_MS_MAX} ms`);
  if (result.recoveriesCounted !== bound)
    problems.push(`virtnet health counts ${result.recoveriesCounted} recoveries instead of ${bound}`);
  return problems;
}

export function table(result: DemoResult): string {
  const { pings, toGuest, fromGuest, linkEvents, kills } = result;
  const cell = (value: number | null): string => (value === null ? 'none' : value.toFixed(1)).padStart(12);
  const count = (value: number): string => value.toLocaleString('en').padStart(12);
  const lines = [
    '                      sent        lost  duplicated',
    `pings        ${count(pings.sent)}${count(pings.sent - pings.received)}${count(pings.duplicated)}`,
    ...(
      [
        ['to guest', toGuest],
        ['from guest', fromGuest],
      ] as const
    ).map(
      ([name, { expected, lost, duplicated }]) =>
        `${name.padEnd(13)}${count(expected)}${count(lost.length)}${count(duplicated.length)}`,
    ),
    '',
    'kill of the active emulator: pause of the 1 ms stream (ms)',
    '      pid      to guest  from guest    takeover',
    ...kills.map((pid, index) => {
      const { perKillMs: down } = toGuest.pauses;
      const { perKillMs: up } = fromGuest.pauses;
      return `${String(pid).padStart(9)}  ${cell(down[index] ?? null)}${cell(up[index] ?? null)}${cell(result.takeoversMs[index] ?? null)}`;
    }),
    `no kill    ${cell(toGuest.pauses.otherwiseMs)}${cell(fromGuest.pauses.otherwiseMs)}   (longest that this machine made by itself)`,
    '',
    ...result.transfers.map(
      ({ direction, bytes, seconds, intact, sent }) =>
        `${(bytes / 2 ** 20).toFixed(0)} MiB ${direction.padEnd(10)} ${seconds.toFixed(1).padStart(6)} s  sha256 ${sent.slice(0, 16)}… ${
          intact ? 'equal at both ends' : 'DIFFERENT'
        }`,
    ),
    '',
    `link events in the guest: ${linkEvents.carrierChanges + linkEvents.monitored.length}    resets: ${linkEvents.resets.length}`,
    `recoveries counted by virtnet health: ${result.recoveriesCounted} of ${kills.length}`,
    '',
  ];
  return lines.join('\n');
}
