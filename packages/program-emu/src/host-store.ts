/**
 * host-store.ts: the state of the emulated host as a file; it survives every process of ours.
 *
 * Theory
 *   What the host wants is written before the functions follow it (`save`), and where that fails nothing has happened.
 *   What has happened is noted (`keep`): should that fail it is said, and tried again until it is written, or something
 *   newer is.
 */
import { renameSync, rmSync } from 'node:fs';
import {
  freshHost,
  HOST_STATE_BYTES_MAX,
  type HostState,
  type Outcome,
  restoreHost,
  serialiseHost,
} from '@virtnet/engine-control';
import { messageOf, readText, replaceText } from '@virtnet/host-ipc';
import { Errno } from '@virtnet/wire';
import type { HostServices } from './device-parts.js';

/** Until what could not be written is tried again, in milliseconds. */
const AGAIN_MS = 1_000;

/** The state of the host cannot be written, for the reason that the message gives. */
export class HostStateError extends Error {
  override readonly name = 'HostStateError';
}

/** What a request is answered that ended in `error`, which is thrown again when it is another. */
export function hostStateFailure(error: unknown): Outcome {
  if (error instanceof HostStateError) return { errno: -Errno.EIO, errstr: error.message };
  throw error;
}

export class HostStore {
  readonly #path: string;
  readonly #log: HostServices['log'];
  readonly #isOurs: () => boolean;
  /** What is not written yet. */
  #unwritten: HostState | null = null;
  #waits = false;

  /** `isOurs`: nobody else writes the file. */
  constructor(path: string, log: HostServices['log'], isOurs: () => boolean = () => true) {
    this.#path = path;
    this.#log = log;
    this.#isOurs = isOurs;
  }

  /** The state, written or not; null when there is none that can be used, which is then set aside. */
  load(): HostState | null {
    if (this.#unwritten !== null) return this.#unwritten;
    let problem: string;
    try {
      const text = readText(this.#path, HOST_STATE_BYTES_MAX);
      if (text === null) return null;
      const state = restoreHost(text);
      if (typeof state !== 'string') return state;
      problem = state;
    } catch (error) {
      problem = messageOf(error);
    }
    this.#log('error', 'the state of the host cannot be used and is set aside', {
      path: this.#path,
      problem,
    });
    try {
      rmSync(`${this.#path}.bad`, { force: true, recursive: true });
      renameSync(this.#path, `${this.#path}.bad`);
    } catch (error) {
      const facts = { path: this.#path, reason: messageOf(error) };
      this.#log('error', 'it cannot be set aside either', facts);
    }
    return null;
  }

  /** Writes what is going to be done. Throws a HostStateError when it is not safely there; then the former state is. */
  save(state: HostState): void {
    try {
      replaceText(this.#path, serialiseHost(state));
    } catch (error) {
      throw new HostStateError(messageOf(error), { cause: error });
    }
    this.#unwritten = null;
  }

  /** Writes what has happened, now or as soon as that is possible. */
  keep(state: HostState): void {
    const failedBefore = this.#unwritten !== null;
    try {
      this.save(state);
      return;
    } catch (error) {
      if (!failedBefore) {
        const facts = { path: this.#path, reason: messageOf(error) };
        this.#log('error', 'the state of the host cannot be written; it is tried again', facts);
      }
    }
    this.#unwritten = state;
    this.#later();
  }

  #later(): void {
    if (this.#waits) return;
    this.#waits = true;
    const again = () => {
      this.#waits = false;
      if (this.#unwritten !== null && this.#isOurs()) this.keep(this.#unwritten);
    };
    setTimeout(again, AGAIN_MS).unref();
  }
}

/** The state a host has that booted now. */
export function bootedHost(): HostState {
  return freshHost(Date.now());
}
