import { decodeRecord, encodeRecord, suspect } from '@virtnet/engine-recovery';
import { close, eventfd, eventfdDrain, ftruncate, memfdCreate, send } from '@virtnet/host-linux';
import {
  DeviceStatus,
  featureMask,
  NetFeature,
  StatePageHeader,
  VirtioFeature,
  VirtioPciCommon,
} from '@virtnet/wire';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { RECORD_SCHEMA } from './device-record.js';
import { type PreparedDevice, prepareDevice, restoreDevice } from './device-restore.js';
import type { DeviceMirror } from './mirror.js';
import { shelfNames } from './shelf-names.js';
import { mappingsOf, openFds } from './test-support/holdings.js';
import { TestDevice, TestWorld } from './test-support/test-device.js';
import { clientOf, TestDriver } from './test-support/test-driver.js';
import { TestMemory } from './test-support/test-ring.js';
import { frame, HEADER_BYTES, numberOf } from './test-support/worker-fixture.js';

const N = NetFeature;
const FEATURES = featureMask([
  VirtioFeature.VERSION_1,
  VirtioFeature.RING_RESET,
  ...[N.CTRL_VQ, N.CTRL_RX, N.MQ],
]);
const CONTROL = 4;
const QUEUES = [0, 1, 2, 3, CONTROL];
const NEEDS_RESET = DeviceStatus.NEEDS_RESET;

/**
 * The predecessor is destroyed after a mirror holds everything, which stands for its death: what counts is what it
 * had shelved until then.
 */
