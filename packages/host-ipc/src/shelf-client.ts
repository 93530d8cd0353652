/**
 * shelf-client.ts: an emulator's end of the descriptor channel.
 *
 * Theory
 *   The active emulator holds the lease and says every change with `transaction` before the change is visible outside.
 *   A transaction is one send: when it returned 0 the kernel has it, whatever becomes of us, and no answer is awaited.
 *   A standby subscribes and hears the shelf and every change. The connection is made again by itself; a writer then
 *   takes the lease again and uploads everything, a subscriber is sent everything again: names that are not sent
 *   again are reported as deleted when the whole shelf is there, not before, so that a keeper that lost its memory
 *   takes nothing away from a standby.
 *   A subscriber to whom names were lent writes these, and goes on hearing what others write.
 *   A keeper that dies leaves what the writer had said and it had not passed on; a subscriber, who holds its end of the
 *   writer's connection, takes that as soon as it knows of the death (shelf-inheritance.ts), and before it succeeds the
 *   writer. Since others hold that end, a writer may see no end of its connection; it watches the keeper itself.
 *   What is said while the keeper is being replaced is with nobody else until the new one was told everything: a
 *   writer whose answers promise something holds them back so long (`kept`).
 *
 * States   lost -> connected -> lost ...; closed is final.
 *
 * Invariants
 *   I1  transactions reach the keeper in the order of their calls, or the connection is lost and everything is
 *       uploaded again.
 *   I2  a call returns within SEND_WAIT_MS, whatever the keeper does; nobody waits for a keeper that has been away for
 *       KEPT_WAIT_MS.
 *   I3  descriptors given to `transaction` stay the caller's; descriptors given to `onEntry` become the callee's.
 *
 * Limits  one message per transaction: 253 descriptors, 180 KiB, names of 200 printable ASCII bytes.
 */
import { EventEmitter } from 'node:events';
import {
  lendMessage,
  ShelfFollower,
  type ShelfMessage,
  type ShelfOperation as StoredOperation,
} from '@virtnet/engine-recovery';
import {
  close,
  closeAll,
  connect,
  type Poller,
  peerCredentials,
  pidfdOpen,
  send,
  setSendBuffer,
  type Watch,
} from '@virtnet/host-linux';
import { Errno, LeaseMode, LinuxErrno, ShelfMessageKind } from '@virtnet/wire';
import { decodeShelfMessage, encodeShelfMessage } from './shelf-codec.js';
import { MESSAGES_PER_TURN, SHELF_SEND_BUFFER_BYTES, shelfReceiver } from './shelf-connection.js';
import { ShelfInheritance } from './shelf-inheritance.js';

/** One change. A put replaces the whole entry. */
export type ShelfOperation =
  | {
      readonly put: string;
      readonly blob?: Uint8Array;
      readonly fd?: number;
      /** The keeper drops the entry when it has been without any client for so long, in milliseconds; 0 = never. */
      readonly ttlWithoutHolderMs?: number;
    }
  | { readonly delete: string }
  | { readonly deletePrefix: string };

/** What a subscriber hears. The calls for one transaction come without a break between them. */
export interface ShelfSubscriber {
  /** A new or replaced entry. `fd` is -1 when it has none, else now the callee's. */
  onEntry(name: string, blob: Uint8Array, fd: number): void;
  onDelete(name: string): void;
  /** Everything was told; `holderPid` holds the lease, null when nobody does. */
  onSynced(holderPid: number | null): void;
  /** The lease has a new holder. */
  onLeaseHeld?(holderPid: number): void;
  /** The connection of the holder, or of a borrower, ended, and everything it sent was told. It may be alive. */
  onLeaseLost(holderPid: number): void;
  /** Names that begin with `prefix` are process `pid`'s to write from now on, which may be this one. */
  onLent?(prefix: string, pid: number, note: Uint8Array): void;
}

export interface ShelfClientEvents {
  connected: [];
  /** The connection ended, for the reason given; it is made again. */
  lost: [reason: string];
  /** The keeper refused a transaction as a whole; positive errno. */
  refused: [errno: number];
  /** The upload callback failed; the connection is dropped and everything begins again. */
  'upload-failed': [error: unknown];
  /** No keeper came for KEPT_WAIT_MS: who waited waits no longer, and nobody else will until one is there. */
  'keeper-missing': [];
}

/** Puts everything again, by transactions; called after each new connection of a writer. */
export type Upload = () => void | Promise<void>;

