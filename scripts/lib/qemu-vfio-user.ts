/**
 * qemu-vfio-user.ts: a QEMU that speaks vfio-user, on a machine whose own QEMU is too old for that.
 *
 * Theory
 *   Debian 12 has QEMU 7.2; `-device vfio-user-pci` came with 10.1, which Debian 13's backports have. The package and
 *   everything it is linked to are downloaded with an apt configuration of their own, and unpacked below .cache; they
 *   are never installed, and the programs are started with the loader and the libraries that came along. The machine's
 *   own packages and lists are not touched.
 *
 * Invariants
 *   I1  the folder that a stamp describes is complete: the stamp is written last.
 *
 * Limits  x86_64.
 */
import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { cache } from './paths.ts';
import { isRoot, SetupError, shell } from './shell.ts';

const PACKAGE = 'qemu-system-x86';
const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg';
const ARCHIVE = 'http://deb.debian.org/debian';
const SUITES = ['trixie', 'trixie-backports'] as const;

const home = join(cache, 'qemu-vfio-user');
const root = join(home, 'root');
const stamp = join(home, 'complete');
const libraries = join(root, 'usr/lib/x86_64-linux-gnu');

/** The command that starts the newer QEMU, without its options. Downloads it first when it is not there. */
export function qemuWithVfioUser(say: (line: string) => void): readonly string[] {
  if (process.arch !== 'x64')
    throw new SetupError(`QEMU with vfio-user is fetched for x86_64 only; this machine is ${process.arch}.`);
  if (!existsSync(stamp)) {
    say('downloading a QEMU with vfio-user (Debian 13 backports)');
    fetchQemu();
  }
  return command;
}

const command: readonly string[] = [
  'env',
  `QEMU_MODULE_DIR=${join(libraries, 'qemu')}`,
  join(libraries, 'ld-linux-x86-64.so.2'),
  '--library-path',
  [libraries, join(libraries, 'pulseaudio')].join(':'),
  join(root, 'usr/bin/qemu-system-x86_64'),
  ...['usr/share/qemu', 'usr/share/seabios', 'usr/lib/ipxe/qemu'].flatMap((path) => ['-L', join(root, path)]),
];

function fetchQemu(): void {
  rmSync(home, { recursive: true, force: true });
  const state = join(home, 'apt');
  for (const path of ['lists/partial', 'archives/partial', 'etc'])
    mkdirSync(join(state, path), { recursive: true });
  writeFileSync(join(state, 'status'), '');
  const signed = existsSync(KEYRING) ? `[signed-by=${KEYRING}] ` : '';
  writeFileSync(
    join(state, 'sources.list'),
    SUITES.map((suite) => `deb ${signed}${ARCHIVE} ${suite} main\n`).join(''),
  );
  const options = [
    `Dir::Etc::sourcelist=${join(state, 'sources.list')}`,
    `Dir::Etc::sourceparts=${join(state, 'etc')}`,
    `Dir::Etc::preferencesparts=${join(state, 'etc')}`,
    `Dir::State=${state}`,
    `Dir::State::lists=${join(state, 'lists')}`,
    `Dir::State::status=${join(state, 'status')}`,
    `Dir::Cache::archives=${join(state, 'archives')}`,
    `Dir::Cache::pkgcache=`,
    `Dir::Cache::srcpkgcache=`,
    'APT::Install-Recommends=false',
    'Acquire::Languages=none',
    ...(isRoot() ? ['APT::Sandbox::User=root'] : []),
  ].flatMap((option) => ['-o', option]);
  shell(['apt-get', '-q', ...options, 'update']);
  shell(['apt-get', '-q', '-y', ...options, '-t', SUITES[1], 'install', '--download-only', PACKAGE]);
  const archives = join(state, 'archives');
  // Their /lib is a link to usr/lib; unpacked one by one, without the base-files that make it, it would be a folder.
  for (const name of readdirSync(archives).filter((file) => file.endsWith('.deb')))
    shell(['dpkg-deb', '-x', join(archives, name), root]);
  rmSync(state, { recursive: true, force: true });
  writeFileSync(stamp, `${shell([...command, '--version'])}`);
}
