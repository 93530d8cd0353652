/**
 * backend.ts: one connection of a frontend, from its socket to its end.
 *
 * Theory
 *   Messages are read, handled and answered strictly one after the other. While a handler waits for the device, or a
 *   reply for room in the socket, nothing is read, so the frontend's own socket buffer is the only queue.
 *
 * States
 *   open -> closing -> closed. A fault, the peer's end, or `close` begin closing: the handler under way is waited for,
 *   the device releases everything, the descriptors are closed, then the socket.
 *
 * Invariants
 *   I1  no message is handled before the previous one is answered.
 *   I2  `onClose` is called exactly once, after the last descriptor is closed.
 *   I3  a frontend that sends without pause does not keep the event loop from others.
 *
 * Limits  TURN_MESSAGES_MAX messages per turn of the event loop; limits.ts.
 */
import { fstatSync } from 'node:fs';
import {
  close,
  eventfdSignal,
  isEventfd,
  type Poller,
  send,
  setNonBlocking,
  type Watch,
} from '@virtnet/host-linux';
import { EpollEvent, Errno } from '@virtnet/wire';
import type { VhostBackendDevice } from './device.js';
import type { VhostUserFault } from './faults.js';
import { MessageReader } from './message-reader.js';
import { type SessionCounters, VhostUserSession } from './session.js';

/** Why a connection ended. */
export type CloseReason =
  | { readonly kind: 'fault'; readonly fault: VhostUserFault }
  /** The frontend closed, or vanished. */
  | { readonly kind: 'end' }
  /** `close` was called. */
  | { readonly kind: 'local' };

export interface VhostUserBackendOptions {
  /** A connected stream socket; owned from now on. */
  readonly fd: number;
  readonly poller: Poller;
  readonly device: VhostBackendDevice;
  /** A ring stopped being worked though no request says so. */
  onRingLost?(index: number, errno: number): void;
  /** A request was answered with a negative acknowledgement. */
  onDeclined?(request: number, errno: number): void;
  onClose(reason: CloseReason, counters: Readonly<SessionCounters>): void;
}

const TURN_MESSAGES_MAX = 32;

export class VhostUserBackend {
  readonly #options: VhostUserBackendOptions;
  readonly #session: VhostUserSession;
  readonly #reader: MessageReader;
  readonly #watch: Watch | null;
  /** The rest of a reply that did not fit into the socket. */
  #unsent: Uint8Array | null = null;
  #busy = false;
  #reason: CloseReason | null = null;
  readonly #closed = Promise.withResolvers<void>();

  constructor(options: VhostUserBackendOptions) {
    this.#options = options;
    this.#session = new VhostUserSession(options.device, {
      closeFd: close,
      usableEventfd: (fd) => isEventfd(fd) && setNonBlocking(fd) === 0,
      signal: eventfdSignal,
      sameFile,
      ringLost: (index, errno) => options.onRingLost?.(index, errno),
      declined: (request, errno) => options.onDeclined?.(request, errno),
    });
    this.#reader = new MessageReader(options.fd);
    const watch = options.poller.watch(options.fd, { readable: true }, (events) => this.#ready(events));
    this.#watch = typeof watch === 'number' ? null : watch;
    if (this.#watch === null) this.#end({ kind: 'end' });
  }

  get counters(): Readonly<SessionCounters> {
    return this.#session.counters;
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

  #ready(events: number): void {
    if (this.#reason !== null) return;
    if (this.#busy) {
      // Level-triggered: look again when the handler is done. A hang-up cannot be switched off, only no longer watched.
      if ((events & (EpollEvent.HUP | EpollEvent.ERR)) !== 0) this.#watch?.close();
      else this.#watch?.setReadable(false);
      return;
    }
    void this.#turn();
  }

  async #turn(): Promise<void> {
    this.#busy = true;
    const reason = await this.#work();
    if (reason !== null) this.#end(reason);
    this.#busy = false;
    if (this.#reason !== null) void this.#finish();
    else if (this.#watch!.setReadable(this.#unsent === null) < 0) this.#end({ kind: 'end' });
  }

  /** Handles what is there; the reason to end, or null to wait for more. */
  async #work(): Promise<CloseReason | null> {
    if (!this.#flush()) return null;
    for (let left = TURN_MESSAGES_MAX; this.#reason === null; left--) {
      if (left === 0) {
        await new Promise(setImmediate);
        left = TURN_MESSAGES_MAX;
        if (this.#reason !== null) return null;
      }
      const read = this.#reader.next();
      if (read === 'again') return null;
      if (read === 'end') return { kind: 'end' };
      if ('fault' in read) return { kind: 'fault', fault: read.fault };
      const outcome = await this.#session.handle(read.message);
      if ('fault' in outcome) return { kind: 'fault', fault: outcome.fault };
      this.#unsent = outcome.reply;
      if (!this.#flush()) return null;
    }
    return null;
  }

  /** Sends what is waiting; false when the socket is full. A broken socket is noticed by the next read. */
  #flush(): boolean {
    while (this.#unsent !== null) {
      const sent = send(this.#options.fd, this.#unsent);
      if (sent === -Errno.EAGAIN) break;
      this.#unsent = sent < 0 || sent === this.#unsent.length ? null : this.#unsent.subarray(sent);
    }
    this.#watch?.setWritable(this.#unsent !== null);
    return this.#unsent === null;
  }

  #end(reason: CloseReason): void {
    if (this.#reason !== null) return;
    this.#reason = reason;
    this.#watch?.close();
    if (!this.#busy) void this.#finish();
  }

  async #finish(): Promise<void> {
    await this.#session.close();
    this.#reader.dispose();
    close(this.#options.fd);
    this.#options.onClose(this.#reason!, this.counters);
    this.#closed.resolve();
  }
}

function sameFile(a: number, b: number): boolean {
  try {
    const [x, y] = [fstatSync(a, { bigint: true }), fstatSync(b, { bigint: true })];
    return x.dev === y.dev && x.ino === y.ino;
  } catch {
    return false;
  }
}
