/** memory-port.ts: a frame port that keeps what it is sent and gives what it was told, for tests. */

import { type FramePort, NOT_PLAIN } from '@virtnet/engine-virtio-net';
import type { DeviceRing, MemoryPiece } from '@virtnet/engine-virtqueue';
import { Errno, NetHeader } from '@virtnet/wire';

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

  sendPlain(piece: MemoryPiece, at: number, bytes: number): number {
    if (this.fullFor > 0) {
      this.fullFor--;
      return -Errno.EAGAIN;
    }
    if (this.refusal !== 0) return -this.refusal;
    this.plain++;
    this.sent.push({ header: new Uint8Array(NetHeader.sizeBytes), frame: piece.u8.slice(at, at + bytes) });
    return NetHeader.sizeBytes + bytes;
  }

  receivePlain(piece: MemoryPiece, at: number, room: number): number {
    const [next] = this.waiting;
    if (next === undefined) return -Errno.EAGAIN;
    if (next.frame.length > room || next.header.some((byte) => byte !== 0)) return NOT_PLAIN;
    this.reads++;
    this.plain++;
    this.waiting.shift();
    piece.u8.set(next.frame, at);
    return next.frame.length;
  }
}
