import { featureMask, NetFeature, VirtioFeature } from '@virtnet/wire';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type DevicePlan, restorePlan } from './device-plan.js';
import { type ControlErrorName, failure, isFailure } from './errors.js';
import { type DeviceIdentity, FunctionKind } from './facts.js';
import { type FirmwareValues, factoryValues, hotplugValues } from './firmware-entries.js';
import { type ExistingDevice, type PlanSite, planHotplug, planUnplug } from './hotplug.js';
import type { HotplugRequest } from './requests.js';

const defaults = featureMask([NetFeature.CSUM, NetFeature.MAC, NetFeature.CTRL_VQ, VirtioFeature.VERSION_1]);
const site: PlanSite = {
  uplinkMtu: 1500,
  supportedFeatures:
    defaults | featureMask([NetFeature.CTRL_VLAN, NetFeature.GUEST_TSO4, NetFeature.GUEST_CSUM]),
  defaultFeatures: defaults,
};
const firmware = hotplugValues();
/** The guide's first example: `-i mlx5_0 -f 0x0 -m 0C:C4:7A:FF:22:93 -t 1500 -n 3 -s 1024`. */
const request: HotplugRequest = {
  ibDevice: 'mlx5_0',
  mac: '0C:C4:7A:FF:22:93',
  mtu: 1500,
  queues: 3,
  queuePairs: null,
  queueSize: 1024,
  sfNum: null,
  features: '0x0',
  legacy: false,
};

function existing(plan: DevicePlan): ExistingDevice {
  return plan;
}
function planned(
  change: Partial<HotplugRequest> = {},
  devices: readonly ExistingDevice[] = [],
  values: FirmwareValues = firmware,
): DevicePlan {
  const plan = planHotplug({ ...request, ...change }, values, devices, site);
  if (isFailure(plan)) throw new Error(plan.errstr);
  return plan;
}
function devicesUpTo(count: number): ExistingDevice[] {
  const devices: ExistingDevice[] = [];
  while (devices.length < count) devices.push(existing(planned({}, devices)));
  return devices;
}

describe('hotplug', () => {
  it('the guide example makes 15:00.0 with SF 2000', () => {
    expect(planned()).toMatchObject({
      pfId: 0,
      bdf: '15:00.0',
      vuid: 'MT2151X03152VNETS1D0F0',
      representor: 'en3f0pf0sf2000',
      mac: '0C:C4:7A:FF:22:93',
      queuePairs: 1,
      queueCount: 3,
      queueSize: 1024,
      msixVectors: 64,
      features: `0x${defaults.toString(16)}`,
    });
  });

  it('the second device is 16:00.0 with SF 2001', () => {
    expect(planned({}, devicesUpTo(1))).toMatchObject({
      pfId: 1,
      bdf: '16:00.0',
      vuid: 'MT2151X03152VNETS1D1F0',
      sfNum: 2001,
      representor: 'en3f0pf0sf2001',
    });
  });

  it('the place of a device that was unplugged is taken again', () => {
    const devices = devicesUpTo(3);
    expect(planned({}, [devices[0]!, devices[2]!])).toMatchObject({ pfId: 1, bdf: '16:00.0', sfNum: 2001 });
  });

  it('beside static PFs the number goes on, the SF stays the first of its range', () => {
    const fixed = {
      kind: FunctionKind.STATIC_PF,
      pfId: 0,
      vfId: null,
      vuid: 'V',
      bdf: '14:00.2',
      sfNum: 1000,
    };
    expect(planned({}, [fixed])).toMatchObject({ pfId: 1, bdf: '15:00.0', sfNum: 2000 });
  });

  it('a VF does not take the number of its PF', () => {
    const vf = { kind: FunctionKind.VF, pfId: 0, vfId: 0, vuid: 'V', bdf: '14:00.4', sfNum: 3000 };
    expect(planned({}, [vf]).pfId).toBe(0);
  });

  it('an SF number that -u gave away is passed over', () => {
    const first = existing(planned({ sfNum: 2001 }));
    expect(planned({}, [first]).sfNum).toBe(2002);
  });

  it('the second uplink has its own representor name and address', () => {
    expect(planned({ ibDevice: 'mlx5_1' })).toMatchObject({
      uplinkPort: 1,
      representor: 'en3f1pf1sf2000',
      ibDevicePciAddress: '0000:03:00.1',
    });
  });

  it('features asked for are added to the default ones', () => {
    const plan = planned({ features: '0x80000' });
    expect(BigInt(plan.features)).toBe(defaults | (1n << BigInt(NetFeature.CTRL_VLAN)));
  });

  it.each([
    [{ queues: 3, queuePairs: null }, 1],
    [{ queues: 4, queuePairs: null }, 1],
    [{ queues: 63, queuePairs: null }, 31],
    [{ queues: null, queuePairs: 1 }, 1],
    [{ queues: null, queuePairs: 31 }, 31],
  ])('%j makes %i pairs', (change, pairs) => {
    expect(planned(change)).toMatchObject({ queuePairs: pairs, queueCount: 2 * pairs + 1 });
  });

  it('MTU is limited by the uplink, and by the jumbo size where there is no uplink', () => {
    const plan = (mtu: number, uplinkMtu: number | null) =>
      isFailure(planHotplug({ ...request, mtu }, firmware, [], { ...site, uplinkMtu }));
    expect([68, 9000].map((mtu) => plan(mtu, 9000))).toEqual([false, false]);
    expect(plan(9001, 9000)).toBe(true);
    expect([9216, 9217].map((mtu) => plan(mtu, null))).toEqual([false, true]);
    expect(plan(9217, 65535)).toBe(true);
  });
});

