/** The programs of others that demo and tests drive, and the Debian packages they come in. */
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { environment, findProgram, isRoot, SetupError } from './shell.ts';

interface Need {
  readonly packages: readonly string[];
  readonly present: () => boolean;
}

const program = (name: string, ...packages: string[]): Need => ({
  packages,
  present: () => findProgram(name) !== null,
});

/** What the guest and the network namespaces need. */
const GUEST: readonly Need[] = [
  program('qemu-system-x86_64', 'qemu-system-x86'),
  { packages: ['busybox-static'], present: () => installed('busybox-static') },
  program('cpio', 'cpio'),
  program('ip', 'iproute2'),
  program('ping', 'iputils-ping'),
  program('tcpdump', 'tcpdump'),
  program('iperf3', 'iperf3'),
  program('ethtool', 'ethtool'),
  program('depmod', 'kmod'),
  program('sysctl', 'procps'),
  program('nsenter', 'util-linux'),
];

const DPDK: readonly Need[] = [
  program('dpdk-testpmd', 'dpdk'),
  ...['librte-net-virtio23', 'librte-net-vhost23', 'librte-mempool-ring23', 'librte-bus-vdev23'].map(
    (name) => ({
      packages: [name],
      present: () => installed(name),
    }),
  ),
];

export const peers = { guest: GUEST, dpdk: DPDK } as const;

/** Installs what is missing when we may, else says how. */
export function ensurePackages(groups: readonly (keyof typeof peers)[], say: (line: string) => void): void {
  const needs = groups.flatMap((group) => peers[group]);
  const missing = [...new Set(needs.filter((need) => !need.present()).flatMap((need) => need.packages))];
  if (missing.length === 0) return;
  const line = `apt-get install -y --no-install-recommends ${missing.join(' ')}`;
  if (findProgram('apt-get') === null)
    throw new SetupError(`Missing (names as in Debian 12): ${missing.join(' ')}`);
  if (!isRoot()) throw new SetupError(`Debian packages are missing; as root, run:\n  ${line}`);
  say(`installing ${missing.join(' ')}`);
  ensurePackageLists(say);
  const command = line.split(' ');
  if (apt(command) !== null) {
    // Lists older than the archive are the usual reason.
    apt(['apt-get', 'update']);
    const problem = apt(command);
    if (problem !== null) throw new SetupError(`${line}\nfailed:\n${problem}`);
  }
  const still = needs.filter((need) => !need.present()).flatMap((need) => need.packages);
  if (still.length > 0) throw new SetupError(`still missing after installation: ${still.join(' ')}`);
}

/** Fetches the package lists when a fresh machine has none. */
export function ensurePackageLists(say: (line: string) => void): void {
  const lists = '/var/lib/apt/lists';
  if (existsSync(lists) && readdirSync(lists).some((name) => /_Packages(\.|$)/.test(name))) return;
  if (!isRoot()) throw new SetupError('There are no package lists yet; as root, run:\n  apt-get update');
  say('fetching the package lists');
  const problem = apt(['apt-get', 'update']);
  if (problem !== null) throw new SetupError(`apt-get update failed:\n${problem}`);
}

function installed(name: string): boolean {
  if (findProgram('dpkg-query') === null) return true; // another distribution: the program check has to do
  const result = spawnSync('dpkg-query', ['-W', '-f', `\${db:Status-Status}`, name], { encoding: 'utf8' });
  return result.stdout === 'installed';
}

/** Null when it went well, else what was said. */
function apt(command: readonly string[]): string | null {
  const [file = '', ...rest] = command;
  const result = spawnSync(file, ['-q', ...rest], {
    env: environment({ DEBIAN_FRONTEND: 'noninteractive' }),
    encoding: 'utf8',
    maxBuffer: 64 * 1024 * 1024,
  });
  return result.status === 0 ? null : `${result.stdout}${result.stderr}`.slice(-3_000);
}
