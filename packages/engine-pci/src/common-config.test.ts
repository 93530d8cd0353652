import { DeviceStatus, featureMask, VirtioFeature, VirtioPciCommon } from '@virtnet/wire';
import { describe, expect, it } from 'vitest';
import {
  AGREED,
  Bench,
  BIT_A,
  BIT_B,
  kinds,
  UP_TO_DRIVER,
  UP_TO_FEATURES,
  UP_TO_READY,
} from './test-device.fixture.js';

describe('common configuration: features', () => {
  it('PCI-3 device_feature gives the word selected, 0 for every selector beyond 1', () => {
    const bench = new Bench();
    const words = [0, 1, 2, 3, 31, 0x8000_0000, 0xffff_ffff].map((select) => {
      bench.write('deviceFeatureSelect', select, 4);
      expect(bench.read('deviceFeatureSelect', 4)).toBe(select);
      return bench.read('deviceFeature', 4);
    });
    expect(words).toEqual([3, (1 << 0) | (1 << 8), 0, 0, 0, 0, 0]);
  });

  it('PCI-3 driver_feature reads back what was written, and nothing beyond word 1', () => {
    const bench = new Bench();
    bench.status(UP_TO_DRIVER);
    bench.features(featureMask([BIT_A, VirtioFeature.VERSION_1]));
    bench.write('driverFeatureSelect', 0, 4);
    expect(bench.read('driverFeature', 4)).toBe(1);
    bench.write('driverFeatureSelect', 2, 4);
    bench.write('driverFeature', 0xffff_ffff, 4);
    expect(bench.read('driverFeature', 4)).toBe(0);
    bench.write('driverFeatureSelect', 1, 4);
    expect(bench.read('driverFeature', 4)).toBe(1);
  });

  it('BF-7 G12 FEATURES_OK does not stick without VERSION_1, with a bit not offered, or without what a bit needs', () => {
    for (const [mask, problem] of [
      [featureMask([BIT_A]), 'VERSION_1'],
      [AGREED | featureMask([5]), 'not offered'],
      [AGREED | featureMask([63]), 'not offered'],
      [AGREED | featureMask([BIT_B]), 'B needs A'],
    ] as const) {
      const bench = new Bench();
      bench.status(UP_TO_DRIVER);
      bench.features(mask);
      const [refused] = bench.status(UP_TO_FEATURES);
      expect(refused).toMatchObject({ kind: 'features-refused', features: mask });
      expect(JSON.stringify(refused, (_, v) => (typeof v === 'bigint' ? '' : v))).toContain(problem);
      expect(bench.fn.status).toBe(UP_TO_DRIVER);
      expect(bench.device.accepted).toBe(0n);
    }
  });

  it('G12 without queues no features are agreed on, after a reset neither', () => {
    const bench = new Bench({ queueCount: 0, msixVectors: 0 });
    for (const _ of [1, 2]) {
      bench.status(UP_TO_DRIVER);
      bench.features(AGREED);
      const [refused] = bench.status(UP_TO_READY);
      expect(refused).toMatchObject({ kind: 'features-refused', problems: ['the device has no queues'] });
      expect([bench.read('deviceStatus', 1), bench.read('queueCount')]).toEqual([UP_TO_DRIVER, 0]);
      expect([bench.read('queueSize'), bench.fn.restore(bench.fn.save())]).toEqual([0, []]);
      bench.status(0);
    }
  });

  it('G12 features cannot change before DRIVER or after FEATURES_OK', () => {
    const bench = new Bench();
    bench.features(AGREED);
    bench.write('driverFeatureSelect', 1, 4);
    expect(bench.read('driverFeature', 4)).toBe(0);
    bench.agree(AGREED);
    bench.features(0n);
    expect(bench.fn.driverFeatures).toBe(AGREED);
    expect(bench.device.accepted).toBe(AGREED);
  });

  it('BF-6 the same features are agreed on again after a reset', () => {
    const bench = new Bench();
    for (let round = 0; round < 3; round++) {
      bench.agree(AGREED | featureMask([BIT_A, BIT_B]));
      expect(bench.fn.status).toBe(UP_TO_FEATURES);
      bench.status(0);
      expect(bench.fn.driverFeatures).toBe(0n);
    }
  });
});

