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
 *   What cannot be opened anew (a TAP, an eventfd, a socket) the manager has once. Where it moves from one entry to another,
 *   as a representor does from a function to the pool, it is on the shelf under both for a while, and the manager knows it
 *   under the first: when that is let go, it is stored again, under the name of the other. A keeper that replaced one that
 *   died meanwhile has never seen the first: it stores all again that could be it, which costs nothing, for the manager
 *   takes what it has for repetitions.
 *   While messages to the manager wait for room the log stays as it is: it never says more than the manager has or is about to
 *   read. It is written anew when all of them are sent.
 *   What there is no room for is stored as soon as there is: when something else is let go.
 *   A keeper that replaces a dead one does not know what the manager has, but its predecessor's log does: nothing is
 *   written before the upload is complete, and then what was not uploaded again is removed.
 *
 * Invariants
 *   I1  once settled, log and store say what the shelf says.
 *   I2  a descriptor is left out only while STORED_MAX others are stored. Whoever restores leaves out what it belongs to.
 *   I3  while `restoring`, what is put came out of the store: it is logged and not stored again.
 *
 * Limits  STORED_MAX descriptors; the manager's own (FileDescriptorStoreMax) is said in docs/systemd.md. What files cannot be
 *         told from (a TAP) is let go before another is stored in its place, and what moves to another entry before it is
 *         stored there: killed between these two messages, it is lost. So is a TAP that is renamed while it is under both.
 */
import { createHash } from 'node:crypto';
import { crc32, type DeskObserver, type ShelfEntry, type ShelfOperation } from '@virtnet/engine-recovery';
import {
  close,
  fileIdentity,
  reopenFile,
  type ServiceManager,
  sameOpenFile,
  tapName,
} from '@virtnet/host-linux';
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

/** A descriptor that cannot be opened anew; owned for as long as the manager has it. */
interface Single {
  readonly shared: SharedFd;
  /** What only few others have in common with it. */
  readonly key: string;
}

interface Obsolete {
  /** Number of its file. */
  readonly file: number;
  /** What only this name may stand for; null: it can be opened anew, or this keeper has never seen it. */
  readonly single: Single | null;
}

export class ShelfStore implements ShelfObserver {
  readonly #manager: StoreManager;
  readonly #log: ShelfLog;
  /** Entries that the manager has a descriptor for, with the number of its file; at most STORED_MAX. */
  readonly #stored: Map<string, number>;
  /** Stored names that nothing needs once the log says so. */
  readonly #obsolete = new Map<string, Obsolete>();
  /** By the names of their entries; at most STORED_MAX. */
  readonly #singles = new Map<string, Single>();
  /** Names of such entries, by key. */
  readonly #alike = new Map<string, Set<string>>();
  /** The manager has nothing, whatever the log says. */
  readonly #anew: boolean;
  readonly #onFull: (name: string) => void;
  readonly #most: number;
  /** What there was no room for, in the order in which it came; owned. At most what a shelf holds. */
  readonly #leftOut = new Map<string, SharedFd>();
  #settled = false;
  /** The log says less than the shelf does: messages wait. */
  #behind = false;
  #entries: () => Iterable<ShelfEntry<SharedFd>> = () => [];
  readonly #fileOf = (name: string): number => this.#stored.get(name) ?? 0;

