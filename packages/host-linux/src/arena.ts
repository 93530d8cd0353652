/**
 * arena.ts: one reserved range of addresses into which guest memory is mapped.
 *
 * Theory
 *   The range is reserved without memory behind it (PROT_NONE), and each region of a guest is mapped over a piece
 *   of it (MAP_FIXED), an inaccessible guard on each side. So one ArrayBuffer covers every region of every guest,
 *   a block copy between two guests is one copyWithin, and a stray access dies at a guard instead of corrupting.
 *   Unmapping puts the reservation back, atomically, so that no other mapping can slip into the gap.
 *   The owner may bring a window: addresses that are reserved already, and better to copy inside. Regions are mapped
 *   there while there is room. An offset of WINDOW_AT and more is in the window; locate() says where that is.
 *
 * Parties
 *   owner     the thread that called reserve(); the only one that maps and unmaps.
 *   attached  other threads of the process; they see the same memory, told of regions by the owner.
 *
 * Invariants
 *   I1  a region's offset is a multiple of what its descriptor demands (huge page size for hugetlbfs).
 *   I2  a region lies inside its file's size at the time of mapping.
 *   I3  nothing but a mapped region is accessible, in the window either.
 *
 * Limits
 *   A peer that shrinks an unsealed file after it was mapped makes the next access raise SIGBUS; callers that
 *   serve strangers ask for Seal.SHRINK (getSeals). The kernel allows about 65,530 mappings per process, a region
 *   takes two; map() returns -ENOMEM beyond. A stale view of an unmapped region faults: owners unmap only when
 *   every thread has let go.
 */
import { Errno, MmapFlag, MmapProtection } from '@virtnet/wire';
import { AddressSpace } from './address-space.js';
import { addressOf, negativeErrno, viewMemory } from './libc.js';
import { fileSize, mappingGranularity, nativeMmap, nativeMunmap, PAGE_BYTES } from './memory.js';

/** 1 TiB: room for a thousand guests of a gibibyte, and less than 1 % of a process's addresses. */
export const ARENA_BYTES = 2 ** 40;
/** The base is aligned to the largest huge page in use, so that offsets and addresses are aligned alike. */
const BASE_ALIGNMENT = 2 ** 30;
/** Large regions start at a multiple of this, which lets the kernel back them with large pages. */
const LARGE_PAGE_BYTES = 2 ** 21;

const RESERVED = MmapFlag.PRIVATE | MmapFlag.ANONYMOUS | MmapFlag.NORESERVE;
const READ_WRITE = MmapProtection.READ | MmapProtection.WRITE;

/** Offsets from here on are in the window. */
const WINDOW_AT = 2 ** 41;

const roundUp = (value: number, to: number): number => Math.ceil(value / to) * to;
const isSize = (value: number): boolean => Number.isSafeInteger(value) && value > 0;

/** Where a byte of an arena is. */
export interface ArenaPlace {
  readonly buffer: ArrayBuffer;
  readonly byteOffset: number;
  /** Process address. */
  readonly address: number;
}

/** Reserved addresses; those from `base` on are bytes of `buffer` from `skipBytes` on. */
interface Range {
  readonly base: number;
  readonly buffer: ArrayBuffer;
  readonly skipBytes: number;
  /** Offset in the arena of the first byte. */
  readonly at: number;
  /** null in an attached arena. */
  readonly space: AddressSpace | null;
}

export class Arena {
  /** Process address of byte 0. */
  readonly base: bigint;
  /** The whole range, without the window. Accessible only where a region is mapped. */
  readonly buffer: ArrayBuffer;
  readonly sizeBytes: number;
  readonly #wide: Range;
  readonly #window: Range | null;
  /** By the offset that map() returned; it is not that of the block when the file offset is inside a huge page. */
  readonly #regions = new Map<number, { range: Range; block: number; sizeBytes: number }>();

  private constructor(wide: Range, sizeBytes: number, window: Range | null) {
    this.base = BigInt(wide.base);
    this.sizeBytes = sizeBytes;
    this.buffer = wide.buffer;
    this.#wide = wide;
    this.#window = window;
  }

  /**
   * Reserves `sizeBytes` of addresses. `window`: memory of the caller's that nobody uses, whose addresses are the arena's
   * from now on. Throws when the kernel refuses, which only a resource limit makes it do.
   */
  static reserve(sizeBytes = ARENA_BYTES, window: ArrayBuffer | null = null): Arena {
    const length = roundUp(sizeBytes, PAGE_BYTES);
    const start = nativeMmap(0, length + BASE_ALIGNMENT, MmapProtection.NONE, RESERVED, -1, 0);
    if (start < 0) throw new Error(`cannot reserve ${length} bytes of addresses: errno ${-negativeErrno()}`);
    const base = roundUp(start, BASE_ALIGNMENT);
    if (base > start) nativeMunmap(start, base - start);
    const tail = start + BASE_ALIGNMENT - base;
    if (tail > 0) nativeMunmap(base + length, tail);
    const space = new AddressSpace(length, PAGE_BYTES);
    return new Arena(wideRange(base, length, space), length, window === null ? null : takeWindow(window));
  }

