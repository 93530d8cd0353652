import { fstatSync } from 'node:fs';
import { close, memfdCreate, Poller } from '@virtnet/host-linux';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { DescriptorStore } from './descriptor-store.js';
import { createLogger } from './logging.js';
import { ShelfLog } from './shelf-log.js';
import { storedName } from './shelf-store.js';

describe('what the service manager hands over', () => {
  const isOpen = (fd: number): boolean => {
    try {
      fstatSync(fd);
      return true;
    } catch {
      return false;
    }
  };

  it('an entry has its descriptor, by its name in the store or, from an older build, its own; what the log does not know is let go', () => {
    const removed: string[] = [];
    const manager = {
      store: () => {},
      remove: (name: string) => void removed.push(name),
    } as unknown as Parameters<typeof DescriptorStore.open>[0];
    const logFds = [memfdCreate('log', 0), memfdCreate('log', 0)] as const;
    const entries = ['page', 'tap', 'twice'].map((name) => ({
      ...{ name, blob: new Uint8Array(0), handle: 7, ttlWithoutHolderMs: 0 },
    }));
    new ShelfLog(logFds).rewrite(entries, () => 7);
    const [name, twice] = [storedName('page', 7), storedName('twice', 7)];
    const names = [name, 'tap', twice, twice, 'stranger'];
    const passed = names.map((name) => ({ name, fd: memfdCreate(name, 0) }));
    const [page, tap, former, later, stranger] = passed.map(({ fd }) => fd) as [
      number,
      number,
      number,
      number,
      number,
    ];
    const logs = logFds.map((fd, index) => ({ name: `virtnet-log-${index}`, fd }));
    const store = DescriptorStore.open(manager, [...logs, ...passed], createLogger('test'), {})!;
    expect([page, tap, former, later, stranger].map(isOpen)).toEqual([true, true, false, true, false]);
    expect(removed).toEqual(['stranger']);
    store.discard();
    expect([page, tap, later].map(isOpen)).toEqual([false, false, false]);
    for (const fd of logFds) close(fd);
  });

  it('taken: entries of the log with their descriptors; one that did not come back is left out, one nobody knows closed', () => {
    const manager = { store: () => {}, remove: () => {} } as unknown as Parameters<
      typeof DescriptorStore.open
    >[0];
    const logFds: [number, number] = [memfdCreate('log', 0), memfdCreate('log', 0)];
    const put = (name: string, handle: number | null, ttlWithoutHolderMs = 0) => ({
      name,
      blob: Uint8Array.of(7),
      handle,
      ttlWithoutHolderMs,
    });
    new ShelfLog(logFds).rewrite([put('page', 0, 40), put('record', null), put('missing', 0)], () => 0);
    const [page, unknown] = [memfdCreate('page', 0), memfdCreate('unknown', 0)];
    const passed = [
      { name: 'virtnet-log-0', fd: logFds[0] },
      { name: 'virtnet-log-1', fd: logFds[1] },
      { name: storedName('page'), fd: page },
      { name: 'unknown', fd: unknown },
    ];
    const store = DescriptorStore.open(manager, passed, createLogger('test', 'err'), {})!;
    const blob = Buffer.of(7);
    expect(store.take().map((entry) => ({ ...entry, blob: Buffer.from(entry.blob) }))).toEqual([
      { name: 'page', blob, fd: page, ttlWithoutHolderMs: 40 },
      { name: 'record', blob, fd: null, ttlWithoutHolderMs: 0 },
    ]);
    expect([page, unknown].map(isOpen)).toEqual([true, false]);
    for (const fd of [page, ...logFds]) close(fd);
  });

  it('a descriptor of a device did not come back: nothing of the device is taken, the manager lets go of it; all of the others is', () => {
    const removed: string[] = [];
    const manager = {
      store: () => {},
      remove: (name: string) => void removed.push(name),
    } as unknown as Parameters<typeof DescriptorStore.open>[0];
    const logFds: [number, number] = [memfdCreate('log', 0), memfdCreate('log', 0)];
    const names = ['dev/a/page', 'dev/a/record', 'dev/a/kick/0', 'dev/ab/page', 'pool/x/0', 'dev/a/irq/2/0'];
    const put = (name: string) => ({
      ...{ name, blob: new Uint8Array(0), handle: name.endsWith('record') ? null : 0 },
      ttlWithoutHolderMs: 0,
    });
    new ShelfLog(logFds).rewrite(names.map(put), () => 0);
    const passed = names
      .filter((name) => name !== 'dev/a/kick/0' && name !== 'dev/a/record')
      .map((name) => ({ name: storedName(name), fd: memfdCreate('held', 0) }));
    const logs = logFds.map((fd, index) => ({ name: `virtnet-log-${index}`, fd }));
    const store = DescriptorStore.open(manager, [...logs, ...passed], createLogger('test', 'err'), {})!;
    expect(removed).toEqual([]);
    const taken = store.take();
    expect(removed).toEqual(['dev/a/page', 'dev/a/irq/2/0'].map((name) => storedName(name)));
    expect(taken.map(({ name }) => name)).toEqual(['dev/ab/page', 'pool/x/0']);
    expect(passed.map(({ fd }) => isOpen(fd))).toEqual([false, true, true, false]);
    for (const fd of [...taken.map((entry) => entry.fd!), ...logFds]) close(fd);
  });

  it('to be restored, and no keeper comes: says so, which is not the same as nothing to restore, and lets go', async () => {
    vi.useFakeTimers();
    onTestFinished(() => void vi.useRealTimers());
    const manager = { store: () => {}, remove: () => {} } as unknown as Parameters<
      typeof DescriptorStore.open
    >[0];
    const logFds: [number, number] = [memfdCreate('log', 0), memfdCreate('log', 0)];
    const entry = { name: 'page', blob: Uint8Array.of(7), handle: 0, ttlWithoutHolderMs: 0 };
    new ShelfLog(logFds).rewrite([entry], () => 0);
    const page = memfdCreate('page', 0);
    const logs = logFds.map((fd, index) => ({ name: `virtnet-log-${index}`, fd }));
    const passed = [...logs, { name: storedName('page'), fd: page }];
    const store = DescriptorStore.open(manager, passed, createLogger('test', 'err'), {})!;
    const restored = store.restore('/nowhere/ha.sock', new Poller());
    await vi.advanceTimersByTimeAsync(60_000);
    expect(await restored).toBeNull();
    expect(isOpen(page)).toBe(false);
    for (const fd of logFds) close(fd);
  });
});
