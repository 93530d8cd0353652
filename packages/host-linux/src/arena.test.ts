import { Worker } from 'node:worker_threads';
import { Errno, MemfdFlag, Seal } from '@virtnet/wire';
import { describe, expect, it } from 'vitest';
import { Arena } from './arena.js';
import { runChild } from './child.fixture.js';
import { close, eventfd } from './fd.js';
import { addSeals, memfdCreate, PAGE_BYTES, sharedMapping } from './memory.js';
import { openDescriptorCount } from './process.js';

const arena = Arena.reserve();
const WRITABLE = { writable: true };

describe('arena', () => {
  it('maps a file so that both sides see it, after the descriptor is closed too', () => {
    const fd = memfdCreate('region', 4 * PAGE_BYTES);
    const other = sharedMapping(fd, 4 * PAGE_BYTES);
    if (typeof other === 'number') throw new Error(`${other}`);
    const offset = arena.map(fd, PAGE_BYTES, 2 * PAGE_BYTES, WRITABLE);
    close(fd);
    expect(offset % PAGE_BYTES).toBe(0);
    const region = new Uint8Array(arena.buffer, offset, 2 * PAGE_BYTES);
    region[0] = 1;
    new Uint8Array(other.buffer)[2 * PAGE_BYTES] = 2;
    expect(new Uint8Array(other.buffer)[PAGE_BYTES]).toBe(1);
    expect(region[PAGE_BYTES]).toBe(2);
    other.close();
    expect(arena.unmap(offset, 2 * PAGE_BYTES)).toBe(0);
  });

  it('copies between two regions with one copyWithin over the whole arena', () => {
    const from = arena.mapAnonymous(PAGE_BYTES);
    const to = arena.mapAnonymous(PAGE_BYTES);
    const all = new Uint8Array(arena.buffer);
    all.fill(7, from, from + 100);
    all.copyWithin(to + 50, from, from + 100);
    expect(all[to + 49]).toBe(0);
    expect(all[to + 50]).toBe(7);
    expect(arena.unmap(from, PAGE_BYTES)).toBe(0);
    expect(arena.unmap(to, PAGE_BYTES)).toBe(0);
  });

  it('refuses ranges outside the file, bad numbers and descriptors that are no file', () => {
    const fd = memfdCreate('bounds', 2 * PAGE_BYTES);
    const bell = eventfd();
    const map = (offset: number, size: number) => arena.map(fd, offset, size, WRITABLE);
    const regions = arena.regionCount;
    expect(map(0, 2 * PAGE_BYTES + 1)).toBe(-Errno.EINVAL);
    expect(map(PAGE_BYTES, 2 * PAGE_BYTES)).toBe(-Errno.EINVAL);
    expect(map(4 * PAGE_BYTES, PAGE_BYTES)).toBe(-Errno.EINVAL);
    expect(map(1, PAGE_BYTES)).toBe(-Errno.EINVAL);
    expect(map(-PAGE_BYTES, PAGE_BYTES)).toBe(-Errno.EINVAL);
    expect(map(0, 0)).toBe(-Errno.EINVAL);
    expect(map(0, Number.NaN)).toBe(-Errno.EINVAL);
    expect(map(Number.MAX_SAFE_INTEGER, PAGE_BYTES)).toBe(-Errno.EINVAL);
    expect(arena.map(bell, 0, 8, WRITABLE)).toBe(-Errno.EINVAL);
    expect(arena.map(1_000_000, 0, PAGE_BYTES, WRITABLE)).toBe(-Errno.EBADF);
    expect(arena.regionCount).toBe(regions);
    close(fd);
    close(bell);
  });

  it('a write-sealed file maps for reading only, and the refused attempt leaves the arena usable', () => {
    const fd = memfdCreate('sealed', PAGE_BYTES);
    expect(addSeals(fd, Seal.FUTURE_WRITE)).toBe(0);
    expect(arena.map(fd, 0, PAGE_BYTES, WRITABLE)).toBe(-Errno.EPERM);
    const offset = arena.map(fd, 0, PAGE_BYTES, { writable: false });
    expect(offset).toBeGreaterThan(0);
    expect(new Uint8Array(arena.buffer, offset, 1)[0]).toBe(0);
    expect(arena.unmap(offset, PAGE_BYTES)).toBe(0);
    close(fd);
  });

  it('unmaps only what was mapped, once, and gives the addresses out again', () => {
    const offset = arena.mapAnonymous(3 * PAGE_BYTES);
    expect(arena.unmap(offset + PAGE_BYTES, PAGE_BYTES)).toBe(-Errno.EINVAL);
    expect(arena.unmap(offset, PAGE_BYTES)).toBe(-Errno.EINVAL);
    expect(arena.unmap(offset, 3 * PAGE_BYTES)).toBe(0);
    expect(arena.unmap(offset, 3 * PAGE_BYTES)).toBe(-Errno.EINVAL);
    const again = arena.mapAnonymous(3 * PAGE_BYTES);
    expect(again).toBe(offset);
    expect(new Uint8Array(arena.buffer, again, 1)[0]).toBe(0);
    arena.unmap(again, 3 * PAGE_BYTES);
  });

  it('many rounds of mapping and unmapping leave neither regions nor descriptors', () => {
    const fd = memfdCreate('rounds', 2 ** 22);
    const before = openDescriptorCount();
    const regions = arena.regionCount;
    const first = arena.map(fd, 0, 2 ** 22, WRITABLE);
    arena.unmap(first, 2 ** 22);
    for (let i = 0; i < 500; i++) {
      const offset = arena.map(fd, 0, 2 ** 22, WRITABLE);
      expect(offset).toBe(first);
      expect(arena.unmap(offset, 2 ** 22)).toBe(0);
    }
    expect(arena.regionCount).toBe(regions);
    expect(openDescriptorCount()).toBe(before);
    close(fd);
  });

  it('regions of huge pages and inside huge pages are placed at what the kernel demands', ({ skip }) => {
    const HUGE = 2 ** 21;
    const fd = memfdCreate('huge', 2 * HUGE, MemfdFlag.HUGETLB);
    const offset = arena.map(fd, 0, 2 * HUGE, WRITABLE);
    if (offset === -Errno.ENOMEM) {
      close(fd);
      skip('no huge pages are reserved on this machine (vm.nr_hugepages)');
    }
    expect(offset % HUGE).toBe(0);
    const inside = arena.map(fd, HUGE + PAGE_BYTES, PAGE_BYTES, WRITABLE);
    new Uint8Array(arena.buffer)[offset + HUGE + PAGE_BYTES] = 9;
    expect(new Uint8Array(arena.buffer, inside, 1)[0]).toBe(9);
    expect(arena.unmap(inside, PAGE_BYTES)).toBe(0);
    expect(arena.unmap(offset, 2 * HUGE)).toBe(0);
    close(fd);
  });

  it('is full at its size and answers -ENOMEM', () => {
    const small = Arena.reserve(8 * PAGE_BYTES);
    expect(small.mapAnonymous(7 * PAGE_BYTES)).toBe(-Errno.ENOMEM);
    expect(small.mapAnonymous(6 * PAGE_BYTES)).toBe(PAGE_BYTES);
    expect(small.mapAnonymous(1)).toBe(-Errno.ENOMEM);
  });
});

