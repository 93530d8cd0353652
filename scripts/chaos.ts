/** Everything dies, hangs and is replaced at random while streams run. See --help. */
import { ignoreSessions } from './lib/machine-state.ts';
import { setup } from './lib/setup.ts';
import { SetupError } from './lib/shell.ts';

const USAGE = `Usage: scripts/chaos [--seed N] [--minutes M] [--events N] [--only WORDS]

Starts the service, vfe-vhostd and vfe-vhostd-ha in a network namespace of their own, each under a stand-in for systemd
that keeps its descriptors, with a function driven over vfio-user, one driven by DPDK's virtio-user over vhost-user, and
numbered streams both ways through each, a packet a millisecond. Then, in an order that the seed decides:
  killed            emulator, standby, keeper, controller, vfe-vhostd, vfe-vhostd-ha, and a client of a function; emulator and
                    keeper, keeper and emulator, emulator and standby, vfe-vhostd and emulator within a second; vfe-vhostd
                    and vfe-vhostd-ha at once; the whole service at once; that and both of these at once
  signalled         SIGSEGV and SIGABRT for the emulator
  stopped           emulator, standby, keeper; controller, vfe-vhostd, vfe-vhostd-ha for a while
  replaced          vfe-vhostd; the service, by restart and by update to another version
  changed           modify, hotplug, unplug, VFs; the same while the emulator dies, and during an update until it is over
  killed meanwhile  during an update, in any phase: controller, emulator, standby, keeper, the destination's emulator, or all
The next event does not wait for a standby that is still starting: one that needs it is put off, and others happen
meanwhile. An emulator that is killed too early is a row of its own, with the pause of a cold start. After each event:
everybody is there again, and an emulator serves; every function is there, as modify has made it, with its representor
and no other (those of removed VFs stay for the next ones); every stream moves; no driver was disconnected, and
vfe-vhostd has not lost its function. After an update: everybody is of one version, and of the new one if it succeeded.
After every 50 events, and in the end: descriptors and mappings are no more than in the beginning, and the programs that
run are the same. In the end: what was lost or repeated is what the events may cost, whoever dropped it; and no stream
paused for longer than the bound of the event before. A bound is exceeded only by what the machine itself shows: its
longest pause without an event, and the time in which somebody waited for a processor (/proc/pressure/cpu); three times
the bound is too long in any case. Meanwhile the kernel's sched_autogroup_enabled is 0: while it
is 1, Linux 6.18 may let nobody but DPDK's thread have a processor for seconds.

  --seed N      the order of events (default: one that is printed)
  --minutes M   no event begins after that time (default 10)
  --events N    nor more than so many
  --only WORDS  only events with one of these words in their names, comma between them

Prints each event, a table of them with the pauses of the streams and their bounds, and the events a minute. Needs root, or the Debian packages of DPDK and
tcpdump and a user who may use them.

Exit code: 0 all was well, 1 not (and the seed is printed again), 2 wrong usage.
`;

const DEFAULT_MINUTES = 10;
const SEEDS = 0x1_0000_0000;

export interface ChaosOptions {
  readonly seed: number;
  readonly minutes: number;
  readonly events: number;
  /** Words of the events' names; empty: all events. */
  readonly only: readonly string[];
}

function parse(words: readonly string[]): ChaosOptions | null {
  const options = { seed: Date.now() % SEEDS, minutes: DEFAULT_MINUTES, events: Number.POSITIVE_INFINITY };
  let only: string[] = [];
  for (let at = 0; at < words.length; at += 2) {
    const name = words[at]?.replace(/^--/, '') ?? '';
    if (words[at] === '--only' && words[at + 1] !== undefined) {
      only = words[at + 1]!.split(',');
      continue;
    }
    const value = Number(words[at + 1]);
    if (!Object.hasOwn(options, name) || !words[at]!.startsWith('--') || !(value > 0)) return null;
    options[name as keyof typeof options] = value;
  }
  return { ...options, only };
}

async function main(words: readonly string[]): Promise<number> {
  const options = parse(words);
  if (options === null) {
    const asked = words.includes('-h') || words.includes('--help');
    process[asked ? 'stdout' : 'stderr'].write(USAGE);
    return asked ? 0 : 2;
  }
  setup(['npm', 'build', 'dpdk'], (line) => process.stderr.write(`${line}\n`));
  const { chosen, run } = await import('./lib/chaos-run.ts'); // here, for the packages may not be built yet
  if (chosen(options.only).length > 0) {
    ignoreSessions();
    return run(options);
  }
  process.stderr.write(`no event has one of these words: ${options.only.join(', ')}\n`);
  return 2;
}

try {
  // What a run that failed leaves open must not keep it from ending.
  process.exit(await main(process.argv.slice(2)));
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 1;
}