describe('takeover of a function', () => {
  let before: number;
  let world: TestWorld;
  let first: TestDevice;
  let memory: TestMemory;
  let driver: TestDriver;
  let second: TestDevice | null = null;
  /** Of mirrors, which nobody serves here. */
  const connections: number[] = [];

  beforeEach(async () => {
    before = openFds();
    world = new TestWorld();
    first = world.device();
    memory = new TestMemory(4 << 20, { arena: world.arena });
    first.host.upload();
    world.services.store.put(first.host, `dev/${first.host.vuid}/listener`, new Uint8Array(0), memory.fd);
    driver = await TestDriver.start(clientOf(first), { memory, features: FEATURES, queues: QUEUES });
    commit();
  });
  afterEach(async () => {
    driver.close();
    await second?.end();
    second = null;
    for (const fd of first.network) close(fd);
    for (const fd of connections.splice(0)) if (fd >= 0) close(fd);
    memory.close();
    await world.close();
    expect(openFds()).toBe(before);
    expect([world.arena.regionCount, mappingsOf('test-memory'), mappingsOf('state-page')]).toEqual([0, 0, 0]);
  });

  const commit = () => {
    first.host.touch();
    first.host.commit(null);
  };
  const die = async (): Promise<DeviceMirror> => {
    const mirror = world.mirrored();
    await first.host.destroy();
    return mirror;
  };
  const takeOver = async (mirror: DeviceMirror): Promise<TestDevice> => {
    const restored = restoreDevice(mirror, world.services);
    if (typeof restored === 'string') throw new Error(restored);
    close(mirror.listenerFd);
    second = new TestDevice(restored.host, []);
    await restored.host.adopt(restored.record);
    await restored.host.settle();
    return second;
  };
  const transmit = (device: TestDevice, number: number) => {
    driver.ring(1).add([new Uint8Array(HEADER_BYTES), frame(number)]);
    driver.ring(1).publish();
    device.host.kick(1);
    return world.datapath.settle();
  };

  it('rings go on at their positions, registers read the same, and every vector is signalled', async () => {
    for (const number of [1, 2, 3]) await transmit(first, number);
    for (const vector of driver.events.keys()) driver.interrupts(vector);
    const device = await takeOver(await die());
    expect(driver.events.map((fd) => eventfdDrain(fd) > 0)).toEqual(driver.events.map(() => true));
    driver = Object.assign(driver, { client: clientOf(device) });
    expect(await driver.status()).toBe(0xf);
    expect([device.host.fn.driverFeatures, device.host.state.position(1)]).toEqual([FEATURES, 3]);
    await transmit(device, 4);
    expect(driver.ring(1).collect()).toHaveLength(4);
    driver.ring(0).add([], [2048]);
    driver.ring(0).publish();
    send(first.network[0]!, Uint8Array.from([...new Uint8Array(HEADER_BYTES), ...frame(9)]));
    device.host.kick(0);
    await world.datapath.settle();
    expect(
      driver
        .ring(0)
        .collect()
        .map(({ written }) => numberOf(written)),
    ).toEqual([9]);
  });

  const prepare = async (mirror: DeviceMirror): Promise<PreparedDevice | null> => {
    const prepared = prepareDevice(mirror, world.services);
    mirror.prepared = prepared;
    await world.datapath.settle();
    return prepared;
  };
  const connect = () => {
    world.services.store.put(
      first.host,
      shelfNames.connection(first.host.vuid),
      new Uint8Array(0),
      memory.fd,
    );
    commit();
  };
  const mirrored = () => {
    const mirror = world.mirrored();
    connections.push(mirror.connectionFd);
    return mirror;
  };

  it.each([false, true])(
    'what a standby made ahead (connected: %s) changes nothing of the page, is what takes over, and is worth nothing after another record',
    async (connected) => {
      if (connected) connect();
      await transmit(first, 1);
      const { buffer } = first.host.page;
      const header = new Uint32Array(buffer, 0, StatePageHeader.sizeBytes / 4);
      header[StatePageHeader.at.isr / 4] = 3;
      header[StatePageHeader.at.configGeneration / 4] = 77;
      const mirror = mirrored();
      const asItWas = Buffer.from(buffer.slice(0));
      const prepared = prepareDevice(mirror, world.services);
      mirror.prepared = prepared;
      world.datapath.hear();
      expect(Buffer.from(buffer).equals(asItWas)).toBe(true);
      expect(prepared?.whole !== null).toBe(connected);
      const { record } = mirror;
      mirror.put('record', Uint8Array.from(record!), -1);
      expect(mirror.prepared).toBe(prepared);
      mirror.put('record', Uint8Array.of(1), -1);
      expect(mirror.prepared).toBeNull();
      expect(await prepare(mirror)).toBeNull();
      mirror.put('record', record!, -1);
      const next = await prepare(mirror);
      expect(next).not.toBe(prepared);
      await transmit(first, 2);
      await first.host.destroy();
      const device = await takeOver(mirror);
      expect(device.host.fn).toBe(next?.engines.fn);
      if (connected) expect(device.host).toBe(next?.whole?.host);
      expect([device.host.fn.driverFeatures, device.host.state.position(1)]).toEqual([FEATURES, 2]);
      await transmit(device, 3);
      expect(driver.ring(1).collect()).toHaveLength(3);
    },
  );

  it('of what was made ahead every vector is signalled as well, and those of queues by their workers alone', async () => {
    connect();
    const mirror = mirrored();
    await prepare(mirror);
    await first.host.destroy();
    for (const vector of driver.events.keys()) driver.interrupts(vector);
    await takeOver(mirror);
    expect(world.datapath.begun).toBe(4);
    expect(driver.events.map((fd) => eventfdDrain(fd))).toEqual(driver.events.map(() => 1));
  });

  it('whatever of a function changes takes back what was made ahead, and the next is made of it', async () => {
    connect();
    const mirror = mirrored();
    const changes: readonly [string, () => unknown][] = [
      ['a vector', () => mirror.put('irq/2/1', new Uint8Array(0), eventfd())],
      ['no vector', () => mirror.delete('irq/2/1')],
      ['a kick', () => mirror.put('kick/1', new Uint8Array(0), eventfd())],
      ['no kick', () => mirror.delete('kick/1')],
    ];
    const { begun } = world.datapath;
    for (const [what, change] of changes) {
      expect((await prepare(mirror))?.whole, what).not.toBeNull();
      change();
      expect(mirror.prepared, what).toBeNull();
    }
    await world.datapath.settle();
    expect(world.datapath.aheads, 'the workers forgot all of them').toBe(0);
    const last = await prepare(mirror);
    const slots = world.datapath.aheads;
    expect(slots).toBe(4); // two pairs
    await first.host.destroy();
    const device = await takeOver(mirror);
    expect(device.host).toBe(last?.whole?.host);
    expect([world.datapath.aheads, world.datapath.begun - begun]).toEqual([0, slots]);
    await transmit(device, 1);
    expect(driver.ring(1).collect()).toHaveLength(1);
  });

  it('a suspect is not worked as was told ahead, but by the worker of suspects', async () => {
    connect();
    const mirror = mirrored();
    const prepared = await prepare(mirror);
    suspect(first.host.page.buffer);
    await first.host.destroy();
    const device = await takeOver(mirror);
    expect(device.host).not.toBe(prepared?.whole?.host);
    expect(world.datapath.begun).toBe(0);
    await world.datapath.settle();
    expect(world.datapath.aheads).toBe(0);
    await transmit(device, 1);
    expect(driver.ring(1).collect()).toHaveLength(1);
  });

  it('guest memory cut off after a function was made ahead: its rings get what is left, and it needs a reset', async () => {
    connect();
    const mirror = mirrored();
    await prepare(mirror);
    ftruncate(memory.fd, 4096);
    await first.host.destroy();
    const device = await takeOver(mirror);
    expect(world.datapath.begun).toBe(0);
    expect(device.host.fn.status & NEEDS_RESET).toBe(NEEDS_RESET);
  });

  it('what was not committed is not there: the request that made it will be worked again', async () => {
    await driver.register('configVector', 2, 3);
    const device = await takeOver(await die());
    expect(device.host.fn.configVector).toBe(0);
  });

  it('guest memory cut off: needs a reset, its range is gone here and from the keeper, others stay', async () => {
    const extra = memfdCreate('takeover-extra', 8192);
    const range = { iova: 0x9000_0000n, sizeBytes: 8192, fdOffset: 0, readable: true, writable: true };
    await first.access.dmaMap({ ...range, fd: extra });
    commit();
    const mirror = await die();
    const kept = [...mirror.memory.all()].find(({ iova }) => iova === range.iova)!;
    ftruncate(kept.fd, 4096);
    for (const { iova } of mirror.memory.all())
      world.shelf.transaction([{ put: shelfNames.dma(first.host.vuid, iova) }]); // as the keeper still has them
    const device = await takeOver(mirror);
    device.host.touch();
    device.host.commit(null);
    expect(device.host.fn.status & NEEDS_RESET).toBe(NEEDS_RESET);
    expect([...device.host.memory.all()].map(({ iova }) => iova)).toEqual([memory.iova]);
    expect([...world.shelf.entries.keys()].filter((name) => name.includes('/dma/'))).toHaveLength(1);
    await transmit(device, 1); // its rings are elsewhere
    expect(driver.ring(1).usedIndex).toBe(1);
  });

  it('the rings’ own memory cut off: every queue is broken, the process goes on, a reset and new memory revive it', async () => {
    const mirror = await die();
    const [kept] = [...mirror.memory.all()];
    const size = memory.sizeBytes;
    ftruncate(kept!.fd, 0);
    const device = await takeOver(mirror);
    await world.datapath.settle();
    expect([...device.host.state.broken].sort()).toEqual(QUEUES);
    expect(device.host.fn.status & NEEDS_RESET).toBe(NEEDS_RESET);
    ftruncate(memory.fd, size);
    driver.close();
    driver = await TestDriver.start(clientOf(device), { memory, features: FEATURES, queues: [0, 1] });
    await transmit(device, 5);
    expect([device.host.fn.status, driver.ring(1).usedIndex]).toEqual([0xf, 1]);
  });

  it('a queue whose reset was under way: it has been reset, so that its driver does not wait for ever', async () => {
    const workers = Promise.withResolvers<void>();
    world.datapath.hold = workers.promise;
    await driver.register('queueSelect', 2, 1);
    const reset = driver.register('queueReset', 2, 1);
    commit(); // as a fault of another queue does in between
    const mirror = world.mirrored();
    workers.resolve();
    await reset;
    await first.host.destroy();
    const device = await takeOver(mirror);
    const { at } = VirtioPciCommon;
    const word = async (offset: number) => (await device.access.read(0, offset, 2))[0];
    expect([await word(at.queueSelect), await word(at.queueReset), await word(at.queueEnable)]).toEqual([
      1, 0, 0,
    ]);
  });

  it('entries that the plan has no place for are closed', async () => {
    const vuid = first.host.vuid;
    for (const name of ['tap/2', 'tap/40', 'irq/2/6', 'irq/1/0', 'irq/9/0', 'kick/77']) {
      const fd = eventfd();
      world.services.store.put(first.host, `dev/${vuid}/${name}`, new Uint8Array(0), fd);
      first.host.touch();
      first.host.commit(null);
      close(fd);
    }
    const device = await takeOver(await die());
    expect(device.host.taps.fds).toHaveLength(2);
    expect([...device.host.interrupts.entries()]).toHaveLength(driver.events.length);
  });

  it.each(['page', 'tap/0', 'listener', 'record'])(
    'without its %s: said, and everything stays the mirror’s',
    async (part) => {
      const mirror = await die();
      mirror.delete(part);
      if (part === 'record') mirror.record = null;
      expect(typeof restoreDevice(mirror, world.services)).toBe('string');
      mirror.close();
    },
  );

  it('a record of another device, or a page that is none: said', async () => {
    const mirror = await die();
    const other = Object.assign(Object.create(Object.getPrototypeOf(mirror)), mirror, { vuid: 'other' });
    expect(restoreDevice(other, world.services)).toMatch('another device');
    new Uint32Array(mirror.page!.buffer, 0, 1)[0] = 5;
    expect(restoreDevice(mirror, world.services)).toBe('not a state page');
    mirror.close();
  });

  it('a record with any value changed: restored or refused, never thrown, and nothing leaks', async () => {
    const mirror = await die();
    const decoded = decodeRecord(mirror.record!);
    const payload = 'payload' in decoded ? decoded.payload : null;
    const places = placesOf(payload);
    expect(places.length).toBeGreaterThan(50);
    const held = openFds();
    const values = fc.oneof(
      fc.constantFrom<unknown>(
        0,
        -1,
        1,
        65_535,
        65_536,
        2 ** 32,
        2 ** 53,
        0.5,
        null,
        true,
        false,
        '',
        '0x0',
        [],
        {},
      ),
      fc.jsonValue(),
    );
    let restored = 0;
    await fc.assert(
      fc.asyncProperty(fc.nat(places.length - 1), values, async (place, value) => {
        const changed = structuredClone(payload);
        set(changed, places[place]!, value);
        const bytes = encodeRecord(changed, RECORD_SCHEMA);
        if (!(bytes instanceof Uint8Array)) return;
        // A mirror whose descriptors are not used up by a success.
        const copy: DeviceMirror = Object.assign(Object.create(Object.getPrototypeOf(mirror)), mirror, {
          record: bytes,
        });
        const answer = restoreDevice(copy, world.services);
        if (typeof answer !== 'string') restored++;
        expect(openFds()).toBe(held);
      }),
      { numRuns: 1500 },
    );
    expect(restored).toBeGreaterThan(0);
    mirror.close();
  });
});

type Path = readonly string[];

/** Every place in a JSON value, containers included. */
function placesOf(value: unknown, path: Path = []): Path[] {
  if (typeof value !== 'object' || value === null) return [path];
  const below = Object.entries(value).flatMap(([key, inner]) => placesOf(inner, [...path, key]));
  return path.length === 0 ? below : [path, ...below];
}

function set(value: unknown, path: Path, to: unknown): void {
  let at = value as Record<string, unknown>;
  for (const key of path.slice(0, -1)) at = at[key] as Record<string, unknown>;
  at[path.at(-1)!] = to;
}
