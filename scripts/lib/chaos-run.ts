/**
 * chaos-run.ts: events in the order of a seed, a check after each, and the account at the end.
 *
 * Theory
 *   The seed decides the events and every random number in them, not when each is over; so it repeats a run as well as
 *   real processes can be repeated. A pause, and a frame that was lost or came twice, is charged to the event before it.
 */
import { randomNumbers } from '../../test/lib/random.ts';
import { Scene } from '../../test/lib/scene.ts';
import { longestPause, type StreamReport, summarise } from '../../test/lib/stream-analysis.ts';
import { wallClockUs } from '../../test/lib/stream-packet.ts';
import { sleep } from '../../test/lib/waiting.ts';
import type { ChaosOptions } from '../chaos.ts';
import { type ChaosEvent, chaosEvents, fillPool } from './chaos-events.ts';
import { ChaosStage, type Traffic } from './chaos-stage.ts';

const GAP_MS_MAX = 300;
const say = (line: string): void => void process.stdout.write(`${line}\n`);

interface Happened {
  readonly event: ChaosEvent;
  readonly atUs: number;
}

export async function run(options: ChaosOptions): Promise<number> {
  say(`seed ${options.seed}`);
  const scene = await Scene.open();
  const problems: string[] = [];
  const happened: Happened[] = [];
  try {
    const stage = await ChaosStage.open(scene);
    try {
      await events(stage, options, happened);
    } catch (error) {
      problems.push(`after ${happened.at(-1)?.event.name ?? 'the start'}: ${messageOf(error)}`);
    }
    const traffic = await stage.finish();
    say(table(happened, traffic));
    problems.push(...losses(happened, traffic));
  } catch (error) {
    problems.push(messageOf(error));
  }
  if (problems.length > 0) process.stderr.write(`${scene.lastWords()}\n`);
  problems.push(...(await scene.end()));
  for (const problem of problems) say(`FAILED: ${problem}`);
  say(
    problems.length === 0
      ? `${happened.length} events, all well`
      : `${happened.length} events; again: scripts/chaos --seed ${options.seed} --minutes ${options.minutes}`,
  );
  return problems.length === 0 ? 0 : 1;
}

async function events(stage: ChaosStage, options: ChaosOptions, happened: Happened[]): Promise<void> {
  const random = randomNumbers(options.seed);
  const end = performance.now() + options.minutes * 60_000;
  // Whoever serves in the beginning has not taken over yet, and holds less.
  stage.service.killEmu();
  happened.push({ event: chaosEvents[0]!, atUs: wallClockUs() });
  await stage.check();
  await fillPool(stage);
  const before = stage.holdings();
  while (performance.now() < end && happened.length < options.events) {
    await sleep(random() * GAP_MS_MAX);
    const event = choose(random(), chosen(options.only));
    const started = performance.now();
    happened.push({ event, atUs: wallClockUs() });
    await event.happen(stage, random);
    await stage.check();
    say(
      `${`${happened.length}`.padStart(5)}  ${event.name.padEnd(30)}${seconds(performance.now() - started)} s`,
    );
  }
  await tidy(stage);
  const after = stage.holdings();
  for (const role of ['emu', 'ha'] as const)
    for (const what of ['descriptors', 'sharedMappings'] as const)
      if (after[role][what] > before[role][what])
        throw new Error(`${role} holds ${after[role][what]} ${what} instead of ${before[role][what]}`);
}

/** Back to the functions of the beginning. */
async function tidy(stage: ChaosStage): Promise<void> {
  const named = (name: string) => chaosEvents.find((event) => event.name === name)!;
  const never = () => 0;
  if (stage.extra !== null) await named('plug or unplug').happen(stage, never);
  if (stage.vfs > 0) await named('VFs').happen(stage, never);
  await stage.check();
}

/** The events with one of `words` in their names; all of them without words. */
export function chosen(words: readonly string[]): readonly ChaosEvent[] {
  return chaosEvents.filter(({ name }) => words.length === 0 || words.some((word) => name.includes(word)));
}

function choose(point: number, events: readonly ChaosEvent[]): ChaosEvent {
  const total = events.reduce((sum, { weight }) => sum + weight, 0);
  let left = point * total;
  for (const event of events) {
    left -= event.weight;
    if (left < 0) return event;
  }
  return events[0]!;
}

/** What the streams lost beyond what the events may cost them. */
function losses(happened: readonly Happened[], traffic: readonly Traffic[]): string[] {
  const frames = happened.reduce((sum, { event }) => sum + event.frames, 0);
  return traffic.flatMap(({ name, report, dropped, queues }) => {
    const damaged = report.lost.length + report.duplicated.length - dropped;
    const found: string[] = [];
    if (damaged > frames * queues)
      found.push(`${name}: ${damaged} frames lost or repeated, ${frames * queues} allowed`);
    if (report.reordered > 0) found.push(`${name}: ${report.reordered} frames out of order`);
    if (report.received === 0) found.push(`${name}: nothing arrived`);
    return found;
  });
}

function table(happened: readonly Happened[], traffic: readonly Traffic[]): string {
  const rows = chaosEvents.flatMap(({ name }) => {
    const windows = happened.flatMap(({ event, atUs }, index) =>
      event.name === name ? [{ from: atUs, to: happened[index + 1]?.atUs ?? Number.POSITIVE_INFINITY }] : [],
    );
    if (windows.length === 0) return [];
    const pauses = windows.flatMap(({ from, to }) =>
      traffic.map(
        ({ arrivals }) =>
          longestPause(arrivals, ({ arrivedUs }) => arrivedUs >= from && arrivedUs < to)?.pauseMs ?? 0,
      ),
    );
    const { median, max } = summarise(pauses);
    return [`${name.padEnd(30)}${`${windows.length}`.padStart(6)}${ms(median)}${ms(max)}`];
  });
  const streams = traffic.map(
    ({ name, report, dropped }) =>
      `${name.padEnd(30)}${`${report.expected}`.padStart(10)}${count(report, 'lost')}${count(report, 'duplicated')}${`${report.reordered}`.padStart(10)}${`${dropped}`.padStart(10)}`,
  );
  return [
    '',
    `${'event'.padEnd(30)}${'times'.padStart(6)}${'pause ms, median'.padStart(18)}${'max'.padStart(18)}`,
    ...rows,
    '',
    `${'stream'.padEnd(30)}${['sent', 'lost', 'repeated', 'order', 'dropped'].map((word) => word.padStart(10)).join('')}`,
    ...streams,
    '(dropped: of those lost, by the kernel before a full representor, and by testpmd before a full ring)',
    '',
  ].join('\n');
}

function count(report: StreamReport, what: 'lost' | 'duplicated'): string {
  return `${report[what].length}`.padStart(10);
}

const ms = (value: number): string => value.toFixed(1).padStart(18);
const seconds = (milliseconds: number): string => (milliseconds / 1000).toFixed(1).padStart(6);
const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));
