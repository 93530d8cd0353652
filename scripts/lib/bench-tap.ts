/** bench-tap.ts: what goes through a TAP, ours beside QEMU's own and beside a program that only writes. See tap-stage.ts. */
import { writeFileSync } from 'node:fs';
import { type Summary, summarise } from '../../test/lib/stream-analysis.ts';
import type { BenchOptions } from '../bench.ts';
import { machine, ownProcessors } from './datapath-cells.ts';
import { DriverTapStage, GuestTapStage, type TapSide } from './tap-stage.ts';

/** The targets: see docs/benchmarks.md. */
const GUEST_RATIO_MIN = 1.3;
const DRIVER_RATIO_MIN = 1;
const PING_RATIO_MAX = 1;

interface Cell<Stage> {
  readonly name: string;
  readonly unit: string;
  /** What a measured value is divided by to be shown in `unit`. */
  readonly scale: number;
  readonly target: (ratio: number) => boolean;
  readonly wanted: string;
  /** One round of one side: a value, or several. */
  measure(stage: Stage, side: TapSide, seconds: number): Promise<number | readonly number[]>;
}

const atLeast = (least: number) => ({
  target: (ratio: number) => ratio >= least,
  wanted: `>= ${least.toFixed(1)}`,
});

const GIGABITS = { unit: 'Gb/s', scale: 1e9, ...atLeast(GUEST_RATIO_MIN) };

const GUEST_CELLS: readonly Cell<GuestTapStage>[] = [
  {
    name: 'guest sends TCP, TSO',
    ...GIGABITS,
    measure: (stage, side, seconds) => stage.stream(side, { seconds, gso: true }),
  },
  {
    name: 'guest sends TCP, no TSO',
    ...GIGABITS,
    measure: (stage, side, seconds) => stage.stream(side, { seconds, gso: false }),
  },
  {
    name: 'guest receives TCP',
    ...GIGABITS,
    measure: (stage, side, seconds) => stage.stream(side, { seconds, receives: true, gso: true }),
  },
  {
    name: 'guest sends small frames',
    unit: 'k/s',
    scale: 1e3,
    ...atLeast(GUEST_RATIO_MIN),
    measure: (stage, side, seconds) => stage.frames(side, seconds),
  },
  {
    name: 'ping of an idle guest',
    unit: 'ms',
    scale: 1,
    target: (ratio) => ratio <= PING_RATIO_MAX,
    wanted: `<= ${PING_RATIO_MAX.toFixed(1)}`,
    measure: (stage, side) => stage.pings(side),
  },
];

const DRIVER_CELLS: readonly Cell<DriverTapStage>[] = [64, 1_500].map((bytes) => ({
  name: `driver sends ${bytes} bytes`,
  unit: 'k/s',
  scale: 1e3,
  ...atLeast(DRIVER_RATIO_MIN),
  measure: (stage, side, seconds) => stage.frames(side, bytes, seconds),
}));

interface CellReport {
  readonly cell: string;
  readonly unit: string;
  readonly ratio: number;
  readonly wanted: string;
  readonly met: boolean;
  readonly summaries: Readonly<Record<TapSide, Summary>>;
  readonly values: Readonly<Record<TapSide, readonly number[]>>;
}

export async function run({ rounds, seconds, json }: BenchOptions): Promise<number> {
  const processors = await ownProcessors();
  const reports: CellReport[] = [];
  process.stdout.write(HEADER);
  const problems = [
    ...(await onStage(() => GuestTapStage.open(), GUEST_CELLS, rounds, seconds, reports)),
    ...(await onStage(() => DriverTapStage.open(processors), DRIVER_CELLS, rounds, seconds, reports)),
  ];
  const holds = problems.length === 0 && reports.every(({ met }) => met);
  const missed = reports.filter(({ met }) => !met).map(({ cell }) => cell);
  for (const problem of problems) process.stdout.write(`${problem}\n`);
  process.stdout.write(
    `targets: ${holds ? 'met' : `NOT MET${missed.length > 0 ? ` (${missed.join('; ')})` : ''}`}\n`,
  );
  const text = `${JSON.stringify({ ...machine(), processors, rounds, seconds, holds, problems, reports })}\n`;
  if (json === '-') process.stdout.write(text);
  else if (json !== null) writeFileSync(json, text);
  return holds ? 0 : 1;
}

/** Measures all of one stage's cells; what went wrong, in words. */
async function onStage<Stage extends { close(): Promise<string[]> }>(
  open: () => Promise<Stage>,
  cells: readonly Cell<Stage>[],
  rounds: number,
  seconds: number,
  reports: CellReport[],
): Promise<string[]> {
  const stage = await open();
  try {
    for (const cell of cells) {
      const report = await measure(stage, cell, rounds, seconds);
      reports.push(report);
      process.stdout.write(line(report));
    }
  } catch (error) {
    return [error instanceof Error ? error.message : String(error), ...(await stage.close())];
  }
  return stage.close();
}

/** Rounds of both sides in turn; who goes first changes from round to round. */
async function measure<Stage>(
  stage: Stage,
  cell: Cell<Stage>,
  rounds: number,
  seconds: number,
): Promise<CellReport> {
  const values: Record<TapSide, number[]> = { virtnet: [], peer: [] };
  for (let round = 0; round < rounds; round++) {
    const order: readonly TapSide[] = round % 2 === 0 ? ['virtnet', 'peer'] : ['peer', 'virtnet'];
    for (const side of order) {
      const measured = [await cell.measure(stage, side, seconds)].flat().map((value) => value / cell.scale);
      values[side].push(...measured);
      process.stderr.write(`  ${cell.name}: ${side} ${summarise(measured).median.toFixed(3)} ${cell.unit}\n`);
    }
  }
  const summaries = { virtnet: summarise(values.virtnet), peer: summarise(values.peer) };
  const ratio = summaries.virtnet.median / summaries.peer.median;
  const { name, unit, wanted } = cell;
  return { cell: name, unit, ratio, wanted, met: cell.target(ratio), summaries, values };
}

const HEADER = `                                 virtnet        (spread)       peer        (spread)   ratio  wanted
`;

function line({ cell, unit, ratio, wanted, met, summaries }: CellReport): string {
  const sides = (['virtnet', 'peer'] as const).map((side) => {
    const { median, min, max } = summaries[side];
    return `${median.toFixed(2).padStart(9)} ${`(${min.toFixed(2)}-${max.toFixed(2)})`.padStart(16)}`;
  });
  return `${cell.padEnd(25)} ${unit.padEnd(4)} ${sides.join(' ')} ${ratio.toFixed(2).padStart(7)}  ${wanted} ${met ? 'met' : 'not met'}\n`;
}
