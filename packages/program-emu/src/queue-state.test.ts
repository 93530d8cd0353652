import { hotplugFeatures } from '@virtnet/engine-virtio-net';
import { close, eventfd } from '@virtnet/host-linux';
import {
  featureMask,
  hasFeature,
  NetFeature,
  QueueWord,
  StatePageHeader,
  VirtioFeature,
} from '@virtnet/wire';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { REPORT_INTERRUPT } from './datapath-protocol.js';
import type { QueueState } from './queue-state.js';
import { type TestDevice, TestWorld, testPlan } from './test-support/test-device.js';
import { clientOf, TestDriver } from './test-support/test-driver.js';
import { TestMemory } from './test-support/test-ring.js';

const N = NetFeature;
const PAIRS = 4;
const CONTROL = 2 * PAIRS;
const FEATURES = featureMask([
  VirtioFeature.VERSION_1,
  ...[N.CSUM, N.GUEST_CSUM, N.GUEST_TSO4, N.CTRL_GUEST_OFFLOADS, N.CTRL_VQ, N.CTRL_RX, N.MQ],
]);
const OFFERED = `0x${(hotplugFeatures({ uso: false }) | featureMask([N.RSS])).toString(16)}`;
const ALL = [0, 1, 2, 3, 4, 5, 6, 7, CONTROL];

