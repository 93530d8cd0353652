import { openSync } from 'node:fs';
import { Errno, MemfdFlag, Seal } from '@virtnet/wire';
import { describe, expect, it } from 'vitest';
import { runChild } from './child.fixture.js';
import { close, eventfd } from './fd.js';
import {
  addSeals,
  fileSize,
  ftruncate,
  getSeals,
  isMemoryFile,
  mappingGranularity,
  memfdCreate,
  PAGE_BYTES,
  populate,
  type SharedMapping,
  sharedMapping,
  viewAt,
  writtenRanges,
} from './memory.js';
import { openDescriptorCount } from './process.js';

function mapped(fd: number, sizeBytes: number): SharedMapping {
  const mapping = sharedMapping(fd, sizeBytes);
  if (typeof mapping === 'number') throw new Error(`sharedMapping: ${mapping}`);
  return mapping;
}

describe('memfd', () => {
  it('is zeroed, of the size asked for, and sealable', () => {
    const fd = memfdCreate('test', 3 * PAGE_BYTES);
    expect(fileSize(fd)).toBe(3 * PAGE_BYTES);
    expect(getSeals(fd)).toBe(0);
    expect(addSeals(fd, Seal.SHRINK | Seal.GROW)).toBe(0);
    expect(getSeals(fd)).toBe(Seal.SHRINK | Seal.GROW);
    expect(ftruncate(fd, PAGE_BYTES)).toBe(-Errno.EPERM);
    expect(ftruncate(fd, 4 * PAGE_BYTES)).toBe(-Errno.EPERM);
    expect(fileSize(fd)).toBe(3 * PAGE_BYTES);
    close(fd);
  });

  it('of an impossible name or size is refused, and no descriptor is left', () => {
    const before = openDescriptorCount();
    expect(memfdCreate('x'.repeat(250), 1)).toBe(-Errno.EINVAL);
    expect(memfdCreate('a\0b', 1)).toBe(-Errno.EINVAL);
    expect(memfdCreate('x', -1)).toBe(-Errno.EINVAL);
    expect(memfdCreate('x', 2 ** 54)).toBe(-Errno.EINVAL);
    expect(openDescriptorCount()).toBe(before);
  });
});

describe('file size', () => {
  it('of something that is not a file is -EINVAL, of nothing -EBADF', () => {
    const fd = eventfd();
    expect(fileSize(fd)).toBe(-Errno.EINVAL);
    close(fd);
    expect(fileSize(1_000_000)).toBe(-Errno.EBADF);
    expect(mappingGranularity(1_000_000)).toBe(-Errno.EBADF);
  });

  it('a memfd is in memory, with pages of either size, and other files and things are not', () => {
    const files = [memfdCreate('plain', PAGE_BYTES), openSync('/proc/self/exe', 'r'), eventfd()];
    const huge = memfdCreate('huge', 2 ** 21, MemfdFlag.HUGETLB);
    if (huge >= 0) files.push(huge);
    expect(files.map(isMemoryFile)).toEqual([true, false, false, ...(huge >= 0 ? [true] : [])]);
    expect(isMemoryFile(1_000_000)).toBe(false);
    for (const fd of files) close(fd);
  });

  it('granularity is the huge page size for hugetlbfs and the page size otherwise', () => {
    const plain = memfdCreate('plain', PAGE_BYTES);
    const huge = memfdCreate('huge', 2 ** 21, MemfdFlag.HUGETLB);
    expect(mappingGranularity(plain)).toBe(PAGE_BYTES);
    expect(mappingGranularity(huge)).toBeGreaterThanOrEqual(2 ** 21);
    close(plain);
    close(huge);
  });
});

describe('mapping ahead', () => {
  it('leaves what is in the pages, and answers instead of ending the process where there is nothing', ({
    skip,
  }) => {
    const fd = memfdCreate('test', 4 * PAGE_BYTES);
    const mapping = mapped(fd, 4 * PAGE_BYTES);
    const bytes = new Uint8Array(mapping.buffer).fill(7);
    const at = Number(mapping.address);
    const first = populate(at + PAGE_BYTES - 1, 2, { writable: true });
    if (first === -Errno.EINVAL) skip('this kernel cannot');
    expect([first, populate(at + 5, 4 * PAGE_BYTES - 5, { writable: false })]).toEqual([0, 0]);
    expect(bytes.every((byte) => byte === 7)).toBe(true);
    ftruncate(fd, PAGE_BYTES);
    for (const writable of [true, false]) {
      expect(populate(at, PAGE_BYTES, { writable })).toBe(0);
      expect(populate(at, 2 * PAGE_BYTES, { writable })).toBe(-Errno.EFAULT);
    }
    mapping.close();
    expect(populate(at, PAGE_BYTES, { writable: true })).toBe(-Errno.ENOMEM);
    close(fd);
  });
});

