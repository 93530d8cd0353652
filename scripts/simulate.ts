/** Runs simulated services through schedules of crashes. See --help. */
import { parseArgs } from 'node:util';
import { setup } from './lib/setup.ts';

const USAGE = `Usage: scripts/simulate [--seed N] [--seeds M] [--trace]

Runs M schedules (default 1), with the seeds from N (default 1) on. Each is a whole service in one thread: controller,
state keeper and emulators, made of the engines of the real ones, guests with numbered frames, and an operator. Any of the
processes may die between any two steps that others can see; messages arrive as late as their transport permits. Looked at
after each step: one process works a device, no device is lost, each request and command is answered once and done once,
rings never go back, at most one frame of a queue is lost or repeated for each crash; and in the end everything is served
again. A seed is always the same schedule: its line ends with a hash of everything that happened.

  --trace  what happened last, also of schedules in which nothing was wrong

Exit code: 0 nothing was wrong, 1 something was, 2 wrong usage.
`;

/** With more schedules than these only the wrong ones have a line. */
const LINES_MAX = 20;

async function main(words: readonly string[]): Promise<number> {
  const options = parse(words);
  if (options === null) {
    const asked = words.includes('-h') || words.includes('--help');
    process[asked ? 'stdout' : 'stderr'].write(USAGE);
    return asked ? 0 : 2;
  }
  setup(['npm', 'build'], (line) => process.stderr.write(`${line}\n`));
  const { simulate } = await import('@virtnet/testing');
  const { seed: first, seeds, trace } = options;
  const totals: Record<string, number> = {};
  const started = performance.now();
  let wrong = 0;
  for (let seed = first; seed < first + seeds; seed++) {
    const outcome = simulate(seed);
    for (const [name, count] of Object.entries(outcome.counters)) totals[name] = (totals[name] ?? 0) + count;
    const { violation, hash, events } = outcome;
    if (violation !== null) wrong++;
    if (violation === null && seeds > LINES_MAX && !trace) continue;
    if (trace || violation !== null)
      process.stdout.write(`${outcome.trace.map((line) => `  ${line}\n`).join('')}`);
    process.stdout.write(`seed ${seed}: ${events} events, ${violation ?? 'nothing wrong'}, trace ${hash}\n`);
  }
  const seconds = (performance.now() - started) / 1000;
  const counted = Object.entries(totals).map(([name, count]) => `${name} ${count}`);
  process.stdout.write(
    `${seeds} schedules in ${seconds.toFixed(1)} s, ${wrong} wrong\n${counted.sort().join(', ')}\n`,
  );
  return wrong === 0 ? 0 : 1;
}

function parse(words: readonly string[]) {
  try {
    const { values } = parseArgs({
      args: [...words],
      options: {
        seed: { type: 'string', default: '1' },
        seeds: { type: 'string', default: '1' },
        trace: { type: 'boolean', default: false },
      },
    });
    const seed = Number(values.seed);
    const seeds = Number(values.seeds);
    if (!Number.isSafeInteger(seed) || seed < 0 || !Number.isSafeInteger(seeds) || seeds < 1) return null;
    return { seed, seeds, trace: values.trace };
  } catch {
    return null;
  }
}

process.exitCode = await main(process.argv.slice(2));
