/**
 * shelf-desk.ts: what the state keeper does with what its clients say.
 *
 * Theory
 *   One client at a time holds the lease and writes; its transactions are applied to the shelf and passed on to every
 *   subscriber unchanged. A client that dies leaves its last messages: they are applied before its end is noticed, and
 *   only then are subscribers told that the lease is lost. So a subscriber that hears LEASE_LOST, or whose own request
 *   for the lease is granted, knows everything the former writer ever said.
 *   A keeper that replaces a dead one starts unsettled: it is empty although the world is not. It tells no subscriber
 *   SYNCED, which would make it drop what it knows, before a writer has uploaded everything, or none came in time.
 *   One of which neither the keeper nor a client is left, but what it had, begins with that; whoever of its clients did
 *   live uploads as ever.
 *
 *   What a writer has said would be lost with a keeper that dies before it has passed it on. So subscribers hold the
 *   keeper's end of the writer's connection, too, from when the writer has said everything on it: a message stays in
 *   the connection until it was passed on, and whoever finds the keeper dead takes what is left there.
 *
 *   A writer may lend names, by prefix, to another client, which then writes them; loans end when somebody else takes
 *   the lease. It may also pass the whole lease on. Both come in the order of its transactions, so whoever hears of a
 *   loan or of a new holder knows everything the former one said about it.
 *
 * Parties
 *   writer       holds the lease; sends transactions, never waits for an answer.
 *   borrower     writes the names that were lent to it.
 *   subscribers  hear everything.
 *   owner        carries messages; reports each, and each end, in the order in which a client caused them.
 *
 * Invariants
 *   I1  a handle received is in the shelf, on its way to subscribers, or released.
 *   I2  at most one client holds the lease.
 *
 * Limits  ShelfLimits, LOANS_MAX.
 */
import {
  Errno,
  LeaseMode,
  SHELF_CONNECTION_NAME,
  SHELF_NAME_BYTES_MAX,
  ShelfMessageKind,
} from '@virtnet/wire';
import { Shelf, type ShelfEntry, type ShelfLimits, type ShelfOperation } from './shelf.js';
import { Loans, lendMessage } from './shelf-loans.js';
import type { ShelfMessage } from './shelf-message.js';

/** How long a new keeper waits for a writer before it believes that there is nothing to upload. */
export const SETTLE_WITHOUT_WRITER_MS = 3_000;
/** Between two looks whether somebody is still connected, once the time of an entry is over. */
const TTL_AGAIN_MS = 500;
/** As many names of full length as surely fit one message. */
const DELETES_PER_MESSAGE = Math.floor((128 * 1024) / (SHELF_NAME_BYTES_MAX + 16));

export interface DeskClient {
  readonly pid: number;
  /** It is owed every change. */
  subscribed: boolean;
  /** It subscribed or took the lease: it is not merely connected. */
  isClient: boolean;
}

/** What has owners, each of which lets go of it once. */
export interface SharedHandle {
  release(): void;
}

/** Told of every change of a shelf, after it was applied. */
export interface DeskObserver<H> {
  /** `operations` were applied; `left` are the entries that they replaced or removed. */
  changed(operations: readonly ShelfOperation<H>[], left: readonly ShelfEntry<H>[], restoring: boolean): void;
  /** The shelf is complete; `entries` reads it, now and later. */
  settled(entries: () => Iterable<ShelfEntry<H>>): void;
}

/** The world of a desk. */
export interface DeskPorts<H, C> {
  /** Sends behind everything that was sent to them before; handles stay the desk's. */
  send(clients: readonly C[], message: ShelfMessage<H>): void;
  /** The same for entries, as transactions. */
  sendShelf(client: C, entries: Iterable<ShelfEntry<H>>): void;
  /** Hands over every message of `client` that is there, and its end if that is. */
  readAll(client: C): void;
  /** Hands over every message of `client` that is there, and ends its connection as if the client had. */
  bury(client: C): void;
  /** A new handle of our end of the connection of `client`; null when there can be none. */
  endOf(client: C): H | null;
  /** Whether somebody is at the other end of an entry that is a connection. */
  hasPeer(entry: ShelfEntry<H>): boolean;
  nowMs(): number;
  /** Calls `action` once, in `ms` milliseconds; returns how to prevent that. */
  after(ms: number, action: () => void): () => void;
  log(level: 'info' | 'warn' | 'error', facts: Record<string, unknown>, message: string): void;
}

