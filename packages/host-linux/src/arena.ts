/**
 * arena.ts: one reserved range of addresses into which guest memory is mapped.
 *
 * Theory
 *   The range is reserved without memory behind it (PROT_NONE), and each region of a guest is mapped over a piece
 *   of it (MAP_FIXED), an inaccessible guard on each side. So one ArrayBuffer covers every region of every guest,
 *   a block copy between two guests is one copyWithin, and a stray access dies at a guard instead of corrupting.
 *   Unmapping puts the reservation back, atomically, so that no other mapping can slip into the gap.
 *
 * Parties
 *   owner     the thread that called reserve(); the only one that maps and unmaps.
 *   attached  other threads of the process; they see the same memory, told of regions by the owner.
 *
 * Invariants
 *   I1  a region's offset is a multiple of what its descriptor demands (huge page size for hugetlbfs).
 *   I2  a region lies inside its file's size at the time of mapping.
 *   I3  nothing but a mapped region is accessible.
 *
 * Limits
 *   A peer that shrinks an unsealed file after it was mapped makes the next access raise SIGBUS; callers that
 *   serve strangers ask for Seal.SHRINK (getSeals). The kernel allows about 65,530 mappings per process, a region
 *   takes two; map() returns -ENOMEM beyond. A stale view of an unmapped region faults: owners unmap only when
 *   every thread has let go.
 */
import { Errno, MmapFlag, MmapProtection } from '@virtnet/wire';
import { AddressSpace } from './address-space.js';
import { negativeErrno, viewMemory } from './libc.js';
import { fileSize, mappingGranularity, nativeMmap, nativeMunmap, PAGE_BYTES } from './memory.js';

/** 1 TiB: room for a thousand guests of a gibibyte, and less than 1 % of a process's addresses. */
export const ARENA_BYTES = 2 ** 40;
/** The base is aligned to the largest huge page in use, so that offsets and addresses are aligned alike. */
const BASE_ALIGNMENT = 2 ** 30;
/** Large regions start at a multiple of this, which lets the kernel back them with large pages. */
const LARGE_PAGE_BYTES = 2 ** 21;

const RESERVED = MmapFlag.PRIVATE | MmapFlag.ANONYMOUS | MmapFlag.NORESERVE;
const READ_WRITE = MmapProtection.READ | MmapProtection.WRITE;

const roundUp = (value: number, to: number): number => Math.ceil(value / to) * to;
const isSize = (value: number): boolean => Number.isSafeInteger(value) && value > 0;

export class Arena {
  /** Process address of byte 0. */
  readonly base: bigint;
  /** The whole range. Accessible only where a region is mapped. */
  readonly buffer: ArrayBuffer;
  readonly sizeBytes: number;
  readonly #base: number;
  /** null in an attached arena. */
  readonly #space: AddressSpace | null;
  /** Offset map() returned -> block of the address space; they differ when the file offset is inside a huge page. */
  readonly #regions = new Map<number, { block: number; sizeBytes: number }>();

  private constructor(base: number, sizeBytes: number, space: AddressSpace | null) {
    this.#base = base;
    this.base = BigInt(base);
    this.sizeBytes = sizeBytes;
    this.#space = space;
    this.buffer = viewMemory(this.base, sizeBytes);
  }

  /** Reserves `sizeBytes` of addresses. Throws when the kernel refuses, which only a resource limit makes it do. */
  static reserve(sizeBytes = ARENA_BYTES): Arena {
    const length = roundUp(sizeBytes, PAGE_BYTES);
    const start = nativeMmap(0, length + BASE_ALIGNMENT, MmapProtection.NONE, RESERVED, -1, 0);
    if (start < 0) throw new Error(`cannot reserve ${length} bytes of addresses: errno ${-negativeErrno()}`);
    const base = roundUp(start, BASE_ALIGNMENT);
    if (base > start) nativeMunmap(start, base - start);
    const tail = start + BASE_ALIGNMENT - base;
    if (tail > 0) nativeMunmap(base + length, tail);
    return new Arena(base, length, new AddressSpace(length, PAGE_BYTES));
  }

