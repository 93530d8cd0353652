/**
 * build-tree.ts: one build of the product as a directory that needs nothing from the checkout.
 *
 * Theory
 *   A build has the layout of a built checkout (`packages/`, `node_modules/`, `scripts/node`), because that is where the
 *   programs look for each other, less what only building and testing need. Libraries are those that the lockfile names
 *   for production, the Node runtime among them, as they were installed; native code for other platforms stays behind.
 */
import { createHash } from 'node:crypto';
import {
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { lockedPackages } from './npm.ts';
import { repository } from './paths.ts';
import { SetupError } from './shell.ts';

/** Packages of ours that no program uses. */
const TEST_PACKAGES: ReadonlySet<string> = new Set(['testing']);
/** Libraries that only they use. */
const TEST_LIBRARIES: ReadonlySet<string> = new Set(['fast-check', 'pure-rand']);
/** Of our own packages. */
const OWN_PARTS = ['package.json', 'dist', 'bin'];
/** Of use to compilers, debuggers and tests. */
const UNUSED_FILE = /\.(d\.[cm]?ts|map|tsbuildinfo)$|\.(test|fixture)\.js$|\/test-support$/;
/** The programs' caches of compiled code (scripts/bundle.ts). */
const COMPILED = /\/bundle\/\.compile-cache(\/|$)/;
/** Headers for compiling native code. */
const UNUSED_OF_NODE = /^node-linux-[a-z0-9]+\/(include|share)$/;
/** zeromq brings its sources and its native code for every platform and Node version. */
const UNUSED_OF_ZEROMQ =
  /^zeromq\/(src|script|CMakeLists\.txt|vcpkg\.json|build\/(?!linux\/|linux$|manifest))/;

/** Writes the build `version` into `directory`, which must not exist. */
export function writeBuildTree(directory: string, version: string): void {
  const packages = readdirSync(join(repository, 'packages')).filter((name) => !TEST_PACKAGES.has(name));
  mkdirSync(join(directory, 'node_modules/@virtnet'), { recursive: true });
  for (const name of packages) {
    writeOwnPackage(name, join(directory, 'packages', name), version);
    symlinkSync(`../../packages/${name}`, join(directory, 'node_modules/@virtnet', name));
  }
  for (const library of productionLibraries()) copyLibrary(library, directory);
  mkdirSync(join(directory, 'scripts'));
  cpSync(join(repository, 'scripts/node'), join(directory, 'scripts/node'));
  cpSync(join(repository, 'LICENSE'), join(directory, 'LICENSE'));
  writeFileSync(join(directory, 'VERSION'), `${version}\n`);
  writeFileSync(join(directory, 'BUILD'), `${treeDigest(directory).slice(0, 12)}\n`);
}

function writeOwnPackage(name: string, to: string, version: string): void {
  const from = join(repository, 'packages', name);
  if (!existsSync(join(from, 'dist'))) throw new SetupError(`packages/${name} is not built`);
  mkdirSync(to, { recursive: true });
  for (const part of OWN_PARTS) {
    if (!existsSync(join(from, part))) continue;
    cpSync(join(from, part), join(to, part), {
      recursive: true,
      filter: (path) => !UNUSED_FILE.test(path),
    });
  }
  const manifest = JSON.parse(readFileSync(join(from, 'package.json'), 'utf8')) as object;
  writeFileSync(join(to, 'package.json'), `${JSON.stringify({ ...manifest, version }, null, 2)}\n`);
}

/** Paths below node_modules of the libraries that programs use on this platform. */
function productionLibraries(): string[] {
  return Object.entries(lockedPackages(join(repository, 'package-lock.json'))).flatMap(([path, locked]) => {
    const library = path.startsWith('node_modules/') ? path.slice('node_modules/'.length) : null;
    if (library === null || locked.dev === true || locked.link === true) return [];
    if (TEST_LIBRARIES.has(library) || !existsSync(join(repository, path))) return [];
    return [library];
  });
}

function copyLibrary(library: string, directory: string): void {
  const from = join(repository, 'node_modules', library);
  const below = from.length - library.length;
  const otherArch = process.arch === 'x64' ? 'arm64' : 'x64';
  const unused = (path: string): boolean => {
    const name = path.slice(below);
    const nested = name.slice(library.length).includes('/node_modules'); // in the lockfile under a path of its own
    const foreign = name.includes(`/linux/${otherArch}`) || /\/musl[-_]/.test(name);
    return nested || foreign || [UNUSED_FILE, UNUSED_OF_NODE, UNUSED_OF_ZEROMQ].some((of) => of.test(name));
  };
  cpSync(from, join(directory, 'node_modules', library), {
    recursive: true,
    filter: (path) => !unused(path),
  });
}

/** Every file, directory and link below `directory`, sorted, relative to it. */
export function entriesBelow(directory: string): string[] {
  return readdirSync(directory, { recursive: true, encoding: 'utf8' }).sort();
}

/** Names a tree by its content; what was compiled from it is never twice the same. */
function treeDigest(directory: string): string {
  const digest = createHash('sha256');
  for (const name of entriesBelow(directory)) {
    if (COMPILED.test(name)) continue;
    const path = join(directory, name);
    const stat = lstatSync(path);
    digest.update(`${name}\0`);
    if (stat.isSymbolicLink()) digest.update(readlinkSync(path));
    else if (stat.isFile()) digest.update(readFileSync(path));
  }
  return digest.digest('hex');
}

/** Copies one file to where its directory may not exist yet. */
export function place(from: string, to: string, mode = 0o644): void {
  mkdirSync(dirname(to), { recursive: true });
  writeFileSync(to, readFileSync(from), { mode });
}
