/**
 * guest-image.ts: the Linux guest of the whole-system tests, made from Debian's own packages.
 *
 * Theory
 *   The kernel comes out of the .deb of linux-image-*-cloud-amd64, which is downloaded and unpacked but never
 *   installed: its maintainer scripts would change the machine's boot loader. The initramfs holds a static busybox,
 *   the modules virtio needs, and a few of the machine's own tools with the libraries they are linked to.
 *
 * Invariants
 *   I1  the image that a stamp describes is complete: the stamp is written last, atomically.
 *   I2  the initramfs is made again when the init script, a tool or the kernel changed.
 *
 * Limits  x86_64 only: QEMU would have to emulate another machine otherwise, with another kernel.
 */
import { createHash } from 'node:crypto';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { guestCache } from './paths.ts';
import { findProgram, isRoot, SetupError, shell } from './shell.ts';

const KERNEL_PACKAGE = 'linux-image-cloud-amd64';
const MODULES = ['virtio_pci', 'virtio_net', 'virtio_console', 'pktgen'];
/** Tools of the machine that busybox does not have, or not well enough. */
const TOOLS = ['flock', 'ip', 'ping', 'ethtool', 'tcpdump', 'iperf3'];
const INIT = join(import.meta.dirname, 'guest-init.sh');

export interface GuestImage {
  readonly kernel: string;
  readonly initramfs: string;
}

const image: GuestImage = {
  kernel: join(guestCache, 'vmlinuz'),
  initramfs: join(guestCache, 'initramfs.cpio'),
};
const stamp = join(guestCache, 'stamp');
const unpacked = join(guestCache, 'kernel');

/** The image, made or made again when something it is made of changed. `say` tells of work that takes time. */
export function guestImage(say: (line: string) => void): GuestImage {
  if (process.arch !== 'x64')
    throw new SetupError(`The guest tests need an x86_64 machine; this one is ${process.arch}.`);
  const wanted = stampText();
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) return image;
  mkdirSync(guestCache, { recursive: true });
  if (!existsSync(unpacked)) {
    say('downloading the guest kernel');
    downloadKernel();
  }
  say('building the guest initramfs');
  buildInitramfs();
  replaceFile(stamp, stampText());
  return image;
}

/** Text that changes when the image has to be made again. */
function stampText(): string {
  const hash = createHash('sha256');
  for (const path of [INIT, import.meta.filename]) hash.update(readFileSync(path));
  for (const tool of [...TOOLS, 'busybox']) {
    const path = toolPath(tool);
    const { size, mtimeMs } = statSync(path);
    hash.update(`${path} ${size} ${mtimeMs}\n`);
  }
  hash.update(existsSync(unpacked) ? readdirSync(unpacked).join(' ') : 'no kernel');
  return hash.digest('hex');
}

function downloadKernel(): void {
  const work = `${unpacked}.new`;
  rmSync(work, { recursive: true, force: true });
  mkdirSync(work, { recursive: true });
  const real = kernelPackageName();
  // apt would complain that its own user cannot write here.
  const sandbox = isRoot() ? ['-o', 'APT::Sandbox::User=root'] : [];
  shell(['apt-get', ...sandbox, '-q', 'download', real], { cwd: work });
  const file = readdirSync(work).find((name) => name.endsWith('.deb'));
  if (file === undefined) throw new SetupError(`apt-get download ${real} left no package`);
  shell(['dpkg-deb', '-x', join(work, file), work]);
  rmSync(join(work, file));
  rmSync(join(work, 'usr'), { recursive: true, force: true });
  const modules = join(work, 'lib/modules');
  const version = readdirSync(modules)[0] ?? '';
  shell(['depmod', '-b', work, version]);
  renameSync(work, unpacked);
}

