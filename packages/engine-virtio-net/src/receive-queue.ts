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
 *   A port that has the kernel read many frames in one call is let read into as many chains as it expects frames for. They
 *   are then dealt with one by one as any other, those that are plain the short way.
 *
 * Invariants
 *   I1  no used element names bytes that were not written: a frame too large for its chain is dropped whole
 *       (failure F6).
 *   I2  the stores around the port's call follow queue-ledger.ts: a crash loses at most one frame, and none that was read
 *       ahead.
 *   I3  what was read ahead is dealt with before a poll ends.
 *   I4  an inactive queue (steering) is given no frame.
 *
 * Limits  one chain a frame; the budget a turn.
 * Spec    virtio 1.3, 5.1.6.3 and 5.1.6.4.
 */
import { QueueWait, WorkedQueue, writePlainHeader } from '@virtnet/engine-virtqueue';
import { BURST_FRAMES_MAX, BurstWord, Errno, Ethernet, NetHeader, QueueCounter } from '@virtnet/wire';
import type { HashSettings } from './flow-hash.js';
import { ReceiveHeader, vlanOf } from './net-header.js';
import type { FramePort } from './port.js';
import type { ReadAhead } from './read-ahead.js';
import type { ReceiveFilter } from './receive-filter.js';
import { counterOfRefusal, isRefusal } from './refusal.js';
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
  /** Frames may be completed by their header alone. */
  readonly #shortWay: boolean;
  /** Null: one frame a call. */
  readonly #ahead: ReadAhead | null;
  readonly #aheadRoom: number;

  constructor(options: ReceiveQueueOptions) {
    super(options.ring, options.block);
    this.port = options.port;
    this.header = new ReceiveHeader(options.features, options.mtu, options.hash ?? null);
    this.#linkUp = options.linkUp;
    this.#active = options.active;
    this.#filter = options.filter;
    this.countSizes = options.countSizes === true;
    this.#aheadRoom = this.aheadRoom();
    const { frameOffset } = this.header;
    const ahead = options.port.ahead ?? null;
    this.#ahead = frameOffset === NetHeader.sizeBytes && this.#aheadRoom > 0 ? ahead : null;
    this.#shortWay =
      options.linkUp &&
      (options.port.receivePlain !== undefined || this.#ahead !== null) &&
      frameOffset === NetHeader.sizeBytes &&
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
    if (this.#ahead !== null) {
      worked = this.#bursts(this.#ahead, Math.min(waiting, budget));
      if (worked < 0) return this.#worked(~worked);
    } else if (this.#shortWay) {
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

  override resume(): void {
    super.resume();
    const { ring, ledger, port } = this;
    const reads = ledger.kernelBurst;
    if (reads === 0) return;
    const settled = ring.chainsSince(ledger.burst[BurstWord.BEGIN]!);
    const ahead = this.#ahead;
    if (ahead !== null && settled <= reads && reads <= BURST_FRAMES_MAX) {
      ring.available();
      port.readBefore?.(ring, ring.scan(reads - settled, true), settled, ledger.burst, reads);
      this.#deliver(ahead);
      ledger.publish();
      this.interrupt = true;
    }
    ledger.endKernelBurst();
  }

  /** Bytes a buffer must have so that no frame that would be delivered is larger; 0: there is no such number. */
  protected aheadRoom(): number {
    return this.header.frameOffset + Ethernet.HEADER_BYTES; // what is larger than its buffer is dropped in any case
  }

  /** Reads ahead while that is worth it; how many frames were dealt with, `~` of it when no more wait. */
  #bursts(ahead: ReadAhead, most: number): number {
    const { ring, ledger, port } = this;
    const { lengths } = ring.plain;
    let worked = 0;
    for (;;) {
      const expected = Math.min(port.expected!, most - worked, BURST_FRAMES_MAX);
      let count = expected > 0 ? ring.scan(expected, true) : 0;
      for (let i = 0; i < count; i++) if (lengths[i]! < this.#aheadRoom) count = i;
      if (count === 0) return worked;
      ledger.begin();
      const more = port.readAhead!(ring, count, ledger);
      const plain = this.#shortWay ? this.#completePlain(ahead) : 0;
      ledger.endPlain(plain);
      worked += plain + this.#deliver(ahead);
      ledger.endKernelBurst();
      if (!more) return ~worked;
    }
  }

  /** Completes the frames in front that are plain, and lie where they belong; how many. */
  #completePlain(ahead: ReadAhead): number {
    const { ledger, ring } = this;
    const { offsets, pieces: places } = ring.plain;
    const { pieces } = ring.memory;
    const { plainBytesMax } = this.header;
    let done = 0;
    while (ahead.left && ahead.at === done && ahead.isPlain(plainBytesMax)) {
      const bytes = ahead.results[done]!;
      writePlainHeader(pieces[places[done]!]!.view, offsets[done]!);
      ahead.advance();
      ledger.completePlain(done, bytes - NetHeader.sizeBytes, bytes);
      done++;
    }
    return done;
  }

  /**
   * Deals with the frames that are left; how many, and chains. All of them had room: where there is none any more, the driver
   * has changed what it had made available, and what is left is dropped. Going on would be up to the driver.
   */
  #deliver(ahead: ReadAhead): number {
    const { ring, ledger } = this;
    let worked = 0;
    while (ahead.left) {
      if (ring.take() <= 0) return worked + this.#giveUp(ahead);
      const { position } = ring;
      const { at } = ahead;
      this.receive();
      worked++;
      if (ahead.at === at) return worked + this.#giveUp(ahead);
      if (ring.position === position) ledger.dropOfBurst();
    }
    return worked;
  }

  /** Drops the frames that are left; how many. */
  #giveUp(ahead: ReadAhead): number {
    const lost = ahead.forget();
    for (let i = 0; i < lost; i++) this.ledger.count(QueueCounter.DROP_BAD_CHAIN);
    return lost;
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

  /** The port gave no frame: -EAGAIN, another -errno, or a refusal, after which there may be another. */
  protected nothing(result: number): boolean {
    this.ledger.keep();
    if (result !== PORT_EMPTY) this.ledger.count(counterOfRefusal(result));
    return isRefusal(result);
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
