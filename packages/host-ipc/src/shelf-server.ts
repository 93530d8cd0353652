/**
 * shelf-server.ts: the state keeper's end of the descriptor channel.
 *
 * Theory
 *   One client at a time holds the lease and writes; its transactions are applied to the shelf and passed on to every
 *   subscriber unchanged. A client that dies leaves its last messages in our socket: they are applied before its end is
 *   noticed, and only then are subscribers told that the lease is lost. So a subscriber that hears LEASE_LOST, or whose
 *   own request for the lease is granted, knows everything the former writer ever said.
 *   A keeper that replaces a dead one starts unsettled: it is empty although the world is not. It tells no subscriber
 *   SYNCED, which would make it drop what it knows, before a writer has uploaded everything, or none came in time.
 *
 *   A writer may lend names, by prefix, to another client, which then writes them; loans end when somebody else takes
 *   the lease. It may also pass the whole lease on. Both come in the order of its transactions, so whoever hears of a
 *   loan or of a new holder knows everything the former one said about it.
 *
 * Parties
 *   writer       holds the lease; sends transactions, never waits for an answer.
 *   borrower     writes the names that were lent to it.
 *   subscribers  hear everything; may be slow, stopped or hostile: they get a bounded queue and are dropped past it.
 *   strangers    another user's processes: refused by their credentials.
 *
 * States of a connection   open -> subscribed | writing -> closed. A malformed message closes it.
 *
 * Invariants
 *   I1  a descriptor received is in the shelf, in an outbox, or closed; none is left when close() returns.
 *   I2  at most one connection holds the lease.
 *   I3  no client can make the keeper wait for it.
 *
 * Limits  CLIENTS_MAX connections, MESSAGES_PER_TURN per connection and loop turn, ShelfOutbox, ShelfLimits.
 */
import { rmSync } from 'node:fs';
import { Shelf, type ShelfEntry, type ShelfLimits, type ShelfOperation } from '@virtnet/engine-recovery';
import {
  accept,
  close,
  closeAll,
  isPeerGone,
  listen,
  type Poller,
  peerCredentials,
  setSendBuffer,
} from '@virtnet/host-linux';
import {
  Errno,
  LeaseMode,
  SHELF_CONNECTION_NAME,
  SHELF_NAME_BYTES_MAX,
  ShelfMessageKind,
} from '@virtnet/wire';
import type { Logger } from './logging.js';
import { SharedFd } from './shared-fd.js';
import {
  decodeShelfMessage,
  type EncodedShelfMessage,
  encodeShelfMessage,
  type ShelfMessage,
} from './shelf-codec.js';
import { SHELF_SEND_BUFFER_BYTES, ShelfConnection } from './shelf-connection.js';
import { Loans, lendMessage } from './shelf-loans.js';
import type { ShelfObserver } from './shelf-store.js';

/** Two emulators, their successors during an update, and tools that look. */
export const CLIENTS_MAX = 16;
/** How long a new keeper waits for a writer before it believes that there is nothing to upload. */
export const SETTLE_WITHOUT_WRITER_MS = 3_000;

export interface ShelfServerOptions {
  readonly path: string;
  readonly poller: Poller;
  readonly log?: Logger;
  /** This keeper replaces one that died: see Theory. */
  readonly expectUpload?: boolean;
  readonly limits?: ShelfLimits;
  /** Told of every change, after it was applied. */
  readonly observer?: ShelfObserver;
}

export interface ShelfServerStatus {
  readonly entries: number;
  readonly descriptors: number;
  readonly blobBytes: number;
  readonly clients: number;
  readonly subscribers: number;
  readonly leaseHolderPid: number | null;
  readonly settled: boolean;
  readonly transactions: number;
  readonly refused: number;
  readonly droppedSubscribers: number;
  readonly expired: number;
}

