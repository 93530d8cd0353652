import { eventfdDrain, eventfdSignal } from '@virtnet/host-linux';
import { frontendPayload as payload } from '@virtnet/server-vhost-user';
import {
  DeviceStatus,
  Errno,
  featureMask,
  hasFeature,
  NetFeature,
  VhostUserRequest,
  VirtioFeature,
} from '@virtnet/wire';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { openFds, ServedFunctionFixture } from './test-support/served-function-fixture.js';
import { MIB, ringPlace, withoutProtocolFeatures } from './test-support/test-machine.js';

const R = VhostUserRequest;

let t: ServedFunctionFixture;
beforeEach(() => {
  t = new ServedFunctionFixture();
});
afterEach(() => t.end());

describe('a served function', () => {
  test('a frontend asks > the bits of the data path are offered, those of the control queue are not', async () => {
    expect(await t.serve()).toBe(0);
    const features = await t.machine().greet();
    for (const bit of [NetFeature.MQ, NetFeature.CSUM, NetFeature.MTU, VirtioFeature.VERSION_1])
      expect(hasFeature(features, bit)).toBe(true);
    for (const bit of [
      NetFeature.CTRL_VQ,
      NetFeature.CTRL_RX,
      NetFeature.STATUS,
      NetFeature.MAC,
      VirtioFeature.RING_RESET,
    ])
      expect(hasFeature(features, bit)).toBe(false);
    expect(await t.machines[0]!.frontend.getU64(R.GET_QUEUE_NUM)).toBe(4n);
  });

  test('the first ring starts > the function is driven in this order: reset, features, position, eventfds, ring, DRIVER_OK', async () => {
    await t.serve();
    const m = t.machine();
    const features = await m.greet();
    await m.setFeatures(features);
    await m.shareMemory();
    m.setUsedIndex(0, 17);
    t.fn.log.length = 0;
    expect(await m.startRing(0, { base: 17 })).toBe(0);
    expect(t.fn.log).toEqual([
      'status 0',
      'irq 4 fd',
      'base 0 17',
      'irq 0 none',
      'kick 0 fd',
      'ring 0 on',
      'enable 0',
      'driver ok',
      'irq 0 fd',
    ]);
    expect(t.fn.queues[0]).toMatchObject({
      size: 256,
      vector: 0,
      enabled: true,
      addresses: ringPlace(0),
      base: 17,
      ringEnabled: true,
    });
    expect(t.fn.status).toBe(
      DeviceStatus.ACKNOWLEDGE | DeviceStatus.DRIVER | DeviceStatus.FEATURES_OK | DeviceStatus.DRIVER_OK,
    );
    expect(t.fn.msixEnabled && t.fn.busMaster).toBe(true);
    expect(t.fn.configVector).toBe(4);
    const expected =
      (features & t.fn.features & ~featureMask([NetFeature.GUEST_ANNOUNCE])) |
      featureMask([NetFeature.CTRL_VQ, NetFeature.MAC]);
    expect(t.fn.driverFeatures).toBe(expected);
  });

  test('further rings start > the function is not negotiated again, and each has its own vector', async () => {
    await t.serve();
    const m = t.machine();
    await m.boot(1);
    t.fn.log.length = 0;
    for (const index of [1, 2, 3]) await m.startRing(index);
    expect(t.fn.log.filter((line) => line === 'status 0' || line === 'driver ok')).toEqual([]);
    expect(t.fn.queues.slice(0, 4).map((queue) => [queue.enabled, queue.vector])).toEqual([
      [true, 0],
      [true, 1],
      [true, 2],
      [true, 3],
    ]);
    expect(t.fn.queues[4]!.enabled, 'the control queue').toBe(false);
  });

  test('the guest memory > reaches the function under guest addresses, with the offset in its file', async () => {
    await t.serve();
    const m = t.machine();
    await m.greet();
    const region = m.region(0x1_0000_0000n, { sizeBytes: MIB / 2n, mmapOffset: MIB / 2n });
    expect(await m.frontend.acknowledged(R.ADD_MEM_REG, payload.singleRegion(region), [m.memory])).toBe(0);
    expect([...t.fn.dma]).toMatchObject([
      [0x1_0000_0000n, { sizeBytes: Number(MIB / 2n), fdOffset: Number(MIB / 2n) }],
    ]);
    expect(await m.frontend.acknowledged(R.REM_MEM_REG, payload.singleRegion(region))).toBe(0);
    expect(t.fn.dma.size).toBe(0);
  });

  test('eventfds > a kick of the driver reaches the function, a signal of the function reaches the driver', async () => {
    await t.serve();
    const m = t.machine();
    await m.boot(1);
    eventfdDrain(m.calls.get(0)!);
    eventfdDrain(m.kicks.get(0)!);
    eventfdSignal(m.kicks.get(0)!);
    expect(eventfdDrain(t.fn.queues[0]!.kickFd!)).toBe(1);
    eventfdSignal(t.fn.irqFds.get(0)!);
    expect(eventfdDrain(m.calls.get(0)!)).toBe(1);
  });

  test('GET_VRING_BASE > the function stops the queue and says where; its eventfds are taken back', async () => {
    await t.serve();
    const m = t.machine();
    await m.boot(2);
    t.fn.positions.set(0, 4711);
    expect(await m.frontend.getVringBase(0)).toBe(4711);
    expect(t.fn.queues[0]).toMatchObject({ enabled: false, kickFd: null });
    expect(t.fn.irqFds.has(0)).toBe(false);
    expect(t.fn.queues[1]!.enabled).toBe(true);
  });

  test('all rings stop and start again, as on a stop and cont > the function is negotiated anew, rings go on', async () => {
    await t.serve();
    const m = t.machine();
    await m.boot(2);
    t.fn.positions.set(0, 100).set(1, 200);
    const bases = [await m.frontend.getVringBase(0), await m.frontend.getVringBase(1)];
    for (const [index, base] of bases.entries()) m.setUsedIndex(index, base);
    t.fn.log.length = 0;
    for (const [index, base] of bases.entries()) await m.startRing(index, { base });
    expect(t.fn.log.filter((line) => line === 'status 0').length).toBe(1);
    expect(t.fn.queues.slice(0, 2).map((queue) => queue.base)).toEqual([100, 200]);
  });

  test('a frontend that reconnects and says base 0 > the ring goes on from the used index in guest memory', async () => {
    await t.serve();
    const m = t.machine();
    m.setUsedIndex(0, 27_008);
    await m.boot(1);
    expect(t.fn.queues[0]!.base).toBe(27_008);
  });

  test('SET_VRING_ENABLE > is passed on while the ring runs', async () => {
    await t.serve();
    const m = t.machine();
    await m.boot(1);
    await m.frontend.acknowledged(R.SET_VRING_ENABLE, payload.vringState(0, 0));
    expect(t.fn.queues[0]).toMatchObject({ enabled: true, ringEnabled: false });
  });

  test('a frontend without PROTOCOL_FEATURES (VU-4) > its rings are enabled from the start', async () => {
    await t.serve();
    const m = t.machine();
    const features = withoutProtocolFeatures(await m.frontend.getU64(R.GET_FEATURES));
    m.frontend.post(R.SET_FEATURES, payload.u64(features));
    m.frontend.post(R.SET_MEM_TABLE, payload.memoryTable([m.region()]), [m.memory]);
    m.frontend.post(R.SET_VRING_NUM, payload.vringState(0, 256));
    const [descriptor, available, used] = ringPlace(0).map((a) => a + m.region().userAddress) as [
      bigint,
      bigint,
      bigint,
    ];
    m.frontend.post(
      R.SET_VRING_ADDR,
      payload.vringAddress({ index: 0, flags: 0, descriptor, available, used, log: 0n }),
    );
    m.frontend.post(R.SET_VRING_KICK, payload.vringFd(0, false));
    await expect.poll(() => t.fn.queues[0]!.ringEnabled).toBe(true);
  });

  test('a ring without a kick eventfd > the function is kicked by a clock, until the ring stops', async () => {
    await t.serve();
    const m = t.machine();
    await m.greet();
    await m.setFeatures(await m.frontend.getU64(R.GET_FEATURES));
    await m.shareMemory();
    expect(await m.startRing(0, { polled: true })).toBe(0);
    const { kickFd } = t.fn.queues[0]!;
    eventfdDrain(kickFd!);
    await expect.poll(() => eventfdDrain(kickFd!)).toBeGreaterThan(0);
    const before = openFds();
    await m.frontend.getVringBase(0);
    expect(openFds()).toBeLessThan(before);
  });

  test('features or a queue that the function refuses > the frontend is told', async () => {
    await t.serve();
    const m = t.machine();
    await m.setFeatures(await m.greet());
    await m.shareMemory();
    t.fn.refuseFeatures = true;
    expect(await m.startRing(0)).toBe(Errno.EOPNOTSUPP);
    t.fn.refuseFeatures = false;
    t.fn.refuseQueues = true;
    expect(await m.startRing(0)).toBe(Errno.EFAULT);
    t.fn.refuseQueues = false;
    expect(await m.startRing(0)).toBe(0);
  });

  test('the frontend vanishes > the function is reset, its memory unmapped, every eventfd taken back; the next one is served', async () => {
    await t.serve();
    t.machine();
    await t.machines[0]!.boot(4);
    expect(t.fn.heldFds).toBeGreaterThan(8);
    t.killMachines();
    await expect.poll(() => t.fn.log.at(-1)).toBe('unmap all');
    expect(t.fn.heldFds).toBe(0);
    expect(t.fn.status).toBe(0);
    await t.machine().boot(1);
    expect(t.fn.queues[0]!.enabled).toBe(true);
  });

  test('30 frontends that come, start rings and are killed, some in the middle > no descriptor is left (A17, U15)', async () => {
    await t.serve();
    await t.machine().boot(1);
    t.killMachines();
    await expect.poll(() => t.fn.heldFds).toBe(0);
    const before = openFds();
    for (let i = 0; i < 30; i++) {
      const m = t.machine();
      const booting = m.boot(4);
      if (i % 3 === 0) await booting;
      else booting.catch(() => undefined);
      for (let turn = 0; turn < i; turn++) await new Promise(setImmediate);
      t.killMachines();
    }
    await expect.poll(() => openFds()).toBe(before);
    expect(t.fn.heldFds).toBe(0);
    await t.machine().boot(4);
  });

  test('a malformed message > that connection ends and is counted, the next frontend is served', async () => {
    await t.serve();
    const m = t.machine();
    m.frontend.post(R.SET_MEM_TABLE, new Uint8Array(3), [m.memory]);
    await m.frontend.ended;
    await expect.poll(() => t.served.counters).toMatchObject({ malformed: 1, refused: 0 });
    const other = t.machine();
    other.frontend.post(R.SET_VRING_NUM, payload.vringState(0, 3));
    await other.frontend.ended;
    await expect.poll(() => t.served.counters).toMatchObject({ malformed: 1, refused: 1 });
    await t.machine().boot(1);
  });

  test('memory is added to a running guest > no ring stops, no eventfd changes (A16)', async () => {
    await t.serve();
    const m = t.machine();
    await m.boot(2);
    t.fn.log.length = 0;
    await m.frontend.acknowledged(R.ADD_MEM_REG, payload.singleRegion(m.region(16n * MIB)), [m.memory]);
    await m.frontend.acknowledged(
      R.SET_MEM_TABLE,
      payload.memoryTable([m.region(), m.region(16n * MIB), m.region(32n * MIB)]),
      [m.memory, m.memory, m.memory],
    );
    expect(t.fn.log).toEqual(['map 0x1000000', 'map 0x2000000']);
    expect(t.fn.queues.slice(0, 2).every((queue) => queue.enabled)).toBe(true);
  });

  test('the function says that it needs a reset > the frontend hears it on the error eventfd', async () => {
    await t.serve();
    const m = t.machine();
    await m.boot(2);
    await m.watchErrors(0);
    t.fn.status |= DeviceStatus.NEEDS_RESET;
    eventfdSignal(t.fn.irqFds.get(t.fn.configVector)!);
    await expect.poll(() => eventfdDrain(m.errors.get(0)!)).toBe(1);
    expect(t.served.counters.needsReset).toBe(1);
    for (const index of [0, 1]) await m.frontend.getVringBase(index);
    await m.startRing(0);
    expect(t.fn.status & DeviceStatus.NEEDS_RESET).toBe(0);
  });
});
