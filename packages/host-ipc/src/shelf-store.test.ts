import { ftruncateSync, writeSync } from 'node:fs';
import { Shelf, type ShelfOperation } from '@virtnet/engine-recovery';
import { close, fileSize, memfdCreate } from '@virtnet/host-linux';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { SharedFd } from './shared-fd.js';
import { readShelfLog, ShelfLog } from './shelf-log.js';
import { nameOfSpare, ShelfStore } from './shelf-store.js';

let fds: [number, number];
beforeEach(() => {
  fds = [memfdCreate('log', 0), memfdCreate('log', 0)];
});
afterEach(() => fds.forEach(close));

const blob = (text: string) => new TextEncoder().encode(text);
const put = <H>(name: string, text: string, handle: H | null = null): ShelfOperation<H> => ({
  kind: 'put',
  name,
  blob: blob(text),
  handle,
  ttlWithoutHolderMs: name.length,
});
const said = () =>
  Object.fromEntries(
    (readShelfLog(fds) ?? []).map((entry) => [
      entry.name,
      `${Buffer.from(entry.blob)}${entry.handle ? '+' : ''}`,
    ]),
  );

describe('log of the shelf', () => {
  it('any sequence of transactions: read back, it says what the shelf says', () => {
    const name = fc.constantFrom('a', 'a/b', 'a/c', 'd');
    const operation = fc.oneof(
      fc
        .tuple(name, fc.string(), fc.boolean())
        .map(([n, text, handle]) => put<true>(n, text, handle ? true : null)),
      name.map((n): ShelfOperation<true> => ({ kind: 'delete', name: n })),
      name.map((n): ShelfOperation<true> => ({ kind: 'delete-prefix', prefix: n })),
    );
    fc.assert(
      fc.property(
        fc.array(fc.array(operation, { maxLength: 4 }), { maxLength: 12 }),
        fc.nat(11),
        (all, rewriteAt) => {
          for (const fd of fds) ftruncateSync(fd, 0);
          const log = new ShelfLog(fds);
          const shelf = new Shelf<true>();
          log.rewrite([]);
          for (const [index, operations] of all.entries()) {
            shelf.apply(operations);
            log.append(operations);
            if (index === rewriteAt) log.rewrite(shelf.entries());
          }
          const byName = (a: { name: string }, b: { name: string }) => (a.name < b.name ? -1 : 1);
          const read = (readShelfLog(fds) ?? [])
            .map((entry) => ({ ...entry, blob: [...entry.blob] }))
            .sort(byName);
          const kept = [...shelf.entries()]
            .map((entry) => ({ ...entry, blob: [...entry.blob] }))
            .sort(byName);
          expect(read).toEqual(kept);
        },
      ),
      { numRuns: 50 },
    );
  });

  it('its writer died while appending, or while writing it anew: the log is what it was', () => {
    const log = new ShelfLog(fds);
    log.rewrite([]);
    log.append([put('a', 'one')]);
    writeSync(fds[1], Buffer.alloc(40, 0xff), 0, 40, fileSize(fds[1])); // a record whose length was not committed
    writeSync(fds[0], Buffer.alloc(400, 0xff), 0, 400, 24); // a new file without its header
    expect(said()).toEqual({ a: 'one' });
    const successor = new ShelfLog(fds);
    successor.append([put('b', 'two', true)]);
    expect(said()).toEqual({ a: 'one', b: 'two+' });
  });

  it('a damaged record ends the reading; what is no log at all is none', () => {
    const log = new ShelfLog(fds);
    log.rewrite([]);
    log.append([put('a', 'one')]);
    const at = fileSize(fds[1]);
    log.append([put('b', 'two')]);
    writeSync(fds[1], Buffer.alloc(4, 0xff), 0, 4, at + 30);
    expect(said()).toEqual({ a: 'one' });
    for (const fd of fds) writeSync(fd, Buffer.alloc(24, 0xee), 0, 24, 0);
    expect(readShelfLog(fds)).toBeNull();
  });

  it('written to for long, it does not grow without end', () => {
    const log = new ShelfLog(fds);
    const shelf = new Shelf<never>();
    log.rewrite([]);
    const text = 'x'.repeat(4000);
    for (let index = 0; index < 4000; index++) {
      const operations = [put<never>('record', `${text}${index}`)];
      shelf.apply(operations);
      if (!log.append(operations)) log.rewrite(shelf.entries());
    }
    expect(log.counters.compactions).toBeGreaterThan(1);
    expect(fileSize(fds[0]) + fileSize(fds[1])).toBeLessThan(10 * 1024 * 1024);
    expect(said().record).toHaveLength(4004);
  });
});

