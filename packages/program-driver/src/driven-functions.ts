/**
 * driven-functions.ts: which functions are driven: those that the state of the host binds to virtio-pci.
 *
 * Theory
 *   The state of the host is a file that the service writes before anything follows it. It is read again whenever it
 *   changes, and what is driven is made to agree with it: so it does not matter who died and came back meanwhile, and
 *   nothing is asked of the service but the functions themselves.
 *   A function that could not be taken stays on record with the reason, and is tried again at the next change. Until its
 *   binding is taken back, there is something to wait for.
 *
 * Invariants
 *   I1  an address is driven at most once; one change is followed to its end before the next.
 *   I2  a file that cannot be read changes nothing.
 *
 * Limits  BINDS_AT_ONCE functions are taken at the same time.
 */
import { availableParallelism } from 'node:os';
import { type BindFailure, HostNetdev, SerialQueue } from '@virtnet/driver-virtio-net';
import { canonicalBdf, HOST_STATE_BYTES_MAX, netdevName, restoreHost } from '@virtnet/engine-control';
import { type Logger, readText, type VirtnetPaths } from '@virtnet/host-ipc';
import type { Poller } from '@virtnet/host-linux';

const BINDS_AT_ONCE = 8;

export interface DrivenFunctionsOptions {
  readonly paths: VirtnetPaths;
  readonly poller: Poller;
  readonly log: Logger;
}

/** A function as the caller is told of it. */
export interface Driven {
  readonly bdf: string;
  readonly netdev: string | null;
  readonly failure: BindFailure | null;
}

export class DrivenFunctions {
  readonly #options: DrivenFunctionsOptions;
  readonly #serial = new SerialQueue();
  readonly #driven = new Map<string, HostNetdev>();
  readonly #failures = new Map<string, BindFailure>();
  #loaded = false;
  #closed = false;

  constructor(options: DrivenFunctionsOptions) {
    this.#options = options;
  }

  /** Whether there is nothing to do and nothing to wait for. */
  get idle(): boolean {
    return !this.#loaded && this.#driven.size === 0 && this.#failures.size === 0;
  }

  /** Makes what is driven agree with the state of the host; once closed, nothing is driven any more. */
  follow(): Promise<Driven[]> {
    return this.#serial.run(async () => {
      const wanted = this.#closed ? null : this.#wanted();
      if (wanted !== null) await this.#agreeWith(wanted);
      return this.#list();
    });
  }

  /** The interface of a function, by its name, or by the function's address with or without domain. */
  find(device: string): { readonly bdf: string; readonly netdev: HostNetdev } | null {
    const address = canonicalBdf(device);
    for (const [bdf, netdev] of this.#driven)
      if (bdf === address || netdev.name === device) return { bdf, netdev };
    return null;
  }

  /** Lets go of all functions, for good. */
  close(): Promise<void> {
    this.#closed = true;
    return this.#serial.run(() => this.#agreeWith(new Set()));
  }

  #wanted(): ReadonlySet<string> | null {
    const { paths, log } = this.#options;
    let problem: string;
    try {
      const text = readText(paths.hostState, HOST_STATE_BYTES_MAX);
      const state = text === null ? 'there is none' : restoreHost(text);
      if (typeof state !== 'string') {
        this.#loaded = state.virtioNet;
        const bound = Object.entries(state.drivers).filter(([, driver]) => driver === 'virtio-pci');
        return new Set(bound.map(([bdf]) => bdf));
      }
      problem = state;
    } catch (error) {
      problem = error instanceof Error ? error.message : String(error);
    }
    log.error({ problem }, 'the state of the host cannot be read');
    return null;
  }

  async #agreeWith(wanted: ReadonlySet<string>): Promise<void> {
    const gone = [...this.#driven.keys()].filter((bdf) => !wanted.has(bdf));
    await Promise.all(gone.map((bdf) => this.#release(bdf)));
    this.#failures.clear();
    const missing = [...wanted].filter((bdf) => !this.#driven.has(bdf));
    const takeNext = async (): Promise<void> => {
      for (let bdf = missing.shift(); bdf !== undefined; bdf = missing.shift()) await this.#take(bdf);
    };
    await Promise.all(Array.from({ length: BINDS_AT_ONCE }, takeNext));
  }

  async #take(bdf: string): Promise<void> {
    const { paths, poller, log } = this.#options;
    const netdev = new HostNetdev({
      socket: paths.pciSocket(`0000:${bdf}`),
      name: netdevName(bdf),
      pairs: availableParallelism(),
      poller,
      onState: (text, error) => log[error ? 'error' : 'info']({ bdf }, text),
    });
    const failure = await netdev.bind();
    if (failure === null) this.#driven.set(bdf, netdev);
    else this.#failures.set(bdf, failure);
  }

  async #release(bdf: string): Promise<void> {
    await this.#driven.get(bdf)?.unbind();
    this.#driven.delete(bdf);
  }

  #list(): Driven[] {
    return [
      ...[...this.#driven].map(([bdf, { name }]) => ({ bdf, netdev: name, failure: null })),
      ...[...this.#failures].map(([bdf, failure]) => ({ bdf, netdev: null, failure })),
    ];
  }
}