export class ShelfServer {
  readonly #poller: Poller;
  readonly #log: Logger | undefined;
  readonly #listener: number;
  readonly #path: string;
  readonly #shelf: Shelf<SharedFd>;
  readonly #connections = new Set<ShelfConnection>(); // at most CLIENTS_MAX
  #writer: ShelfConnection | null = null;
  readonly #loans = new Loans();
  /** Who lent what is lent. */
  #lenderPid = 0;
  readonly #observer: ShelfObserver | undefined;
  /** The observer knows that the shelf is whole; only a writer's word makes it so. */
  #observed = false;
  /** What the writer puts came out of the service manager's store. */
  #restoring = false;
  #settled: boolean;
  #settleTimer: NodeJS.Timeout | undefined;
  #ttlTimer: NodeJS.Timeout | undefined;
  #clientlessSinceMs = performance.now();
  readonly #counters = { transactions: 0, refused: 0, droppedSubscribers: 0, expired: 0 };
  readonly #stopListening: () => void;

  private constructor(options: ShelfServerOptions, listener: number) {
    this.#poller = options.poller;
    this.#log = options.log;
    this.#listener = listener;
    this.#path = options.path;
    this.#shelf = new Shelf(options.limits);
    this.#observer = options.observer;
    this.#settled = options.expectUpload !== true;
    if (this.#settled) this.#observeWhole();
    this.#awaitWriter();
    const watch = this.#poller.watch(listener, { readable: true }, () => this.#acceptAll());
    if (typeof watch === 'number') throw new RangeError(`cannot watch the listener: errno ${-watch}`);
    this.#stopListening = () => watch.close();
  }

  /** Listens at `path` (0600), or -errno. */
  static open(options: ShelfServerOptions): ShelfServer | number {
    const listener = listen(options.path, 'seqpacket');
    return listener < 0 ? listener : new ShelfServer(options, listener);
  }

  status(): ShelfServerStatus {
    const connections = [...this.#connections];
    return {
      entries: this.#shelf.size,
      descriptors: this.#shelf.handles,
      blobBytes: this.#shelf.blobBytes,
      clients: connections.filter((connection) => connection.isClient).length,
      subscribers: connections.filter((connection) => connection.subscribed).length,
      leaseHolderPid: this.#writer?.pid ?? null,
      settled: this.#settled,
      ...this.#counters,
    };
  }

  /** Every entry, in no order. */
  entries(): Iterable<ShelfEntry<SharedFd>> {
    return this.#shelf.entries();
  }

  /** Entries whose names begin with `prefix`, in the order of their names. */
  list(prefix: string): ShelfEntry<SharedFd>[] {
    return this.#shelf.list(prefix);
  }

  /** Closes every connection and every descriptor, and removes the socket's file. */
  close(): void {
    clearTimeout(this.#settleTimer);
    this.#stopListening();
    rmSync(this.#path, { force: true });
    close(this.#listener);
    for (const connection of this.#connections) connection.close();
    this.#connections.clear();
    this.#writer = null;
    clearTimeout(this.#ttlTimer);
    // The observer is not told: what it mirrors outlives this process.
    for (const entry of this.#shelf.entries()) entry.handle?.release();
  }

  #acceptAll(): void {
    for (;;) {
      const fd = accept(this.#listener);
      if (fd < 0) {
        if (fd !== -Errno.EAGAIN) this.#log?.error({ errno: -fd }, 'cannot accept a client');
        return;
      }
      const peer = peerCredentials(fd);
      const ours = typeof peer === 'object' && (peer.uid === 0 || peer.uid === process.getuid?.());
      if (!ours || this.#connections.size >= CLIENTS_MAX) {
        this.#log?.warn({ peer, clients: this.#connections.size }, 'client refused');
        close(fd);
        continue;
      }
      setSendBuffer(fd, SHELF_SEND_BUFFER_BYTES);
      const connection = ShelfConnection.open(fd, peer.pid, this.#poller, {
        message: (bytes, fds) => this.#take(connection as ShelfConnection, bytes, fds),
        ended: (reason) => this.#ended(connection as ShelfConnection, reason),
      });
      if (typeof connection === 'number') this.#log?.error({ errno: -connection }, 'cannot watch a client');
      else this.#connections.add(connection);
    }
  }

  /** One message of a client. Returns what is wrong with it, which ends the connection, or null. */
  #take(connection: ShelfConnection, bytes: Uint8Array, fds: readonly number[]): string | null {
    const message = decodeShelfMessage(bytes, fds);
    if (typeof message === 'string') {
      closeAll(fds);
      return message;
    }
    if (message.kind === ShelfMessageKind.TRANSACTION) {
      this.#transaction(connection, message);
      return null;
    }
    closeAll(fds);
    if (message.kind === ShelfMessageKind.LEND) return this.#lend(connection, message);
    if (message.operations.length > 0) return `operations in a message of kind ${message.kind}`;
    switch (message.kind) {
      case ShelfMessageKind.PASS:
        this.#pass(connection, message.argument);
        return null;
      case ShelfMessageKind.SUBSCRIBE:
        return this.#subscribe(connection);
      case ShelfMessageKind.LEASE:
        return this.#lease(connection, message.argument);
      case ShelfMessageKind.COMPLETE:
        return this.#complete(connection);
      default:
        return `kind ${message.kind} from a client`;
    }
  }

  #transaction(connection: ShelfConnection, message: ShelfMessage<number>): void {
    const operations = message.operations.map(
      (operation): ShelfOperation<SharedFd> =>
        operation.kind === 'put'
          ? { ...operation, handle: operation.handle === null ? null : new SharedFd(operation.handle) }
          : operation,
    );
    const outcome = this.#mayWrite(connection, operations)
      ? this.#shelf.apply(operations)
      : { errno: Errno.EPERM, reason: 'neither the lease nor these names are held' };
    if ('errno' in outcome) {
      this.#counters.refused += 1;
      this.#log?.error(
        { peerPid: connection.pid, errno: outcome.errno },
        `transaction refused: ${outcome.reason}`,
      );
      for (const operation of operations) if (operation.kind === 'put') operation.handle?.release();
      this.#send(connection, ShelfMessageKind.REFUSED, -outcome.errno);
      return;
    }
    this.#counters.transactions += 1;
    this.#observer?.changed(operations, outcome.left, this.#restoring);
    this.#tell({ kind: ShelfMessageKind.TRANSACTION, argument: 0, operations }, connection);
    for (const entry of outcome.left) entry.handle?.release();
  }

  /** The writer writes what is not lent, a borrower what is lent to it. */
  #mayWrite(connection: ShelfConnection, operations: readonly ShelfOperation<SharedFd>[]): boolean {
    if (connection === this.#writer && this.#loans.size === 0) return true;
    return operations.every((operation) => {
      const name = operation.kind === 'delete-prefix' ? operation.prefix : operation.name;
      const borrower = this.#loans.borrowerOf(name);
      return borrower === null ? connection === this.#writer : borrower === connection.pid;
    });
  }

  #lend(connection: ShelfConnection, message: ShelfMessage<number>): string | null {
    if (connection !== this.#writer) {
      this.#counters.refused += 1;
      this.#send(connection, ShelfMessageKind.REFUSED, -Errno.EPERM);
      return null;
    }
    const loans = [];
    for (const operation of message.operations) {
      if (operation.kind !== 'put' || operation.handle !== null)
        return 'a loan that is not a name with a note';
      loans.push({ prefix: operation.name, note: operation.blob });
    }
    this.#lenderPid = connection.pid;
    for (const { prefix, note } of loans)
      if (!this.#loans.add(prefix, message.argument, note)) return `the loan of ${prefix}`;
    this.#tell(lendMessage(message.argument, loans));
    // Whoever is not here cannot answer for it.
    if (!this.#isConnected(message.argument))
      this.#tell({ kind: ShelfMessageKind.LEASE_LOST, argument: message.argument, operations: [] });
    return null;
  }

  #pass(connection: ShelfConnection, pid: number): void {
    if (connection !== this.#writer) {
      this.#counters.refused += 1;
      this.#send(connection, ShelfMessageKind.REFUSED, -Errno.EPERM);
      return;
    }
    this.#loans.clear();
    this.#writer = [...this.#connections].find((other) => other.pid === pid && other.isClient) ?? null;
    this.#tell({ kind: ShelfMessageKind.LEASE_HELD, argument: pid, operations: [] });
    this.#log?.info(
      { fromPid: connection.pid, toPid: pid, connected: this.#writer !== null },
      'lease passed on',
    );
  }

  #isConnected(pid: number): boolean {
    for (const connection of this.#connections) if (connection.pid === pid) return true;
    return false;
  }

  #subscribe(connection: ShelfConnection): string | null {
    if (connection.subscribed || connection === this.#writer) return 'subscribed twice, or while writing';
    connection.subscribed = true;
    connection.isClient = true;
    this.#clientsChanged();
    connection.outbox.startSnapshot(this.#shelf.entries());
    for (const { pid, prefix, note } of this.#loans.all())
      connection.send(mustEncode(lendMessage(pid, [{ prefix, note }])));
    const holder = this.#writer?.pid ?? 0;
    if (this.#settled) this.#send(connection, ShelfMessageKind.SYNCED, holder);
    else if (holder !== 0) this.#send(connection, ShelfMessageKind.LEASE_HELD, holder);
    connection.flush();
    return null;
  }

  #lease(connection: ShelfConnection, mode: number): string | null {
    const known = mode === LeaseMode.ADOPT || mode === LeaseMode.UPLOAD || mode === LeaseMode.RESTORE;
    if (!known) return `lease mode ${mode}`;
    // The former writer may be dead with its end not yet read: look, instead of refusing its successor.
    if (this.#writer !== null && this.#writer !== connection) this.#writer.readAll();
    if (this.#writer !== null && this.#writer !== connection) {
      this.#log?.warn({ peerPid: connection.pid, holderPid: this.#writer.pid }, 'lease refused: it is held');
      this.#send(connection, ShelfMessageKind.LEASE, -Errno.EBUSY);
      return null;
    }
    // What is queued for it still goes: the former writer's last words may be among it, and the grant follows them.
    connection.subscribed = false;
    if (connection.pid !== this.#lenderPid) this.#loans.clear();
    this.#writer = connection;
    connection.isClient = true;
    this.#clientsChanged();
    this.#send(connection, ShelfMessageKind.LEASE, 0);
    this.#tell({ kind: ShelfMessageKind.LEASE_HELD, argument: connection.pid, operations: [] });
    this.#log?.info({ peerPid: connection.pid, mode }, 'lease granted');
    this.#restoring = mode === LeaseMode.RESTORE;
    if (mode !== LeaseMode.ADOPT) this.#shelf.beginUpload();
    else {
      this.#shelf.abandonUpload();
      this.#observeWhole();
      this.#settle();
    }
    return null;
  }

  #complete(connection: ShelfConnection): string | null {
    if (connection !== this.#writer) return null; // its lease was refused: it has been told
    this.#remove(this.#shelf.endUpload().filter((name) => this.#loans.borrowerOf(name) === null));
    this.#observeWhole();
    this.#settle();
    return null;
  }

  #ended(connection: ShelfConnection, reason: string): void {
    if (!this.#connections.delete(connection)) return;
    if (connection.dropped) this.#counters.droppedSubscribers += 1;
    this.#log?.info({ peerPid: connection.pid, reason, writer: connection === this.#writer }, 'client gone');
    if (connection === this.#writer) {
      this.#writer = null;
      this.#restoring = false;
      this.#shelf.abandonUpload();
      this.#tell({ kind: ShelfMessageKind.LEASE_LOST, argument: connection.pid, operations: [] });
      this.#awaitWriter();
    } else if (this.#loans.has(connection.pid) && !this.#isConnected(connection.pid))
      this.#tell({ kind: ShelfMessageKind.LEASE_LOST, argument: connection.pid, operations: [] });
    this.#clientsChanged();
  }

  /** Everything is on the shelf: subscribers may forget what they were not sent. */
  #settle(): void {
    clearTimeout(this.#settleTimer);
    if (this.#settled) return;
    this.#settled = true;
    this.#tell({ kind: ShelfMessageKind.SYNCED, argument: this.#writer?.pid ?? 0, operations: [] });
  }

  #observeWhole(): void {
    if (this.#observed) return;
    this.#observed = true;
    this.#observer?.settled(this.#shelf.entries());
  }

  #awaitWriter(): void {
    clearTimeout(this.#settleTimer);
    if (this.#settled) return;
    this.#settleTimer = setTimeout(() => {
      if (this.#writer === null) this.#settle();
    }, SETTLE_WITHOUT_WRITER_MS);
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
  #tell(message: ShelfMessage<SharedFd>, from?: ShelfConnection): void {
    const subscribers = [...this.#connections].filter(
      (connection) => connection.subscribed && connection !== from,
    );
    if (subscribers.length === 0) return;
    const encoded = mustEncode(message);
    for (const connection of subscribers) connection.send(encoded);
  }

  #send(connection: ShelfConnection, kind: ShelfMessageKind, argument: number): void {
    connection.send(mustEncode({ kind, argument, operations: [] }));
  }

  /** Starts, or stops, the clock of entries that do not outlive the last client for long. */
  #clientsChanged(): void {
    const clients = [...this.#connections].some(({ isClient }) => isClient);
    if (clients) {
      clearTimeout(this.#ttlTimer);
      this.#ttlTimer = undefined;
    } else if (this.#ttlTimer === undefined) {
      this.#clientlessSinceMs = performance.now();
      this.#armTtl(0);
    }
  }

  #armTtl(passedMs: number): void {
    const ttlMs = this.#shelf.nextTtl(passedMs);
    if (ttlMs === null) return;
    const waitMs = Math.max(0, this.#clientlessSinceMs + ttlMs - performance.now());
    this.#ttlTimer = setTimeout(() => this.#expire(ttlMs), waitMs);
  }

  /** Lets go of what had `ttlMs` without a client; not of what somebody outside is still connected for. */
  #expire(ttlMs: number): void {
    const expired = this.#shelf.expired(ttlMs);
    const names = expired.filter((name) => !this.#hasPeer(name));
    if (names.length > 0) {
      this.#counters.expired += names.length;
      this.#log?.warn({ entries: names.length, ttlMs }, 'no client: entries let go');
      this.#remove(names);
    }
    if (names.length < expired.length) this.#ttlTimer = setTimeout(() => this.#expire(ttlMs), TTL_AGAIN_MS);
    else this.#armTtl(ttlMs);
  }

  #hasPeer(name: string): boolean {
    const [first, second] = name.split('/');
    const socket = this.#shelf.get(`${first}/${second}/${SHELF_CONNECTION_NAME}`)?.handle?.fd;
    return socket !== undefined && !isPeerGone(socket);
  }
}

/** Between two looks whether somebody is still connected, once the time is over. */
const TTL_AGAIN_MS = 500;
/** As many names of full length as surely fit one message. */
const DELETES_PER_MESSAGE = Math.floor((128 * 1024) / (SHELF_NAME_BYTES_MAX + 16));

/** What the keeper says itself, or was told in one message, fits one message. */
function mustEncode(message: ShelfMessage<SharedFd>): EncodedShelfMessage<SharedFd> {
  const encoded = encodeShelfMessage(message);
  if (typeof encoded === 'number')
    throw new RangeError(`message of kind ${message.kind} does not fit: ${encoded}`);
  return encoded;
}