  /** `onFull` is told the name of the first descriptor that there is no room for, and of the next once all had room. */
  constructor(
    manager: StoreManager,
    log: ShelfLog,
    onFull: (name: string) => void = () => {},
    most = STORED_MAX,
  ) {
    this.#manager = manager;
    this.#most = most;
    this.#onFull = onFull;
    this.#log = log;
    this.#stored = new Map(
      log.read().flatMap(({ name, handle }) => (handle === null ? [] : [[name, handle] as const])),
    );
    // Which of them had no room is not written down: all are let go, and stored again as they are put.
    this.#anew = this.#stored.size > most;
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
      else this.#knowSingle(name, handle);
    const filled = this.#fill();
    if (!this.#settled || this.#behind) return;
    if (filled || this.#manager.waiting > 0 || !this.#log.append(operations, this.#fileOf)) this.#writeAnew();
    else this.#letGo();
  }

  settled(entries: () => Iterable<ShelfEntry<SharedFd>>): void {
    this.#entries = entries;
    const names = new Set([...entries()].flatMap(({ name, handle }) => (handle === null ? [] : [name])));
    for (const name of [...this.#stored.keys()]) if (!names.has(name)) this.#forget(name);
    this.#fill();
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

  #store(name: string, shared: SharedFd, replaced: SharedFd | undefined): void {
    const former = this.#stored.get(name);
    const file = fileNumber(shared.fd);
    if (former === undefined && this.#stored.size >= this.#most) {
      if (this.#leftOut.size === 0) this.#onFull(name);
      this.#leftOut.get(name)?.release();
      this.#leftOut.set(name, shared.retain());
      return;
    }
    this.#leftOut.get(name)?.release(); // another one had no room
    this.#leftOut.delete(name);
    if (former !== undefined) {
      const same =
        file === 0 ? replaced !== undefined && sameOpenFile(replaced.fd, shared.fd) : file === former;
      if (same) return this.#knowSingle(name, shared);
      // Where it is not known whether the manager would take it for a repetition, it must not be one.
      const obsolete = { file: former, single: this.#takeSingle(name) };
      if (file === 0 || former === 0) this.#remove(storedName(name, former), obsolete);
      else this.#obsolete.set(storedName(name, former), obsolete);
    }
    this.#stored.set(name, file);
    const isStored = this.#takeBack(storedName(name, file), file, shared);
    const own = reopenFile(shared.fd);
    if (own < 0) this.#addSingle(name, shared, file);
    if (!isStored) this.#manager.store(storedName(name, file), own < 0 ? shared.fd : own);
    if (own >= 0) close(own);
  }

  /** Whether the manager has it still, under a name that was to be let go. */
  #takeBack(stored: string, file: number, { fd }: SharedFd): boolean {
    const obsolete = this.#obsolete.get(stored);
    if (obsolete === undefined) return false;
    this.#obsolete.delete(stored);
    const { single } = obsolete;
    if (file === 0 && (single === null || !sameOpenFile(single.shared.fd, fd))) {
      this.#remove(stored, obsolete);
      return false;
    }
    single?.shared.release();
    return true;
  }

  /** Stores what was left out, as far as there is room now. Returns whether anything was. */
  #fill(): boolean {
    const before = this.#leftOut.size;
    for (const [name, shared] of this.#leftOut) {
      if (this.#stored.size >= this.#most) break;
      this.#leftOut.delete(name);
      this.#store(name, shared, undefined);
      shared.release();
    }
    return this.#leftOut.size < before;
  }

  #forget(name: string): void {
    this.#leftOut.get(name)?.release();
    this.#leftOut.delete(name);
    const file = this.#stored.get(name);
    if (file === undefined) return;
    this.#stored.delete(name);
    this.#obsolete.set(storedName(name, file), { file, single: this.#takeSingle(name) });
  }

  #letGo(): void {
    let unseen = false;
    for (const [stored, { file, single }] of this.#obsolete) {
      unseen ||= file === 0 && single === null;
      if (file === 0 && single === null) this.#manager.remove(stored);
      else this.#remove(stored, { file, single });
    }
    this.#obsolete.clear();
    if (unseen) this.#storeAgain(0); // once for all of them: there may be a thousand
  }

  /** Has the manager let go of a stored name, and of `single` only if that is no other entry's. */
  #remove(stored: string, { file, single }: Obsolete): void {
    this.#manager.remove(stored);
    if (single === null) return this.#storeAgain(file);
    for (const name of this.#alike.get(single.key) ?? []) {
      const { fd } = this.#singles.get(name)!.shared;
      if (!sameOpenFile(fd, single.shared.fd)) continue;
      this.#manager.store(storedName(name, this.#fileOf(name)), fd);
      break;
    }
    single.shared.release();
  }

  /** Stores all again that cannot be opened anew and may be of the file with number `file`. */
  #storeAgain(file: number): void {
    const names = file === 0 ? this.#singles.keys() : (this.#alike.get(`${file}`) ?? []);
    for (const name of names) {
      if (this.#fileOf(name) !== file) continue;
      this.#manager.store(storedName(name, file), this.#singles.get(name)!.shared.fd);
    }
  }

  /** Remembers a descriptor that was stored, if it cannot be opened anew. */
  #knowSingle(name: string, shared: SharedFd): void {
    const own = reopenFile(shared.fd);
    if (own >= 0) close(own);
    else this.#addSingle(name, shared, fileNumber(shared.fd));
  }

  #addSingle(name: string, shared: SharedFd, file: number): void {
    this.#takeSingle(name)?.shared.release();
    const key = file === 0 ? `${tapName(shared.fd)}` : `${file}`;
    this.#singles.set(name, { shared: shared.retain(), key });
    const alike = this.#alike.get(key);
    if (alike === undefined) this.#alike.set(key, new Set([name]));
    else alike.add(name);
  }

  /** Forgets it; it is the caller's. */
  #takeSingle(name: string): Single | null {
    const single = this.#singles.get(name);
    if (single === undefined) return null;
    this.#singles.delete(name);
    const alike = this.#alike.get(single.key);
    alike?.delete(name);
    if (alike?.size === 0) this.#alike.delete(single.key);
    return single;
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
