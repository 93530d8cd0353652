/** Every ring format against DPDK's virtio-user, with payload checks. See --help. */
import { Scene } from '../test/lib/scene.ts';
import type { Cell } from './lib/matrix-cell.ts';
import { setup } from './lib/setup.ts';
import { SetupError } from './lib/shell.ts';

const USAGE = `Usage: scripts/matrix [--all] [--pairs N] [--count N] [--jobs N]

Drives a function through vfe-vhostd with dpdk-testpmd's net_virtio_user: split and packed rings, mergeable buffers on
and off, in order or not, 1, 2 and 8 queue pairs, rings of 64 to 1024 entries (packed: 1000 too), indirect tables
offered or not, the vhost-user socket made by either side. In each cell N datagrams (default 100) of every length up to
the largest frame go through the guest's side and back and are compared, as many again that it copies into up to seven
segments, and after them frames of two segments as fast as it can send; all that before and after its port was stopped
and started. Frames in segments lie in tables where those are offered, and in chains where not: the descriptors in
testpmd's memory are read to see it. (A split ring in order is chained always: DPDK makes no tables there.)

Without --all a set of cells in which any two values of any two columns meet; with it every cell, which takes half an hour.
--pairs N leaves out the cells with another number of queue pairs. --jobs N works on N services at once (default 1);
there are two for each number of pairs.

Exit code: 0 every payload was intact and every frame laid out as it should be, 1 not, 2 wrong usage.
`;

interface Options {
  all: boolean;
  /** 0: all of them. */
  pairs: number;
  count: number;
  jobs: number;
}

function parse(words: readonly string[]): Options | null {
  const options: Options = { all: false, pairs: 0, count: 100, jobs: 1 };
  for (let at = 0; at < words.length; at++) {
    const name = /^--(pairs|count|jobs)$/.exec(words[at]!)?.[1] as 'pairs' | 'count' | 'jobs' | undefined;
    if (words[at] === '--all') options.all = true;
    else if (name !== undefined && /^[1-9]\d{0,5}$/.test(words[at + 1] ?? ''))
      options[name] = Number(words[++at]);
    else return null;
  }
  return options;
}

/** A service serves all cells that differ in the driver and in INDIRECT_DESC only, which are in this order. */
function byStage(cells: readonly Cell[]): Cell[][] {
  const groups = new Map<string, Cell[]>();
  for (const cell of cells) {
    const key = `${cell.server} ${cell.pairs}`;
    groups.set(key, [...(groups.get(key) ?? []), cell]);
  }
  return [...groups.values()].map((group) => group.sort((a, b) => Number(b.indirect) - Number(a.indirect)));
}

async function checkStage(
  { MatrixStage, cellName }: typeof import('./lib/matrix-cell.ts'),
  cells: readonly Cell[],
  count: number,
): Promise<number> {
  const first = cells[0]!;
  const scene = await Scene.open();
  let failed = 0;
  try {
    const stage = await MatrixStage.open(scene, first.pairs, first.server);
    for (const cell of cells) {
      const started = performance.now();
      const problems = await stage.check(cell, count);
      if (problems.length > 0) failed++;
      const seconds = ((performance.now() - started) / 1000).toFixed(1).padStart(6);
      process.stdout.write(
        `${problems.length === 0 ? 'ok    ' : 'FAILED'} ${seconds} s  ${cellName(cell)}\n`,
      );
      for (const problem of problems) process.stdout.write(`         ${problem}\n`);
    }
  } finally {
    for (const problem of await scene.end()) {
      failed++;
      process.stdout.write(`FAILED ${problem}\n`);
    }
  }
  return failed;
}

async function main(words: readonly string[]): Promise<number> {
  const options = parse(words);
  if (options === null) {
    const asked = words.includes('-h') || words.includes('--help');
    process[asked ? 'stdout' : 'stderr'].write(USAGE);
    return asked ? 0 : 2;
  }
  setup(['npm', 'build', 'dpdk'], (line) => process.stderr.write(`${line}\n`));
  const matrix = await import('./lib/matrix-cell.ts'); // here, for the packages may not be built yet
  const chosen = options.all ? matrix.allCells() : matrix.coveringCells();
  const cells = chosen.filter(({ pairs }) => options.pairs === 0 || pairs === options.pairs);
  const groups = byStage(cells);
  const started = performance.now();
  let failed = 0;
  const work = async (): Promise<void> => {
    for (let group = groups.shift(); group !== undefined; group = groups.shift()) {
      const more = await checkStage(matrix, group, options.count);
      failed += more; // not in one: others add meanwhile
    }
  };
  await Promise.all(Array.from({ length: options.jobs }, work));
  const seconds = ((performance.now() - started) / 1000).toFixed(0);
  process.stdout.write(`${cells.length} cells, ${failed} failed, ${seconds} s\n`);
  return failed === 0 ? 0 : 1;
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 1;
}
