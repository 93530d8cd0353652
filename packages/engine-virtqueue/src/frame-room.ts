/**
 * frame-room.ts: makes room for a frame over several of the chains that wait (mergeable receive buffers).
 *
 * Theory
 *   Chain after chain is added to what is current until the frame fits. Where it does not, all that waits was walked in
 *   vain, and nothing of it is used up: the next frame finds it again. So what was found is remembered until a chain is
 *   given back or another one waits, and a frame for which that is too little is told so at once.
 *
 * Limits  those of the ring: segments, and chains that wait.
 * Spec    virtio 1.3, 5.1.6.3.2.
 */
import { QueueCounter } from '@virtnet/wire';
import type { DeviceRing } from './device-ring.js';
import type { QueueLedger } from './queue-ledger.js';

const NEVER = -1;

export class FrameRoom {
  readonly #ring: DeviceRing;
  readonly #counters: QueueLedger['counters'];
  /** Writable bytes of all that could be added, and when: chains completed and waiting. */
  #bytes = 0;
  #completed = NEVER;
  #waiting = 0;

  constructor(ring: DeviceRing, { counters }: Pick<QueueLedger, 'counters'>) {
    this.#ring = ring;
    this.#counters = counters;
  }

  /** Adds chains to what is current until it has `bytes` writable bytes; false when there are not as many. */
  reach(bytes: number): boolean {
    const ring = this.#ring;
    if (ring.writableBytes >= bytes) return true;
    const completed = this.#counters[QueueCounter.COMPLETED_DESC]!;
    const waiting = ring.available(); // before the walk: what comes meanwhile is a change
    if (bytes > this.#bytes && completed === this.#completed && waiting === this.#waiting) return false;
    while (ring.writableBytes < bytes) {
      if (ring.extend()) continue;
      this.#bytes = ring.writableBytes;
      this.#completed = completed;
      this.#waiting = waiting;
      return false;
    }
    return true;
  }
}
