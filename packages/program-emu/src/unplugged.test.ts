import { beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest';
import { DeviceStore } from './device-store.js';
import { LocalShelf } from './local-shelf.js';
import { Unplugged } from './unplugged.js';

describe('requests to unplug that were carried out', () => {
  let shelf: LocalShelf;
  let store: DeviceStore;
  let unplugged: Unplugged;
  const names = () => [...shelf.entries.keys()].sort();

  beforeEach(() => {
    shelf = new LocalShelf();
    store = new DeviceStore(shelf, () => {});
    unplugged = new Unplugged(store);
    return () => unplugged.close();
  });

  it('are shelved by the message that removes the device', () => {
    store.commit({}, 'dev/A/record', Uint8Array.of(1));
    const sent = vi.spyOn(shelf, 'transaction');
    store.forget({}, 'dev/A/', unplugged.remember('one'));
    expect([sent.mock.calls.length, names()]).toEqual([1, ['unplugged/one']]);
    expect([unplugged.has('one'), unplugged.has('two')]).toEqual([true, false]);
  });

  it('are adopted by a successor, which tells a new keeper of them', () => {
    unplugged.adopt(['one', 'two']);
    unplugged.upload();
    expect([unplugged.has('two'), names()]).toEqual([true, ['unplugged/one', 'unplugged/two']]);
  });

  it('are forgotten after a while, and when there are too many', () => {
    vi.useFakeTimers();
    onTestFinished(() => void vi.useRealTimers());
    store.forget({}, 'dev/A/', unplugged.remember('old'));
    for (let id = 0; id < 64; id++) store.forget({}, 'dev/A/', unplugged.remember(`${id}`));
    expect([unplugged.has('old'), names().length]).toEqual([false, 64]);
    vi.advanceTimersByTime(60_000);
    expect([unplugged.has('63'), names()]).toEqual([false, []]);
  });

  it('an id that is no name is remembered here alone', () => {
    expect([unplugged.remember('a b/c'), unplugged.has('a b/c')]).toEqual([[], true]);
    unplugged.upload();
    expect(names()).toEqual([]);
  });
});
