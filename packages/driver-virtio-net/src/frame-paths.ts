/**
 * frame-paths.ts: frames of one queue pair between the rings and one queue of the TAP.
 *
 * Theory
 *   A slot holds what the TAP reads or writes in one piece: header and frame. So a frame is one system call, and is
 *   copied only by the kernel.
 *   The host sends: whenever the TAP has frames they are read into free slots. Without a free slot the TAP is left
 *   alone, and the kernel makes its senders wait, until the device gave most slots back and signalled.
 *   The host receives: the device signals, used slots are written to the TAP and offered again.
 *
 * Invariants
 *   I1  at most BURST_FRAMES are moved before the event loop has a turn.
 *   I2  after close() nothing of a path is called any more, and neither memory nor descriptors are touched.
 *   I3  a frame that the TAP does not take is counted and dropped.
 */

import {
  eventfdDrain,
  eventfdSignal,
  IoVector,
  type Poller,
  readv,
  type Watch,
  writev,
} from '@virtnet/host-linux';
import { EpollEvent, Errno, LinuxErrno, NetHeader } from '@virtnet/wire';
import { type DriverRing, NOTHING_USED, RING_FAULT } from './driver-ring.js';
import { BURST_FRAMES } from './limits.js';

export interface PathOptions {
  readonly ring: DriverRing;
  /** Process address of offset 0 of the ring's memory. */
  readonly address: number;
  readonly poller: Poller;
  readonly tapFd: number;
  readonly kickFd: number;
  readonly callFd: number;
  /** The TAP is gone: its network namespace has ended. */
  onTapLost(): void;
  /** The device broke the ring. */
  onFault(reason: string): void;
}

/** Since the function was attached. */
export interface PathCounters {
  frames: number;
  dropped: number;
}

const watched = (watch: Watch | number): Watch => {
  if (typeof watch === 'number') throw new Error(`cannot watch a descriptor: errno ${-watch}`);
  return watch;
};

/** What the host sends. */
export class TransmitPath {
  readonly counters: PathCounters = { frames: 0, dropped: 0 };
  readonly #options: PathOptions;
  readonly #iov = new IoVector(1);
  readonly #tap: Watch;
  readonly #call: Watch;
  #open = true;

  constructor(options: PathOptions) {
    this.#options = options;
    const { poller, tapFd, callFd } = options;
    this.#tap = watched(poller.watch(tapFd, { readable: true }, (events) => this.#ready(events)));
    this.#call = watched(poller.watch(callFd, { readable: true }, () => this.#signalled()));
  }

  close(): void {
    this.#open = false;
    this.#tap.close();
    this.#call.close();
  }

  #ready(events: number): void {
    if ((events & EpollEvent.IN) === 0) {
      if ((events & (EpollEvent.ERR | EpollEvent.HUP)) !== 0) this.#options.onTapLost();
      return;
    }
    const { ring, tapFd, kickFd, address } = this.#options;
    if (!this.#reclaim()) return;
    for (let count = 0; count < BURST_FRAMES; count++) {
      const slot = ring.take();
      if (slot < 0) {
        this.#full();
        break;
      }
      this.#iov.set(0, address + ring.slotAt(slot), ring.plan.slotBytes);
      const bytes = readv(tapFd, this.#iov, 1);
      if (bytes <= NetHeader.sizeBytes) {
        ring.release(slot);
        if (bytes === -LinuxErrno.EBADFD) return this.#options.onTapLost();
        if (bytes === -Errno.EAGAIN) break;
        this.counters.dropped++;
        continue;
      }
      ring.offer(slot, bytes);
      this.counters.frames++;
    }
    if (ring.publish()) eventfdSignal(kickFd);
  }

  /** Takes back what the device has sent. False when the ring is broken. */
  #reclaim(): boolean {
    const { ring } = this.#options;
    for (;;) {
      const slot = ring.collect();
      if (slot === NOTHING_USED) return true;
      if (slot === RING_FAULT) {
        this.#options.onFault('a transmit ring holds what was never offered');
        return false;
      }
      ring.release(slot);
    }
  }

  /** Waits for the device; what was offered so far is told to it by the caller. */
  #full(): void {
    this.#tap.setReadable(false);
    const { ring } = this.#options;
    if (ring.interruptsOn(Math.max(1, (ring.held * 3) >> 2))) this.#tap.setReadable(true);
  }

  #signalled(): void {
    eventfdDrain(this.#options.callFd);
    this.#options.ring.interruptsOff();
    if (this.#reclaim() && this.#open) this.#tap.setReadable(true);
  }
}

/** What the host receives. */
export class ReceivePath {
  readonly counters: PathCounters = { frames: 0, dropped: 0 };
  readonly #options: PathOptions;
  readonly #iov = new IoVector(1);
  readonly #call: Watch;
  #open = true;
  #again: NodeJS.Immediate | null = null;

  constructor(options: PathOptions) {
    this.#options = options;
    this.#call = watched(
      options.poller.watch(options.callFd, { readable: true }, () => {
        eventfdDrain(options.callFd);
        this.#work();
      }),
    );
  }

  /** Gives the device every slot. */
  fill(): void {
    const { ring, kickFd } = this.#options;
    for (let slot = ring.take(); slot >= 0; slot = ring.take()) ring.offer(slot, ring.plan.slotBytes);
    ring.interruptsOn();
    if (ring.publish()) eventfdSignal(kickFd);
    this.#work();
  }

  close(): void {
    this.#open = false;
    this.#call.close();
    if (this.#again !== null) clearImmediate(this.#again);
    this.#again = null;
  }

  #work(): void {
    this.#again = null;
    if (!this.#open) return;
    const { ring, kickFd } = this.#options;
    ring.interruptsOff();
    let count = 0;
    while (count < BURST_FRAMES) {
      const slot = ring.collect();
      if (slot === NOTHING_USED) break;
      if (slot === RING_FAULT) return this.#options.onFault('a receive ring holds what was never offered');
      this.#deliver(slot);
      count++;
    }
    if (ring.publish()) eventfdSignal(kickFd);
    if (count === BURST_FRAMES || ring.interruptsOn()) this.#again ??= setImmediate(() => this.#work());
  }

  #deliver(slot: number): void {
    const { ring, address, tapFd } = this.#options;
    const bytes = ring.usedBytes;
    this.#iov.set(0, address + ring.slotAt(slot), bytes);
    const written = bytes > NetHeader.sizeBytes ? writev(tapFd, this.#iov, 1) : -Errno.EINVAL;
    if (written < 0) this.counters.dropped++;
    else this.counters.frames++;
    ring.offer(slot, ring.plan.slotBytes);
  }
}