export interface DeskOptions<H> {
  /** It replaces a keeper that died: see Theory. */
  readonly expectUpload: boolean;
  /** What a keeper of which nobody is left had; its handles are the desk's. The shelf begins with it. */
  readonly kept?: readonly ShelfEntry<H>[];
  readonly limits?: ShelfLimits;
  readonly observer?: DeskObserver<H>;
}

export interface DeskStatus {
  readonly entries: number;
  readonly descriptors: number;
  readonly blobBytes: number;
  readonly clients: number;
  readonly subscribers: number;
  readonly leaseHolderPid: number | null;
  readonly settled: boolean;
  readonly transactions: number;
  readonly refused: number;
  readonly expired: number;
}

const NEVER = (): void => {};
const WRITER_END_NAME = 'writer';
const NO_BLOB = new Uint8Array(0);

export class ShelfDesk<H extends SharedHandle, C extends DeskClient> {
  readonly #ports: DeskPorts<H, C>;
  readonly #shelf: Shelf<H>;
  readonly #clients = new Set<C>(); // bounded by the owner
  readonly #observer: DeskObserver<H> | undefined;
  readonly #loans = new Loans();
  #writer: C | null = null;
  /** Who lent what is lent. */
  #lenderPid = 0;
  /** The observer knows that the shelf is whole; only a writer's word makes it so. */
  #observed = false;
  /** The writer has said everything on its connection, and from now on what changes. */
  #complete = false;
  /** What the writer puts came out of the service manager's store. */
  #restoring = false;
  #settled: boolean;
  #stopSettling = NEVER;
  #clientlessSinceMs: number;
  /** Stops the clock of entries that do not outlive the last client for long; null while it does not run. */
  #stopExpiry: (() => void) | null = null;
  readonly #counters = { transactions: 0, refused: 0, expired: 0 };

