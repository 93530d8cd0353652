/**
 * bench-datapath.ts: frames a second of our datapath beside those of DPDK's vhost library, with the same driver.
 *
 * Theory
 *   datapath-stage.ts has one driver in front of both devices, and does rounds with one or the other in turn. A cell is
 *   what the device does (drain, fill, loop, switch), a kind of ring, and a size of frames. Which of the two goes first
 *   changes from round to round. A round has WINDOWS windows; round-analysis.ts says which of them may be compared.
 *
 * Limits  Two processors: the driver's and the device's.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import {
  type Compared,
  type Comparison,
  compare,
  countDiscards,
  type Discard,
  discardOf,
  geometricMean,
  type MachineState,
  type Side,
  type Slower,
  slowerThan,
} from '../../test/lib/round-analysis.ts';
import type { BenchOptions } from '../bench.ts';
import { type Cell, chosenCells, machine, nameOf, ownProcessors } from './datapath-cells.ts';
import { DatapathStage, type MeasuredWindow, type StageOptions, stageOf } from './datapath-stage.ts';
import { PingPong } from './machine-state.ts';

/** The target: see docs/benchmarks.md. */
const RATIO_MIN = 1;
const MEAN_RATIO_MIN = 1.3;
/** Windows of a round: the state of the machine is known at the ends of each. */
const WINDOWS = 4;
/** A cell with too few windows in one state has up to so many times as many rounds, */
const PATIENCE = 3;
/** as long as all cells so far took less than this each, in milliseconds: all 64 are to be done in a quarter of an hour. */
const CELL_MS = 13_500;
/** Windows of each side that are enough; less are told all the same, when there is no time for more. */
const WINDOWS_WANTED = 6;
const isSure = ({ virtnet, dpdk }: Comparison): boolean =>
  Math.min(virtnet.windows, dpdk.windows) >= WINDOWS_WANTED;
const STATES: readonly MachineState[] = ['near', 'far'];

interface CellReport extends Compared {
  readonly discarded: Partial<Record<Discard, number>>;
  readonly windows: readonly (MeasuredWindow & { readonly discarded: Discard | null })[];
}

export async function run(options: BenchOptions): Promise<number> {
  const { rounds, seconds, cells: choices, json, against } = options;
  const cells = chosenCells(choices);
  const former = against === null ? [] : formerReports(against);
  if (cells === null || former === null) return 2;
  const pair = await ownProcessors();
  const pingPong = new PingPong(pair);
  const reports: CellReport[] = [];
  const begunMs = performance.now();
  const problems: string[] = [];
  try {
    process.stdout.write(`${HEADER}\n`);
    for (const alike of Map.groupBy(cells, stageOf).values()) {
      const options = { ...alike[0]!, processors: pair, windowMs: seconds * 1_000, windows: WINDOWS };
      for (const problem of await measureAlike(alike, options, rounds, pingPong, reports, begunMs)) {
        problems.push(problem);
        process.stderr.write(`${problem}\n`);
      }
    }
  } finally {
    await pingPong.end();
  }
  const result = verdict(cells, reports, problems);
  process.stdout.write(result.text);
  const slower = slowerThan(former, reports);
  if (against !== null) process.stdout.write(slowerText(against, slower));
  const text = `${JSON.stringify({ ...machine(), processors: pair, rounds, seconds, ...result, slower, problems, reports })}\n`;
  if (json === '-') process.stdout.write(text);
  else if (json !== null) writeFileSync(json, text);
  return result.holds && !slower.some(({ certain }) => certain) ? 0 : 1;
}

/** The cells of a run that `--json` wrote; null, and said, when that is not what the file is. */
function formerReports(path: string): readonly Compared[] | null {
  try {
    const { reports } = JSON.parse(readFileSync(path, 'utf8')) as { reports?: readonly Compared[] };
    if (
      Array.isArray(reports) &&
      reports.every(({ comparisons }) => Array.isArray(comparisons) && comparisons.every(hasQuartiles))
    )
      return reports as readonly Compared[];
    process.stderr.write(`${path} is not what scripts/bench datapath --json writes\n`);
  } catch (error) {
    process.stderr.write(`${path}: ${error instanceof Error ? error.message : error}\n`);
  }
  return null;
}

const hasQuartiles = ({ virtnet, dpdk }: Compared['comparisons'][number]): boolean =>
  [virtnet, dpdk].every(({ lower, upper }) => Number.isFinite(lower) && Number.isFinite(upper));

function slowerText(path: string, slower: readonly Slower[]): string {
  if (slower.length === 0) return `no cell is slower than in ${path}\n`;
  const rows = slower.map(({ cell, state, before, now, certain }) => {
    const ratios = `${before.toFixed(2)} -> ${now.toFixed(2)}`;
    return `  ${cell.padEnd(29)} ${state.padEnd(5)} ${ratios}${certain ? '' : '  (within the spread of the windows)'}`;
  });
  return [`slower than in ${path}, ratio to DPDK:`, ...rows, ''].join('\n');
}

