import { hotplugFeatures } from '@virtnet/engine-virtio-net';
import {
  ControlAck,
  ControlClass,
  ControlMac,
  ControlMq,
  ControlRx,
  DeviceStatus,
  featureMask,
  hasFeature,
  NetControlHeader,
  NetFeature,
  PciCapability,
  VirtioFeature,
  VirtioPciCommon,
} from '@virtnet/wire';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type FunctionAccess, overRegions } from './function-access.js';
import { FunctionFixture } from './function-fixture.js';
import { DriverError, enumerate } from './pci-enumeration.js';
import { SplitDriver } from './split-driver.js';
import { VirtioNetDriver } from './virtio-net-driver.js';
import { VirtioPciDriver } from './virtio-pci-driver.js';

const READY =
  DeviceStatus.ACKNOWLEDGE | DeviceStatus.DRIVER | DeviceStatus.FEATURES_OK | DeviceStatus.DRIVER_OK;

const start = (
  fixture: FunctionFixture,
  options: Partial<Parameters<typeof VirtioNetDriver.start>[1]> = {},
) => VirtioNetDriver.start(fixture.access, { memory: fixture.memory, ...options });

const command = (controlClass: number, code: number, ...data: number[]): Uint8Array =>
  Uint8Array.of(...NetControlHeader.bytes({ class: controlClass, command: code }), ...data);

/** The same access with some answers altered on the way. */
function altered(access: FunctionAccess, alter: (offset: number, bytes: Uint8Array) => void): FunctionAccess {
  return {
    ...access,
    readConfig: async (offset, count) => {
      const bytes = (await access.readConfig(offset, count)).slice();
      alter(offset, bytes);
      return bytes;
    },
  };
}

describe('driver: notifications', () => {
  const watched = async (more: bigint) => {
    const offeredFeatures = hotplugFeatures({ uso: false, packedVq: true }) | more;
    const fixture = new FunctionFixture({ profile: { offeredFeatures } });
    const { notify } = fixture.fn.layout;
    const notified: number[][] = [];
    const access: FunctionAccess = {
      ...fixture.access,
      writeRegion: (bar, offset, bytes) => {
        if (bar === notify.bar && offset >= notify.offset && offset < notify.offset + notify.lengthBytes)
          notified.push([...bytes]);
        return fixture.access.writeRegion(bar, offset, bytes);
      },
    };
    const features = offeredFeatures & ~featureMask([VirtioFeature.RING_PACKED]);
    const driver = await VirtioNetDriver.start(access, { memory: fixture.memory, features });
    return { fixture, driver, notified };
  };
  const allMulticast = command(ControlClass.RX, ControlRx.ALLMULTI, 1);

  it('4.1.5.2 with NOTIFICATION_DATA they are 32 bits, and say where the next entry will be', async () => {
    const { fixture, driver, notified } = await watched(featureMask([VirtioFeature.NOTIFICATION_DATA]));
    const control = driver.controlIndex!;
    for (let count = 1; count <= 2; count++)
      expect(await driver.commandBytes(allMulticast)).toMatchObject({ ack: ControlAck.OK });
    expect(notified).toEqual([
      [control, 0, 1, 0],
      [control, 0, 2, 0],
    ]);
    // As a packed ring has it: offset 5 under wrap counter 1. And data that is wrong.
    for (const next of [0x8005, 0xffff]) {
      fixture.effects.length = 0;
      await driver.pci.notify(1, next);
      expect(fixture.effects).toEqual([{ kind: 'queue-notify', queue: 1 }]);
    }
  });

  it('4.1.5.2 without it they are the number of the queue', async () => {
    const { driver, notified } = await watched(0n);
    await driver.commandBytes(allMulticast);
    expect(notified).toEqual([[driver.controlIndex!, 0]]);
  });
});

