/**
 * shelf-store.ts: mirrors the keeper's shelf into the service manager's descriptor store.
 *
 * Theory
 *   Descriptors go to the manager under the names of their entries; names and blobs go to a log (shelf-log.ts) in memory
 *   that the manager keeps too. When everything of ours is killed at once, the next start is handed all of it.
 *   The manager keeps several descriptors under one name, lets all of them go by it, and takes one it has already for a
 *   repetition. So a replacement is stored under a spare name first, then in the place of the former, and then the spare
 *   one goes: whatever kills us between two of these messages, the descriptor is there under one of the names, and under
 *   the spare one, if it is there, is the newer.
 *   A keeper that replaces a dead one does not know what the manager has, but its predecessor's log does: nothing is
 *   written before the upload is complete, and then what was not uploaded again is removed.
 *
 * Invariants
 *   I1  once settled, log and store say what the shelf says.
 *   I3  the manager has a descriptor of every name of the log's that has one, at any instant.
 *   I2  while `restoring`, what is put came out of the store: it is logged and not stored again.
 *
 * Limits  as the shelf's; the manager's own (FileDescriptorStoreMax) is said in docs/systemd.md.
 */
import type { DeskObserver, ShelfEntry, ShelfOperation } from '@virtnet/engine-recovery';
import type { ServiceManager } from '@virtnet/host-linux';
import type { SharedFd } from './shared-fd.js';
import type { ShelfLog } from './shelf-log.js';

/** Behind the name of an entry, of which no name has it: a descriptor that is about to be stored under that name. */
const SPARE = '~';

export const spareName = (name: string): string => `${name}${SPARE}`;
/** The entry whose spare name this is; null when it is none. */
export const nameOfSpare = (name: string): string | null =>
  name.endsWith(SPARE) ? name.slice(0, -SPARE.length) : null;

/** What a ShelfServer tells of its shelf. */
export type ShelfObserver = DeskObserver<SharedFd>;

export class ShelfStore implements ShelfObserver {
  readonly #manager: Pick<ServiceManager, 'store' | 'remove'>;
  readonly #log: ShelfLog;
  /** Names the manager has a descriptor for. Bounded by the shelf. */
  readonly #stored: Set<string>;
  #settled = false;
  #entries: () => Iterable<ShelfEntry<SharedFd>> = () => [];

  constructor(manager: Pick<ServiceManager, 'store' | 'remove'>, log: ShelfLog) {
    this.#manager = manager;
    this.#log = log;
    this.#stored = new Set(log.read().flatMap(({ name, handle }) => (handle === null ? [] : [name])));
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
      if (!restoring) this.#store(name, handle.fd);
      this.#stored.add(name);
    }
    if (this.#settled && !this.#log.append(operations)) this.#log.rewrite(this.#entries());
  }

  settled(entries: Iterable<ShelfEntry<SharedFd>>): void {
    const held = [...entries];
    const names = new Set(held.flatMap(({ name, handle }) => (handle === null ? [] : [name])));
    for (const name of [...this.#stored]) {
      if (names.has(name)) continue;
      this.#remove(name);
      this.#manager.remove(spareName(name)); // of a keeper that died over it
    }
    this.#log.rewrite(held);
    this.#settled = true;
  }

  #store(name: string, fd: number): void {
    if (!this.#stored.has(name)) {
      this.#manager.store(name, fd);
      return;
    }
    this.#manager.store(spareName(name), fd);
    this.#manager.remove(name);
    this.#manager.store(name, fd);
    this.#manager.remove(spareName(name));
  }

  #remove(name: string): void {
    if (this.#stored.delete(name)) this.#manager.remove(name);
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
