import { spawn } from 'node:child_process';
import { fstatSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import {
  close,
  connect,
  memfdCreate,
  openDescriptorCount,
  Receiver,
  send,
  socketPair,
} from '@virtnet/host-linux';
import { Errno, SHELF_MESSAGE_BYTES_MAX, ShelfMessageKind } from '@virtnet/wire';
import { describe, expect, it } from 'vitest';
import {
  connected,
  ends,
  keeperPath,
  listener,
  memory,
  serve,
  useShelfChannel,
  writer,
} from './shelf-channel.fixture.js';
import type { ShelfOperation } from './shelf-client.js';
import { encodeShelfMessage } from './shelf-codec.js';
import { OUTBOX_BYTES_MAX } from './shelf-outbox.js';
import { CLIENTS_MAX } from './shelf-server.js';
import { eventually } from './temporary-root.fixture.js';

const after = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
const pid = process.pid;
useShelfChannel();

describe('shelf channel', () => {
  it('a subscriber hears the whole shelf, SYNCED, and then every change in order', async () => {
    serve();
    const fd = memory();
    const w = await writer();
    expect(w.transaction([{ put: 'a', blob: Uint8Array.of(1), fd }, { put: 'b' }])).toBe(0);
    const heard = await listener();
    expect(w.transaction([{ put: 'c' }, { delete: 'b' }])).toBe(0);
    expect(w.transaction([{ deletePrefix: 'c' }, { put: 'a', blob: Uint8Array.of(2) }])).toBe(0);
    await eventually('all is heard', () => heard.heard.length === 7);
    expect(heard.heard).toEqual(['+a', '+b', `synced ${pid}`, '+c', '-b', '-c', '+a']);
    expect(heard.held).toEqual(new Map([['a', { blob: Uint8Array.of(2), ino: null }]]));
  });

  it('a descriptor arrives as the same file, whatever the sender does with its own', async () => {
    serve();
    const w = await writer();
    const fd = memfdCreate('short-lived', 8192);
    const { ino } = fstatSync(fd);
    w.transaction([{ put: 'page', fd }]);
    close(fd);
    const heard = await listener();
    expect(heard.held.get('page')?.ino).toBe(ino);
  });

  it('a shelf larger than many messages arrives whole', async () => {
    const server = serve();
    const w = await writer();
    const fd = memory();
    for (let index = 0; index < 700; index++)
      w.transaction([
        { put: `dev/${index}/page`, fd },
        { put: `dev/${index}/record`, blob: new Uint8Array(2000) },
      ]);
    await eventually('all is stored', () => server.status().entries === 1400);
    const heard = await listener();
    expect(heard.held.size).toBe(1400);
    expect([...heard.held.values()].filter(({ ino }) => ino !== null).length).toBe(700);
  });

  it('the writer dies without having read a word: all it sent is heard, and only then that the lease is lost', async () => {
    serve();
    const heard = await listener();
    const count = 300;
    const script = fileURLToPath(new URL('./shelf-writer.fixture.ts', import.meta.url));
    const child = spawn(process.execPath, [script, keeperPath(), String(count)], {
      stdio: 'inherit',
    });
    await eventually('the lease is lost', () => heard.heard.at(-1) === `lost ${child.pid}`, 10_000);
    expect(heard.heard).toEqual([
      'synced null',
      `held ${child.pid}`,
      ...Array.from({ length: count }, (_, index) => `+n/${index}`),
      `lost ${child.pid}`,
    ]);
  });

  it('a writer is buried: all it sent is heard, then that the lease is lost, though its connection is open', async () => {
    const server = serve();
    const standby = connected();
    const heard = await listener(standby);
    const script = fileURLToPath(new URL('./shelf-writer.fixture.ts', import.meta.url));
    const child = spawn(process.execPath, [script, keeperPath(), '3', 'stop'], { stdio: 'inherit' });
    ends.push(() => child.kill('SIGKILL'));
    const writerPid = child.pid as number;
    await eventually('all is heard', () => heard.heard.at(-1) === '+n/2', 10_000);
    expect(standby.bury(pid)).toBe(0); // whoever speaks lives
    expect(standby.bury(writerPid)).toBe(0);
    await eventually('the lease is lost', () => heard.heard.at(-1) === `lost ${writerPid}`);
    expect(server.status()).toMatchObject({ leaseHolderPid: null, clients: 1 });
    expect(await standby.lease(() => {})).toBe(0);
  });

  it('only the holder of the lease may write, and one client at a time holds it', async () => {
    const server = serve();
    const first = await writer();
    const second = connected();
    expect(second.transaction([{ put: 'x' }])).toBe(-Errno.EPERM);
    expect(await second.lease(() => void second.transaction([{ put: 'stolen' }]))).toBe(-Errno.EBUSY);
    second.close();
    expect(server.status()).toMatchObject({ entries: 0, refused: 1, leaseHolderPid: pid });
    expect(first.transaction([{ put: 'x' }])).toBe(0);
    await eventually('it is stored', () => server.status().entries === 1);
  });

  it('the lease is asked for while the end of the former holder is still unread: granted', async () => {
    serve();
    const heard = await listener();
    const first = await writer();
    const next = connected();
    await after(20);
    first.transaction([{ put: 'last-words' }]);
    first.close();
    expect(await next.lease(() => {})).toBe(0);
    await eventually(
      'both are heard',
      () => heard.heard.filter((line) => line.startsWith('held')).length === 2,
    );
    await eventually('swept by the upload', () => heard.held.size === 0);
    expect(heard.heard.slice(-4)).toEqual(['+last-words', `lost ${pid}`, `held ${pid}`, '-last-words']);
  });

  it('a standby asks for the lease before the keeper has read the end of its holder: granted behind all it said', async () => {
    serve();
    const standby = connected();
    const heard = await listener(standby);
    const first = await writer();
    await eventually('the standby knows the writer', () => heard.heard.includes(`held ${pid}`));
    for (let index = 0; index < 200; index++) first.transaction([{ put: `n/${index}` }]);
    first.close();
    const granted = standby.lease(() => {}); // all in one turn: the keeper has read nothing yet
    expect(heard.held.size).toBe(0);
    expect(await granted).toBe(0);
    expect(heard.held.size).toBe(200);
    expect(heard.heard.at(-1)).toBe(`lost ${pid}`);
  });

  it('a standby that is in step adopts the shelf as it is, without uploading', async () => {
    const server = serve();
    const first = await writer();
    first.transaction([{ put: 'a' }]);
    const standby = connected();
    await listener(standby);
    first.close();
    let uploads = 0;
    expect(await standby.lease(() => void uploads++)).toBe(0);
    expect([uploads, server.status().entries, server.status().subscribers]).toEqual([0, 1, 0]);
    expect(standby.transaction([{ put: 'b' }])).toBe(0);
    await eventually('it writes', () => server.status().entries === 2);
  });

  it('a standby that has just lost its connection is told what it missed before its lease is granted', async () => {
    const first = serve();
    const standby = connected();
    const heard = await listener(standby);
    const lease = Promise.withResolvers<number>();
    // Before it would connect again by itself.
    standby.once('lost', () => {
      standby.start();
      void standby.lease(() => {}).then(lease.resolve);
    });
    first.close();
    serve();
    const w = connected();
    void w.lease(() => {});
    w.transaction([{ put: 'missed' }]);
    w.close();
    expect(await lease.promise).toBe(0);
    expect(heard.held.has('missed')).toBe(true);
  });

  it('a standby buries the writer and asks for the lease in one breath: it is told all, then that the lease is lost, then granted', async () => {
    serve();
    const standby = connected();
    const heard = await listener(standby);
    const script = fileURLToPath(new URL('./shelf-writer.fixture.ts', import.meta.url));
    const child = spawn(process.execPath, [script, keeperPath(), '3', 'stop'], { stdio: 'inherit' });
    ends.push(() => child.kill('SIGKILL'));
    await eventually('all is heard', () => heard.heard.at(-1) === '+n/2', 10_000);
    standby.bury(child.pid as number);
    expect(await standby.lease(() => {})).toBe(0);
    expect(heard.heard.at(-1)).toBe(`lost ${child.pid}`);
  });

  it('a request for the lease is withdrawn when its connection is lost: it subscribes again', async () => {
    const first = serve();
    const standby = connected();
    const heard = await listener(standby);
    expect(standby.keeperPid).toBe(pid);
    const granted = standby.lease(() => {});
    first.close();
    standby.once('lost', () => standby.withdraw());
    expect(await granted).toBe(-Errno.ENOTCONN);
    expect(standby.keeperPid).toBeNull();
    heard.heard.length = 0;
    const second = serve();
    await eventually('synced again', () => heard.heard.includes('synced null'));
    expect(second.status()).toMatchObject({ leaseHolderPid: null, subscribers: 1 });
  });

  it('a refused transaction changes nothing, is told, and the writer goes on', async () => {
    const server = serve({ limits: { entriesMax: 2, blobBytesMax: 1000 } });
    const w = await writer();
    const refusals: number[] = [];
    w.on('refused', (errno) => refusals.push(errno));
    const fd = memory();
    w.transaction([{ put: 'a' }]);
    w.transaction([
      { put: 'b', fd },
      { put: 'c', fd },
    ]);
    w.transaction([{ put: 'd', fd }]);
    await eventually('told', () => refusals.length === 1 && server.status().entries === 2);
    expect(refusals).toEqual([Errno.ENOSPC]);
    expect(server.status()).toMatchObject({ descriptors: 1, refused: 1 });
  });

  it('what does not fit a message is refused at once, and a closed descriptor costs nothing but the call', async () => {
    serve();
    const w = await writer();
    const closed = memfdCreate('x', 4096);
    close(closed);
    expect(w.transaction([{ put: 'a', fd: closed }])).toBe(-Errno.EBADF);
    expect(w.transaction([{ put: 'a', blob: new Uint8Array(SHELF_MESSAGE_BYTES_MAX) }])).toBe(
      -Errno.EMSGSIZE,
    );
    expect(w.transaction([{ put: 'bad name' }])).toBe(-Errno.EINVAL);
    expect(w.connected).toBe(true);
  });

  it('descriptors are closed on replace, delete, refusal and end: 1,000 transactions leave none behind', async () => {
    const server = serve();
    const w = await writer();
    const heard = await listener();
    const fd = memory();
    const startCount = openDescriptorCount();
    for (let round = 0; round < 500; round++) {
      const operations: ShelfOperation[] = [
        { put: 'a', fd },
        { put: `b/${round % 3}`, fd },
        { put: 'a', fd },
      ];
      w.transaction(operations);
      w.transaction([{ deletePrefix: 'b/' }, { delete: 'a' }]);
      if (round % 50 === 0) await after(1);
    }
    await eventually('all is applied', () => server.status().transactions === 1000 && heard.held.size === 0);
    expect(openDescriptorCount()).toBe(startCount);
  });
});

describe('shelf channel, bad clients', () => {
  const raw = () => {
    const fd = connect(keeperPath(), 'seqpacket');
    ends.push(() => close(fd));
    return fd;
  };
  const control = (kind: ShelfMessageKind, argument = 0) => {
    const message = encodeShelfMessage({ kind, argument, operations: [] });
    if (typeof message === 'number') throw new Error('does not encode');
    return message.bytes;
  };

  it('a malformed message costs its sender the connection, its descriptors are closed, others go on', async () => {
    const server = serve();
    const w = await writer();
    const fd = memory();
    const bad = [
      Uint8Array.of(1, 2, 3),
      new Uint8Array(SHELF_MESSAGE_BYTES_MAX),
      control(ShelfMessageKind.SYNCED),
      control(ShelfMessageKind.LEASE, 77),
      control(99 as ShelfMessageKind),
    ];
    for (const bytes of bad) {
      const peer = raw();
      send(peer, bytes, [fd, fd]);
      const receiver = new Receiver(1024);
      await eventually('closed', () => {
        const received = receiver.receive(peer);
        return typeof received === 'number' ? received !== -Errno.EAGAIN : received.bytes.byteLength === 0;
      });
    }
    expect(server.status()).toMatchObject({ clients: 1, entries: 0 });
    w.transaction([{ put: 'a' }]);
    await eventually('the writer still writes', () => server.status().entries === 1);
  });

  it('a subscriber that never reads is dropped past its queue; the writer and other subscribers notice nothing', async () => {
    const server = serve();
    const w = await writer();
    const good = await listener();
    const lazy = raw();
    send(lazy, control(ShelfMessageKind.SUBSCRIBE));
    await eventually('it is subscribed', () => server.status().subscribers === 2);
    const blob = new Uint8Array(170 * 1024);
    const messages = Math.ceil((OUTBOX_BYTES_MAX + 16 * 1024 * 1024) / blob.byteLength);
    let slowestMs = 0;
    for (let index = 0; index < messages; index++) {
      const startedMs = performance.now();
      expect(w.transaction([{ put: 'big', blob }])).toBe(0);
      slowestMs = Math.max(slowestMs, performance.now() - startedMs);
      await new Promise((resolve) => setImmediate(resolve));
    }
    await eventually('the other has heard all', () => good.heard.length === 1 + messages);
    expect(server.status()).toMatchObject({ subscribers: 1, droppedSubscribers: 1, leaseHolderPid: pid });
    expect(slowestMs).toBeLessThan(200);
  });

  it('a keeper that does not read costs the writer its patience once, and then the connection', async () => {
    serve();
    const w = await writer();
    let lost = '';
    w.on('lost', (reason) => {
      lost = reason;
    });
    const blob = new Uint8Array(170 * 1024);
    let result = 0;
    const startedMs = performance.now();
    while (result === 0) result = w.transaction([{ put: 'a', blob }]); // the keeper's turn never comes
    expect(result).toBe(-Errno.ETIMEDOUT);
    expect(performance.now() - startedMs).toBeLessThan(1_000);
    expect(w.transaction([{ put: 'a' }])).toBe(-Errno.ENOTCONN);
    await eventually('told', () => lost !== '');
    await eventually('connected again', () => w.connected);
  });

  it('more clients than the limit are refused, and one more is welcome when one leaves', async () => {
    const server = serve();
    const clients = Array.from({ length: CLIENTS_MAX }, () => connected());
    await Promise.all(clients.map((client) => listener(client)));
    const receiver = new Receiver(1024);
    const extra = raw();
    await eventually('refused', () => {
      const received = receiver.receive(extra);
      return typeof received === 'object' && received.bytes.byteLength === 0;
    });
    clients[0]!.close();
    await eventually('one left', () => server.status().clients === CLIENTS_MAX - 1);
    await listener();
  });

  it('without any client, entries with a time to live go when it is over, and only those', async () => {
    const server = serve();
    const w = await writer();
    const fd = memory();
    w.transaction([
      { put: 'dma/0', fd, ttlWithoutHolderMs: 60 },
      { put: 'dma/1', fd, ttlWithoutHolderMs: 120 },
      { put: 'page', fd },
    ]);
    const subscriber = connected();
    await listener(subscriber);
    w.close();
    await after(150);
    expect(server.status().entries).toBe(3); // a standby is a client as well
    subscriber.close();
    await eventually('both are gone', () => server.status().entries === 1);
    expect(server.status()).toMatchObject({ descriptors: 1, expired: 2 });
  });

  it('what somebody outside is still connected for stays; it goes when they are gone', async () => {
    const server = serve();
    const w = await writer();
    const pair = socketPair('stream');
    if (typeof pair === 'number') throw new Error(`errno ${-pair}`);
    w.transaction([
      { put: 'dev/a/dma/0', ttlWithoutHolderMs: 20 },
      { put: 'dev/a/connection', fd: pair[0] },
      { put: 'dev/b/dma/0', ttlWithoutHolderMs: 20 },
    ]);
    close(pair[0]);
    await eventually('stored', () => server.status().entries === 3);
    w.close();
    await eventually('the other device’s is gone', () => server.status().entries === 2);
    await after(50);
    expect(server.list('dev/a/').map(({ name }) => name)).toEqual(['dev/a/connection', 'dev/a/dma/0']);
    close(pair[1]);
    await eventually('it is gone too', () => server.status().expired === 2);
  });

  it('a client back in time stops the clock', async () => {
    const server = serve();
    const w = await writer();
    w.transaction([{ put: 'dma/0', ttlWithoutHolderMs: 80 }]);
    await eventually('stored', () => server.status().entries === 1);
    w.close();
    await after(30);
    await listener();
    await after(100);
    expect(server.status().entries).toBe(1);
  });
});
