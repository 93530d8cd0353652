/**
 * memory-ahead.ts: has a client's memory mapped before a takeover touches it.
 *
 * Theory
 *   The first touch of a page costs 20 to 50 us on a virtual machine whose hypervisor has tables of its own behind the
 *   kernel's: `madvise` fills the kernel's, the others only a program that touches the page. So pages are mapped, and then
 *   looked at. Whoever looks at memory that its owner has just cut off ends (SIGBUS), and a standby must not be ended by a
 *   client: it looks only where that cannot be, at files that are sealed against it, as QEMU seals its own. Of large pages
 *   there are few, and one that was given back may not be had again: they are only mapped.
 *   Of a ring its parts are mapped, and pages that its descriptors name: the buffers of a receive queue that rests are
 *   the next that are filled, and those of a transmit queue are often used again.
 *
 * Invariants
 *   I1  nothing in the memory changes.
 *   I2  what a table says is the client's word: it is read once, and nothing outside of the regions is mapped.
 *
 * Limits  NAMED_PAGES_MAX pages for each ring; regions of files in memory: who waits for a page of another one must be known
 *         for it, and not be a standby.
 */
import type { RingExtent } from '@virtnet/engine-virtqueue';
import { type Arena, isMemoryFile, mappingGranularity, PAGE_BYTES, populate } from '@virtnet/host-linux';
import { VirtqDescriptor } from '@virtnet/wire';
import { NAMED_PAGES_MAX } from './limits.js';

const { address: ADDRESS, lengthBytes: LENGTH } = VirtqDescriptor.at;

/** What is to be known of a region. */
export interface RegionAhead {
  readonly iova: bigint;
  readonly sizeBytes: number;
  readonly writable: boolean;
  readonly fd: number;
  /** -1: it is not mapped. */
  readonly arenaOffset: number;
  /** Nobody can make the file shorter. */
  readonly sealed: boolean;
}

/** A region that pages can be mapped of. */
interface Home {
  readonly region: RegionAhead;
  readonly buffer: ArrayBuffer;
  readonly byteOffset: number;
  /** Process address. */
  readonly address: number;
  /** Nobody can take the memory away. */
  readonly lasts: boolean;
}

type Range = Pick<RingExtent, 'address' | 'sizeBytes'>;

/** Maps what of `rings` lies in one region, whether or not it is a ring. Best effort. */
export function mapAhead(
  arena: Pick<Arena, 'locate'>,
  regions: Iterable<RegionAhead>,
  rings: readonly RingExtent[],
): void {
  const homes: Home[] = [];
  for (const region of regions) {
    if (region.arenaOffset < 0 || !isMemoryFile(region.fd)) continue;
    const lasts = region.sealed && mappingGranularity(region.fd) === PAGE_BYTES;
    homes.push({ region, lasts, ...arena.locate(region.arenaOffset) });
  }
  for (const extent of rings) {
    const table = map(homes, extent);
    if (table === null || extent.part !== 'descriptor') continue;
    for (const page of namedPages(table)) map(homes, { address: BigInt(page), sizeBytes: 1 });
  }
}

/** What is mapped of a range; null where it may not be looked at. */
function map(homes: readonly Home[], { address, sizeBytes }: Range): DataView | null {
  const end = address + BigInt(sizeBytes);
  const home = homes.find(
    ({ region }) => address >= region.iova && end <= region.iova + BigInt(region.sizeBytes),
  );
  if (home === undefined) return null;
  const from = Number(address - home.region.iova);
  if (populate(home.address + from, sizeBytes, home.region) < 0 || !home.lasts) return null;
  const at = home.byteOffset + from;
  const bytes = new Uint8Array(home.buffer, at, sizeBytes);
  for (let i = 0; i < sizeBytes; i += PAGE_BYTES - ((at + i) % PAGE_BYTES)) Atomics.load(bytes, i);
  return new DataView(home.buffer, at, sizeBytes);
}

/** Addresses of the first pages that a table of descriptors names. */
function namedPages(table: DataView): Set<number> {
  const pages = new Set<number>();
  const bytes = VirtqDescriptor.sizeBytes;
  for (let at = 0; at + bytes <= table.byteLength && pages.size < NAMED_PAGES_MAX; at += bytes) {
    const low = table.getUint32(at + ADDRESS, true);
    const address = table.getUint32(at + ADDRESS + 4, true) * 2 ** 32 + low;
    const length = table.getUint32(at + LENGTH, true);
    if (length === 0 || !Number.isSafeInteger(address + length)) continue;
    for (const byte of [address, address + length - 1]) pages.add(byte - (byte % PAGE_BYTES));
  }
  return pages;
}