describe('common configuration: device status', () => {
  it('G12 clearing a bit other than by reset is ignored', () => {
    const bench = new Bench();
    bench.ready();
    for (const value of [1, 3, 7, 0x0e, 0x80]) expect(bench.status(value)).toEqual([]);
    expect(bench.fn.status).toBe(UP_TO_READY);
  });

  it('DRIVER_OK needs FEATURES_OK, FEATURES_OK needs DRIVER; bits nobody has are ignored', () => {
    const bench = new Bench();
    bench.status(DeviceStatus.DRIVER_OK);
    expect(bench.fn.status).toBe(0);
    bench.status(DeviceStatus.ACKNOWLEDGE | DeviceStatus.FEATURES_OK | DeviceStatus.DRIVER_OK | 0x70);
    expect(bench.fn.status).toBe(DeviceStatus.ACKNOWLEDGE);
  });

  it('one write may take several steps; effects come in order', () => {
    const bench = new Bench();
    bench.status(UP_TO_DRIVER);
    bench.features(AGREED);
    expect(kinds(bench.status(UP_TO_READY))).toEqual(['features', 'status', 'driver-ok']);
    expect(bench.status(UP_TO_READY)).toEqual([]);
  });

  it('after FAILED only a reset is heard', () => {
    const bench = new Bench();
    bench.status(DeviceStatus.ACKNOWLEDGE | DeviceStatus.FAILED);
    bench.status(0xff);
    expect(bench.fn.status).toBe(DeviceStatus.ACKNOWLEDGE | DeviceStatus.FAILED);
    expect(kinds(bench.status(0))).toEqual(['reset']);
    expect(bench.fn.status).toBe(0);
  });

  it('BF-2 needsReset sets 0x40 once and asks for an interrupt only after DRIVER_OK', () => {
    const bench = new Bench();
    expect(bench.fn.needsReset()).toBe(false);
    expect(bench.fn.status).toBe(0);
    bench.agree();
    expect(bench.fn.needsReset()).toBe(false);
    expect(bench.fn.status).toBe(UP_TO_FEATURES | DeviceStatus.NEEDS_RESET);
    bench.status(0);
    bench.ready();
    expect(bench.fn.needsReset()).toBe(true);
    expect(bench.fn.needsReset()).toBe(false);
    // A driver writes back what it read, or what it wrote before: neither clears the bit.
    bench.status(UP_TO_READY);
    expect(bench.fn.status).toBe(UP_TO_READY | DeviceStatus.NEEDS_RESET);
  });

  it('PCI-5 G9 writing 0 resets everything the driver set, and the device, before the write is answered', () => {
    const bench = new Bench();
    bench.ready();
    bench.fn.interruptFor('config');
    const resets = bench.device.resets;
    expect(kinds(bench.status(0))).toEqual(['reset']);
    expect(bench.device.resets).toBe(resets + 1);
    expect(bench.read('deviceStatus', 1)).toBe(0);
    expect(bench.read('configVector')).toBe(0xffff);
    for (let queue = 0; queue < 3; queue++) {
      bench.write('queueSelect', queue);
      expect(bench.read('queueEnable')).toBe(0);
      expect(bench.read('queueReset')).toBe(0);
      expect(bench.read('queueSize')).toBe(256);
      expect(bench.read('queueVector')).toBe(0xffff);
      expect(bench.read('queueDescriptor', 8)).toBe(0);
    }
    expect(bench.fn.readRegion(0, bench.fn.layout.isr.offset, 1)).toEqual(Uint8Array.of(0));
  });
});

