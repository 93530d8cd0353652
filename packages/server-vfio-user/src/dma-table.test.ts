import { Errno } from '@virtnet/wire';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DmaTable } from './dma-table.js';
import { DMA_REGIONS_MAX } from './limits.js';

const PAGE = 4096;
const page = (n: number, count = 1) => ({ iova: BigInt(n * PAGE), sizeBytes: count * PAGE });

describe('DMA table', () => {
  it('ranges that touch but do not overlap › are all admitted and stay sorted', () => {
    const table = new DmaTable();
    for (const n of [4, 0, 2, 1, 3]) expect(table.add(page(n))).toBe(0);
    expect(table.ranges.map(({ iova }) => Number(iova) / PAGE)).toEqual([0, 1, 2, 3, 4]);
  });

  it.each([
    ['the same', page(10, 4)],
    ['inside', page(11)],
    ['around', page(9, 6)],
    ['across its start', page(9, 2)],
    ['across its end', page(13, 2)],
  ])('a range that is mapped › %s is refused with EEXIST and changes nothing', (_, range) => {
    const table = new DmaTable();
    table.add(page(10, 4));
    expect(table.add(range)).toBe(-Errno.EEXIST);
    expect(table.ranges).toHaveLength(1);
  });

  it.each([
    ['empty', { iova: 0n, sizeBytes: 0 }],
    ['of a size past 2^53', { iova: 0n, sizeBytes: -1 }],
    ['past 2^64', { iova: (1n << 64n) - 4096n, sizeBytes: 8192 }],
  ])('a range that is %s › EINVAL', (_, range) => {
    expect(new DmaTable().add(range)).toBe(-Errno.EINVAL);
  });

  it('a range that ends at 2^64 exactly › is admitted', () => {
    expect(new DmaTable().add({ iova: (1n << 64n) - 4096n, sizeBytes: 4096 })).toBe(0);
  });

  it('removal › only of exactly what is there: part, more and neighbour are EINVAL, nothing there is ENOENT', () => {
    const table = new DmaTable();
    table.add(page(10, 4));
    expect(table.remove(page(10))).toBe(-Errno.EINVAL);
    expect(table.remove(page(12, 2))).toBe(-Errno.EINVAL);
    expect(table.remove(page(8, 8))).toBe(-Errno.EINVAL);
    expect(table.remove(page(14))).toBe(-Errno.ENOENT);
    expect(table.remove(page(10, 4))).toBe(0);
    expect(table.remove(page(10, 4))).toBe(-Errno.ENOENT);
  });

  it('limit › one range past DMA_REGIONS_MAX is refused with ENOSPC, the others stay', () => {
    const table = new DmaTable();
    for (let n = 0; n < DMA_REGIONS_MAX; n++) expect(table.add(page(2 * n))).toBe(0);
    expect(table.add(page(2 * DMA_REGIONS_MAX))).toBe(-Errno.ENOSPC);
    expect(table.ranges).toHaveLength(DMA_REGIONS_MAX);
  });

  it('any sequence of maps and unmaps › agrees with a bitmap of pages', () => {
    const step = fc.record({ map: fc.boolean(), first: fc.nat(31), count: fc.integer({ min: 1, max: 6 }) });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const table = new DmaTable();
        const owner = new Map<number, string>();
        for (const { map, first, count } of steps) {
          const pages = Array.from({ length: count }, (_, i) => first + i);
          const name = `${first}+${count}`;
          const owners = pages.map((n) => owner.get(n));
          if (map) {
            const free = owners.every((o) => o === undefined);
            expect(table.add(page(first, count))).toBe(free ? 0 : -Errno.EEXIST);
            if (free) for (const n of pages) owner.set(n, name);
          } else {
            const exact = owners.every((o) => o === name);
            const nothing = owners.every((o) => o === undefined);
            expect(table.remove(page(first, count))).toBe(
              exact ? 0 : nothing ? -Errno.ENOENT : -Errno.EINVAL,
            );
            if (exact) for (const n of pages) owner.delete(n);
          }
        }
      }),
    );
  });
});
