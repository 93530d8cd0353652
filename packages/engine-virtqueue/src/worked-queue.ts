/**
 * worked-queue.ts: what the owner of a queue sees of it, whatever it carries.
 *
 * Theory
 *   A worker polls a queue while there is work and lets it sleep when there is none. Which of the two sides it waits
 *   for decides what wakes it: for the driver, kicks are armed; for the port (a full or an empty representor), the
 *   port's own readiness does it, and arming kicks would only wake it for nothing.
 *
 * Parties
 *   worker   calls poll() until it returns 0, then arm(); sleeps when arm() says so; disarm() when it wakes up.
 *   queue    never sleeps, signals or resets by itself: it sets `interrupt` and `fault` and leaves the rest to others.
 *
 * Invariants
 *   I1  no lost wake-up: arm() returns true when the driver made entries available before it could see the wish.
 *   I2  after a fault poll() moves nothing any more.
 *
 * Limits  those of the ring.
 */
import { type QueueBlock, QueueCounter } from '@virtnet/wire';
import type { DeviceRing } from './device-ring.js';
import type { RingFault } from './fault.js';
import { QueueLedger } from './queue-ledger.js';

/** Whose move it is when a queue has nothing to do. */
export const QueueWait = { DRIVER: 0, PORT: 1 } as const;
export type QueueWait = (typeof QueueWait)[keyof typeof QueueWait];

export abstract class WorkedQueue {
  /** The driver wants an interrupt. Set by poll() and resume(); the owner clears it when it has interrupted. */
  interrupt = false;
  /** Why the ring broke: the owner must set DEVICE_NEEDS_RESET. */
  fault: RingFault | null = null;
  /** Meaningful after a poll() that did not use its budget up. */
  waitsFor: QueueWait = QueueWait.DRIVER;
  protected readonly ring: DeviceRing;
  protected readonly ledger: QueueLedger;

  constructor(ring: DeviceRing, block: QueueBlock) {
    this.ring = ring;
    this.ledger = new QueueLedger(ring, block);
  }

  /** Moves up to `budget` frames; how many chains or frames it dealt with, dropped ones included. */
  abstract poll(budget: number): number;

  /** Before sleep: asks for kicks if it is the driver's move. True: there is work already, poll again. */
  arm(): boolean {
    return this.fault === null && this.waitsFor === QueueWait.DRIVER && this.ring.armKicks();
  }

  /** After sleep: asks the driver not to kick while the queue is polled. */
  disarm(): void {
    this.ring.suppressKicks();
  }

  /** The driver kicked. A kick that brought nothing is counted, and is no fault (failure C18). */
  noteKick(): void {
    if (this.ring.available() === 0) this.ledger.count(QueueCounter.SPURIOUS_KICKS);
  }

  /** Whether the driver still wants the interrupt that it was to get. */
  wantsInterrupt(): boolean {
    return this.ring.wantsInterrupt();
  }

  countInterrupt(): void {
    this.ledger.count(QueueCounter.INTERRUPTS);
  }

  /**
   * Goes on where the state page says; on a queue just set up it changes nothing. Publishes what a process that is
   * gone had completed. After a crash the owner interrupts the driver once in any case: the last interrupt may be
   * the one that was lost.
   */
  resume(): void {
    if (this.ledger.resume()) this.interrupt = true;
  }

  protected stop(): void {
    this.fault = this.ring.fault;
  }
}
