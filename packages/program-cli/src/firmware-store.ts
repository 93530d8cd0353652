/**
 * firmware-store.ts: the firmware store as a file.
 *
 * Theory
 *   The file is replaced as a whole: written under another name in the same directory, flushed, renamed, and the
 *   directory flushed. Whoever reads it sees the old document or the new one, also after a crash or a power loss. What
 *   is read is not trusted; engine-control checks it.
 *
 * Limits
 *   FIRMWARE_STORE_BYTES_MAX. Two writers at once: the last rename wins, whole.
 */
import {
  closeSync,
  constants,
  fstatSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { dirname } from 'node:path';
import {
  FIRMWARE_STORE_BYTES_MAX,
  type FirmwareProblem,
  type FirmwareStore,
  initialFirmwareStore,
  parseFirmwareStore,
  serialiseFirmwareStore,
} from '@virtnet/engine-control';

const DIRECTORY_MODE = 0o700;
const FILE_MODE = 0o600;

/** Reads the store at `path`; the initial one when there is no such file. Never throws. */
export function readFirmwareStore(path: string): { readonly store: FirmwareStore } | FirmwareProblem {
  try {
    const parsed = parseFirmwareStore(readBounded(path));
    return 'problem' in parsed ? { problem: `${path}: ${parsed.problem}` } : parsed;
  } catch (error) {
    if (isErrno(error) && error.code === 'ENOENT') return { store: initialFirmwareStore() };
    return { problem: messageOf(error) };
  }
}

/** Replaces the store at `path`; null when the new one is safely there, else why it is not. Never throws. */
export function writeFirmwareStore(path: string, store: FirmwareStore): FirmwareProblem | null {
  const directory = dirname(path);
  const draft = `${path}.${process.pid}.tmp`;
  try {
    mkdirSync(directory, { recursive: true, mode: DIRECTORY_MODE });
    rmSync(draft, { force: true });
    withFile(draft, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, (fd) => {
      writeFileSync(fd, serialiseFirmwareStore(store));
      fsyncSync(fd);
    });
    renameSync(draft, path);
    withFile(directory, constants.O_RDONLY | constants.O_DIRECTORY, fsyncSync);
    return null;
  } catch (error) {
    tryRemove(draft);
    return { problem: messageOf(error) };
  }
}

/** Removes a draft that will not be used; what stands in its way has been reported already. */
function tryRemove(path: string): void {
  try {
    rmSync(path, { force: true });
  } catch {
    // the write's own error says it
  }
}

/** Text of a regular file that is not larger than a store may be. O_NONBLOCK: a FIFO must not hold the program. */
function readBounded(path: string): string {
  return withFile(path, constants.O_RDONLY | constants.O_NONBLOCK, (fd) => {
    const stat = fstatSync(fd);
    if (!stat.isFile()) throw new TypeError(`${path}: not a regular file`);
    if (stat.size > FIRMWARE_STORE_BYTES_MAX)
      throw new RangeError(`${path}: larger than ${FIRMWARE_STORE_BYTES_MAX} bytes`);
    return readFileSync(fd, 'utf8');
  });
}

function withFile<T>(path: string, flags: number, use: (fd: number) => T): T {
  const fd = openSync(path, flags, FILE_MODE);
  try {
    return use(fd);
  } finally {
    closeSync(fd);
  }
}

function isErrno(error: unknown): error is NodeJS.ErrnoException {
  return error instanceof Error && 'code' in error;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
