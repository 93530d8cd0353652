import { type DeviceChange, FunctionKind, isFailure } from '@virtnet/engine-control';
import { close, eventfdDrain, send } from '@virtnet/host-linux';
import {
  DeviceStatus,
  featureMask,
  HASH_TYPES,
  HashType,
  NetConfig,
  NetFeature,
  QueueCounter,
  VirtioFeature,
} from '@virtnet/wire';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { clearDebugCounters, statsFacts } from './device-counters.js';
import { deviceFacts } from './device-facts.js';
import type { DeviceHost } from './device-host.js';
import { decodeDeviceRecord } from './device-record.js';
import type { Device } from './emulator.js';
import { type ModifyPlace, modifyDevices } from './modify-command.js';
import { changeDevice, changedBefore, finishChange } from './modify-device.js';
import { shelfNames } from './shelf-names.js';
import { openFds } from './test-support/holdings.js';
import { TestDevice, TestWorld, testPlan } from './test-support/test-device.js';
import { clientOf, TestDriver } from './test-support/test-driver.js';
import { TestMemory } from './test-support/test-ring.js';
import { frame, HEADER_BYTES } from './test-support/worker-fixture.js';

const N = NetFeature;
const FEATURES = featureMask([
  ...[VirtioFeature.VERSION_1, N.STATUS, N.SPEED_DUPLEX, N.MAC, N.CTRL_VQ, N.CTRL_RX, N.MQ],
]);
const CONTROL = 4;
const QUEUES = [0, 1, 2, 3, CONTROL];
const NOTHING: DeviceChange = { shape: {} };
const ALONE = { beat: () => {}, uplinkSpeed: null, maxVfs: 0, enabledVfs: 0, vfPool: null };
/** No interface of this name exists, so that nothing of the machine is touched. */
const NO_INTERFACE = { sfNum: 2998 };

