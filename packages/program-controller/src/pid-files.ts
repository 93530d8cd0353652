/**
 * pid-files.ts: one file per process in run/virtnet, replaced atomically, never half written.
 *
 * Theory
 *   Others read these files; the service does not need them to serve. Where one cannot be written, because the file system
 *   is full, say, that is logged once, no file is there rather than one that names a dead process, and it is written when
 *   `set` is called for it again.
 */
import { readFileSync, rmSync } from 'node:fs';
import { type Logger, type PidFileName, replaceVolatile, type VirtnetPaths } from '@virtnet/host-ipc';

export class PidFiles {
  readonly #paths: VirtnetPaths;
  readonly #log: Pick<Logger, 'warn'>;
  readonly #written = new Map<PidFileName, number | null>(); // at most one per name
  readonly #failing = new Set<PidFileName>();

  constructor(paths: VirtnetPaths, log: Pick<Logger, 'warn'>) {
    this.#paths = paths;
    this.#log = log;
  }

  /** Makes the file say `pid`; null removes it. Does nothing when it says so already. Never throws. */
  set(name: PidFileName, pid: number | null): void {
    if (this.#written.get(name) === pid) return;
    const path = this.#paths.pidFile(name);
    try {
      if (pid === null) rmSync(path, { force: true });
      else replaceByRoom(path, `${pid}\n`);
      this.#written.set(name, pid);
      this.#failing.delete(name);
    } catch (error) {
      this.#written.delete(name);
      if (!this.#failing.has(name)) this.#log.warn({ path, error }, 'a pid file cannot be written for now');
      this.#failing.add(name);
    }
  }

  /** The pid in the file, also one that a former controller wrote; null when there is none. */
  read(name: PidFileName): number | null {
    try {
      const pid = Number(readFileSync(this.#paths.pidFile(name), 'utf8').trim());
      return Number.isSafeInteger(pid) && pid > 1 ? pid : null;
    } catch {
      return null;
    }
  }
}

/** Where there is no room for two of it, the former goes first. */
function replaceByRoom(path: string, text: string): void {
  try {
    replaceVolatile(path, text);
  } catch {
    rmSync(path, { force: true });
    replaceVolatile(path, text);
  }
}
