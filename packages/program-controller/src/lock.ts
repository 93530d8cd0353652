/**
 * lock.ts: one controller per root.
 *
 * Whoever does not get it is told the pid in the file, which is there if there was room for it.
 *
 * The lock is the kernel's, on an open file: it ends with the process however that ends, and a stale file means
 * nothing. Children do not inherit it: Node opens files close-on-exec.
 */
import { closeSync, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs';
import { getSystemErrorMessage } from 'node:util';
import { lockFile } from '@virtnet/host-linux';
import { Errno } from '@virtnet/wire';

const LOCK_FILE_MODE = 0o600;

/** Takes the lock or says who has it. Throws when locking itself fails. */
export function takeLock(path: string): { release(): void } | { readonly holder: string } {
  const fd = openSync(path, 'a+', LOCK_FILE_MODE);
  const result = lockFile(fd);
  if (result === 0) {
    try {
      ftruncateSync(fd);
      writeSync(fd, `${process.pid}\n`);
    } catch {
      // The lock is ours all the same.
    }
    return { release: () => closeSync(fd) };
  }
  closeSync(fd);
  if (result === -Errno.EAGAIN) return { holder: readFileSync(path, 'utf8').trim() || 'unknown' };
  throw new Error(`cannot lock ${path}: ${getSystemErrorMessage(result)}`);
}
