/**
 * text-file.ts: small text files that are read with suspicion and replaced as a whole.
 *
 * Theory
 *   A file is replaced by writing another one in the same directory, flushing it, renaming it, and flushing the
 *   directory. Whoever reads it sees the old text or the new one, also after a crash or a power loss. Two writers at
 *   once: the last rename wins, whole.
 *   The service may run as a user of its own while an operator's commands run as root: what root replaces keeps its
 *   owner, and what root makes is the directory's owner's.
 */
import {
  closeSync,
  constants,
  fchownSync,
  fstatSync,
  fsyncSync,
  linkSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { hasCode } from './fault-text.js';

const DIRECTORY_MODE = 0o700;
const FILE_MODE = 0o600;
const ROOT = 0;

/**
 * Text of the regular file at `path`, null when there is none. Throws when it is something else, or larger than
 * `bytesMax`. O_NONBLOCK: a FIFO must not hold the program.
 */
export function readText(path: string, bytesMax: number): string | null {
  try {
    return withFile(path, constants.O_RDONLY | constants.O_NONBLOCK, (fd) => {
      const stat = fstatSync(fd);
      if (!stat.isFile()) throw new TypeError(`${path}: not a regular file`);
      if (stat.size > bytesMax) throw new RangeError(`${path}: larger than ${bytesMax} bytes`);
      return readFileSync(fd, 'utf8');
    });
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return null;
    throw error;
  }
}

/**
 * Makes an empty file at `path` unless there is one, for whom the file at `like` is, or will be. It is there with its
 * owner or not at all. Throws when it cannot be made.
 */
export function makeEmptyFile(path: string, like: string): void {
  const draft = `${path}.${process.pid}.tmp`;
  try {
    mkdirSync(dirname(path), { recursive: true, mode: DIRECTORY_MODE });
    rmSync(draft, { force: true });
    withFile(draft, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, (fd) => {
      if (process.getuid?.() === ROOT) keepOwner(fd, like);
    });
    linkSync(draft, path);
  } catch (error) {
    if (!hasCode(error, 'EEXIST')) throw error;
  } finally {
    tryRemove(draft);
  }
}

/** Replaces the file at `path`, whose directory is made when missing. Throws when the new text is not safely there. */
export function replaceText(path: string, text: string): void {
  const directory = dirname(path);
  const draft = `${path}.${process.pid}.tmp`;
  try {
    mkdirSync(directory, { recursive: true, mode: DIRECTORY_MODE });
    rmSync(draft, { force: true });
    withFile(draft, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, (fd) => {
      writeFileSync(fd, text);
      if (process.getuid?.() === ROOT) keepOwner(fd, path);
      fsyncSync(fd);
    });
    renameSync(draft, path);
    withFile(directory, constants.O_RDONLY | constants.O_DIRECTORY, fsyncSync);
  } catch (error) {
    tryRemove(draft);
    throw naming(path, error);
  }
}

/**
 * The same of a file in a directory that no boot survives: nobody waits for a disk. Throws when there is no room for it; the
 * former one is there then.
 */
export function replaceVolatile(path: string, text: string, mode = 0o666): void {
  const draft = `${path}.new`;
  try {
    writeFileSync(draft, text, { mode });
    renameSync(draft, path);
  } catch (error) {
    rmSync(draft, { force: true });
    throw error;
  }
}

/** An error about a descriptor (no space left on device) does not say which file it is. */
function naming(path: string, error: unknown): unknown {
  if (error instanceof Error && !error.message.includes(path)) error.message = `${path}: ${error.message}`;
  return error;
}

/** Writes a file that nobody's work depends on; where it cannot be written that is logged. */
export function tryWriteText(
  path: string,
  text: string,
  log: { warn(facts: object, message: string): void },
): void {
  try {
    writeFileSync(path, text);
  } catch (error) {
    log.warn({ path, error }, 'cannot be written');
  }
}

function keepOwner(fd: number, path: string): void {
  const { uid, gid } = statSync(path, { throwIfNoEntry: false }) ?? statSync(dirname(path));
  fchownSync(fd, uid, gid);
}

/** Removes a draft that will not be used; what stands in its way has been reported already. */
function tryRemove(path: string): void {
  try {
    rmSync(path, { force: true });
  } catch {
    // the write's own error says it
  }
}

function withFile<T>(path: string, flags: number, use: (fd: number) => T): T {
  const fd = openSync(path, flags, FILE_MODE);
  try {
    return use(fd);
  } finally {
    closeSync(fd);
  }
}
