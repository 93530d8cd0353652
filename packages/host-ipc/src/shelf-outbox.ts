/**
 * shelf-outbox.ts: what the keeper still has to send to one client.
 *
 * Theory
 *   A subscriber is owed the shelf as it was when it subscribed, then every change in order. The shelf is remembered
 *   as a list of entries and encoded piece by piece as the socket takes it; changes queue behind it. Every
 *   descriptor that waits here has the outbox as an owner, so that a delete cannot pull it away.
 *
 * Invariants
 *   I1  messages leave in the order in which they were pushed, the snapshot first.
 *   I2  nothing here waits: what the socket refuses stays queued until it is writable again.
 *   I3  a queue past its limits is a dead or hopelessly slow client: push says so, and the owner drops it.
 *
 * Limits  OUTBOX_MESSAGES_MAX, OUTBOX_BYTES_MAX and OUTBOX_DESCRIPTORS_MAX queued behind the snapshot; the snapshot
 *         itself is bounded by the shelf.
 */
import type { ShelfEntry } from '@virtnet/engine-recovery';
import { send } from '@virtnet/host-linux';
import {
  Errno,
  LinuxErrno,
  SHELF_DESCRIPTORS_MAX,
  SHELF_MESSAGE_BYTES_MAX,
  ShelfMessageHeader,
  ShelfMessageKind,
} from '@virtnet/wire';
import type { SharedFd } from './shared-fd.js';
import { type EncodedShelfMessage, encodeShelfMessage, operationBytes } from './shelf-codec.js';

export const OUTBOX_MESSAGES_MAX = 8192;
export const OUTBOX_BYTES_MAX = 64 * 1024 * 1024;
export const OUTBOX_DESCRIPTORS_MAX = 8192;

/** What became of a push or a pump. */
export type OutboxState =
  /** Everything is in the socket. */
  | 'empty'
  /** The rest waits until the socket is writable. */
  | 'full'
  /** The kernel has too many descriptors in flight for this user; nobody tells when that is over. */
  | 'crowded'
  /** Too much is queued. */
  | 'overflow'
  /** The connection is gone. */
  | 'gone';

type Message = EncodedShelfMessage<SharedFd>;

export class ShelfOutbox {
  readonly #fd: number;
  #snapshot: ShelfEntry<SharedFd>[] = [];
  #snapshotNext = 0;
  #queue: Message[] = [];
  #queueBytes = 0;
  #queueDescriptors = 0;
  /** Entries of the snapshot in the message that #nextOfSnapshot made last. */
  #pending = 0;
  #state: OutboxState = 'empty';

  constructor(fd: number) {
    this.#fd = fd;
  }

  /** Owes the client `entries`, once. They precede what is pushed from now on. */
  startSnapshot(entries: Iterable<ShelfEntry<SharedFd>>): void {
    for (const entry of entries) {
      entry.handle?.retain();
      this.#snapshot.push(entry);
    }
    this.pump();
  }

  /** Queues a message; the outbox retains its handles itself. */
  push(message: Message): OutboxState {
    for (const handle of message.handles) handle.retain();
    this.#queue.push(message);
    this.#queueBytes += message.bytes.byteLength;
    this.#queueDescriptors += message.handles.length;
    if (this.#state === 'empty') this.pump();
    const tooMuch =
      this.#queue.length > OUTBOX_MESSAGES_MAX ||
      this.#queueBytes > OUTBOX_BYTES_MAX ||
      this.#queueDescriptors > OUTBOX_DESCRIPTORS_MAX;
    return tooMuch ? 'overflow' : this.#state;
  }

  /** Sends what the socket takes; to be called again when it is writable. */
  pump(): OutboxState {
    this.#state = this.#pump();
    return this.#state;
  }

  #pump(): OutboxState {
    for (;;) {
      const message = this.#nextOfSnapshot() ?? this.#queue[0];
      if (message === undefined) return 'empty';
      const fds = message.handles.map((handle) => handle.fd);
      const sent = send(this.#fd, message.bytes, fds);
      if (sent === -Errno.EAGAIN || sent === -Errno.ENOBUFS) return 'full';
      if (sent === -LinuxErrno.ETOOMANYREFS) return 'crowded';
      if (sent < 0) return 'gone';
      this.#sent();
    }
  }

  /** Lets go of everything that was not sent. */
  clear(): void {
    for (const entry of this.#snapshot.slice(this.#snapshotNext)) entry.handle?.release();
    for (const message of this.#queue) for (const handle of message.handles) handle.release();
    this.#snapshot = [];
    this.#snapshotNext = 0;
    this.#queue = [];
    this.#queueBytes = 0;
    this.#queueDescriptors = 0;
  }

  /** The next piece of the snapshot, as many entries as one message takes. */
  #nextOfSnapshot(): Message | undefined {
    let bytes = ShelfMessageHeader.sizeBytes;
    let descriptors = 0;
    let end = this.#snapshotNext;
    for (; end < this.#snapshot.length; end++) {
      const entry = this.#snapshot[end]!;
      bytes += operationBytes({ kind: 'put', ...entry });
      descriptors += entry.handle === null ? 0 : 1;
      const fits = bytes <= SHELF_MESSAGE_BYTES_MAX && descriptors <= SHELF_DESCRIPTORS_MAX;
      if (!fits && end > this.#snapshotNext) break;
    }
    this.#pending = end - this.#snapshotNext;
    if (this.#pending === 0) return undefined;
    const operations = this.#snapshot
      .slice(this.#snapshotNext, end)
      .map((entry) => ({ kind: 'put' as const, ...entry }));
    const message = encodeShelfMessage<SharedFd>({
      kind: ShelfMessageKind.TRANSACTION,
      argument: 0,
      operations,
    });
    if (typeof message === 'number')
      throw new RangeError(`a stored entry does not fit a message: ${message}`);
    return message;
  }

  /** Forgets what was just sent: a piece of the snapshot if there is one, else the head of the queue. */
  #sent(): void {
    if (this.#pending > 0) {
      const end = this.#snapshotNext + this.#pending;
      for (const entry of this.#snapshot.slice(this.#snapshotNext, end)) entry.handle?.release();
      this.#snapshotNext = end;
      if (end === this.#snapshot.length) {
        this.#snapshot = [];
        this.#snapshotNext = 0;
      }
      return;
    }
    const message = this.#queue.shift()!;
    this.#queueBytes -= message.bytes.byteLength;
    this.#queueDescriptors -= message.handles.length;
    for (const handle of message.handles) handle.release();
  }
}
