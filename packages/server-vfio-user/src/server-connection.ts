/**
 * server-connection.ts: one client's socket, worked message by message.
 *
 * Theory
 *   Peek a whole message, let the session work it, record the answer, send it and drop the request in one step;
 *   then the next. Since a request leaves the socket only with its answer, a successor process that takes over the
 *   socket sees what its predecessor still owed (journal.ts tells what it had done of it).
 *
 * Parties
 *   client      may be slow, silent, gone or hostile at any byte.
 *   session     judges messages and calls the device.
 *   program     makes one of these per accepted or adopted socket and is told of the end by onClose.
 *
 * States
 *   reading -> working   a handler's promise, or a record's, is awaited; nothing else is read meanwhile
 *   reading, working -> sending   the client does not read its replies; nothing is read until it does
 *   working, sending -> reading
 *   any -> ended         socket closed, onClose called once
 *   any -> detached      socket left open for another ServerConnection; a handler still under way is ignored
 *
 * Invariants
 *   I1  one message at a time, in the order of the socket; a posted one is applied before it is dropped.
 *   I2  a reply goes out in one send, header and body together (QEMU wants its header whole).
 *   I3  every descriptor that came with a message is taken by the device or closed, whatever happens.
 *   I4  nothing a client sends makes this throw. What the device throws is not caught: that is our own fault.
 *   I5  no wait spins: while a message is incomplete the socket is looked at by a timer, because it stays readable.
 *
 * Limits  MESSAGE_BYTES_MAX held per connection; MESSAGES_PER_TURN before others have their turn.
 */
import {
  close,
  closeAll,
  discard,
  type Poller,
  plainReplies,
  type ReplySender,
  send,
  setSendBuffer,
  type Watch,
} from '@virtnet/host-linux';
import { EpollEvent, Errno, VfioUserHeader, viewOf } from '@virtnet/wire';
import type { RequestJournal } from './journal.js';
import {
  MESSAGE_FDS_MAX,
  MESSAGES_PER_TURN,
  PARTIAL_WAIT_MAX_MS,
  PARTIAL_WAIT_MIN_MS,
  SEND_BUFFER_BYTES,
} from './limits.js';
import type { NoMessage } from './message-reader.js';
import { type CloseReason, isPromise, type Outcome, refusal } from './outcome.js';
import { type Request, RequestReader } from './request-reader.js';
import type { ServerSession } from './session.js';

export interface ConnectionEnd {
  readonly reason: 'peer-closed' | 'closed-here' | 'socket-failed' | CloseReason;
  /** Of a failed socket, else 0. */
  readonly errno: number;
}

export interface ConnectionCounters {
  /** Messages read whole. */
  messages: number;
  /** Messages answered with an error, posted ones included. */
  errors: number;
  /** Answers sent again for a predecessor. */
  replayed: number;
  /** Descriptors that came uninvited and were closed. */
  fdsClosed: number;
  /** Times a reply had to wait for the client to read. */
  sendWaits: number;
  /** Times a message had to be waited for in the middle. */
  partialWaits: number;
}

export interface ServerConnectionOptions {
  /** A connected UNIX stream socket; from here on the connection's. */
  readonly fd: number;
  readonly poller: Poller;
  readonly session: ServerSession;
  /** null: no io_uring here; then a kill between two calls may have a reply sent twice. */
  readonly replyRing: ReplySender | null;
  readonly journal: RequestJournal;
  /** The socket was another process's: what stands in it may have been worked already. */
  readonly adopted?: boolean;
  /** Called once, not from within open(). The descriptor is closed already. */
  onClose(end: ConnectionEnd): void;
}

/** A reply that waits for room. */
interface Pending {
  readonly reply: Uint8Array;
  readonly replyFds: readonly number[];
  /** null: the request was dropped already, only this rest of the reply was left. */
  readonly request: Request | null;
}

export class ServerConnection {
  readonly #options: ServerConnectionOptions;
  readonly #sender: ReplySender;
  readonly #reader: RequestReader;
  #state: 'reading' | 'working' | 'sending' | 'ended' | 'detached' = 'reading';
  #watch: Watch | null = null;
  #pending: Pending | null = null;
  #partialTimer: NodeJS.Timeout | null = null;
  #partialWaitMs = PARTIAL_WAIT_MIN_MS;
  #detached: ((fd: number) => void) | null = null;
  readonly counters: ConnectionCounters = {
    messages: 0,
    errors: 0,
    replayed: 0,
    fdsClosed: 0,
    sendWaits: 0,
    partialWaits: 0,
  };

  private constructor(options: ServerConnectionOptions) {
    this.#options = options;
    this.#sender = options.replyRing ?? plainReplies;
    this.#reader = new RequestReader(options.fd);
  }

