/**
 * rpc-caller.ts: the asking end of the catalogue, on one ZeroMQ DEALER socket at a time.
 *
 * Theory
 *   Requests wait in a queue of ours until there is a connection, each under its own deadline. A socket serves for one
 *   connection: when that is lost a new socket is made, so that nothing ZeroMQ still holds reaches the next server, and
 *   the old one is read for a moment, because replies may have crossed with the end. Requests that were sent and have
 *   no reply then fail with ECONNRESET, so that the caller need not sit out the deadline of a dead peer.
 *   (ZMQ_IMMEDIATE would do the first half, but it throws away replies that arrive together with the end.)
 *   A process that was stopped finds its timers expired before it has read what was answered meanwhile. So a deadline that
 *   is noticed late is no proof of silence: the reply has a moment more to be read.
 *
 * States of a request
 *   queued -> sent -> answered | failed;   queued -> failed (deadline, close)
 *
 * Invariants
 *   I1  every call ends, at the latest at its deadline, or STOOD_STILL_WAIT_MS after it was noticed that this is over.
 *   I2  a reply is handed out only if it fits the message's schema and size cap.
 *   I3  a request that reached its deadline before it was sent is never sent.
 *
 * Limits  REQUESTS_OPEN_MAX calls at once.
 */
import { Errno } from '@virtnet/wire';
import { Dealer } from 'zeromq';
import { catalogue, MESSAGE_BYTES_MAX, type MessageName, type Params, type Result } from './catalogue.js';
import { decodeReply, ENVELOPE_BYTES_MAX, encodeRequest, RpcError } from './rpc-envelope.js';

export const REQUESTS_OPEN_MAX = 256;
const RECONNECT_FIRST_MS = 10;
const RECONNECT_LAST_MS = 100;
/** How long replies that crossed with the end of the connection may take to be read. */
const LAST_REPLIES_MS = 20;
/** A timer that comes so much too late: this process stood still. */
const STOOD_STILL_MS = 100;
/** What it has missed may take so long to come, also when everybody else stood still. */
const STOOD_STILL_WAIT_MS = 1_000;
/** Interruptions in a row, each by a signal of its own, after which something else must be wrong. */
const INTERRUPTED_MAX = 100;

interface Open {
  readonly name: MessageName;
  readonly bytes: Buffer;
  readonly deadlineAtMs: number;
  timer: NodeJS.Timeout;
  sent: boolean;
  settle(outcome: RpcError | { readonly result: unknown }): void;
}

export interface CallOptions {
  /** Overrides the catalogue's deadline, in milliseconds. */
  readonly deadlineMs?: number;
}

/** What is wrong with one half of a message, null when nothing is. */
export type ReplyCheck = (name: MessageName, half: 'params' | 'result', value: unknown) => string | null;

/** One socket, for one connection. */
interface Link {
  readonly socket: Dealer;
  up: boolean;
}

export class RpcCaller {
  readonly #path: string;
  #link: Link;
  readonly #check: ReplyCheck;
  readonly #open = new Map<number, Open>(); // at most REQUESTS_OPEN_MAX
  readonly #queue: number[] = [];
  #nextId = 1;
  #sending = false;
  #closed = false;
  /** Replies nobody waited for any more, and replies that did not fit their schema. */
  readonly counters = { late: 0, malformed: 0 };

  /** Connects to the UNIX socket at `path`, which need not exist yet; `check` judges what is sent and received. */
  constructor(path: string, check: ReplyCheck) {
    this.#check = check;
    this.#path = path;
    this.#link = this.#connect();
  }

