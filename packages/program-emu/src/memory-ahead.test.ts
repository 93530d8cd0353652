import { readFileSync } from 'node:fs';
import { type RingExtent, ringExtents } from '@virtnet/engine-virtqueue';
import { Arena, addSeals, ftruncate, memfdCreate, PAGE_BYTES } from '@virtnet/host-linux';
import { Seal } from '@virtnet/wire';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { DeviceMemory } from './device-memory.js';
import { NAMED_PAGES_MAX } from './limits.js';

const NAME = 'memory-ahead-test';
const IOVA = 0x1_0000_0000n;
const PAGES = 64;
const page = (number: number) => IOVA + BigInt(number * PAGE_BYTES);

describe('mapping ahead', () => {
  let arena: Arena;
  let memory: DeviceMemory;
  let fd: number;

  beforeEach(() => {
    arena = Arena.reserve(2 ** 30);
    memory = new DeviceMemory(arena);
    fd = memfdCreate(NAME, PAGES * PAGE_BYTES);
  });
  afterEach(() => {
    for (const region of memory.removeAll()) memory.release(region);
  });

  const add = (sealed: boolean) => {
    if (sealed) expect(addSeals(fd, Seal.SHRINK)).toBe(0);
    const range = { iova: IOVA, sizeBytes: PAGES * PAGE_BYTES, fdOffset: 0, readable: true, writable: true };
    expect(memory.add(range, fd)).toBe(0);
  };
  /** A ring of 64 entries on three pages; its table names these addresses. */
  const ringNaming = (named: readonly (readonly [address: bigint, lengthBytes: number])[]) => {
    const place = {
      queueSize: 64,
      descriptorAddress: page(0),
      driverAddress: page(1),
      deviceAddress: page(2),
    };
    const { buffer, byteOffset } = memory.views()[0]!;
    const table = new DataView(buffer, byteOffset, PAGE_BYTES);
    for (const [i, [address, lengthBytes]] of named.entries()) {
      table.setBigUint64(i * 16, address, true);
      table.setUint32(i * 16 + 8, lengthBytes, true);
    }
    return ringExtents(place, false);
  };
  /** Pages of the region that another mapping of it has by now. */
  const mappedElsewhere = (rings: readonly RingExtent[]): number => {
    const other = new DeviceMemory(arena);
    for (const { fd: theirs, ...range } of memory.all()) expect(other.add(range, theirs)).toBe(0);
    const before = residentPages();
    other.mapAhead(rings);
    const mapped = residentPages() - before;
    for (const region of other.removeAll()) arena.unmap(region.arenaOffset, region.sizeBytes);
    return mapped;
  };
  const residentPages = () => {
    const blocks = readFileSync('/proc/self/smaps', 'latin1').split(/\n(?=[0-9a-f]+-)/);
    const ours = blocks.filter((block) => block.includes(NAME));
    return ours.reduce((sum, block) => sum + Number(/Rss: +(\d+)/.exec(block)![1]) * 1024, 0) / PAGE_BYTES;
  };

  it('memory that stays: the ring, and the pages that its descriptors name, at both ends of a buffer', () => {
    add(true);
    const ring = ringNaming([
      [page(9) + 5n, 12],
      [page(9) + 100n, 60],
      [page(20) - 10n, 20],
      [page(30), 3 * PAGE_BYTES],
    ]);
    expect(mappedElsewhere(ring)).toBe(3 + 1 + 2 + 2);
  });

  it('memory that its owner could cut off: the ring alone, and nobody looks at it', () => {
    add(false);
    expect(mappedElsewhere(ringNaming([[page(9), 12]]))).toBe(3);
  });

  it('memory that was cut off: nothing, and the process lives', () => {
    add(false);
    const ring = ringNaming([[page(9), 12]]);
    ftruncate(fd, 0);
    memory.mapAhead(ring);
    expect(residentPages()).toBe(0);
  });

  it('what descriptors name outside of the memory, without a length, or beyond all numbers: nothing of it', () => {
    add(true);
    const ring = ringNaming([
      [page(-1), 12],
      [page(PAGES), 12],
      [page(9), 0],
      [0n, 12],
      [2n ** 64n - 1n, 0xffff_ffff],
      [2n ** 53n - 1n, 100],
      [page(PAGES) - 1n, 12],
    ]);
    expect(mappedElsewhere(ring)).toBe(3 + 1);
  });

  it('a ring outside of the memory: nothing', () => {
    add(true);
    const place = {
      queueSize: 64,
      descriptorAddress: 0n,
      driverAddress: page(PAGES),
      deviceAddress: 2n ** 63n,
    };
    expect(mappedElsewhere(ringExtents(place, false))).toBe(0);
  });

  it(`of many buffers: ${NAMED_PAGES_MAX} pages`, () => {
    add(true);
    const ring = ringNaming(Array.from({ length: 40 }, (_, i) => [page(10 + i), 12] as const));
    expect(mappedElsewhere(ring)).toBe(3 + NAMED_PAGES_MAX);
  });
});
