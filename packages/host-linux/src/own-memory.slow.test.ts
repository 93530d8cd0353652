import { describe, expect, it } from 'vitest';
import { ended, startChild } from './child.fixture.js';

/** What a process of its own prints, as JSON. */
async function printed(script: string): Promise<unknown> {
  const { code, output, errors } = await ended(
    startChild(`
      import { readFileSync } from 'node:fs';
      import { packMemory } from '@virtnet/host-linux';
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
});