const refusals: readonly (readonly [string, Partial<HotplugRequest>, ControlErrorName])[] = [
  ['legacy', { legacy: true }, 'OPT_NOT_SUPPORTED'],
  ['unknown uplink', { ibDevice: 'mlx5_2' }, 'PORT_CTX_NOT_FOUND'],
  ['uplink named like an object property', { ibDevice: 'toString' }, 'PORT_CTX_NOT_FOUND'],
  ['MAC too short', { mac: '0C:C4:7A:FF:22' }, 'MAC_INVALID'],
  ['MAC of a group', { mac: '01:00:5E:00:00:01' }, 'MAC_INVALID'],
  ['MAC broadcast', { mac: 'FF:FF:FF:FF:FF:FF' }, 'MAC_INVALID'],
  ['MAC zero', { mac: '00:00:00:00:00:00' }, 'MAC_INVALID'],
  ['MTU below 68', { mtu: 67 }, 'MTU_INVALID'],
  ['MTU above the uplink', { mtu: 1501 }, 'MTU_INVALID'],
  ['MTU not whole', { mtu: 1500.5 }, 'MTU_INVALID'],
  ['2 virtqueues', { queues: 2 }, 'QUEUES_INVALID'],
  ['64 virtqueues for 64 vectors', { queues: 64 }, 'QUEUES_INVALID'],
  ['both ways to count queues', { queues: 3, queuePairs: 1 }, 'QUEUES_INVALID'],
  ['no way to count queues', { queues: null }, 'QUEUES_INVALID'],
  ['no pair', { queues: null, queuePairs: 0 }, 'QUEUES_INVALID'],
  ['32 pairs for 64 vectors', { queues: null, queuePairs: 32 }, 'QUEUES_INVALID'],
  ['half a pair', { queues: null, queuePairs: 1.5 }, 'QUEUES_INVALID'],
  ['queue size 2', { queueSize: 2 }, 'QUEUE_SIZE_RULE'],
  ['queue size 0', { queueSize: 0 }, 'QUEUE_SIZE_RULE'],
  ['queue size 1000', { queueSize: 1000 }, 'QUEUE_SIZE_RULE'],
  ['queue size negative', { queueSize: -256 }, 'QUEUE_SIZE_RULE'],
  ['queue size 0x10000', { queueSize: 0x10000 }, 'QUEUE_SIZE_INVALID'],
  ['queue size of 2^32', { queueSize: 2 ** 32 }, 'QUEUE_SIZE_INVALID'],
  ['SF below the range', { sfNum: 1999 }, 'SF_NUM_RANGE'],
  ['SF above the range', { sfNum: 3000 }, 'SF_NUM_RANGE'],
  ['feature not supported', { features: '0x8' }, 'DEV_FEATURE_VALIDATE'],
  ['feature without what it needs', { features: '0x80' }, 'DEV_FEATURE_VALIDATE'],
  ['features not a number', { features: 'all' }, 'DEV_FEATURE_VALIDATE'],
];

