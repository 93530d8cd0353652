/**
 * setup.ts: everything a fresh machine lacks, and nothing when nothing is missing.
 *
 * Theory
 *   Each step looks first and works only where something is missing or outdated, so demo and tests call it every
 *   time. A lock keeps two of them from installing at once.
 *
 * Invariants
 *   I1  quiet when nothing was missing.
 *   I2  the machine is changed only by apt-get install of the packages listed in debian.ts, as root; everything else
 *       stays in the checkout.
 */

import { spawnSync } from 'node:child_process';
import { accessSync, closeSync, constants, mkdirSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { ensurePackageLists, ensurePackages, type peers } from './debian.ts';
import { type GuestImage, guestImage } from './guest-image.ts';
import { build, ensureNpmPackages } from './npm.ts';
import { cache } from './paths.ts';
import { SetupError } from './shell.ts';
import { ensureSystemdRoot } from './systemd-root.ts';

export type Part = 'npm' | 'build' | 'guest' | 'dpdk' | 'shells' | 'systemd';
export const parts: readonly Part[] = ['npm', 'build', 'guest', 'dpdk', 'shells', 'systemd'];

/** Sees to it that `wanted` is there. Throws SetupError with what the user has to do. */
export function setup(wanted: readonly Part[], say: (line: string) => void): { guest: GuestImage | null } {
  const unlock = lock();
  try {
    if (wanted.includes('npm')) ensureNpmPackages(say);
    if (wanted.includes('build')) build();
    const groups = (['guest', 'dpdk', 'shells', 'systemd'] as const satisfies (keyof typeof peers)[]).filter(
      (group) => wanted.includes(group),
    );
    ensurePackages(groups, say);
    if (wanted.includes('systemd')) ensureSystemdRoot(say);
    return { guest: wanted.includes('guest') ? ensureGuest(say) : null };
  } finally {
    unlock();
  }
}

function ensureGuest(say: (line: string) => void): GuestImage {
  try {
    return guestImage(() => {
      throw new Incomplete();
    });
  } catch (error) {
    if (!(error instanceof Incomplete)) throw error;
  }
  ensurePackageLists(say); // the kernel is downloaded with apt-get
  return guestImage(say);
}

class Incomplete extends Error {}

/** Waits for other setups of this checkout. The lock is the kernel's: it goes with the process. */
function lock(): () => void {
  try {
    mkdirSync(cache, { recursive: true });
    accessSync(cache, constants.W_OK);
  } catch {
    return () => {}; // somebody else's checkout: what is there can be used, missing pieces will be reported
  }
  const fd = openSync(join(cache, 'setup.lock'), 'a');
  const result = spawnSync('flock', ['3'], { stdio: ['ignore', 'inherit', 'inherit', fd] });
  if (result.status !== 0) throw new SetupError('cannot lock .cache/setup.lock');
  return () => closeSync(fd);
}
