import { close, memfdCreate, sharedMapping } from '@virtnet/host-linux';
import { describe, expect, it } from 'vitest';
import { PageViews, VIEWS_MAX } from './page-views.js';

const PAGE = 4096;

describe('page views', () => {
  it('one page, asked for again and again: one view, of what is there now', () => {
    const fd = memfdCreate('page-views-test', 2 * PAGE);
    const mapping = sharedMapping(fd, 2 * PAGE);
    if (typeof mapping === 'number') throw new Error(`mmap: errno ${-mapping}`);
    const views = new PageViews();
    const first = views.at(mapping.address, 2 * PAGE);
    for (let i = 0; i < 1000; i++) expect(views.at(mapping.address, 2 * PAGE)).toBe(first);
    new Uint8Array(mapping.buffer)[7] = 9;
    expect(new Uint8Array(first)[7]).toBe(9);
    expect(views.size).toBe(1);
    mapping.close();
    close(fd);
  });

  it('another page, or one of another size at an address that is used again: a view of that', () => {
    const fd = memfdCreate('page-views-test', 2 * PAGE);
    const mapping = sharedMapping(fd, 2 * PAGE);
    if (typeof mapping === 'number') throw new Error(`mmap: errno ${-mapping}`);
    const views = new PageViews();
    const small = views.at(mapping.address, PAGE);
    const large = views.at(mapping.address, 2 * PAGE);
    const other = views.at(mapping.address + BigInt(PAGE), PAGE);
    expect([small, large, other].map(({ byteLength }) => byteLength)).toEqual([PAGE, 2 * PAGE, PAGE]);
    expect([views.size, views.at(mapping.address, 2 * PAGE)]).toEqual([2, large]);
    mapping.close();
    close(fd);
  });

  it(`${VIEWS_MAX} pages are remembered, and one more begins anew`, () => {
    const views = new PageViews();
    const somewhere = 0x7000_0000_0000n; // never touched
    for (let i = 0; i < VIEWS_MAX; i++) views.at(somewhere + BigInt(i * PAGE), PAGE);
    expect(views.size).toBe(VIEWS_MAX);
    views.at(somewhere + BigInt(VIEWS_MAX * PAGE), PAGE);
    expect(views.size).toBe(1);
  });
});