  /** The arena that another thread of this process reserved at `base`. It cannot map or unmap. */
  static attach(base: bigint, sizeBytes: number): Arena {
    return new Arena(Number(base), sizeBytes, null);
  }

  /** Regions mapped now. */
  get regionCount(): number {
    return this.#regions.size;
  }

  /**
   * Maps `sizeBytes` of `fd` from `fdOffset` (a multiple of the page size), shared with its other users; the
   * descriptor may be closed afterwards. Returns the arena offset of the first byte (below 2^40, page aligned).
   * Errors: -EINVAL for a bad range or a descriptor that is not a file of at least that size, -ENOMEM when the
   * arena or the process is full, -EACCES when the descriptor does not allow it, -EPERM in an attached arena.
   */
  map(fd: number, fdOffset: number, sizeBytes: number, { writable }: { writable: boolean }): number {
    if (!isSize(sizeBytes) || !Number.isSafeInteger(fdOffset) || fdOffset < 0) return -Errno.EINVAL;
    if (fdOffset % PAGE_BYTES !== 0) return -Errno.EINVAL;
    const fileBytes = fileSize(fd);
    if (fileBytes < 0) return fileBytes;
    if (fdOffset + sizeBytes > fileBytes) return -Errno.EINVAL;
    const granularity = mappingGranularity(fd);
    if (granularity < 0) return granularity;
    const inside = fdOffset % granularity;
    const length = roundUp(inside + sizeBytes, granularity);
    const alignment = length >= LARGE_PAGE_BYTES ? Math.max(granularity, LARGE_PAGE_BYTES) : granularity;
    const protection = writable ? READ_WRITE : MmapProtection.READ;
    const block = this.#place(length, alignment, protection, MmapFlag.SHARED, fd, fdOffset - inside);
    return block < 0 ? block : this.#remember(block, inside, sizeBytes);
  }

  /** Maps zeroed private memory. Returns the arena offset or -errno. */
  mapAnonymous(sizeBytes: number): number {
    if (!isSize(sizeBytes)) return -Errno.EINVAL;
    const length = roundUp(sizeBytes, PAGE_BYTES);
    const flags = MmapFlag.PRIVATE | MmapFlag.ANONYMOUS;
    const block = this.#place(length, PAGE_BYTES, READ_WRITE, flags, -1, 0);
    return block < 0 ? block : this.#remember(block, 0, sizeBytes);
  }

  /**
   * Puts the reservation back over a region. `offset` and `sizeBytes` are those of the mapping call.
   * Returns 0, -EINVAL when there is no such region, or -errno (the region then stays).
   */
  unmap(offset: number, sizeBytes: number): number {
    if (this.#space === null) return -Errno.EPERM;
    const region = this.#regions.get(offset);
    if (region === undefined || region.sizeBytes !== sizeBytes) return -Errno.EINVAL;
    const length = this.#space.lengthOf(region.block);
    const error = this.#reserveAgain(region.block, length);
    if (error < 0) return error;
    this.#regions.delete(offset);
    this.#space.free(region.block);
    return 0;
  }

  #place(
    length: number,
    alignment: number,
    protection: number,
    flags: number,
    fd: number,
    at: number,
  ): number {
    if (this.#space === null) return -Errno.EPERM;
    const block = this.#space.allocate(length, alignment);
    if (block < 0) return -Errno.ENOMEM;
    if (nativeMmap(this.#base + block, length, protection, flags | MmapFlag.FIXED, fd, at) >= 0) return block;
    const error = negativeErrno();
    // A fixed mapping that failed may already have removed what was there.
    if (this.#reserveAgain(block, length) === 0) this.#space.free(block);
    return error;
  }

  #reserveAgain(block: number, length: number): number {
    const flags = RESERVED | MmapFlag.FIXED;
    const mapped = nativeMmap(this.#base + block, length, MmapProtection.NONE, flags, -1, 0);
    return mapped < 0 ? negativeErrno() : 0;
  }

  #remember(block: number, inside: number, sizeBytes: number): number {
    this.#regions.set(block + inside, { block, sizeBytes });
    return block + inside;
  }
}
