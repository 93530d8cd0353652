/**
 * poller.ts: descriptors watched by a thread's event loop.
 *
 * Theory
 *   All watched descriptors are in one epoll set, and libuv watches the descriptor of that set: when it becomes
 *   readable the set is asked without blocking and the callbacks run. Dispatch happens in setImmediate and not in
 *   libuv's callback, because only there Node drains promises and nextTicks after it; that phase follows in the
 *   same loop turn. Measured 20 us from signal to callback; an asynchronous epoll_wait on a pool thread
 *   costs 27 us and the pool thread.
 *   Each watch has an id of its own, which is the token in the epoll set. Events are matched to watches by id,
 *   never by descriptor number.
 *
 * States of a watch    open -> closed. A closed watch's callback is never called again, not even for events that
 *                      were already fetched.
 *
 * Invariants
 *   I1  an id is given to one watch at a time, and not again before 2^32 others.
 *   I2  the epoll set holds the open watches and nothing else. When that cannot be known (a descriptor was closed
 *       while watched, so its number may mean another file and the old file may live on in another process), the
 *       set is thrown away and built again from the open watches.
 *   I3  after stop() nothing of this object keeps the process alive.
 *
 * Limits  Epoll.EVENTS_PER_WAIT events per loop turn. Level-triggered: a callback that does not read
 *   is called again, and so is one that is told of HUP or ERR and does not close its watch.
 */
import { EpollEvent, Errno } from '@virtnet/wire';
import { Epoll } from './epoll.js';
import { type LoopHandle, watchReadable } from './loop.js';

/** What to wait for. Errors and hang-ups are always reported. */
export interface Interest {
  readonly readable?: boolean;
  readonly writable?: boolean;
}

/** One watched descriptor. */
export interface Watch {
  readonly fd: number;
  /** Starts or stops waiting for room to write. Returns 0 or -errno. */
  setWritable(on: boolean): number;
  /** Starts or stops waiting for something to read. Returns 0 or -errno. */
  setReadable(on: boolean): number;
  /** Ends the watch; does not close the descriptor. To be called before that is closed. Twice does nothing. */
  close(): void;
}

interface Entry {
  readonly id: number;
  readonly fd: number;
  readonly callback: (events: number) => void;
  interest: number;
  open: boolean;
}

const ID_LIMIT = 2 ** 32;
/** A peer's half close counts as readable: the next read tells. */
const READABLE = EpollEvent.IN | EpollEvent.RDHUP;

export class Poller {
  #epoll: Epoll;
  #handle: LoopHandle | null = null;
  #immediate: NodeJS.Immediate | null = null;
  #nextId = 1;
  #stopped = false;
  readonly #byId = new Map<number, Entry>();
  readonly #byFd = new Map<number, Entry>();
  #rebuilds = 0;

  /** Throws when the process has no descriptor left for the set. */
  constructor() {
    this.#epoll = createEpoll();
  }

  /** How often a descriptor closed while watched forced the set to be built again; a caller's mistake when not 0. */
  get rebuilds(): number {
    return this.#rebuilds;
  }

  /** Watches open now. */
  get size(): number {
    return this.#byId.size;
  }

  /**
   * Calls `callback` with EpollEvent bits on the event loop whenever `fd` is ready, from start() on.
   * Returns the watch or -errno (-EEXIST: this open file is watched under this number already).
   */
  watch(fd: number, interest: Interest, callback: (events: number) => void): Watch | number {
    if (this.#stopped) return -Errno.EBADF;
    const entry: Entry = { id: this.#takeId(), fd, callback, interest: bits(interest), open: true };
    const error = this.#epoll.add(fd, entry.interest, entry.id);
    if (error < 0) return error;
    // The kernel took a number we still hold: the old file was closed without telling us.
    const stale = this.#byFd.get(fd);
    this.#byId.set(entry.id, entry);
    this.#byFd.set(fd, entry);
    if (stale !== undefined) {
      this.#byId.delete(stale.id);
      stale.open = false;
      this.#rebuild();
    }
    const change = (bit: number, on: boolean): number => {
      if (!entry.open) return -Errno.EBADF;
      const wanted = on ? entry.interest | bit : entry.interest & ~bit;
      if (wanted === entry.interest) return 0;
      const result = this.#epoll.modify(fd, wanted, entry.id);
      if (result === 0) entry.interest = wanted;
      return result;
    };
    return {
      fd,
      setWritable: (on) => change(EpollEvent.OUT, on),
      setReadable: (on) => change(READABLE, on),
      close: () => this.#end(entry),
    };
  }

  /** Begins to call back, and keeps the process alive until stop(). */
  start(): void {
    if (this.#handle !== null || this.#stopped) return;
    this.#handle = watchReadable(this.#epoll.fd, () => this.#ready());
  }

  /** Ends all watches and frees the set. Nothing is called back afterwards; the object is used up. */
  stop(): Promise<void> {
    if (this.#stopped) return Promise.resolve();
    this.#stopped = true;
    this.#handle?.close();
    this.#handle = null;
    if (this.#immediate !== null) clearImmediate(this.#immediate);
    this.#immediate = null;
    for (const entry of this.#byId.values()) entry.open = false;
    this.#byId.clear();
    this.#byFd.clear();
    // libuv lets go of the descriptor in its next turn; closing it earlier could hand its number to a stranger.
    return new Promise((resolve) => {
      setImmediate(() => {
        this.#epoll.close();
        resolve();
      });
    });
  }

  #ready(): void {
    this.#immediate ??= setImmediate(() => this.#dispatch());
  }

  #dispatch(): void {
    this.#immediate = null;
    const epoll = this.#epoll;
    const count = epoll.wait(0);
    let unknown = false;
    for (let i = 0; i < count && this.#epoll === epoll; i++) {
      const entry = this.#byId.get(epoll.token(i));
      if (entry?.open) entry.callback(epoll.events(i));
      else unknown = true;
    }
    // A watch closed by an earlier callback of this batch leaves an event behind; a lingering file leaves one in
    // every batch. The next look tells which it was.
    if (unknown && this.#epoll === epoll && this.#handle !== null) this.#checkStray();
  }

  #checkStray(): void {
    const count = this.#epoll.wait(0);
    for (let i = 0; i < count; i++) {
      if (this.#byId.has(this.#epoll.token(i))) continue;
      this.#rebuild();
      return;
    }
  }

  #end(entry: Entry): void {
    if (!entry.open) return;
    entry.open = false;
    this.#byId.delete(entry.id);
    this.#byFd.delete(entry.fd);
    if (this.#epoll.remove(entry.fd) < 0) this.#rebuild();
  }

  #rebuild(): void {
    this.#rebuilds++;
    const old = this.#epoll;
    this.#epoll = createEpoll();
    for (const entry of this.#byId.values()) this.#epoll.add(entry.fd, entry.interest, entry.id);
    if (this.#handle !== null) {
      this.#handle.close();
      this.#handle = watchReadable(this.#epoll.fd, () => this.#ready());
    }
    setImmediate(() => old.close());
  }

  #takeId(): number {
    do this.#nextId = (this.#nextId + 1) % ID_LIMIT;
    while (this.#byId.has(this.#nextId));
    return this.#nextId;
  }
}

function createEpoll(): Epoll {
  const epoll = Epoll.create();
  if (typeof epoll === 'number') throw new Error(`cannot create an epoll set: errno ${-epoll}`);
  return epoll;
}

function bits({ readable, writable }: Interest): number {
  return (readable ? READABLE : 0) | (writable ? EpollEvent.OUT : 0);
}