  constructor(ports: DeskPorts<H, C>, { expectUpload, kept = [], limits, observer }: DeskOptions<H>) {
    this.#ports = ports;
    this.#shelf = new Shelf(limits);
    this.#observer = observer;
    this.#settled = !expectUpload;
    this.#clientlessSinceMs = ports.nowMs();
    this.#begin(kept);
    if (this.#settled) this.#observeWhole();
    this.#awaitWriter();
    this.#armExpiry(0);
  }

  status(): DeskStatus {
    const clients = [...this.#clients];
    return {
      entries: this.#shelf.size,
      descriptors: this.#shelf.handles,
      blobBytes: this.#shelf.blobBytes,
      clients: clients.filter(({ isClient }) => isClient).length,
      subscribers: clients.filter(({ subscribed }) => subscribed).length,
      leaseHolderPid: this.#writer?.pid ?? null,
      settled: this.#settled,
      ...this.#counters,
    };
  }

  /** Every entry, in no order. */
  entries(): Iterable<ShelfEntry<H>> {
    return this.#shelf.entries();
  }

  /** Entries whose names begin with `prefix`, in the order of their names. */
  list(prefix: string): ShelfEntry<H>[] {
    return this.#shelf.list(prefix);
  }

  /** Lets go of everything. The observer is not told: what it mirrors outlives the keeper. */
  close(): void {
    this.#stopSettling();
    this.#stopExpiry?.();
    this.#clients.clear();
    this.#writer = null;
    for (const entry of this.#shelf.entries()) entry.handle?.release();
  }

  /** Somebody connected. */
  joined(client: C): void {
    this.#clients.add(client);
  }

  /** A message of `client`, whose handles are the desk's now. Returns what is wrong with it, or null. */
  take(client: C, message: ShelfMessage<H>): string | null {
    if (message.kind === ShelfMessageKind.TRANSACTION) {
      this.#transaction(client, message.operations);
      return null;
    }
    for (const operation of message.operations) if (operation.kind === 'put') operation.handle?.release();
    if (message.kind === ShelfMessageKind.LEND) return this.#lend(client, message);
    if (message.operations.length > 0) return `operations in a message of kind ${message.kind}`;
    switch (message.kind) {
      case ShelfMessageKind.PASS:
        this.#pass(client, message.argument);
        return null;
      case ShelfMessageKind.BURY:
        this.#bury(client, message.argument);
        return null;
      case ShelfMessageKind.SUBSCRIBE:
        return this.#subscribe(client);
      case ShelfMessageKind.LEASE:
        return this.#lease(client, message.argument);
      case ShelfMessageKind.COMPLETE:
        return this.#endUpload(client);
      default:
        return `kind ${message.kind} from a client`;
    }
  }

  /** The connection of `client` ended, and everything it ever sent was handed over. */
  left(client: C, reason: string): void {
    if (!this.#clients.delete(client)) return;
    this.#ports.log('info', { peerPid: client.pid, reason, writer: client === this.#writer }, 'client gone');
    if (client === this.#writer) {
      this.#writer = null;
      this.#complete = false;
      this.#restoring = false;
      this.#shelf.abandonUpload();
      this.#tell({ kind: ShelfMessageKind.LEASE_LOST, argument: client.pid, operations: [] });
      this.#awaitWriter();
    } else if (this.#loans.has(client.pid) && !this.#isConnected(client.pid))
      this.#tell({ kind: ShelfMessageKind.LEASE_LOST, argument: client.pid, operations: [] });
    this.#clientsChanged();
  }

  /** What is not possible any more, because limits are others, is left out. */
  #begin(kept: readonly ShelfEntry<H>[]): void {
    for (const entry of kept) {
      const operations = [{ kind: 'put' as const, ...entry }];
      const outcome = this.#shelf.apply(operations);
      if ('errno' in outcome) {
        this.#ports.log('error', { name: entry.name }, `not kept any more: ${outcome.reason}`);
        entry.handle?.release();
        continue;
      }
      this.#observer?.changed(operations, outcome.left, true);
      for (const { handle } of outcome.left) handle?.release();
    }
  }

  #transaction(client: C, operations: readonly ShelfOperation<H>[]): void {
    const outcome = this.#mayWrite(client, operations)
      ? this.#shelf.apply(operations)
      : { errno: Errno.EPERM, reason: 'neither the lease nor these names are held' };
    if ('errno' in outcome) {
      const { errno, reason } = outcome;
      this.#ports.log('error', { peerPid: client.pid, errno }, `transaction refused: ${reason}`);
      for (const operation of operations) if (operation.kind === 'put') operation.handle?.release();
      this.#refuse(client, errno);
      return;
    }
    this.#counters.transactions += 1;
    this.#observer?.changed(operations, outcome.left, this.#restoring);
    this.#tell({ kind: ShelfMessageKind.TRANSACTION, argument: 0, operations }, client);
    for (const entry of outcome.left) entry.handle?.release();
  }

  /** The writer writes what is not lent, a borrower what is lent to it. */
  #mayWrite(client: C, operations: readonly ShelfOperation<H>[]): boolean {
    if (client === this.#writer && this.#loans.size === 0) return true;
    return operations.every((operation) => {
      const name = operation.kind === 'delete-prefix' ? operation.prefix : operation.name;
      const borrower = this.#loans.borrowerOf(name);
      return borrower === null ? client === this.#writer : borrower === client.pid;
    });
  }

  #lend(client: C, message: ShelfMessage<H>): string | null {
    if (client !== this.#writer) {
      this.#refuse(client, Errno.EPERM);
      return null;
    }
    const loans = [];
    for (const operation of message.operations) {
      if (operation.kind !== 'put' || operation.handle !== null)
        return 'a loan that is not a name with a note';
      loans.push({ prefix: operation.name, note: operation.blob });
    }
    this.#lenderPid = client.pid;
    for (const { prefix, note } of loans)
      if (!this.#loans.add(prefix, message.argument, note)) return `the loan of ${prefix}`;
    this.#tell(lendMessage(message.argument, loans));
    // Whoever is not here cannot answer for it.
    if (!this.#isConnected(message.argument))
      this.#tell({ kind: ShelfMessageKind.LEASE_LOST, argument: message.argument, operations: [] });
    return null;
  }

  #pass(client: C, pid: number): void {
    if (client !== this.#writer) {
      this.#refuse(client, Errno.EPERM);
      return;
    }
    this.#loans.clear();
    this.#writer = [...this.#clients].find((other) => other.pid === pid && other.isClient) ?? null;
    this.#tell({ kind: ShelfMessageKind.LEASE_HELD, argument: pid, operations: [] });
    this.#handEnd([...this.#clients]);
    const connected = this.#writer !== null;
    this.#ports.log('info', { fromPid: client.pid, toPid: pid, connected }, 'lease passed on');
  }

  #bury(client: C, pid: number): void {
    if (pid === client.pid) return; // it has just said something
    for (const other of [...this.#clients]) if (other.pid === pid) this.#ports.bury(other);
    // Whoever asks may have been told before, of a connection that `pid` made anew: this answer is behind everything.
    this.#send(client, ShelfMessageKind.LEASE_LOST, pid);
  }

  #isConnected(pid: number): boolean {
    for (const client of this.#clients) if (client.pid === pid) return true;
    return false;
  }

  #subscribe(client: C): string | null {
    if (client.subscribed || client === this.#writer) return 'subscribed twice, or while writing';
    client.subscribed = true;
    client.isClient = true;
    this.#clientsChanged();
    this.#ports.sendShelf(client, this.#shelf.entries());
    for (const { pid, prefix, note } of this.#loans.all())
      this.#ports.send([client], lendMessage(pid, [{ prefix, note }]));
    const holder = this.#writer?.pid ?? 0;
    if (this.#settled) this.#send(client, ShelfMessageKind.SYNCED, holder);
    else if (holder !== 0) this.#send(client, ShelfMessageKind.LEASE_HELD, holder);
    this.#handEnd([client]);
    return null;
  }

  #lease(client: C, mode: number): string | null {
    const known = mode === LeaseMode.ADOPT || mode === LeaseMode.UPLOAD || mode === LeaseMode.RESTORE;
    if (!known) return `lease mode ${mode}`;
    // The former writer may be dead with its end not yet read: look, instead of refusing its successor.
    if (this.#writer !== null && this.#writer !== client) this.#ports.readAll(this.#writer);
    if (this.#writer !== null && this.#writer !== client) {
      const facts = { peerPid: client.pid, holderPid: this.#writer.pid };
      this.#ports.log('warn', facts, 'lease refused: it is held');
      this.#send(client, ShelfMessageKind.LEASE, -Errno.EBUSY);
      return null;
    }
    // What is queued for it still goes: the former writer's last words may be among it, and the grant follows them.
    client.subscribed = false;
    if (client.pid !== this.#lenderPid) this.#loans.clear();
    this.#writer = client;
    client.isClient = true;
    this.#clientsChanged();
    this.#send(client, ShelfMessageKind.LEASE, 0);
    this.#tell({ kind: ShelfMessageKind.LEASE_HELD, argument: client.pid, operations: [] });
    this.#ports.log('info', { peerPid: client.pid, mode }, 'lease granted');
    this.#restoring = mode === LeaseMode.RESTORE;
    this.#complete = false;
    if (mode !== LeaseMode.ADOPT) this.#shelf.beginUpload();
    else {
      this.#shelf.abandonUpload();
      this.#whole();
    }
    return null;
  }

  #endUpload(client: C): string | null {
    if (client !== this.#writer) return null; // its lease was refused: it has been told
    this.#remove(this.#shelf.endUpload().filter((name) => this.#loans.borrowerOf(name) === null));
    this.#whole();
    return null;
  }

  /** The writer has said everything. */
  #whole(): void {
    this.#complete = true;
    this.#observeWhole();
    this.#settle();
    this.#handEnd([...this.#clients]);
  }

  /** Has subscribers hold what the writer says, should we die before it is passed on. */
  #handEnd(clients: readonly C[]): void {
    const subscribers = clients.filter((client) => client.subscribed && client !== this.#writer);
    if (this.#writer === null || !this.#complete || subscribers.length === 0) return;
    const handle = this.#ports.endOf(this.#writer);
    if (handle === null) return;
    const put = { kind: 'put', name: WRITER_END_NAME, blob: NO_BLOB, handle, ttlWithoutHolderMs: 0 } as const;
    this.#ports.send(subscribers, {
      kind: ShelfMessageKind.WRITER_END,
      argument: this.#writer.pid,
      operations: [put],
    });
    handle.release();
  }

  /** Everything is on the shelf: subscribers may forget what they were not sent. */
  #settle(): void {
    this.#stopSettling();
    if (this.#settled) return;
    this.#settled = true;
    this.#tell({ kind: ShelfMessageKind.SYNCED, argument: this.#writer?.pid ?? 0, operations: [] });
  }

  #observeWhole(): void {
    if (this.#observed) return;
    this.#observed = true;
    this.#observer?.settled(() => this.#shelf.entries());
  }

  #awaitWriter(): void {
    this.#stopSettling();
    if (this.#settled) return;
    this.#stopSettling = this.#ports.after(SETTLE_WITHOUT_WRITER_MS, () => {
      if (this.#writer === null) this.#settle();
    });
  }

  /** Deletes `names` as a transaction of our own. */
  #remove(names: readonly string[]): void {
    for (let at = 0; at < names.length; at += DELETES_PER_MESSAGE) {
      const operations = names
        .slice(at, at + DELETES_PER_MESSAGE)
        .map((name) => ({ kind: 'delete' as const, name }));
      const outcome = this.#shelf.apply(operations);
      if ('errno' in outcome) throw new RangeError(`a delete was refused: ${outcome.reason}`);
      this.#observer?.changed(operations, outcome.left, this.#restoring);
      this.#tell({ kind: ShelfMessageKind.TRANSACTION, argument: 0, operations });
      for (const entry of outcome.left) entry.handle?.release();
    }
  }

  /** Sends to every subscriber but the one who said it. */
  #tell(message: ShelfMessage<H>, from?: C): void {
    const subscribers = [...this.#clients].filter((client) => client.subscribed && client !== from);
    if (subscribers.length > 0) this.#ports.send(subscribers, message);
  }

  #send(client: C, kind: ShelfMessageKind, argument: number): void {
    this.#ports.send([client], { kind, argument, operations: [] });
  }

  #refuse(client: C, errno: number): void {
    this.#counters.refused += 1;
    this.#send(client, ShelfMessageKind.REFUSED, -errno);
  }

  /** Starts, or stops, the clock of entries that do not outlive the last client for long. */
  #clientsChanged(): void {
    const clients = [...this.#clients].some(({ isClient }) => isClient);
    if (clients) {
      this.#stopExpiry?.();
      this.#stopExpiry = null;
    } else if (this.#stopExpiry === null) {
      this.#clientlessSinceMs = this.#ports.nowMs();
      this.#armExpiry(0);
    }
  }

  #armExpiry(passedMs: number): void {
    const ttlMs = this.#shelf.nextTtl(passedMs);
    if (ttlMs === null) return;
    const waitMs = Math.max(0, this.#clientlessSinceMs + ttlMs - this.#ports.nowMs());
    this.#stopExpiry = this.#ports.after(waitMs, () => this.#expire(ttlMs));
  }

  /** Lets go of what had `ttlMs` without a client; not of what somebody outside is still connected for. */
  #expire(ttlMs: number): void {
    const expired = this.#shelf.expired(ttlMs);
    const names = expired.filter((name) => !this.#hasPeer(name));
    if (names.length > 0) {
      this.#counters.expired += names.length;
      this.#ports.log('warn', { entries: names.length, ttlMs }, 'no client: entries let go');
      this.#remove(names);
    }
    if (names.length < expired.length)
      this.#stopExpiry = this.#ports.after(TTL_AGAIN_MS, () => this.#expire(ttlMs));
    else this.#armExpiry(ttlMs);
  }

  #hasPeer(name: string): boolean {
    const [first, second] = name.split('/');
    const entry = this.#shelf.get(`${first}/${second}/${SHELF_CONNECTION_NAME}`);
    return entry !== undefined && this.#ports.hasPeer(entry);
  }
}
