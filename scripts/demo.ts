/** The product at work, before your eyes. See --help. */
import { spawnSync } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { setup } from './lib/setup.ts';
import { isRoot, SetupError } from './lib/shell.ts';

const USAGE = `Usage: scripts/demo [--keep]

A Linux guest on a virtio-net device that is served by virtio_net_emu, and does not notice when that is killed:
starts the service in a scratch VIRTNET_ROOT and a network namespace of its own, hotplugs a device, puts its
representor into a Linux bridge, boots Debian's kernel in QEMU over vhost-user, lets it ping and transfer 64 MiB each
way, kills the active emulator five times with SIGKILL meanwhile, and ends with what was measured.

  --keep   leaves everything running at the end and tells how to look around, until Ctrl-C

Root: installs what is missing with apt-get. Without root: runs in a user namespace (unshare -Ur) where the machine
permits that, and prints the apt-get line when Debian packages are missing.
Exit code: 0 all is well, 1 something is not, 2 wrong usage.
`;

/** Set in the copy of this program that runs inside a user namespace. */
const INSIDE = 'VIRTNET_DEMO_INSIDE';
const say = (line: string): void => void process.stdout.write(`${line}\n`);

async function main(words: readonly string[]): Promise<number> {
  if (words.includes('-h') || words.includes('--help')) {
    process.stdout.write(USAGE);
    return 0;
  }
  if (!words.every((word) => word === '--keep')) {
    process.stderr.write(USAGE);
    return 2;
  }
  if (process.env[INSIDE] === undefined) {
    setup(['npm', 'build', 'guest'], (line) => say(`setup: ${line}`));
    if (!isRoot()) return inUserNamespace(words);
  }
  const { demo } = await import('./lib/demo.ts');
  return demo({ keep: words.includes('--keep') });
}

/** Runs this program again as root of a user namespace. */
function inUserNamespace(words: readonly string[]): number {
  try {
    accessSync('/dev/net/tun', constants.R_OK | constants.W_OK);
  } catch {
    throw new SetupError(
      'Without root, the demo needs /dev/net/tun to be readable and writable for everyone.',
    );
  }
  if (spawnSync('unshare', ['-Urn', 'true']).status !== 0)
    throw new SetupError(
      'This machine permits no user namespaces (unshare -Urn fails); run the demo as root.',
    );
  const command = ['-Urn', '--', process.execPath, ...process.execArgv, import.meta.filename, ...words];
  const { status } = spawnSync('unshare', command, {
    stdio: 'inherit',
    env: { ...process.env, [INSIDE]: '1' },
  });
  return status ?? 1;
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 1;
}