  /**
   * Sends `name` and waits for its reply. Rejects with RpcError: the server's errno, or ETIMEDOUT (deadline),
   * ECONNRESET (the server died over it), EMSGSIZE, EINVAL (params do not fit), EPROTO (the reply does not fit),
   * ENOBUFS (too many calls open).
   */
  call<N extends MessageName>(name: N, params: Params<N>, options: CallOptions = {}): Promise<Result<N>> {
    const { promise, resolve, reject } = Promise.withResolvers<Result<N>>();
    const entry = catalogue[name];
    const refuse = (errno: number, message: string) => {
      reject(new RpcError(-errno, message));
      return promise;
    };
    if (this.#closed) return refuse(Errno.ENOTCONN, `${name}: client is closed`);
    if (this.#open.size >= REQUESTS_OPEN_MAX)
      return refuse(Errno.ENOBUFS, `${name}: too many calls are open`);
    const wrong = this.#check(name, 'params', params);
    if (wrong !== null) return refuse(Errno.EINVAL, `${name}: ${wrong}`);
    const id = this.#nextId++;
    const bytes = encodeRequest(id, name, params);
    if (bytes.byteLength > entry.requestBytesMax + ENVELOPE_BYTES_MAX)
      return refuse(Errno.EMSGSIZE, `${name}: ${bytes.byteLength} bytes, at most ${entry.requestBytesMax}`);
    const deadlineMs = options.deadlineMs ?? entry.deadlineMs;
    const expire = () => this.#fail(id, Errno.ETIMEDOUT, `no answer within ${Math.round(deadlineMs)} ms`);
    const expireUnlessLate = () => {
      if (!open.sent || performance.now() - open.deadlineAtMs < STOOD_STILL_MS) expire();
      else open.timer = setTimeout(expire, STOOD_STILL_WAIT_MS);
    };
    const open: Open = {
      name,
      bytes,
      deadlineAtMs: performance.now() + deadlineMs,
      timer: setTimeout(expireUnlessLate, deadlineMs),
      sent: false,
      settle: (outcome) => {
        if (outcome instanceof RpcError) reject(outcome);
        else resolve(outcome.result as Result<N>); // checked against the schema of N in #take
      },
    };
    this.#open.set(id, open);
    this.#queue.push(id);
    void this.#pump();
    return promise;
  }

  /** Fails the calls that are open and closes the socket. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const id of [...this.#open.keys()]) this.#fail(id, Errno.ECONNRESET, 'client was closed');
    this.#link.socket.close();
  }

  /**
   * A signal (the end of a child is one) may interrupt ZeroMQ while it connects or begins to observe, and these two do
   * not go on by themselves. How far they came is unknown, so they are repeated on a new socket.
   */
  #connect(): Link {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return this.#connectOnce();
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EINTR' || attempt === INTERRUPTED_MAX) throw error;
      }
    }
  }

  #connectOnce(): Link {
    const socket = new Dealer({
      linger: 0,
      reconnectInterval: RECONNECT_FIRST_MS,
      reconnectMaxInterval: RECONNECT_LAST_MS,
      maxMessageSize: MESSAGE_BYTES_MAX + ENVELOPE_BYTES_MAX,
    });
    const link = { socket, up: false };
    try {
      socket.events.on('handshake', () => {
        link.up = true;
        void this.#pump();
      });
      socket.events.on('disconnect', () => this.#connectionLost(link));
      socket.connect(`ipc://${this.#path}`);
    } catch (error) {
      socket.close();
      throw error;
    }
    void this.#receive(socket);
    return link;
  }

  async #pump(): Promise<void> {
    if (this.#sending) return;
    this.#sending = true;
    while (this.#link.up && !this.#closed) {
      const id = this.#queue.shift();
      if (id === undefined) break;
      const open = this.#open.get(id);
      if (open === undefined) continue; // reached its deadline meanwhile
      const { socket } = this.#link;
      try {
        open.sent = true; // before it is: a loss from here on must fail it
        socket.sendTimeout = Math.max(0, Math.ceil(open.deadlineAtMs - performance.now()));
        await socket.send(open.bytes);
      } catch {
        // Full until the deadline, or closed: the request's timer, or the loss, reports it.
      }
    }
    this.#sending = false;
  }

  async #receive(socket: Dealer): Promise<void> {
    while (!socket.closed) {
      try {
        this.#take(await socket.receive());
      } catch {
        return; // closed
      }
    }
  }

  #take(frames: readonly Buffer[]): void {
    const [payload] = frames;
    const reply = payload === undefined || frames.length !== 1 ? null : decodeReply(payload);
    if (payload === undefined || reply === null) {
      this.counters.malformed += 1;
      return;
    }
    const open = this.#open.get(reply.id);
    if (open === undefined) {
      this.counters.late += 1;
      return;
    }
    if ('error' in reply) {
      this.#settle(reply.id, open, new RpcError(reply.error.errno, reply.error.message));
      return;
    }
    const cap = catalogue[open.name].replyBytesMax;
    const wrong =
      payload.byteLength > cap + ENVELOPE_BYTES_MAX
        ? `reply has ${payload.byteLength} bytes, at most ${cap}`
        : this.#check(open.name, 'result', reply.result);
    if (wrong === null) {
      this.#settle(reply.id, open, { result: reply.result });
      return;
    }
    this.counters.malformed += 1;
    this.#fail(reply.id, Errno.EPROTO, wrong);
  }

  #connectionLost(link: Link): void {
    if (this.#closed || link !== this.#link) return;
    this.#link = this.#connect();
    const sent = [...this.#open].filter(([, open]) => open.sent).map(([id]) => id);
    setTimeout(() => {
      link.socket.close();
      for (const id of sent) this.#fail(id, Errno.ECONNRESET, 'the connection was lost');
    }, LAST_REPLIES_MS);
  }

  #fail(id: number, errno: number, message: string): void {
    const open = this.#open.get(id);
    if (open !== undefined) this.#settle(id, open, new RpcError(-errno, `${open.name}: ${message}`));
  }

  #settle(id: number, open: Open, outcome: RpcError | { readonly result: unknown }): void {
    clearTimeout(open.timer);
    this.#open.delete(id);
    open.settle(outcome);
  }
}
