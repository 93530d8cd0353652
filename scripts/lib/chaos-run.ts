/**
 * chaos-run.ts: events in the order of a seed, a check after each, and the account at the end.
 *
 * Theory
 *   The seed decides the events and every random number in them, not when each is over; so it repeats a run as well as
 *   real processes can be repeated. A pause is charged to the event before it. What is judged at the end says
 *   chaos-verdict.ts.
 *
 *   After every AUDIT_EVERY events, and at the end, the functions are made those of the beginning, and descriptors,
 *   mappings and programs are compared with it.
 */
import { loadavg } from 'node:os';
import { randomNumbers } from '../../test/lib/random.ts';
import { Scene } from '../../test/lib/scene.ts';
import { type StreamReport, summarise } from '../../test/lib/stream-analysis.ts';
import { wallClockUs } from '../../test/lib/stream-packet.ts';
import { sleep, until } from '../../test/lib/waiting.ts';
import type { ChaosOptions } from '../chaos.ts';
import { type ChaosEvent, chaosEvents, fillPool, START_MS } from './chaos-events.ts';
import { processorWaitUs } from './chaos-observer.ts';
import { ChaosStage, HOLDERS, type Traffic } from './chaos-stage.ts';
import {
  CALM_MS,
  calmPause,
  type Happened,
  losses,
  type Moment,
  type Paused,
  pausesOf,
  tooLong,
} from './chaos-verdict.ts';

const GAP_MS_MAX = 50;
const AUDIT_EVERY = 50;
const AUDIT_MS = 30_000;
/** Width of the names. */
const NAME = 34;
const say = (line: string): void => void process.stdout.write(`${line}\n`);

/** What the service holds and consists of. */
interface Account {
  readonly holdings: ReturnType<ChaosStage['holdings']>;
  readonly programs: string;
}

export async function run(options: ChaosOptions): Promise<number> {
  say(`seed ${options.seed}`);
  const scene = await Scene.open();
  const problems: string[] = [];
  const happened: Happened[] = [];
  try {
    const stage = await ChaosStage.open(scene);
    await sleep(CALM_MS);
    const began = performance.now();
    try {
      await events(stage, options, happened);
    } catch (error) {
      problems.push(`after ${happened.at(-1)?.name ?? 'the start'}: ${messageOf(error)}`);
    }
    const minutes = (performance.now() - began) / 60_000;
    const end: Moment = { atUs: wallClockUs(), waitedUs: processorWaitUs() };
    const traffic = await stage.finish();
    const pauses = pausesOf(happened, traffic, end);
    say(table(pauses, traffic));
    say(`${(happened.length / minutes).toFixed(0)} events a minute, load ${loadavg()[0]!.toFixed(1)}`);
    problems.push(...losses(happened, traffic), ...tooLong(pauses, calmPause(happened, traffic)));
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
  happened.push(moment(chaosEvents[0]!, true));
  stage.service.killEmu();
  await stage.settled();
  await stage.check();
  await fillPool(stage);
  const before: Account = { holdings: stage.holdings(), programs: stage.observer.programs() };
  while (performance.now() < end && happened.length < options.events) {
    await sleep(random() * GAP_MS_MAX);
    const event = choose(random(), chosen(options.only));
    if (event.warm === true) await stage.settled();
    const standby = event.cold !== true || (await stage.observer.standbyWarm());
    const started = performance.now();
    const next = moment(event, standby);
    happened.push(next);
    await event.happen(stage, random);
    await stage.check();
    say(
      `${`${happened.length}`.padStart(5)}  ${next.name.padEnd(NAME)}${seconds(performance.now() - started)} s`,
    );
    if (happened.length % AUDIT_EVERY === 0) await audit(stage, before);
  }
  await audit(stage, before);
}

function moment(event: ChaosEvent, standby: boolean): Happened {
  const name = standby ? event.name : `${event.name}, no standby yet`;
  const pauseMs = standby ? event.pauseMs : START_MS;
  return { name, event, pauseMs, atUs: wallClockUs(), waitedUs: processorWaitUs() };
}

/** With the functions of the beginning nobody holds more than then, and the same programs run. */
async function audit(stage: ChaosStage, before: Account): Promise<void> {
  await tidy(stage);
  await stage.settled();
  await until('nothing is left over', AUDIT_MS, () => {
    const after = stage.holdings();
    for (const role of HOLDERS)
      for (const what of ['descriptors', 'sharedMappings'] as const) {
        const [now, then] = [after[role][what], before.holdings[role][what]];
        if (now > then) throw new Error(`${role} holds ${now} ${what} instead of ${then}`);
      }
    const programs = stage.observer.programs();
    if (programs !== before.programs) throw new Error(`programs: ${programs}, before ${before.programs}`);
    return true;
  });
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

function table(paused: readonly Paused[], traffic: readonly Traffic[]): string {
  const names = [...new Set(paused.map(({ happened }) => happened.name))].sort();
  const rows = names.map((name) => {
    const those = paused.filter(({ happened }) => happened.name === name);
    const { median, max } = summarise(those.flatMap(({ pausesMs }) => pausesMs));
    const bound = those[0]!.happened.pauseMs;
    return `${name.padEnd(NAME)}${`${those.length}`.padStart(6)}${ms(median)}${ms(max)}${ms(bound)}`;
  });
  const streams = traffic.map(
    ({ name, report, dropped }) =>
      `${name.padEnd(30)}${`${report.expected}`.padStart(10)}${count(report, 'lost')}${count(report, 'duplicated')}${`${report.reordered}`.padStart(10)}${`${dropped}`.padStart(10)}`,
  );
  return [
    '',
    `${'event'.padEnd(NAME)}${'times'.padStart(6)}${'pause ms, median'.padStart(18)}${'max'.padStart(18)}${'bound'.padStart(18)}`,
    ...rows,
    '',
    `${'stream'.padEnd(30)}${['sent', 'lost', 'repeated', 'order', 'dropped'].map((word) => word.padStart(10)).join('')}`,
    ...streams,
    '(dropped: of those lost, by the kernel before a full representor, and by testpmd; they count like the others)',
    '',
  ].join('\n');
}

function count(report: StreamReport, what: 'lost' | 'duplicated'): string {
  return `${report[what].length}`.padStart(10);
}

const ms = (value: number): string => value.toFixed(1).padStart(18);
const seconds = (milliseconds: number): string => (milliseconds / 1000).toFixed(1).padStart(6);
const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));
