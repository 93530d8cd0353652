import { fstatSync } from 'node:fs';
import { createLogger } from '@virtnet/host-ipc';
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
});
