/** pid-files.ts: one file per process in run/virtnet, replaced atomically, never half written. */
import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import type { PidFileName, VirtnetPaths } from '@virtnet/host-ipc';

export class PidFiles {
  readonly #paths: VirtnetPaths;
  readonly #written = new Map<PidFileName, number | null>(); // at most one per name

  constructor(paths: VirtnetPaths) {
    this.#paths = paths;
  }

  /** Makes the file say `pid`; null removes it. Does nothing when it says so already. */
  set(name: PidFileName, pid: number | null): void {
    if (this.#written.get(name) === pid) return;
    const path = this.#paths.pidFile(name);
    if (pid === null) rmSync(path, { force: true });
    else {
      writeFileSync(`${path}.new`, `${pid}\n`);
      renameSync(`${path}.new`, path);
    }
    this.#written.set(name, pid);
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
