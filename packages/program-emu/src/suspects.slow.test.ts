import { statSync } from 'node:fs';
import { acquit, suspicionsOf, takeMarks } from '@virtnet/engine-recovery';
import { close, ftruncate } from '@virtnet/host-linux';
import {
  DeviceStatus,
  featureMask,
  NetFeature,
  QueueWord,
  queueBlock,
  StatePageHeader,
  statePageSize,
  VirtioFeature,
  WorkMark,
} from '@virtnet/wire';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { restoreDevice } from './device-restore.js';
import type { DeviceMirror } from './mirror.js';
import type { Device } from './served-device.js';
import { type RestoredDevice, Suspects } from './suspects.js';
import { TestDevice, TestWorld } from './test-support/test-device.js';
import { clientOf, TestDriver } from './test-support/test-driver.js';
import { TestMemory, TestRing } from './test-support/test-ring.js';
import { frame, HEADER_BYTES } from './test-support/worker-fixture.js';

const FEATURES = featureMask([
  ...[VirtioFeature.VERSION_1, VirtioFeature.RING_RESET],
  ...[NetFeature.CTRL_VQ, NetFeature.MQ],
]);
const [RECEIVE, TRANSMIT] = [0, 1];
const DEAD_PID = 4711;
/** Progress lanes of two datapath threads. */
const [ONE, OTHER] = [1, 2];

interface Death {
  readonly told?: boolean;
  /** Of the thread it died of. */
  readonly lane?: number | null;
  /** What the queue was marked with. */
  readonly mark?: number;
  /** Another device that the same emulator had. */
  readonly beside?: DeviceMirror;
}

/** A device that the emulator had, and that was suspected `deaths` times; `queue` was marked with `mark`. */
function neighbour(deaths: number, queue: number, mark: number): DeviceMirror {
  const buffer = new ArrayBuffer(statePageSize(2));
  const header = new Uint32Array(buffer);
  header[StatePageHeader.at.queueCount / 4] = 2;
  header[StatePageHeader.at.suspicions / 4] = deaths;
  header[StatePageHeader.at.ownerPid / 4] = DEAD_PID;
  queueBlock(buffer, queue).words[QueueWord.UNDER_WORK] = mark;
  const page = { buffer, view: () => {}, written: () => () => true };
  return { vuid: 'neighbour', page, memory: { findTruncated: () => false } } as unknown as DeviceMirror;
}