describe('arena with a window', () => {
  // Anything will do whose pages nobody else has: a mapping of a page, as large as the arena wants it aligned, and more.
  const WINDOW_BYTES = 3 * 2 ** 30;
  const windowed = (sizeBytes: number) => {
    const fd = memfdCreate('window', WINDOW_BYTES);
    const window = sharedMapping(fd, WINDOW_BYTES);
    close(fd);
    if (typeof window === 'number') throw new Error(`${window}`);
    return { window: window.buffer, arena: Arena.reserve(sizeBytes, window.buffer) };
  };

  it('regions are mapped there, and seen through the window where locate() says', () => {
    const { window, arena } = windowed(2 ** 24);
    const fd = memfdCreate('region', 2 * PAGE_BYTES);
    const other = sharedMapping(fd, 2 * PAGE_BYTES);
    if (typeof other === 'number') throw new Error(`${other}`);
    const offset = arena.map(fd, 0, 2 * PAGE_BYTES, WRITABLE);
    close(fd);
    const place = arena.locate(offset);
    expect(place.buffer).toBe(window);
    expect(place.byteOffset % PAGE_BYTES).toBe(0);
    new Uint8Array(window, place.byteOffset, 2)[1] = 7;
    expect(new Uint8Array(other.buffer)[1]).toBe(7);
    expect(arena.locate(offset + PAGE_BYTES)).toEqual({
      ...place,
      byteOffset: place.byteOffset + PAGE_BYTES,
      address: place.address + PAGE_BYTES,
    });
    expect(Arena.attach(arena.base, arena.sizeBytes, window).locate(offset)).toEqual(place);
    other.close();
    expect([arena.unmap(offset, 2 * PAGE_BYTES), arena.regionCount]).toEqual([0, 0]);
  });

  it('what does not fit goes to the other addresses, and the window is used again when there is room', () => {
    const { window, arena } = windowed(2 ** 33);
    const sizes = [2 ** 30, 2 ** 30, 2 ** 30, 2 ** 29];
    const offsets = sizes.map((sizeBytes) => arena.mapAnonymous(sizeBytes));
    const inWindow = () => offsets.map((offset) => arena.locate(offset).buffer === window);
    const before = inWindow();
    expect(before[0]).toBe(true);
    expect(before).toContain(false);
    expect(offsets.every((offset) => offset > 0)).toBe(true);
    expect(new Set(offsets).size).toBe(sizes.length);
    for (const [i, offset] of offsets.entries()) {
      const { buffer, byteOffset } = arena.locate(offset);
      new Uint8Array(buffer, byteOffset, 8).fill(i + 1);
    }
    for (const [i, offset] of offsets.entries()) {
      const { buffer, byteOffset } = arena.locate(offset);
      expect(new Uint8Array(buffer, byteOffset, 8).every((byte) => byte === i + 1)).toBe(true);
    }
    for (const [i, offset] of offsets.entries()) expect(arena.unmap(offset, sizes[i]!)).toBe(0);
    const again = arena.mapAnonymous(2 ** 30);
    expect(again).toBe(offsets[0]);
    expect(new Uint8Array(window, arena.locate(again).byteOffset, 1)[0]).toBe(0);
    arena.unmap(again, 2 ** 30);
  });
});