describe('driver: bring-up', () => {
  it('goes from discovery to DRIVER_OK with every feature, queue and vector', async () => {
    const fixture = new FunctionFixture();
    const driver = await start(fixture, { vectors: 'per-queue' });
    expect(driver.features).toBe(fixture.device.offeredFeatures);
    expect(fixture.fn.status).toBe(READY);
    expect(fixture.fn.queues.map(({ enabled, vector, size }) => [enabled, vector, size])).toEqual(
      [1, 2, 3, 4, 5, 6, 7].map((vector) => [true, vector, 64]),
    );
    expect(fixture.fn.configVector).toBe(0);
    expect(fixture.fn.busMaster).toBe(true);
    expect(await driver.config()).toMatchObject({
      mtu: 1500,
      maxVirtqueuePairs: 3,
      status: 1,
      speed: 25_000,
    });
    expect(
      fixture.effects.filter(({ kind }) => kind === 'queue-refused' || kind === 'features-refused'),
    ).toEqual([]);
    await driver.stop();
    expect(fixture.fn.status).toBe(0);
  });

  it('without MSI-X, with one pair, and with a VERSION_1-only driver as well', async () => {
    const fixture = new FunctionFixture({ msixVectors: 0 });
    const driver = await start(fixture, { features: 0n, vectors: 'per-queue' });
    expect(driver.features).toBe(featureMask([VirtioFeature.VERSION_1]));
    expect(driver.controlIndex).toBeNull();
    expect(fixture.fn.queues.filter(({ enabled }) => enabled)).toHaveLength(2);
    expect(driver.pci.found.msix).toBeNull();
  });

  it('enumeration leaves BARs and command register as they were', async () => {
    const { fn, access } = new FunctionFixture();
    fn.writeConfig(0x10, Uint8Array.of(0, 0, 0xfe, 0xfe, 1, 0, 0, 0));
    fn.writeConfig(0x04, Uint8Array.of(6, 0));
    const before = fn.readConfig(0, 0x40);
    const found = await enumerate(access);
    expect(fn.readConfig(0, 0x40)).toEqual(before);
    expect(found.bars).toEqual(fn.bars);
    expect(found.capabilities.map(({ id }) => id).slice(0, 3)).toEqual([
      PciCapability.POWER_MANAGEMENT,
      PciCapability.EXPRESS,
      PciCapability.MSIX,
    ]);
  });

  it('objects to a capability loop, to structures outside their BAR, and to missing ones', async () => {
    const { fn, access } = new FunctionFixture();
    const { common } = await enumerate(access);
    const breaks: ((offset: number, bytes: Uint8Array) => void)[] = [
      (offset, bytes) => {
        if (offset === fn.capabilities.express) bytes[1] = fn.capabilities.powerManagement;
      },
      (offset, bytes) => {
        if (offset === common.capabilityAt && bytes.length === 16) bytes[4] = 5;
      },
      (offset, bytes) => {
        if (offset === common.capabilityAt && bytes.length === 16) bytes[11] = 1;
      },
      (offset, bytes) => {
        if (offset === common.capabilityAt && bytes.length === 16) bytes[3] = 9;
      },
      (offset, bytes) => {
        if (offset === fn.capabilities.msix && bytes.length === 12) bytes[6] = 1;
      },
    ];
    for (const alter of breaks) await expect(enumerate(altered(access, alter))).rejects.toThrow(DriverError);
  });

  it('works the same over a client that knows regions only', async () => {
    const fixture = new FunctionFixture();
    const { access } = fixture;
    const client = {
      read: (region: number, offset: number, count: number) =>
        region === 7 ? access.readConfig(offset, count) : access.readRegion(region, offset, count),
      write: (region: number, offset: number, bytes: Uint8Array) =>
        region === 7 ? access.writeConfig(offset, bytes) : access.writeRegion(region, offset, bytes),
    };
    const driver = await VirtioNetDriver.start(overRegions(client), { memory: fixture.memory });
    await driver.setQueuePairs(3);
    expect(fixture.device.activePairs).toBe(3);
  });
});

