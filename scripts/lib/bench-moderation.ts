/**
 * bench-moderation.ts: interrupts and throughput with dynamic moderation beside those without. See moderation-switch-stage.ts and
 * moderation-stage.ts.
 */
import { writeFileSync } from 'node:fs';
import { type Summary, summarise } from '../../test/lib/stream-analysis.ts';
import type { BenchOptions } from '../bench.ts';
import { machine, ownProcessors } from './datapath-cells.ts';
import { type ModerationSide, ModerationStage, type Received, sides } from './moderation-stage.ts';
import { SwitchModerationStage } from './moderation-switch-stage.ts';

/** The targets: see docs/benchmarks.md. */
const INTERRUPTS_RATIO_MIN = 3;
const THROUGHPUT_RATIO_MIN = 0.97;
const PING_MORE_MS_MAX = 0.1;
/** Interrupts a second without DIM from which on they are many, and from which on its strongest level (256 us) delays any. */
const INTERRUPTS_MANY = 20_000;
const INTERRUPTS_DELAYED = 4_000;

/** One stream of a stage. */
interface Stage {
  stream(side: ModerationSide, seconds: number): Promise<Received>;
  pings?(side: ModerationSide): Promise<number[]>;
  close(): Promise<string[]>;
}

const FRAME_BYTES = 1_514;
const PACED = [
  { name: 'switch 50', framesPerMs: 50 },
  { name: 'switch 200', framesPerMs: 200 },
  { name: 'switch 600', framesPerMs: 600 },
  { name: 'switch all', framesPerMs: 100_000 },
] as const;

const DRIVERS = ['guest', 'host'] as const;

/** What of a stream is told, a second, and how. */
const MEASURES = [
  { name: 'interrupts', unit: 'k/s', scale: 1e3 },
  { name: 'frames', unit: 'k/s', scale: 1e3 },
  { name: 'bits', unit: 'Gb/s', scale: 1e9 },
] as const;
type MeasureName = (typeof MEASURES)[number]['name'];

type Values = Readonly<Record<ModerationSide, readonly number[]>>;

interface Measure {
  readonly cell: string;
  readonly measure: string;
  readonly unit: string;
  readonly summaries: Readonly<Record<ModerationSide, Summary>>;
  readonly values: Values;
  /** What the promise is about. */
  readonly figure: string;
  /** null: nothing is promised of it. */
  readonly wanted: string | null;
  readonly met: boolean;
}

export async function run({ rounds, seconds, cells, json }: BenchOptions): Promise<number> {
  const known = [...PACED.map(({ name }) => name), ...DRIVERS];
  const unknown = cells.filter((cell) => !known.some((name) => name === cell));
  if (unknown.length > 0) {
    process.stderr.write(`no such cells: ${unknown.join(',')}; there are ${known.join(', ')}\n`);
    return 2;
  }
  const chosen = (name: string): boolean => cells.length === 0 || cells.includes(name);
  const processors = await ownProcessors();
  const measures: Measure[] = [];
  const problems: string[] = [];
  process.stdout.write(HEADER);
  const on = async (name: string, opening: Promise<Stage>): Promise<void> => {
    const stage = await opening;
    try {
      for await (const measure of measureAll(stage, name, rounds, seconds)) {
        measures.push(measure);
        process.stdout.write(line(measure));
      }
    } catch (error) {
      problems.push(error instanceof Error ? error.message : String(error));
    }
    problems.push(...(await stage.close()));
  };
  for (const { name, framesPerMs } of PACED.filter(({ name }) => chosen(name)))
    await on(name, SwitchModerationStage.open({ bytes: FRAME_BYTES, framesPerMs }, processors));
  for (const driver of DRIVERS.filter(chosen)) await on(driver, ModerationStage.open(driver));
  if (
    cells.length === 0 &&
    !measures.some(({ measure, wanted }) => measure === 'interrupts' && wanted !== null)
  )
    problems.push('no driver was interrupted often enough to say anything about it');
  const holds = problems.length === 0 && measures.every(({ met }) => met);
  const missed = measures.filter(({ met }) => !met).map(({ cell, measure }) => `${cell}: ${measure}`);
  for (const problem of problems) process.stdout.write(`${problem}\n`);
  process.stdout.write(
    `targets: ${holds ? 'met' : `NOT MET${missed.length > 0 ? ` (${missed.join('; ')})` : ''}`}\n`,
  );
  const text = `${JSON.stringify({ ...machine(), processors, rounds, seconds, holds, problems, measures })}\n`;
  if (json === '-') process.stdout.write(text);
  else if (json !== null) writeFileSync(json, text);
  return holds ? 0 : 1;
}

