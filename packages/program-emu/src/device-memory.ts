/**
 * device-memory.ts: the guest memory one function may reach.
 *
 * Theory
 *   DMA_MAP gives a range of I/O virtual addresses, usually with a descriptor of the memory behind it. Ranges with a
 *   descriptor are mapped into the arena; ranges without (ROM, private memory) are remembered, so that their removal
 *   is understood, but a ring or a buffer in them is outside the device's memory.
 *
 * Ownership
 *   A descriptor handed to `add` belongs to this object once `add` has returned 0: it is kept for a new state keeper
 *   and closed with the region.
 *
 * Invariants
 *   I1  ranges never overlap and never wrap.
 *   I2  a region leaves the arena only through `release`, which the caller calls after every worker let go of it.
 *
 * Limits  DMA_REGIONS_MAX.
 */
import { fstatSync, readSync } from 'node:fs';
import type { MemoryRegion, RingExtent } from '@virtnet/engine-virtqueue';
import type { Arena } from '@virtnet/host-linux';
import { close, fileSize, getSeals } from '@virtnet/host-linux';
import { Errno, Seal } from '@virtnet/wire';
import type { RegionMessage } from './datapath-protocol.js';
import { DMA_REGIONS_MAX } from './limits.js';
import { mapAhead } from './memory-ahead.js';

export interface DmaRange {
  readonly iova: bigint;
  readonly sizeBytes: number;
  readonly fdOffset: number;
  readonly readable: boolean;
  readonly writable: boolean;
}

export interface DmaRegion extends DmaRange {
  /** -1 when the client gave none. */
  readonly fd: number;
  /** Offset in the arena (Arena.locate), -1 when not mapped. */
  readonly arenaOffset: number;
  /** Nobody can make the file shorter. */
  readonly sealed: boolean;
}

/** What the keeper stores beside a region's descriptor. */
export interface DmaRangeRecord {
  readonly iova: string;
  readonly sizeBytes: number;
  readonly fdOffset: number;
  readonly readable: boolean;
  readonly writable: boolean;
}

export function dmaRangeRecord(range: DmaRange): DmaRangeRecord {
  const { sizeBytes, fdOffset, readable, writable } = range;
  return { iova: `0x${range.iova.toString(16)}`, sizeBytes, fdOffset, readable, writable };
}

/** Reads what the keeper stored; null when it is not a range. */
export function parseDmaRange(value: unknown): DmaRange | null {
  if (typeof value !== 'object' || value === null) return null;
  const { iova, sizeBytes, fdOffset, readable, writable } = value as Record<string, unknown>;
  if (typeof iova !== 'string' || !/^0x[0-9a-f]{1,16}$/.test(iova)) return null;
  if (!Number.isSafeInteger(sizeBytes) || !Number.isSafeInteger(fdOffset)) return null;
  if (typeof readable !== 'boolean' || typeof writable !== 'boolean') return null;
  return {
    iova: BigInt(iova),
    sizeBytes: sizeBytes as number,
    fdOffset: fdOffset as number,
    readable,
    writable,
  };
}

export class DeviceMemory {
  readonly #arena: Arena;
  readonly #regions = new Map<bigint, DmaRegion>();
  /** What `findTruncated` found. */
  #truncated: readonly DmaRegion[] | null = null;

  constructor(arena: Arena) {
    this.#arena = arena;
  }

  get count(): number {
    return this.#regions.size;
  }

  /** Every range, mapped or not. */
  all(): IterableIterator<DmaRegion> {
    return this.#regions.values();
  }