/** Measures cells that can share a stage; what went wrong, in words. A cell that fails does not cost the others. */
async function measureAlike(
  cells: readonly Cell[],
  options: StageOptions,
  rounds: number,
  pingPong: PingPong,
  reports: CellReport[],
  begunMs: number,
): Promise<string[]> {
  const failed = (error: unknown): string =>
    `${stageOf(options)}: ${error instanceof Error ? error.message : error}`;
  let stage: DatapathStage;
  try {
    stage = await DatapathStage.open(options);
  } catch (error) {
    return [failed(error)];
  }
  const problems: string[] = [];
  try {
    for (const cell of cells) {
      const untilMs = begunMs + (reports.length + 1) * CELL_MS;
      const report = await measure(stage, cell, rounds, pingPong, untilMs);
      reports.push(report);
      process.stdout.write(lines(report));
    }
  } catch (error) {
    problems.push(failed(error));
  }
  return [...problems, ...(await stage.close())];
}

async function measure(
  stage: DatapathStage,
  cell: Cell,
  count: number,
  pingPong: PingPong,
  untilMs: number,
): Promise<CellReport> {
  const windows: MeasuredWindow[] = [];
  await stage.setBytes(cell.bytes);
  // Whether there are more depends on the machine's state and the clock, never on how fast either side was.
  const enough = (i: number): boolean =>
    i >= count && (i >= count * PATIENCE || performance.now() > untilMs || compare(windows).some(isSure));
  for (let i = 0; !enough(i); i++) {
    const order: readonly Side[] = i % 2 === 0 ? ['virtnet', 'dpdk'] : ['dpdk', 'virtnet'];
    for (const side of order)
      for (const window of await stage.round(side, pingPong)) {
        windows.push(window);
        process.stderr.write(`  ${nameOf(cell)}: ${describe(window)}\n`);
      }
  }
  return {
    cell: nameOf(cell),
    comparisons: compare(windows),
    discarded: countDiscards(windows),
    windows: windows.map((window) => ({ ...window, discarded: discardOf(window) })),
  };
}

const millions = (rate: number): string => (rate / 1e6).toFixed(2);
const percent = (share: number): string => `${(share * 100).toFixed(0)} %`;

function describe(window: MeasuredWindow): string {
  const { side, framesPerSecond, pingPongNs, ran, waited } = window;
  return [
    `${side.padEnd(7)} ${millions(framesPerSecond).padStart(6)} M/s`,
    `ping-pong ${pingPongNs.map((ns) => ns.toFixed(0)).join(' -> ')} ns`,
    `driver ran ${percent(ran.driver)}, waited ${percent(waited.driver)}`,
    `device ran ${percent(ran.device)}, waited ${percent(waited.device)}`,
    discardOf(window) ?? 'counts',
  ].join('; ');
}

const HEADER = `cell                          state  virtnet  (middle half)     DPDK  (middle half)   ratio  windows  discarded
                                    M frames/s               M frames/s`;

function lines({ cell, comparisons, discarded }: CellReport): string {
  const reasons = Object.entries(discarded).map(([reason, count]) => `${count} ${reason}`);
  const end = reasons.length > 0 ? reasons.join(', ') : '0';
  if (comparisons.length === 0)
    return `${cell.padEnd(29)} too few windows in one state to compare; discarded: ${end}\n`;
  return comparisons
    .map(({ state, virtnet, dpdk, ratio }) => {
      const sides = [virtnet, dpdk].map(
        ({ median, lower, upper }) =>
          `${millions(median).padStart(8)} ${`(${millions(lower)}-${millions(upper)})`.padStart(14)}`,
      );
      const windows = `${virtnet.windows}/${dpdk.windows}`;
      return `${cell.padEnd(29)} ${state.padEnd(5)} ${sides.join(' ')} ${ratio.toFixed(2).padStart(7)}  ${windows.padEnd(8)} ${end}\n`;
    })
    .join('');
}

/** Every cell has to be judged, in one state at least. */
function verdict(cells: readonly Cell[], reports: readonly CellReport[], problems: readonly string[]) {
  const all = reports.flatMap(({ comparisons }) => comparisons);
  const means = STATES.flatMap((state) => {
    const ratios = all.filter((comparison) => comparison.state === state).map(({ ratio }) => ratio);
    return ratios.length === 0
      ? []
      : [{ state, cells: ratios.length, mean: geometricMean(ratios), min: Math.min(...ratios) }];
  });
  const judged = reports.filter(({ comparisons }) => comparisons.length > 0).length;
  const holds =
    judged === cells.length &&
    problems.length === 0 &&
    means.every(({ mean, min }) => mean >= MEAN_RATIO_MIN && min >= RATIO_MIN);
  const text = [
    ...means.map(
      (state) =>
        `${state.state}: ${state.cells} cells, ratio to DPDK ${state.mean.toFixed(2)} (geometric mean), at least ${state.min.toFixed(2)}`,
    ),
    ...(judged === cells.length ? [] : [`${cells.length - judged} cells could not be judged`]),
    ...problems,
    `target (every cell >= ${RATIO_MIN.toFixed(1)}, geometric mean >= ${MEAN_RATIO_MIN}): ${holds ? 'met' : 'NOT MET'}`,
    '',
  ].join('\n');
  return { means, holds, text };
}