/** Name of the package the meta package stands for now. */
function kernelPackageName(): string {
  const name = shell(['apt-cache', 'depends', KERNEL_PACKAGE]).match(
    /Depends: (linux-image-\S+-cloud-amd64)/,
  )?.[1];
  if (name === undefined)
    throw new SetupError(`apt-cache does not know ${KERNEL_PACKAGE}; run: apt-get update`);
  return name;
}

function buildInitramfs(): void {
  const boot = join(unpacked, 'boot');
  const vmlinuz = readdirSync(boot).find((name) => name.startsWith('vmlinuz-'));
  if (vmlinuz === undefined) throw new SetupError(`no kernel in ${boot}`);
  const tree = join(guestCache, 'tree');
  rmSync(tree, { recursive: true, force: true });
  for (const directory of [
    'bin',
    'sbin',
    'usr/bin',
    'usr/sbin',
    'dev',
    'proc',
    'sys',
    'etc',
    'lib/modules',
    'tmp',
  ])
    mkdirSync(join(tree, directory), { recursive: true });
  copyFileSync(toolPath('busybox'), join(tree, 'bin/busybox'));
  symlinkSync('busybox', join(tree, 'bin/sh'));
  copyFileSync(INIT, join(tree, 'init'));
  chmodSync(join(tree, 'init'), 0o755);
  for (const tool of TOOLS) copyWithLibraries(toolPath(tool), join(tree, 'usr/bin', tool), tree);
  copyModules(vmlinuz.slice('vmlinuz-'.length), tree);

  const names = shell(['find', '.', '-mindepth', '1'], { cwd: tree });
  const archive = `${image.initramfs}.new`;
  shell(['cpio', '--quiet', '-o', '-H', 'newc', '-R', '+0:+0', '-F', archive], { cwd: tree, input: names });
  copyFileSync(join(boot, vmlinuz), image.kernel);
  renameSync(archive, image.initramfs);
  rmSync(tree, { recursive: true, force: true });
}

function copyWithLibraries(program: string, target: string, tree: string): void {
  copyFileSync(realpathSync(program), target);
  chmodSync(target, 0o755);
  for (const [path] of shell(['ldd', program]).matchAll(/\/\S+/g)) {
    const copy = join(tree, path);
    if (existsSync(copy)) continue;
    mkdirSync(dirname(copy), { recursive: true });
    copyFileSync(realpathSync(path), copy);
  }
}

/** The wanted modules and all they depend on, with an index of their own for modprobe. */
function copyModules(version: string, tree: string): void {
  const from = join(unpacked, 'lib/modules', version);
  const to = join(tree, 'lib/modules', version);
  const dependencies = new Map<string, string[]>();
  for (const line of readFileSync(join(from, 'modules.dep'), 'utf8').split('\n')) {
    const [path, needs] = line.split(':');
    if (path !== undefined && needs !== undefined)
      dependencies.set(path, needs.trim().split(' ').filter(Boolean));
  }
  const copied = new Set<string>();
  const copy = (path: string): void => {
    if (copied.has(path)) return;
    copied.add(path);
    mkdirSync(dirname(join(to, path)), { recursive: true });
    copyFileSync(join(from, path), join(to, path));
    for (const need of dependencies.get(path) ?? []) copy(need);
  };
  for (const module of MODULES) {
    const path = [...dependencies.keys()].find(
      (name) => basename(name).replaceAll('-', '_') === `${module}.ko`,
    );
    if (path === undefined) throw new SetupError(`the kernel package has no module ${module}`);
    copy(path);
  }
  for (const name of ['modules.builtin', 'modules.builtin.modinfo', 'modules.order'])
    copyFileSync(join(from, name), join(to, name));
  shell(['depmod', '-b', tree, version]);
}

function toolPath(name: string): string {
  const path = findProgram(name);
  if (path === null) throw new SetupError(`${name} is missing`);
  return path;
}

function replaceFile(path: string, text: string): void {
  writeFileSync(`${path}.new`, text);
  renameSync(`${path}.new`, path);
}
