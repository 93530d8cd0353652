/**
 * transmit-queue.ts: frames from the driver to the representor.
 *
 * Theory
 *   One turn takes chains up to a budget, judges each header in private memory, and hands frame and header to the
 *   port without copying the frame. Frames leave in the order they were made available. A port that is full keeps
 *   its frame in the ring: nothing is queued here, so a driver that is faster than the representor fills its own
 *   ring and no memory of ours (failure C20).
 *
 * Invariants
 *   I1  a chain is given back exactly once: sent, or dropped under one counter.
 *   I2  the stores around the port's call follow queue-ledger.ts: a crash sends at most one frame twice.
 *
 * Limits  FRAME_BYTES_MAX a frame; the budget a turn.
 * Spec    virtio 1.3, 5.1.6.2.
 */
import { type DeviceRing, QueueWait, WorkedQueue } from '@virtnet/engine-virtqueue';
import { Errno, type QueueBlock, QueueCounter } from '@virtnet/wire';
import { TransmitHeader } from './net-header.js';
import { counterOfRefusal, type FramePort } from './port.js';

export interface QueueOptions {
  readonly ring: DeviceRing;
  readonly port: FramePort;
  /** The queue's block of the state page. */
  readonly block: QueueBlock;
  /** Features in force: negotiated, and for receive offloads not switched off since. */
  readonly features: bigint;
  /** Largest packet in bytes, Ethernet header excluded; 0: any. */
  readonly mtu: number;
  readonly linkUp: boolean;
}

const PORT_FULL = -Errno.EAGAIN;

export class TransmitQueue extends WorkedQueue {
  readonly #port: FramePort;
  readonly #header: TransmitHeader;
  readonly #linkUp: boolean;

  constructor(options: QueueOptions) {
    super(options.ring, options.block);
    this.#port = options.port;
    this.#header = new TransmitHeader(options.features, options.mtu);
    this.#linkUp = options.linkUp;
  }

  override poll(budget: number): number {
    if (this.fault !== null) return 0;
    const { ring, ledger } = this;
    this.waitsFor = QueueWait.DRIVER;
    if (ledger.turn() === 0) return 0;
    let worked = 0;
    while (worked < budget) {
      const segments = ring.take();
      if (segments === 0) break;
      if (segments > 0) {
        if (!this.#send()) {
          this.waitsFor = QueueWait.PORT;
          break;
        }
      } else if (!ledger.refuse()) {
        this.stop();
        break;
      }
      worked++;
    }
    if (worked > 0 && ledger.publish()) this.interrupt = true;
    return worked;
  }

  /** Deals with the current chain; false when the port is full and the chain stays. */
  #send(): boolean {
    const { ring, ledger } = this;
    const header = this.#header;
    const verdict = this.#linkUp ? header.read(ring) : QueueCounter.DROP_LINK_DOWN;
    if (verdict !== 0) {
      ledger.completeDrop(verdict);
      return true;
    }
    ledger.begin();
    const sent = this.#port.send(ring, header.bytes, header.frameOffset);
    if (sent === PORT_FULL) {
      ledger.keep();
      return false;
    }
    if (sent < 0) ledger.completeDrop(counterOfRefusal(sent));
    else ledger.completeFrame(ring.readableBytes - header.frameOffset, 0);
    return true;
  }
}
