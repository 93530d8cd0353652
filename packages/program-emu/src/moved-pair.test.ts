/** A queue pair moves from one worker to another, seen by the driver and by who sends to it. */
import { close, eventfd, eventfdSignal, Receiver, send } from '@virtnet/host-linux';
import { featureMask, NetFeature, VirtioFeature } from '@virtnet/wire';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { restoreDevice } from './device-restore.js';
import { openFds } from './test-support/holdings.js';
import { TestDevice, TestWorld, testPlan } from './test-support/test-device.js';
import { clientOf, TestDriver } from './test-support/test-driver.js';
import { TestMemory, TestRing } from './test-support/test-ring.js';
import { frame, HEADER_BYTES, numberOf } from './test-support/worker-fixture.js';

const FEATURES = featureMask([
  ...[VirtioFeature.VERSION_1, VirtioFeature.RING_RESET],
  ...[NetFeature.CTRL_VQ, NetFeature.MQ],
]);
const [RECEIVE, TRANSMIT, CONTROL] = [0, 1, 4];
const NO_HEADER = new Uint8Array(HEADER_BYTES);

describe.each([
  ['pairs alone', FEATURES],
  ['pairs together (RSS)', FEATURES | featureMask([NetFeature.RSS])],
])('a pair moves, %s', (_, features) => {
  let before: number;
  let world: TestWorld;
  let device: TestDevice;
  let memory: TestMemory;
  let driver: TestDriver;
  let next = 0;

  beforeEach(async () => {
    before = openFds();
    world = new TestWorld();
    device = world.device(testPlan({ features: `0x${features.toString(16)}` }));
    memory = new TestMemory(4 << 20, { arena: world.arena });
    device.host.upload();
    driver = await TestDriver.start(clientOf(device), {
      ...{ memory, features, queues: [RECEIVE, TRANSMIT, 2, 3, CONTROL] },
    });
    next = 0;
  });
  afterEach(async () => {
    driver.close();
    await device.end();
    memory.close();
    await world.close();
    expect(openFds()).toBe(before);
  });

  const worked = () => world.datapath.settle();
  const workersOf = () => device.host.pairGroups.flatMap(({ pairs, worker }) => pairs.map(() => worker));
  const offer = () => {
    driver.ring(TRANSMIT).add([NO_HEADER, frame(next++)]);
    driver.ring(TRANSMIT).publish();
    device.host.kick(TRANSMIT);
  };
  const receiver = new Receiver(4096, 1);
  /** Numbers of the frames that have left since the last call. */
  const left = () => {
    const numbers: number[] = [];
    for (;;) {
      const got = receiver.receive(device.network[0]!);
      if (typeof got === 'number') return numbers;
      numbers.push(numberOf(got.bytes));
    }
  };
  const inOrder = () => Array.from({ length: next }, (_each, i) => i);

  it('frames go on both ways, each once and in order, and the driver is interrupted', async () => {
    const moves = [1, 0, 1];
    for (const worker of moves) {
      offer();
      await worked();
      const moving = device.host.movePair(0, worker);
      offer(); // while nobody works it
      expect(await moving).toBe(true);
      expect(workersOf()[0]).toBe(worker);
      offer();
      await worked();
    }
    expect(left()).toEqual(inOrder());
    expect(driver.ring(TRANSMIT).collect()).toHaveLength(next);
    for (let i = 0; i < moves.length; i++) driver.ring(RECEIVE).add([], [2048]);
    driver.ring(RECEIVE).publish();
    device.host.kick(RECEIVE);
    await worked();
    driver.interrupts(1 + RECEIVE);
    for (const [i, worker] of [0, 1, 0].entries()) {
      const moving = device.host.movePair(0, worker);
      send(device.network[0]!, Uint8Array.from([...NO_HEADER, ...frame(100 + i)]));
      expect(await moving).toBe(true);
      await worked();
      expect(driver.interrupts(1 + RECEIVE)).toBeGreaterThan(0);
    }
    const received = driver.ring(RECEIVE).collect();
    expect(received.map(({ written }) => numberOf(written))).toEqual([100, 101, 102]);
  });

  it('a kick by event that comes while nobody works the queue is not lost', async () => {
    const kick = eventfd();
    expect(await device.access.queueKick(TRANSMIT, kick)).toBe(0);
    await worked();
    const moving = device.host.movePair(0, 1);
    driver.ring(TRANSMIT).add([NO_HEADER, frame(next++)]);
    driver.ring(TRANSMIT).publish();
    eventfdSignal(kick);
    await moving;
    await worked();
    expect(left()).toEqual(inOrder());
  });

  it('its driver resets the queue meanwhile: nobody works it then, and enabled again it begins on the other worker', async () => {
    offer();
    await worked();
    const moving = device.host.movePair(0, 1);
    await driver.register('queueSelect', 2, TRANSMIT);
    const reset = driver.register('queueReset', 2, 1);
    offer();
    await Promise.all([moving, reset]);
    await worked();
    expect(left()).toEqual([0]);
    expect(workersOf()[0]).toBe(1);
    await driver.enable(TRANSMIT, new TestRing(memory, 64));
    next = 7;
    offer();
    await worked();
    expect(left()).toEqual([7]);
    expect(driver.ring(TRANSMIT).collect()).toHaveLength(1);
  });

  it('of a function that was stopped for a successor nothing is worked again', async () => {
    offer();
    await worked();
    const moving = device.host.movePair(0, 1);
    const pausing = device.host.pause();
    offer();
    await Promise.all([moving, pausing]);
    await worked();
    expect([left(), device.host.state.position(TRANSMIT)]).toEqual([[0], 1]);
    expect(await device.host.movePair(0, 0)).toBe(false);
  });

  it('a death in the middle of a move: the successor goes on, nothing is lost or repeated', async () => {
    const { host, network } = device;
    const { vuid } = host;
    world.services.store.put(host, `dev/${vuid}/listener`, new Uint8Array(0), memory.fd);
    host.touch();
    host.commit(null);
    offer();
    await worked();
    const death = Promise.withResolvers<void>();
    world.datapath.hold = death.promise;
    const moving = host.movePair(0, 1);
    world.datapath.hear(); // its worker lets go of the queues, and nothing more happens in that process
    offer();
    const mirror = world.mirrored();
    world.datapath.hold = Promise.resolve();
    const restored = restoreDevice(mirror, world.services);
    if (typeof restored === 'string') throw new Error(restored);
    close(mirror.listenerFd);
    device = new TestDevice(restored.host, network);
    await device.host.adopt(restored.record);
    await device.host.settle();
    await worked();
    offer();
    await worked();
    expect(left()).toEqual(inOrder());
    expect(driver.ring(TRANSMIT).collect()).toHaveLength(next);

    const paused = host.pause(); // what the dead never did: let go of what it held
    death.resolve();
    await Promise.all([moving, paused]);
    host.relinquish();
  });
});