describe('common configuration: queues', () => {
  it('PCI-6 G6 queue_select beyond the last queue reads size 0, and writes there go nowhere', () => {
    const bench = new Bench();
    bench.agree();
    const before = JSON.stringify(bench.fn.queues);
    for (const select of [3, 4, 255, 0x8000, 0xffff]) {
      bench.write('queueSelect', select);
      expect(bench.read('queueSize')).toBe(0);
      expect(bench.read('queueEnable')).toBe(0);
      expect(bench.read('queueNotifyOffset')).toBe(0);
      expect(bench.read('queueDescriptor', 8)).toBe(0);
      bench.write('queueSize', 128);
      bench.write('queueVector', 1);
      bench.write('queueDescriptor', 0x1000, 8);
      expect(bench.write('queueEnable', 1)).toEqual([]);
      expect(bench.write('queueReset', 1)).toEqual([]);
    }
    expect(JSON.stringify(bench.fn.queues)).toBe(before);
  });

  it('PCI-6 a size is a power of two up to the maximum; anything else is ignored', () => {
    const bench = new Bench();
    for (const size of [128, 2, 1, 256]) {
      bench.write('queueSize', size);
      expect(bench.read('queueSize')).toBe(size);
    }
    for (const size of [0, 3, 100, 512, 0x8000, 0xffff]) {
      bench.write('queueSize', size);
      expect(bench.read('queueSize')).toBe(256);
    }
  });

  it('num_queues and queue_notify_off are the device’s; both ignore writes', () => {
    const bench = new Bench();
    bench.write('queueCount', 9);
    expect(bench.read('queueCount')).toBe(3);
    bench.write('queueSelect', 2);
    bench.write('queueNotifyOffset', 9);
    expect(bench.read('queueNotifyOffset')).toBe(2);
    expect(bench.read('adminQueueIndex', 4)).toBe(0);
  });

  it('PCI-13 addresses are taken as two halves in any order, as 8 bytes, and as single bytes', () => {
    const address = 0x12_3456_7890_abcd_00n;
    const writers: ((bench: Bench, at: number, bytes: Uint8Array) => void)[] = [
      (bench, at, bytes) => bench.fn.writeRegion(0, at, bytes),
      (bench, at, bytes) => {
        bench.fn.writeRegion(0, at + 4, bytes.slice(4));
        bench.fn.writeRegion(0, at, bytes.slice(0, 4));
      },
      (bench, at, bytes) =>
        bytes.forEach((byte, i) => {
          bench.fn.writeRegion(0, at + i, Uint8Array.of(byte));
        }),
    ];
    for (const write of writers) {
      const bench = new Bench();
      const bytes = new Uint8Array(8);
      new DataView(bytes.buffer).setBigUint64(0, address, true);
      write(bench, VirtioPciCommon.at.queueDriver, bytes);
      expect(bench.fn.queues[0]).toMatchObject({ driverAddress: address, descriptorAddress: 0n });
      expect(bench.fn.readRegion(0, VirtioPciCommon.at.queueDriver, 8)).toEqual(bytes);
    }
  });

  it('G7 a queue without addresses, or before FEATURES_OK, is not enabled', () => {
    const bench = new Bench();
    expect(bench.enable(0)).toEqual([{ kind: 'queue-refused', queue: 0, reason: 'features-not-agreed' }]);
    bench.status(0);
    bench.agree();
    bench.write('queueSelect', 1);
    expect(bench.write('queueEnable', 1)).toEqual([
      { kind: 'queue-refused', queue: 1, reason: 'address-missing' },
    ]);
    expect(bench.read('queueEnable')).toBe(0);
    expect(bench.enable(1)).toEqual([{ kind: 'queue-enable', queue: 1 }]);
    expect(bench.read('queueEnable')).toBe(1);
  });

  it('an enabled queue keeps its size and addresses, and is not disabled by writing 0', () => {
    const bench = new Bench();
    bench.agree();
    bench.enable(0);
    const before = { ...bench.fn.queues[0], d: bench.fn.queues[0]!.descriptorAddress };
    bench.write('queueSize', 64);
    bench.write('queueDescriptor', 0x5000, 8);
    expect(bench.write('queueEnable', 0)).toEqual([]);
    expect(bench.write('queueEnable', 1)).toEqual([]);
    expect({ ...bench.fn.queues[0], d: bench.fn.queues[0]!.descriptorAddress }).toEqual(before);
  });

  it('a queue whose rings cannot be used is taken back: queue_enable reads 0', () => {
    const bench = new Bench();
    bench.agree();
    bench.enable(2);
    bench.fn.disableQueue(2);
    expect(bench.read('queueEnable')).toBe(0);
    expect(bench.enable(2)).toEqual([{ kind: 'queue-enable', queue: 2 }]);
    bench.fn.disableQueue(99);
  });
});

describe('common configuration: queue reset', () => {
  it('PCI-7 BF-12 G8 reads 1 until the program is done, then 0 with everything as after reset', () => {
    const bench = new Bench();
    bench.ready();
    bench.write('queueSelect', 1);
    expect(bench.write('queueReset', 1)).toEqual([{ kind: 'queue-reset', queue: 1 }]);
    expect(bench.read('queueReset')).toBe(1);
    expect(bench.write('queueReset', 1)).toEqual([]);
    expect(bench.write('queueEnable', 1)).toEqual([{ kind: 'queue-refused', queue: 1, reason: 'resetting' }]);
    bench.fn.completeQueueReset(1);
    expect(bench.read('queueReset')).toBe(0);
    expect(bench.read('queueEnable')).toBe(0);
    expect(bench.read('queueSize')).toBe(256);
    expect(bench.read('queueVector')).toBe(0xffff);
    expect(bench.fn.queues[0]!.enabled).toBe(true);
  });

  it('BF-13 a queue enabled again has the new size and addresses, and queue_reset reads 0', () => {
    const bench = new Bench();
    bench.ready();
    bench.write('queueSelect', 0);
    bench.write('queueReset', 1);
    bench.fn.completeQueueReset(0);
    bench.write('queueSize', 16);
    bench.write('queueDescriptor', 0xa000, 8);
    bench.write('queueDriver', 0xb000, 8);
    bench.write('queueDevice', 0xc000, 8);
    expect(bench.write('queueEnable', 1)).toEqual([{ kind: 'queue-enable', queue: 0 }]);
    expect(bench.fn.queues[0]).toMatchObject({
      size: 16,
      descriptorAddress: 0xa000n,
      driverAddress: 0xb000n,
      deviceAddress: 0xc000n,
      resetting: false,
    });
    expect(bench.read('queueReset')).toBe(0);
  });

  it('without RING_RESET the register does nothing', () => {
    const bench = new Bench();
    bench.agree(featureMask([VirtioFeature.VERSION_1]));
    bench.enable(0);
    expect(bench.write('queueReset', 1)).toEqual([]);
    expect(bench.read('queueReset')).toBe(0);
    expect(bench.read('queueEnable')).toBe(1);
  });

  it('a device reset ends a queue reset', () => {
    const bench = new Bench();
    bench.ready();
    bench.write('queueSelect', 1);
    bench.write('queueReset', 1);
    bench.status(0);
    bench.write('queueSelect', 1);
    expect(bench.read('queueReset')).toBe(0);
    bench.fn.completeQueueReset(1);
    expect(bench.fn.queues[1]!.size).toBe(256);
  });
});
