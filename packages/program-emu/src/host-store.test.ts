import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import type { HostState } from '@virtnet/engine-control';
import { afterEach, beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest';
import { bootedHost, HostStore } from './host-store.js';

/** It tries again each second. */
const PATIENCE = { timeout: 10_000 };

describe('the state of the host', () => {
  let root: string;
  let path: string;
  let said: string[];
  let isOurs: boolean;
  const store = () =>
    new HostStore(
      path,
      (_, message) => said.push(message),
      () => isOurs,
    );
  const state = (vfs: number): HostState => ({ ...bootedHost(), numVfs: { '14:00.2': vfs } });
  const written = () => store().load()?.numVfs['14:00.2'] ?? null;

  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), 'host-'));
    path = join(root, 'virtnet/host.json');
    said = [];
    isOurs = true;
  });
  afterEach(() => rmSync(root, { recursive: true }));

  /** Until it is mended nothing can be written. */
  function broken(): () => void {
    const draft = `${path}.${process.pid}.tmp`;
    mkdirSync(draft, { recursive: true });
    return () => rmSync(draft, { recursive: true });
  }

  it('what is going to be done and cannot be written is not done: it throws', () => {
    const mend = broken();
    expect(() => store().save(state(1))).toThrow();
    mend();
    store().save(state(1));
    expect(written()).toBe(1);
  });

  it('what has happened and cannot be written is said once, and written as soon as it can be', async () => {
    const mend = broken();
    const one = store();
    one.keep(state(1));
    one.keep(state(2));
    expect([written(), said]).toEqual([null, ['the state of the host cannot be written; it is tried again']]);
    mend();
    await vi.waitFor(() => expect(written()).toBe(2), PATIENCE);
    expect(said).toHaveLength(1);
  });

  it('what has happened and is not written yet is the state all the same', () => {
    const one = store();
    one.save(state(1));
    const mend = broken();
    one.keep(state(0));
    expect(one.load()?.numVfs).toEqual({ '14:00.2': 0 });
    mend();
  });

  it('what is newer than what could not be written stays', async () => {
    vi.useFakeTimers();
    onTestFinished(() => void vi.useRealTimers());
    const mend = broken();
    const one = store();
    one.keep(state(1));
    mend();
    one.save(state(2));
    vi.runAllTimers();
    expect(written()).toBe(2);
  });

  it('another process has the file by now: it is not written any more', () => {
    vi.useFakeTimers();
    onTestFinished(() => void vi.useRealTimers());
    const mend = broken();
    store().keep(state(1));
    mend();
    isOurs = false;
    vi.runAllTimers();
    expect(written()).toBeNull();
  });

  it('one that cannot be used, nor set aside, counts as none', () => {
    mkdirSync(dirname(path));
    mkdirSync(path);
    mkdirSync(`${path}.bad`);
    expect([written(), said]).toEqual([null, ['the state of the host cannot be used and is set aside']]);
  });
});
