/**
 * shelf-store.ts: mirrors the keeper's shelf into the service manager's descriptor store.
 *
 * Theory
 *   Descriptors go to the manager under names made of those of their entries (storedName); names and blobs go to a log
 *   (shelf-log.ts) in memory that the manager keeps too. When everything of ours is killed at once, the next start is handed all of it.
 *   The manager keeps several descriptors under one name and lets all of them go by it. One that it has already, under
 *   whatever name, it takes for a repetition: so a replaced one is let go before the next is stored, and a file, which may
 *   be kept under several names, is opened anew for each. Names are handed over in one variable of the environment, which has
 *   room for 128 KiB: they are short, and what does not fit is not stored.
 *   A keeper that replaces a dead one does not know what the manager has, but its predecessor's log does: nothing is
 *   written before the upload is complete, and then what was not uploaded again is removed.
 *
 * Invariants
 *   I1  once settled, log and store say what the shelf says.
 *   I2  while `restoring`, what is put came out of the store: it is logged and not stored again.
 *
 * Limits  STORED_MAX descriptors; the manager's own (FileDescriptorStoreMax) is said in docs/systemd.md. Killed between two
 *         messages, microseconds apart, a descriptor that is just being replaced is lost.
 */
import { createHash } from 'node:crypto';
import type { DeskObserver, ShelfEntry, ShelfOperation } from '@virtnet/engine-recovery';
import { close, reopenFile, type ServiceManager } from '@virtnet/host-linux';
import type { SharedFd } from './shared-fd.js';
import type { ShelfLog } from './shelf-log.js';

/** 128 KiB, less the name of the variable and those of the log, by the bytes of a stored name and a colon. */
export const STORED_MAX = 16_000;
const STORED_NAME_CHARACTERS = 7;

/** Under which name the manager keeps the descriptor of an entry. That two of STORED_MAX are the same: 1 in 30,000. */
export const storedName = (name: string): string =>
  createHash('sha1').update(name).digest('base64url').slice(0, STORED_NAME_CHARACTERS);

/** What a ShelfServer tells of its shelf. */
export type ShelfObserver = DeskObserver<SharedFd>;

export class ShelfStore implements ShelfObserver {
  readonly #manager: Pick<ServiceManager, 'store' | 'remove'>;
  readonly #log: ShelfLog;
  /** Names the manager has a descriptor for; at most STORED_MAX. */
  readonly #stored: Set<string>;
  /** The manager has nothing, whatever the log says. */
  readonly #anew: boolean;
  readonly #onFull: (name: string) => void;
  #full = false;
  #settled = false;
  #entries: () => Iterable<ShelfEntry<SharedFd>> = () => [];

  /** `onFull` is told the name of the first descriptor that there is no room for. */
  constructor(
    manager: Pick<ServiceManager, 'store' | 'remove'>,
    log: ShelfLog,
    onFull: (name: string) => void = () => {},
  ) {
    this.#manager = manager;
    this.#onFull = onFull;
    this.#log = log;
    const logged = log.read().flatMap(({ name, handle }) => (handle === null ? [] : [name]));
    this.#stored = new Set(logged);
    // Which of them had no room is not written down: all are let go, and stored again as they are put.
    this.#anew = logged.length > STORED_MAX;
    if (this.#anew) for (const name of logged) this.#remove(name);
  }

  /** Where the whole shelf can be read when the log has to be written anew. */
  attach(entries: () => Iterable<ShelfEntry<SharedFd>>): void {
    this.#entries = entries;
  }

  changed(
    operations: readonly ShelfOperation<SharedFd>[],
    left: readonly ShelfEntry<SharedFd>[],
    restoring: boolean,
  ): void {
    const put = handlesPut(operations);
    for (const { name, handle } of left) {
      if (handle !== null && !put.has(name)) this.#remove(name);
    }
    for (const [name, handle] of put) {
      if (restoring && !this.#anew) this.#stored.add(name);
      else this.#store(name, handle.fd);
    }
    if (this.#settled && !this.#log.append(operations)) this.#log.rewrite(this.#entries());
  }

  settled(entries: Iterable<ShelfEntry<SharedFd>>): void {
    const held = [...entries];
    const names = new Set(held.flatMap(({ name, handle }) => (handle === null ? [] : [name])));
    for (const name of [...this.#stored]) if (!names.has(name)) this.#remove(name);
    this.#log.rewrite(held);
    this.#settled = true;
  }

  #store(name: string, fd: number): void {
    if (!this.#stored.has(name) && this.#stored.size >= STORED_MAX) {
      if (!this.#full) this.#onFull(name);
      this.#full = true;
      return;
    }
    if (this.#stored.has(name)) this.#manager.remove(storedName(name));
    const own = reopenFile(fd);
    this.#manager.store(storedName(name), own < 0 ? fd : own);
    if (own >= 0) close(own);
    this.#stored.add(name);
  }

  #remove(name: string): void {
    if (this.#stored.delete(name)) this.#manager.remove(storedName(name));
  }
}

/** The descriptors that a transaction leaves behind, by name. */
function handlesPut(operations: readonly ShelfOperation<SharedFd>[]): Map<string, SharedFd> {
  const put = new Map<string, SharedFd>();
  for (const operation of operations) {
    if (operation.kind === 'delete-prefix') {
      for (const name of [...put.keys()]) if (name.startsWith(operation.prefix)) put.delete(name);
    } else if (operation.kind === 'delete' || operation.handle === null) put.delete(operation.name);
    else put.set(operation.name, operation.handle);
  }
  return put;
}