describe('a change of a function', () => {
  let before: number;
  let world: TestWorld;
  let device: TestDevice;
  let host: DeviceHost;
  let memory: TestMemory;
  let driver: TestDriver | null;

  beforeEach(() => {
    before = openFds();
    world = new TestWorld();
    device = world.device(testPlan(NO_INTERFACE));
    host = device.host;
    memory = new TestMemory(4 << 20, { arena: world.arena });
    driver = null;
    host.upload();
    world.services.store.put(host, `dev/${host.vuid}/listener`, new Uint8Array(0), memory.fd);
  });
  afterEach(async () => {
    driver?.close();
    await device.end();
    memory.close();
    await world.close();
    expect(openFds()).toBe(before);
  });

  let nextId = 1;
  const change = (what: Partial<DeviceChange>, requestId = `change-${nextId++}`) =>
    changeDevice(host, { ...NOTHING, ...what }, requestId);
  const load = async (queues = QUEUES) => {
    driver = await TestDriver.start(clientOf(device), { memory, features: FEATURES, queues });
    return driver;
  };
  const config = () => {
    const { bar, offset, lengthBytes } = host.fn.layout.device;
    const bytes = host.fn.readRegion(bar, offset, lengthBytes);
    return NetConfig.decode(new DataView(bytes.buffer, bytes.byteOffset, bytes.length));
  };
  const receive = async (bytes: Uint8Array) => {
    driver!.ring(0).add([], [4096]);
    driver!.ring(0).publish();
    send(device.network[0]!, Uint8Array.from([...new Uint8Array(HEADER_BYTES), ...bytes]));
    host.kick(0);
    await world.datapath.settle();
  };
  const recorded = () => {
    const record = decodeDeviceRecord(world.shelf.entries.get(shelfNames.record(host.vuid))!.blob);
    return typeof record === 'string' ? [] : record.settings.changes;
  };
  const sizes = () => statsFacts(host).queues[0]!.sizes;

  it('of its shape is what the next driver finds', async () => {
    const features = `0x${(FEATURES | featureMask([N.MTU])).toString(16)}`;
    const shape = { mac: '0C:C4:7A:FF:22:94', mtu: 2000, features, queueSize: 32, queuePairs: 1 };
    expect(await change({ shape })).toBe(null);
    expect(config()).toMatchObject({ mac5: 0x94, mtu: 2000, maxVirtqueuePairs: 1 });
    expect(deviceFacts(host, ALONE)).toMatchObject({
      mac: '0C:C4:7A:FF:22:94',
      mtu: 2000,
      queueSizeMax: 32,
      queuePairsMax: 1,
      queueCount: 3,
      deviceFeatures: BigInt(features),
    });
    await load([0, 1, 2]);
    expect([host.fn.status, host.fn.queues[0]!.size]).toEqual([0xf, 32]);
  });

  it('of its shape leaves the link as operator and uplink have it, each by itself', async () => {
    host.followUplink({ up: false, speedMbps: 40_000 });
    await change({ shape: { queueSize: 32 } });
    expect([host.net.linkWanted, host.net.linkUp, host.net.speedMbps]).toEqual([true, false, 40_000]);
    host.followUplink({ up: true, speedMbps: 40_000 });
    await change({ shape: { queueSize: 16 }, linkUp: false });
    await change({ shape: { queueSize: 32 } });
    expect([host.net.linkWanted, host.net.linkUp]).toEqual([false, false]);
  });

  it('NET-3 of its speed is read when the link comes up, also when both come at once', async () => {
    const { events } = await load();
    const told = async (what: Partial<DeviceChange>) => {
      expect(await change(what)).toBeNull();
      return [eventfdDrain(events[0]!), config().speed];
    };
    const before = config().speed;
    expect(await told({ speedMbps: 100_000 })).toEqual([0, before]);
    expect(deviceFacts(host, ALONE).speedMbps).toBe(100_000);
    expect(await told({ linkUp: false })).toEqual([1, 100_000]);
    expect(await told({ speedMbps: 40_000, linkUp: true })).toEqual([1, 40_000]);
  });

  it('of its uplink raises the configuration interrupt, once for each time', async () => {
    const { events } = await load();
    const told = (up: boolean) => {
      host.followUplink({ up, speedMbps: null });
      return eventfdDrain(events[0]!);
    };
    expect([told(false), told(false), told(true)]).toEqual([1, 0, 1]);
    await change({ linkUp: false });
    eventfdDrain(events[0]!);
    expect([told(false), told(true)]).toEqual([0, 0]); // it was down, and is down
  });

  it('of its shape is refused while a driver holds it, and nothing is changed', async () => {
    await load();
    expect(await change({ shape: { queueSize: 32 } })).toMatchObject({ errno: -1005 });
    expect(host.plan.queueSize).toBe(64);
    expect(host.settings.changes).toEqual([]);
  });

  it('of its shape that no device can have leaves it as it was', async () => {
    const plan = host.plan;
    expect(await change({ shape: { queueSize: 3 } })).toMatchObject({ errno: -1031 });
    expect(host.plan).toBe(plan);
  });

  it('of the types of hashes, by the command: the next driver reads them; one that is there keeps its own', async () => {
    await device.end();
    world.shelf.clear();
    const offered = FEATURES | featureMask([N.HASH_REPORT]);
    device = world.device(testPlan({ ...NO_INTERFACE, features: `0x${offered.toString(16)}` }));
    host = device.host;
    host.upload();
    world.services.store.put(host, `dev/${host.vuid}/listener`, new Uint8Array(0), memory.fd);
    const place: ModifyPlace = {
      devices: () => [{ host, endpoint: { connected: false } } as unknown as Device],
      site: () => ({ uplinkMtu: null, supportedFeatures: offered, virtQueuesMax: 9, pool: null }),
    };
    const modify = (supportedHashTypes: number) =>
      modifyDevices(
        {
          requestId: `hashes-${supportedHashTypes}`,
          ...{ all: false, pf: host.plan.pfId, vf: null, vuid: null, device: { supportedHashTypes } },
        },
        place,
      );
    expect(config().supportedHashTypes).toBe(HASH_TYPES);
    expect(await modify(HashType.UDPV4)).toMatchObject({ errno: 0 });
    expect([config().supportedHashTypes, deviceFacts(host, ALONE).supportedHashTypes]).toEqual([
      HashType.UDPV4,
      HashType.UDPV4,
    ]);
    await load();
    expect(await modify(HASH_TYPES)).toMatchObject({ errno: -1005 });
    expect(config().supportedHashTypes).toBe(HashType.UDPV4);
  });

  it('is in the record before the driver hears of it', async () => {
    const { events } = await load();
    const seen: boolean[] = [];
    const { fire } = host.interrupts;
    host.interrupts.fire = (index, vector) => {
      seen.push(recorded().some(({ requestId }) => requestId === 'first'));
      return fire.call(host.interrupts, index, vector);
    };
    await change({ linkUp: false }, 'first');
    expect(seen).toEqual([true]);
    expect(eventfdDrain(events[0]!)).toBe(1);
    expect(config().status).toBe(0);
  });

  it('link and speed raise the configuration interrupt once, and not at all when nothing changes', async () => {
    const { events } = await load();
    await change({ linkUp: false, speedMbps: 25_000 });
    expect(eventfdDrain(events[0]!)).toBe(1);
    expect(deviceFacts(host, { ...ALONE, uplinkSpeed: 100_000 })).toMatchObject({
      linkUp: false,
      speedMbps: 25_000,
    });
    await change({ linkUp: false, speedMbps: 25_000 });
    expect(eventfdDrain(events[0]!)).toBe(0);
  });

  it('survives the function’s process', async () => {
    await change({ shape: { queueSize: 32, queuePairs: 1 }, linkUp: false, speedMbps: 1000 }, 'before');
    const mirror = world.mirrored();
    await host.destroy();
    const { device: next } = world.restored(mirror);
    expect(deviceFacts(next.host, ALONE)).toMatchObject({
      queueSizeMax: 32,
      queuePairsMax: 1,
      linkUp: false,
      speedMbps: 1000,
    });
    expect([changedBefore(next.host, 'before'), changedBefore(next.host, 'other')]).toEqual([
      null,
      undefined,
    ]);
    close(mirror.listenerFd);
    device = new TestDevice(next.host, device.network);
  });

  describe('of a VF’s share', () => {
    const VF = {
      ...{ kind: FunctionKind.VF, pfId: 0, vfId: 1, switchPort: null, address: 0x1405, sfNum: 3001 },
    };
    const UP_TO_DRIVER = DeviceStatus.ACKNOWLEDGE | DeviceStatus.DRIVER;
    const none = { msixVectors: 0, queuePairs: 0 };
    beforeEach(async () => {
      await device.end();
      world.shelf.clear();
      device = world.device(testPlan(VF));
      host = device.host;
      host.upload();
      world.services.store.put(host, `dev/${host.vuid}/listener`, new Uint8Array(0), memory.fd);
    });

    /** What a driver comes to that goes on although the function agrees to nothing. */
    const tried = async () => {
      const attempt = new TestDriver({ ...clientOf(device), dmaMap: async () => 0 });
      await attempt.negotiate(FEATURES);
      await attempt.register('deviceStatus', 1, UP_TO_DRIVER | DeviceStatus.DRIVER_OK);
      await host.reconcile(false);
      const status = await attempt.status();
      await attempt.register('deviceStatus', 1, 0);
      return status;
    };

    it.each([
      { shape: none, vectors: 0, pairs: 0 },
      { shape: { queuePairs: 0 }, vectors: 6, pairs: 0 },
      { shape: { msixVectors: 0 }, vectors: 0, pairs: 2 },
    ])('to %o takes the function away from every driver, and its representor stays', async (given) => {
      const [tap] = host.taps.fds;
      expect(await change({ shape: given.shape, warning: 'DEV_NOT_FUNCTIONAL' }, 'away')).toBe(null);
      expect(deviceFacts(host, ALONE)).toMatchObject({
        msixVectors: given.vectors,
        queuePairsMax: given.pairs,
        queueCount: 0,
        status: 0,
      });
      expect(host.fn.capabilities.msix === null).toBe(given.vectors === 0);
      expect(await tried()).toBe(UP_TO_DRIVER);
      expect(changedBefore(host, 'away')).toBe('DEV_NOT_FUNCTIONAL');
      expect(host.taps.fds[0]).toBe(tap);
    });

    it('to nothing survives the function’s process; given back, a driver works it', async () => {
      await change({ shape: none, warning: 'DEV_NOT_FUNCTIONAL' });
      const mirror = world.mirrored();
      await host.destroy();
      const { network } = device;
      const { device: next } = world.restored(mirror);
      host = next.host;
      close(mirror.listenerFd);
      device = new TestDevice(host, network);
      expect(deviceFacts(host, ALONE)).toMatchObject({ msixVectors: 0, queuePairsMax: 0, queueCount: 0 });
      expect(await tried()).toBe(UP_TO_DRIVER);
      expect(await change({ shape: { msixVectors: 6, queuePairs: 2 } })).toBe(null);
      await load([0, 1, 2]);
      expect(host.fn.status).toBe(0xf);
      await receive(frame(1));
      expect(host.state.block(0).counters[QueueCounter.FRAMES]).toBe(1);
    });
  });

  it('of the MTU is finished by a successor: what is recorded is shown to the representor', async () => {
    host.settings = { ...host.settings, mtuPending: true };
    await finishChange(host);
    expect(host.settings.mtuPending).toBe(false);
  });

  it('to the state “needs reset” is what the driver reads, and reset takes the device from it', async () => {
    const { events } = await load();
    await change({ status: 'needs-reset' });
    expect([host.fn.status, eventfdDrain(events[0]!)]).toEqual([0xf | DeviceStatus.NEEDS_RESET, 1]);
    await change({ status: 'reset' });
    expect([host.fn.status, host.fn.msixEnabled]).toEqual([0, true]);
  });

  it('of receive modes filters frames, until the driver says otherwise', async () => {
    await load();
    await receive(frame(1));
    await change({ rxMode: 0x38 });
    await receive(frame(2));
    const { counters } = host.state.block(0);
    expect([counters[QueueCounter.FRAMES], counters[QueueCounter.DROP_FILTER_MAC]]).toEqual([1, 1]);
  });

  it('packet counters are off at first, begin at zero, and keep their values when off', async () => {
    await load();
    await receive(frame(1));
    expect([statsFacts(host).countingSizes, sizes().some((count) => count > 0)]).toEqual([false, false]);
    await change({ countSizes: true });
    for (const bytes of [60, 65, 128, 256, 512, 1024]) await receive(sized(bytes));
    expect(sizes()).toEqual([1, 1, 1, 1, 1, 1, 0, 0, 0, 0]);
    await change({ countSizes: false });
    await receive(sized(60));
    expect([statsFacts(host).countingSizes, sizes()[0]]).toEqual([false, 1]);
    await change({ countSizes: true });
    expect(sizes()).toEqual([0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    await receive(sized(60));
    await change({ countSizes: true });
    expect(sizes()[0]).toBe(0);
  });

  it('counters for debugging are set back, the others go on', async () => {
    await load();
    await receive(frame(1));
    clearDebugCounters(host);
    await receive(frame(2));
    const [queue] = deviceFacts(host, ALONE).queues;
    expect([queue!.debug!.frames, queue!.completedDesc]).toEqual([1, 2]);
  });

  it('a driver that goes and another that comes find the function working', async () => {
    await load();
    await change({ status: 'reset' });
    driver!.close();
    expect(isFailure((await change({ shape: { queueSize: 128 } })) ?? {})).toBe(false);
    const second = await TestDriver.start(
      { ...clientOf(device), dmaMap: async () => 0 },
      { memory, features: FEATURES, queues: QUEUES, queueSize: 128 },
    );
    driver = second;
    await receive(frame(1));
    expect(host.state.block(0).counters[QueueCounter.FRAMES]).toBe(1);
  });
});

function sized(bytes: number): Uint8Array {
  return frame(7, bytes);
}
