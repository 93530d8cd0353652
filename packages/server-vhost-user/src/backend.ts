/**
 * backend.ts: one connection of a frontend, from its socket to its end.
 *
 * Theory
 *   Messages are peeked, handled and answered strictly one after the other, and leave the socket with their answer.
 *   While a handler waits for the device, or a reply for the journal or for room in the socket, nothing is read, so the
 *   frontend's own socket buffer is the only queue. Whoever takes the socket over from a process that was killed finds
 *   there what is still owed; the journal knows how much of it was done.
 *
 * States
 *   open -> closing -> closed. A fault, the peer's end, or `close` begin closing: the handler under way is waited for,
 *   the device releases everything, the descriptors are closed, then the socket.
 *
 * Invariants
 *   I1  no message is handled before the previous one is answered.
 *   I2  `onClose` is called exactly once, after the last descriptor is closed.
 *   I3  a frontend that sends without pause does not keep the event loop from others.
 *   I4  no wait spins: while a message is incomplete the socket is looked at by a timer, because it stays readable.
 *
 * Limits  TURN_MESSAGES_MAX messages per turn of the event loop; limits.ts.
 */
import { fstatSync } from 'node:fs';
import {
  close,
  closeAll,
  discard,
  eventfdSignal,
  isEventfd,
  type Poller,
  plainReplies,
  type ReplySender,
  send,
  setNonBlocking,
  shutdown,
  type Watch,
} from '@virtnet/host-linux';
import { EpollEvent, Errno } from '@virtnet/wire';
import type { VhostBackendDevice } from './device.js';
import type { VhostUserFault } from './faults.js';
import { PARTIAL_WAIT_MAX_MS, PARTIAL_WAIT_MIN_MS } from './limits.js';
import { messageOf, RequestReader } from './request-reader.js';
import type { SavedSession, SessionSnapshot } from './saved-session.js';
import { type SessionCounters, VhostUserSession } from './session.js';
import type { RingSetup } from './vring.js';

/** Why a connection ended. */
export type CloseReason =
  | { readonly kind: 'fault'; readonly fault: VhostUserFault }
  /** The frontend closed, or vanished. */
  | { readonly kind: 'end' }
  /** `close` was called. */
  | { readonly kind: 'local' };

/** Remembers how far a message came, for a successor: a RequestJournal of server-vfio-user, for example. */
export interface FrontendJournal {
  /** A whole message is in hand: to be handled, or answered as it was recorded. */
  begin(message: Uint8Array): 'fresh' | { readonly replay: Uint8Array | null };
  /** It was handled, and the answer may go out when this returns null, or what it returns resolves. */
  commit(message: Uint8Array, reply: Uint8Array | null): Promise<void> | null;
  /** It is answered and out of the socket. */
  finish(): void;
  /** The connection has ended. */
  forget(): void;
}

export interface VhostUserBackendOptions {
  /** A connected stream socket; owned from now on. */
  readonly fd: number;
  readonly poller: Poller;
  readonly device: VhostBackendDevice;
  /** Default: nobody goes on with this connection. */
  readonly journal?: FrontendJournal;
  /** Default: two system calls. */
  readonly replies?: ReplySender;
  /** A ring stopped being worked though no request says so. */
  onRingLost?(index: number, errno: number): void;
  /** A request was answered with a negative acknowledgement. */
  onDeclined?(request: number, errno: number): void;
  onClose(reason: CloseReason, counters: Readonly<SessionCounters>): void;
}

/** An answer that waits for room in the socket. */
interface Pending {
  readonly reply: Uint8Array;
  /** null: the request was dropped, only this rest of the reply is left. */
  readonly pieces: readonly number[] | null;
}

const TURN_MESSAGES_MAX = 32;
const NO_JOURNAL: FrontendJournal = { begin: () => 'fresh', commit: () => null, finish() {}, forget() {} };

export class VhostUserBackend {
  readonly #options: VhostUserBackendOptions;
  readonly #session: VhostUserSession;
  readonly #journal: FrontendJournal;
  readonly #reader: RequestReader;
  readonly #watch: Watch | null;
  #pending: Pending | null = null;
  #partialTimer: NodeJS.Timeout | undefined;
  #partialWaitMs = PARTIAL_WAIT_MIN_MS;
  #busy = false;
  /** The message is handled, its answer waits for the journal. */
  #held = false;
  #suspended = false;
  #idle = Promise.withResolvers<void>();
  #reason: CloseReason | null = null;
  readonly #ending = Promise.withResolvers<void>();
  readonly #closed = Promise.withResolvers<void>();