  /** Whether some range came without a descriptor and therefore cannot be reached. */
  get hasUnshared(): boolean {
    for (const region of this.#regions.values()) if (region.fd < 0 && region.writable) return true;
    return false;
  }

  /**
   * Adds a range and, with a descriptor, maps it. 0 or -errno; on failure the descriptor stays the caller's.
   * `known`: a predecessor had it, so a file that is too short now was cut off since, and the range is kept as truncated.
   */
  add(range: DmaRange, fd: number, { known = false } = {}): number {
    const { iova, sizeBytes } = range;
    if (sizeBytes <= 0 || iova % 4096n !== 0n || sizeBytes % 4096 !== 0) return -Errno.EINVAL;
    if (iova + BigInt(sizeBytes) > 1n << 64n) return -Errno.EINVAL;
    if (this.#regions.size >= DMA_REGIONS_MAX) return -Errno.ENOSPC;
    for (const other of this.#regions.values()) {
      if (iova < other.iova + BigInt(other.sizeBytes) && other.iova < iova + BigInt(sizeBytes)) {
        return -Errno.EEXIST;
      }
    }
    let arenaOffset = -1;
    if (fd >= 0) {
      arenaOffset = this.#arena.map(fd, range.fdOffset, sizeBytes, { writable: range.writable });
      if (arenaOffset < 0 && !(known && isCutOff(range, fd))) return arenaOffset;
    }
    arenaOffset = Math.max(arenaOffset, -1);
    this.#regions.set(iova, { ...range, fd, arenaOffset, sealed: fd >= 0 && isSealed(fd) });
    return 0;
  }

  /** Has rings in it mapped before anybody touches them. */
  mapAhead(rings: readonly RingExtent[]): void {
    mapAhead(this.#arena, this.#regions.values(), rings);
  }

  /** Takes an exact range out of the table; it stays mapped until `release`. -EINVAL when there is no such range. */
  remove(iova: bigint, sizeBytes: number): DmaRegion | number {
    const region = this.#regions.get(iova);
    if (region === undefined || region.sizeBytes !== sizeBytes) return -Errno.EINVAL;
    this.#regions.delete(iova);
    return region;
  }

  removeAll(): DmaRegion[] {
    const all = [...this.#regions.values()];
    this.#regions.clear();
    return all;
  }

  /** Looks whether a client made the file of a region shorter than the region: touching it would end us. */
  findTruncated(): boolean {
    this.#truncated = [...this.#regions.values()].filter(isTruncated);
    return this.#truncated.length > 0;
  }

  /**
   * Takes out and unmaps the regions whose file has become shorter than they are: touching them ends the process
   * (SIGBUS), which is what made a predecessor's end likely. Returns what they were. Where `findTruncated` has looked just
   * now, it is not looked again.
   */
  dropTruncated(): DmaRange[] {
    const dropped: DmaRange[] = [];
    if (this.#truncated === null) this.findTruncated();
    const truncated = this.#truncated ?? [];
    this.#truncated = null;
    for (const region of truncated) {
      this.#regions.delete(region.iova);
      this.release(region);
      dropped.push(region);
    }
    return dropped;
  }

  /**
   * A 16-bit word of the client's memory, read from its file: where the client has taken the memory away that is an error,
   * and no end. Null when it is in no range with a file, or cannot be read.
   */
  peek(address: bigint): number | null {
    for (const { iova, sizeBytes, fd, fdOffset } of this.#regions.values()) {
      if (address < iova || address + 2n > iova + BigInt(sizeBytes)) continue;
      try {
        const word = Buffer.alloc(2);
        const at = fdOffset + Number(address - iova);
        return fd >= 0 && fstatSync(fd).isFile() && readSync(fd, word, 0, 2, at) === 2
          ? word.readUInt16LE()
          : null;
      } catch {
        return null;
      }
    }
    return null;
  }

  /** Unmaps a removed region and closes its descriptor. */
  release(region: DmaRegion): void {
    if (region.arenaOffset >= 0) this.#arena.unmap(region.arenaOffset, region.sizeBytes);
    if (region.fd >= 0) close(region.fd);
  }

  /** The mapped regions, for a worker. */
  messages(): RegionMessage[] {
    return [...this.#regions.values()]
      .filter((r) => r.arenaOffset >= 0)
      .map(({ iova, sizeBytes, arenaOffset, writable }) => ({ iova, sizeBytes, arenaOffset, writable }));
  }

  /** The mapped regions, for this thread's own rings. */
  views(): MemoryRegion[] {
    return memoryRegions(this.messages(), this.#arena);
  }
}

/** Regions as the ring engine wants them, over this thread's view of the arena. */
export function memoryRegions(
  regions: readonly RegionMessage[],
  arena: Pick<Arena, 'locate'>,
): MemoryRegion[] {
  return regions.map(({ iova, sizeBytes, arenaOffset, writable }) => {
    const { buffer, byteOffset, address } = arena.locate(arenaOffset);
    return { iova, sizeBytes, buffer, byteOffset, address, writable };
  });
}

function isTruncated(region: DmaRegion): boolean {
  if (region.fd < 0) return false;
  return region.arenaOffset < 0 || (!region.sealed && isCutOff(region, region.fd));
}

function isSealed(fd: number): boolean {
  const seals = getSeals(fd);
  return seals > 0 && (seals & Seal.SHRINK) !== 0;
}

function isCutOff({ fdOffset, sizeBytes }: DmaRange, fd: number): boolean {
  return fileSize(fd) < fdOffset + sizeBytes && fstatSync(fd).isFile();
}