/** Longest that a transaction waits for room in the socket: far below the 200 ms a stall may last. */
export const SEND_WAIT_MS = 50;
/** So long a writer's answers may be held back for a keeper that is being replaced, which takes a tenth of it. */
export const KEPT_WAIT_MS = 3_000;
const SEND_RETRY_MS = 1;
const RECONNECT_FIRST_MS = 10;
const RECONNECT_LAST_MS = 100;

const sleepCell = new Int32Array(new SharedArrayBuffer(4));
const NO_BLOB = new Uint8Array(0);

export class ShelfClient extends EventEmitter<ShelfClientEvents> {
  readonly #path: string;
  readonly #poller: Poller;
  #fd = -1;
  #keeperPid = 0;
  #watch: Watch | null = null;
  /** Ends the watch over the life of the keeper that was connected last. */
  #forgetKeeper: () => void = () => {};
  readonly #inheritance = new ShelfInheritance();
  #timer: NodeJS.Timeout | undefined;
  #delayMs = RECONNECT_FIRST_MS;
  #closed = false;
  #reset = false;
  /** null: nobody subscribed, or this is the writer. */
  #follower: ShelfFollower<number> | null = null;
  #upload: Upload | null = null;
  /** Something was lent to this process. */
  #borrowing = false;
  #uploadMode: LeaseMode = LeaseMode.UPLOAD;
  #leasePromise: PromiseWithResolvers<number> | null = null;
  /** The keeper has what this writer said so far. */
  #told = false;
  /** Since when it has not, by performance.now(). */
  #untoldSinceMs = Number.NEGATIVE_INFINITY;
  /** Those who wait until it has. */
  #waiting: { readonly done: PromiseWithResolvers<void>; readonly timer: NodeJS.Timeout } | null = null;
  readonly counters = { transactions: 0, waited: 0, malformed: 0, connections: 0 };

  constructor(options: { readonly path: string; readonly poller: Poller }) {
    super();
    this.#path = options.path;
    this.#poller = options.poller;
  }

  get connected(): boolean {
    return this.#fd >= 0;
  }

  /** The keeper was told everything that this writer said, and was there when it was looked at last. */
  get told(): boolean {
    return this.#told;
  }

  /** The keeper's process while it is connected. */
  get keeperPid(): number | null {
    return this.connected ? this.#keeperPid : null;
  }

  /** Connects now if the keeper is there, else as soon as it is; also again, when the connection has just been lost. */
  start(): void {
    this.#connect();
  }

