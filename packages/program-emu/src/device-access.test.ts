import { openSync, writeSync } from 'node:fs';
import { close, dup, eventfd, eventfdDrain, memfdCreate, send, setNonBlocking } from '@virtnet/host-linux';
import type { IrqRequest } from '@virtnet/server-vfio-user';
import { Errno, featureMask, VirtioFeature } from '@virtnet/wire';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { IrqIndex } from './device-interrupts.js';
import { isOpen, mappingsOf, openFds } from './test-support/holdings.js';
import { type TestDevice, TestWorld } from './test-support/test-device.js';
import { clientOf, TestDriver } from './test-support/test-driver.js';
import { TestMemory } from './test-support/test-ring.js';
import { frame, HEADER_BYTES } from './test-support/worker-fixture.js';

const FEATURES = featureMask([VirtioFeature.VERSION_1]);
const QUEUES = [0, 1, 2, 3];

describe('device access', () => {
  let before: number;
  let world: TestWorld;
  let device: TestDevice;
  let memory: TestMemory;
  let driver: TestDriver | null;
  const shelved = (part: string) => world.shelf.entries.get(`dev/${device.host.vuid}/${part}`);
  const commit = () => {
    device.host.touch();
    device.host.commit(null);
  };
  const start = async () => {
    driver = await TestDriver.start(clientOf(device), {
      memory,
      features: FEATURES,
      queues: QUEUES.slice(0, 2),
    });
    commit();
    return driver;
  };

  beforeEach(() => {
    before = openFds();
    world = new TestWorld();
    device = world.device();
    memory = new TestMemory(2 << 20, { arena: world.arena });
    driver = null;
  });
  afterEach(async () => {
    driver?.close();
    await device.end();
    memory.close();
    await world.close();
    expect(openFds()).toBe(before);
    expect(world.arena.regionCount).toBe(0);
  });

  describe('SET_IRQS', () => {
    const set = (fds: number[], change: Partial<IrqRequest> = {}) =>
      device.access.setIrqs({
        index: IrqIndex.MSIX,
        start: 0,
        count: fds.length,
        action: 'trigger',
        data: 'eventfd',
        fds,
        ...change,
      });

    it('assigns and shelves each descriptor under its vector', async () => {
      const fds = [eventfd(), eventfd()];
      expect(await set(fds, { start: 1 })).toBe(0);
      commit();
      expect([shelved('irq/2/0'), shelved('irq/2/1')?.fd, shelved('irq/2/2')?.fd]).toEqual([
        undefined,
        expect.any(Number),
        expect.any(Number),
      ]);
      expect(device.host.interrupts.fd(IrqIndex.MSIX, 2)).toBe(fds[1]);
    });

    it.each([
      ['a file', () => openSync('/dev/null', 'r+')],
      ['memory', () => memfdCreate('x', 4096)],
    ])('%s among the eventfds: refused, nothing is assigned, and all stay the caller’s', async (_, open) => {
      const fds = [eventfd(), open(), eventfd()];
      expect(await set(fds)).toBe(-Errno.EINVAL);
      expect(fds.map(isOpen)).toEqual([true, true, true]);
      expect(device.host.interrupts.assigned(IrqIndex.MSIX)).toBe(false);
      for (const fd of fds) close(fd);
    });

    it('an eventfd that blocks and is full does not hold up who fires it', async () => {
      const theirs = eventfd();
      setNonBlocking(theirs, false);
      await set([dup(theirs)]);
      const largest = Buffer.alloc(8, 0xff);
      largest[0] = 0xfe;
      writeSync(theirs, largest);
      expect(await set([], { count: 1, data: 'none' })).toBe(0); // would wait for ever
      close(theirs);
    });

    it('replaced while queues run: workers have the new one before the former is closed', async () => {
      const { host } = device;
      await start();
      const former = host.interrupts.fd(IrqIndex.MSIX, 1);
      const next = eventfd();
      const openWhenTold: boolean[] = [];
      const { loop } = world.datapath;
      const handle = loop.handle.bind(loop);
      loop.handle = (message) => {
        openWhenTold.push(isOpen(former)); // its number must not mean another file yet
        handle(message);
      };
      expect(await set([next], { start: 1 })).toBe(0);
      expect([openWhenTold, isOpen(former)]).toEqual([[true], false]);
      host.interrupts.fire(IrqIndex.MSIX, 1);
      expect(eventfdDrain(next)).toBe(1);
    });

    it('withdrawn one by one, or all at once: closed, and gone from the shelf', async () => {
      await set([eventfd(), eventfd(), eventfd()]);
      commit();
      expect(await set([], { start: 1, count: 1 })).toBe(0);
      commit();
      expect([shelved('irq/2/0') !== undefined, shelved('irq/2/1')]).toEqual([true, undefined]);
      expect(await set([], { count: 0, data: 'none' })).toBe(0);
      commit();
      expect([...world.shelf.entries.keys()].filter((name) => name.includes('/irq/'))).toEqual([]);
      expect(device.host.interrupts.assigned(IrqIndex.MSIX)).toBe(false);
    });

    it('vectors that do not exist: refused', async () => {
      expect(await set([], { start: 6, count: 1 })).toBe(-Errno.EINVAL);
      expect(await set([], { index: 1, count: 1 })).toBe(-Errno.EINVAL);
      expect(await set([], { index: 9, count: 1 })).toBe(-Errno.EINVAL);
    });

    it('trigger without descriptors fires those asked for; INTx that is masked fires when unmasked', async () => {
      const fds = [eventfd(), eventfd()];
      const copies = fds.map((fd) => dup(fd));
      await set(copies);
      await set([], { count: 2, data: 'none' });
      await set([], { count: 2, data: 'bool', values: [false, true] });
      expect(fds.map(eventfdDrain)).toEqual([1, 2]);
      const [intx] = fds;
      await set([dup(intx!)], { index: IrqIndex.INTX });
      const on = { index: IrqIndex.INTX, count: 1, data: 'none' } as const;
      await set([], { ...on, action: 'mask' });
      await set([], on);
      expect(eventfdDrain(intx!)).toBe(0);
      await set([], { ...on, action: 'unmask' });
      expect(eventfdDrain(intx!)).toBe(1);
      for (const fd of fds) close(fd);
    });
  });

  describe('QUEUE_KICK', () => {
    it('an eventfd kicks the queue; replaced and withdrawn it is closed and leaves the shelf', async () => {
      const running = await start();
      const kick = eventfd();
      expect(await device.access.queueKick(1, dup(kick))).toBe(0);
      commit();
      expect(shelved('kick/1')?.fd).toEqual(expect.any(Number));
      running.ring(1).add([new Uint8Array(HEADER_BYTES), frame(4)]);
      running.ring(1).publish();
      const held = openFds();
      expect(await device.access.queueKick(1, dup(kick))).toBe(0);
      expect(openFds()).toBe(held);
      expect(await device.access.queueKick(1, null)).toBe(0);
      commit();
      expect([openFds(), shelved('kick/1')]).toEqual([held - 2, undefined]); // ours and the shelf's
      close(kick);
    });

    it.each([
      ['a file', () => openSync('/dev/zero', 'r+')],
      ['memory', () => memfdCreate('x', 4096)],
    ])('%s is refused and stays the caller’s', async (_, open) => {
      const fd = open();
      expect(await device.access.queueKick(1, fd)).toBe(-Errno.EINVAL);
      expect([isOpen(fd), device.host.state.kicks.size]).toEqual([true, 0]);
      close(fd);
    });

    it('a queue that does not exist is refused', async () => {
      expect(await device.access.queueKick(5, null)).toBe(-Errno.EINVAL);
      expect(device.access.queueBaseSet(5, 0)).toBe(-Errno.EINVAL);
      expect(await device.access.queueBaseGet(5)).toBe(-Errno.EINVAL);
      expect(await device.access.queueEnable(5, true)).toBe(-Errno.EINVAL);
      expect(device.access.queueBaseSet(0, 65_536)).toBe(-Errno.EINVAL);
    });
  });

  describe('memory', () => {
    it('unmapped while queues run: it stays mapped until the workers let go', async () => {
      const extra = memfdCreate('device-access-extra', 8192);
      await start();
      const range = { iova: 0x9000_0000n, sizeBytes: 8192 };
      const access = { ...range, fdOffset: 0, readable: true, writable: true };
      expect(await device.access.dmaMap({ ...access, fd: extra })).toBe(0);
      const answer = device.access.dmaUnmap({ ...range, all: false });
      expect(mappingsOf('device-access-extra')).toBe(1);
      expect(await answer).toBe(0);
      expect([mappingsOf('device-access-extra'), isOpen(extra)]).toEqual([0, false]);
    });

    it('a range is shelved only when it is in force, for it cannot be worked twice', async () => {
      await start();
      const fd = memfdCreate('device-access-extra', 4096);
      const answer = device.access.dmaMap({
        iova: 0x9000_0000n,
        sizeBytes: 4096,
        fdOffset: 0,
        readable: true,
        writable: true,
        fd,
      });
      commit(); // as a control command does in between
      expect(shelved('dma/90000000')).toBeUndefined();
      expect(await answer).toBe(0);
      commit();
      expect(shelved('dma/90000000')?.fd).toEqual(expect.any(Number));
    });

    it('the ring’s own memory unmapped: the device needs a reset, and nothing else happens', async () => {
      const running = await start();
      expect(await device.access.dmaUnmap({ iova: 0n, sizeBytes: 0, all: true })).toBe(0);
      await world.datapath.settle();
      expect((await running.status()) & 0x40).toBe(0x40);
      expect([device.host.memory.count, device.host.state.broken.size]).toEqual([0, 2]);
      expect(running.interrupts(0)).toBe(1);
    });

    it('reset by the driver brings a broken device back', async () => {
      const running = await start();
      running.ring(1).offer(7777);
      running.ring(1).publish();
      device.host.kick(1);
      await world.datapath.settle();
      await world.datapath.settle();
      expect(await running.status()).toBe(0x4f);
      running.close();
      driver = await TestDriver.start(
        { ...clientOf(device), dmaMap: async () => {} },
        { memory, features: FEATURES, queues: [0, 1] },
      );
      driver.ring(0).add([], [2048]);
      driver.ring(0).publish();
      send(device.network[0]!, new Uint8Array(HEADER_BYTES + 60));
      device.host.kick(0);
      await world.datapath.settle();
      expect([await driver.status(), driver.ring(0).usedIndex]).toEqual([0xf, 1]);
    });
  });
});
