/**
 * driver-memory.ts: a piece of guest memory as the driver sees it: it allocates, reads and writes there.
 *
 * Theory
 *   One range of I/O virtual addresses over an ArrayBuffer (or a SharedArrayBuffer, or a mapping another process
 *   shares). Blocks are cut from the front and come back to lists by size, so that a driver can run for ever.
 *
 * Invariants
 *   I1  a block that is handed out overlaps no other block that is.
 *
 * Limits  the size it was made with; RangeError beyond it, for that is the test's mistake.
 */
import type { MemoryRegion } from '@virtnet/engine-virtqueue';
import { ensureWindow, passingRoom, type WindowRoom } from './window-room.js';

/** Blocks are multiples of this, so that few sizes exist. */
const BLOCK_BYTES = 64;
/** Process address tests pretend their memory has when it has none that matters; above 2^32 on purpose. */
const PRETENDED_ADDRESS = 0x7f00_0000_0000;

export interface DriverMemoryOptions {
  readonly sizeBytes: number;
  /** Guest address of the first byte. */
  readonly iova?: bigint;
  readonly buffer?: ArrayBufferLike;
  readonly byteOffset?: number;
  /** Process address of the first byte, when a system call is to use it. */
  readonly address?: number;
  readonly writable?: boolean;
}

let inWindow = false;

/** From now on memory for which no place is given lies in this thread's copy window, as guests' does in an emulator. */
export function placeInWindow(): void {
  ensureWindow();
  inWindow = true;
}

function placeOf({ sizeBytes, buffer, byteOffset = 0 }: DriverMemoryOptions): WindowRoom {
  if (buffer !== undefined) return { buffer: buffer as ArrayBuffer, byteOffset };
  if (inWindow && byteOffset === 0) return passingRoom(sizeBytes);
  return { buffer: new ArrayBuffer(byteOffset + sizeBytes), byteOffset };
}

export class DriverMemory {
  readonly iova: bigint;
  readonly sizeBytes: number;
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly region: MemoryRegion;
  #used = 0;
  readonly #free = new Map<number, bigint[]>();

  constructor(options: DriverMemoryOptions) {
    const { sizeBytes, iova = 0x1_0000_0000n, address = PRETENDED_ADDRESS } = options;
    const { buffer, byteOffset } = placeOf(options);
    this.iova = iova;
    this.sizeBytes = sizeBytes;
    this.bytes = new Uint8Array(buffer, byteOffset, sizeBytes);
    this.view = new DataView(buffer, byteOffset, sizeBytes);
    const writable = options.writable ?? true;
    this.region = { iova, sizeBytes, buffer, byteOffset, address, writable };
  }

  /** A block of at least `sizeBytes`, zeroed. */
  allocate(sizeBytes: number, alignBytes = 16): bigint {
    const size = blockSize(sizeBytes);
    const reused = alignBytes <= BLOCK_BYTES ? this.#free.get(size)?.pop() : undefined;
    if (reused !== undefined) {
      this.slice(reused, size).fill(0);
      return reused;
    }
    const align = Math.max(alignBytes, BLOCK_BYTES);
    const at = Math.ceil(this.#used / align) * align;
    if (at + size > this.sizeBytes) throw new RangeError(`driver memory of ${this.sizeBytes} bytes is full`);
    this.#used = at + size;
    return this.iova + BigInt(at);
  }

  free(iova: bigint, sizeBytes: number): void {
    const size = blockSize(sizeBytes);
    const list = this.#free.get(size);
    if (list === undefined) this.#free.set(size, [iova]);
    else list.push(iova);
  }

  /** Offset of a guest address in `bytes` and `view`. */
  at(iova: bigint): number {
    const offset = Number(iova - this.iova);
    if (offset < 0 || offset > this.sizeBytes) throw new RangeError(`0x${iova.toString(16)} is not in here`);
    return offset;
  }

  /** The live bytes there. */
  slice(iova: bigint, lengthBytes: number): Uint8Array {
    const offset = this.at(iova);
    return this.bytes.subarray(offset, offset + lengthBytes);
  }
}

const blockSize = (sizeBytes: number): number =>
  Math.max(1, Math.ceil(sizeBytes / BLOCK_BYTES)) * BLOCK_BYTES;
