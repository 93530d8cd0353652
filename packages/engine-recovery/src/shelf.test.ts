import { Errno, SHELF_NAME_BYTES_MAX } from '@virtnet/wire';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Shelf, type ShelfOperation } from './shelf.js';

const put = (name: string, handle: number | null = null, bytes = 1, ttl = 0): ShelfOperation<number> => ({
  kind: 'put',
  name,
  blob: new Uint8Array(bytes),
  handle,
  ttlWithoutHolderMs: ttl,
});
const names = (shelf: Shelf<number>) => [...shelf.entries()].map((entry) => entry.name).sort();
const left = (outcome: ReturnType<Shelf<number>['apply']>) =>
  'left' in outcome ? outcome.left.map((entry) => entry.handle) : outcome;

describe('shelf', () => {
  it('a put under a taken name replaces the entry and returns the one that was there', () => {
    const shelf = new Shelf<number>();
    expect(left(shelf.apply([put('dev/a/page', 7)]))).toEqual([]);
    expect(left(shelf.apply([put('dev/a/page', 8)]))).toEqual([7]);
    expect(shelf.get('dev/a/page')?.handle).toBe(8);
  });

  it('a delete of a prefix takes every name below it and no other', () => {
    const shelf = new Shelf<number>();
    shelf.apply([put('dev/a/dma/0', 1), put('dev/a/dma/1', 2), put('dev/ab', 3), put('dev/a/page', 4)]);
    expect(left(shelf.apply([{ kind: 'delete-prefix', prefix: 'dev/a/dma/' }]))).toEqual([1, 2]);
    expect(names(shelf)).toEqual(['dev/a/page', 'dev/ab']);
  });

  it('a transaction with one bad name changes nothing', () => {
    const shelf = new Shelf<number>();
    shelf.apply([put('keep', 1)]);
    for (const bad of ['', 'with blank', 'line\nbreak', 'ä', 'n'.repeat(SHELF_NAME_BYTES_MAX + 1)]) {
      const outcome = shelf.apply([{ kind: 'delete', name: 'keep' }, put('new', 2), put(bad, 3)]);
      expect(outcome).toMatchObject({ errno: Errno.EINVAL });
      expect(names(shelf)).toEqual(['keep']);
    }
    expect(shelf.apply([put('n'.repeat(SHELF_NAME_BYTES_MAX))])).toHaveProperty('left');
  });

  it('is full at its limits and refuses one entry or one byte more', () => {
    const shelf = new Shelf<number>({ entriesMax: 2, blobBytesMax: 10 });
    expect(shelf.apply([put('a', null, 5), put('b', null, 5)])).toHaveProperty('left');
    expect(shelf.apply([put('c', null, 0)])).toMatchObject({ errno: Errno.ENOSPC });
    expect(shelf.apply([put('a', null, 6)])).toMatchObject({ errno: Errno.ENOSPC });
    expect(shelf.apply([put('a', null, 4)])).toHaveProperty('left');
    expect(shelf.blobBytes).toBe(9);
  });

  it('a replaced blob within one transaction cannot get past the byte limit', () => {
    const shelf = new Shelf<number>({ entriesMax: 9, blobBytesMax: 10 });
    shelf.apply([put('a', null, 10)]);
    expect(shelf.apply([put('a', null, 0), put('a', null, 0), put('b', null, 11)])).toMatchObject({
      errno: Errno.ENOSPC,
    });
  });

  it('an upload sweeps what was not put again, and an abandoned one sweeps nothing', () => {
    const shelf = new Shelf<number>();
    shelf.apply([put('a'), put('b'), put('c')]);
    shelf.beginUpload();
    shelf.apply([put('a'), put('d'), { kind: 'delete', name: 'b' }]);
    expect(shelf.endUpload()).toEqual(['c']);
    shelf.beginUpload();
    shelf.abandonUpload();
    expect(shelf.endUpload()).toEqual([]);
  });

  it('tells which entries are over, and when the next will be', () => {
    const shelf = new Shelf<number>();
    shelf.apply([put('a'), put('b', null, 1, 3000), put('c', null, 1, 5000)]);
    expect(shelf.nextTtl(0)).toBe(3000);
    expect(shelf.expired(3000)).toEqual(['b']);
    expect(shelf.nextTtl(3000)).toBe(5000);
    expect(shelf.nextTtl(5000)).toBeNull();
  });

  it('any sequence of transactions: every handle is on the shelf or was returned exactly once', () => {
    const name = fc.constantFrom('a', 'a/1', 'a/2', 'b', 'b/1');
    const operation = fc.oneof(
      name.map((n) => ({ put: n })),
      name.map((n) => ({ delete: n })),
      fc.constantFrom('a', 'a/', 'b', 'z').map((prefix) => ({ prefix })),
    );
    fc.assert(
      fc.property(fc.array(fc.array(operation, { maxLength: 4 }), { maxLength: 20 }), (transactions) => {
        const shelf = new Shelf<number>({ entriesMax: 4, blobBytesMax: 100 });
        let nextHandle = 0;
        const outside: number[] = [];
        for (const operations of transactions) {
          const outcome = shelf.apply(
            operations.map((o): ShelfOperation<number> => {
              if ('put' in o) return put(o.put, nextHandle++);
              return 'delete' in o
                ? { kind: 'delete', name: o.delete }
                : { kind: 'delete-prefix', prefix: o.prefix };
            }),
          );
          if ('left' in outcome) for (const entry of outcome.left) outside.push(entry.handle!);
          else nextHandle -= operations.filter((o) => 'put' in o).length; // refused: never entered
        }
        const inside = [...shelf.entries()].map((entry) => entry.handle!);
        expect([...inside, ...outside].sort((a, b) => a - b)).toEqual([...Array(nextHandle).keys()]);
        expect(shelf.handles).toBe(inside.length);
      }),
    );
  });
});
