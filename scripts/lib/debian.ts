/** The programs of others that demo and tests drive, and the Debian packages they come in. */
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { environment, findProgram, isRoot, SetupError } from './shell.ts';

interface Need {
  readonly packages: readonly string[];
  readonly present: () => boolean;
  /** The packages' names on this machine, when they differ from release to release. */
  readonly resolve?: () => readonly string[];
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
  program('dpdk-testpmd', 'dpdk-dev'),
  ...['librte-net-virtio', 'librte-net-vhost', 'librte-mempool-ring', 'librte-bus-vdev'].map(library),
];

/** A DPDK library: its package's name ends in the ABI's number, which differs from release to release. */
function library(stem: string): Need {
  const name = new RegExp(`^${stem}-?[0-9]+(t64)?$`);
  return {
    packages: [stem],
    present: () => installed(`${stem}*`),
    resolve: () => {
      const known = run(['apt-cache', 'pkgnames', stem]).stdout.split('\n');
      return known
        .filter((candidate) => name.test(candidate))
        .sort(byNumber)
        .slice(-1);
    },
  };
}

const byNumber = (left: string, right: string): number => left.localeCompare(right, 'en', { numeric: true });

/** What a Debian system of its own is made with, and booted. */
const SYSTEMD: readonly Need[] = [
  program('systemd-nspawn', 'systemd-container'),
  program('mmdebstrap', 'mmdebstrap'),
  program('dpkg-deb', 'dpkg'),
];

/** Shells that completion is made for; bash is everywhere. */
const SHELLS: readonly Need[] = [program('zsh', 'zsh')];

export const peers = { guest: GUEST, dpdk: DPDK, shells: SHELLS, systemd: SYSTEMD } as const;

/** Installs what is missing when we may, else says how. */
export function ensurePackages(groups: readonly (keyof typeof peers)[], say: (line: string) => void): void {
  const needs = groups.flatMap((group) => peers[group]);
  const missing = needs.filter((need) => !need.present());
  if (missing.length === 0) return;
  if (findProgram('apt-get') === null)
    throw new SetupError(
      `Missing (names as in Debian): ${missing.flatMap((need) => need.packages).join(' ')}`,
    );
  if (isRoot()) ensurePackageLists(say);
  const names = [...new Set(missing.flatMap((need) => need.resolve?.() ?? need.packages))];
  const line = `apt-get install -y --no-install-recommends ${names.join(' ')}`;
  if (!isRoot()) throw new SetupError(`Debian packages are missing; as root, run:\n  ${line}`);
  say(`installing ${names.join(' ')}`);
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

/** Whether a package of this name, which may hold a wildcard, is installed. */
function installed(name: string): boolean {
  if (findProgram('dpkg-query') === null) return true; // another distribution: the program check has to do
  return run(['dpkg-query', '-W', '-f', `\${db:Status-Status}\n`, name])
    .stdout.split('\n')
    .includes('installed');
}

/** Null when it went well, else what was said. */
function apt(command: readonly string[]): string | null {
  const [file = '', ...rest] = command;
  const result = run([file, '-q', ...rest]);
  return result.status === 0 ? null : `${result.stdout}${result.stderr}`.slice(-3_000);
}

function run(command: readonly string[]): { status: number | null; stdout: string; stderr: string } {
  const [file = '', ...rest] = command;
  return spawnSync(file, rest, {
    env: environment({ DEBIAN_FRONTEND: 'noninteractive' }),
    encoding: 'utf8',
    maxBuffer: 64 * 1024 * 1024,
  });
}
