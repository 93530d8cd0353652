import { ftruncate } from '@virtnet/host-linux';
import { featureMask, NetFeature, PackedFlag, PackedPosition, VirtioFeature } from '@virtnet/wire';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { hasEntries, type Probed, probeDatapath } from './datapath-probe.js';
import { healthFacts } from './device-facts.js';
import type { DeviceHost } from './device-host.js';
import { PROBE_MS } from './limits.js';
import { type TestDevice, TestWorld } from './test-support/test-device.js';
import { clientOf, TestDriver } from './test-support/test-driver.js';
import { TestMemory } from './test-support/test-ring.js';
import { frame, HEADER_BYTES } from './test-support/worker-fixture.js';

const FEATURES = featureMask([VirtioFeature.VERSION_1, NetFeature.CTRL_VQ, NetFeature.MQ]);
const TRANSMIT = 1;
const CONTROL = 4;

describe('probe of the datapath', () => {
  let world: TestWorld;
  let memory: TestMemory;
  let device: TestDevice;
  let driver: TestDriver;

  beforeEach(async () => {
    world = new TestWorld();
    device = world.device();
    memory = new TestMemory(4 << 20, { arena: world.arena });
    driver = await TestDriver.start(clientOf(device), {
      memory,
      features: FEATURES,
      queues: [0, TRANSMIT, CONTROL],
    });
  });
  afterEach(async () => {
    driver.close();
    await device.end();
    memory.close();
    await world.close();
  });

  const offer = (): void => {
    driver.ring(TRANSMIT).add([new Uint8Array(HEADER_BYTES), frame(1)]);
    driver.ring(TRANSMIT).publish();
  };
  const probe = (): Promise<Probed> => probeDatapath(device.host, world.datapath);
  /** A worker that answers and works nothing. */
  const idler = { ask: () => Promise.resolve(1.5) };

  it('all is well: it says in how many milliseconds', async () => {
    expect(await probe()).toEqual({ text: 'answers in 0.25 ms', fault: false, stalled: 0 });
  });

  it('frames whose kick was lost are worked by the probe itself', async () => {
    const { loop } = world.datapath;
    while (loop.awake) loop.turn(); // nobody looks at the ring unasked
    offer();
    expect(hasEntries(device.host, TRANSMIT)).toBe(true);
    expect(await probe()).toMatchObject({ fault: false, stalled: 0 });
    expect([hasEntries(device.host, TRANSMIT), driver.ring(TRANSMIT).collect().length]).toEqual([false, 1]);
  });

  it('a worker does not answer: that is a fault, and the answer is not late', async () => {
    world.datapath.silent = true;
    const probed = await probe();
    expect(probed).toEqual({ text: `worker 0: no answer within ${PROBE_MS} ms`, fault: true, stalled: 0 });
    expect(healthFacts(device.host, probed)).toMatchObject({
      fatal: true,
      recovery: { datapath: probed.text },
    });
  });

  it('frames that nobody takes: the queue stalls, which is counted', async () => {
    offer();
    const probed = await probeDatapath(device.host, idler);
    expect(probed).toEqual({
      text: `queue 1: not worked within ${PROBE_MS} ms`,
      fault: true,
      stalled: 1,
    });
    expect(healthFacts(device.host, probed).dataPlaneErrors.sq_stall).toBe(1);
  });

  it('enabled, and with no worker: a fault; of a queue that a fault stopped nothing is expected', async () => {
    const { state } = device.host;
    const wanted = state.wanted.bind(state);
    state.wanted = (queue) => (queue === TRANSMIT ? null : wanted(queue));
    await device.host.reconcile(false);
    expect(await probe()).toMatchObject({ text: 'queue 1: with no worker', fault: true });
    state.broken.add(TRANSMIT);
    expect(await probe()).toMatchObject({ text: 'answers in 0.25 ms', fault: false });
    for (const queue of [0, CONTROL]) state.broken.add(queue);
    expect(await probe()).toEqual({ text: 'stopped', fault: false, stalled: 0 });
  });

  it('paused: nothing is worked, and it is not called well', async () => {
    await device.host.pause();
    expect(await probe()).toMatchObject({ text: 'paused', fault: true });
    await device.host.goOn();
    await device.host.settle();
    expect(await probe()).toMatchObject({ fault: false });
  });

  it('no driver: idle', async () => {
    await driver.negotiate(FEATURES);
    expect(await probe()).toEqual({ text: 'idle', fault: false, stalled: 0 });
  });

  it('the client took the memory of its rings away: nothing can be known, and nobody ends', async () => {
    offer();
    ftruncate(memory.fd, 0);
    expect(hasEntries(device.host, TRANSMIT)).toBe(false);
    expect(await probeDatapath(device.host, idler)).toMatchObject({ fault: false });
    ftruncate(memory.fd, 4 << 20);
  });
});

describe('what a ring says of its entries', () => {
  const SIZE = 8;
  const RING = 0x1000n;
  const DRIVER = 0x2000n;
  const { AVAIL, USED } = PackedFlag;
  const { WRAP } = PackedPosition;
  /** A queue at `position` whose memory has these words, and nothing else. */
  const ring = (packed: boolean, position: number, words: Readonly<Record<number, number>>) => {
    const queue = { size: SIZE, descriptorAddress: RING, driverAddress: DRIVER };
    const memory = { peek: (address: bigint) => words[Number(address)] ?? null };
    const state = { packed, position: () => position };
    return { fn: { queues: [queue] }, state, memory } as unknown as DeviceHost;
  };

  it.each<[string, number, number | null, boolean]>([
    ['behind the position', 7, 7, false],
    ['past it', 7, 8, true],
    ['past it, around the end', 0xffff, 0, true],
    ['in no memory', 7, null, false],
  ])('split: the available index is %s', (_, position, index, has) => {
    expect(hasEntries(ring(false, position, index === null ? {} : { 8194: index }), 0)).toBe(has);
  });

  it.each<[string, number, number, boolean]>([
    ['first lap, available', WRAP | 3, AVAIL, true],
    ['first lap, used', WRAP | 3, AVAIL | USED, false],
    ['first lap, never touched', WRAP | 3, 0, false],
    ['second lap, available', 3, USED, true],
    ['second lap, used in the first', 3, AVAIL | USED, false],
    ['second lap, used', 3, 0, false],
  ])('packed: %s', (_, position, flags, has) => {
    expect(hasEntries(ring(true, position, { 4158: flags }), 0)).toBe(has);
    expect(hasEntries(ring(true, position, {}), 0), 'in no memory').toBe(false);
  });

  it('packed: a position that is in no ring of this size', () => {
    expect(hasEntries(ring(true, WRAP | SIZE, { 4238: AVAIL }), 0)).toBe(false);
  });
});
