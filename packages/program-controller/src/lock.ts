/**
 * lock.ts: one controller per root.
 *
 * Whoever does not get it is told the pid in the file, which is there if there was room for it.
 *
 * The lock is the kernel's, on an open file: it ends with the process however that ends, and a stale file means
 * nothing. Node cannot lock files; flock(1) of util-linux locks the open file that we hand it and leaves, and the
 * lock stays with our descriptor. Children do not inherit it: Node opens files close-on-exec.
 */
import { spawnSync } from 'node:child_process';
import { closeSync, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs';

const LOCK_FILE_MODE = 0o600;
/** flock(1), when somebody else has the lock. */
const FLOCK_HELD = 1;

/** Takes the lock or says who has it. Throws when locking itself fails. */
export function takeLock(path: string): { release(): void } | { readonly holder: string } {
  const fd = openSync(path, 'a+', LOCK_FILE_MODE);
  const { status, error, stderr } = spawnSync('flock', ['-n', '3'], {
    stdio: ['ignore', 'ignore', 'pipe', fd],
  });
  if (status === 0) {
    try {
      ftruncateSync(fd);
      writeSync(fd, `${process.pid}\n`);
    } catch {
      // The lock is ours all the same.
    }
    return { release: () => closeSync(fd) };
  }
  closeSync(fd);
  if (status === FLOCK_HELD) return { holder: readFileSync(path, 'utf8').trim() || 'unknown' };
  throw new Error(`cannot lock ${path}: ${error?.message ?? stderr.toString().trim()}`);
}
