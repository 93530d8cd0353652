/** memory-port.ts: a frame port that keeps what it is sent and gives what it was told, for tests. */

import { type FramePort, ReadAhead } from '@virtnet/engine-virtio-net';
import { type DeviceRing, type QueueLedger, writePlainHeader } from '@virtnet/engine-virtqueue';
import { BURST_HEADER_BYTES, BurstWord, Errno, Ethernet, NetHeader } from '@virtnet/wire';

const HEADER_BYTES = NetHeader.sizeBytes;

export interface PortFrame {
  /** struct virtio_net_hdr_v1. */
  readonly header: Uint8Array;
  readonly frame: Uint8Array;
}

export class MemoryPort implements FramePort {
  readonly overflow = new Uint8Array(70_000);
  /** Frames sent, oldest first. */
  readonly sent: PortFrame[] = [];
  /** Frames that wait to be received, oldest first. */
  readonly waiting: PortFrame[] = [];
  /** Sends that would block: how many more are answered with -EAGAIN. */
  fullFor = 0;
  /** Errno the next sends are refused with; 0: none. */
  refusal = 0;
  /** Calls of receive, with a frame or without. */
  reads = 0;

  send(ring: DeviceRing, header: Uint8Array, frameOffset: number): number {
    if (this.fullFor > 0) {
      this.fullFor--;
      return -Errno.EAGAIN;
    }
    if (this.refusal !== 0) return -this.refusal;
    const frame = new Uint8Array(ring.readableBytes - frameOffset);
    ring.gather(frameOffset, frame, 0, frame.length);
    this.sent.push({ header: header.slice(), frame });
    return header.length + frame.length;
  }

  receive(ring: DeviceRing, header: Uint8Array, frameOffset: number): number {
    this.reads++;
    const next = this.waiting.shift();
    if (next === undefined) return -Errno.EAGAIN;
    header.set(next.header);
    const fitted = ring.scatter(frameOffset, next.frame, 0, next.frame.length);
    this.overflow.set(next.frame.subarray(fitted));
    return NetHeader.sizeBytes + next.frame.length;
  }

  /** Lets a frame wait, by default with a header that asks for nothing. */
  push(frame: Uint8Array, header: Uint8Array = new Uint8Array(NetHeader.sizeBytes)): void {
    this.waiting.push({ header, frame });
  }
}

/** The same with the short way for plain frames. */
export class PlainMemoryPort extends MemoryPort {
  /** Frames that went the short way. */
  plain = 0;

  sendPlain(ring: DeviceRing, count: number, frameOffset: number, ledger: QueueLedger): number {
    const { offsets, lengths, pieces } = ring.plain;
    for (let i = 0; i < count; i++) {
      if (this.fullFor > 0 || this.refusal !== 0) return i;
      const at = offsets[i]!;
      const frame = ring.memory.pieces[pieces[i]!]!.u8.slice(at + frameOffset, at + lengths[i]!);
      this.sent.push({ header: new Uint8Array(NetHeader.sizeBytes), frame });
      this.plain++;
      ledger.completePlain(i, frame.length, 0);
    }
    return count;
  }

  receivePlain(ring: DeviceRing, count: number, bytesMax: number, ledger: QueueLedger): number {
    const { offsets, lengths, pieces } = ring.plain;
    for (let i = 0; i < count; i++) {
      const [next] = this.waiting;
      const needed = NetHeader.sizeBytes + (next?.frame.length ?? 0);
      const { frame, header } = next ?? { frame: new Uint8Array(0), header: [1] };
      if (frame.length > bytesMax || needed > lengths[i]! || frame.length < Ethernet.HEADER_BYTES) return i;
      if (header.some((byte) => byte !== 0)) return i;
      this.reads++;
      this.plain++;
      this.waiting.shift();
      const { u8, view } = ring.memory.pieces[pieces[i]!]!;
      writePlainHeader(view, offsets[i]!);
      u8.set(frame, offsets[i]! + NetHeader.sizeBytes);
      ledger.completePlain(i, frame.length, needed);
    }
    return count;
  }
}

/** The same, which has a kernel send plain frames: all of a burst in one step, and what it has sent it does not forget. */
export class KernelMemoryPort extends PlainMemoryPort {
  /** Frames it has sent, ever. */
  #tail = 0;

  override sendPlain(ring: DeviceRing, count: number, frameOffset: number, ledger: QueueLedger): number {
    const { offsets, lengths, pieces } = ring.plain;
    ledger.burst[BurstWord.TAIL_BEFORE] = this.#tail;
    ledger.beginKernelBurst(count);
    for (let i = 0; i < count; i++) {
      const at = offsets[i]!;
      const frame = ring.memory.pieces[pieces[i]!]!.u8.slice(at + frameOffset, at + lengths[i]!);
      this.sent.push({ header: new Uint8Array(NetHeader.sizeBytes), frame });
      this.plain++;
      this.#tail++;
    }
    for (let i = 0; i < count; i++) {
      ledger.settle();
      ledger.completePlain(i, lengths[i]! - frameOffset, 0);
    }
    ledger.endKernelBurst();
    return count;
  }

  sentBefore(burst: Uint32Array, count: number): number {
    return Math.min(this.#tail - burst[BurstWord.TAIL_BEFORE]!, count) - burst[BurstWord.SETTLED]!;
  }
}

/** The same that has a kernel read many frames in one step; what was read, and where the kernel was, it does not forget. */
export class KernelReadingPort extends MemoryPort {
  readonly ahead = new ReadAhead();
  expected = Number.POSITIVE_INFINITY;
  /** Frames that were read in such a step. */
  together = 0;
  /** Reads that find nothing although a frame waits, as a frame may come behind them; their numbers. */
  readonly early = new Set<number>();
  /** Reads of the kernel, ever. */
  #tail = 0;

  override receive(ring: DeviceRing, header: Uint8Array, frameOffset: number): number {
    return this.ahead.left ? this.ahead.take(ring, header) : super.receive(ring, header, frameOffset);
  }

  readAhead(ring: DeviceRing, count: number, ledger: QueueLedger): boolean {
    const { ahead } = this;
    const { offsets, lengths, pieces } = ring.plain;
    ahead.lay(ring, count);
    ledger.burst[BurstWord.TAIL_BEFORE] = this.#tail;
    ledger.beginKernelReads(count);
    for (let i = 0; i < count; i++) {
      const next = this.early.has(this.#tail++) ? undefined : this.waiting.shift();
      ahead.results[i] = next === undefined ? -Errno.EAGAIN : HEADER_BYTES + next.frame.length;
      if (next === undefined) continue;
      this.together++;
      ahead.headers.set(next.header, i * BURST_HEADER_BYTES);
      const room = lengths[i]! - HEADER_BYTES;
      ring.memory.pieces[pieces[i]!]!.u8.set(next.frame.subarray(0, room), offsets[i]! + HEADER_BYTES);
    }
    ahead.start(count);
    return ahead.results[count - 1]! >= 0;
  }

  readBefore(ring: DeviceRing, chains: number, settled: number, burst: Uint32Array, reads: number): void {
    const { ahead } = this;
    ahead.lay(ring, chains, settled);
    if (this.#tail === burst[BurstWord.TAIL_BEFORE]) ahead.results.fill(-Errno.EAGAIN); // it died before
    ahead.start(reads, settled + burst[BurstWord.DROPPED]!);
  }
}