describe('driver: features', () => {
  it('BF-4 of 2000 random subsets, and sets with bits not offered, exactly the valid ones stick', async () => {
    const fixture = new FunctionFixture();
    const driver = await VirtioPciDriver.probe(fixture.access);
    const offered = await driver.offeredFeatures();
    expect(offered).toBe(fixture.device.offeredFeatures);
    const version1 = featureMask([VirtioFeature.VERSION_1]);
    const sets = fc.sample(fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }), { numRuns: 2000, seed: 1041 });
    let accepted = 0;
    for (const [i, bits] of sets.entries()) {
      // Mostly subsets, sometimes with a stranger among them.
      const mask = i % 8 === 0 ? bits : (bits & offered) | version1;
      const valid =
        (mask & ~offered) === 0n &&
        hasFeature(mask, VirtioFeature.VERSION_1) &&
        fixture.device.featureProblems(mask).length === 0;
      expect(await driver.tryFeatures(mask)).toBe(valid);
      expect(fixture.fn.driverFeatures).toBe(valid ? mask : 0n);
      if (valid) accepted++;
    }
    expect(accepted).toBeGreaterThan(20);
  });

  it('BF-6 the same set is agreed on after each reset', async () => {
    const fixture = new FunctionFixture();
    const driver = await VirtioPciDriver.probe(fixture.access);
    const first = await driver.negotiate();
    for (let i = 0; i < 5; i++) expect(await driver.negotiate()).toBe(first);
  });

  it('BF-9 PCI-4 the configuration is read whole while it changes', async () => {
    const fixture = new FunctionFixture();
    const driver = await start(fixture);
    const macs = [2, 4, 6].map((first) => Uint8Array.of(first, first, first, first, first, first));
    for (const mac of macs) {
      await driver.setMac(mac);
      expect(await driver.pci.readDeviceConfig(0, 6)).toEqual(mac);
    }
    // A change between the two halves of one read: the generation gives it away.
    const before = await driver.pci.read('configGeneration');
    const { bar, offset } = driver.pci.found.device;
    const low = await fixture.access.readRegion(bar, offset, 3);
    await driver.setMac(Uint8Array.of(8, 8, 8, 8, 8, 8));
    const high = await fixture.access.readRegion(bar, offset + 3, 3);
    expect([...low, ...high]).toEqual([6, 6, 6, 8, 8, 8]);
    expect(await driver.pci.read('configGeneration')).not.toBe(before);
  });
});

