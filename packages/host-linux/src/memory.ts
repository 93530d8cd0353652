/** memory.ts: memfds, shared mappings of a descriptor, and views of memory by address. */
import { fstatSync } from 'node:fs';
import {
  Errno,
  FcntlCommand,
  HUGETLBFS_MAGIC,
  MADV_POPULATE_READ,
  MADV_POPULATE_WRITE,
  MemfdFlag,
  MmapFlag,
  MmapProtection,
  SC_PAGESIZE,
  SEEK_DATA,
  SEEK_HOLE,
  STATFS_BYTES,
  StatfsHead,
  TMPFS_MAGIC,
} from '@virtnet/wire';
import { close, nativeFcntl } from './fd.js';
import { declare, NativeBuffer, negativeErrno, orErrno, viewMemory } from './libc.js';

/** mmap: guest memory, state pages and ring memory arrive as descriptors and are touched in place. */
export const nativeMmap = declare<
  (address: number, bytes: number, protection: number, flags: number, fd: number, offset: number) => number
>('mmap', 'int64_t', ['uintptr_t', 'size_t', 'int', 'int', 'int', 'int64_t']);
/** munmap: give a mapping back. */
export const nativeMunmap = declare<(address: number, bytes: number) => number>('munmap', 'int', [
  'uintptr_t',
  'size_t',
]);
/** madvise: gives memory back, or has it mapped before it is touched. */
export const nativeMadvise = declare<(address: number, sizeBytes: number, advice: number) => number>(
  'madvise',
  'int',
  ['uintptr_t', 'size_t', 'int'],
);
/** memfd_create: memory that outlives its maker and can be passed to another process. */
const nativeMemfdCreate = declare<(name: string, flags: number) => number>('memfd_create', 'int', [
  'str',
  'uint32_t',
]);
/** ftruncate: a memfd is born empty. */
const nativeFtruncate = declare<(fd: number, bytes: number) => number>('ftruncate', 'int', [
  'int',
  'int64_t',
]);
/** lseek: which parts of a state page were ever written. Nobody uses the position that it leaves. */
const nativeLseek = declare<(fd: number, at: number, whence: number) => number>('lseek', 'int64_t', [
  'int',
  'int64_t',
  'int',
]);
/** fstatfs: tells whether a descriptor is of hugetlbfs, whose mappings must be aligned to its page size. */
const nativeFstatfs = declare<(fd: number, address: number) => number>('fstatfs', 'int', [
  'int',
  'uintptr_t',
]);
/** sysconf: the page size is 4 KiB on x86-64, and 4, 16 or 64 KiB on arm64. */
const nativeSysconf = declare<(name: number) => number>('sysconf', 'int64_t', ['int']);

/** Size of a page of memory in bytes. */
export const PAGE_BYTES = nativeSysconf(SC_PAGESIZE);

/** Longest name memfd_create takes, in bytes. */
const MEMFD_NAME_BYTES_MAX = 249;

const statfs = new NativeBuffer(STATFS_BYTES);

/** A new sealable memfd of `sizeBytes` zero bytes, or -errno. `flags` adds MemfdFlag bits such as HUGETLB. */
export function memfdCreate(name: string, sizeBytes: number, flags = 0): number {
  if (Buffer.byteLength(name) > MEMFD_NAME_BYTES_MAX || name.includes('\0')) return -Errno.EINVAL;
  const fd = nativeMemfdCreate(name, MemfdFlag.CLOEXEC | MemfdFlag.ALLOW_SEALING | flags);
  if (fd < 0) return negativeErrno();
  const error = ftruncate(fd, sizeBytes);
  if (error === 0) return fd;
  close(fd);
  return error;
}

/**
 * Has the pages around `sizeBytes` at a process address mapped now, without a fault at the first touch, which costs ten
 * times as much; what is in them stays. Of a file that has no page there one is made. Returns 0 or -errno: -EFAULT or
 * -ENOMEM where touching it would end the process, -EINVAL when the kernel cannot do it (before 5.14).
 */
export function populate(address: number, sizeBytes: number, { writable }: { writable: boolean }): number {
  const start = address - (address % PAGE_BYTES);
  const advice = writable ? MADV_POPULATE_WRITE : MADV_POPULATE_READ;
  return orErrno(nativeMadvise(start, address + sizeBytes - start, advice));
}

/** Sets the size of a file. Returns 0 or -errno. */
export function ftruncate(fd: number, sizeBytes: number): number {
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes < 0) return -Errno.EINVAL;
  return orErrno(nativeFtruncate(fd, sizeBytes));
}