  /** Asks for the shelf and every change of it, now and on each new connection. */
  subscribe(subscriber: ShelfSubscriber): void {
    this.#follower = new ShelfFollower({
      onEntry: (name, blob, fd) => subscriber.onEntry(name, blob, fd ?? -1),
      onDelete: (name) => subscriber.onDelete(name),
      onSynced: (pid) => subscriber.onSynced(pid),
      onLeaseHeld: (pid) => subscriber.onLeaseHeld?.(pid),
      onLeaseLost: (pid) => subscriber.onLeaseLost(pid),
      onLent: (prefix, pid, note) => subscriber.onLent?.(prefix, pid, note),
    });
    if (this.connected) this.#sendControl(ShelfMessageKind.SUBSCRIBE, 0);
  }

  /**
   * Becomes the writer. Resolves to 0, which ends the subscription and comes after everything that the former writer
   * said, and after everything else that the keeper had to tell a subscriber; to -EBUSY when somebody else is the
   * writer; or to -ENOTCONN when the keeper is away: it is then asked as soon as it is back. Transactions may be sent at once and need not wait for the answer.
   * `upload` is called at once, unless the subscription is in step with the shelf, and again on every later
   * connection; with a `mode` other than ADOPT, whatever the subscription is. What was not put when it has resolved is
   * dropped from the shelf.
   */
  lease(upload: Upload, mode: LeaseMode = LeaseMode.ADOPT): Promise<number> {
    const adopt = this.#follower?.synced === true && this.connected && mode === LeaseMode.ADOPT;
    this.#upload = upload;
    this.#uploadMode = mode === LeaseMode.RESTORE ? mode : LeaseMode.UPLOAD;
    this.#untoldSinceMs = performance.now();
    if (!this.connected) {
      this.#inherit();
      this.#follower = null;
      return Promise.resolve(-Errno.ENOTCONN);
    }
    this.#leasePromise = Promise.withResolvers<number>();
    const { promise } = this.#leasePromise;
    this.#takeLease(adopt);
    return promise;
  }

  /**
   * Takes back a request for the lease that was not granted before its connection was lost: it subscribes again. To be
   * called before there is another connection.
   */
  withdraw(): void {
    this.#upload = null;
  }

  /**
   * Sends `operations` as one atomic message. Returns 0, or -EPERM without lease, -ENOTCONN or -EPIPE when the keeper is
   * away, -ETIMEDOUT when it does not read (in all three cases it will be uploaded to again), -EINVAL (name), -E2BIG or
   * -EMSGSIZE (does not fit a message), -EBADF (a descriptor of yours is closed).
   */
  transaction(operations: readonly ShelfOperation[]): number {
    if (this.#upload === null && !this.#borrowing) return -Errno.EPERM;
    if (!this.connected) return -Errno.ENOTCONN;
    const result = this.#send(ShelfMessageKind.TRANSACTION, 0, operations.map(stored));
    if (result === 0) this.counters.transactions += 1;
    return result;
  }

  /**
   * Lends every name that begins with `prefix` to process `pid`, a client of the same keeper, behind everything said
   * before; `note` is for it. Results as of `transaction`.
   */
  lend(prefix: string, pid: number, note: Uint8Array): number {
    if (this.#upload === null) return -Errno.EPERM;
    if (!this.connected) return -Errno.ENOTCONN;
    const { kind, argument, operations } = lendMessage(pid, [{ prefix, note }]);
    return this.#send(kind, argument, operations);
  }

  /** Lays the lease down in favour of process `pid`, which then asks for it. Results as of `transaction`. */
  pass(pid: number): number {
    if (this.#upload === null) return -Errno.EPERM;
    this.#upload = null;
    return this.#sendControl(ShelfMessageKind.PASS, pid);
  }

  /**
   * Says that process `pid` executes nothing any more: the keeper need not wait until the kernel has taken it apart to
   * tell that its connection ended. Results as of `transaction`.
   */
  bury(pid: number): number {
    return this.#sendControl(ShelfMessageKind.BURY, pid);
  }

  /**
   * Whether what was said survives this process: null when it does, when there never was a keeper, or when that is not
   * this client's to say since it is no writer. Else resolves when a keeper has been told everything, or has been away
   * for KEPT_WAIT_MS.
   */
  kept(): Promise<void> | null {
    if (this.#told || this.#upload === null || this.counters.connections === 0) return null;
    if (this.#waiting !== null) return this.#waiting.done.promise;
    const waitMs = this.#untoldSinceMs + KEPT_WAIT_MS - performance.now();
    if (waitMs <= 0) return null;
    const done = Promise.withResolvers<void>();
    this.#waiting = { done, timer: setTimeout(() => this.#giveUpWaiting(), waitMs) };
    return done.promise;
  }

  /** Ends the connection for good; the keeper tells its subscribers that the lease is lost. */
  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#drop();
    this.#forgetKeeper();
    this.#inheritance.drop();
    this.#waitNoLonger();
  }

  #connect(): void {
    if (this.#closed || this.connected) return;
    clearTimeout(this.#timer);
    const fd = connect(this.#path, 'seqpacket');
    if (fd < 0 || !this.#adopt(fd)) {
      this.#timer = setTimeout(() => this.#connect(), this.#delayMs);
      this.#delayMs = Math.min(this.#delayMs * 2, RECONNECT_LAST_MS);
      return;
    }
    this.#delayMs = RECONNECT_FIRST_MS;
    this.counters.connections += 1;
    this.#follower?.connected();
    this.emit('connected');
    if (this.#upload !== null) {
      this.#follower = null;
      this.#takeLease(false);
    } else if (this.#follower !== null) this.#sendControl(ShelfMessageKind.SUBSCRIBE, 0);
  }

  #adopt(fd: number): boolean {
    const peer = peerCredentials(fd);
    const ours = typeof peer === 'object' && (peer.uid === 0 || peer.uid === process.getuid?.());
    if (ours && !this.#watchKeeper(peer.pid)) {
      close(fd);
      return false;
    }
    const watch = ours ? this.#poller.watch(fd, { readable: true }, () => this.#read()) : -Errno.EPERM;
    if (typeof watch === 'number' || typeof peer === 'number') {
      close(fd);
      return false;
    }
    setSendBuffer(fd, SHELF_SEND_BUFFER_BYTES);
    this.#fd = fd;
    this.#keeperPid = peer.pid;
    this.#watch = watch;
    this.#reset = false;
    return true;
  }

  /** False when process `pid` is dead. */
  #watchKeeper(pid: number): boolean {
    // Another keeper listens where the former one did, so that is dead; the same one hands its end anew.
    if (pid !== this.#keeperPid) this.#inherit();
    this.#inheritance.drop();
    this.#forgetKeeper();
    this.#forgetKeeper = () => {};
    const pidfd = pidfdOpen(pid);
    if (pidfd < 0) return pidfd !== -LinuxErrno.ESRCH; // where it cannot be watched, its end is that of the connection
    const watch = this.#poller.watch(pidfd, { readable: true }, () => this.#keeperDied());
    if (typeof watch === 'number') {
      close(pidfd);
      return false;
    }
    this.#forgetKeeper = () => {
      this.#forgetKeeper = () => {};
      watch.close();
      close(pidfd);
    };
    return true;
  }

  #keeperDied(): void {
    this.#forgetKeeper();
    while (this.connected && this.#read()) {
      // what it said last
    }
    this.#lose('the keeper is dead');
    this.#inherit();
  }

  /** Takes what a dead keeper had not passed on. */
  #inherit(): void {
    this.#inheritance.take((message) => {
      if (this.#follower !== null) this.#follower.take(message);
      else for (const operation of message.operations) closeHandle(operation);
    });
  }

  #takeLease(adopt: boolean): void {
    if (this.#sendControl(ShelfMessageKind.LEASE, adopt ? LeaseMode.ADOPT : this.#uploadMode) < 0) return;
    if (adopt) this.#allTold();
    else void this.#uploadAll(this.counters.connections);
  }

  async #uploadAll(connection: number): Promise<void> {
    try {
      await this.#upload?.();
    } catch (error) {
      this.emit('upload-failed', error);
      if (connection === this.counters.connections) this.#lose('the upload failed');
      return;
    }
    if (connection !== this.counters.connections) return;
    if (this.#sendControl(ShelfMessageKind.COMPLETE, 0) === 0) this.#allTold();
  }

  #allTold(): void {
    this.#told = true;
    this.#waitNoLonger();
  }

  #giveUpWaiting(): void {
    this.emit('keeper-missing');
    this.#waitNoLonger();
  }

  #waitNoLonger(): void {
    clearTimeout(this.#waiting?.timer);
    this.#waiting?.done.resolve();
    this.#waiting = null;
  }

  #sendControl(kind: ShelfMessageKind, argument: number): number {
    return this.connected ? this.#send(kind, argument, []) : -Errno.ENOTCONN;
  }

  #send(kind: ShelfMessageKind, argument: number, operations: readonly StoredOperation<number>[]): number {
    const message = encodeShelfMessage({ kind, argument, operations });
    if (typeof message === 'number') return message;
    const { bytes, handles } = message;
    let sent = send(this.#fd, bytes, handles);
    const deadlineMs = performance.now() + SEND_WAIT_MS;
    while (isFull(sent) && performance.now() < deadlineMs) {
      this.counters.waited += 1;
      Atomics.wait(sleepCell, 0, 0, SEND_RETRY_MS);
      sent = send(this.#fd, bytes, handles);
    }
    if (sent >= 0) return 0;
    if (sent === -Errno.EBADF && handles.length > 0) return sent; // one of the caller's descriptors is closed
    this.#loseLater(isFull(sent) ? 'the keeper does not read' : `send failed: errno ${-sent}`);
    return isFull(sent) ? -Errno.ETIMEDOUT : sent;
  }

  /** Whether there may be more. */
  #read(): boolean {
    for (let count = 0; count < MESSAGES_PER_TURN && this.connected; count++) {
      const received = shelfReceiver.receive(this.#fd);
      if (typeof received === 'number') {
        if (received === -Errno.EAGAIN) return false;
        // A peer that died with unread data reports this once, before the messages that it left.
        if (received === -Errno.ECONNRESET && !this.#reset) {
          this.#reset = true;
          continue;
        }
        this.#lose(`receive failed: errno ${-received}`);
        return false;
      }
      const { bytes, fds, truncated } = received;
      if (bytes.byteLength === 0 || truncated) {
        closeAll(fds);
        this.#lose(truncated ? 'a message was cut off' : 'end of connection');
        return false;
      }
      this.#take(bytes, fds);
    }
    return true;
  }

  #take(bytes: Uint8Array, fds: readonly number[]): void {
    const message = decodeShelfMessage(bytes, fds);
    if (typeof message === 'string') {
      this.counters.malformed += 1;
      closeAll(fds);
      this.#lose(`malformed message: ${message}`);
      return;
    }
    const { kind, argument, operations } = message;
    if (kind === ShelfMessageKind.TRANSACTION && this.#follower !== null) {
      this.#follower.take(message);
      return;
    }
    if (this.#takeEnd(message)) return;
    // Everything that it said is told; or there is another writer, or another connection of this one.
    const over = kind === ShelfMessageKind.LEASE_LOST && argument === this.#inheritance.writerPid;
    if (over || kind === ShelfMessageKind.LEASE_HELD) this.#inheritance.drop();
    closeAll(fds); // what was on its way to a subscriber that meanwhile is the writer
    if (kind === ShelfMessageKind.REFUSED) this.emit('refused', -argument);
    else if (kind === ShelfMessageKind.LEASE) this.#leaseAnswered(argument);
    else {
      if (kind === ShelfMessageKind.LEND && argument === process.pid && operations.length > 0)
        this.#borrowing = true;
      this.#follower?.take(message);
    }
  }

  #leaseAnswered(result: number): void {
    if (result === 0) {
      this.#follower = null;
      this.#inheritance.drop();
    }
    this.#leasePromise?.resolve(result);
    this.#leasePromise = null;
    // Somebody else writes. Whoever asked first decides what that means; we ask again on a new connection.
    if (result < 0) this.#lose(`the lease was refused: errno ${-result}`);
  }

  /** Not inside a caller's transaction: listeners may do anything. */
  #loseLater(reason: string): void {
    if (!this.connected) return;
    if (this.#follower !== null) this.#readRest(this.#follower);
    this.#drop();
    setImmediate(() => this.#lost(reason));
  }

  /** What a keeper that takes nothing any more had still told, as far as it is about the shelf. */
  #readRest(follower: ShelfFollower<number>): void {
    for (;;) {
      const received = shelfReceiver.receive(this.#fd);
      if (received === -Errno.ECONNRESET && !this.#reset) {
        this.#reset = true;
        continue;
      }
      if (typeof received === 'number') return;
      const { bytes, fds, truncated } = received;
      const message = bytes.byteLength === 0 || truncated ? null : decodeShelfMessage(bytes, fds);
      if (message === null || typeof message === 'string') {
        closeAll(fds);
        return;
      }
      if (message.kind === ShelfMessageKind.TRANSACTION) follower.take(message);
      else if (!this.#takeEnd(message)) closeAll(fds);
    }
  }

  /** False when it is no WRITER_END. */
  #takeEnd({ kind, argument, operations }: ShelfMessage<number>): boolean {
    const [first] = operations;
    if (kind !== ShelfMessageKind.WRITER_END || first?.kind !== 'put' || first.handle === null) return false;
    if (this.#follower === null) close(first.handle);
    else this.#inheritance.hold(argument, first.handle);
    return true;
  }

  #lose(reason: string): void {
    if (!this.connected) return;
    this.#drop();
    this.#lost(reason);
  }

  #drop(): void {
    this.#watch?.close();
    this.#watch = null;
    if (this.#fd >= 0) close(this.#fd);
    this.#fd = -1;
    if (this.#told) this.#untoldSinceMs = performance.now();
    this.#told = false;
    if (this.#leasePromise !== null) this.#inherit(); // it is to succeed the writer
    this.#follower?.disconnected();
    this.#leasePromise?.resolve(-Errno.ENOTCONN);
    this.#leasePromise = null;
  }

  #lost(reason: string): void {
    if (this.#closed) return;
    this.emit('lost', reason);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#connect(), this.#delayMs);
  }
}

function isFull(sent: number): boolean {
  return sent === -Errno.EAGAIN || sent === -Errno.ENOBUFS || sent === -LinuxErrno.ETOOMANYREFS;
}

function closeHandle(operation: StoredOperation<number>): void {
  if (operation.kind === 'put' && operation.handle !== null) close(operation.handle);
}

function stored(operation: ShelfOperation): StoredOperation<number> {
  if ('put' in operation)
    return {
      kind: 'put',
      name: operation.put,
      blob: operation.blob ?? NO_BLOB,
      handle: operation.fd ?? null,
      ttlWithoutHolderMs: operation.ttlWithoutHolderMs ?? 0,
    };
  if ('delete' in operation) return { kind: 'delete', name: operation.delete };
  return { kind: 'delete-prefix', prefix: operation.deletePrefix };
}
