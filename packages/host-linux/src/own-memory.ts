/**
 * own-memory.ts: how the memory of this process itself lies, for the sake of its end.
 *
 * Theory
 *   What the kernel takes apart when a process ends it takes from those who live. V8 wishes each piece of its heaps, of
 *   256 KiB, at an address of its own, any of 2^46: each then has page tables of its own at two or three levels, and
 *   where changing one is dear, as on some virtual machines, they are a third of the work. A wish for an address that is taken is not
 *   granted, and the kernel puts the piece beside the last one: so all addresses that V8 may wish are taken here, without
 *   anything behind them.
 *   Pieces that lie together can have large pages: of one the kernel takes one entry apart instead of 512, and it gives back
 *   one block. It makes them when it is asked to (MADV_COLLAPSE), which copies what is there and takes some milliseconds each.
 *
 * Invariants
 *   I1  no mapping is replaced, and none that is there moves.
 *
 * Limits  Linux 6.1 for large pages, and an administrator who does not forbid them (transparent_hugepage); without, the memory
 *         stays as it is. Memory that is less than RESIDENT_LEAST in use is left alone: it would grow.
 */
import { readFileSync } from 'node:fs';
import { MADV_COLLAPSE, MmapFlag, MmapProtection } from '@virtnet/wire';
import { declare, NativeBuffer } from './libc.js';
import { nativeMadvise, nativeMmap, PAGE_BYTES } from './memory.js';

/** mincore: how much of a stretch of memory is there at all. */
const nativeMincore = declare<(address: number, sizeBytes: number, vector: number) => number>(
  'mincore',
  'int',
  ['uintptr_t', 'size_t', 'uintptr_t'],
);

/** V8 wishes addresses below this, evenly spread; the kernel itself goes far above, and the program and its brk below. */
const WISHED_FROM = 2 ** 36;
const WISHED_TO = 2 ** 46;
const TAKEN = MmapFlag.PRIVATE | MmapFlag.ANONYMOUS | MmapFlag.NORESERVE | MmapFlag.FIXED_NOREPLACE;

/** This process maps memory while its mappings are read. */
const PASSES_MAX = 8;

/** Part of a large page's memory that has to be in use already. */
const RESIDENT_LEAST = 0.75;
const SETTINGS = '/sys/kernel/mm/transparent_hugepage';

interface Mapping {
  readonly start: number;
  readonly end: number;
  /** Ordinary memory: private, writable, of no file, and no stack of a name. */
  readonly ordinary: boolean;
}

function* mappings(): Generator<Mapping> {
  for (const line of readFileSync('/proc/self/maps', 'latin1').split('\n')) {
    const [range = '', permissions, , , inode, name] = line.split(/ +/);
    const [start, end] = range.split('-').map((text) => Number.parseInt(text, 16));
    if (start === undefined || end === undefined) continue;
    yield { start, end, ordinary: permissions === 'rw-p' && inode === '0' && (name ?? '') === '' };
  }
}

/**
 * From now on what is mapped without a fixed address lies together. To be called once, before there is much. Returns how
 * many bytes of addresses were taken for it.
 */
export function packMemory(): number {
  let taken = 0;
  for (let pass = 0; pass < PASSES_MAX; pass++) {
    const now = takeGaps();
    taken += now;
    if (now === 0) break;
  }
  return taken;
}

/** Takes the gaps between what is mapped, but for those in which something came about meanwhile. */
function takeGaps(): number {
  let taken = 0;
  let from = WISHED_FROM;
  for (const { start, end } of [...mappings(), { start: WISHED_TO, end: WISHED_TO }]) {
    const sizeBytes = Math.min(start, WISHED_TO) - from;
    if (sizeBytes > 0 && nativeMmap(from, sizeBytes, MmapProtection.NONE, TAKEN, -1, 0) === from)
      taken += sizeBytes;
    from = Math.max(from, end);
  }
  return taken;
}

function largePageBytes(): number {
  try {
    const forbidden = readFileSync(`${SETTINGS}/enabled`, 'latin1').includes('[never]');
    return forbidden ? 0 : Number(readFileSync(`${SETTINGS}/hpage_pmd_size`, 'latin1'));
  } catch {
    return 0; // a kernel without them
  }
}

/**
 * Gives large pages to memory of this process's own that is in use now, one at each step, which takes some milliseconds; between two
 * steps the memory may change. Returns how many there are.
 */
export function* useLargePages(): Generator<void, number> {
  const bytes = largePageBytes();
  if (bytes === 0) return 0;
  const pages = bytes / PAGE_BYTES;
  const resident = new NativeBuffer(pages);
  let count = 0;
  for (const { start, end, ordinary } of [...mappings()]) {
    if (!ordinary) continue;
    for (let at = Math.ceil(start / bytes) * bytes; at + bytes <= end; at += bytes) {
      if (nativeMincore(at, bytes, resident.address) < 0) continue;
      const there = resident.u8.reduce((sum, byte) => sum + (byte & 1), 0);
      if (there < pages * RESIDENT_LEAST) continue;
      if (nativeMadvise(at, bytes, MADV_COLLAPSE) === 0) count++;
      yield;
    }
  }
  return count;
}
