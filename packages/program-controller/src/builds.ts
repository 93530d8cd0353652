/**
 * builds.ts: the versions of the product on this machine: the one that runs, and the one that is the destination of an
 * update.
 *
 * Theory
 *   A build is a directory: `packages/` with the programs, `node_modules/` with what they need, the Node runtime
 *   included. An installation keeps several side by side, `opt/mellanox/mlnx_virtnet/versions/<version>`, and the link
 *   `current` beside `versions` names the destination: installing a package puts a build there and moves the link,
 *   which disturbs nobody. The link is looked for below VIRTNET_ROOT first, then where the running build itself is
 *   installed. Without a link, as in a checkout, the destination is the build that runs.
 */
import { existsSync, readlinkSync, realpathSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { packageVersion, type VirtnetPaths } from '@virtnet/host-ipc';
import type { ProgramKind } from './programs.js';

export interface Build {
  /** Directory, without links in its path. */
  readonly root: string;
  readonly version: string;
  /** Its Node runtime. */
  readonly node: string;
  readonly mains: Readonly<Record<ProgramKind, string>>;
  readonly controllerMain: string;
}

const DESTINATION_LINK = 'current';
const VERSIONS = 'versions';

/** The build in directory `root`. Throws when there is none. */
export function readBuild(root: string): Build {
  const real = realpathSync(root);
  const main = (name: string): string => {
    const path = join(real, 'packages', name, 'dist/main.cjs');
    if (!existsSync(path)) throw new Error(`${real} is no build: ${path} is missing`);
    return path;
  };
  const mains = { ha: main('program-ha'), emu: main('program-emu') };
  const controllerMain = main('program-controller');
  const runtime = join(real, `node_modules/node-linux-${process.arch}/bin/node`);
  return {
    root: real,
    version: packageVersion(join(real, 'packages/program-controller/package.json')),
    node: existsSync(runtime) ? runtime : process.execPath,
    mains,
    controllerMain,
  };
}

/** The build this process runs from. */
export function readRunningBuild(): Build {
  return { ...readBuild(fileURLToPath(new URL('../../..', import.meta.url))), node: process.execPath };
}

/** The build an update goes to. Throws when the link names none. */
export function readDestination(paths: VirtnetPaths, running: Build): Build {
  const installed = dirname(running.root);
  const places = [paths.opt, ...(basename(installed) === VERSIONS ? [dirname(installed)] : [])];
  for (const place of places) {
    const link = join(place, DESTINATION_LINK);
    if (isLink(link)) return readBuild(link);
  }
  return running;
}

function isLink(path: string): boolean {
  try {
    return readlinkSync(path) !== '';
  } catch {
    return false;
  }
}