  /** Begins to serve; returns -errno when the descriptor is not a UNIX stream socket, and then leaves it open. */
  static open(options: ServerConnectionOptions): ServerConnection | number {
    const prepared = RequestReader.prepare(options.fd);
    if (prepared < 0) return prepared;
    setSendBuffer(options.fd, SEND_BUFFER_BYTES); // best effort: a small one only makes a client wait
    if (options.adopted !== true) options.journal.forget();
    const connection = new ServerConnection(options);
    const watching = connection.#startWatching();
    return watching < 0 ? watching : connection;
  }

  get fd(): number {
    return this.#options.fd;
  }

  get session(): ServerSession {
    return this.#options.session;
  }

  /** Whether a message is being worked or its answer waits to be sent. */
  get busy(): boolean {
    return this.#state === 'working' || this.#state === 'sending';
  }

  /** Ends the connection and closes the socket. */
  close(): void {
    this.#end({ reason: 'closed-here', errno: 0 });
  }

  /**
   * Gives the socket up, open, for another ServerConnection: after the message under way is answered, except when
   * its client does not read; then the successor sends the recorded answer. Resolves with the descriptor, or with
   * -EBADF when the connection has ended.
   */
  detach(): Promise<number> {
    const halfSent = this.#pending !== null && this.#pending.request === null;
    if (this.#state !== 'working' && !halfSent) return Promise.resolve(this.abandon());
    return new Promise((resolve) => {
      this.#detached = resolve;
    });
  }

  /** Gives the socket up at once; a handler under way is neither recorded nor answered. As detach() otherwise. */
  abandon(): number {
    if (this.#state === 'ended' || this.#state === 'detached') return -Errno.EBADF;
    this.#state = 'detached';
    this.#release();
    return this.fd;
  }

  #startWatching(): number {
    const watch = this.#options.poller.watch(this.fd, { readable: true }, (events) => this.#ready(events));
    if (typeof watch === 'number') return watch;
    this.#watch = watch;
    return 0;
  }

  #ready(events: number): void {
    if (this.#state === 'reading') return this.#pump();
    if (this.#state === 'sending' && this.#pending !== null) return this.#resume(this.#pending);
    if ((events & (EpollEvent.HUP | EpollEvent.ERR)) === 0) return;
    // The client is gone while its request is worked. Nothing can be done before that ends, and the event would
    // come back at once: stop listening till then.
    this.#watch?.close();
    this.#watch = null;
  }

  #pump(): void {
    for (let count = 0; count < MESSAGES_PER_TURN && this.#state === 'reading'; count++) {
      const reading = this.#reader.read();
      if (reading.kind !== 'message') return this.#stopped(reading);
      this.#listenAfterPartial();
      this.#work(reading);
    }
  }

  #stopped(reading: NoMessage): void {
    switch (reading.kind) {
      case 'wait':
        return reading.partial ? this.#waitForRest() : this.#listenAfterPartial();
      case 'end':
        return this.#end({ reason: 'peer-closed', errno: 0 });
      case 'error':
        return this.#end({
          reason: reading.errno === Errno.ECONNRESET ? 'peer-closed' : 'socket-failed',
          errno: reading.errno,
        });
      case 'fault':
        this.counters.errors++;
        return this.#refuseAndEnd(refusal(reading.header, Errno.EINVAL, reading.reason));
    }
  }

  #waitForRest(): void {
    this.counters.partialWaits++;
    this.#watch?.setReadable(false);
    if (this.#partialTimer !== null) clearTimeout(this.#partialTimer);
    this.#partialTimer = setTimeout(() => this.#pump(), this.#partialWaitMs).unref();
    this.#partialWaitMs = Math.min(this.#partialWaitMs * 2, PARTIAL_WAIT_MAX_MS);
  }

  #listenAfterPartial(): void {
    if (this.#partialTimer === null) return;
    clearTimeout(this.#partialTimer);
    this.#partialTimer = null;
    this.#partialWaitMs = PARTIAL_WAIT_MIN_MS;
    this.#watch?.setReadable(true);
  }

  #work(request: Request): void {
    this.counters.messages++;
    const { message, fds } = request;
    const beginning = this.#options.journal.begin(message);
    if (beginning !== 'fresh') {
      this.counters.replayed++;
      closeAll(fds); // the predecessor took them over; these are duplicates
      return this.#answer(request, beginning.replay, []);
    }
    const outcome = request.fdsLost ? refuseLostFds(request) : this.#options.session.handle(message, fds);
    if (!isPromise(outcome)) return this.#settle(request, outcome);
    this.#later(outcome, (late) => this.#settle(request, late));
  }

  #settle(request: Request, outcome: Outcome): void {
    const unwanted = request.fds.filter((fd) => !outcome.takenFds.includes(fd));
    closeAll(unwanted);
    this.counters.fdsClosed += unwanted.length;
    if (outcome.errno !== 0) this.counters.errors++;
    if (this.#isOver()) return;
    if (outcome.close !== null) return this.#refuseAndEnd(outcome);
    const recording = outcome.changes ? this.#options.journal.commit(request.message, outcome.reply) : null;
    if (this.#isOver()) return; // the program may have ended this while it recorded
    if (recording === null) return this.#answer(request, outcome.reply, outcome.replyFds);
    this.#later(recording, () => {
      if (!this.#isOver()) this.#answer(request, outcome.reply, outcome.replyFds);
    });
  }

  /** Reads nothing until `promise` has resolved and `then` was called. */
  #later<T>(promise: Promise<T>, then: (value: T) => void): void {
    this.#state = 'working';
    this.#watch?.setReadable(false);
    void promise.then((value) => {
      then(value);
      if (this.#state === 'reading') this.#listenAgain();
    });
  }

  /** Sends the reply and drops the request, or has both wait for room. */
  #answer(request: Request, reply: Uint8Array | null, replyFds: readonly number[]): void {
    const { message, pieces } = request;
    if (reply === null) {
      const dropped = discard(this.fd, message.length);
      return this.#answered(dropped < 0 ? dropped : message.length - dropped === 0 ? 0 : -Errno.EIO);
    }
    const requestBytes = pieces.length > 1 ? pieces : message.length;
    const result = this.#sender.sendThenDiscard(this.fd, reply, requestBytes, replyFds);
    if (result === -Errno.EAGAIN) return this.#waitForRoom({ reply, replyFds, request });
    if (result > 0) return this.#waitForRoom(rest({ reply, replyFds, request: null }, reply.length - result));
    this.#answered(result);
  }

  /** Only when a reply went out in part, which needs a socket with less room than one reply. */
  #sendRest(pending: Pending): void {
    const sent = send(this.fd, pending.reply, pending.replyFds);
    if (sent >= 0 && sent < pending.reply.length) return this.#waitForRoom(rest(pending, sent));
    if (sent !== -Errno.EAGAIN) this.#answered(Math.min(sent, 0));
  }

  #answered(result: number): void {
    this.#pending = null;
    if (result < 0) {
      const gone = result === -Errno.EPIPE || result === -Errno.ECONNRESET;
      return this.#end({ reason: gone ? 'peer-closed' : 'socket-failed', errno: -result });
    }
    this.#options.journal.finish();
    this.#state = 'reading';
    this.#finishDetaching();
  }

  #waitForRoom(pending: Pending): void {
    this.#pending = pending;
    if (this.#state === 'sending') return;
    this.#state = 'sending';
    this.counters.sendWaits++;
    this.#watch?.setReadable(false);
    this.#watch?.setWritable(true);
    if (pending.request !== null) this.#finishDetaching();
  }

  #resume(pending: Pending): void {
    if (pending.request === null) this.#sendRest(pending);
    else this.#answer(pending.request, pending.reply, pending.replyFds);
    if (this.#state === 'reading') this.#listenAgain();
  }

  #listenAgain(): void {
    if (this.#watch === null) {
      if (this.#startWatching() < 0) return this.#end({ reason: 'socket-failed', errno: Errno.EBADF });
    } else {
      this.#watch.setWritable(false);
      this.#watch.setReadable(true);
    }
    this.#pump();
  }

  #refuseAndEnd(outcome: Outcome): void {
    if (outcome.reply !== null) send(this.fd, outcome.reply); // a courtesy: it may not fit, and then it is not sent
    this.#end({ reason: outcome.close ?? 'closed-here', errno: 0 });
  }

  #finishDetaching(): void {
    const detached = this.#detached;
    if (detached === null) return;
    this.#detached = null;
    detached(this.abandon());
  }

  #end(end: ConnectionEnd): void {
    if (this.#isOver()) return;
    this.#state = 'ended';
    this.#release();
    this.#options.journal.forget();
    close(this.fd);
    this.#finishDetaching();
    this.#options.onClose(end);
  }

  #release(): void {
    this.#watch?.close();
    this.#watch = null;
    if (this.#partialTimer !== null) clearTimeout(this.#partialTimer);
    this.#partialTimer = null;
    this.#pending = null;
    this.#reader.reset();
  }

  #isOver(): boolean {
    return this.#state === 'ended' || this.#state === 'detached';
  }
}

function rest({ reply, replyFds, request }: Pending, sentBytes: number): Pending {
  return { reply: reply.subarray(sentBytes), replyFds: sentBytes > 0 ? [] : replyFds, request };
}

/** A message whose descriptors are not all there must not be taken for one that never had them. */
function refuseLostFds({ message, fds }: Request): Outcome {
  const errno = fds.length < MESSAGE_FDS_MAX ? Errno.EMFILE : Errno.EINVAL;
  return refusal(VfioUserHeader.decode(viewOf(message)), errno);
}