describe('what was written of a file', () => {
  it('is told in whole pages, a look at the mapping makes none, and of no file it is nothing', () => {
    const fd = memfdCreate('test', 9 * PAGE_BYTES);
    expect(writtenRanges(fd)).toEqual([]);
    const mapping = mapped(fd, 9 * PAGE_BYTES);
    const bytes = new Uint8Array(mapping.buffer);
    for (const page of [1, 2, 7]) bytes[page * PAGE_BYTES + 5] = 1;
    const ranges = [
      [1, 3],
      [7, 8],
    ].map(([start, end]) => ({ start: start! * PAGE_BYTES, end: end! * PAGE_BYTES }));
    expect(writtenRanges(fd)).toEqual(ranges);
    mapping.close();
    close(fd);
    const event = eventfd();
    expect([writtenRanges(event), writtenRanges(1_000_000)]).toEqual([[], []]);
    close(event);
  });
});

describe('shared mapping', () => {
  it('two mappings of one descriptor see each other, bytes, words and Atomics', () => {
    const fd = memfdCreate('both', PAGE_BYTES);
    const one = mapped(fd, PAGE_BYTES);
    const other = mapped(fd, PAGE_BYTES);
    close(fd);
    new Uint8Array(one.buffer)[5] = 0xab;
    expect(new Uint8Array(other.buffer)[5]).toBe(0xab);
    Atomics.store(new Uint16Array(other.buffer), 9, 0xbeef);
    expect(Atomics.load(new Uint16Array(one.buffer), 9)).toBe(0xbeef);
    expect(Atomics.add(new Int32Array(one.buffer), 8, 3)).toBe(0);
    expect(new Int32Array(other.buffer)[8]).toBe(3);
    expect(other.address).not.toBe(one.address);
    one.close();
    other.close();
  });

  it('another process sees what was written, and writes back', async () => {
    const fd = memfdCreate('child', PAGE_BYTES);
    const mapping = mapped(fd, PAGE_BYTES);
    const bytes = new Uint8Array(mapping.buffer);
    bytes[0] = 41;
    const end = await runChild(
      `import { sharedMapping } from '@virtnet/host-linux';
       const bytes = new Uint8Array(sharedMapping(3, ${PAGE_BYTES}).buffer);
       bytes[1] = bytes[0] + 1;`,
      [fd],
    );
    expect(end).toMatchObject({ code: 0, errors: '' });
    expect(bytes[1]).toBe(42);
    mapping.close();
    close(fd);
  });

  it('is visible at its address to other views', () => {
    const fd = memfdCreate('view', PAGE_BYTES);
    const mapping = mapped(fd, PAGE_BYTES);
    const view = new Uint8Array(viewAt(mapping.address, PAGE_BYTES));
    view[7] = 77;
    expect(new Uint8Array(mapping.buffer)[7]).toBe(77);
    mapping.close();
    close(fd);
  });

  it('when closed: its buffer is empty instead of dangling, and closing again does nothing', () => {
    const fd = memfdCreate('closed', PAGE_BYTES);
    const mapping = mapped(fd, PAGE_BYTES);
    const bytes = new Uint8Array(mapping.buffer);
    mapping.close();
    expect(mapping.buffer.byteLength).toBe(0);
    expect(bytes[0]).toBeUndefined();
    mapping.close();
    close(fd);
  });

  it('beyond the end of the file, of size 0, or of no file is refused', () => {
    const fd = memfdCreate('short', PAGE_BYTES);
    expect(sharedMapping(fd, PAGE_BYTES + 1)).toBe(-Errno.EINVAL);
    expect(sharedMapping(fd, 0)).toBe(-Errno.EINVAL);
    expect(sharedMapping(fd, Number.NaN)).toBe(-Errno.EINVAL);
    close(fd);
    const bell = eventfd();
    expect(sharedMapping(bell, 8)).toBe(-Errno.EINVAL);
    close(bell);
  });
});
