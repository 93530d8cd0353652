/**
 * shelf-server.ts: the state keeper's end of the descriptor channel: connections, messages as bytes, descriptors.
 *
 * Theory
 *   What the keeper does with what it is told is engine-recovery's ShelfDesk; here is what carries it. A client that
 *   dies leaves its last messages in our socket: they are read before its end is, so the desk hears them first. If we
 *   die, they are still there for whoever holds our end of the connection.
 *
 * Parties
 *   clients      emulators, and tools that look; may be slow, stopped or hostile: they get a bounded queue and are
 *                dropped past it.
 *   strangers    another user's processes: refused by their credentials.
 *
 * States of a connection   open -> closed. A malformed message closes it.
 *
 * Invariants
 *   I1  a descriptor received is in the shelf, in an outbox, or closed; none is left when close() returns.
 *   I2  no client can make the keeper wait for it.
 *
 * Limits  CLIENTS_MAX connections, MESSAGES_PER_TURN per connection and loop turn, ShelfOutbox, ShelfLimits.
 */
import { rmSync } from 'node:fs';
import {
  type DeskStatus,
  ShelfDesk,
  type ShelfEntry,
  type ShelfLimits,
  type ShelfMessage,
} from '@virtnet/engine-recovery';
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
import { Errno } from '@virtnet/wire';
import type { KeptEntry } from './descriptor-store.js';
import type { Logger } from './logging.js';
import { SharedFd } from './shared-fd.js';
import { decodeShelfMessage, type EncodedShelfMessage, encodeShelfMessage } from './shelf-codec.js';
import { SHELF_SEND_BUFFER_BYTES, ShelfConnection } from './shelf-connection.js';
import type { ShelfObserver } from './shelf-store.js';

/** Two emulators, their successors during an update, and tools that look. */
export const CLIENTS_MAX = 16;

export interface ShelfServerOptions {
  readonly path: string;
  readonly poller: Poller;
  readonly log?: Logger;
  /** This keeper replaces one that died: see ShelfDesk. */
  readonly expectUpload?: boolean;
  /** What the service manager kept; the descriptors are the server's. */
  readonly kept?: readonly KeptEntry[];
  readonly limits?: ShelfLimits;
  /** Told of every change, after it was applied. */
  readonly observer?: ShelfObserver;
  /** Does what takes long and nobody waits for: tells a new subscriber everything. */
  readonly meanwhile?: (work: () => void) => void;
}

export interface ShelfServerStatus extends DeskStatus {
  readonly droppedSubscribers: number;
}

export class ShelfServer {
  readonly #poller: Poller;
  readonly #log: Logger | undefined;
  readonly #listener: number;
  readonly #path: string;
  readonly #desk: ShelfDesk<SharedFd, ShelfConnection>;
  readonly #connections = new Set<ShelfConnection>(); // at most CLIENTS_MAX
  #droppedSubscribers = 0;
  readonly #stopListening: () => void;

  private constructor(options: ShelfServerOptions, listener: number) {
    this.#poller = options.poller;
    this.#log = options.log;
    this.#listener = listener;
    this.#path = options.path;
    const { kept = [], limits, observer, expectUpload = false, meanwhile = (work) => work() } = options;
    this.#desk = new ShelfDesk<SharedFd, ShelfConnection>(
      {
        send: (connections, message) => {
          const encoded = mustEncode(message);
          for (const connection of connections) connection.send(encoded);
        },
        sendShelf: (connection, entries) =>
          meanwhile(() => {
            connection.outbox.startSnapshot(entries);
            connection.flush();
          }),
        readAll: (connection) => connection.readAll(),
        bury: (connection) => connection.bury(),
        endOf: (connection) => connection.end(),
        hasPeer: ({ handle }) => handle !== null && !isPeerGone(handle.fd),
        nowMs: () => performance.now(),
        after: (ms, action) => {
          const timer = setTimeout(action, ms);
          return () => clearTimeout(timer);
        },
        log: (level, facts, message) => this.#log?.[level](facts, message),
      },
      {
        expectUpload,
        kept: kept.map(({ fd, ...entry }) => ({ ...entry, handle: fd === null ? null : new SharedFd(fd) })),
        ...(limits === undefined ? {} : { limits }),
        ...(observer === undefined ? {} : { observer }),
      },
    );
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
    return { ...this.#desk.status(), droppedSubscribers: this.#droppedSubscribers };
  }

  /** Every entry, in no order. */
  entries(): Iterable<ShelfEntry<SharedFd>> {
    return this.#desk.entries();
  }

  /** Entries whose names begin with `prefix`, in the order of their names. */
  list(prefix: string): ShelfEntry<SharedFd>[] {
    return this.#desk.list(prefix);
  }

  /** Takes what clients have said by now, and what those who ended had. */
  readAll(): void {
    for (const connection of [...this.#connections]) connection.readAll();
  }

  /** Closes every connection and every descriptor, and removes the socket's file. */
  close(): void {
    this.#stopListening();
    rmSync(this.#path, { force: true });
    close(this.#listener);
    for (const connection of this.#connections) connection.close();
    this.#connections.clear();
    this.#desk.close();
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
      else {
        this.#connections.add(connection);
        this.#desk.joined(connection);
      }
    }
  }

  /** One message of a client. Returns what is wrong with it, which ends the connection, or null. */
  #take(connection: ShelfConnection, bytes: Uint8Array, fds: readonly number[]): string | null {
    const message = decodeShelfMessage(bytes, fds);
    if (typeof message === 'string') {
      closeAll(fds);
      return message;
    }
    const operations = message.operations.map((operation) =>
      operation.kind === 'put'
        ? { ...operation, handle: operation.handle === null ? null : new SharedFd(operation.handle) }
        : operation,
    );
    return this.#desk.take(connection, { ...message, operations });
  }

  #ended(connection: ShelfConnection, reason: string): void {
    if (!this.#connections.delete(connection)) return;
    if (connection.dropped) this.#droppedSubscribers += 1;
    this.#desk.left(connection, reason);
  }
}

/** What the keeper says itself, or was told in one message, fits one message. */
function mustEncode(message: ShelfMessage<SharedFd>): EncodedShelfMessage<SharedFd> {
  const encoded = encodeShelfMessage(message);
  if (typeof encoded === 'number')
    throw new RangeError(`message of kind ${message.kind} does not fit: ${encoded}`);
  return encoded;
}
