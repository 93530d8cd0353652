import { fstatSync } from 'node:fs';
import { close, memfdCreate } from '@virtnet/host-linux';
import { describe, expect, it } from 'vitest';
import { DescriptorStore } from './descriptor-store.js';
import { createLogger } from './logging.js';
import { ShelfLog } from './shelf-log.js';

describe('what the service manager hands over', () => {
  const isOpen = (fd: number): boolean => {
    try {
      fstatSync(fd);
      return true;
    } catch {
      return false;
    }
  };

  it('everything was killed while a descriptor was being replaced: the newer is in its place, here and there', () => {
    const asked: string[] = [];
    const manager = {
      store: (name: string, fd: number) => void asked.push(`+${name} ${fd}`),
      remove: (name: string) => void asked.push(`-${name}`),
    };
    const names = ['virtnet-log-0', 'virtnet-log-1', 'whole', 'both', 'both~', 'spare~'];
    const passed = names.map((name) => ({ name, fd: memfdCreate(name, 0) }));
    const [log0, log1, whole, both, newer, spare] = passed.map(({ fd }) => fd) as [
      number,
      number,
      number,
      number,
      number,
      number,
    ];
    const log = createLogger('test');
    const store = DescriptorStore.open(
      manager as unknown as Parameters<typeof DescriptorStore.open>[0],
      passed,
      log,
      {},
    )!;
    expect(asked).toEqual(['-both', `+both ${newer}`, '-both~', '-spare', `+spare ${spare}`, '-spare~']);
    expect([whole, both, newer, spare].map(isOpen)).toEqual([true, false, true, true]);
    store.discard();
    expect([whole, newer, spare].map(isOpen)).toEqual([false, false, false]);
    for (const fd of [log0, log1]) close(fd);
  });

  it('taken: entries of the log with their descriptors; one that did not come back is left out, one nobody knows closed', () => {
    const manager = { store: () => {}, remove: () => {} } as unknown as Parameters<
      typeof DescriptorStore.open
    >[0];
    const logFds: [number, number] = [memfdCreate('log', 0), memfdCreate('log', 0)];
    const put = (name: string, handle: true | null, ttlWithoutHolderMs = 0) => ({
      name,
      blob: Uint8Array.of(7),
      handle,
      ttlWithoutHolderMs,
    });
    new ShelfLog(logFds).rewrite([put('page', true, 40), put('record', null), put('missing', true)]);
    const [page, unknown] = [memfdCreate('page', 0), memfdCreate('unknown', 0)];
    const passed = [
      { name: 'virtnet-log-0', fd: logFds[0] },
      { name: 'virtnet-log-1', fd: logFds[1] },
      { name: 'page', fd: page },
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
});
