/**
 * rpc-server.ts: the answering end of the catalogue, on one ZeroMQ ROUTER socket.
 *
 * Theory
 *   Each request runs on its own; replies leave in the order in which they are ready. A handler's RpcError becomes the
 *   error of the reply, any other exception becomes EIO and a log line: no message may end the process.
 *
 * Parties
 *   clients  unauthenticated beyond the 0700 directory; may send anything.
 *   owner    gives one handler for every message its role answers, or it does not compile.
 *
 * Invariants
 *   I1  a handler sees only params that fit the message's schema and size cap.
 *   I2  every well-formed request is answered once.
 *   I3  requests in progress never exceed REQUESTS_IN_PROGRESS_MAX.
 *
 * Limits  REQUESTS_IN_PROGRESS_MAX, REPLIES_QUEUED_MAX.
 */
import { chmodSync, renameSync, rmSync } from 'node:fs';
import { Errno } from '@virtnet/wire';
import { Router } from 'zeromq';
import {
  type AnsweredBy,
  catalogue,
  type MessageName,
  messageNames,
  type Params,
  type Result,
  type Role,
} from './catalogue.js';
import type { Logger } from './logging.js';
import { decodeRequest, warmUpChecks } from './rpc-checks.js';
import { ENVELOPE_BYTES_MAX, encodeError, encodeResult, type Request, RpcError } from './rpc-envelope.js';
import { SerialSender } from './serial-sender.js';

/** A controller has one command line at a time and a few status polls; 256 is far beyond. */
export const REQUESTS_IN_PROGRESS_MAX = 256;
const REPLIES_QUEUED_MAX = 1024;
/** How long a closing socket may still deliver its last replies, in milliseconds. */
const LINGER_MS = 200;
const PRIVATE_SOCKET_MODE = 0o600;
/** A request that was sent just before the end of new connections arrives within so much. */
const DRAIN_QUIET_MS = 50;
const DRAIN_LOOK_MS = 10;
/** ZeroMQ's own thread writes the last answers, and has to get a processor for that. */
const DRAIN_WRITE_MS = 100;

/** Where a socket is whose owner takes no new connections. */
function drainedName(path: string): string {
  return `${path}.drained`;
}

/** One handler for each message that `R` answers. */
export type Handlers<R extends Role> = {
  readonly [N in AnsweredBy<R>]: (params: Params<N>) => Result<N> | Promise<Result<N>>;
};
type AnyHandler = (params: unknown) => unknown;

export interface RpcServerCounters {
  requests: number;
  /** Requests that were refused before a handler saw them. */
  malformed: number;
  /** Handlers that ended in an error. */
  failed: number;
  /** Requests refused because too many were in progress. */
  busy: number;
  /** Replies that the client did not take. */
  droppedReplies: number;
  /** Longest time a handler took, in milliseconds. */
  slowestMs: number;
}

export class RpcServer {
  readonly #socket: Router;
  readonly #path: string;
  readonly #handlers: ReadonlyMap<MessageName, AnyHandler>;
  readonly #log: Logger | undefined;
  readonly #sender: SerialSender;
  readonly #loop: Promise<void>;
  #inProgress = 0;
  #lastRequestMs = 0;
  #closed = false;
  readonly #counters = { requests: 0, malformed: 0, failed: 0, busy: 0, slowestMs: 0 };

  private constructor(
    socket: Router,
    path: string,
    handlers: ReadonlyMap<MessageName, AnyHandler>,
    log: Logger | undefined,
  ) {
    this.#socket = socket;
    this.#path = path;
    this.#handlers = handlers;
    this.#log = log;
    this.#sender = new SerialSender((frames) => socket.send([...frames]), REPLIES_QUEUED_MAX);
    this.#loop = this.#receive();
  }

  /** Binds `path` (a UNIX socket, mode 0600) as `role`. Rejects when the path cannot be bound. */
  static async bind<R extends Role>(
    role: R,
    path: string,
    handlers: Handlers<R>,
    log?: Logger,
  ): Promise<RpcServer> {
    const answered = messageNames.filter((name) => catalogue[name].to.includes(role));
    warmUpChecks(answered);
    const largest = Math.max(...answered.map((name) => catalogue[name].requestBytesMax));
    const socket = new Router({ linger: LINGER_MS, maxMessageSize: largest + ENVELOPE_BYTES_MAX });
    rmSync(drainedName(path), { force: true }); // of a former program of this process
    try {
      await socket.bind(`ipc://${path}`);
      chmodSync(path, PRIVATE_SOCKET_MODE);
    } catch (error) {
      socket.close();
      throw error;
    }
    return new RpcServer(
      socket,
      path,
      new Map(Object.entries(handlers)) as Map<MessageName, AnyHandler>,
      log,
    );
  }

