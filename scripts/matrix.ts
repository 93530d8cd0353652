/** Every ring format against DPDK's virtio-user, with payload checks. See --help. */
import { Scene } from '../test/lib/scene.ts';
import { allCells, type Cell, cellName, coveringCells, MatrixStage } from './lib/matrix-cell.ts';
import { setup } from './lib/setup.ts';
import { SetupError } from './lib/shell.ts';

const USAGE = `Usage: scripts/matrix [--all] [--count N]

Drives a function through vfe-vhostd with dpdk-testpmd's net_virtio_user: split and packed rings, mergeable buffers on
and off, in order or not, 1, 2 and 8 queue pairs, rings of 64 to 1024 entries (packed: 1000 too), frames in one and in
several descriptors, the vhost-user socket made by either side. In each cell N datagrams (default 300) of every length
up to the largest frame go through the guest's side and back and are compared, before and after its port was stopped
and started.

Without --all a set of cells in which any two values of any two columns meet; with it every cell, which takes hours.

Exit code: 0 every payload was intact, 1 not, 2 wrong usage.
`;

function parse(words: readonly string[]): { readonly all: boolean; readonly count: number } | null {
  let all = false;
  let count = 300;
  for (let at = 0; at < words.length; at++) {
    if (words[at] === '--all') all = true;
    else if (words[at] === '--count' && /^[1-9]\d{0,5}$/.test(words[at + 1] ?? ''))
      count = Number(words[++at]);
    else return null;
  }
  return { all, count };
}

/** A service serves all cells that differ in the driver only. */
function byStage(cells: readonly Cell[]): Cell[][] {
  const groups = new Map<string, Cell[]>();
  for (const cell of cells) {
    const key = `${cell.server} ${cell.pairs}`;
    groups.set(key, [...(groups.get(key) ?? []), cell]);
  }
  return [...groups.values()];
}

async function checkStage(cells: readonly Cell[], count: number): Promise<number> {
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
  const cells = options.all ? allCells() : coveringCells();
  let failed = 0;
  for (const group of byStage(cells)) failed += await checkStage(group, options.count);
  process.stdout.write(`${cells.length} cells, ${failed} failed\n`);
  return failed === 0 ? 0 : 1;
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 1;
}
