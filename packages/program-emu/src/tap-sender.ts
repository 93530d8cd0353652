/**
 * tap-sender.ts: one queue of a representor TAP, for a driver that sends.
 *
 * Theory
 *   Plain frames, which ask for nothing and lie in one buffer, go in bursts of one system call (burst-writer.ts of
 *   host-linux); all others one by one, as at any TAP. The kernel says in the queue's page of the state page's file what it
 *   has sent, so that a successor neither sends it again nor forgets it. A few frames alone are sent one by one, too: for
 *   them a burst costs more than it saves. The ring for bursts is made when the first of them is sent.
 *
 * Invariants
 *   I1  a frame that found no room stays in the ring, unless one behind it was sent: then it is dropped.
 */
import type { DeviceRing, QueueLedger } from '@virtnet/engine-virtqueue';
import {
  type BurstRing,
  IoVector,
  NativeBuffer,
  sentOfBurst,
  type WriteTable,
  writev,
} from '@virtnet/host-linux';
import { BURST_FRAMES_MAX, Errno, NetHeader, QueueCounter } from '@virtnet/wire';
import { QueueBursts } from './queue-bursts.js';
import { TapPort } from './tap-port.js';

/** Fewer frames are written one by one. */
const BURST_LEAST = 4;

// Of the thread and not of a port, as in tap-port.ts.
const noHeader = new NativeBuffer(NetHeader.sizeBytes);
const vector = new IoVector(2);

export class TapSender extends TapPort {
  readonly #fd: number;
  readonly #bursts: QueueBursts<WriteTable>;

  /** `pageAddress`: of the queue's page, 0 when it has none. Without it, or without a table, all frames go one by one. */
  constructor(fd: number, table: WriteTable | null, pageAddress: number) {
    super(fd);
    this.#fd = fd;
    this.#bursts = new QueueBursts(table, pageAddress);
  }

  close(): void {
    this.#bursts.close();
  }

  sentBefore(burst: Uint32Array, count: number): number {
    const page = this.#bursts.page();
    return page === null ? 0 : sentOfBurst(new Uint32Array(page), burst, count);
  }

  sendPlain(ring: DeviceRing, count: number, frameOffset: number, ledger: QueueLedger): number {
    let done = 0;
    while (done < count) {
      const frames = Math.min(count - done, BURST_FRAMES_MAX);
      const kernel = frames < BURST_LEAST ? null : this.#bursts.ring;
      const sent =
        kernel === null
          ? this.#one(ring, done, frameOffset, ledger)
          : this.#burst(kernel, ring, done, frames, frameOffset, ledger);
      done += sent;
      if (sent === 0) break;
    }
    return done;
  }

  /** Sends chain `index`; how many were completed or dropped, 0 when there is no room. */
  #one(ring: DeviceRing, index: number, frameOffset: number, ledger: QueueLedger): number {
    const { offsets, lengths, pieces } = ring.plain;
    const bytes = lengths[index]! - frameOffset;
    vector.set(0, noHeader.address, NetHeader.sizeBytes);
    vector.set(1, ring.memory.pieces[pieces[index]!]!.address + offsets[index]! + frameOffset, bytes);
    const result = writev(this.#fd, vector, 2);
    if (result === -Errno.EAGAIN) return 0;
    if (result < 0) ledger.dropPlain(index, QueueCounter.DROP_TAP_ERROR);
    else ledger.completePlain(index, bytes, 0);
    return 1;
  }

  /** Sends `count` chains from `first` on; how many were completed or dropped: all, or those before there was no room. */
  #burst(
    kernel: BurstRing,
    ring: DeviceRing,
    first: number,
    count: number,
    frameOffset: number,
    ledger: QueueLedger,
  ): number {
    const { offsets, lengths, pieces: places } = ring.plain;
    const { pieces } = ring.memory;
    const table = this.#bursts.table!;
    for (let i = 0; i < count; i++) {
      const at = first + i;
      table.set(i, pieces[places[at]!]!.address + offsets[at]! + frameOffset, lengths[at]! - frameOffset);
    }
    kernel.describe(ledger.burst);
    ledger.beginKernelBurst(count);
    kernel.run(this.#fd, count);
    const { results } = kernel;
    let kept = count;
    while (kept > 0 && results[kept - 1] === -Errno.EAGAIN) kept--;
    for (let i = 0; i < kept; i++) {
      const at = first + i;
      const result = results[i]!;
      ledger.settle();
      if (result >= 0) ledger.completePlain(at, lengths[at]! - frameOffset, 0);
      else
        ledger.dropPlain(
          at,
          result === -Errno.EAGAIN ? QueueCounter.DROP_TAP_AGAIN : QueueCounter.DROP_TAP_ERROR,
        );
    }
    ledger.endKernelBurst();
    if (kernel.broken) this.close();
    return kept;
  }
}
