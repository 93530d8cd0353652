import { describe, expect, it } from 'vitest';
import { ended, startChild } from './child.fixture.js';

/** What a process of its own prints, as JSON. */
async function printed(script: string): Promise<unknown> {
  const { code, output, errors } = await ended(
    startChild(`
      import { readFileSync } from 'node:fs';
      import { packMemory, useLargePages } from '@virtnet/host-linux';
      const ranges = () => readFileSync('/proc/self/maps', 'latin1').trim().split('\\n').map((line) => {
        const [range, permissions] = line.split(' ');
        const [start, end] = range.split('-').map((text) => Number.parseInt(text, 16));
        return { start, end, permissions };
      });
      const grow = () => (globalThis.kept = Array.from({ length: 1_500_000 }, (_, i) => ({ i, more: [i] })));
      ${script}`),
  );
  expect([code, errors]).toEqual([0, '']);
  return JSON.parse(output);
}

describe("a process's own memory", () => {
  const SPREAD = `
    const spread = () => ranges().filter(({ start, permissions }) =>
      start >= 2 ** 36 && start < 2 ** 46 && permissions !== '---p').map(({ start }) => start);`;

  it('packed: hardly anything is where V8 wishes it any more, and what was there before stays', async () => {
    const result = (await printed(`${SPREAD}
      const before = spread();
      const taken = packMemory();
      const again = packMemory();
      const stayed = spread().filter((start) => before.includes(start)).length;
      grow();
      const added = spread().filter((start) => !before.includes(start)).length;
      console.log(JSON.stringify({ taken: taken / 2 ** 46, again, added, gone: before.length - stayed }));`)) as Record<
      'taken' | 'again' | 'added' | 'gone',
      number
    >;
    expect(result).toMatchObject({ taken: expect.closeTo(1, 2), again: 0 });
    // V8 itself gives some of it back, and takes what became free.
    expect(result.gone).toBeLessThan(5);
    expect(result.added).toBeLessThan(5);
  });

  it('without that, V8 spreads its heaps: this test would see it', async () => {
    const result = await printed(`${SPREAD}
      const before = spread();
      grow();
      console.log(spread().length - before.length);`);
    expect(result).toBeGreaterThan(50);
  });

  it('large pages: what is in use gets them, with all that is in it; what is not in use does not grow', async ({
    skip,
  }) => {
    const result = (await printed(`
      const kib = (name) => Number(new RegExp(name + ': +(\\\\d+)').exec(readFileSync('/proc/self/smaps_rollup', 'latin1'))[1]);
      packMemory();
      grow();
      globalThis.sparse = new Uint8Array(64 << 20);
      for (let at = 0; at < sparse.length; at += 1 << 20) sparse[at] = 1;
      const before = { huge: kib('AnonHugePages'), rss: kib('Rss') };
      let steps = 0, last;
      for (const pages = useLargePages(); ; steps++) { last = pages.next(); if (last.done) break; }
      const after = { huge: kib('AnonHugePages'), rss: kib('Rss') };
      console.log(JSON.stringify({ count: last.value, steps, huge: after.huge - before.huge, grown: after.rss - before.rss,
        whole: kept.every(({ i, more }, at) => i === at && more[0] === at) }));`)) as {
      count: number;
      steps: number;
      huge: number;
      grown: number;
    };
    if (result.steps === 0) skip('no large pages here');
    expect(result).toMatchObject({ whole: true });
    expect(result.count).toBeGreaterThan(10);
    expect(result.huge).toBeGreaterThan(10 * 2048);
    expect(result.grown).toBeLessThan(32 * 1024);
  });
});