describe('queue state', () => {
  let world: TestWorld;
  let device: TestDevice;
  let state: QueueState;
  let memory: TestMemory;
  let driver: TestDriver | null = null;
  const start = async (features = FEATURES, queues = ALL, vectors = true) => {
    driver?.close();
    driver = new TestDriver(clientOf(device));
    if (device.host.memory.count === 0) await driver.mapMemory(memory);
    const dmaMap = async () => {};
    const client = { ...clientOf(device), dmaMap };
    driver.close();
    driver = await TestDriver.start(client, { memory, features, queues, vectors, queueSize: 16 });
    return driver;
  };
  const receiving = () => Array.from({ length: PAIRS }, (_, pair) => state.mayReceive(pair));

  beforeEach(() => {
    world = new TestWorld();
    device = world.device(testPlan({ queuePairs: PAIRS, msixVectors: 12, features: OFFERED }));
    state = device.host.state;
    memory = new TestMemory(8 << 20, { arena: world.arena });
  });
  afterEach(async () => {
    driver?.close();
    driver = null;
    await device.end();
    memory.close();
    await world.close();
  });

  it('nothing is wanted before DRIVER_OK, and nothing after a reset', async () => {
    expect(ALL.map((queue) => state.wanted(queue))).toEqual(ALL.map(() => null));
    const running = await start();
    expect(ALL.map((queue) => state.wanted(queue) !== null)).toEqual(ALL.map((queue) => queue !== CONTROL));
    expect([state.driverReady, state.controlWanted]).toEqual([true, true]);
    await running.register('deviceStatus', 1, 0);
    expect(ALL.map((queue) => state.wanted(queue))).toEqual(ALL.map(() => null));
    expect([state.driverReady, state.controlWanted]).toEqual([false, false]);
  });

  it('a queue that a request has started goes on when a successor works the same request again', async () => {
    await start();
    const header = new Uint32Array(device.host.page.buffer, 0, StatePageHeader.sizeBytes / 4);
    const { requestSequence, requestUnderWay } = StatePageHeader.at;
    const { words } = state.block(0);
    const positionAfterPrepare = () => {
      state.prepare(0);
      return words[QueueWord.POSITION];
    };
    header[requestUnderWay / 4] = 1;
    header[requestSequence / 4] = 41;
    expect(positionAfterPrepare()).toBe(0);
    words[QueueWord.POSITION] = 5; // frames were moved, and the process died before it recorded the request
    expect(positionAfterPrepare()).toBe(5);
    state.reset(); // the request itself resets, and starts the queue once more
    expect(positionAfterPrepare()).toBe(0);
    words[QueueWord.POSITION] = 5;
    header[requestSequence / 4] = 42;
    expect(positionAfterPrepare()).toBe(0);
    words[QueueWord.POSITION] = 5;
    header[requestUnderWay / 4] = 0; // nobody's request
    expect(positionAfterPrepare()).toBe(0);
  });

  it('only enabled queues are wanted', async () => {
    await start(FEATURES, [0, 1, 4]);
    expect(ALL.filter((queue) => state.wanted(queue) !== null)).toEqual([0, 1, 4]);
    expect(state.controlWanted).toBe(false);
  });

  it('without MQ the control queue is queue 2, and what lies behind it is nobody’s', async () => {
    await start(FEATURES & ~featureMask([N.MQ]), [0, 1, 2, 3, 4]);
    expect([state.controlIndex, state.controlWanted]).toEqual([2, true]);
    expect([0, 1, 2, 3, 4].filter((queue) => state.wanted(queue) !== null)).toEqual([0, 1]);
  });

  it('without a control queue there is none', async () => {
    await start(featureMask([VirtioFeature.VERSION_1]), [0, 1]);
    expect([state.controlIndex, state.controlWanted]).toEqual([-1, false]);
  });

  it('MQ: receive queues up to its number may receive; transmit queues always work', async () => {
    await start();
    expect(receiving()).toEqual([true, false, false, false]);
    expect([0, 2].map((queue) => state.wanted(queue)?.active)).toEqual([true, false]);
    expect([1, 3].map((queue) => state.wanted(queue)?.active)).toEqual([true, true]);
    device.host.net.control = { ...device.host.net.control, activePairs: 3 };
    expect(receiving()).toEqual([true, true, true, false]);
  });

  it('RSS: the queues that are named may receive; the TAP is read wherever one of a pair is used', async () => {
    await start(FEATURES | featureMask([N.RSS]), [0, 1, 2, 3, 4, 5, CONTROL]);
    const rss = { types: 0, key: [], table: [1], unclassified: 1 };
    const tapQueues = () => Array.from({ length: PAIRS }, (_, pair) => state.usesTapQueue(pair));
    expect(tapQueues()).toEqual([true, false, false, false]);
    device.host.net.control = { ...device.host.net.control, activePairs: 3, rss };
    expect(receiving()).toEqual([false, true, false, false]);
    expect([0, 2].map((queue) => state.wanted(queue)?.active)).toEqual([false, true]);
    expect(tapQueues()).toEqual([true, true, true, false]);
    for (const queue of [0, 1, 2, 3]) expect(state.wanted(queue)?.rss).toBe(rss);
    device.host.net.control = { ...device.host.net.control, activePairs: 4 };
    expect(tapQueues(), 'nobody would read that of a pair that is not enabled').toEqual([
      true,
      true,
      true,
      false,
    ]);
  });

  it('ring enables of a vhost-user frontend overrule MQ, until the reset', async () => {
    const running = await start();
    state.ringEnables.set(2, true);
    state.ringEnables.set(1, true);
    expect(receiving()).toEqual([false, true, false, false]);
    state.ringEnables.set(2, false);
    state.ringEnables.set(6, true);
    expect(receiving()).toEqual([false, false, false, true]);
    await running.register('deviceStatus', 1, 0);
    expect(state.ringEnables.size).toBe(0);
  });

  it('a broken queue is not wanted until the reset', async () => {
    const running = await start();
    state.broken.add(3);
    state.broken.add(CONTROL);
    expect([state.wanted(3), state.controlWanted]).toEqual([null, false]);
    expect(state.wanted(2)).not.toBeNull();
    await running.register('deviceStatus', 1, 0);
    expect(state.broken.size).toBe(0);
  });

  it('an interrupt goes to the event of the queue’s vector, to none without, and to us for INTx', async () => {
    await start();
    expect(state.wanted(1)?.interruptFd).toBe(device.host.interrupts.fd(2, 2));
    close(device.host.interrupts.replace(2, 2, -1));
    expect(state.wanted(1)?.interruptFd).toBe(-1);
    await start(FEATURES, ALL, false);
    const intx = await driver!.client.read(7, 4, 2);
    expect(intx[1]! & 4).toBe(0); // INTx is not disabled
    device.host.interrupts.replace(0, 0, eventfd());
    await driver!.client.write(7, msixControlAt(await driver!.client.read(7, 0, 256)), Uint8Array.of(0, 0));
    expect(state.wanted(1)?.interruptFd).toBe(REPORT_INTERRUPT);
  });

  it('features in force are those agreed on, with the receive offloads the driver switched on', async () => {
    await start();
    expect(hasFeature(state.wanted(0)!.features, N.GUEST_TSO4)).toBe(true);
    device.host.net.control = { ...device.host.net.control, offloads: 0n };
    const { features } = state.wanted(0)!;
    expect([N.GUEST_TSO4, N.GUEST_CSUM, N.CSUM].map((bit) => hasFeature(features, bit))).toEqual([
      false,
      false,
      true,
    ]);
  });

  it('the filter is worked out once after each command, however many queues have it', async () => {
    await start();
    const { net } = device.host;
    const workedOut = vi.spyOn(net, 'filterState');
    for (const promiscuous of [false, true, false]) {
      net.control = { ...net.control, modes: { ...net.control.modes, promiscuous } };
      const filters = ALL.map((queue) => state.wanted(queue)?.filter ?? null);
      expect(filters.map((filter) => filter?.promiscuous ?? null)).toEqual(
        ALL.map((queue) => (queue === CONTROL || queue % 2 === 1 ? null : promiscuous)),
      );
    }
    expect(workedOut).toHaveBeenCalledTimes(3);
  });

  it('an unchanged filter is the same object, a changed one another, and only receive queues have it', async () => {
    await start();
    const first = state.wanted(0)!.filter;
    expect(first).not.toBeNull();
    expect(state.wanted(2)!.filter).toBe(first);
    expect(state.wanted(1)!.filter).toBeNull();
    const { control } = device.host.net;
    device.host.net.control = { ...control, modes: { ...control.modes, promiscuous: false } };
    expect(state.wanted(0)!.filter).not.toBe(first);
    expect(state.wanted(0)!.filter?.promiscuous).toBe(false);
  });

  it('moderation: the driver’s word, then the dynamic one, then the operator’s; the same object while it is so', async () => {
    await start();
    const { host } = device;
    expect([0, 1].map((queue) => state.wanted(queue)!.moderation)).toEqual([null, null]);
    host.settings = { ...host.settings, moderation: { periodMode: 'cqe', period: 16, maxCount: 32 } };
    const operators = state.wanted(0)!.moderation;
    expect(operators).toEqual({ mode: 'last-frame', usecs: 16, frames: 32 });
    expect([state.wanted(2)!.moderation === operators, state.wanted(1)!.moderation]).toEqual([true, null]);
    host.settings = { ...host.settings, dim: true };
    expect([0, 1].map((queue) => state.wanted(queue)!.moderation)).toEqual(['dynamic', null]);
    const coalescing = { ...host.net.control.coalescing, queues: new Map([[0, { usecs: 5, packets: 6 }]]) };
    host.net.control = { ...host.net.control, coalescing };
    expect(state.wanted(0)!.moderation).toEqual({ mode: 'first-frame', usecs: 5, frames: 6 });
    expect(state.wanted(2)!.moderation).toBe('dynamic');
    host.settings = {
      ...host.settings,
      dim: false,
      moderation: { periodMode: 'event', period: 0, maxCount: 9 },
    };
    expect(state.wanted(2)!.moderation).toBeNull();
  });

  it.each([
    [0, 8],
    [8, 0],
  ])(
    'COAL-3 a driver that asks for %i microseconds and %i packets is interrupted for every burst',
    async (usecs, packets) => {
      await start();
      const { net } = device.host;
      const asked = (each: { usecs: number; packets: number }) => {
        net.control = {
          ...net.control,
          coalescing: { ...net.control.coalescing, queues: new Map([[0, each]]) },
        };
        return state.wanted(0)!.moderation;
      };
      expect(asked({ usecs, packets })).toBeNull();
      expect(asked({ usecs: 8, packets: 8 })).not.toBeNull();
    },
  );

  it('prepare: a queue begins at the base set for it, once, and at 0 otherwise; a takeover changes nothing', () => {
    const { words } = state.block(4);
    words.fill(9);
    state.bases.set(4, 65_530);
    state.prepare(4);
    expect([words[QueueWord.POSITION], words[QueueWord.PUBLISHED], words[QueueWord.IN_FLIGHT]]).toEqual([
      65_530, 65_530, 0,
    ]);
    expect(state.position(4)).toBe(65_530);
    state.prepare(4);
    expect(words[QueueWord.POSITION]).toBe(0);
    words[QueueWord.POSITION] = 77;
    state.continuing = true;
    state.prepare(4);
    expect(words[QueueWord.POSITION]).toBe(77);
  });

  it('saved and loaded it is the same', () => {
    state.bases.set(3, 5);
    state.ringEnables.set(0, false);
    state.broken.add(7);
    const saved = JSON.parse(JSON.stringify(state.save()));
    state.reset();
    state.load(saved);
    expect(state.save()).toEqual({ bases: { 3: 5 }, ringEnables: { 0: false }, broken: [7] });
  });
});

function msixControlAt(config: Uint8Array): number {
  let at = config[0x34]!;
  while (config[at] !== 0x11) at = config[at + 1]!;
  return at + 2;
}
