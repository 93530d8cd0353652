/**
 * spread-queue.ts: frames from the representor to a driver with mergeable receive buffers (MRG_RXBUF).
 *
 * Theory
 *   A frame fills as many of the driver's buffers as it needs, one after the other. How many is not known before the
 *   port has given it. So as many are offered to the port as the last frame took; what does not fit stays with the port
 *   (`overflow`) and is copied into further buffers. A stream of equal frames thus needs no such copy, and a small frame
 *   pays for no buffer that it does not use. After a frame for which there was no room, one buffer is offered again.
 *   The buffers become the driver's by one store (queue-ledger.ts), the header with their number written before.
 *
 * Invariants
 *   I1  every buffer of a frame but the last is filled completely (5.1.6.4.1, failure F7).
 *   I2  a frame larger than what is posted is dropped whole, and no buffer is used up by it (failure F6).
 *   I3  a crash loses at most one frame, and never leaves a part of one.
 *
 * Limits  segments and chains as the ring has room for; else the frame counts as larger than what is posted.
 * Spec    virtio 1.3, 5.1.6.3.2 and 5.1.6.4.
 */
import { FrameRoom } from '@virtnet/engine-virtqueue';
import { NetHeader, QueueCounter } from '@virtnet/wire';
import { ReceiveQueue } from './receive-queue.js';

export class SpreadReceiveQueue extends ReceiveQueue {
  /** Buffers the last frame took. */
  #buffers = 1;
  readonly #room = new FrameRoom(this.ring, this.ledger);

  protected override receiveFrames(first: number, count: number, bytesMax: number): number {
    return this.port.receiveFrames?.(this.ring, first, count, bytesMax, this.ledger) ?? 0;
  }

  /** What goes on in another buffer would have to outlive the process. */
  protected override aheadRoom(): number {
    const { frameBytesMax, frameOffset } = this.header;
    return frameBytesMax === 0 ? 0 : frameOffset + frameBytesMax;
  }

  protected override receive(): boolean {
    const { ring, ledger, header, port } = this;
    const { frameOffset } = header;
    if (ring.writableBytes < frameOffset) {
      ledger.count(QueueCounter.BAD_DESC_ERRORS);
      ledger.completeDrop(QueueCounter.DROP_BAD_CHAIN);
      return true;
    }
    for (let buffers = 1; buffers < this.#buffers && ring.extend(); buffers++);
    ledger.begin();
    const received = port.receive(ring, header.bytes, frameOffset);
    if (received < 0) return this.nothing(received);
    const frameBytes = received - NetHeader.sizeBytes;
    const needed = frameOffset + frameBytes;
    const complete = this.#complete(needed);
    if (!complete) this.#buffers = 1;
    let reason: 0 | QueueCounter = complete ? this.unwanted() : QueueCounter.DROP_NO_BUFFER;
    if (reason === 0) reason = header.judge(ring, frameBytes);
    if (reason !== 0) {
      ledger.count(reason);
      ledger.keep();
      return true;
    }
    const buffers = ring.chainsFor(needed);
    header.setBuffers(buffers);
    header.write(ring);
    if (this.countSizes) ledger.countSize(frameBytes);
    ledger.completeSpread(frameBytes, needed);
    this.#buffers = buffers;
    return true;
  }

  /** Brings what the port kept into further buffers; false when there are not enough. */
  #complete(needed: number): boolean {
    const { ring } = this;
    const had = ring.writableBytes;
    if (needed <= had) return true;
    if (!this.#room.reach(needed)) return false;
    ring.scatter(had, this.port.overflow, 0, needed - had);
    return true;
  }
}
