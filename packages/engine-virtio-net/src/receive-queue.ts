/**
 * receive-queue.ts: frames from the representor to the driver.
 *
 * Theory
 *   One turn takes a chain and lets the port put a frame into it, behind the room for the header; the header is
 *   judged in private memory and written last. A frame that is not delivered leaves its chain where it was, for the
 *   next frame. Without a chain the port is not read: what the driver has no room for waits, or is lost, on the
 *   representor's side, where the kernel or the switch counts it. Frames over several buffers: spread-queue.ts.
 *   Plain frames come in bursts, if the port has a short way for them (port.ts), and everything is wanted and
 *   sizes are not counted.
 *
 * Invariants
 *   I1  no used element names bytes that were not written: a frame too large for its chain is dropped whole
 *       (failure F6).
 *   I2  the stores around the port's call follow queue-ledger.ts: a crash loses at most one frame.
 *   I3  an inactive queue (steering) is given no frame.
 *
 * Limits  one chain a frame; the budget a turn.
 * Spec    virtio 1.3, 5.1.6.3 and 5.1.6.4.
 */
import { QueueWait, WorkedQueue } from '@virtnet/engine-virtqueue';
import { Errno, Ethernet, NetHeader, QueueCounter } from '@virtnet/wire';
import type { HashSettings } from './flow-hash.js';
import { ReceiveHeader, vlanOf } from './net-header.js';
import type { FramePort } from './port.js';
import type { ReceiveFilter } from './receive-filter.js';
import type { QueueOptions } from './transmit-queue.js';

export interface ReceiveQueueOptions extends QueueOptions {
  /** Whether steering may choose this queue now. */
  readonly active: boolean;
  /** null: every frame is wanted. */
  readonly filter: ReceiveFilter | null;
  /** Whether frames are counted by size; default false. */
  readonly countSizes?: boolean;
  /** Which hashes frames carry; default none. */
  readonly hash?: HashSettings | null;
}

const PORT_EMPTY = -Errno.EAGAIN;

export class ReceiveQueue extends WorkedQueue {
  protected readonly port: FramePort;
  protected readonly header: ReceiveHeader;
  readonly #linkUp: boolean;
  readonly #active: boolean;
  readonly #filter: ReceiveFilter | null;
  protected readonly countSizes: boolean;
  readonly #shortWay: boolean;

  constructor(options: ReceiveQueueOptions) {
    super(options.ring, options.block);
    this.port = options.port;
    this.header = new ReceiveHeader(options.features, options.mtu, options.hash ?? null);
    this.#linkUp = options.linkUp;
    this.#active = options.active;
    this.#filter = options.filter;
    this.countSizes = options.countSizes === true;
    this.#shortWay =
      options.linkUp &&
      options.port.receivePlain !== undefined &&
      this.header.frameOffset === NetHeader.sizeBytes &&
      (options.filter === null || options.filter.acceptsAll) &&
      !this.countSizes;
  }

  override poll(budget: number): number {
    if (this.fault !== null) return 0;
    const { ring, ledger } = this;
    this.waitsFor = QueueWait.PORT;
    const waiting = ledger.turn();
    if (!this.#active) return 0;
    let worked = 0;
    if (this.#shortWay) {
      const count = ring.scan(Math.min(waiting, budget), true);
      if (count > 0) {
        ledger.begin();
        const { plainBytesMax } = this.header;
        worked = this.port.receivePlain!(ring, count, plainBytesMax, ledger);
        const spread = worked < count ? this.receiveFrames(worked, count - worked, plainBytesMax) : 0;
        worked += spread;
        ledger.endPlain(worked);
        if (spread > 0) return this.#worked(worked); // the chains behind are too few for a frame: again with others
      }
    }
    while (worked < budget) {
      const segments = ring.take();
      if (segments === 0) {
        this.waitsFor = QueueWait.DRIVER;
        break;
      }
      if (segments > 0) {
        if (!this.receive()) break;
      } else if (!ledger.refuse()) {
        this.stop();
        break;
      }
      worked++;
    }
    return this.#worked(worked);
  }

  #worked(chains: number): number {
    if (chains > 0 && this.ledger.publish()) this.interrupt = true;
    return chains;
  }

  /** Receives a burst of frames that need several buffers into the laid out chains from `first` on; how many chains. */
  protected receiveFrames(_first: number, _count: number, _bytesMax: number): number {
    return 0;
  }

  /** Deals with one frame, or with a chain that can hold none; false when the port has no frame. */
  protected receive(): boolean {
    const { ring, ledger, header } = this;
    const room = ring.writableBytes - header.frameOffset;
    if (room < Ethernet.HEADER_BYTES) {
      ledger.count(QueueCounter.BAD_DESC_ERRORS);
      ledger.completeDrop(QueueCounter.DROP_BAD_CHAIN);
      return true;
    }
    ledger.begin();
    const received = this.port.receive(ring, header.bytes, header.frameOffset);
    if (received < 0) return this.nothing(received);
    const frameBytes = received - NetHeader.sizeBytes;
    let reason = this.unwanted();
    if (reason === 0)
      reason = frameBytes > room ? QueueCounter.DROP_NO_BUFFER : header.judge(ring, frameBytes);
    if (reason !== 0) {
      ledger.count(reason);
      ledger.keep();
      return true;
    }
    header.write(ring);
    if (this.countSizes) ledger.countSize(frameBytes);
    ledger.completeFrame(frameBytes, header.frameOffset + frameBytes);
    return true;
  }

  /** The port gave no frame: -EAGAIN, or another -errno. */
  protected nothing(errno: number): false {
    this.ledger.keep();
    if (errno !== PORT_EMPTY) this.ledger.count(QueueCounter.DROP_TAP_ERROR);
    return false;
  }

  /** Why nobody wants the frame in the current chain, or 0. */
  protected unwanted(): 0 | QueueCounter {
    if (!this.#linkUp) return QueueCounter.DROP_LINK_DOWN;
    const filter = this.#filter;
    if (filter === null) return 0;
    const head = this.header.headOf(this.ring);
    return filter.accepts(head, vlanOf(head));
  }
}
