/**
 * guarded-memory.ts: a guest's memory with a guard on both sides of every region.
 *
 * Theory
 *   The regions lie in the copy window, as in an emulator, and between them are guards full of a secret. A
 *   write outside the regions changes a guard. A read outside them brings the secret into what was read: whoever gets
 *   bytes from the device asks reveals().
 *   One region lies across a boundary at which memory is cut into pieces, one may only be read.
 *
 * Limits  Reads outside are found when they are SECRET_BYTES * 2 - 1 bytes long at least, and copied somewhere.
 */
import { GuestMemory, type MemoryRegion } from '@virtnet/engine-virtqueue';
import { DriverMemory } from '../driver-memory.js';
import { windowRoom } from '../window-room.js';
import { FuzzFailure } from './fuzzer.js';

const GUARD_BYTES = 4_096;
const SECRET_BYTES = 8;
const SECRET = Buffer.from([0xe3, 0x71, 0x0d, 0x9b, 0x5f, 0xc6, 0x28, 0xb4]);
/** Process address of the buffer, as far as anybody asks. */
const ADDRESS = 0x7f00_0000_0000;

export interface RegionSpec {
  readonly iova: bigint;
  readonly sizeBytes: number;
  readonly writable: boolean;
}

export class GuardedMemory {
  readonly regions: readonly MemoryRegion[];
  readonly memory: GuestMemory;
  readonly #guards: readonly Uint8Array[];
  readonly #guard = Buffer.alloc(GUARD_BYTES, SECRET);
  /** Regions that may only be read, with what they hold. */
  readonly #constant: readonly { readonly bytes: Uint8Array; readonly content: Uint8Array }[];

  constructor(specs: readonly RegionSpec[]) {
    const total = specs.reduce((sum, { sizeBytes }) => sum + sizeBytes + GUARD_BYTES, GUARD_BYTES);
    const { buffer, byteOffset } = windowRoom(total);
    const guards: Uint8Array[] = [];
    const regions: MemoryRegion[] = [];
    let at = byteOffset;
    const guard = (): void => {
      guards.push(new Uint8Array(buffer, at, GUARD_BYTES));
      at += GUARD_BYTES;
    };
    guard();
    for (const { iova, sizeBytes, writable } of specs) {
      regions.push({ iova, sizeBytes, buffer, byteOffset: at, address: ADDRESS + at, writable });
      at += sizeBytes;
      guard();
    }
    for (const bytes of guards) bytes.set(this.#guard);
    this.#guards = guards;
    this.regions = regions;
    this.memory = new GuestMemory(regions);
    this.#constant = regions
      .filter(({ writable }) => !writable)
      .map(({ byteOffset, sizeBytes }) => {
        const bytes = new Uint8Array(buffer, byteOffset, sizeBytes);
        for (let i = 0; i < sizeBytes; i++) bytes[i] = i & 0x7f;
        return { bytes, content: bytes.slice() };
      });
  }

  /** Region `index` empty again, for a driver to lay out. */
  driverMemory(index: number): DriverMemory {
    const { iova, sizeBytes, buffer, byteOffset, address, writable } = this.regions[index]!;
    new Uint8Array(buffer, byteOffset, sizeBytes).fill(0);
    return new DriverMemory({ iova, sizeBytes, buffer, byteOffset, address, writable });
  }

  /** Throws when anything was written where nothing may be. */
  check(): void {
    for (const [i, bytes] of this.#guards.entries())
      if (this.#guard.compare(bytes) !== 0) {
        bytes.set(this.#guard);
        throw new FuzzFailure(`guard ${i} was written`);
      }
    for (const { bytes, content } of this.#constant)
      if (Buffer.compare(bytes, content) !== 0) {
        bytes.set(content);
        throw new FuzzFailure('memory that may only be read was written');
      }
  }

  /** Throws when bytes that came out of the device were read outside the regions. */
  reveals(bytes: Uint8Array): void {
    if (
      bytes.length >= SECRET_BYTES &&
      Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).includes(SECRET)
    )
      throw new FuzzFailure('a guard was read');
  }
}
