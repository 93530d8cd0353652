/** host-store.ts: the state of the emulated host as a file; it survives every process of ours. */
import { renameSync, rmSync } from 'node:fs';
import {
  freshHost,
  HOST_STATE_BYTES_MAX,
  type HostState,
  restoreHost,
  serialiseHost,
} from '@virtnet/engine-control';
import { readText, replaceText } from '@virtnet/host-ipc';
import type { HostServices } from './device-parts.js';

export class HostStore {
  readonly #path: string;
  readonly #log: HostServices['log'];

  constructor(path: string, log: HostServices['log']) {
    this.#path = path;
    this.#log = log;
  }

  /** The state; null when there is none that can be used, which is then set aside. */
  load(): HostState | null {
    let problem: string;
    try {
      const text = readText(this.#path, HOST_STATE_BYTES_MAX);
      if (text === null) return null;
      const state = restoreHost(text);
      if (typeof state !== 'string') return state;
      problem = state;
    } catch (error) {
      problem = error instanceof Error ? error.message : String(error);
    }
    this.#log('error', 'the state of the host cannot be used and is set aside', {
      path: this.#path,
      problem,
    });
    rmSync(`${this.#path}.bad`, { force: true, recursive: true });
    renameSync(this.#path, `${this.#path}.bad`);
    return null;
  }

  save(state: HostState): void {
    replaceText(this.#path, serialiseHost(state));
  }
}

/** The state a host has that booted now. */
export function bootedHost(): HostState {
  return freshHost(Date.now());
}