describe('driver: control queue over a ring', () => {
  it('every command takes effect, and used.len is exactly the acknowledgement (E4)', async () => {
    const fixture = new FunctionFixture();
    const driver = await start(fixture);
    await driver.setReceiveMode(ControlRx.PROMISC, false);
    await driver.setMacTable([Uint8Array.of(2, 0, 0, 0, 0, 1)], [Uint8Array.of(1, 0, 0, 0, 0, 2)]);
    await driver.setMac(Uint8Array.of(2, 0, 0, 0, 0, 9));
    await driver.addVlan(5);
    await driver.addVlan(7);
    await driver.removeVlan(5);
    await driver.setQueuePairs(2);
    await driver.setOffloads(featureMask([NetFeature.GUEST_CSUM]));
    expect(fixture.device.announce()).toBe(true);
    fixture.fn.configChanged();
    expect((await driver.config()).status).toBe(3);
    await driver.acknowledgeAnnouncement();
    expect((await driver.config()).status).toBe(1);
    expect(fixture.device.filterState()).toMatchObject({ promiscuous: false, vlans: Uint16Array.of(7) });
    expect(fixture.device.activePairs).toBe(2);
    expect(fixture.device.receiveOffloads()).toBe(2n);
    const answer = await driver.commandBytes(command(ControlClass.RX, ControlRx.ALLMULTI, 1));
    expect(answer).toMatchObject({ ack: ControlAck.OK, usedBytes: 1 });
  });

  it('E13 an unknown command is refused and the queue goes on', async () => {
    const driver = await start(new FunctionFixture());
    for (const [controlClass, code] of [
      [9, 0],
      [255, 255],
      [ControlClass.RX, 6],
      [ControlClass.NOTF_COAL, 4],
    ] as const)
      expect(await driver.commandBytes(command(controlClass, code, 0))).toMatchObject({
        ack: ControlAck.ERR,
        usedBytes: 1,
      });
    await driver.setReceiveMode(ControlRx.PROMISC, false);
  });

  it('E3 64 random splits of each command over buffers give the same acknowledgement and state', async () => {
    const commands = [
      command(ControlClass.RX, ControlRx.PROMISC, 0),
      command(
        ControlClass.MAC,
        ControlMac.TABLE_SET,
        1,
        0,
        0,
        0,
        2,
        0,
        0,
        0,
        0,
        3,
        1,
        0,
        0,
        0,
        1,
        0,
        0,
        0,
        0,
        4,
      ),
      command(ControlClass.MAC, ControlMac.ADDR_SET, 2, 1, 2, 3, 4, 5),
      command(ControlClass.VLAN, 0, 9, 0),
      command(ControlClass.MQ, ControlMq.VQ_PAIRS_SET, 3, 0),
      command(ControlClass.GUEST_OFFLOADS, 0, 2, 0, 0, 0, 0, 0, 0, 0),
      command(ControlClass.MAC, ControlMac.TABLE_SET, 0xff, 0xff, 0xff, 0xff),
    ];
    const framings = fc.sample(
      fc.record({
        readable: fc.array(fc.integer({ min: 1, max: 5 }), { maxLength: 12 }),
        writable: fc.constantFrom<readonly number[]>([1], [1, 1], [3], [1, 4]),
      }),
      { numRuns: 64, seed: 5 },
    );
    const fixture = new FunctionFixture();
    const driver = await start(fixture);
    const whole = new FunctionFixture();
    const reference = await start(whole);
    for (const bytes of commands) {
      const expected = await reference.commandBytes(bytes);
      for (const framing of framings) {
        const ring = driver.ring(driver.controlIndex!);
        const answer = await driver.commandBytes(bytes, 0, framing);
        expect(answer.usedBytes).toBe(1);
        expect(ring.outstanding).toBe(0);
        expect(answer.result.length).toBe(0);
        if (framing.writable.length === 1 && framing.writable[0] === 1) expect(answer.ack).toBe(expected.ack);
      }
    }
    expect(fixture.device.save()).toEqual(whole.device.save());
  });

  it('E3 a command without a writable byte is completed with length 0 and not executed', async () => {
    const fixture = new FunctionFixture();
    const driver = await start(fixture);
    const answer = await driver.commandBytes(command(ControlClass.RX, ControlRx.ALLUNI, 1), 0, {
      writable: [],
    });
    expect(answer.usedBytes).toBe(0);
    expect(fixture.device.control.modes.allUnicast).toBe(false);
    await driver.setReceiveMode(ControlRx.ALLUNI, true);
  });

  it('E5 pairs whose queues were not set up are refused', async () => {
    const driver = await start(new FunctionFixture(), { pairs: 2 });
    await expect(driver.setQueuePairs(3)).rejects.toThrow(DriverError);
    await driver.setQueuePairs(2);
  });

  it.each([
    [true, 3, 6],
    [false, 1, 2],
  ])('E15 with MQ %s there are %i pairs and the control queue is number %i', async (mq, pairs, index) => {
    const fixture = new FunctionFixture();
    const features = mq ? ~0n : ~featureMask([NetFeature.MQ]);
    const driver = await start(fixture, { features });
    expect([driver.maxPairs, driver.controlIndex]).toEqual([pairs, index]);
    await driver.setReceiveMode(ControlRx.PROMISC, false);
    expect(fixture.device.control.modes.promiscuous).toBe(false);
  });

  it('BF-1 what is in the ring before DRIVER_OK stays there', async () => {
    const fixture = new FunctionFixture();
    const pci = await VirtioPciDriver.probe(fixture.access);
    await pci.negotiate();
    const ring = new SplitDriver({ memory: fixture.memory, queueSize: 16, eventIdx: true });
    const { size, descriptorAddress, driverAddress, deviceAddress } = { size: 16, ...addressesOf(ring) };
    await pci.mapConfigVector(0);
    await pci.enableQueue(6, { size, descriptorAddress, driverAddress, deviceAddress, vector: 1 });
    ring.add({ readable: [command(ControlClass.RX, ControlRx.PROMISC, 0)], writable: [1] });
    ring.publish();
    await pci.notify(6);
    expect(ring.usedIndex).toBe(0);
    expect(fixture.interrupts).toEqual([]);
    await pci.driverOk();
    await pci.notify(6);
    expect(ring.usedIndex).toBe(1);
  });

  it('G8 BF-12 BF-13 a reset queue is not touched until it is enabled again with its new size', async () => {
    const fixture = new FunctionFixture();
    const driver = await start(fixture);
    const old = driver.ring(6);
    fixture.holdQueueResets = true;
    await driver.pci.write('queueSelect', 6);
    await driver.pci.write('queueReset', 1);
    expect(await driver.pci.read('queueReset')).toBe(1);
    old.add({ readable: [command(ControlClass.RX, ControlRx.PROMISC, 0)], writable: [1] });
    old.publish();
    await driver.pci.notify(6);
    fixture.completeQueueResets();
    await driver.pci.notify(6);
    expect([await driver.pci.read('queueReset'), old.usedIndex]).toEqual([0, 0]);
    fixture.holdQueueResets = false;
    const fresh = await driver.restartQueue(6, 8);
    expect(fixture.fn.queues[6]).toMatchObject({ size: 8, descriptorAddress: fresh.descriptorAddress });
    await driver.setReceiveMode(ControlRx.PROMISC, false);
    expect([fresh.usedIndex, old.usedIndex]).toEqual([1, 0]);
  });

  it('BF-2 C1 a ring that lies sets NEEDS_RESET, fires the configuration vector once, and a reset heals it', async () => {
    const fixture = new FunctionFixture();
    const driver = await start(fixture, { vectors: 'per-queue' });
    driver.ring(6).offer(999);
    driver.ring(6).publish();
    await driver.pci.notify(6);
    expect(await driver.pci.status()).toBe(READY | DeviceStatus.NEEDS_RESET);
    expect(fixture.interrupts).toEqual([0]);
    await driver.pci.notify(6);
    expect(fixture.interrupts).toEqual([0]);
    const again = await start(fixture);
    await again.setReceiveMode(ControlRx.PROMISC, false);
  });

  it('C14 a control ring outside memory is refused: queue_enable reads 0 and the device needs a reset', async () => {
    const fixture = new FunctionFixture();
    const pci = await VirtioPciDriver.probe(fixture.access);
    await pci.negotiate();
    await pci.enableQueue(6, {
      size: 16,
      descriptorAddress: 0xdead_0000_0000n,
      driverAddress: 0xdead_0001_0000n,
      deviceAddress: 0xdead_0002_0000n,
    });
    await pci.driverOk();
    await pci.notify(6);
    await pci.write('queueSelect', 6);
    expect(await pci.read('queueEnable')).toBe(0);
    expect((await pci.status()) & DeviceStatus.NEEDS_RESET).toBe(DeviceStatus.NEEDS_RESET);
  });
});

