/** Installs and builds what demo and tests need. See --help. */
import { type Part, parts, setup } from './lib/setup.ts';
import { SetupError } from './lib/shell.ts';

const USAGE = `Usage: scripts/setup [part ...]

Puts in place what scripts/demo and scripts/test need, and says nothing when nothing is missing.
They call it themselves; run it alone to have the downloads done beforehand.

Parts (all of them when none is named):
  npm     npm packages as in package-lock.json, with the Node runtime everything runs on
  build   the compiled packages
  guest   Debian packages for the Linux guest (QEMU, busybox, network tools), its kernel and initramfs in .cache/guest
  dpdk    Debian packages for dpdk-testpmd
  shells  the Debian package of zsh, whose completion is tested
  systemd Debian packages for a system of its own (systemd-nspawn, mmdebstrap), and that system in .cache/systemd

Debian packages are installed when run as root; otherwise the one line to run is printed.
Exit code: 0 all is there, 1 something is missing, 2 wrong usage.
`;

const words = process.argv.slice(2);
if (words.includes('-h') || words.includes('--help')) {
  process.stdout.write(USAGE);
} else if (!words.every((word): word is Part => (parts as readonly string[]).includes(word))) {
  process.stderr.write(USAGE);
  process.exitCode = 2;
} else {
  try {
    setup(words.length === 0 ? parts : words, (line) => process.stderr.write(`setup: ${line}\n`));
  } catch (error) {
    if (!(error instanceof SetupError)) throw error;
    process.stderr.write(`${error.message}\n`);
    process.exitCode = 1;
  }
}
