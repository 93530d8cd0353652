/** Measurements of promises. See --help. */
import { setup } from './lib/setup.ts';
import { SetupError } from './lib/shell.ts';

const USAGE = `Usage: scripts/bench recovery|churn [--kills N] [--json FILE]

Measures, and tells whether the promise holds. Sets up what is missing first; needs root, or the Debian packages of
DPDK and tcpdump and a user who may use them.

  recovery   A numbered stream of one packet a millisecond runs through the representor to DPDK's virtio-user and back,
             while the active emulator is killed with SIGKILL again and again (--kills, default 100), each time with a
             warm standby behind it. Prints the pauses the stream saw (min, median, p99, max in ms), and what was lost
             or repeated on each queue.
  churn      Clients that use a function over vfio-user are killed with SIGKILL (--kills, default 10000, some 10 minutes);
             prints how many descriptors and mappings emulator and keeper hold meanwhile. They must not grow.

--json writes every single value to a file, '-' for stdout.

Exit code: 0 the promise holds, 1 it does not, 2 wrong usage.
`;

const COMMANDS = {
  recovery: { kills: 100, load: () => import('./lib/bench-recovery.ts') },
  churn: { kills: 10_000, load: () => import('./lib/bench-churn.ts') },
} as const;

async function main(words: readonly string[]): Promise<number> {
  const [command = '', ...rest] = words;
  if (command === '' || words.includes('-h') || words.includes('--help')) {
    process.stdout.write(USAGE);
    return command === '' ? 2 : 0;
  }
  const chosen = Object.hasOwn(COMMANDS, command) ? COMMANDS[command as keyof typeof COMMANDS] : null;
  const options = chosen === null ? null : parseOptions(rest, chosen.kills);
  if (chosen === null || options === null) {
    process.stderr.write(USAGE);
    return 2;
  }
  setup(['npm', 'build', 'dpdk', 'guest'], (line) => process.stderr.write(`${line}\n`));
  const { run } = await chosen.load();
  return run(options);
}

export interface BenchOptions {
  readonly kills: number;
  readonly json: string | null;
}

function parseOptions(words: readonly string[], defaultKills: number): BenchOptions | null {
  let kills = defaultKills;
  let json: string | null = null;
  for (let at = 0; at < words.length; at += 2) {
    const value = words[at + 1];
    if (value === undefined) return null;
    if (words[at] === '--kills' && /^[1-9]\d*$/.test(value)) kills = Number(value);
    else if (words[at] === '--json') json = value;
    else return null;
  }
  return { kills, json };
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 1;
}
