import { fstatSync } from 'node:fs';
import { dup, openDescriptorCount, type Poller } from '@virtnet/host-linux';
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
import { readShelfLog, ShelfLog } from './shelf-log.js';
import { ShelfStore, storedName } from './shelf-store.js';
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

describe('shelf channel, everything was killed and the service manager kept what there was', () => {
  const logFds = (): [number, number] => [memory(), memory()];
  const manager = () => {
    const asked: string[] = [];
    return {
      asked,
      waiting: 0,
      whenSent: (action: () => void) => action(),
      store: (name: string, fd: number) => void asked.push(`+${name} ${fstatSync(fd).ino}`),
      remove: (name: string) => void asked.push(`-${name}`),
    };
  };
  const entry = (name: string, fd: number | null, ttlWithoutHolderMs = 0) => ({
    name,
    blob: Buffer.from(name),
    fd: fd === null ? null : dup(fd),
    ttlWithoutHolderMs,
  });

  it('the shelf begins with it, and whoever subscribes is told at once that this is all', async () => {
    const fd = memory();
    const server = serve({ kept: [entry('vf/1/page', fd), entry('vf/1/record', null)] });
    expect(server.status()).toMatchObject({
      entries: 2,
      descriptors: 1,
      blobBytes: 'vf/1/page'.length + 'vf/1/record'.length,
      settled: true,
    });
    const heard = await listener();
    expect(heard.heard).toEqual(['+vf/1/page', '+vf/1/record', 'synced null']);
    expect(heard.held.get('vf/1/page')?.ino).toBe(fstatSync(fd).ino);
  });

  it('a writer that lives still uploads: what it does not know any more goes, from the service manager too', async () => {
    const fds = logFds();
    const [page, gone] = [memory(), memory()];
    const blob = new Uint8Array(0);
    new ShelfLog(fds).rewrite(
      ['page', 'gone'].map((name) => ({ name, blob, handle: 0, ttlWithoutHolderMs: 0 })),
      () => 0,
    );
    const told = manager();
    const store = new ShelfStore(told, new ShelfLog(fds));
    const server = serve({ observer: store, kept: [entry('page', page), entry('gone', gone)] });
    expect(told.asked).toEqual([]); // the manager has them
    expect(readShelfLog(fds)?.map(({ name }) => name)).toEqual(['page', 'gone']); // and the log says so
    await writer((client) => void client.transaction([{ put: 'page', fd: page }]));
    await eventually('swept', () => server.status().entries === 1);
    expect(told.asked.at(-1)).toBe(`-${storedName('gone')}`);
    expect(readShelfLog(fds)?.map(({ name }) => name)).toEqual(['page']);
  });

  it('nobody comes: what does not outlive its clients for long is let go', async () => {
    const server = serve({ kept: [entry('memory', memory(), 40), entry('record', null)] });
    await eventually('let go', () => server.status().descriptors === 0);
    expect(server.status()).toMatchObject({ entries: 1, expired: 1 });
  });

  it('more than a shelf holds now: what does not fit is left out and closed', () => {
    const server = serve({
      limits: { entriesMax: 1, blobBytesMax: 100 },
      kept: [entry('first', memory()), entry('second', memory())],
    });
    expect([...server.entries()].map(({ name }) => name)).toEqual(['first']);
  });
});
