/**
 * firmware-update.ts: changes of the firmware store, one after the other.
 *
 * Theory
 *   Three programs change the store: virtnet-mlxconfig what holds at the next boot, an emulator at a power cycle what
 *   holds now, and a start of the controller the word that recovery files are obsolete. The store is written whole, so
 *   whoever wrote what it had read a while ago would undo what the others did meanwhile. Each change is therefore made
 *   to the store that is there at that moment, under a lock.
 *   The lock is the kernel's, on an empty file beside the store, and ends with the process that has it. The store cannot
 *   be locked itself, since another file takes its place. The lock's file is never removed: somebody may be about to
 *   lock it. It is owned by whoever owns the store, so root and the service can both lock it.
 *
 * Invariants
 *   I1  nobody waits for anything while he has the lock.
 *   I2  a change that is refused, or cannot be written, leaves the store as it is.
 *
 * Limits  FIRMWARE_LOCK_WAIT_MS.
 */
import { closeSync, constants, openSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { getSystemErrorMessage } from 'node:util';
import type { FirmwareProblem, FirmwareStore } from '@virtnet/engine-control';
import { lockFile } from '@virtnet/host-linux';
import { Errno } from '@virtnet/wire';
import { hasCode, messageOf } from './fault-text.js';
import { readFirmwareStore, writeFirmwareStore } from './firmware-store.js';
import { makeEmptyFile } from './text-file.js';

/** How long a change waits for others, in milliseconds. Each takes a few: whoever has the lock so long is stuck. */
export const FIRMWARE_LOCK_WAIT_MS = 5000;
const ASK_AGAIN_MS = 10;

/** A store, or why there is none. */
export type FirmwareOutcome = { readonly store: FirmwareStore } | FirmwareProblem;

/**
 * Puts what `change` makes of the store at `path` in its place. The new store, when it is safely there; otherwise why it is
 * not: what `change` says, or what is wrong with the file or its lock, after `waitMs` at the latest. Never rejects unless
 * `change` throws.
 */
export async function updateFirmwareStore(
  path: string,
  change: (store: FirmwareStore) => FirmwareOutcome,
  waitMs: number = FIRMWARE_LOCK_WAIT_MS,
): Promise<FirmwareOutcome> {
  const lock = await takeLock(`${path}.lock`, path, waitMs);
  if (typeof lock !== 'number') return lock;
  try {
    const read = readFirmwareStore(path);
    if ('problem' in read) return read;
    const changed = change(read.store);
    if ('problem' in changed) return changed;
    return writeFirmwareStore(path, changed.store) ?? { store: changed.store };
  } finally {
    closeSync(lock);
  }
}

/** A descriptor that has the lock until it is closed. */
async function takeLock(path: string, store: string, waitMs: number): Promise<number | FirmwareProblem> {
  let fd: number;
  try {
    fd = openLock(path, store);
  } catch (error) {
    return { problem: messageOf(error) };
  }
  const end = performance.now() + waitMs;
  for (;;) {
    const result = lockFile(fd);
    if (result === 0) return fd;
    if (result === -Errno.EAGAIN && performance.now() < end) {
      await sleep(ASK_AGAIN_MS);
      continue;
    }
    closeSync(fd);
    if (result !== -Errno.EAGAIN) return { problem: `${path}: ${getSystemErrorMessage(result)}` };
    const held = `another process has had the lock for ${waitMs / 1000} seconds`;
    return { problem: `${path}: ${held}. Remedy: lslocks shows which one; end it, and try again.` };
  }
}

/** Opens the lock's file, which is made when it is missing. Without O_CREAT: what is there need not be ours. */
function openLock(path: string, store: string): number {
  const flags = constants.O_RDWR | constants.O_NONBLOCK | constants.O_NOFOLLOW;
  try {
    return openSync(path, flags);
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw error;
  }
  makeEmptyFile(path, store);
  return openSync(path, flags);
}
