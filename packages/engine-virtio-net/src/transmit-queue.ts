/**
 * transmit-queue.ts: frames from the driver to the representor.
 *
 * Theory
 *   One turn takes chains up to a budget, judges each header in private memory, and hands frame and header to the
 *   port without copying the frame. Frames leave in the order they were made available. A port that is full keeps
 *   its frame in the ring: nothing is queued here, so a driver that is faster than the representor fills its own
 *   ring and no memory of ours (failure C20).
 *   Plain frames (port.ts) go in bursts, if the port has a short way for them: descriptors of the burst, then headers,
 *   then frames, each in a short loop; a port that copies frames reads their headers with them. The first frame that is not plain ends the burst and goes alone; how far the next
 *   burst looks follows from how far the last one came. Frames in several pieces go in bursts of their own; where there
 *   are none, that is tried ever less often.
 *   A port may have the kernel send a burst in one go. It then knows what of a former owner's last burst was sent: those
 *   chains are given back first.
 *
 * Invariants
 *   I1  a chain is given back exactly once: sent, or dropped under one counter.
 *   I2  the stores around the port's call follow queue-ledger.ts: a crash sends at most one frame twice.
 *
 * Limits  FRAME_BYTES_MAX a frame; the budget a turn.
 * Spec    virtio 1.3, 5.1.6.2.
 */
import {
  type DeviceRing,
  type FrameDemands,
  PLAIN_CHAINS_MAX,
  QueueWait,
  WorkedQueue,
} from '@virtnet/engine-virtqueue';
import { Errno, Ethernet, type QueueBlock, QueueCounter } from '@virtnet/wire';
import { PLAIN_MASK, TransmitHeader } from './net-header.js';
import type { FramePort } from './port.js';
import { counterOfRefusal } from './refusal.js';

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
const ETHERNET_BYTES = Ethernet.HEADER_BYTES;
/** Most chains that go alone before bursts of frames in several pieces are tried again. */
const PAUSE_MAX = 63;

export class TransmitQueue extends WorkedQueue {
  readonly #port: FramePort;
  readonly #header: TransmitHeader;
  readonly #linkUp: boolean;
  readonly #shortWay: boolean;
  /** Frames the next burst looks at. */
  #stretch = PLAIN_CHAINS_MAX;
  /** The same of frames in several pieces. */
  #framesStretch = PLAIN_CHAINS_MAX;
  readonly #demands: FrameDemands;
  /** Chains that are still to go alone, and how many the next time, since nothing was a frame for a burst. */
  #aside = 0;
  #pause = 0;

  constructor(options: QueueOptions) {
    super(options.ring, options.block);
    this.#shortWay = options.linkUp && options.port.sendPlain !== undefined;
    this.#port = options.port;
    this.#header = new TransmitHeader(options.features, options.mtu);
    this.#linkUp = options.linkUp;
    const { frameOffset, plainBytesMax } = this.#header;
    this.#demands = { header: frameOffset, unwanted: PLAIN_MASK, bytesMax: plainBytesMax };
  }

  override poll(budget: number): number {
    if (this.fault !== null) return 0;
    const { ring, ledger } = this;
    this.waitsFor = QueueWait.DRIVER;
    const most = Math.min(ledger.turn(), budget);
    let worked = 0;
    while (worked < most) {
      if (this.#shortWay) {
        worked += this.#sendPlain(most - worked);
        if (worked === most) break;
        if (this.#aside > 0) this.#aside--;
        else {
          const frames = this.#sendFrames(most - worked);
          worked += frames;
          if (frames > 0) continue;
        }
      }
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

  override resume(): void {
    super.resume();
    const { ledger } = this;
    const frames = ledger.kernelBurst;
    if (frames === 0) return;
    ledger.recountSettled();
    const sent = this.#port.sentBefore?.(ledger.burst, frames) ?? 0;
    if (sent > 0) this.#giveBack(sent);
    ledger.endKernelBurst();
  }

  /** Completes the next chains, whose frames a former owner had sent. They are plain, or the driver has changed them. */
  #giveBack(sent: number): void {
    const { ring, ledger } = this;
    ring.available();
    const chains = ring.scan(sent, false);
    const { lengths } = ring.plain;
    for (let i = 0; i < chains; i++) {
      ledger.settle();
      ledger.completePlain(i, Math.max(lengths[i]! - this.#header.frameOffset, 0), 0);
    }
    ledger.endPlain(chains);
    ledger.publish();
    this.interrupt = true;
  }

  /** Sends plain frames up to `most`; how many there were until one was not, or the port was full. */
  #sendPlain(most: number): number {
    const { ring, ledger } = this;
    const { frameOffset, plainBytesMax } = this.#header;
    const stretch = Math.min(most, this.#stretch);
    const scanned = ring.scan(stretch, false);
    const plain = this.#port.judges === true ? scanned : this.#judgePlain(scanned);
    let done = 0;
    if (plain > 0) {
      ledger.begin();
      done = this.#port.sendPlain!(ring, plain, frameOffset, ledger, plainBytesMax);
      ledger.endPlain(done);
    }
    this.#stretch = done < stretch ? done + 1 : Math.min(2 * stretch + 1, PLAIN_CHAINS_MAX);
    return done;
  }

  /** The same of frames in several pieces. */
  #sendFrames(most: number): number {
    const { ring, ledger } = this;
    const port = this.#port;
    if (port.sendFrames === undefined) return 0;
    const stretch = Math.min(most, this.#framesStretch);
    const count = ring.scanFrames(stretch, this.#demands);
    let done = 0;
    if (count > 0) {
      ledger.begin();
      done = port.sendFrames(ring, count, this.#header.frameOffset, ledger);
      ledger.endPlain(done);
    }
    this.#framesStretch = done < stretch ? done + 1 : Math.min(2 * stretch + 1, PLAIN_CHAINS_MAX);
    this.#pause = done > 0 ? 0 : Math.min(2 * this.#pause + 1, PAUSE_MAX);
    this.#aside = this.#pause;
    return done;
  }

  /** How many of the chains of the ring's `plain` are plain frames, up to one that is not. */
  #judgePlain(scanned: number): number {
    const { ring } = this;
    const { offsets, lengths, pieces: places } = ring.plain;
    const { pieces } = ring.memory;
    const { frameOffset, plainBytesMax } = this.#header;
    let plain = 0;
    let judged = true;
    while (judged && plain < scanned) {
      const place = places[plain]!;
      const { view } = pieces[place]!;
      for (; plain < scanned && places[plain] === place; plain++) {
        const length = lengths[plain]!;
        const bytes = (length - frameOffset) | 0;
        const at = offsets[plain]!;
        judged =
          bytes >= ETHERNET_BYTES && bytes <= plainBytesMax && (view.getInt32(at, true) & PLAIN_MASK) === 0;
        if (!judged) break;
      }
    }
    return plain;
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
