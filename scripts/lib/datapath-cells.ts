/** datapath-cells.ts: what the benchmarks of the datapath measure, and on which machine. */
import { spawnSync } from 'node:child_process';
import { cpus, release } from 'node:os';
import type { Case, Kind } from './datapath-stage.ts';

const CASES: readonly Case[] = ['drain', 'fill', 'loop', 'switch'];
const SIZES = [64, 512, 1_500, 9_000];
const KINDS: readonly Kind[] = [
  { name: 'split', packed: false, mergeable: false },
  { name: 'packed', packed: true, mergeable: false },
  { name: 'split-mrg', packed: false, mergeable: true },
  { name: 'packed-mrg', packed: true, mergeable: true },
];

export interface Cell {
  readonly work: Case;
  readonly kind: Kind;
  readonly bytes: number;
}

export const nameOf = ({ work, kind, bytes }: Cell): string => `${work} ${kind.name} ${bytes}`;

const EVERY_CELL: readonly Cell[] = KINDS.flatMap((kind) =>
  CASES.flatMap((work) => SIZES.map((bytes) => ({ work, kind, bytes }))),
);

/**
 * Cells whose names have all the words of one of `choices`; every cell when there are none. Null, and told, when no cell
 * has such a name.
 */
export function chosenCells(choices: readonly string[]): readonly Cell[] | null {
  if (choices.length === 0) return EVERY_CELL;
  const wanted = choices.map((choice) => choice.trim().split(/ +/));
  const chosen = EVERY_CELL.filter((cell) => {
    const words = nameOf(cell).split(' ');
    return wanted.some((choice) => choice.every((word) => words.includes(word)));
  });
  if (chosen.length > 0) return chosen;
  process.stderr.write(`no such cells: ${choices.join(',')}\n`);
  return null;
}

/**
 * Two processors, the driver's and the device's. This process gets the nice value that the emulator gives itself: DPDK's
 * processes inherit it.
 */
export async function ownProcessors(): Promise<readonly [number, number]> {
  const { getThreadAffinity, Nice, setProcessNice } = await import('@virtnet/host-linux'); // may not be built yet
  const processors = getThreadAffinity();
  if (typeof processors === 'number' || processors.length < 2)
    throw new Error('two processors are needed: one for the driver, one for the device');
  setProcessNice(Nice.PREFERRED);
  return [processors[0]!, processors[1]!];
}

/** What the figures belong to. */
export function machine() {
  const dpdk = spawnSync('dpkg-query', ['--show', 'dpdk-dev'], { encoding: 'utf8' });
  return {
    date: new Date().toISOString(),
    processor: cpus()[0]?.model ?? 'unknown',
    kernel: release(),
    node: process.version,
    dpdk: dpdk.stdout?.split('\t')[1]?.trim() ?? 'unknown',
  };
}
