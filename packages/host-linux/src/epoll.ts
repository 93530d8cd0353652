/**
 * epoll.ts: a set of descriptors a datapath thread sleeps on.
 *
 * Theory
 *   One epoll descriptor and one preallocated array of events. wait() blocks the calling thread, so it belongs on
 *   threads that have nothing else to do; an event loop uses Poller instead. Each descriptor is known by a token
 *   that the caller chooses and that comes back with its events. Tokens are not reused by whoever reuses descriptor
 *   numbers, so that an event of a closed descriptor is never taken for one of its successor.
 *
 * Invariants
 *   I1  token(i) and events(i) are those of the last wait() for i below what it returned.
 *   I2  wait() allocates nothing.
 *
 * Limits  EVENTS_PER_WAIT events at once (the kernel rotates, so none starves); one thread at a time waits.
 */
import { EPOLL_CLOEXEC, EpollEventWords, EpollOperation, Errno } from '@virtnet/wire';
import { close } from './fd.js';
import { declare, NativeBuffer, negativeErrno, orErrno } from './libc.js';

/** epoll_create1, epoll_ctl, epoll_wait: one thread serves the doorbells of many queues. */
const nativeCreate = declare<(flags: number) => number>('epoll_create1', 'int', ['int']);
const nativeControl = declare<(epoll: number, operation: number, fd: number, event: number) => number>(
  'epoll_ctl',
  'int',
  ['int', 'int', 'int', 'uintptr_t'],
);
const nativeWait = declare<(epoll: number, events: number, count: number, timeoutMs: number) => number>(
  'epoll_wait',
  'int',
  ['int', 'uintptr_t', 'int', 'int'],
);

/** Most events one wait returns. */
export const EVENTS_PER_WAIT = 256;

const { stride: STRIDE, data: DATA } = process.arch === 'arm64' ? EpollEventWords.arm64 : EpollEventWords.x64;
const argument = new NativeBuffer(STRIDE * 4);

export class Epoll {
  readonly fd: number;
  readonly #events = new NativeBuffer(EVENTS_PER_WAIT * STRIDE * 4);
  readonly #words = this.#events.u32;

  private constructor(fd: number) {
    this.fd = fd;
  }

  /** An empty set, or -errno. */
  static create(): Epoll | number {
    const fd = nativeCreate(EPOLL_CLOEXEC);
    return fd < 0 ? negativeErrno() : new Epoll(fd);
  }

  /** Watches `fd` for `events` (EpollEvent bits) under `token` (below 2^32). Returns 0 or -errno. */
  add(fd: number, events: number, token: number): number {
    return this.#control(EpollOperation.ADD, fd, events, token);
  }

  /** Replaces events and token of a watched descriptor. Returns 0 or -errno. */
  modify(fd: number, events: number, token: number): number {
    return this.#control(EpollOperation.MODIFY, fd, events, token);
  }

  /** Forgets `fd`. To be called before the descriptor is closed. Returns 0 or -errno. */
  remove(fd: number): number {
    return orErrno(nativeControl(this.fd, EpollOperation.DELETE, fd, 0));
  }

  /**
   * Blocks this thread until something happens or `timeoutMs` passed (0: only look; -1: for ever).
   * Returns the number of events; 0 also when a signal interrupted it; -errno after close().
   */
  wait(timeoutMs: number): number {
    const count = nativeWait(this.fd, this.#events.address, EVENTS_PER_WAIT, timeoutMs);
    if (count >= 0) return count;
    const error = negativeErrno();
    return error === -Errno.EINTR ? 0 : error;
  }

  /** Token of event `i`. */
  token(i: number): number {
    return this.#words[i * STRIDE + DATA]!;
  }

  /** EpollEvent bits of event `i`. */
  events(i: number): number {
    return this.#words[i * STRIDE]!;
  }

  /** Closes the set. Returns 0 or -errno. */
  close(): number {
    return close(this.fd);
  }

  #control(operation: number, fd: number, events: number, token: number): number {
    argument.u32[0] = events;
    argument.u32[DATA] = token;
    return orErrno(nativeControl(this.fd, operation, fd, argument.address));
  }
}
