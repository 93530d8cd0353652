/** Measurements of promises. See --help. */
import { setup } from './lib/setup.ts';
import { SetupError } from './lib/shell.ts';

const USAGE = `Usage: scripts/bench recovery [--kills N] [--json FILE]
       scripts/bench churn [--kills N] [--json FILE]
       scripts/bench update [--moves N] [--json FILE]
       scripts/bench scale [--pfs N] [--kills N] [--json FILE]
       scripts/bench datapath [--cells LIST] [--rounds N] [--seconds S] [--against FILE] [--json FILE]
       scripts/bench tap [--rounds N] [--seconds S] [--json FILE]
       scripts/bench moderation [--cells LIST] [--rounds N] [--seconds S] [--json FILE]
       scripts/bench memory [--json FILE]
       scripts/bench hiccups [--cells LIST] [--seconds S] [--json FILE]

Measures, and tells whether the promise holds. Sets up what is missing first; needs root, or the Debian packages of
DPDK and tcpdump and a user who may use them. docs/benchmarks.md says how to read the results.

  recovery   A numbered stream of one packet a millisecond runs through the representor to DPDK's virtio-user and back,
             while the active emulator is killed with SIGKILL again and again (--kills, default 100), each time with a
             warm standby behind it. Prints the pauses the stream saw (min, median, p99, max in ms), and what was lost
             or repeated on each queue. Then the same kill (20 times at most) with 1, 64 and 256 functions, each with a
             driver that has a frame waiting: for how long nobody worked each of them.
  churn      Clients that use a function over vfio-user are killed with SIGKILL (--kills, default 10000, some 10 minutes);
             prints how many descriptors and mappings emulator and keeper hold meanwhile. They must not grow.
  update     The service is moved onto its own version (--moves, default 20) with one device, and with sixteen, under
             numbered streams both ways, and 5 times at most with 64 and 256. Prints for how long nobody worked a device
             (min, median, p99, max in ms), and how many frames of the streams were lost or repeated.
  scale      Every function there can be in one instance: 1008 VFs on --pfs static PFs (1 to 31, default 4), and hotplug
             PFs to 31 PFs in all, 15 at most. Prints how long they take to be made, removed, listed, queried,
             taken over (--kills, default 20, with a stream through one of them) and started again, and what
             they cost in memory and, at rest, in processor time.
  datapath   Frames a second of our datapath beside those of DPDK's vhost library, both driven by DPDK's virtio-user, in
             rounds in turn (--rounds, default 4, at least 2) of S seconds each (default 0.4): what a driver sends
             (drain), what it receives (fill), both (loop), and from one function to another (switch), for each kind of
             ring (split, packed, and with mergeable buffers split-mrg, packed-mrg) and frames of 64, 512, 1500 and 9000
             bytes. Only windows in which the machine was in the same state are compared. --cells chooses some cells:
             words of their names, comma between choices ("loop split 64,fill 1500"). All take some 15 minutes.
             --against a file that --json wrote names the cells that lost more than 5 % of their ratio since.
  hiccups    How long a busy datapath thread takes from one poll of its queues to the next, under the load of some cells of
             "datapath" (--cells, default "loop 64" and "switch packed 64") for S seconds each (default 10): median, p99,
             p99.99 and the longest, and the reasons of those that took longest. Beside each, the same of a loop on the
             same processor that does nothing but read the clock: what the machine itself takes.
  tap        What goes through a representor, which is a TAP, in rounds in turn (--rounds, default 4) of S seconds each (default
             3). A Linux guest with two devices, ours and QEMU's own "-netdev tap": TCP with and without TSO and from the
             host, small frames, and the ping of an idle guest. Then frames a second of a driver (virtio-user) in front of
             our device, beside those of DPDK's net_tap, which writes each frame to a TAP of its own by one call.
  moderation What the dynamic moderation of interrupts (DIM) saves and costs, in rounds in turn (--rounds, default 7) of S seconds
             each (default 1): interrupts a second, and what arrives, of one function with it and one without. A driver that is
             never busy for long receives 50, 200 and 600 frames a millisecond through the switch, and as many as go ("switch 50",
             ..., "switch all"); a Linux guest ("guest") and the host's own driver ("host") receive TCP, and are pinged when
             they are idle. --cells chooses some of them, comma between. All take some four minutes.
  memory     32 VFs have drivers of one queue pair each, then of all they have, and that three times. Prints what all processes
             of the service hold more for each pair that a driver has set up and does not use.

--json writes every single value to a file, '-' for stdout.

Exit code: 0 the promise holds, 1 it does not, 2 wrong usage.
`;