  private constructor(options: VhostUserBackendOptions, session: VhostUserSession) {
    this.#options = options;
    this.#session = session;
    this.#journal = options.journal ?? NO_JOURNAL;
    this.#reader = new RequestReader(options.fd);
    RequestReader.prepare(options.fd);
    this.#idle.resolve();
    const watch = options.poller.watch(options.fd, { readable: true }, (events) => this.#ready(events));
    this.#watch = typeof watch === 'number' ? null : watch;
    if (this.#watch === null) this.#end({ kind: 'end' });
  }

  /** Serves a new connection. */
  static open(options: VhostUserBackendOptions): VhostUserBackend {
    return new VhostUserBackend(options, newSession(options));
  }

  /**
   * Goes on with a connection whose process died; `take` gives the descriptors that were saved, by name. The device is
   * not told anything. Null when what was saved makes no sense: then socket and descriptors are closed.
   */
  static resume(
    options: VhostUserBackendOptions,
    saved: SavedSession,
    take: (name: string) => number | undefined,
  ): VhostUserBackend | null {
    const session = newSession(options);
    if (session.restore(saved, take)) return new VhostUserBackend(options, session);
    session.closeFds();
    shutdown(options.fd);
    close(options.fd);
    return null;
  }

  get fd(): number {
    return this.#options.fd;
  }

  get counters(): Readonly<SessionCounters> {
    return this.#session.counters;
  }

  /** Whether a message is being handled, or the connection is being ended. */
  get busy(): boolean {
    return (this.#busy && !this.#held) || this.#reason !== null;
  }

  /** Resolves when neither is the case, or the connection has ended. */
  get idle(): Promise<void> {
    return this.#idle.promise;
  }

  get ringSetups(): readonly RingSetup[] {
    return this.#session.ringSetups;
  }

  get regions() {
    return this.#session.regions;
  }

  /** What the frontend has said; while a message is handled, only when the journal is told of its end. */
  save(): SessionSnapshot {
    return this.#session.save();
  }

  /** The device broke: tells the frontend on the error eventfd of every running ring. */
  reportBroken(errno: number): void {
    if (this.#reason === null) this.#session.reportBroken(errno);
  }

  /** Ends the connection; resolves when everything is let go. Repeating it does no harm. */
  close(): Promise<void> {
    this.#end({ kind: 'local' });
    return this.#closed.promise;
  }

  /** Handles no further message: the next is a successor's. Resolves when none is being handled. */
  suspend(): Promise<void> {
    this.#suspended = true;
    if (this.#reason === null) this.#watch?.setReadable(false);
    return this.#idle.promise;
  }

  #ready(events: number): void {
    if (this.#reason !== null) return;
    if (this.#busy || (this.#suspended && this.#pending === null)) {
      // Level-triggered: look again when the handler is done. A hang-up cannot be switched off, only no longer watched.
      if ((events & (EpollEvent.HUP | EpollEvent.ERR)) !== 0) this.#watch?.close();
      else this.#watch?.setReadable(false);
      return;
    }
    void this.#turn();
  }

  async #turn(): Promise<void> {
    clearTimeout(this.#partialTimer);
    this.#partialTimer = undefined;
    this.#busy = true;
    this.#idle = Promise.withResolvers<void>();
    const reason = await this.#work();
    if (reason !== null) this.#end(reason);
    this.#busy = false;
    if (this.#reason !== null) void this.#finish();
    else {
      this.#idle.resolve();
      const readable = !this.#suspended && this.#pending === null && this.#partialTimer === undefined;
      if (this.#watch!.setReadable(readable) < 0) this.#end({ kind: 'end' });
    }
  }

  /** Handles what is there; the reason to end, or null to wait for more. */
  async #work(): Promise<CloseReason | null> {
    const pending = this.#pending;
    if (pending !== null) {
      const broken = this.#answer(pending.reply, pending.pieces);
      if (broken !== null || this.#pending !== null) return broken;
    }
    for (let left = TURN_MESSAGES_MAX; !this.#over; left--) {
      if (left === 0) {
        await new Promise(setImmediate);
        left = TURN_MESSAGES_MAX;
        if (this.#over) return null;
      }
      const request = this.#reader.read();
      if (request.kind === 'wait') {
        if (request.partial) this.#waitForRest();
        return null;
      }
      if (request.kind === 'fault') return { kind: 'fault', fault: request.fault };
      if (request.kind !== 'message') return { kind: 'end' };
      this.#partialWaitMs = PARTIAL_WAIT_MIN_MS;
      const { message, fds, pieces } = request;
      const beginning = this.#journal.begin(message);
      let reply: Uint8Array | null;
      if (beginning === 'fresh') {
        const read = messageOf(request);
        if ('code' in read) {
          closeAll(fds);
          return { kind: 'fault', fault: read };
        }
        const outcome = await this.#session.handle(read);
        if ('fault' in outcome) return { kind: 'fault', fault: outcome.fault };
        reply = outcome.reply;
        const recording = this.#journal.commit(message, reply);
        if (recording !== null && !(await this.#hold(recording))) return null;
      } else {
        closeAll(fds); // the predecessor took them over; these are duplicates
        reply = beginning.replay;
      }
      const broken = this.#answer(reply, pieces);
      if (broken !== null || this.#pending !== null) return broken;
    }
    return null;
  }

  /** Nothing more is to be handled. */
  get #over(): boolean {
    return this.#suspended || this.#reason !== null;
  }

  /** Waits until `recording` resolves; false when the connection is ended before that. */
  async #hold(recording: Promise<void>): Promise<boolean> {
    this.#held = true;
    this.#idle.resolve();
    await Promise.race([recording, this.#ending.promise]);
    this.#idle = Promise.withResolvers();
    this.#held = false;
    return this.#reason === null;
  }

  /** Answers the message and drops it, or has both wait for room; the reason to end when the socket is broken. */
  #answer(reply: Uint8Array | null, pieces: readonly number[] | null): CloseReason | null {
    const left = this.#send(reply, pieces);
    if (left === -Errno.EAGAIN && reply !== null) this.#pending = { reply, pieces };
    else if (left < 0) return { kind: 'end' };
    else if (left > 0 && reply !== null)
      this.#pending = { reply: reply.subarray(reply.length - left), pieces: null };
    else {
      this.#pending = null;
      this.#journal.finish();
    }
    this.#watch?.setWritable(this.#pending !== null);
    return null;
  }

  /** 0 when all is done; how many bytes of the reply are left; or -errno, -EAGAIN when nothing was done. */
  #send(reply: Uint8Array | null, pieces: readonly number[] | null): number {
    const { fd, replies = plainReplies } = this.#options;
    if (reply === null) return Math.min(discard(fd, sum(pieces ?? [])), 0);
    if (pieces !== null) return replies.sendThenDiscard(fd, reply, pieces);
    const sent = send(fd, reply);
    return sent < 0 ? sent : reply.length - sent;
  }

  #waitForRest(): void {
    this.#partialTimer = setTimeout(() => {
      if (!this.#busy && this.#reason === null) void this.#turn();
    }, this.#partialWaitMs);
    this.#partialWaitMs = Math.min(this.#partialWaitMs * 2, PARTIAL_WAIT_MAX_MS);
  }

  #end(reason: CloseReason): void {
    if (this.#reason !== null) return;
    this.#reason = reason;
    this.#ending.resolve();
    clearTimeout(this.#partialTimer);
    this.#watch?.close();
    if (this.#busy) return;
    this.#idle = Promise.withResolvers<void>();
    void this.#finish();
  }

  async #finish(): Promise<void> {
    await this.#session.close();
    this.#reader.reset();
    this.#journal.forget();
    shutdown(this.#options.fd); // whoever keeps a descriptor for a successor does not keep the connection
    close(this.#options.fd);
    this.#idle.resolve();
    this.#options.onClose(this.#reason!, this.counters);
    this.#closed.resolve();
  }
}

function newSession(options: VhostUserBackendOptions): VhostUserSession {
  return new VhostUserSession(options.device, {
    closeFd: close,
    usableEventfd: (fd) => isEventfd(fd) && setNonBlocking(fd) === 0,
    signal: eventfdSignal,
    sameFile,
    ringLost: (index, errno) => options.onRingLost?.(index, errno),
    declined: (request, errno) => options.onDeclined?.(request, errno),
  });
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0);
}

function sameFile(a: number, b: number): boolean {
  try {
    const [x, y] = [fstatSync(a, { bigint: true }), fstatSync(b, { bigint: true })];
    return x.dev === y.dev && x.ino === y.ino;
  } catch {
    return false;
  }
}