describe('arena guards', () => {
  const script = (access: string) => `
    import { Arena, memfdCreate } from '@virtnet/host-linux';
    const arena = Arena.reserve();
    const fd = memfdCreate('guarded', ${2 * PAGE_BYTES});
    const offset = arena.map(fd, 0, ${2 * PAGE_BYTES}, { writable: true });
    const all = new Uint8Array(arena.buffer);
    all[offset] = all[offset + ${2 * PAGE_BYTES} - 1] = 1;
    console.log('inside is fine');
    ${access}
    console.log('survived');`;
  const cases = {
    'the byte before a region': 'all[offset - 1];',
    'the byte behind a region': `all[offset + ${2 * PAGE_BYTES}] = 1;`,
    'a region after it was unmapped': `arena.unmap(offset, ${2 * PAGE_BYTES}); all[offset] = 1;`,
    'a region mapped read-only': `all[arena.map(fd, 0, ${PAGE_BYTES}, { writable: false })] = 1;`,
    'an address that was never mapped': 'all[2 ** 39] = 1;',
  };
  for (const [place, access] of Object.entries(cases)) {
    it(`a process that touches ${place} dies by SIGSEGV`, async () => {
      const end = await runChild(script(access));
      expect(end.output).toBe('inside is fine\n');
      expect(end.signal).toBe('SIGSEGV');
    });
  }
});

describe('arena in another thread', () => {
  it('sees regions mapped before and after it attached, and cannot map itself', async () => {
    const before = arena.mapAnonymous(PAGE_BYTES);
    const worker = new Worker(
      `const { parentPort, workerData } = require('node:worker_threads');
       import('@virtnet/host-linux').then(({ Arena, memfdCreate }) => {
         const arena = Arena.attach(workerData.base, workerData.sizeBytes);
         parentPort.on('message', (offset) => {
           const bytes = new Uint8Array(arena.buffer, offset, 2);
           bytes[1] = bytes[0] + 1;
           parentPort.postMessage([arena.mapAnonymous(1), arena.unmap(offset, ${PAGE_BYTES})]);
         });
       });`,
      { eval: true, workerData: { base: arena.base, sizeBytes: arena.sizeBytes } },
    );
    const ask = (offset: number) =>
      new Promise<unknown>((resolve, reject) => {
        worker.once('message', resolve);
        worker.once('error', reject);
        worker.postMessage(offset);
      });
    const bytes = new Uint8Array(arena.buffer);
    bytes[before] = 10;
    expect(await ask(before)).toEqual([-Errno.EPERM, -Errno.EPERM]);
    expect(bytes[before + 1]).toBe(11);
    const after = arena.mapAnonymous(PAGE_BYTES);
    bytes[after] = 20;
    await ask(after);
    expect(bytes[after + 1]).toBe(21);
    await worker.terminate();
    arena.unmap(before, PAGE_BYTES);
    arena.unmap(after, PAGE_BYTES);
  });
});
