/**
 * sf-pool.ts: SFs without a VF: representors that were made ahead, or that VFs left behind, for the next VF of their number.
 *
 * Theory
 *   When VFs are destroyed their SFs are not: the representor stays where it is, in its bridge, without a carrier,
 *   and the next VF takes the lowest SF number that is free. That is the original's behaviour, and it spares the host
 *   the removal of a thousand interfaces, which takes it seconds. The descriptors lie with the state keeper, as those
 *   of functions do, so the pool outlives its process; it ends with the service. provision.ts fills it.
 *
 * Ownership
 *   A descriptor given belongs to the pool until it is taken.
 *   Who dies between a function and the pool leaves both with the representor: then it is the function's.
 *
 * Limits  the SF numbers of VFs.
 */
import { close } from '@virtnet/host-linux';
import type { DeviceStore } from './device-store.js';
import { shelfNames } from './shelf-names.js';

const EMPTY = new Uint8Array(0);

export class SfPool {
  readonly #store: DeviceStore;
  /** Queues by name of the representor. */
  readonly #taps = new Map<string, readonly number[]>();

  constructor(store: DeviceStore) {
    this.#store = store;
  }

  get names(): string[] {
    return [...this.#taps.keys()];
  }

  has(name: string): boolean {
    return this.#taps.has(name);
  }

  /** Keeps the queues of a representor, -1 where there is none. */
  give(name: string, fds: readonly number[]): void {
    this.drop(name);
    this.#taps.set(name, fds);
    this.#put(name, fds);
    this.#store.flush(this);
  }

  /** The queues of a representor, now the caller's; null when the pool has none of that name. */
  take(name: string): readonly number[] | null {
    return this.#taps.get(name) ?? null;
  }

  /** What was taken has a new owner, who has told the keeper. */
  taken(name: string): void {
    if (!this.#taps.delete(name)) return;
    this.#store.deletePrefix(this, shelfNames.pooled(name));
    this.#store.flush(this);
  }

  /** Lets go of what it has of a representor that is a function's. */
  drop(name: string): void {
    for (const fd of this.#taps.get(name) ?? []) if (fd >= 0) close(fd);
    this.taken(name);
  }

  /** Takes over what a predecessor left. */
  adopt(taps: ReadonlyMap<string, ReadonlyMap<number, number>>): void {
    for (const [name, queues] of taps) {
      const count = Math.max(...queues.keys()) + 1;
      this.#taps.set(
        name,
        Array.from({ length: count }, (_, pair) => queues.get(pair) ?? -1),
      );
    }
  }

  /** Puts everything on an empty shelf again. */
  upload(): void {
    for (const [name, fds] of this.#taps) this.#put(name, fds);
    this.#store.flush(this);
  }

  close(): void {
    for (const fds of this.#taps.values()) for (const fd of fds) if (fd >= 0) close(fd);
    this.#taps.clear();
    this.#store.deletePrefix(this, shelfNames.pool);
    this.#store.flush(this);
  }

  #put(name: string, fds: readonly number[]): void {
    for (const [pair, fd] of fds.entries()) {
      if (fd >= 0) this.#store.put(this, shelfNames.pooledTap(name, pair), EMPTY, fd);
    }
  }
}