async function* measureAll(
  stage: Stage,
  name: string,
  rounds: number,
  seconds: number,
): AsyncGenerator<Measure> {
  yield* await measureStream(stage, name, rounds, seconds);
  if (stage.pings !== undefined) yield await measurePings(stage.pings.bind(stage), name, rounds);
}

/** Rounds of both sides in turn; who goes first changes from round to round. */
async function inTurn(rounds: number, measure: (side: ModerationSide) => Promise<void>): Promise<void> {
  for (let round = 0; round < rounds; round++)
    for (const side of round % 2 === 0 ? sides : sides.toReversed()) await measure(side);
}

async function measureStream(
  stage: Stage,
  name: string,
  rounds: number,
  seconds: number,
): Promise<Measure[]> {
  const received: Record<ModerationSide, Received[]> = { off: [], on: [] };
  await inTurn(rounds, async (side) => {
    const one = await stage.stream(side, seconds);
    received[side].push(one);
    const { interrupts, frames, bits } = one;
    process.stderr.write(
      `  ${name}: DIM ${side}: ${(interrupts / 1e3).toFixed(2)} k interrupts/s, ${(frames / 1e3).toFixed(1)} k frames/s, ${(bits / 1e9).toFixed(3)} Gb/s\n`,
    );
  });
  const without = medianOf(received.off.map(({ interrupts }) => interrupts));
  return MEASURES.map(({ name: measure, unit, scale }) => {
    const ratio = medianOf(received.on.map((round, i) => round[measure] / received.off[i]![measure]));
    const values = {
      off: received.off.map((round) => round[measure] / scale),
      on: received.on.map((round) => round[measure] / scale),
    };
    const summaries = summariesOf(values);
    return { cell: name, measure, unit, summaries, values, ...verdict(measure, ratio, without) };
  });
}

/** `ratio`: of what was measured with DIM to without. `without`: interrupts a second then. */
function verdict(
  measure: MeasureName,
  ratio: number,
  without: number,
): Pick<Measure, 'figure' | 'wanted' | 'met'> {
  switch (measure) {
    case 'interrupts':
      return {
        figure: `1/${(1 / ratio).toFixed(2)}`,
        ...(without < INTERRUPTS_MANY
          ? NOT_JUDGED
          : { wanted: `<= 1/${INTERRUPTS_RATIO_MIN}`, met: ratio <= 1 / INTERRUPTS_RATIO_MIN }),
      };
    case 'frames':
      return { figure: ratio.toFixed(3), ...NOT_JUDGED };
    case 'bits':
      return {
        figure: ratio.toFixed(3),
        ...(without < INTERRUPTS_DELAYED
          ? NOT_JUDGED
          : { wanted: `>= ${THROUGHPUT_RATIO_MIN}`, met: ratio >= THROUGHPUT_RATIO_MIN }),
      };
  }
}

const NOT_JUDGED = { wanted: null, met: true } as const;

async function measurePings(
  pings: (side: ModerationSide) => Promise<number[]>,
  name: string,
  rounds: number,
): Promise<Measure> {
  const values: Record<ModerationSide, number[]> = { off: [], on: [] };
  await inTurn(rounds, async (side) => {
    const times = await pings(side);
    values[side].push(...times);
    process.stderr.write(`  ${name}: DIM ${side}: ${medianOf(times).toFixed(3)} ms\n`);
  });
  const summaries = summariesOf(values);
  const more = summaries.on.median - summaries.off.median;
  return {
    cell: name,
    measure: 'idle ping',
    unit: 'ms',
    summaries,
    values,
    figure: `${more < 0 ? '' : '+'}${more.toFixed(3)}`,
    wanted: `< +${PING_MORE_MS_MAX}`,
    met: more < PING_MORE_MS_MAX,
  };
}

const medianOf = (values: readonly number[]): number => summarise(values).median;

const summariesOf = ({ off, on }: Values): Measure['summaries'] => ({
  off: summarise(off),
  on: summarise(on),
});

const HEADER = `                               without DIM         (spread)   with DIM         (spread)    ratio  wanted
`;

function line({ cell, measure, unit, summaries, figure, wanted, met }: Measure): string {
  const columns = sides.map((side) => {
    const { median, min, max } = summaries[side];
    return `${median.toFixed(3).padStart(10)} ${`(${min.toFixed(2)}-${max.toFixed(2)})`.padStart(16)}`;
  });
  const verdict = wanted === null ? '' : `  ${wanted} ${met ? 'met' : 'not met'}`;
  return `${cell.padEnd(12)} ${measure.padEnd(10)} ${unit.padEnd(4)} ${columns.join(' ')} ${figure.padStart(8)}${verdict}\n`;
}