  /** The arena that another thread of this process reserved at `base`, with its window. It cannot map or unmap. */
  static attach(base: bigint, sizeBytes: number, window: ArrayBuffer | null = null): Arena {
    const wide = wideRange(Number(base), sizeBytes, null);
    return new Arena(wide, sizeBytes, window === null ? null : windowRange(window, null));
  }

  /** Regions mapped now. */
  get regionCount(): number {
    return this.#regions.size;
  }

  /** Where the byte at an offset is that map() returned, or at one inside what was mapped there. */
  locate(offset: number): ArenaPlace {
    const { buffer, skipBytes, base, at } =
      offset >= WINDOW_AT && this.#window !== null ? this.#window : this.#wide;
    return { buffer, byteOffset: skipBytes + offset - at, address: base + offset - at };
  }

  /**
   * Maps `sizeBytes` of `fd` from `fdOffset` (a multiple of the page size), shared with its other users; the
   * descriptor may be closed afterwards. Returns the arena offset of the first byte (page aligned; see locate()).
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
    return this.#place(
      { length, alignment, protection, flags: MmapFlag.SHARED, fd, fdOffset: fdOffset - inside },
      inside,
      sizeBytes,
    );
  }

  /** Maps zeroed private memory. Returns the arena offset or -errno. */
  mapAnonymous(sizeBytes: number): number {
    if (!isSize(sizeBytes)) return -Errno.EINVAL;
    const length = roundUp(sizeBytes, PAGE_BYTES);
    const flags = MmapFlag.PRIVATE | MmapFlag.ANONYMOUS;
    const wanted = { length, alignment: PAGE_BYTES, protection: READ_WRITE, flags, fd: -1, fdOffset: 0 };
    return this.#place(wanted, 0, sizeBytes);
  }

  /**
   * Puts the reservation back over a region. `offset` and `sizeBytes` are those of the mapping call.
   * Returns 0, -EINVAL when there is no such region, or -errno (the region then stays).
   */
  unmap(offset: number, sizeBytes: number): number {
    if (this.#wide.space === null) return -Errno.EPERM;
    const region = this.#regions.get(offset);
    if (region === undefined || region.sizeBytes !== sizeBytes) return -Errno.EINVAL;
    const { range, block } = region;
    const error = reserveAgain(range.base + block, range.space!.lengthOf(block));
    if (error < 0) return error;
    this.#regions.delete(offset);
    range.space!.free(block);
    return 0;
  }

  /** In the window while there is room; what the kernel refuses is refused. */
  #place(wanted: Wanted, inside: number, sizeBytes: number): number {
    let result: number = -Errno.EPERM;
    for (const range of [this.#window, this.#wide]) {
      if (range === null || range.space === null) continue;
      const block = range.space.allocate(wanted.length, wanted.alignment);
      if (block < 0) {
        result = -Errno.ENOMEM;
        continue;
      }
      const error = mapAt(range, block, wanted);
      if (error < 0) return error;
      const offset = range.at + block + inside;
      this.#regions.set(offset, { range, block, sizeBytes });
      return offset;
    }
    return result;
  }
}

/** What is mapped: whole pages of what the descriptor demands. */
interface Wanted {
  readonly length: number;
  readonly alignment: number;
  readonly protection: number;
  readonly flags: number;
  readonly fd: number;
  readonly fdOffset: number;
}

function mapAt({ base, space }: Range, block: number, wanted: Wanted): number {
  const { length, protection, flags, fd, fdOffset } = wanted;
  if (nativeMmap(base + block, length, protection, flags | MmapFlag.FIXED, fd, fdOffset) >= 0) return 0;
  const error = negativeErrno();
  // A fixed mapping that failed may already have removed what was there.
  if (reserveAgain(base + block, length) === 0) space?.free(block);
  return error;
}

function reserveAgain(address: number, length: number): number {
  const flags = RESERVED | MmapFlag.FIXED;
  const mapped = nativeMmap(address, length, MmapProtection.NONE, flags, -1, 0);
  return mapped < 0 ? negativeErrno() : 0;
}

function wideRange(base: number, length: number, space: AddressSpace | null): Range {
  return { base, buffer: viewMemory(BigInt(base), length), skipBytes: 0, at: 0, space };
}

/** What of the window is aligned as the arena is. */
function windowRange(buffer: ArrayBuffer, space: AddressSpace | null): Range {
  const start = addressOf(buffer);
  const base = roundUp(start, BASE_ALIGNMENT);
  return { base, buffer, skipBytes: base - start, at: WINDOW_AT, space };
}

/** Takes the memory away that is there, and keeps the addresses. Null when they cannot be kept, or are too few. */
function takeWindow(buffer: ArrayBuffer): Range | null {
  if (reserveAgain(addressOf(buffer), buffer.byteLength) < 0) return null;
  const { skipBytes } = windowRange(buffer, null);
  const sizeBytes = buffer.byteLength - skipBytes;
  return sizeBytes <= 0 ? null : windowRange(buffer, new AddressSpace(sizeBytes, PAGE_BYTES));
}
