import { fstatSync, ftruncateSync, writeSync } from 'node:fs';
import { Shelf, type ShelfOperation } from '@virtnet/engine-recovery';
import {
  close,
  dup,
  Epoll,
  eventfd,
  fileIdentity,
  fileSize,
  memfdCreate,
  sameOpenFile,
} from '@virtnet/host-linux';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { SharedFd } from './shared-fd.js';
import { readShelfLog, ShelfLog } from './shelf-log.js';
import { fileNumber, ShelfStore, STORED_MAX, storedName } from './shelf-store.js';

let fds: [number, number];
beforeEach(() => {
  fds = [memfdCreate('log', 0), memfdCreate('log', 0)];
});
afterEach(() => fds.forEach(close));

/** Descriptors whose files have no number, like those of a TAP. */
function epoll(): number {
  const made = Epoll.create();
  if (typeof made === 'number') throw new Error(`no epoll: ${made}`);
  return made.fd;
}

const blob = (text: string) => new TextEncoder().encode(text);
const put = <H>(name: string, text: string, handle: H | null = null): ShelfOperation<H> => ({
  kind: 'put',
  name,
  blob: blob(text),
  handle,
  ttlWithoutHolderMs: name.length,
});
/** Numbers of files, as a store gives them. */
const fileOf = (name: string): number => 0xffff_ff00 + name.length;
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
        .map(([n, text, handle]) => put<number>(n, text, handle ? fileOf(n) : null)),
      name.map((n): ShelfOperation<number> => ({ kind: 'delete', name: n })),
      name.map((n): ShelfOperation<number> => ({ kind: 'delete-prefix', prefix: n })),
    );
    fc.assert(
      fc.property(
        fc.array(fc.array(operation, { maxLength: 4 }), { maxLength: 12 }),
        fc.nat(11),
        (all, rewriteAt) => {
          for (const fd of fds) ftruncateSync(fd, 0);
          const log = new ShelfLog(fds);
          const shelf = new Shelf<number>();
          log.rewrite([], fileOf);
          for (const [index, operations] of all.entries()) {
            shelf.apply(operations);
            log.append(operations, fileOf);
            if (index === rewriteAt) log.rewrite(shelf.entries(), fileOf);
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
    log.rewrite([], fileOf);
    log.append([put('a', 'one')], fileOf);
    writeSync(fds[1], Buffer.alloc(40, 0xff), 0, 40, fileSize(fds[1])); // a record whose length was not committed
    writeSync(fds[0], Buffer.alloc(400, 0xff), 0, 400, 24); // a new file without its header
    expect(said()).toEqual({ a: 'one' });
    const successor = new ShelfLog(fds);
    successor.append([put('b', 'two', true)], fileOf);
    expect(said()).toEqual({ a: 'one', b: 'two+' });
  });

  it('a damaged record ends the reading; what is no log at all is none', () => {
    const log = new ShelfLog(fds);
    log.rewrite([], fileOf);
    log.append([put('a', 'one')], fileOf);
    const at = fileSize(fds[1]);
    log.append([put('b', 'two')], fileOf);
    writeSync(fds[1], Buffer.alloc(4, 0xff), 0, 4, at + 30);
    expect(said()).toEqual({ a: 'one' });
    for (const fd of fds) writeSync(fd, Buffer.alloc(24, 0xee), 0, 24, 0);
    expect(readShelfLog(fds)).toBeNull();
  });

  it('written to for long, it does not grow without end', () => {
    const log = new ShelfLog(fds);
    const shelf = new Shelf<never>();
    log.rewrite([], fileOf);
    const text = 'x'.repeat(4000);
    for (let index = 0; index < 4000; index++) {
      const operations = [put<never>('record', `${text}${index}`)];
      shelf.apply(operations);
      if (!log.append(operations, fileOf)) log.rewrite(shelf.entries(), fileOf);
    }
    expect(log.counters.compactions).toBeGreaterThan(1);
    expect(fileSize(fds[0]) + fileSize(fds[1])).toBeLessThan(10 * 1024 * 1024);
    expect(said().record).toHaveLength(4004);
  });
});

