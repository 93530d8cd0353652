import { fstatSync } from 'node:fs';
import { openDescriptorCount, type Poller } from '@virtnet/host-linux';
import { Errno } from '@virtnet/wire';
import { describe, expect, it, vi } from 'vitest';
import {
  connected,
  keeperPath,
  Listener,
  listener,
  memory,
  serve,
  useShelfChannel,
  writer,
} from './shelf-channel.fixture.js';
import { KEPT_WAIT_MS, ShelfClient } from './shelf-client.js';
import { eventually } from './temporary-root.fixture.js';

const after = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
const pid = process.pid;
useShelfChannel();

describe('shelf channel, the keeper restarts', () => {
  it('the writer takes the lease again and uploads; a standby then forgets what was not uploaded', async () => {
    const first = serve();
    const truth = new Set(['a', 'b', 'gone']);
    const w = await writer((client) => {
      for (const name of truth) client.transaction([{ put: name }]);
    });
    for (const name of truth) w.transaction([{ put: name }]);
    const heard = await listener();
    truth.delete('gone');
    heard.heard.length = 0;
    first.close();
    serve({ expectUpload: true });
    await eventually('synced again', () => heard.heard.includes(`synced ${pid}`));
    expect([...heard.held.keys()]).toEqual(['a', 'b']);
    expect(heard.heard.filter((line) => line.startsWith('-'))).toEqual(['-gone']);
  });

  it('a standby back before the writer keeps all it knows until the upload is complete', async () => {
    const first = serve();
    const gate = Promise.withResolvers<void>();
    const w = await writer(async (client) => {
      client.transaction([{ put: 'a' }]);
      if (client.counters.connections === 1) return;
      await gate.promise;
      client.transaction([{ put: 'b' }]);
    });
    w.transaction([{ put: 'a' }, { put: 'b' }]);
    const heard = await listener();
    first.close();
    const second = serve({ expectUpload: true });
    await eventually('half of it is uploaded', () => second.status().entries === 1);
    await after(30);
    expect([...heard.held.keys()].sort()).toEqual(['a', 'b']);
    expect(second.status().settled).toBe(false);
    gate.resolve();
    await eventually('settled', () => second.status().settled);
    expect(heard.heard.filter((line) => line.startsWith('-'))).toEqual([]);
  });

  it('the writer dies in the middle of the upload: the standby still holds everything and is told of the death', async () => {
    const first = serve();
    const w = await writer(async (client) => {
      client.transaction([{ put: 'a' }]);
      if (client.counters.connections > 1) await new Promise(() => {});
    });
    w.transaction([{ put: 'a' }, { put: 'b' }]);
    const standby = connected();
    const heard = await listener(standby);
    first.close();
    const second = serve({ expectUpload: true });
    await eventually('half of it is uploaded, and the standby is there', () => {
      const { entries, subscribers } = second.status();
      return entries === 1 && subscribers === 1;
    });
    w.close();
    await eventually('told', () => heard.heard.at(-1) === `lost ${pid}`);
    expect([...heard.held.keys()].sort()).toEqual(['a', 'b']);
    let uploads = 0;
    expect(await standby.lease(() => void uploads++)).toBe(0);
    expect(uploads).toBe(1); // what the keeper has is not everything
    await eventually('settled', () => second.status().settled);
  });

  it('transactions while the keeper is away say ENOTCONN and end at once', async () => {
    const server = serve();
    const w = await writer();
    let lost = 0;
    w.on('lost', () => lost++);
    server.close();
    await eventually('noticed', () => lost === 1);
    expect(w.transaction([{ put: 'a' }])).toBe(-Errno.ENOTCONN);
  });

  it('what the writer says is kept as soon as the kernel has it, and again when a new keeper was told everything', async () => {
    const first = serve();
    const gate = Promise.withResolvers<void>();
    const w = await writer((client) => (client.counters.connections === 1 ? undefined : gate.promise));
    expect(w.kept()).toBeNull();
    first.close();
    await eventually('noticed', () => !w.connected);
    const kept = w.kept();
    expect(w.kept()).toBe(kept);
    let isKept = false;
    void kept?.then(() => {
      isKept = true;
    });
    const second = serve({ expectUpload: true });
    await eventually('being told', () => second.status().leaseHolderPid === pid);
    await after(30);
    expect(isKept).toBe(false);
    gate.resolve();
    await eventually('kept', () => isKept);
    expect(w.kept()).toBeNull();
  });

  it('a successor that was in step has nothing to wait for, nor has who is no writer, or never had a keeper', async () => {
    const lonely = connected();
    expect(await lonely.lease(() => {})).toBe(-Errno.ENOTCONN);
    expect(lonely.kept()).toBeNull();
    lonely.close();
    serve();
    const w = await writer();
    const standby = connected();
    expect(standby.kept()).toBeNull();
    await listener(standby);
    w.close();
    expect(await standby.lease(() => {})).toBe(0);
    expect(standby.kept()).toBeNull();
  });

  it('what a keeper had not passed on at its end is taken by who then succeeds the writer, in order', async () => {
    const server = serve();
    const w = await writer();
    const standby = connected();
    const heard = await listener(standby);
    const fd = memory();
    const { length } = heard.heard;
    w.transaction([{ put: 'a', fd }, { put: 'b' }]);
    w.transaction([{ delete: 'b' }, { put: 'c', blob: Uint8Array.of(7) }]);
    server.close();
    await eventually('noticed', () => !standby.connected && !w.connected);
    expect(heard.heard).toHaveLength(length);
    expect(await standby.lease(() => {})).toBe(-Errno.ENOTCONN);
    expect(heard.heard.slice(length)).toEqual(['+a', '+b', '-b', '+c']);
    expect(heard.held.get('a')?.ino).toBe(fstatSync(fd).ino);
    expect(heard.held.get('c')?.blob).toEqual(Uint8Array.of(7));
  });

  it('what a keeper had passed on before its end is heard by a successor that had not read it yet', async () => {
    const server = serve();
    const w = await writer();
    let read = () => {};
    const watch = (_fd: number, _events: object, ready: () => void) => {
      read = ready; // of the connection: it is watched last
      return { close() {} };
    };
    const standby = new ShelfClient({ path: keeperPath(), poller: { watch } as unknown as Poller });
    standby.start();
    const heard = new Listener();
    standby.subscribe(heard);
    await eventually('synced', () => {
      read();
      return heard.heard.length > 0;
    });
    w.transaction([{ put: 'a' }]);
    await eventually('passed on', () => server.status().transactions === 1);
    w.transaction([{ put: 'b' }]);
    server.close();
    expect(await standby.lease(() => {})).toBe(-Errno.ENOTCONN);
    expect(heard.heard).toEqual([`synced ${pid}`, '+a', '+b']);
    standby.close();
  });

  it('nobody holds the end of a connection longer than somebody may say something on it', async () => {
    serve();
    await listener();
    const alone = openDescriptorCount();
    for (let round = 0; round < 3; round++) {
      const w = await writer();
      // Both ends, the keeper's once more, and the writer's watch over the keeper.
      await eventually('the end is held', () => openDescriptorCount() === alone + 4);
      w.close();
      await eventually('nothing is held', () => openDescriptorCount() === alone);
    }
  });

  it('nobody waits longer for a keeper than KEPT_WAIT_MS, counted from its end', async () => {
    const server = serve();
    const lonely = await writer();
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
    try {
      server.close();
      while (lonely.connected) await new Promise((resolve) => setImmediate(resolve));
      let over = false;
      void lonely.kept()?.then(() => {
        over = true;
      });
      await vi.advanceTimersByTimeAsync(KEPT_WAIT_MS - 1);
      expect(over).toBe(false);
      await vi.advanceTimersByTimeAsync(1);
      expect(over).toBe(true);
      expect(lonely.kept()).toBeNull();
    } finally {
      vi.useRealTimers();
    }
  });
});
