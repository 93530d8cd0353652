/**
 * systemd-root.ts: a small Debian system with systemd, in a directory, for the tests of service and package.
 *
 * Theory
 *   It is made once, in memory because dpkg waits for the disk after every file, and copied to the cache. Nobody writes
 *   to it there: the tests boot it with an overlay of their own.
 *
 * Limits  root is needed to make it; the archive is the one this machine's apt uses.
 */
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { cache } from './paths.ts';
import { isRoot, SetupError, shell } from './shell.ts';

/** The parts of its name tell an outdated one from one that fits. */
const RELEASE = 'bookworm';
const GENERATION = 2;
const ARCHIVE = 'http://deb.debian.org/debian';
/** What the package depends on beyond the essential, and what the tests look with. */
const PACKAGES = [
  'systemd',
  'systemd-sysv',
  'init-system-helpers',
  'libstdc++6',
  'libatomic1',
  'passwd',
  'iproute2',
];
const MEMORY = '/dev/shm';

export const systemdRoot = join(cache, 'systemd', `${RELEASE}-${GENERATION}`);

/** Makes the system unless it is there. */
export function ensureSystemdRoot(say: (line: string) => void): void {
  if (existsSync(systemdRoot)) return;
  if (!isRoot())
    throw new SetupError('a Debian system for the tests of the service can be made by root only');
  say('making a small Debian system with systemd');
  const scratch = mkdtempSync(join(existsSync(MEMORY) ? MEMORY : tmpdir(), 'virtnet-systemd-'));
  try {
    const made = join(scratch, 'root');
    shell([
      ...['mmdebstrap', '--quiet', '--variant=essential', `--include=${PACKAGES.join(',')}`],
      ...['--dpkgopt=force-unsafe-io', RELEASE, made, `deb ${ARCHIVE} ${RELEASE} main`],
    ]);
    mkdirSync(dirname(systemdRoot), { recursive: true });
    const copied = `${systemdRoot}.new`;
    rmSync(copied, { recursive: true, force: true });
    shell(['cp', '-a', made, copied]);
    renameSync(copied, systemdRoot);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}
