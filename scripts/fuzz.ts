/** Fuzzes the datapath's judgement of what drivers write. See --help. */
import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { cache } from './lib/paths.ts';
import { setup } from './lib/setup.ts';
import { SetupError } from './lib/shell.ts';

const USAGE = `Usage: scripts/fuzz TARGET... [--minutes N] [--seed N] [--corpus DIRECTORY]
       scripts/fuzz TARGET --case FILE

Runs made-up inputs until the time is over (--minutes, default 1, for each target) and tells whether something happened
that must not: an exception, an access outside the guest's memory, a step that takes more than 1 ms however often it is
tried, or what the target's source names. Inputs that led to something new are kept below --corpus (default
.cache/fuzz) and tried first the next time, those that showed a problem as problem-*.bin beside them.

  split      a queue of a network device over a split ring with a hostile driver
  packed     the same over a packed ring
  control    commands of the control queue
  header     the header in front of each frame, both directions
  all        each of them

--seed repeats a run (with the same corpus), --case runs one input.

Exit code: 0 nothing happened, 1 something did, 2 wrong usage.
`;

async function main(words: readonly string[]): Promise<number> {
  const options = parse(words);
  if (options === null) {
    const asked = words.includes('-h') || words.includes('--help');
    process[asked ? 'stdout' : 'stderr'].write(USAGE);
    return asked ? 0 : 2;
  }
  setup(['npm', 'build'], (line) => process.stderr.write(`${line}\n`));
  const { FUZZ_TARGETS, fuzz, runCase } = await import('@virtnet/testing');
  const names = options.targets.includes('all') ? Object.keys(FUZZ_TARGETS) : options.targets;
  if (names.some((name) => !Object.hasOwn(FUZZ_TARGETS, name))) {
    process.stderr.write(USAGE);
    return 2;
  }
  let failed = false;
  for (const name of names) {
    const target = FUZZ_TARGETS[name]!();
    if (options.case !== null) {
      const { problem, watch } = runCase(target, readFileSync(options.case));
      process.stdout.write(`${problem ?? 'nothing'}; slowest step ${watch.slowestMs.toFixed(3)} ms\n`);
      failed ||= problem !== null;
      continue;
    }
    const directory = join(options.corpus, name);
    mkdirSync(directory, { recursive: true });
    const kept = readdirSync(directory)
      .filter((file) => file.startsWith('case-'))
      .sort();
    const end = performance.now() + options.minutes * 60_000;
    const report = fuzz(target, {
      seed: options.seed,
      corpus: kept.map((file) => readFileSync(join(directory, file))),
      more: () => performance.now() < end,
      onKept: (input) => writeFileSync(join(directory, `case-${nameOf(input)}.bin`), input),
    });
    const { cases, corpus, features, slowestMs, problems } = report;
    process.stdout.write(
      `${name.padEnd(8)} seed ${options.seed}: ${cases} cases, corpus ${corpus}, ${features} behaviours, ` +
        `slowest step ${slowestMs.toFixed(3)} ms, ${problems.length} problems\n`,
    );
    for (const { input, message } of problems) {
      const file = join(directory, `problem-${nameOf(input)}.bin`);
      writeFileSync(file, input);
      process.stdout.write(`  ${message}\n    ${file}\n`);
    }
    failed ||= problems.length > 0;
  }
  return failed ? 1 : 0;
}

const nameOf = (input: Uint8Array): string => createHash('sha256').update(input).digest('hex').slice(0, 16);

function parse(words: readonly string[]) {
  try {
    const { values, positionals } = parseArgs({
      args: [...words],
      allowPositionals: true,
      options: {
        minutes: { type: 'string', default: '1' },
        seed: { type: 'string', default: String(1 + (Date.now() % 0x7fff_ffff)) },
        corpus: { type: 'string', default: join(cache, 'fuzz') },
        case: { type: 'string' },
      },
    });
    const minutes = Number(values.minutes);
    const seed = Number(values.seed);
    if (positionals.length === 0 || !(minutes > 0 && minutes <= 1_440) || !Number.isSafeInteger(seed))
      return null;
    return { targets: positionals, minutes, seed, corpus: values.corpus, case: values.case ?? null };
  } catch {
    return null;
  }
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 1;
}