describe('hotplug refuses', () => {
  it.each(refusals)('%s', (_, change, name) => {
    expect(planHotplug({ ...request, ...change }, firmware, [], site)).toEqual(failure(name));
  });

  it('limits themselves are inside', () => {
    for (const queueSize of [4, 0x8000]) expect(planned({ queueSize }).queueSize).toBe(queueSize);
    for (const sfNum of [2000, 2999]) expect(planned({ sfNum }).sfNum).toBe(sfNum);
  });

  it('an SF number that is in use', () => {
    expect(planHotplug({ ...request, sfNum: 2000 }, firmware, devicesUpTo(1), site)).toEqual(
      failure('SF_NUM_IN_USE'),
    );
  });

  it('the 17th device behind 16 ports', () => {
    expect(planHotplug(request, firmware, devicesUpTo(16), site)).toEqual(failure('SNAP_PF_HOTPLUG'));
  });

  it.each([
    ['VIRTIO_NET_EMULATION_ENABLE', 'SNAP_PF_HOTPLUG'],
    ['PCI_SWITCH_EMULATION_ENABLE', 'SNAP_PF_HOTPLUG'],
    ['PF_TOTAL_SF', 'SF_CREATE'],
  ] as const)('every device when %s is 0', (name, expected) => {
    expect(planHotplug(request, { ...firmware, [name]: 0 }, [], site)).toEqual(failure(expected));
  });

  it('every device when the firmware gives fewer vectors than a function needs', () => {
    const values = {
      ...firmware,
      VIRTIO_NET_EMULATION_NUM_MSIX: factoryValues().VIRTIO_NET_EMULATION_NUM_MSIX,
    };
    expect(planHotplug(request, values, [], site)).toEqual(failure('MSIX_INVALID'));
  });

  it('one SF more than the firmware has', () => {
    const values = { ...firmware, PF_TOTAL_SF: 2 };
    expect(planHotplug(request, values, devicesUpTo(1), site)).not.toHaveProperty('errno');
    expect(planHotplug(request, values, devicesUpTo(2), site)).toEqual(failure('SF_CREATE'));
  });
});

const anyRequest: fc.Arbitrary<HotplugRequest> = fc.record({
  ibDevice: fc.constantFrom('mlx5_0', 'mlx5_1', 'mlx5_bond_0', 'mlx5_9'),
  mac: fc.constantFrom(request.mac, '02:00:00:00:00:01', '01:00:00:00:00:00', 'x'),
  mtu: fc.integer({ min: 60, max: 1510 }),
  queues: fc.option(fc.integer({ min: 0, max: 70 })),
  queuePairs: fc.option(fc.integer({ min: 0, max: 40 })),
  queueSize: fc.oneof(fc.constantFrom(4, 256, 0x8000), fc.integer({ min: -10, max: 70_000 })),
  sfNum: fc.option(fc.integer({ min: 1995, max: 2005 }), { freq: 2 }),
  features: fc.option(fc.constantFrom('0x0', '0x80000', '0x80', 'junk')),
  legacy: fc.boolean().map((x) => x && false),
});

