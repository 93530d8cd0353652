/**
 * debian-package.ts: the Debian package: a build, the system's files around it, and the scripts that put it into service.
 *
 * Theory
 *   dpkg owns `package/`, the newest build. Installing makes hard links of it under `versions/<version>` and moves the
 *   link `current` there (scripts/deb/postinst), so that a build that runs keeps its files whatever dpkg does, and
 *   costs no space while it is the newest. What users call are links through `current`.
 *
 * Invariants
 *   I1  the same checkout and version make the same package: times are the last commit's.
 */
import { createHash } from 'node:crypto';
import {
  cpSync,
  lstatSync,
  lutimesSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { gzipSync } from 'node:zlib';
import { entriesBelow, place, writeBuildTree } from './build-tree.ts';
import { manualPages } from './manual.ts';
import { repository } from './paths.ts';
import { findProgram, SetupError, shell } from './shell.ts';

const NAME = 'virtio-net-controller';
const BASE = 'opt/mellanox/mlnx_virtnet';
const MAINTAINER = 'virtnet developers <virtnet@localhost>';
const DEPENDS = [
  'libc6 (>= 2.28)',
  'libstdc++6 (>= 9)',
  'libgcc-s1',
  'libatomic1',
  'passwd',
  'systemd (>= 246)',
  'util-linux',
];
const DESCRIPTION = `virtio-net controller for ordinary Linux hosts
 A software twin of NVIDIA BlueField's virtio-net controller: virtual machines get virtio-net
 PCI functions over vfio-user, or over vhost-user through vfe-vhostd, and the host gets a
 network interface for each. Its processes can be killed and replaced under traffic.`;

export const compressions = ['xz', 'zstd', 'gzip', 'none'] as const;
export type Compression = (typeof compressions)[number];
/** Nearly as small as the highest levels, in a fraction of their time. */
const LEVEL: Readonly<Record<Compression, number>> = { xz: 2, zstd: 9, gzip: 6, none: 0 };

/** What users call, and where it is in a build. */
const COMMANDS: Readonly<Record<string, string>> = {
  'usr/bin/virtnet': 'program-cli/bin/virtnet',
  'usr/bin/virtnet-host': 'program-cli/bin/virtnet-host',
  'usr/bin/virtnet-mlxconfig': 'program-cli/bin/virtnet-mlxconfig',
  'usr/bin/vfe-vhost-cli': 'program-vhostd/bin/vfe-vhost-cli',
  'usr/sbin/virtio_net_controller': 'program-controller/bin/virtio_net_controller',
  'usr/sbin/vfe-vhostd': 'program-vhostd/bin/vfe-vhostd',
  'usr/sbin/vfe-vhostd-ha': 'program-ha/bin/vfe-vhostd-ha',
};

/** Files of the repository that go to places of the system. */
const SYSTEM_FILES: Readonly<Record<string, string>> = {
  'systemd/virtio-net-controller.service': 'usr/lib/systemd/system/virtio-net-controller.service',
  'systemd/vfe-vhostd.service': 'usr/lib/systemd/system/vfe-vhostd.service',
  'systemd/vfe-vhostd-ha.service': 'usr/lib/systemd/system/vfe-vhostd-ha.service',
  'systemd/virtnet.sysusers': 'usr/lib/sysusers.d/virtnet.conf',
  'systemd/virtnet.tmpfiles': 'usr/lib/tmpfiles.d/virtnet.conf',
  'packages/program-cli/completion/virtnet.bash': 'usr/share/bash-completion/completions/virtnet',
  'packages/program-cli/completion/_virtnet': 'usr/share/zsh/vendor-completions/_virtnet',
  'README.md': `${BASE}/README.md`,
  LICENSE: `usr/share/doc/${NAME}/copyright`,
};

export interface PackageOptions {
  readonly version?: string;
  readonly output: string;
  readonly compression: Compression;
}

/** Makes the package and returns its path. The packages of the repository must be built. */
export function debianPackage({ version = ownVersion(), output, compression }: PackageOptions): string {
  if (findProgram('dpkg-deb') === null) throw new SetupError('dpkg-deb is missing (Debian package dpkg)');
  if (!/^[0-9][A-Za-z0-9.+~-]*$/.test(version)) throw new SetupError(`${version} is no version of a package`);
  const root = mkdtempSync(join(tmpdir(), 'virtnet-package-'));
  try {
    const committed = commitTime();
    writeBuildTree(join(root, BASE, 'package'), version);
    writeInitialFirmware(join(root, BASE, 'package/fwconfig.json'));
    writeSystemFiles(root, version, committed);
    writeControl(root, version);
    for (const name of entriesBelow(root)) lutimesSync(join(root, name), committed, committed);
    mkdirSync(output, { recursive: true });
    const path = join(output, `${NAME}_${version}_${architecture()}.deb`);
    shell(
      [
        'dpkg-deb',
        '--root-owner-group',
        `-Z${compression}`,
        `-z${LEVEL[compression]}`,
        '--build',
        root,
        path,
      ],
      {
        env: { SOURCE_DATE_EPOCH: `${committed.getTime() / 1000}` },
      },
    );
    return path;
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
}

function ownVersion(): string {
  const manifest = readFileSync(join(repository, 'packages/program-controller/package.json'), 'utf8');
  return (JSON.parse(manifest) as { version: string }).version;
}

function architecture(): string {
  return process.arch === 'x64' ? 'amd64' : process.arch;
}

/** When the last commit was made; now, outside of a repository. */
function commitTime(): Date {
  try {
    return new Date(Number(shell(['git', '-C', repository, 'log', '-1', '--format=%ct'])) * 1000);
  } catch {
    return new Date(Math.floor(Date.now() / 1000) * 1000);
  }
}

/** The firmware store of a machine on which nothing was configured, to be handed to the service's user. */
function writeInitialFirmware(path: string): void {
  const engine = pathToFileURL(join(repository, 'packages/engine-control/dist/index.js')).href;
  const script = `const e = await import('${engine}'); process.stdout.write(e.serialiseFirmwareStore(e.initialFirmwareStore()));`;
  writeFileSync(path, shell([join(repository, 'scripts/node'), '--input-type=module', '-e', script]));
}

function writeSystemFiles(root: string, version: string, committed: Date): void {
  for (const [from, to] of Object.entries(SYSTEM_FILES)) place(join(repository, from), join(root, to));
  for (const [link, program] of Object.entries(COMMANDS)) {
    mkdirSync(dirname(join(root, link)), { recursive: true });
    symlinkSync(`/${BASE}/current/packages/${program}`, join(root, link));
  }
  for (const { name, section, text } of manualPages(version, committed)) {
    const directory = join(root, `usr/share/man/man${section}`);
    mkdirSync(directory, { recursive: true });
    writeFileSync(join(directory, `${name}.${section}.gz`), gzipSync(text, { level: 9 }));
  }
  cpSync(join(repository, 'docs'), join(root, `usr/share/doc/${NAME}`), { recursive: true });
}

function writeControl(root: string, version: string): void {
  const files = entriesBelow(root).filter((name) => lstatSync(join(root, name)).isFile());
  const kilobytes = files.reduce((sum, name) => sum + Math.ceil(lstatSync(join(root, name)).size / 1024), 0);
  const sums = files.map((name) => `${md5(join(root, name))}  ${name}\n`);
  const control = join(root, 'DEBIAN');
  mkdirSync(control);
  const fields = {
    Package: NAME,
    Version: version,
    Architecture: architecture(),
    Maintainer: MAINTAINER,
    'Installed-Size': `${kilobytes}`,
    Depends: DEPENDS.join(', '),
    Section: 'net',
    Priority: 'optional',
    Description: DESCRIPTION,
  };
  const lines = Object.entries(fields).map(([field, value]) => `${field}: ${value}\n`);
  writeFileSync(join(control, 'control'), lines.join(''));
  writeFileSync(join(control, 'md5sums'), sums.join(''));
  for (const script of readdirSync(join(repository, 'scripts/deb')))
    place(join(repository, 'scripts/deb', script), join(control, script), 0o755);
}

/** dpkg --verify compares these. */
function md5(path: string): string {
  return createHash('md5').update(readFileSync(path)).digest('hex');
}