describe('mirror of the shelf in the manager’s store', () => {
  const asked: string[] = [];
  /** What a manager keeps: an opened file once, whatever name it comes under. */
  const kept: { readonly name: string; readonly fd: number }[] = [];
  /** Whose each stored name is. */
  const plain = new Map<string, string>();
  /** A manager that reads at once, unless messages are to wait. */
  const sending = { waiting: 0, later: [] as (() => void)[] };
  const atOnce = {
    get waiting() {
      return sending.waiting;
    },
    whenSent: (action: () => void) => void (sending.waiting === 0 ? action() : sending.later.push(action)),
  };
  const manager = {
    ...{ whenSent: atOnce.whenSent },
    get waiting() {
      return sending.waiting;
    },
    store: (name: string, fd: number) => {
      for (const entry of ['a', 'b', 'gone', 'stays', 'new'])
        if (storedName(entry, fileNumber(fd)) === name) plain.set(name, entry);
      asked.push(`+${plain.get(name) ?? name}`);
      if (!kept.some((one) => sameOpenFile(one.fd, fd))) kept.push({ name, fd: dup(fd) });
    },
    remove: (name: string) => {
      asked.push(`-${plain.get(name) ?? name}`);
      for (const one of kept.filter((held) => held.name === name)) {
        close(one.fd);
        kept.splice(kept.indexOf(one), 1);
      }
    },
  };
  /** Which file the manager has for an entry; null when it has none. */
  const inoOf = (name: string) => {
    const held = kept.filter((one) => plain.get(one.name) === name);
    expect(held.length).toBeLessThanOrEqual(1);
    return held[0] === undefined ? null : fstatSync(held[0].fd).ino;
  };
  const fd = () => new SharedFd(memfdCreate('held', 0));
  beforeEach(() => {
    asked.length = 0;
  });
  afterEach(() => {
    for (const one of kept.splice(0)) close(one.fd);
  });

  function mirror(most = STORED_MAX) {
    const shelf = new Shelf<SharedFd>();
    const store = new ShelfStore(manager, new ShelfLog(fds), () => {}, most);
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

  it('stores what comes, replaces it, removes what goes', () => {
    const { shelf, store, apply, end } = mirror();
    store.settled(() => shelf.entries());
    apply([put('a', '', fd()), put('b', 'text')]);
    const next = fd();
    apply([put('a', '', next)]);
    expect(inoOf('a')).toBe(fstatSync(next.fd).ino);
    apply([{ kind: 'delete-prefix', prefix: 'a' }]);
    expect(asked).toEqual(['+a', '+a', '-a', '-a']);
    expect(kept).toEqual([]);
    expect(said()).toEqual({ b: 'text' });
    end();
  });

  it('an eventfd that is taken back and forth, and one file under several names: the manager has each of them', () => {
    const { shelf, store, apply, end } = mirror();
    store.settled(() => shelf.entries());
    const [one, other] = [new SharedFd(eventfd()), new SharedFd(eventfd())];
    for (const handle of [one, other, one, other]) {
      apply([put('a', '', handle.retain())]);
      expect(kept.map(({ fd: held }) => sameOpenFile(held, handle.fd))).toEqual([true]);
    }
    for (const handle of [one, other]) handle.release();
    const memory = fd();
    apply([put('b', '', memory), put('new', '', memory.retain())]);
    expect([inoOf('b'), inoOf('new')]).toEqual([fstatSync(memory.fd).ino, fstatSync(memory.fd).ino]);
    apply([{ kind: 'delete', name: 'b' }]);
    expect([inoOf('b'), inoOf('new')]).toEqual([null, fstatSync(memory.fd).ino]);
    end();
  });

  it.each([
    ['an eventfd', () => eventfd()],
    ['what has no number', () => epoll()],
  ])('%s moves from one entry to another: the manager has it under the latter', (_, open) => {
    const { shelf, store, apply, end } = mirror();
    store.settled(() => shelf.entries());
    const held = new SharedFd(open());
    apply([put('a', '', held.retain())]);
    for (const [to, from] of ['ba', 'ab', 'ba'] as const) {
      apply([put(to!, '', held.retain())]);
      apply([{ kind: 'delete', name: from! }]);
      expect(kept.map((one) => [plain.get(one.name), sameOpenFile(one.fd, held.fd)])).toEqual([[to, true]]);
    }
    apply([{ kind: 'delete', name: 'b' }]);
    expect(kept).toEqual([]);
    held.release();
    end();
  });

  it('the same out of the store, and while messages wait', () => {
    const former = mirror();
    former.store.settled(() => former.shelf.entries());
    const held = new SharedFd(eventfd());
    former.apply([put('a', '', held.retain())]);
    former.end();
    const { shelf, store, apply, end } = mirror();
    apply([put('a', '', held.retain())], true);
    store.settled(() => shelf.entries());
    sending.waiting = 1;
    apply([put('b', '', held.retain())]);
    apply([{ kind: 'delete', name: 'a' }]);
    expect(kept.map((one) => plain.get(one.name))).toEqual(['a']);
    sending.waiting = 0;
    for (const action of sending.later.splice(0)) action();
    expect(kept.map((one) => [plain.get(one.name), sameOpenFile(one.fd, held.fd)])).toEqual([['b', true]]);
    held.release();
    end();
  });

  it.each([
    ['an eventfd', () => eventfd()],
    ['what has no number', () => epoll()],
  ])('%s that moved while there was no keeper: the next one’s manager has it under the latter', (_, open) => {
    const former = mirror();
    former.store.settled(() => former.shelf.entries());
    const held = new SharedFd(open());
    former.apply([put('a', '', held.retain())]);
    former.end();
    const { shelf, store, apply, end } = mirror();
    apply([put('b', '', held.retain())]);
    store.settled(() => shelf.entries());
    expect(kept.map((one) => [plain.get(one.name), sameOpenFile(one.fd, held.fd)])).toEqual([['b', true]]);
    held.release();
    end();
  });

  it('let go, and another without a number put under the name before that was said: the manager has the other', () => {
    const { shelf, store, apply, end } = mirror();
    store.settled(() => shelf.entries());
    const [one, other] = [new SharedFd(epoll()), new SharedFd(epoll())];
    apply([put('a', '', one.retain())]);
    sending.waiting = 1;
    apply([{ kind: 'delete', name: 'a' }]);
    apply([put('a', '', other.retain())]);
    sending.waiting = 0;
    for (const action of sending.later.splice(0)) action();
    expect(kept.map(({ fd: held }) => sameOpenFile(held, other.fd))).toEqual([true]);
    for (const handle of [one, other]) handle.release();
    end();
  });

  it('the keeper was replaced, and the same files are put again: the manager has them still, and is told nothing', () => {
    const former = mirror();
    former.store.settled(() => former.shelf.entries());
    const [file, event] = [fd(), new SharedFd(eventfd())];
    former.apply([put('a', '', file.retain()), put('b', '', event.retain())]);
    former.end();
    asked.length = 0;
    const { shelf, store, apply, end } = mirror();
    apply([put('a', '', file), put('b', '', event)]);
    store.settled(() => shelf.entries());
    expect(asked).toEqual([]);
    expect(inoOf('a')).toBe(fstatSync(file.fd).ino);
    expect(kept.filter(({ fd: held }) => sameOpenFile(held, event.fd))).toHaveLength(1);
    end();
  });

  it('more than a start can be handed: told once, the rest is stored', () => {
    const full: string[] = [];
    const stored: string[] = [];
    const counting = { ...atOnce, store: (name: string) => void stored.push(name), remove: () => {} };
    const store = new ShelfStore(counting, new ShelfLog(fds), (name) => full.push(name));
    const event = new SharedFd(eventfd());
    const entry = (index: number) => ({
      ...{ kind: 'put' as const, name: `dev/${index}`, blob: blob('') },
      ...{ handle: event, ttlWithoutHolderMs: 0 },
    });
    for (let index = 0; index < STORED_MAX + 3; index++) store.changed([entry(index)], [], false);
    expect([stored.length, new Set(stored).size, full]).toEqual([
      STORED_MAX,
      STORED_MAX,
      [`dev/${STORED_MAX}`],
    ]);
    expect(STORED_MAX * (stored[0]!.length + 1)).toBeLessThan(128 * 1024 - 1024); // LISTEN_FDNAMES
    const name = (index: number) => storedName(`dev/${index}`, fileNumber(event.fd));
    const goes = (...indices: number[]) => {
      const operations = indices.map((index) => ({ kind: 'delete' as const, name: `dev/${index}` }));
      store.changed(operations, indices.map(entry), false);
    };
    goes(STORED_MAX + 1); // it was left out, and needs no room any more
    goes(0);
    expect(stored.slice(STORED_MAX)).toEqual([name(STORED_MAX)]);
    store.changed([put('new', '', event)], [], false);
    goes(1, 2, 3);
    expect(stored.slice(STORED_MAX + 1)).toEqual([
      name(STORED_MAX + 2),
      storedName('new', fileNumber(event.fd)),
    ]);
    store.changed([put('last', '', event)], [], false);
    expect(stored.at(-1)).toBe(storedName('last', fileNumber(event.fd)));
    expect(full).toHaveLength(1);
    store.changed([put('over', '', event)], [], false);
    expect(full.splice(1)).toEqual(['over']); // once more, since all had had room

    // The next keeper does not know which of the log's had no room, also when it is told them out of the store.
    new ShelfLog(fds).rewrite(
      Array.from({ length: STORED_MAX + 3 }, (_, index) => entry(index)),
      () => 0,
    );
    stored.length = 0;
    const kept = new Set(Array.from({ length: STORED_MAX + 3 }, (_, index) => storedName(`dev/${index}`)));
    const keeping = {
      ...atOnce,
      store: (name: string) => void kept.add(name),
      remove: (name: string) => void kept.delete(name),
    };
    const next = new ShelfStore(keeping, new ShelfLog(fds), (name) => full.push(name));
    for (let index = 0; index < STORED_MAX + 3; index++) next.changed([entry(index)], [], index % 2 === 0);
    expect([kept.size, full.length]).toEqual([STORED_MAX, 2]);
    event.release();
  });

  it('what was left out is stored when there is room, and the log says under which name', () => {
    const { shelf, store, apply, end } = mirror(2);
    store.settled(() => shelf.entries());
    apply([put('gone', '', fd()), put('stays', '', fd())]);
    const [page, next] = [fd(), fd()];
    apply([put('a', 'text', page)]);
    apply([put('a', 'text', next)]); // replaced before it had room
    expect(inoOf('a')).toBeNull();
    apply([{ kind: 'delete', name: 'gone' }]);
    expect(inoOf('a')).toBe(fstatSync(next.fd).ino);
    const logged = readShelfLog(fds)!.find(({ name }) => name === 'a');
    expect(logged?.handle).toBe(fileNumber(next.fd));
    end();
  });

  it('what was left out is replaced in the change that makes room: the new one is kept', () => {
    const { shelf, store, apply, end } = mirror(1);
    store.settled(() => shelf.entries());
    apply([put('gone', '', fd())]);
    const [former, next] = [fd(), fd()];
    apply([put('a', 'text', former)]);
    apply([{ kind: 'delete', name: 'gone' }, put('a', 'text', next)]);
    expect(inoOf('a')).toBe(fstatSync(next.fd).ino);
    expect(readShelfLog(fds)!.find(({ name }) => name === 'a')?.handle).toBe(fileNumber(next.fd));
    end();
  });

  it('a TAP moves while there is no room: it is let go under its former name, and kept under the new one', () => {
    const { shelf, store, apply, end } = mirror(2);
    store.settled(() => shelf.entries());
    const held = new SharedFd(epoll());
    apply([put('a', '', held.retain()), put('stays', '', fd())]);
    apply([put('b', '', held.retain())]);
    apply([{ kind: 'delete', name: 'a' }]);
    const tap = kept.filter((one) => sameOpenFile(one.fd, held.fd));
    expect(tap.map(({ name }) => name)).toEqual([storedName('b')]);
    held.release();
    end();
  });

  it('the next keeper is told less than the former one had: what was left out meanwhile is stored at the end', () => {
    const former = mirror(2);
    former.store.settled(() => former.shelf.entries());
    former.apply([put('gone', '', fd()), put('stays', '', fd())]);
    former.end();
    const { shelf, store, apply, end } = mirror(2);
    const page = fd();
    apply([put('a', '', page)]);
    expect(inoOf('a')).toBeNull();
    store.settled(() => shelf.entries());
    expect(inoOf('a')).toBe(fstatSync(page.fd).ino);
    end();
  });

  it('restored out of the store: stored no second time, even when it is put twice', () => {
    const former = mirror();
    former.store.settled(() => former.shelf.entries());
    former.apply([put('a', '', fd())]);
    former.end();
    asked.length = 0;
    const { shelf, store, apply, end } = mirror();
    apply([put('a', '', fd())], true);
    apply([put('a', '', fd())], true);
    store.settled(() => shelf.entries());
    expect(asked).toEqual([]);
    expect(said()).toEqual({ a: '+' });
    end();
  });

  it('the keeper was replaced: what its predecessor stored and nobody uploads again is removed, at the end', () => {
    const former = mirror();
    former.store.settled(() => former.shelf.entries());
    former.apply([put('gone', '', fd()), put('stays', '', fd())]);
    former.end();
    asked.length = 0;
    const { shelf, store, apply, end } = mirror();
    apply([put('stays', '', fd())]);
    expect(asked).toEqual(['+stays']);
    expect(said()).toEqual({ gone: '+', stays: '+' }); // until the upload is complete the old log counts
    store.settled(() => shelf.entries());
    expect(asked).toEqual(['+stays', '-stays', '-gone']);
    expect(said()).toEqual({ stays: '+' });
    end();
  });

  it('messages wait for room: the log says no more than the manager has, until all are sent', () => {
    const { shelf, store, apply, end } = mirror();
    store.settled(() => shelf.entries());
    const [first, second] = [fd(), fd()];
    apply([put('a', 'before', first.retain())]);
    sending.waiting = 1;
    apply([put('a', 'after', second)]);
    apply([put('b', 'more')]);
    expect(said()).toEqual({ a: 'before+' });
    expect(kept.some((one) => fileIdentity(one.fd) === fileIdentity(first.fd))).toBe(true);
    sending.waiting = 0;
    for (const action of sending.later.splice(0)) action();
    expect(said()).toEqual({ a: 'after+', b: 'more' });
    expect(inoOf('a')).toBe(fstatSync(second.fd).ino);
    first.release();
    end();
  });

  it('everything is killed after any message: each entry of the log has the file that it had', () => {
    const [one, other, third] = [fd(), fd(), fd()];
    const [event, second] = [new SharedFd(eventfd()), new SharedFd(eventfd())];
    const entry = (name: string, { fd: held }: SharedFd) =>
      put(name, fileIdentity(held)!, new SharedFd(dup(held)));
    const life = (messages: number): boolean => {
      let left = messages;
      const counted = (message: () => void) => {
        if (left-- === 0) throw new Error('killed');
        message();
      };
      const mortal = {
        ...atOnce,
        store: (name: string, held: number) => counted(() => manager.store(name, held)),
        remove: (name: string) => counted(() => manager.remove(name)),
      };
      const keepers: Shelf<SharedFd>[] = [];
      const keeper = () => {
        const shelf = new Shelf<SharedFd>();
        const store = new ShelfStore(mortal, new ShelfLog(fds));
        keepers.push(shelf);
        const apply = (...operations: ShelfOperation<SharedFd>[]) => {
          const outcome = shelf.apply(operations);
          if ('errno' in outcome) throw new Error(outcome.reason);
          store.changed(operations, outcome.left, false);
        };
        return { apply, settled: () => store.settled(() => shelf.entries()) };
      };
      try {
        const first = keeper();
        first.settled();
        first.apply(entry('a', one));
        first.apply(entry('a', other), entry('b', event));
        first.apply(entry('a', one), entry('b', second), entry('new', third));
        first.apply(entry('b', event), { kind: 'delete', name: 'a' }, entry('a', other));
        const next = keeper();
        next.apply(entry('b', second), entry('stays', third), entry('b', event));
        next.apply(entry('a', one));
        next.settled();
        next.apply({ kind: 'delete-prefix', prefix: 'a' }, entry('b', second));
        return true;
      } catch (error) {
        if (!(error instanceof Error) || error.message !== 'killed') throw error;
        return false;
      }
    };
    let whole = false;
    for (let messages = 0; !whole; messages++) {
      for (const log of fds) ftruncateSync(log, 0);
      whole = life(messages);
      for (const { name, blob: identity, handle } of readShelfLog(fds) ?? []) {
        const held = kept.filter((stored) => stored.name === storedName(name, handle!));
        expect(held.map((stored) => fileIdentity(stored.fd))).toEqual([Buffer.from(identity).toString()]);
      }
      if (whole) expect(kept).toHaveLength(readShelfLog(fds)!.length);
      for (const stored of kept.splice(0)) close(stored.fd);
    }
    for (const held of [one, other, third, event, second]) held.release();
  });
});
