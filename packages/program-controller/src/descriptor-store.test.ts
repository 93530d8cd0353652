import { fstatSync } from 'node:fs';
import { createLogger, ShelfLog, storedName } from '@virtnet/host-ipc';
import { close, memfdCreate } from '@virtnet/host-linux';
import { describe, expect, it } from 'vitest';
import { DescriptorStore } from './descriptor-store.js';

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
      ...{ name, blob: new Uint8Array(0), handle: true, ttlWithoutHolderMs: 0 },
    }));
    new ShelfLog(logFds).rewrite(entries);
    const names = [storedName('page'), 'tap', storedName('twice'), storedName('twice'), 'stranger'];
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
});
