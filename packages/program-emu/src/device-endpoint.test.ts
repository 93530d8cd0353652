import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  close,
  connect,
  eventfd,
  listen,
  memfdCreate,
  ReplyRing,
  send,
  socketPair,
} from '@virtnet/host-linux';
import { VfioUserClient } from '@virtnet/server-vfio-user';
import { featureMask, StatePageHeader, VfioPciRegion, VirtioFeature } from '@virtnet/wire';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { DeviceEndpoint } from './device-endpoint.js';
import { decodeDeviceRecord } from './device-record.js';
import { mappingsOf, openFds } from './test-support/holdings.js';
import { type TestDevice, TestWorld } from './test-support/test-device.js';
import { TestDriver } from './test-support/test-driver.js';
import { TestMemory } from './test-support/test-ring.js';

const NAME = 'device-endpoint-memory';
const VENDOR = Uint8Array.of(0xf4, 0x1a);
const replyRing = ReplyRing.create();

async function eventually(what: string, look: () => boolean): Promise<void> {
  const end = performance.now() + 10_000;
  while (!look()) {
    if (performance.now() > end) throw new Error(`did not happen: ${what}`);
    await sleep(1);
  }
}

describe('device endpoint', () => {
  let directory: string;
  let path: string;
  let world: TestWorld;
  let device: TestDevice;
  let endpoint: DeviceEndpoint;
  let before: number;
  let idle: number;
  const clients: VfioUserClient[] = [];
  const client = async (onClose = (_: number) => {}) => {
    const made = await VfioUserClient.over(await connected(), { poller: world.poller, onClose });
    clients.push(made);
    return made;
  };
  /** The backlog may be full of clients that are gone already. */
  const connected = async () => {
    let fd = -1;
    for (; fd < 0; await sleep(0)) fd = connect(path, 'stream');
    return fd;
  };
  const shelved = () =>
    [...world.shelf.entries.keys()].map((name) => name.split('/').slice(2).join('/')).sort();
  const released = () => eventually('released', () => !endpoint.connected && openFds() <= idle);

  beforeEach(() => {
    before = openFds();
    directory = mkdtempSync(join(tmpdir(), 'virtnet-endpoint-'));
    path = join(directory, 'function.sock');
    world = new TestWorld();
    device = world.device();
    endpoint = new DeviceEndpoint(device.host, listen(path, 'stream'), world.services, replyRing);
    endpoint.upload();
    device.host.upload();
    endpoint.listen();
    idle = openFds();
  });
  afterEach(async () => {
    for (const one of clients.splice(0)) one.close();
    endpoint.end();
    await device.end();
    await world.close();
    rmSync(directory, { recursive: true });
    expect(openFds()).toBe(before);
    expect(world.poller.rebuilds).toBe(0); // nothing was closed while it was watched
  });

  it('a client is served, and its connection is shelved with its session', async () => {
    const one = await client();
    expect(await one.read(VfioPciRegion.CONFIG, 0, 2)).toEqual(VENDOR);
    expect(shelved()).toContain('connection');
    expect(device.host.record().session).toMatchObject({ negotiated: { privateCommands: true } });
  });

  it('what was agreed in VERSION is shelved before anything else is asked: a successor goes on with it', async () => {
    await client();
    const name = [...world.shelf.entries.keys()].find((key) => key.endsWith('/record'))!;
    const record = decodeDeviceRecord(world.shelf.entries.get(name)!.blob);
    expect(record).toMatchObject({ session: { negotiated: { privateCommands: true } } });
  });

  it('what ended meanwhile goes on with no connection, and tells the keeper nothing', () => {
    const late = new DeviceEndpoint(
      device.host,
      listen(join(directory, 'late.sock'), 'stream'),
      world.services,
      replyRing,
    );
    late.end();
    const [ours, theirs] = socketPair('stream') as [number, number];
    const [held, before] = [openFds(), shelved()];
    late.adopt(ours, device.host.record().session);
    expect([openFds(), late.connected]).toEqual([held - 1, false]);
    close(theirs);
    world.shelf.clear();
    late.upload();
    expect([before.length > 0, shelved()]).toEqual([true, []]);
    endpoint.upload();
    device.host.upload();
  });

  it('a second client waits while the first is connected, and is served after it has gone', async () => {
    const first = await client();
    let served = false;
    const second = client().then(async (one) => {
      served = true;
      return one.read(VfioPciRegion.CONFIG, 0, 2);
    });
    for (let i = 0; i < 20; i++) await first.read(VfioPciRegion.CONFIG, 0, 2);
    expect(served).toBe(false);
    first.close();
    expect(await second).toEqual(VENDOR);
  });

  it('the end of a connection resets the function and releases memory, events, shelf and descriptors', async () => {
    const memory = new TestMemory(1 << 20, { arena: world.arena });
    const held = openFds();
    const one = await client();
    const driver = await TestDriver.start(one, {
      memory,
      features: featureMask([VirtioFeature.VERSION_1]),
      queues: [0, 1],
    });
    const kick = eventfd();
    const extra = memfdCreate(NAME, 8192);
    await one.dmaMap({ iova: 0n, sizeBytes: 8192, fd: extra, fdOffset: 0, readable: true, writable: true });
    await one.queueKick(1, kick);
    await one.queueBaseSet(3, 9);
    await one.queueEnable(0, true);
    close(kick);
    close(extra);
    expect(shelved().filter((name) => /dma|irq|kick/.test(name))).toEqual([
      'dma/0',
      'dma/100000',
      'irq/2/0',
      'irq/2/1',
      'irq/2/2',
      'kick/1',
    ]);
    expect([device.host.fn.status, device.host.memory.count, mappingsOf(NAME)]).toEqual([0xf, 2, 1]);
    one.close();
    driver.close();
    await eventually('released', () => openFds() === held);
    const { fn, memory: now, state, interrupts } = device.host;
    expect([fn.status, now.count, state.kicks.size, state.bases.size, state.ringEnables.size]).toEqual([
      0, 0, 0, 0, 0,
    ]);
    expect([...interrupts.entries()]).toEqual([]);
    expect([mappingsOf(NAME), world.arena.regionCount]).toEqual([0, 1]);
    expect(shelved()).toEqual(['listener', 'page', 'record', 'tap/0', 'tap/1']);
    expect(device.host.record().session).toBeNull();
    memory.close();
  });

  it('gone in the middle of a request that waits for a worker: nothing is left, and the next client is served', async () => {
    for (let i = 0; i < 20; i++) {
      const one = await client();
      const extra = memfdCreate(NAME, 8192);
      const range = { iova: 0n, sizeBytes: 8192, fdOffset: 0, readable: true, writable: true };
      const answer = one.dmaMap({ ...range, fd: extra }).catch(() => {});
      const reset = one.reset().catch(() => {});
      if (i % 2 === 0) await sleep(0);
      one.close();
      await Promise.all([answer, reset]);
      close(extra);
    }
    await released();
    expect([mappingsOf(NAME), device.host.memory.count]).toEqual([0, 0]);
    expect(await (await client()).read(VfioPciRegion.CONFIG, 0, 2)).toEqual(VENDOR);
  });

  it('memory of odd sizes, in odd places, or that is none: refused, its descriptors closed, the connection goes on', async () => {
    const one = await client();
    const fd = memfdCreate(NAME, 8192);
    const event = eventfd();
    const good = { iova: 0n, sizeBytes: 4096, fdOffset: 0, readable: true, writable: true, fd };
    await one.dmaMap(good);
    const held = openFds();
    const bad = [
      { ...good, iova: 0x10000n, sizeBytes: 1 },
      { ...good, iova: 0x10000n, sizeBytes: 4097 },
      { ...good, iova: 0x10001n },
      { ...good, iova: 0x10000n, sizeBytes: 0 },
      { ...good, iova: 0x10000n, sizeBytes: 12_288 },
      { ...good, iova: 0x10000n, fdOffset: 1 },
      { ...good, iova: 0x10000n, fdOffset: 8192 },
      { ...good, iova: 0xffff_ffff_ffff_f000n, sizeBytes: 8192 },
      { ...good, iova: 0x10000n, sizeBytes: 2 ** 50 },
      { ...good, iova: 0x10000n, fd: event },
      good,
    ];
    for (const map of bad) await expect(one.dmaMap(map)).rejects.toThrow();
    expect([openFds(), device.host.memory.count, mappingsOf(NAME)]).toEqual([held, 1, 1]);
    expect(await one.read(VfioPciRegion.CONFIG, 0, 2)).toEqual(VENDOR);
    close(fd);
    close(event);
  });

  it('hundreds of clients that come, say nothing or nonsense, and go: descriptors stay the same', async () => {
    for (let i = 0; i < 300; i++) {
      const fd = await connected();
      if (i % 3 === 1)
        send(
          fd,
          Uint8Array.from({ length: 40 }, (_, at) => (at * 7 + i) & 0xff),
        );
      if (i % 3 === 2) send(fd, Uint8Array.of(1));
      close(fd);
    }
    (await client()).close(); // the last in the backlog
    await released();
    expect(openFds()).toBe(idle);
  });

  /** As an unplug does it. */
  async function remove(): Promise<void> {
    endpoint.end();
    await device.end();
    world.services.store.forget(device.host, `dev/${device.host.vuid}/`);
  }
  /** A function in its place, for what follows each test. */
  function replace(): void {
    device = world.device();
    endpoint = new DeviceEndpoint(device.host, listen(path, 'stream'), world.services, replyRing);
  }

  it('removed: the client sees its connection end, and nobody is served any more', async () => {
    let ended = false;
    await client(() => {
      ended = true;
    });
    await remove();
    await eventually('end', () => ended);
    expect(connect(path, 'stream')).toBeLessThan(0);
    replace();
  });

  it('removed while a request waits for the workers, or while the function is reset after its client', async () => {
    for (const gone of [false, true]) {
      const one = await client();
      const workers = Promise.withResolvers<void>();
      world.datapath.hold = workers.promise;
      const answer = gone ? Promise.resolve(one.close()) : one.reset().catch(() => {});
      await eventually('under way', () => world.datapath.settling > 0);
      const removed = remove();
      workers.resolve();
      await Promise.all([removed, answer]);
      await sleep(2);
      expect(shelved()).toEqual([]); // no record came back
      replace();
      endpoint.upload();
      endpoint.listen();
    }
  });

  it('adopted with a session that is none: its connection ends, and the next client is served after the reset', async () => {
    const one = await client();
    one.close();
    await released();
    endpoint.end();
    rmSync(path); // the shelf still holds its listener, so that it does not look abandoned
    const pair = socketPair('stream') as readonly [number, number];
    endpoint = new DeviceEndpoint(device.host, listen(path, 'stream'), world.services, replyRing);
    const workers = Promise.withResolvers<void>();
    world.datapath.hold = workers.promise;
    endpoint.adopt(pair[0], { negotiated: 7 });
    endpoint.listen();
    let served = false;
    const next = client().then((made) => {
      served = true;
      return made.read(VfioPciRegion.CONFIG, 0, 2);
    });
    await eventually('the reset', () => world.datapath.settling > 0);
    for (let i = 0; i < 5; i++) await sleep(1);
    expect([served, world.said]).toEqual([false, ['a saved session is unusable']]);
    workers.resolve();
    expect(await next).toEqual(VENDOR);
    close(pair[1]);
  });

  it('a connection counts, so that numbers of two connections are never the same by accident', async () => {
    const words = new Uint32Array(device.host.page.buffer, 0, StatePageHeader.sizeBytes / 4);
    const epoch = () => words[StatePageHeader.at.connectionEpoch / 4];
    for (let i = 1; i <= 3; i++) {
      const one = await client();
      expect(epoch()).toBe(i);
      one.close();
      await released();
    }
  });
});