/** Size in bytes of a regular file, memfd or hugetlbfs file; -EINVAL for anything else, or -errno. */
export function fileSize(fd: number): number {
  try {
    const stat = fstatSync(fd);
    return stat.isFile() ? stat.size : -Errno.EINVAL;
  } catch (error) {
    return (error as NodeJS.ErrnoException).errno ?? -Errno.EBADF;
  }
}

/** A part of a file, in bytes from its beginning; `end` is behind it. */
export interface FileRange {
  readonly start: number;
  readonly end: number;
}

/**
 * The parts of a file that there is memory for, in order: all others read as zeros, and a look at them would make some.
 * Where nobody knows it is all of the file.
 */
export function writtenRanges(fd: number): FileRange[] {
  const ranges: FileRange[] = [];
  for (let end = 0; ; ) {
    const start = nativeLseek(fd, end, SEEK_DATA);
    if (start < 0 && negativeErrno() === -Errno.ENXIO) return ranges;
    const next = start < 0 ? fileSize(fd) : nativeLseek(fd, start, SEEK_HOLE);
    if (next <= Math.max(start, end)) return ranges; // no file, or cut off meanwhile
    ranges.push({ start: Math.max(start, end), end: next });
    end = next;
  }
}

/** The granularity at which `fd` can be mapped: the huge page size for hugetlbfs, else the page size; or -errno. */
export function mappingGranularity(fd: number): number {
  if (nativeFstatfs(fd, statfs.address) < 0) return negativeErrno();
  const { type, blockBytes } = StatfsHead.decode(statfs.view);
  return type === BigInt(HUGETLBFS_MAGIC) ? Number(blockBytes) : PAGE_BYTES;
}

/** Whether `fd` is a file in memory: of others a page may come late, or never. */
export function isMemoryFile(fd: number): boolean {
  if (nativeFstatfs(fd, statfs.address) < 0) return false;
  const { type } = StatfsHead.decode(statfs.view);
  return type === BigInt(TMPFS_MAGIC) || type === BigInt(HUGETLBFS_MAGIC);
}

/** Adds `Seal` bits to a memfd. Returns 0 or -errno. */
export function addSeals(fd: number, seals: number): number {
  return orErrno(nativeFcntl(fd, FcntlCommand.ADD_SEALS, seals));
}

/** The `Seal` bits of a memfd, or -errno. */
export function getSeals(fd: number): number {
  return orErrno(nativeFcntl(fd, FcntlCommand.GET_SEALS, 0));
}

/** Memory shared with whoever else maps the same descriptor. */
export interface SharedMapping {
  readonly address: bigint;
  /** What is viewed of it. Detached by close(): a later access through it reads undefined instead of unmapped memory. */
  readonly buffer: ArrayBuffer;
  /** Views at least the first `bytes`, as far as there are so many; a former view stays good. */
  view(bytes: number): void;
  /** Unmaps. Views other threads made by address must be out of use by then. Closing twice does nothing. */
  close(): void;
}

/**
 * Maps the first `sizeBytes` of `fd` for reading and writing. The descriptor may be closed afterwards. V8 takes what is
 * viewed for memory of its own that it had better collect: of large and mostly empty files view `viewBytes` only.
 * Errors: -EINVAL when the file is shorter than that or not a file; else what mmap says.
 */
export function sharedMapping(
  fd: number,
  sizeBytes: number,
  viewBytes: number = sizeBytes,
): SharedMapping | number {
  const size = fileSize(fd);
  if (size < 0) return size;
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes <= 0 || sizeBytes > size) return -Errno.EINVAL;
  const granularity = mappingGranularity(fd);
  if (granularity < 0) return granularity;
  const mappedBytes = Math.ceil(sizeBytes / granularity) * granularity;
  const address = nativeMmap(
    0,
    mappedBytes,
    MmapProtection.READ | MmapProtection.WRITE,
    MmapFlag.SHARED,
    fd,
    0,
  );
  if (address < 0) return negativeErrno();
  const views = [viewMemory(BigInt(address), Math.min(viewBytes, sizeBytes))];
  let open = true;
  return {
    address: BigInt(address),
    get buffer() {
      return views.at(-1)!;
    },
    view(bytes) {
      const wanted = Math.min(bytes, sizeBytes);
      if (open && wanted > views.at(-1)!.byteLength) views.push(viewMemory(BigInt(address), wanted));
    },
    close() {
      if (!open) return;
      open = false;
      for (const view of views) view.transfer();
      nativeMunmap(address, mappedBytes);
    },
  };
}

/** A view of memory another thread of this process has mapped at `address`. */
export function viewAt(address: bigint, sizeBytes: number): ArrayBuffer {
  return viewMemory(address, sizeBytes);
}