export interface BenchOptions {
  readonly kills: number;
  readonly moves: number;
  /** Static PFs, which share all VFs. */
  readonly pfs: number;
  readonly rounds: number;
  /** Length of what is measured of a round. */
  readonly seconds: number;
  /** Names of cells, or words of them; empty: all. */
  readonly cells: readonly string[];
  readonly json: string | null;
  /** A former run's `--json`; null: none. */
  readonly against: string | null;
}

const DEFAULTS: BenchOptions = {
  kills: 0,
  moves: 20,
  pfs: 4,
  rounds: 4,
  seconds: 0.4,
  cells: [],
  json: null,
  against: null,
};

const ALL = ['npm', 'build', 'dpdk', 'guest'] as const;

const COMMANDS = {
  recovery: {
    needs: ALL,
    options: ['--kills'],
    defaults: { ...DEFAULTS, kills: 100 },
    load: () => import('./lib/bench-recovery.ts'),
  },
  churn: {
    needs: ALL,
    options: ['--kills'],
    defaults: { ...DEFAULTS, kills: 10_000 },
    load: () => import('./lib/bench-churn.ts'),
  },
  update: {
    needs: ['npm', 'build'],
    options: ['--moves'],
    defaults: DEFAULTS,
    load: () => import('./lib/bench-update.ts'),
  },
  scale: {
    needs: ALL,
    options: ['--pfs', '--kills'],
    defaults: { ...DEFAULTS, kills: 20 },
    load: () => import('./lib/bench-scale.ts'),
  },
  datapath: {
    needs: ALL,
    options: ['--cells', '--rounds', '--seconds', '--against'],
    defaults: DEFAULTS,
    load: () => import('./lib/bench-datapath.ts'),
  },
  tap: {
    needs: ALL,
    options: ['--rounds', '--seconds'],
    defaults: { ...DEFAULTS, seconds: 3 },
    load: () => import('./lib/bench-tap.ts'),
  },
  moderation: {
    needs: ALL,
    options: ['--cells', '--rounds', '--seconds'],
    defaults: { ...DEFAULTS, rounds: 7, seconds: 1 },
    load: () => import('./lib/bench-moderation.ts'),
  },
  memory: {
    needs: ['npm', 'build'],
    options: [],
    defaults: DEFAULTS,
    load: () => import('./lib/bench-memory.ts'),
  },
  hiccups: {
    needs: ALL,
    options: ['--cells', '--seconds'],
    defaults: { ...DEFAULTS, seconds: 10, cells: ['loop 64', 'switch packed 64'] },
    load: () => import('./lib/bench-hiccups.ts'),
  },
} as const;

async function main(words: readonly string[]): Promise<number> {
  const [command = '', ...rest] = words;
  if (command === '' || words.includes('-h') || words.includes('--help')) {
    process.stdout.write(USAGE);
    return command === '' ? 2 : 0;
  }
  const chosen = Object.hasOwn(COMMANDS, command) ? COMMANDS[command as keyof typeof COMMANDS] : null;
  const options = chosen === null ? null : parseOptions(rest, chosen.options, chosen.defaults);
  if (chosen === null || options === null) {
    process.stderr.write(USAGE);
    return 2;
  }
  setup(chosen.needs, (line) => process.stderr.write(`${line}\n`));
  const { run } = await chosen.load();
  return run(options);
}

function parseOptions(
  words: readonly string[],
  known: readonly string[],
  defaults: BenchOptions,
): BenchOptions | null {
  let options = defaults;
  for (let at = 0; at < words.length; at += 2) {
    const name = words[at]!;
    const value = words[at + 1];
    if (value === undefined || !(name === '--json' || known.includes(name))) return null;
    const option = parseOption(name, value);
    if (option === null) return null;
    options = { ...options, ...option };
  }
  return options;
}

function parseOption(name: string, value: string): Partial<BenchOptions> | null {
  switch (name) {
    case '--json':
      return { json: value };
    case '--against':
      return { against: value };
    case '--cells':
      return { cells: value.split(',') };
    case '--kills':
      return /^[1-9]\d{0,6}$/.test(value) ? { kills: Number(value) } : null;
    case '--pfs':
      return Number(value) >= 1 && Number(value) <= 31 && /^\d+$/.test(value) ? { pfs: Number(value) } : null;
    case '--moves':
      return /^[1-9]\d{0,4}$/.test(value) ? { moves: Number(value) } : null;
    case '--rounds':
      return /^\d{1,3}$/.test(value) && Number(value) >= 2 ? { rounds: Number(value) } : null;
    case '--seconds':
      return Number(value) >= 0.1 && Number(value) <= 60 ? { seconds: Number(value) } : null;
    default:
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
