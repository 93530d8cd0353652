import type { ShelfOperation } from '@virtnet/host-ipc';
import { Errno } from '@virtnet/wire';
import { beforeEach, describe, expect, it } from 'vitest';
import { DeviceStore } from './device-store.js';

const RECORD = Uint8Array.of(7);
const A = {};
const B = {};

describe('device store', () => {
  const sent: (readonly ShelfOperation[])[] = [];
  const errors: number[] = [];
  let answer = 0;
  let store: DeviceStore;
  beforeEach(() => {
    sent.length = 0;
    errors.length = 0;
    answer = 0;
    const transaction = (operations: readonly ShelfOperation[]) => {
      sent.push(operations);
      return answer;
    };
    store = new DeviceStore({ transaction, kept: () => null }, (errno) => errors.push(errno));
  });

  it('nothing is sent before the commit; then what was staged in its order, and the record last, as one message', () => {
    store.put(A, 'a/x', Uint8Array.of(1), 5);
    store.put(A, 'a/y', Uint8Array.of(2), -1);
    store.delete(A, 'a/z');
    store.deletePrefix(A, 'a/irq/');
    expect(sent).toEqual([]);
    store.commit(A, 'a/record', RECORD);
    expect(sent).toEqual([
      [
        { put: 'a/x', blob: Uint8Array.of(1), fd: 5 },
        { put: 'a/y', blob: Uint8Array.of(2) },
        { delete: 'a/z' },
        { deletePrefix: 'a/irq/' },
        { put: 'a/record', blob: RECORD },
      ],
    ]);
    store.commit(A, 'a/record', RECORD);
    expect(sent[1]).toEqual([{ put: 'a/record', blob: RECORD }]);
  });

  it('guest memory is kept without any client for 3 seconds only, everything else for ever', () => {
    store.put(A, 'dev/V/dma/1000', RECORD, 4);
    store.put(A, 'dev/V/page', RECORD, 5);
    store.commit(A, 'dev/V/record', RECORD);
    expect(sent).toEqual([
      [
        { put: 'dev/V/dma/1000', blob: RECORD, fd: 4, ttlWithoutHolderMs: 2000 },
        { put: 'dev/V/page', blob: RECORD, fd: 5 },
        { put: 'dev/V/record', blob: RECORD },
      ],
    ]);
  });

  it('one device’s commit sends nothing of another', () => {
    store.put(A, 'a/x', RECORD, 1);
    store.commit(B, 'b/record', RECORD);
    expect(sent).toEqual([[{ put: 'b/record', blob: RECORD }]]);
  });

  it('more than fits one message: split, in order, the record at the end of the last', () => {
    for (let i = 0; i < 1000; i++) store.put(A, `a/${i}`, RECORD, i);
    store.commit(A, 'a/record', RECORD);
    expect(Math.max(...sent.map((operations) => operations.length))).toBeLessThanOrEqual(253);
    expect(sent.flat()).toEqual([
      ...Array.from({ length: 1000 }, (_, i) => ({ put: `a/${i}`, blob: RECORD, fd: i })),
      { put: 'a/record', blob: RECORD },
    ]);
  });

  it('forget: what was staged is not sent any more', () => {
    store.put(A, 'a/x', RECORD, 1);
    store.forget(A, 'a/');
    store.commit(A, 'a/record', RECORD);
    expect(sent).toEqual([[{ deletePrefix: 'a/' }], [{ put: 'a/record', blob: RECORD }]]);
  });

  it('a keeper that is away: told with its errno, never thrown', () => {
    answer = -Errno.ENOTCONN;
    store.commit(A, 'a/record', RECORD);
    expect(errors).toEqual([Errno.ENOTCONN]);
  });
});
