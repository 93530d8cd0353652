import { Arena, close, ftruncate, memfdCreate } from '@virtnet/host-linux';
import { Errno } from '@virtnet/wire';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { DeviceMemory, type DmaRange, dmaRangeRecord, parseDmaRange } from './device-memory.js';
import { DMA_REGIONS_MAX } from './limits.js';
import { isOpen, mappingsOf, openFds } from './test-support/holdings.js';

const PAGE = 4096;
const NAME = 'device-memory-test';
const range = (iova: number | bigint, sizeBytes: number, more: Partial<DmaRange> = {}): DmaRange => ({
  iova: BigInt(iova),
  sizeBytes,
  fdOffset: 0,
  readable: true,
  writable: true,
  ...more,
});

describe('device memory', () => {
  let memory: DeviceMemory;
  let arena: Arena;
  let before: number;
  const file = (sizeBytes: number) => memfdCreate(NAME, sizeBytes);
  const drop = (iova: bigint, sizeBytes: number) => {
    const region = memory.remove(iova, sizeBytes);
    if (typeof region === 'object') memory.release(region);
  };
  beforeEach(() => {
    before = openFds();
    arena = Arena.reserve(2 ** 30);
    memory = new DeviceMemory(arena);
  });
  afterEach(() => {
    for (const region of memory.removeAll()) memory.release(region);
    expect([openFds(), arena.regionCount, mappingsOf(NAME)]).toEqual([before, 0, 0]);
  });

  it('a range with a descriptor is mapped where the descriptor says', () => {
    const fd = file(4 * PAGE);
    expect(memory.add(range(0x10000, 2 * PAGE, { fdOffset: PAGE }), fd)).toBe(0);
    const [view] = memory.views();
    const bytes = new Uint8Array(view!.buffer, view!.byteOffset, view!.sizeBytes);
    bytes[0] = 7;
    const other = new DeviceMemory(arena);
    expect(other.add(range(0, 4 * PAGE), fd)).toBe(0);
    const whole = other.views()[0]!;
    expect(new Uint8Array(whole.buffer, whole.byteOffset, whole.sizeBytes)[PAGE]).toBe(7);
    const region = other.remove(0n, 4 * PAGE);
    if (typeof region === 'object') arena.unmap(region.arenaOffset, region.sizeBytes);
  });

  it('ranges that overlap at either end, inside or around are refused; neighbours are not', () => {
    expect(memory.add(range(4 * PAGE, 4 * PAGE), -1)).toBe(0);
    for (const [at, pages] of [
      [4, 4],
      [3, 2],
      [7, 1],
      [7, 9],
      [5, 1],
      [0, 32],
    ] as const)
      expect(memory.add(range(at * PAGE, pages * PAGE), -1)).toBe(-Errno.EEXIST);
    expect(memory.add(range(0, 4 * PAGE), -1)).toBe(0);
    expect(memory.add(range(8 * PAGE, PAGE), -1)).toBe(0);
    expect(memory.count).toBe(3);
  });

  it('odd sizes and addresses, nothing at all, and the end of the address space are refused', () => {
    const odd = [
      range(0, 0),
      range(0, -PAGE),
      range(0, 1),
      range(0, PAGE + 1),
      range(1, PAGE),
      range(2048, PAGE),
      range((1n << 64n) - BigInt(PAGE), 2 * PAGE),
      range(0, Number.NaN),
    ];
    for (const one of odd) expect(memory.add(one, -1)).toBe(-Errno.EINVAL);
    expect(memory.add(range((1n << 64n) - BigInt(PAGE), PAGE), -1)).toBe(0);
  });

  it(`the ${DMA_REGIONS_MAX + 1}th range is refused, and the others stay`, () => {
    for (let i = 0; i < DMA_REGIONS_MAX; i++) expect(memory.add(range(i * PAGE, PAGE), -1)).toBe(0);
    expect(memory.add(range(DMA_REGIONS_MAX * PAGE, PAGE), -1)).toBe(-Errno.ENOSPC);
    expect(memory.count).toBe(DMA_REGIONS_MAX);
  });

  it('a file shorter than its range, an odd offset, and what is no file are refused; the descriptor stays open', () => {
    const fd = file(2 * PAGE);
    const refused = [
      range(0, 3 * PAGE),
      range(0, PAGE, { fdOffset: 2 * PAGE }),
      range(0, PAGE, { fdOffset: 100 }),
    ];
    for (const one of refused) expect(memory.add(one, fd)).toBe(-Errno.EINVAL);
    expect(memory.add(range(0, PAGE), 0x7fff)).toBe(-Errno.EBADF);
    expect(isOpen(fd)).toBe(true);
    expect(memory.count).toBe(0);
    close(fd);
  });

  it('only an exact range can be taken away', () => {
    memory.add(range(4 * PAGE, 4 * PAGE), -1);
    for (const [at, pages] of [
      [4, 3],
      [4, 5],
      [5, 3],
      [0, 8],
      [9, 1],
    ] as const)
      expect(memory.remove(BigInt(at * PAGE), pages * PAGE)).toBe(-Errno.EINVAL);
    expect(memory.remove(BigInt(4 * PAGE), 4 * PAGE)).toMatchObject({ sizeBytes: 4 * PAGE, fd: -1 });
    expect(memory.count).toBe(0);
  });

  it('a range that was taken away stays mapped until it is released', () => {
    const fd = file(PAGE);
    memory.add(range(0, PAGE), fd);
    const region = memory.remove(0n, PAGE);
    expect(memory.messages()).toEqual([]);
    expect([mappingsOf(NAME), isOpen(fd)]).toEqual([1, true]);
    if (typeof region === 'object') memory.release(region);
    expect([mappingsOf(NAME), isOpen(fd)]).toEqual([0, false]);
  });

  it('a range without descriptor is known, and reachable by nobody', () => {
    memory.add(range(0, PAGE), -1);
    expect([memory.count, memory.messages(), memory.hasUnshared]).toEqual([1, [], true]);
    drop(0n, PAGE);
    memory.add(range(0, PAGE, { writable: false }), -1);
    expect(memory.hasUnshared).toBe(false);
  });

  it('files cut off after they were mapped: exactly their ranges are dropped and told', () => {
    const [whole, cut, gone] = [file(4 * PAGE), file(4 * PAGE), file(PAGE)];
    memory.add(range(0, 4 * PAGE), whole);
    memory.add(range(16 * PAGE, 2 * PAGE), cut);
    memory.add(range(32 * PAGE, PAGE), gone);
    memory.add(range(64 * PAGE, PAGE), -1);
    expect(memory.dropTruncated()).toEqual([]);
    ftruncate(cut, 2 * PAGE);
    expect(memory.dropTruncated()).toEqual([]);
    ftruncate(cut, 2 * PAGE - 1);
    ftruncate(gone, 0);
    expect(memory.dropTruncated().map(({ iova }) => iova)).toEqual([BigInt(16 * PAGE), BigInt(32 * PAGE)]);
    expect([memory.count, arena.regionCount, isOpen(cut), isOpen(gone)]).toEqual([2, 1, false, false]);
  });
});

describe('record of a range', () => {
  it('is read back as it was', () => {
    for (const one of [
      range(0, PAGE),
      range((1n << 64n) - 4096n, 4096, { writable: false, fdOffset: 2 ** 40 }),
    ])
      expect(parseDmaRange(JSON.parse(JSON.stringify(dmaRangeRecord(one))))).toEqual(one);
  });

  it('what is none is null', () => {
    const good = dmaRangeRecord(range(0, PAGE));
    const bad = [
      null,
      7,
      'x',
      [],
      {},
      { ...good, iova: 0 },
      { ...good, iova: '0xfffffffffffffffff' },
      { ...good, iova: '-0x1' },
      { ...good, sizeBytes: 2 ** 53 },
      { ...good, sizeBytes: '4096' },
      { ...good, fdOffset: 0.5 },
      { ...good, readable: 1 },
      { ...good, writable: undefined },
    ];
    for (const one of bad) expect(parseDmaRange(one)).toBeNull();
  });
});
