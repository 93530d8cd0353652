/**
 * shelf-connection.ts: one client's connection, seen from the keeper.
 *
 * Theory
 *   Messages are taken as the socket has them, a bounded number per loop turn. The end of the connection is reported
 *   behind the last message. A message stays in the socket until it was handed over: if we die before that, whoever
 *   holds our end of the connection, too, finds it there. A peer that died with unread data of ours makes the kernel
 *   say ECONNRESET once *before* the messages it left: that is not the end.
 *
 * Invariants
 *   I1  `ended` is called once, after every message that could be read was handed over.
 *   I2  after close() nothing is called and no descriptor is owned.
 *
 * Limits  MESSAGES_PER_TURN; ShelfOutbox.
 */
import {
  close,
  closeAll,
  discard,
  dup,
  type Poller,
  Receiver,
  shutdown,
  type Watch,
} from '@virtnet/host-linux';
import { EpollEvent, Errno, SHELF_MESSAGE_BYTES_MAX } from '@virtnet/wire';
import { SharedFd } from './shared-fd.js';
import type { EncodedShelfMessage } from './shelf-codec.js';
import { type OutboxState, ShelfOutbox } from './shelf-outbox.js';

export const MESSAGES_PER_TURN = 64;
/** What may wait unread in the socket: about 45 of the largest messages. */
export const SHELF_SEND_BUFFER_BYTES = 8 * 1024 * 1024;
/** How soon a send is tried again that failed for descriptors in flight, in milliseconds. */
const CROWDED_RETRY_MS = 5;

const PEEK = { peek: true };

/** One buffer for all: a message is decoded before the next is read. */
export const shelfReceiver = new Receiver(SHELF_MESSAGE_BYTES_MAX);

export interface ShelfConnectionEvents {
  /** A message; its descriptors belong to the callee. Text returned ends the connection with that reason. */
  message(bytes: Uint8Array, fds: readonly number[]): string | null;
  ended(reason: string): void;
}

export class ShelfConnection {
  readonly pid: number;
  readonly outbox: ShelfOutbox;
  readonly #fd: number;
  readonly #events: ShelfConnectionEvents;
  #watch: Watch | null = null;
  #retry: NodeJS.Timeout | undefined;
  #closed = false;
  #reset = false;
  #broken = false;
  /** It is owed every change. */
  subscribed = false;
  /** It subscribed or took the lease: it is not merely connected. */
  isClient = false;
  /** Ended because it did not read fast enough. */
  dropped = false;

  private constructor(fd: number, pid: number, events: ShelfConnectionEvents) {
    this.#fd = fd;
    this.pid = pid;
    this.#events = events;
    this.outbox = new ShelfOutbox(fd);
  }

  /** Takes `fd` over, also when it fails (-errno). */
  static open(
    fd: number,
    pid: number,
    poller: Poller,
    events: ShelfConnectionEvents,
  ): ShelfConnection | number {
    const connection = new ShelfConnection(fd, pid, events);
    const watch = poller.watch(fd, { readable: true }, (ready) => connection.#ready(ready));
    if (typeof watch === 'number') {
      close(fd);
      return watch;
    }
    connection.#watch = watch;
    return connection;
  }

  /** Queues a message and sends what the socket takes. */
  send(message: EncodedShelfMessage<SharedFd>): void {
    if (!this.#closed && !this.#broken) this.#after(this.outbox.push(message));
  }

  /** Sends what the socket takes. */
  flush(): void {
    if (!this.#closed && !this.#broken) this.#after(this.outbox.pump());
  }

  /** Takes every message that is there now, however many. */
  readAll(): void {
    while (!this.#closed && this.#readSome()) {
      // each turn takes MESSAGES_PER_TURN; the socket's buffer bounds them all
    }
  }

  /** Takes every message that is there, and ends the connection, whose peer says nothing any more. */
  bury(): void {
    this.readAll();
    this.#end('its process executes nothing any more');
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#retry);
    this.#watch?.close();
    this.outbox.clear();
    shutdown(this.#fd); // others may hold it, too
    close(this.#fd);
  }

  /** Our end of the connection, for somebody else to hold; null when we have no descriptor left. */
  end(): SharedFd | null {
    const fd = dup(this.#fd);
    return fd < 0 ? null : new SharedFd(fd);
  }

  #ready(events: number): void {
    if ((events & EpollEvent.OUT) !== 0) this.flush();
    if ((events & ~EpollEvent.OUT) !== 0) this.#readSome();
  }

  /** Returns whether there may be more. */
  #readSome(): boolean {
    for (let count = 0; count < MESSAGES_PER_TURN; count++) {
      if (this.#closed) return false;
      const received = shelfReceiver.receive(this.#fd, PEEK);
      if (typeof received === 'number') {
        if (received === -Errno.EAGAIN) return false;
        if (received === -Errno.ECONNRESET && !this.#reset) {
          this.#reset = true;
          continue;
        }
        this.#end(`receive failed: errno ${-received}`);
        return false;
      }
      const { bytes, fds, truncated } = received;
      if (bytes.byteLength === 0) {
        closeAll(fds);
        this.#end('end of connection');
        return false;
      }
      if (truncated) {
        closeAll(fds);
        this.#end('a message was cut off (too large, or no descriptors left)');
        return false;
      }
      const wrong = this.#events.message(bytes, fds);
      if (wrong !== null) {
        this.#end(`malformed message: ${wrong}`);
        return false;
      }
      if (!this.#closed) this.#takeOut();
    }
    return true;
  }

  /** Takes the message out that was handed over. */
  #takeOut(): void {
    // One byte is the whole message. Whichever call is told of the reset, once, has done nothing.
    if (discard(this.#fd, 1) !== -Errno.ECONNRESET) return;
    this.#reset = true;
    discard(this.#fd, 1);
  }

  #after(state: OutboxState): void {
    if (state === 'gone' || state === 'overflow') {
      this.#broken = true;
      this.dropped = state === 'overflow';
      this.outbox.clear();
      // Not now: the caller is in the middle of telling others. What the client still said is taken first.
      setImmediate(() => {
        this.readAll();
        this.#end('does not take its messages');
      });
      return;
    }
    this.#watch?.setWritable(state === 'full');
    if (state === 'crowded') {
      clearTimeout(this.#retry);
      this.#retry = setTimeout(() => this.flush(), CROWDED_RETRY_MS);
    }
  }

  #end(reason: string): void {
    if (this.#closed) return;
    this.close();
    this.#events.ended(reason);
  }
}