describe('driver: interrupts and window', () => {
  it('G2 a masked vector is pending for the driver to see, and comes once when unmasked', async () => {
    const fixture = new FunctionFixture();
    const driver = await start(fixture, { vectors: 'per-queue' });
    const entry = { address: 0xfee0_0000n, data: 0x41 };
    await driver.pci.writeMsixEntry(7, { ...entry, masked: true });
    await driver.setReceiveMode(ControlRx.PROMISC, false);
    expect(await driver.pci.isPending(7)).toBe(true);
    expect(fixture.interrupts).toEqual([]);
    await driver.pci.writeMsixEntry(7, { ...entry, masked: false });
    expect(fixture.interrupts).toEqual([7]);
    expect(await driver.pci.isPending(7)).toBe(false);
  });

  it('PCI-9 without vectors the ISR tells queue from configuration', async () => {
    const fixture = new FunctionFixture({ msixVectors: 0 });
    const driver = await start(fixture);
    await driver.setReceiveMode(ControlRx.PROMISC, false);
    expect(fixture.interrupts).toEqual([-1]);
    expect(await driver.pci.readIsr()).toBe(1);
    fixture.device.setLinkUp(false);
    fixture.raise('config');
    expect(await driver.pci.readIsr()).toBe(2);
    expect(await driver.pci.readIsr()).toBe(0);
  });

  it('PCI-12 a device can be driven through configuration space alone', async () => {
    const fixture = new FunctionFixture();
    const pci = await VirtioPciDriver.probe(fixture.access);
    const { bar, offset } = pci.found.common;
    const at = (register: keyof typeof VirtioPciCommon.at): number => offset + VirtioPciCommon.at[register];
    expect(await pci.readThroughWindow(bar, at('queueCount'), 2)).toEqual(Uint8Array.of(7, 0));
    await pci.writeThroughWindow(bar, at('deviceStatus'), Uint8Array.of(DeviceStatus.ACKNOWLEDGE));
    expect(await pci.readThroughWindow(bar, at('deviceStatus'), 1)).toEqual(Uint8Array.of(1));
  });
});

function addressesOf(ring: SplitDriver) {
  const { descriptorAddress, driverAddress, deviceAddress } = ring;
  return { descriptorAddress, driverAddress, deviceAddress };
}
