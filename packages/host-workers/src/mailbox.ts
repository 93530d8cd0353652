/**
 * mailbox.ts: how the main thread reaches a worker that never returns to its event loop.
 *
 * Theory
 *   A datapath worker is one endless synchronous loop. Messages reach it through a MessagePort that it drains with
 *   `receiveMessageOnPort`, doorbells through a bitmap in shared memory. Either way the main thread first leaves the
 *   work behind, then looks whether the worker sleeps, and only then pays for a wake-up call.
 *
 * Parties
 *   main     posts messages, sets doorbell bits, reads the heartbeat.
 *   worker   drains both; sets SLEEPING, looks once more, and only then sleeps.
 *
 * Invariants
 *   I1  no lost wake-up: the worker re-reads MAIL and DOORBELL after it has set SLEEPING; main reads SLEEPING after
 *       it has written them. All four accesses are Atomics.
 *   I2  a doorbell is never lost, though several may melt into one.
 *
 * Limits  DOORBELLS_MAX queues per worker.
 */
import { type MessagePort, receiveMessageOnPort } from 'node:worker_threads';

/** 32-bit words of the shared control block. */
const Word = {
  /** 1 while the worker waits (or is about to) in epoll. */
  SLEEPING: 0,
  /** Messages posted so far. */
  MAIL: 1,
  /** Bumped once per loop turn. */
  HEARTBEAT: 2,
  /** 1 when a doorbell bit was set since the last look. */
  DOORBELL: 3,
  /** First word of the doorbell bitmap. */
  BITMAP: 4,
} as const;

/** Queues one worker can be told about. */
export const DOORBELLS_MAX = 8192;
const WORDS = Word.BITMAP + DOORBELLS_MAX / 32;

/** A control block for one worker, shared by both sides. */
export function createControl(): SharedArrayBuffer {
  return new SharedArrayBuffer(WORDS * 4);
}

/** The main thread's end. */
export class MailboxSender<Message> {
  readonly #port: MessagePort;
  readonly #control: Int32Array;
  readonly #wake: () => void;

  /** `wake` ends the worker's sleep; it may be called when the worker is awake already. */
  constructor(port: MessagePort, control: SharedArrayBuffer, wake: () => void) {
    this.#port = port;
    this.#control = new Int32Array(control);
    this.#wake = wake;
  }

  post(message: Message): void {
    this.#port.postMessage(message);
    Atomics.add(this.#control, Word.MAIL, 1);
    this.#wakeIfSleeping();
  }

  /** Rings doorbell `slot`, 0 <= slot < DOORBELLS_MAX. */
  ring(slot: number): void {
    Atomics.or(this.#control, Word.BITMAP + (slot >>> 5), 1 << (slot & 31));
    Atomics.store(this.#control, Word.DOORBELL, 1);
    this.#wakeIfSleeping();
  }

  /** Loop turns of the worker so far, modulo 2^32. */
  get heartbeat(): number {
    return Atomics.load(this.#control, Word.HEARTBEAT) >>> 0;
  }

  get sleeping(): boolean {
    return Atomics.load(this.#control, Word.SLEEPING) === 1;
  }

  #wakeIfSleeping(): void {
    if (Atomics.load(this.#control, Word.SLEEPING) === 1) this.#wake();
  }
}

/** The worker's end. */
export class MailboxReceiver<Message> {
  readonly #port: MessagePort;
  readonly #control: Int32Array;
  #mailSeen = 0;

  constructor(port: MessagePort, control: SharedArrayBuffer) {
    this.#port = port;
    this.#control = new Int32Array(control);
  }

  /** Counts one loop turn. Nothing is ordered by it: an atomic store would wait for every one in front of it. */
  beat(): void {
    const control = this.#control;
    control[Word.HEARTBEAT] = (control[Word.HEARTBEAT]! + 1) | 0;
  }

  /** Whether a message or a doorbell waits; two loads, cheap enough for every turn. */
  get pending(): boolean {
    const control = this.#control;
    return Atomics.load(control, Word.MAIL) !== this.#mailSeen || Atomics.load(control, Word.DOORBELL) === 1;
  }

  /** Hands the waiting messages to `handle`, `most` of them at most; the others are still pending. */
  drainMessages(handle: (message: Message) => void, most: number): void {
    const posted = Atomics.load(this.#control, Word.MAIL);
    for (let left = most; this.#mailSeen !== posted && left > 0; left--) {
      const entry = receiveMessageOnPort(this.#port);
      if (entry === undefined) return;
      this.#mailSeen = (this.#mailSeen + 1) | 0;
      handle(entry.message as Message);
    }
  }

  /** Hands every rung doorbell to `handle` and clears it. */
  drainDoorbells(handle: (slot: number) => void): void {
    const control = this.#control;
    if (Atomics.exchange(control, Word.DOORBELL, 0) === 0) return;
    for (let word = Word.BITMAP; word < WORDS; word++) {
      if (control[word] === 0) continue;
      let bits = Atomics.exchange(control, word, 0);
      while (bits !== 0) {
        const bit = 31 - Math.clz32(bits & -bits);
        bits &= bits - 1;
        handle((word - Word.BITMAP) * 32 + bit);
      }
    }
  }

  /** Declares the intent to sleep; false when work arrived meanwhile and sleeping would lose it (I1). */
  goToSleep(): boolean {
    Atomics.store(this.#control, Word.SLEEPING, 1);
    if (!this.pending) return true;
    Atomics.store(this.#control, Word.SLEEPING, 0);
    return false;
  }

  wokeUp(): void {
    Atomics.store(this.#control, Word.SLEEPING, 0);
  }
}