describe('mirror of the shelf in the manager’s store', () => {
  const asked: string[] = [];
  const manager = {
    store: (name: string) => void asked.push(`+${name}`),
    remove: (name: string) => void asked.push(`-${name}`),
  };
  const fd = () => new SharedFd(memfdCreate('held', 0));
  beforeEach(() => {
    asked.length = 0;
  });

  function mirror() {
    const shelf = new Shelf<SharedFd>();
    const store = new ShelfStore(manager, new ShelfLog(fds));
    store.attach(() => shelf.entries());
    const apply = (operations: ShelfOperation<SharedFd>[], restoring = false) => {
      const outcome = shelf.apply(operations);
      if ('errno' in outcome) throw new Error(outcome.reason);
      store.changed(operations, outcome.left, restoring);
      for (const entry of outcome.left) entry.handle?.release();
    };
    const end = () => {
      for (const entry of shelf.entries()) entry.handle?.release();
    };
    return { shelf, store, apply, end };
  }

  it('stores what comes, replaces over a spare name, removes what goes', () => {
    const { shelf, store, apply, end } = mirror();
    store.settled(shelf.entries());
    apply([put('a', '', fd()), put('b', 'text')]);
    apply([put('a', '', fd())]);
    apply([{ kind: 'delete-prefix', prefix: 'a' }]);
    expect(asked).toEqual(['+a', '+a~', '-a', '+a', '-a~', '-a']);
    expect(said()).toEqual({ b: 'text' });
    end();
  });

  it('killed after any message: the manager has a descriptor of every name that has one, and the newer by the spare name', () => {
    const { shelf, store, apply, end } = mirror();
    store.settled(shelf.entries());
    apply([put('a', '', fd()), put('b', '', fd())]);
    const before = asked.length;
    apply([put('a', '', fd()), put('b', '', fd())]);
    for (let last = before; last <= asked.length; last++) {
      const kept = new Set<string>();
      for (const each of asked.slice(0, last)) {
        if (each.startsWith('+')) kept.add(each.slice(1));
        else kept.delete(each.slice(1));
      }
      const names = [...kept].map((name) => nameOfSpare(name) ?? name);
      expect(new Set(names), `after ${asked.slice(0, last)}`).toEqual(new Set(['a', 'b']));
    }
    end();
  });

  it('restored out of the store: stored no second time, even when it is put twice', () => {
    const former = mirror();
    former.store.settled(former.shelf.entries());
    former.apply([put('a', '', fd())]);
    former.end();
    asked.length = 0;
    const { shelf, store, apply, end } = mirror();
    apply([put('a', '', fd())], true);
    apply([put('a', '', fd())], true);
    store.settled(shelf.entries());
    expect(asked).toEqual([]);
    expect(said()).toEqual({ a: '+' });
    end();
  });

  it('the keeper was replaced: what its predecessor stored and nobody uploads again is removed, at the end', () => {
    const former = mirror();
    former.store.settled(former.shelf.entries());
    former.apply([put('gone', '', fd()), put('stays', '', fd())]);
    former.end();
    asked.length = 0;
    const { shelf, store, apply, end } = mirror();
    apply([put('stays', '', fd())]);
    const replaced = ['+stays~', '-stays', '+stays', '-stays~'];
    expect(asked).toEqual(replaced);
    expect(said()).toEqual({ gone: '+', stays: '+' }); // until the upload is complete the old log counts
    store.settled(shelf.entries());
    expect(asked).toEqual([...replaced, '-gone', '-gone~']);
    expect(said()).toEqual({ stays: '+' });
    end();
  });
});
