import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { PAGE_BYTES } from '@virtnet/host-linux';
import { describe, expect, it } from 'vitest';

const packageFolder = fileURLToPath(new URL('..', import.meta.url));

describe('guards of a window', () => {
  const script = (access: string) => `
    import { Arena, memfdCreate } from '@virtnet/host-linux';
    import { copyInWindow, reserveWindow, useWindow } from '@virtnet/engine-virtqueue';
    const window = useWindow(reserveWindow());
    const arena = Arena.reserve(2 ** 30, window);
    const fd = memfdCreate('guarded', ${2 * PAGE_BYTES});
    const { byteOffset } = arena.locate(arena.map(fd, 0, ${2 * PAGE_BYTES}, { writable: true }));
    const all = new Uint8Array(window);
    const page = byteOffset / ${PAGE_BYTES};
    all[byteOffset] = 3;
    copyInWindow(page, ${2 * PAGE_BYTES} - 700, page, 0, 700);
    if (all[byteOffset + ${2 * PAGE_BYTES} - 700] === 3) console.log('inside is fine');
    ${access}
    console.log('survived');`;
  const cases = {
    'the byte before a region': 'all[byteOffset - 1];',
    'the byte behind a region': `all[byteOffset + ${2 * PAGE_BYTES}] = 1;`,
    'the byte behind a region, by a short copy': `copyInWindow(page, ${2 * PAGE_BYTES} - 99, page, 0, 100);`,
    'the byte behind a region, by a long copy': `copyInWindow(page, ${2 * PAGE_BYTES} - 699, page, 0, 700);`,
    'an address that was never mapped': 'all[window.byteLength - 1];',
  };
  for (const [place, access] of Object.entries(cases)) {
    it(`a process that touches ${place} ends there`, () => {
      const end = spawnSync(process.execPath, ['--input-type=module', '--eval', script(access)], {
        cwd: packageFolder,
        encoding: 'utf8',
      });
      expect(end.stdout).toBe('inside is fine\n');
      expect(end.signal ?? end.stderr).toMatch(/SIGSEGV|RuntimeError: memory access out of bounds/);
    });
  }
});