describe('who is suspected of a death', () => {
  let world: TestWorld;
  let memory: TestMemory;
  let driver: TestDriver;
  let device: TestDevice;
  let network: readonly number[];
  let opened: number;

  beforeEach(async () => {
    world = new TestWorld();
    device = world.device();
    network = device.network;
    memory = new TestMemory(4 << 20, { arena: world.arena });
    driver = await TestDriver.start(clientOf(device), { memory, features: FEATURES, queues: [0, 1] });
    shelve();
    opened = 0;
  });
  afterEach(async () => {
    driver.close();
    await device.host.destroy();
    for (const fd of network) close(fd);
    memory.close();
    await world.close();
  });

  const shelve = () => {
    device.host.upload();
    world.services.store.put(device.host, `dev/${device.host.vuid}/listener`, new Uint8Array(0), memory.fd);
    device.host.touch();
    device.host.commit(null);
  };
  /** The emulator dies while it works `queue`; a successor takes over. Whether it held the device back. */
  const die = async (
    queue: number | null,
    guestsFault: boolean | null,
    { told = false, lane = null, mark = WorkMark.SOMEBODY, beside }: Death = {},
  ): Promise<boolean> => {
    const { buffer } = device.host.page;
    if (queue !== null) queueBlock(buffer, queue).words[QueueWord.UNDER_WORK] = mark;
    new Uint32Array(buffer)[StatePageHeader.at.ownerPid / 4] = DEAD_PID;
    const mirror: DeviceMirror = world.mirrored();
    await device.host.destroy();
    const served = new Map<string, Device>();
    const suspects = new Suspects<RestoredDevice>(
      world.services.log,
      async () => {
        opened += 1;
      },
      served,
    );
    suspects.begin([mirror]);
    suspects.examine(mirror);
    if (beside !== undefined) suspects.examine(beside);
    const held = suspects.heldBack(mirror);
    const restored = restoreDevice(mirror, world.services);
    if (typeof restored === 'string') throw new Error(restored);
    close(mirror.listenerFd);
    restored.host.touch();
    device = new TestDevice(restored.host, []);
    driver = Object.assign(driver, { client: clientOf(device) });
    await restored.host.adopt(restored.record, held);
    await restored.host.settle();
    if (held) expect(await transmits()).toBe(false);
    const now = { host: restored.host, endpoint: {} } as Device;
    served.set(restored.host.vuid, now);
    const settled = suspects.settle([{ device: now, mirror }], told);
    if (guestsFault !== null) {
      suspects.verdicts([
        { pid: 12, guestsFault: !guestsFault, lane: null }, // of somebody else
        { pid: DEAD_PID, guestsFault, lane },
      ]);
    }
    await settled;
    suspects.close();
    shelve();
    return held;
  };
  const transmits = async (): Promise<boolean> => {
    const ring = driver.ring(TRANSMIT);
    ring.add([new Uint8Array(HEADER_BYTES), frame(1)]);
    ring.publish();
    device.host.kick(TRANSMIT);
    await world.datapath.settle();
    return ring.collect().length > 0;
  };
  const suspicions = () => suspicionsOf(device.host.page.buffer);
  const needsReset = () => (device.host.fn.status & DeviceStatus.NEEDS_RESET) !== 0;

  it('nothing was being worked: nobody is suspected, whatever the cause', async () => {
    expect(await die(null, true)).toBe(false);
    expect([suspicions(), needsReset(), await transmits()]).toEqual([0, false, true]);
  });

  it('a first crash: the device goes on at once and is remembered', async () => {
    expect(await die(TRANSMIT, true)).toBe(false);
    expect([suspicions(), needsReset(), await transmits(), device.host.quarantined]).toEqual([
      1,
      false,
      true,
      false,
    ]);
    expect(takeMarks(device.host.page.buffer)).toBeNull();
  });

  it('blocks of queues that the function does not have are not looked at: they would get memory', () => {
    const { fd, buffer } = device.host.page;
    const { blocks } = statSync(`/proc/self/fd/${fd}`);
    queueBlock(buffer, TRANSMIT).words[QueueWord.UNDER_WORK] = 1;
    expect(takeMarks(buffer)).toEqual({ queues: [{ queue: TRANSMIT, lane: null }], request: false });
    expect(statSync(`/proc/self/fd/${fd}`).blocks).toBe(blocks);
  });

  it('a second crash: held back, then in quarantine; a reset gives another chance, and one more death is the last', async () => {
    await die(TRANSMIT, true);
    expect(await die(TRANSMIT, true)).toBe(true);
    expect([needsReset(), device.host.quarantined, opened]).toEqual([true, true, 1]);
    expect(await transmits()).toBe(false);
    await driver.negotiate(FEATURES);
    expect([device.host.quarantined, suspicions()]).toEqual([false, 1]);
    for (const queue of [0, TRANSMIT]) await driver.enable(queue, new TestRing(memory, 64));
    await driver.register('deviceStatus', 1, 0xf);
    shelve();
    expect(await transmits()).toBe(true);
    expect(await die(TRANSMIT, true)).toBe(true);
    expect(device.host.quarantined).toBe(true);
  });

  it('killed from outside, however often and whatever was being worked: held back for a moment at most, never blamed', async () => {
    await die(TRANSMIT, true);
    for (let kill = 0; kill < 3; kill++) {
      expect(await die(TRANSMIT, false)).toBe(true);
      expect([suspicions(), needsReset(), await transmits()]).toEqual([1, false, true]);
    }
    expect(opened).toBe(3);
  });

  it('worked by another thread than the one that failed: not blamed, however often', async () => {
    const beside = { lane: ONE, mark: WorkMark.LANE + OTHER };
    expect(await die(TRANSMIT, true, beside)).toBe(false);
    expect(await die(TRANSMIT, true, beside)).toBe(false);
    expect([suspicions(), needsReset(), await transmits()]).toEqual([0, false, true]);
    const beneath = { ...beside, lane: OTHER };
    expect(await die(TRANSMIT, true, beneath)).toBe(false);
    expect(await die(TRANSMIT, true, beside)).toBe(true);
    expect([suspicions(), needsReset(), await transmits()]).toEqual([1, false, true]);
    expect(await die(TRANSMIT, true, beneath)).toBe(true);
    expect([needsReset(), device.host.quarantined]).toEqual([true, true]);
  });

  it('which thread failed is not known, or which worked the device: blamed', async () => {
    await die(TRANSMIT, true, { mark: WorkMark.LANE + OTHER });
    expect(suspicions()).toBe(1);
    await die(TRANSMIT, true, { lane: ONE });
    expect(device.host.quarantined).toBe(true);
  });

  it('its frame was being given to another device: both are suspected, and then the receiver alone that was before', async () => {
    const mark = WorkMark.LANE + ONE;
    const receiver = (deaths: number, by = mark) => ({
      mark,
      lane: ONE,
      beside: neighbour(deaths, RECEIVE, by),
    });
    expect(await die(TRANSMIT, true, receiver(0))).toBe(false);
    expect(suspicions()).toBe(1);
    for (let death = 0; death < 3; death++) {
      expect(await die(TRANSMIT, true, receiver(1)), 'held back for a moment').toBe(true);
      expect([suspicions(), needsReset(), await transmits()]).toEqual([1, false, true]);
    }
    await die(TRANSMIT, true, { ...receiver(1), lane: null });
    expect([suspicions(), needsReset(), await transmits()], 'of a signal, too').toEqual([1, false, true]);
    await die(TRANSMIT, true, { ...receiver(1, WorkMark.LANE + OTHER), lane: null });
    expect([device.host.quarantined, suspicions()], 'by another thread: something else').toEqual([true, 2]);
  });

  it('its frame was being given to another device, and another one before: the sender is quarantined', async () => {
    const mark = WorkMark.LANE + ONE;
    const receiver = () => ({ mark, lane: ONE, beside: neighbour(0, RECEIVE, mark) });
    await die(TRANSMIT, true, receiver());
    await die(TRANSMIT, true, receiver());
    expect(device.host.quarantined).toBe(true);
  });

  it('what it was given by another device was received in its own ring: blamed, whoever sent it', async () => {
    const mark = WorkMark.LANE + ONE;
    for (let death = 0; death < 2; death++)
      await die(RECEIVE, true, { mark, lane: ONE, beside: neighbour(1, TRANSMIT, mark) });
    expect(device.host.quarantined).toBe(true);
  });

  it('its memory was taken away: that is the reason, with or without a mark, and who was worked beside it is not suspected', async () => {
    const other = world.mirrored();
    const { buffer } = device.host.page;
    queueBlock(buffer, TRANSMIT).words[QueueWord.UNDER_WORK] = 1;
    const page = { buffer: new ArrayBuffer(buffer.byteLength), view: () => {}, written: () => () => true };
    const robbed = { vuid: 'robbed', page, memory: { findTruncated: () => true } } as unknown as DeviceMirror;
    const suspects = new Suspects<RestoredDevice>(world.services.log, () => Promise.resolve(), new Map());
    suspects.begin([other, robbed]);
    for (const each of [other, robbed]) suspects.examine(each);
    expect([suspicionsOf(buffer), suspicionsOf(page.buffer)]).toEqual([0, 1]);
    expect(takeMarks(buffer)).toBeNull();
    ftruncate(memory.fd, 4096);
    suspects.begin([other]);
    suspects.examine(other);
    expect(suspicionsOf(buffer)).toBe(1);
    acquit(buffer);
    ftruncate(memory.fd, 4 << 20);
    other.close();
  });

  it('promoted by a controller that knows nothing of the death: not waited for, nobody to blame', async () => {
    await die(TRANSMIT, true);
    const before = performance.now();
    expect(await die(TRANSMIT, null, { told: true })).toBe(true);
    expect([suspicions(), await transmits(), performance.now() - before < 2_500]).toEqual([1, true, true]);
  });

  it('what a device says of itself: why it waits, until its reset', async () => {
    await die(TRANSMIT, true);
    await die(TRANSMIT, true);
    const { host } = device;
    expect(host.record().health.error).toBe('QUARANTINED');
    await driver.register('queueSelect', 2, TRANSMIT);
    await driver.register('queueReset', 2, 1); // of one queue: not enough
    expect(host.quarantined && host.state.broken.has(TRANSMIT)).toBe(true);
    await driver.negotiate(FEATURES);
    expect([host.record().health.error, host.quarantined]).toEqual([null, false]);
  });

  it('no word from the controller: nobody is to blame', async () => {
    await die(TRANSMIT, true);
    expect(await die(TRANSMIT, null)).toBe(true);
    expect([suspicions(), await transmits()]).toEqual([1, true]);
  }, 20_000);
});
