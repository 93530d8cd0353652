/**
 * shelf-store.ts: mirrors the keeper's shelf into the service manager's descriptor store.
 *
 * Theory
 *   Descriptors go to the manager under names made of those of their entries (storedName); names and blobs go to a log
 *   (shelf-log.ts) in memory that the manager keeps too. When everything of ours is killed at once, the next start is handed all of it.
 *   The manager keeps several descriptors under one name and lets all of them go by it. One that it has already, under
 *   whatever name, it takes for a repetition: a file, which may be kept under several names, is opened anew for each. Names are
 *   handed over in one variable of the environment, which has room for 128 KiB: they are short, and what does not fit is
 *   not stored.
 *   A name tells the file as well as the entry. So what a new keeper is told again is not stored again, and what replaces a
 *   descriptor is stored beside it: the log says which of the two counts, and only then the former is let go.
 *   While messages to the manager wait for room the log stays as it is: it never says more than the manager has or is about to
 *   read. It is written anew when all of them are sent.
 *   A keeper that replaces a dead one does not know what the manager has, but its predecessor's log does: nothing is
 *   written before the upload is complete, and then what was not uploaded again is removed.
 *
 * Invariants
 *   I1  once settled, log and store say what the shelf says.
 *   I2  while `restoring`, what is put came out of the store: it is logged and not stored again.
 *
 * Limits  STORED_MAX descriptors; the manager's own (FileDescriptorStoreMax) is said in docs/systemd.md. What files cannot be
 *         told from (a TAP) is let go before another is stored in its place: killed between these two messages, it is lost.
 */
import { createHash } from 'node:crypto';
import { crc32, type DeskObserver, type ShelfEntry, type ShelfOperation } from '@virtnet/engine-recovery';
import { close, fileIdentity, reopenFile, type ServiceManager, sameOpenFile } from '@virtnet/host-linux';
import type { SharedFd } from './shared-fd.js';
import type { ShelfLog } from './shelf-log.js';

/** 128 KiB, less the name of the variable and those of the log, by the bytes of a stored name and a colon. */
export const STORED_MAX = 16_000;
const STORED_NAME_CHARACTERS = 7;

/**
 * Under which name the manager keeps the descriptor of an entry, which is of the file with that number (0: not known). That
 * two of STORED_MAX are the same: 1 in 30,000.
 */
export const storedName = (name: string, file = 0): string =>
  createHash('sha1')
    .update(file === 0 ? name : `${name} ${file}`) // an entry's name has no blank
    .digest('base64url')
    .slice(0, STORED_NAME_CHARACTERS);

/** The number of the file behind `fd`; 0 where it cannot be told from others. */
export function fileNumber(fd: number): number {
  const identity = fileIdentity(fd);
  return identity === null ? 0 : crc32(Buffer.from(identity)) || 1;
}

/** What this needs of a service manager. */
export type StoreManager = Pick<ServiceManager, 'store' | 'remove' | 'waiting' | 'whenSent'>;

/** What a ShelfServer tells of its shelf. */
export type ShelfObserver = DeskObserver<SharedFd>;

export class ShelfStore implements ShelfObserver {
  readonly #manager: StoreManager;
  readonly #log: ShelfLog;
  /** Entries that the manager has a descriptor for, with the number of its file; at most STORED_MAX. */
  readonly #stored: Map<string, number>;
  /** Stored names that nothing needs once the log says so. */
  readonly #obsolete = new Set<string>();
  /** The manager has nothing, whatever the log says. */
  readonly #anew: boolean;
  readonly #onFull: (name: string) => void;
  #full = false;
  #settled = false;
  /** The log says less than the shelf does: messages wait. */
  #behind = false;
  #entries: () => Iterable<ShelfEntry<SharedFd>> = () => [];
  readonly #fileOf = (name: string): number => this.#stored.get(name) ?? 0;

  /** `onFull` is told the name of the first descriptor that there is no room for. */
  constructor(manager: StoreManager, log: ShelfLog, onFull: (name: string) => void = () => {}) {
    this.#manager = manager;
    this.#onFull = onFull;
    this.#log = log;
    this.#stored = new Map(
      log.read().flatMap(({ name, handle }) => (handle === null ? [] : [[name, handle] as const])),
    );
    // Which of them had no room is not written down: all are let go, and stored again as they are put.
    this.#anew = this.#stored.size > STORED_MAX;
    if (this.#anew) {
      for (const [name, file] of this.#stored) manager.remove(storedName(name, file));
      this.#stored.clear();
    }
  }

  changed(
    operations: readonly ShelfOperation<SharedFd>[],
    left: readonly ShelfEntry<SharedFd>[],
    restoring: boolean,
  ): void {
    const put = handlesPut(operations);
    const replaced = new Map<string, SharedFd>();
    for (const { name, handle } of left) {
      if (handle === null) continue;
      if (put.has(name)) replaced.set(name, handle);
      else this.#forget(name);
    }
    for (const [name, handle] of put)
      if (!restoring || !this.#stored.has(name)) this.#store(name, handle, replaced.get(name));
    if (!this.#settled || this.#behind) return;
    if (this.#manager.waiting > 0 || !this.#log.append(operations, this.#fileOf)) this.#writeAnew();
    else this.#letGo();
  }

  settled(entries: () => Iterable<ShelfEntry<SharedFd>>): void {
    this.#entries = entries;
    const names = new Set([...entries()].flatMap(({ name, handle }) => (handle === null ? [] : [name])));
    for (const name of [...this.#stored.keys()]) if (!names.has(name)) this.#forget(name);
    this.#settled = true;
    this.#writeAnew();
  }

  /** Has the log say what the shelf says, as soon as the manager was sent all of it. */
  #writeAnew(): void {
    this.#behind = true;
    this.#manager.whenSent(() => {
      this.#behind = false;
      this.#log.rewrite(this.#entries(), this.#fileOf);
      this.#letGo();
    });
  }

  #store(name: string, { fd }: SharedFd, replaced: SharedFd | undefined): void {
    const former = this.#stored.get(name);
    const file = fileNumber(fd);
    if (former === undefined && this.#stored.size >= STORED_MAX) {
      if (!this.#full) this.#onFull(name);
      this.#full = true;
      return;
    }
    if (former !== undefined) {
      const same = file === 0 ? replaced !== undefined && sameOpenFile(replaced.fd, fd) : file === former;
      if (same) return;
      // Where it is not known whether the manager would take it for a repetition, it must not be one.
      if (file === 0 || former === 0) this.#manager.remove(storedName(name, former));
      else this.#obsolete.add(storedName(name, former));
    }
    this.#stored.set(name, file);
    if (this.#obsolete.delete(storedName(name, file))) return; // taken back before it was let go
    const own = reopenFile(fd);
    this.#manager.store(storedName(name, file), own < 0 ? fd : own);
    if (own >= 0) close(own);
  }

  #forget(name: string): void {
    const file = this.#stored.get(name);
    if (file === undefined) return;
    this.#stored.delete(name);
    this.#obsolete.add(storedName(name, file));
  }

  #letGo(): void {
    for (const name of this.#obsolete) this.#manager.remove(name);
    this.#obsolete.clear();
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
