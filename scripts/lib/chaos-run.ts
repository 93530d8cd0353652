/**
 * chaos-run.ts: events in the order of a seed, a check after each, and the account at the end.
 *
 * Theory
 *   The seed decides the events and every random number in them, not when each is over; so it repeats a run as well as
 *   real processes can be repeated. An event that needs a warm standby is put off while one is starting, and those drawn
 *   after it happen meanwhile; each has random numbers of its own, so it is the same event whenever it happens. A pause is
 *   charged to the event before it. What is judged at the end says chaos-verdict.ts.
 *
 *   After every AUDIT_EVERY events, and at the end, the functions are made those of the beginning, and descriptors,
 *   mappings and programs are compared with it.
 */
import { loadavg } from 'node:os';
import { randomNumbers } from '../../test/lib/random.ts';
import { Scene } from '../../test/lib/scene.ts';
import { RING_KIND } from '../../test/lib/service.ts';
import { type StreamReport, summarise } from '../../test/lib/stream-analysis.ts';
import { wallClockUs } from '../../test/lib/stream-packet.ts';
import { sleep, until } from '../../test/lib/waiting.ts';
import type { ChaosOptions } from '../chaos.ts';
import { fillPool, tidy } from './chaos-changes.ts';
import { chaosEvents } from './chaos-events.ts';
import { type ChaosEvent, START_MS } from './chaos-kinds.ts';
import { processorWaitUs } from './chaos-observer.ts';
import { BURST_RINGS, ChaosStage, type Held, HOLDERS, type Traffic } from './chaos-stage.ts';
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
/** An event that needs a warm standby is put off for so many draws at most. */
const PUT_OFF_MAX = 30;
/** From the seed of one draw to that of the next. */
const SEED_STEP = 0x9e37_79b9;
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
  const lots = new Lots(options);
  const end = performance.now() + options.minutes * 60_000;
  // Whoever serves in the beginning has not taken over yet, and holds less.
  happened.push(moment(named('kill emulator'), true));
  stage.service.killEmu();
  await stage.settled();
  await stage.check();
  // And who was handed descriptors by the service manager holds some that it would have made.
  happened.push(moment(named('kill vfe-vhostd, vfe-vhostd-ha'), true));
  await named('kill vfe-vhostd, vfe-vhostd-ha').happen(stage, Math.random);
  await stage.check();
  await fillPool(stage);
  const before: Account = { holdings: stage.holdings(), programs: stage.observer.programs() };
  while (performance.now() < end && happened.length < options.events) {
    const { event, random } = await lots.next(stage);
    await sleep(random() * GAP_MS_MAX);
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
        if (now > then)
          throw new Error(
            `${role} holds ${now} ${what} instead of ${then}: ${moreOf(after[role], before.holdings[role])}`,
          );
      }
    const [rings, ringsBefore] = [ringsOf(after.emu), ringsOf(before.holdings.emu)];
    if (rings > ringsBefore + BURST_RINGS)
      throw new Error(`emu holds ${rings} rings instead of ${ringsBefore} and ${BURST_RINGS} for bursts`);
    const programs = stage.observer.programs();
    if (programs !== before.programs) throw new Error(`programs: ${programs}, before ${before.programs}`);
    return true;
  });
}

const ringsOf = ({ kinds }: Held): number => kinds.get(RING_KIND) ?? 0;

/** Which descriptors there are more of, for whoever looks for the leak. */
function moreOf({ kinds }: Held, before: Held): string {
  return [...kinds]
    .map(([kind, now]) => ({ kind, now, was: before.kinds.get(kind) ?? 0 }))
    .filter(({ now, was }) => now > was)
    .map(({ kind, now, was }) => `${kind} ${now} instead of ${was}`)
    .join(', ');
}

function named(name: string): ChaosEvent {
  const event = chaosEvents.find((one) => one.name === name);
  if (event === undefined) throw new Error(`no event is called ${name}`);
  return event;
}

interface Lot {
  readonly event: ChaosEvent;
  /** Of its own, so that they are the same whatever happened before. */
  readonly random: () => number;
  /** Which draw it was. */
  readonly number: number;
}

/** What happens next. */
class Lots {
  readonly #seed: number;
  readonly #events: readonly ChaosEvent[];
  /** In the order in which they were drawn; each needs a warm standby. */
  readonly #putOff: Lot[] = [];
  #drawn = 0;

  constructor({ seed, only }: ChaosOptions) {
    this.#seed = seed;
    this.#events = chosen(only);
  }

  /** Resolves when it may happen, but for an event that was put off long enough, which waits for its standby. */
  async next(stage: ChaosStage): Promise<Lot> {
    for (;;) {
      const [first] = this.#putOff;
      if (first === undefined) {
        const lot = this.#draw();
        if (lot.event.warm !== true || (await stage.isWarm())) return lot;
        this.#putOff.push(lot);
      } else if (this.#drawn - first.number >= PUT_OFF_MAX || (await stage.isWarm())) {
        this.#putOff.shift();
        return first;
      } else {
        const lot = this.#draw();
        if (lot.event.warm !== true) return lot;
        this.#putOff.push(lot);
      }
    }
  }

  #draw(): Lot {
    const random = randomNumbers(this.#seed + this.#drawn * SEED_STEP);
    return { event: choose(random(), this.#events), random, number: this.#drawn++ };
  }
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

/** The events with one of `words` in their names; all of them without words. */
export function chosen(words: readonly string[]): readonly ChaosEvent[] {
  return chaosEvents.filter(({ name }) => words.length === 0 || words.some((word) => name.includes(word)));
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