describe('hotplug and unplug in any order', () => {
  it('never give two devices the same number, address, VUID, SF or representor', () => {
    const step = fc.oneof(
      fc.record({ add: anyRequest }),
      fc.record({ add: fc.constant(request) }),
      fc.record({ remove: fc.nat(20) }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
        let devices: (ExistingDevice & { representor: string })[] = [];
        for (const action of steps) {
          if ('remove' in action) {
            const found = planUnplug({ pf: action.remove, vuid: null }, devices);
            expect(isFailure(found)).toBe(!devices.some(({ pfId }) => pfId === action.remove));
            if (!isFailure(found)) devices = devices.filter((device) => device !== found.device);
            continue;
          }
          const plan = planHotplug(action.add, firmware, devices, site);
          if (isFailure(plan)) continue;
          expect(restorePlan(JSON.parse(JSON.stringify(plan)))).toEqual(plan);
          devices.push({ ...existing(plan), representor: plan.representor });
          for (const key of ['pfId', 'bdf', 'vuid', 'sfNum', 'representor'] as const)
            expect(new Set(devices.map((device) => device[key])).size).toBe(devices.length);
        }
      }),
    );
  });
});

describe('unplug', () => {
  const fixed: DeviceIdentity = {
    kind: FunctionKind.STATIC_PF,
    pfId: 7,
    vfId: null,
    vuid: 'MT2151X03152VNETS0D0F2',
    bdf: '14:00.2',
    sfNum: 1000,
  };
  const devices = [...devicesUpTo(2), fixed];

  it('finds the device by number and by VUID', () => {
    expect(planUnplug({ pf: 1, vuid: null }, devices)).toEqual({ device: devices[1] });
    expect(planUnplug({ pf: null, vuid: devices[0]!.vuid }, devices)).toEqual({ device: devices[0] });
  });

  it.each<[string, number | null, string | null, ControlErrorName]>([
    ['a number nobody has', 5, null, 'DEV_NOT_EXIST'],
    ['a number out of range', 62, null, 'ID_OUT_OF_RANGE'],
    ['a negative number', -1, null, 'ID_OUT_OF_RANGE'],
    ['a VUID nobody has', null, 'MT2151X03152VNETS1D9F0', 'DEV_NOT_EXIST'],
    ['a text that is no VUID', null, 'x', 'VUID_INVALID'],
    ['a static PF', 7, null, 'DEV_NOT_HOTPLUG'],
    ['neither number nor VUID', null, null, 'OPT_NOT_SUPPORTED'],
    ['both', 0, 'MT2151X03152VNETS1D0F0', 'OPT_NOT_SUPPORTED'],
  ])('refuses %s', (_, pf, vuid, name) => {
    expect(planUnplug({ pf, vuid }, devices)).toEqual(failure(name));
  });
});

describe('saved plan', () => {
  const saved = JSON.parse(JSON.stringify(planned())) as Record<string, unknown>;

  it('is plain JSON and comes back the same', () => {
    expect(restorePlan(saved)).toEqual(planned());
  });

  it('derived names are not believed', () => {
    expect(restorePlan({ ...saved, representor: '../x', bdf: 'ff:ff.f', queueCount: 9999 })).toEqual(
      planned(),
    );
  });

  it.each<[string, unknown]>([
    ['pfId', 62],
    ['pfId', '0'],
    ['kind', 'PF'],
    ['switchPort', -1],
    ['switchPort', null],
    ['address', 0x1501],
    ['address', 0x1400],
    ['vfId', undefined],
    ['sfNum', 1000],
    ['ibDevice', 'eth0'],
    ['mac', 'FF:FF:FF:FF:FF:FF'],
    ['mtu', 9217],
    ['queuePairs', 128],
    ['queuePairs', 0],
    ['queueSize', 3],
    ['msixVectors', 2],
    ['features', '0xfffffffffffffffff'],
    ['features', undefined],
  ])('with a wrong %s is refused', (name, value) => {
    expect(restorePlan({ ...saved, [name]: value })).toContain(name);
  });

  it('never throws, whatever the JSON', () => {
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        expect(typeof restorePlan(value)).toBe('string');
      }),
    );
  });
});
