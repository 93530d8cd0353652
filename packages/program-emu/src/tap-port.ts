/**
 * tap-port.ts: one queue of a representor TAP, as the frame port of a queue pair.
 *
 * Theory
 *   Frames move between guest memory and the kernel in one readv or writev, header included, without a copy of our
 *   own. The header always lives in private memory: on transmit it was read once and judged before, on receive it is
 *   judged before the driver sees it. A last scratch segment catches what is larger than the driver's buffer: the rest
 *   of a frame that goes on in the next buffers (mergeable), or of one that is dropped and not silently cut.
 *
 * Limits  IOVECS segments; SCRATCH_BYTES holds the largest frame a TAP can give.
 */

import type { FramePort } from '@virtnet/engine-virtio-net';
import type { DeviceRing } from '@virtnet/engine-virtqueue';
import { IoVector, NativeBuffer, readv, writev } from '@virtnet/host-linux';
import { NetHeader } from '@virtnet/wire';
import { FRAME_SEGMENTS_MAX } from './limits.js';

const IOVECS = FRAME_SEGMENTS_MAX + 2;
/** 64 KiB of GSO payload, Ethernet header, two VLAN tags and the frame header, rounded up. */
const SCRATCH_BYTES = 66 * 1024;

// Of the thread and not of a port: a frame is sent or received in one go, and many thousand queues are cheap then.
const scratch = new NativeBuffer(SCRATCH_BYTES);
const vector = new IoVector(IOVECS);
/** The header at an address of its own: a small array of the engine's may move. */
const privateHeader = new NativeBuffer(NetHeader.sizeBytes);

export class TapPort implements FramePort {
  readonly overflow = scratch.u8;
  readonly #fd: number;

  constructor(fd: number) {
    this.#fd = fd;
  }

  /** Writes one frame; bytes written, header included, or -errno. */
  send(ring: DeviceRing, header: Uint8Array, frameOffset: number): number {
    privateHeader.u8.set(header);
    const count = this.#fill(ring, 0, ring.readableCount, frameOffset);
    return writev(this.#fd, vector, count);
  }

  /** Reads one frame; bytes of header and frame, possibly more than the chain holds, or -errno. */
  receive(ring: DeviceRing, header: Uint8Array, frameOffset: number): number {
    const first = ring.readableCount;
    const count = this.#fill(ring, first, first + ring.writableCount, frameOffset);
    vector.set(count, scratch.address, SCRATCH_BYTES);
    const bytes = readv(this.#fd, vector, count + 1);
    if (bytes >= NetHeader.sizeBytes) header.set(privateHeader.u8.subarray(0, NetHeader.sizeBytes));
    return bytes;
  }

  /** Header first, then segments `from`..`to` without their first `skip` bytes; the number of vector entries. */
  #fill(ring: DeviceRing, from: number, to: number, skip: number): number {
    vector.set(0, privateHeader.address, NetHeader.sizeBytes);
    let count = 1;
    let left = skip;
    for (let i = from; i < to; i++) {
      const length = ring.segmentLength[i]!;
      if (left >= length) {
        left -= length;
        continue;
      }
      vector.set(count++, ring.segmentAddress[i]! + left, length - left);
      left = 0;
    }
    return count;
  }
}