  get counters(): RpcServerCounters {
    return { ...this.#counters, droppedReplies: this.#sender.dropped };
  }

  /**
   * Takes no new connections; resolves when what came over the others is answered and nothing more came for a moment.
   * Whoever connects meanwhile finds nobody, and tries again. The socket only gets another name: to unbind it would
   * end the connections whose requests are not answered yet.
   */
  async drain(): Promise<void> {
    renameSync(this.#path, drainedName(this.#path));
    const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
    let requests: number;
    do {
      requests = this.#counters.requests;
      while (this.#inProgress > 0 || performance.now() - this.#lastRequestMs < DRAIN_QUIET_MS)
        await pause(DRAIN_LOOK_MS);
      await this.#sender.flush();
      await pause(DRAIN_WRITE_MS);
    } while (requests !== this.#counters.requests);
  }

  /** Takes new connections again. */
  undrain(): void {
    renameSync(drainedName(this.#path), this.#path);
  }

  /** Stops receiving, delivers replies that are already made, closes the socket and removes its file. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#sender.flush();
    this.#socket.close();
    for (const path of [this.#path, drainedName(this.#path)]) rmSync(path, { force: true });
    await this.#loop;
  }

  async #receive(): Promise<void> {
    while (!this.#closed) {
      let frames: Buffer[];
      try {
        frames = await this.#socket.receive();
      } catch (error) {
        if (!this.#closed) this.#log?.error({ error }, 'receiving ended');
        return;
      }
      const [identity, payload] = frames;
      if (identity === undefined || payload === undefined || frames.length !== 2) {
        this.#counters.malformed += 1;
        continue;
      }
      this.#accept(identity, payload);
    }
  }

  #accept(identity: Buffer, payload: Buffer): void {
    this.#counters.requests += 1;
    this.#lastRequestMs = performance.now();
    const request = decodeRequest(payload);
    if ('problem' in request) {
      this.#counters.malformed += 1;
      this.#log?.warn({ problem: request.problem }, request.message);
      if (request.id === 0) return; // nobody to answer
      const errno =
        request.problem === 'unknown'
          ? Errno.ENOSYS
          : request.problem === 'oversize'
            ? Errno.EMSGSIZE
            : Errno.EINVAL;
      this.#sender.push([identity, encodeError(request.id, -errno, request.message)]);
      return;
    }
    const handler = this.#handlers.get(request.name);
    if (handler === undefined) {
      this.#counters.malformed += 1;
      this.#sender.push([
        identity,
        encodeError(request.id, -Errno.ENOSYS, `${request.name}: not answered here`),
      ]);
      return;
    }
    if (this.#inProgress >= REQUESTS_IN_PROGRESS_MAX) {
      this.#counters.busy += 1;
      this.#sender.push([identity, encodeError(request.id, -Errno.EBUSY, 'too many requests in progress')]);
      return;
    }
    void this.#answer(identity, request, handler);
  }

  async #answer(identity: Buffer, request: Request, handler: AnyHandler): Promise<void> {
    this.#inProgress += 1;
    const startedMs = performance.now();
    let reply: Buffer;
    try {
      reply = encodeResult(request.id, (await handler(request.params)) ?? {});
      const cap = catalogue[request.name].replyBytesMax;
      if (reply.byteLength > cap + ENVELOPE_BYTES_MAX)
        throw new RpcError(-Errno.EMSGSIZE, `${request.name}: the answer is larger than ${cap} bytes`);
    } catch (error) {
      this.#counters.failed += 1;
      if (error instanceof RpcError) {
        reply = encodeError(request.id, error.errno, error.message);
      } else {
        this.#log?.error({ error, name: request.name }, 'handler failed');
        reply = encodeError(request.id, -Errno.EIO, `${request.name}: internal error`);
      }
    }
    this.#inProgress -= 1;
    this.#counters.slowestMs = Math.max(this.#counters.slowestMs, performance.now() - startedMs);
    if (!this.#closed) this.#sender.push([identity, reply]);
  }
}
