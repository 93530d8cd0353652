/**
 * memory-table.ts: the guest memory a frontend has shared, and what changes when it shares it anew.
 *
 * Theory
 *   The frontend names ring parts by its own addresses (`userAddress`) and gives buffers in guest addresses. The
 *   table translates the former into the latter. SET_MEM_TABLE replaces the whole table; what is in both the old and
 *   the new one stays mapped, so that adding memory to a running guest disturbs nothing.
 *
 * Invariants
 *   I1  no two regions share a guest address, none wraps, all are whole pages.
 *   I2  a region's descriptor belongs to whoever owns the table and stays open while the region is in it.
 *
 * Limits  MEMORY_REGIONS_MAX
 */
import { Errno } from '@virtnet/wire';
import { MEMORY_REGIONS_MAX, PAGE_BYTES } from './limits.js';
import type { RegionDescription } from './requests.js';

/** A region and its descriptor. */
export interface GuestRegion extends RegionDescription {
  readonly fd: number;
}

const ADDRESS_SPACE = 1n << 64n;
const FILE_BYTES_MAX = BigInt(Number.MAX_SAFE_INTEGER);

/** 0, or -EINVAL when no region can look like that. */
export function checkRegion(region: RegionDescription): number {
  const { guestAddress, sizeBytes, userAddress, mmapOffset } = region;
  if (sizeBytes === 0n || sizeBytes % PAGE_BYTES !== 0n || guestAddress % PAGE_BYTES !== 0n)
    return -Errno.EINVAL;
  if (guestAddress + sizeBytes > ADDRESS_SPACE || userAddress + sizeBytes > ADDRESS_SPACE)
    return -Errno.EINVAL;
  if (mmapOffset % PAGE_BYTES !== 0n || mmapOffset + sizeBytes > FILE_BYTES_MAX) return -Errno.EINVAL;
  return 0;
}

function overlaps(a: RegionDescription, b: RegionDescription): boolean {
  return a.guestAddress < b.guestAddress + b.sizeBytes && b.guestAddress < a.guestAddress + a.sizeBytes;
}

/** Whether two descriptions name the same range; the file behind it is not compared. */
export function sameRange(a: RegionDescription, b: RegionDescription): boolean {
  return a.guestAddress === b.guestAddress && a.sizeBytes === b.sizeBytes && a.userAddress === b.userAddress;
}

/** What a new table changes. */
export interface TableChange {
  readonly removed: readonly GuestRegion[];
  readonly added: readonly GuestRegion[];
  /** Regions that stay, with the descriptor the frontend sent again. */
  readonly kept: readonly { readonly region: GuestRegion; readonly sentFd: number }[];
}

export class MemoryTable {
  readonly #regions: GuestRegion[] = [];

  get regions(): readonly GuestRegion[] {
    return this.#regions;
  }

  /** Adds a region. 0; -EINVAL malformed, -EEXIST overlapping, -ENOSPC too many. */
  add(region: GuestRegion): number {
    const fault = checkRegion(region);
    if (fault < 0) return fault;
    if (this.#regions.length >= MEMORY_REGIONS_MAX) return -Errno.ENOSPC;
    if (this.#regions.some((other) => overlaps(region, other))) return -Errno.EEXIST;
    this.#regions.push(region);
    return 0;
  }

  /** The region of that range (the offset in the file does not count); undefined when there is none. */
  find(region: RegionDescription): GuestRegion | undefined {
    return this.#regions.find((other) => sameRange(region, other));
  }

  remove(region: GuestRegion): void {
    const at = this.#regions.indexOf(region);
    if (at >= 0) this.#regions.splice(at, 1);
  }

  /** Takes every region out. */
  clear(): GuestRegion[] {
    return this.#regions.splice(0);
  }

  /**
   * How to get from this table to `next`. -EINVAL or -EEXIST when `next` is no table.
   * `sameFile` says whether two descriptors are of the same file.
   */
  planReplacement(
    next: readonly GuestRegion[],
    sameFile: (a: number, b: number) => boolean,
  ): TableChange | number {
    const fault = next.reduce((errno, region) => (errno < 0 ? errno : checkRegion(region)), 0);
    if (fault < 0) return fault;
    for (const [i, region] of next.entries())
      if (next.slice(0, i).some((other) => overlaps(region, other))) return -Errno.EEXIST;

    const kept: { region: GuestRegion; sentFd: number }[] = [];
    const added: GuestRegion[] = [];
    for (const region of next) {
      const old = this.find(region);
      if (old !== undefined && old.mmapOffset === region.mmapOffset && sameFile(old.fd, region.fd))
        kept.push({ region: old, sentFd: region.fd });
      else added.push(region);
    }
    const removed = this.#regions.filter((region) => !kept.some((entry) => entry.region === region));
    return { removed, added, kept };
  }

  /** Guest address of `sizeBytes` at a frontend's address; null when they are not in one region. */
  translate(userAddress: bigint, sizeBytes: number): bigint | null {
    for (const region of this.#regions) {
      const offset = userAddress - region.userAddress;
      if (offset >= 0n && offset + BigInt(sizeBytes) <= region.sizeBytes) return region.guestAddress + offset;
    }
    return null;
  }
}

/** Whether a range of guest memory touches a region. */
export function touches(region: RegionDescription, guestAddress: bigint, sizeBytes: number): boolean {
  return (
    guestAddress < region.guestAddress + region.sizeBytes &&
    region.guestAddress < guestAddress + BigInt(sizeBytes)
  );
}
