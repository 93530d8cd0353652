import { Errno } from '@virtnet/wire';
import { describe, expect, test } from 'vitest';
import { MEMORY_REGIONS_MAX } from './limits.js';
import { checkRegion, type GuestRegion, MemoryTable } from './memory-table.js';

const MIB = 1n << 20n;
const region = (guestAddress: bigint, sizeBytes = MIB, more: Partial<GuestRegion> = {}): GuestRegion => ({
  guestAddress,
  sizeBytes,
  userAddress: 0x7f00_0000_0000n + guestAddress,
  mmapOffset: 0n,
  fd: 10,
  ...more,
});

describe('memory table', () => {
  test('regions that are empty, unaligned, wrap or pass the end of any file > are refused with EINVAL', () => {
    const top = (1n << 64n) - 4096n;
    for (const bad of [
      region(0n, 0n),
      region(1n),
      region(0n, 4095n),
      region(top, 8192n),
      region(0n, 8192n, { userAddress: top }),
      region(0n, MIB, { mmapOffset: 0xffff_ffff_ffff_f000n }),
      region(0n, MIB, { mmapOffset: 1n }),
    ])
      expect(checkRegion(bad)).toBe(-Errno.EINVAL);
    expect(checkRegion(region(top, 4096n, { userAddress: 0n }))).toBe(0);
  });

  test('a region over another > is refused, and the first stays', () => {
    const table = new MemoryTable();
    expect(table.add(region(0n))).toBe(0);
    expect(table.add(region(MIB - 4096n))).toBe(-Errno.EEXIST);
    expect(table.add(region(MIB))).toBe(0);
    expect(table.regions.length).toBe(2);
  });

  test(`the ${MEMORY_REGIONS_MAX}th region > fits; one more is refused with ENOSPC`, () => {
    const table = new MemoryTable();
    for (let i = 0; i < MEMORY_REGIONS_MAX; i++) expect(table.add(region(BigInt(i) * MIB))).toBe(0);
    expect(table.add(region(BigInt(MEMORY_REGIONS_MAX) * MIB))).toBe(-Errno.ENOSPC);
  });

  test('a user address > becomes a guest address, but not across the end of a region', () => {
    const table = new MemoryTable();
    table.add(region(0n));
    table.add(region(16n * MIB));
    const user = 0x7f00_0000_0000n;
    expect(table.translate(user + 16n * MIB + 5n, 100)).toBe(16n * MIB + 5n);
    expect(table.translate(user + MIB - 8n, 8)).toBe(MIB - 8n);
    expect(table.translate(user + MIB - 8n, 9)).toBeNull();
    expect(table.translate(user - 1n, 1)).toBeNull();
  });

  test('a new table > only what differs in range, offset or file is removed and added', () => {
    const table = new MemoryTable();
    const old = [region(0n, MIB, { fd: 1 }), region(MIB, MIB, { fd: 2 }), region(2n * MIB, MIB, { fd: 3 })];
    for (const r of old) table.add(r);
    const next = [
      region(0n, MIB, { fd: 11 }), //                       same
      region(MIB, MIB, { fd: 12, mmapOffset: 4096n }), //   other offset
      region(2n * MIB, MIB, { fd: 99 }), //                 other file
      region(3n * MIB, MIB, { fd: 14 }), //                 new
    ];
    const plan = table.planReplacement(next, (a, b) => b === a + 10);
    if (typeof plan === 'number') throw new Error(`refused: ${plan}`);
    expect(plan.kept).toEqual([{ region: old[0], sentFd: 11 }]);
    expect(plan.removed).toEqual([old[1], old[2]]);
    expect(plan.added).toEqual(next.slice(1));
  });

  test('a new table that overlaps itself > is refused and changes nothing', () => {
    const table = new MemoryTable();
    table.add(region(0n));
    expect(table.planReplacement([region(0n), region(MIB / 2n)], () => true)).toBe(-Errno.EEXIST);
    expect(table.regions.length).toBe(1);
  });
});
