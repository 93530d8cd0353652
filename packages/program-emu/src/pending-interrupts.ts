/**
 * pending-interrupts.ts: interrupts of one worker's queues that wait for their time.
 *
 * Theory
 *   A queue whose interrupts are moderated is put here when one of them waits. The loop calls settle() once a turn,
 *   which gives back those whose time has come, and before it sleeps sets the timer to the first of the others.
 *
 * Invariants
 *   I1  exactly the queues whose moderation is pending are here.
 *
 * Limits  the queues of one worker; the timer is made when it is first needed.
 */
import type { InterruptModeration } from '@virtnet/engine-virtio-net';
import { type Epoll, TimerFd } from '@virtnet/host-linux';
import { EpollEvent } from '@virtnet/wire';

export interface Moderated {
  readonly moderation: InterruptModeration | null;
}

export class PendingInterrupts<T extends Moderated> {
  readonly #waiting: T[] = [];
  readonly #epoll: Epoll;
  readonly #token: number;
  #timer: TimerFd | null = null;

  /** `token`: what the timer is called in `epoll`. */
  constructor(epoll: Epoll, token: number) {
    this.#epoll = epoll;
    this.#token = token;
  }

  get count(): number {
    return this.#waiting.length;
  }

  add(queue: T): void {
    if (!this.#waiting.includes(queue)) this.#waiting.push(queue);
  }

  remove(queue: T): void {
    const at = this.#waiting.indexOf(queue);
    if (at < 0) return;
    this.#waiting[at] = this.#waiting[this.#waiting.length - 1]!;
    this.#waiting.pop();
  }

  /** Calls `due` with each queue whose time has come; it has to remove it. */
  settle(nowMs: number, due: (queue: T) => void): void {
    for (let i = this.#waiting.length - 1; i >= 0; i--) {
      const queue = this.#waiting[i]!;
      if (nowMs >= queue.moderation!.deadlineMs) due(queue);
    }
  }

  /** Lets a sleep end at the first time of all. */
  setTimer(nowMs: number): void {
    let first = Number.POSITIVE_INFINITY;
    for (const { moderation } of this.#waiting) first = Math.min(first, moderation!.deadlineMs);
    this.#timer ??= this.#openTimer();
    this.#timer.set(Math.max(0, first - nowMs));
  }

  close(): void {
    this.#timer?.close();
  }

  #openTimer(): TimerFd {
    const timer = TimerFd.create();
    if (typeof timer === 'number') throw new Error(`timerfd_create: errno ${-timer}`);
    this.#epoll.add(timer.fd, EpollEvent.IN | EpollEvent.EDGE, this.#token);
    return timer;
  }
}
