/**
 * io-vector.ts: scatter and gather reads and writes: the calls the datapath makes per frame.
 *
 * Theory
 *   A virtqueue chain names pieces of guest memory, and one readv or writev moves a frame between them and a TAP
 *   without a copy of ours. The vector is filled in place with plain numbers; nothing is allocated per call.
 *
 * Invariants
 *   I1  addresses come from a translation that checked them against the device's regions; they are not checked here.
 *
 * Limits  IOV_MAX segments; at most 2^31 - 1 bytes in one call.
 */
import { Errno, IOV_MAX, Iovec } from '@virtnet/wire';
import { declare, NativeBuffer, negativeErrno } from './libc.js';

/** readv, writev: one frame of a TAP from or to the segments of a chain. */
const nativeReadv = declare<(fd: number, vector: number, count: number) => number>('readv', 'int', [
  'int',
  'uintptr_t',
  'int',
]);
const nativeWritev = declare<(fd: number, vector: number, count: number) => number>('writev', 'int', [
  'int',
  'uintptr_t',
  'int',
]);

const WORDS = Iovec.sizeBytes / 4;
const BASE = Iovec.at.base / 4;
const LENGTH = Iovec.at.length / 4;
const HIGH_WORD = 2 ** 32;

/** An array of `capacity` struct iovec at a fixed address. */
export class IoVector {
  readonly capacity: number;
  readonly #buffer: NativeBuffer;
  readonly #words: Uint32Array;
  /** Address of the first element. Valid while this object is reachable. */
  readonly ptr: number;

  constructor(capacity: number) {
    this.capacity = Math.min(capacity, IOV_MAX);
    this.#buffer = new NativeBuffer(this.capacity * Iovec.sizeBytes);
    this.#words = this.#buffer.u32;
    this.ptr = this.#buffer.address;
  }

  /** Element `i`: `length` bytes of this process's memory from `address` (below 2^53). */
  set(i: number, address: number, length: number): void {
    const words = this.#words;
    const at = i * WORDS;
    words[at + BASE] = address;
    words[at + BASE + 1] = address / HIGH_WORD;
    words[at + LENGTH] = length;
  }
}

/** Reads into the first `count` elements. Returns bytes read or -errno (-EAGAIN: nothing there). */
export function readv(fd: number, iov: IoVector, count: number): number {
  for (;;) {
    const bytes = nativeReadv(fd, iov.ptr, count);
    if (bytes >= 0) return bytes;
    const error = negativeErrno();
    if (error !== -Errno.EINTR) return error;
  }
}

/** Writes the first `count` elements. Returns bytes written or -errno (-EAGAIN: no room). */
export function writev(fd: number, iov: IoVector, count: number): number {
  for (;;) {
    const bytes = nativeWritev(fd, iov.ptr, count);
    if (bytes >= 0) return bytes;
    const error = negativeErrno();
    if (error !== -Errno.EINTR) return error;
  }
}
