/**
 * own-memory.ts: how the memory of this process itself lies, for the sake of its end.
 *
 * Theory
 *   What the kernel takes apart when a process ends it takes from those who live. V8 wishes each piece of its heaps, of
 *   256 KiB, at an address of its own, any of 2^46: each then has page tables of its own at two or three levels, and
 *   where changing one is dear, as on some virtual machines, they are a third of the work. A wish for an address that is taken is not
 *   granted, and the kernel puts the piece beside the last one: so all addresses that V8 may wish are taken here, without
 *   anything behind them.
 *
 * Invariants
 *   I1  no mapping is replaced, and none that is there moves.
 *
 * Limits  Linux 4.17; where addresses are fewer, what there is of them.
 */
import { readFileSync } from 'node:fs';
import { MmapFlag, MmapProtection } from '@virtnet/wire';
import { nativeMmap } from './memory.js';

/** V8 wishes addresses below this, evenly spread; the kernel itself goes far above, and the program and its brk below. */
const WISHED_FROM = 2 ** 36;
const WISHED_TO = 2 ** 46;
const TAKEN = MmapFlag.PRIVATE | MmapFlag.ANONYMOUS | MmapFlag.NORESERVE | MmapFlag.FIXED_NOREPLACE;

/** This process maps memory while its mappings are read. */
const PASSES_MAX = 8;

interface Mapping {
  readonly start: number;
  readonly end: number;
}

function* mappings(): Generator<Mapping> {
  for (const line of readFileSync('/proc/self/maps', 'latin1').split('\n')) {
    const [start, end] = line
      .slice(0, Math.max(line.indexOf(' '), 0))
      .split('-')
      .map((text) => Number.parseInt(text, 16));
    if (start !== undefined && end !== undefined) yield { start, end };
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
