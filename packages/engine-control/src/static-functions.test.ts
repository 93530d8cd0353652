import { featureMask, NetFeature, VirtioFeature } from '@virtnet/wire';
import { describe, expect, it } from 'vitest';
import { type DevicePlan, restorePlan } from './device-plan.js';
import { failure, isFailure } from './errors.js';
import { FunctionKind } from './facts.js';
import { firmwareLimits } from './firmware-config.js';
import { type FirmwareValues, hotplugValues } from './firmware-entries.js';
import { type ExistingDevice, planHotplug } from './hotplug.js';
import {
  type FunctionSite,
  NO_DEFAULTS,
  pairsForVectors,
  planStaticPf,
  planVf,
  vfPoolRules,
} from './static-functions.js';

const offered = featureMask([NetFeature.CSUM, NetFeature.MAC, NetFeature.CTRL_VQ, VirtioFeature.VERSION_1]);
const site: FunctionSite = {
  uplinkMtu: null,
  supportedFeatures: offered | featureMask([NetFeature.STATUS]),
  defaultFeatures: offered,
  ibDevice: 'mlx5_0',
  mac: '02:00:00:00:00:07',
  sfNum: null,
};
/** The guide's 4 x 126 VFs. */
const firmware: FirmwareValues = {
  ...hotplugValues(),
  VIRTIO_NET_EMULATION_NUM_PF: 4,
  VIRTIO_NET_EMULATION_NUM_VF: 126,
  VIRTIO_NET_EMULATION_NUM_VF_MSIX: 12,
  PCI_SWITCH_EMULATION_NUM_PORT: 15,
  PF_TOTAL_SF: 600,
  SRIOV_EN: 1,
};
const ok = (plan: DevicePlan | ReturnType<typeof failure>): DevicePlan => {
  if (isFailure(plan)) throw new Error(plan.errstr);
  return plan;
};
const pf = (pfId: number, devices: readonly ExistingDevice[] = [], change = {}) =>
  planStaticPf(pfId, { ...firmware, ...change }, devices, site, NO_DEFAULTS);
const vf = (
  pfId: number,
  vfId: number,
  devices: readonly ExistingDevice[] = [],
  defaults = {},
  change = {},
) => planVf(pfId, vfId, { ...firmware, ...change }, devices, site, { ...NO_DEFAULTS, ...defaults });

describe('static PF', () => {
  it('the first is the one of the guide', () => {
    expect(ok(pf(0))).toMatchObject({
      kind: FunctionKind.STATIC_PF,
      pfId: 0,
      vfId: null,
      bdf: '14:00.2',
      vuid: 'MT2151X03152VNETS0D0F2',
      sfNum: 1000,
      representor: 'en3f0pf0sf1000',
      mac: site.mac,
      mtu: 1500,
      msixVectors: 64,
      queuePairs: 31,
      queueSize: 256,
    });
  });

  it('the seventh has the next PCI device', () => {
    const seventh = ok(pf(6, [], { VIRTIO_NET_EMULATION_NUM_PF: 7, VIRTIO_NET_EMULATION_NUM_VF: 0 }));
    expect(seventh).toMatchObject({ bdf: '14:01.0', vuid: 'MT2151X03152VNETS0D1F0', sfNum: 1006 });
  });

  it('exists only as far as the firmware says', () => {
    expect(pf(4)).toEqual(failure('ID_OUT_OF_RANGE'));
    expect(pf(0, [], { VIRTIO_NET_EMULATION_ENABLE: 0 })).toEqual(failure('ID_OUT_OF_RANGE'));
    expect(pf(0, [], { VIRTIO_NET_EMULATION_NUM_MSIX: 2 })).toEqual(failure('MSIX_INVALID'));
    expect(pf(1, [ok(pf(0))], { PF_TOTAL_SF: 1 })).toEqual(failure('SF_CREATE'));
    expect(pf(0, [ok(pf(0))])).toEqual(failure('SF_NUM_IN_USE'));
  });

  it('a hotplug PF beside it has the next number, also while it does not exist', () => {
    const request = { ibDevice: 'mlx5_0', mac: site.mac, mtu: 1500, queues: 3, queuePairs: null };
    const more = { queueSize: 256, sfNum: null, features: null, legacy: false };
    const plan = ok(planHotplug({ ...request, ...more }, firmware, [], site));
    expect(plan).toMatchObject({ pfId: 4, bdf: '16:00.0', vuid: 'MT2151X03152VNETS1D0F0' }); // 511 functions before it
  });
});

describe('VF', () => {
  it('has the vectors of its own entry and its PF in its names', () => {
    expect(ok(vf(1, 0))).toMatchObject({
      kind: FunctionKind.VF,
      pfId: 1,
      vfId: 0,
      vuid: 'MT2151X03152VNETS0D0F3VF1',
      bdf: '14:10.5', // 7 functions and 126 VFs before it
      sfNum: 3000,
      msixVectors: 12,
      queuePairs: 5,
    });
  });

  it('takes the vectors of a PF without an entry of its own, and not more than a native VF', () => {
    expect(ok(vf(0, 0, [], {}, { VIRTIO_NET_EMULATION_NUM_VF_MSIX: 0 })).msixVectors).toBe(64);
    const both = { VIRTIO_NET_EMULATION_NUM_VF_MSIX: 0, NUM_VF_MSIX: 32 };
    expect(ok(vf(0, 0, [], {}, both)).msixVectors).toBe(32);
  });

  it('an SF that a VF gave back is used again; one asked for is taken when it is free', () => {
    const others = [ok(vf(0, 0)), { ...ok(vf(0, 2)), sfNum: 3002 }];
    expect(ok(vf(0, 1, others)).sfNum).toBe(3001);
    const wanting = { ...site, sfNum: 3050 };
    expect(ok(planVf(0, 1, firmware, others, wanting, NO_DEFAULTS)).sfNum).toBe(3050);
    expect(ok(planVf(0, 1, firmware, others, { ...site, sfNum: 3002 }, NO_DEFAULTS)).sfNum).toBe(3001);
  });

  it('an SF of a function that is still to come back is left to it, unless there is no other', () => {
    const promising = (promisedSfs: readonly number[]) =>
      ok(planVf(0, 0, firmware, [ok(vf(1, 0))], { ...site, promisedSfs: new Set(promisedSfs) }, NO_DEFAULTS));
    expect(promising([3001, 3002, 3004]).sfNum).toBe(3003);
    expect(promising(Array.from({ length: 7000 }, (_, i) => 3000 + i)).sfNum).toBe(3001);
  });

  it('beyond what the firmware reserves there is none', () => {
    expect(vf(0, 126)).toEqual(failure('ID_OUT_OF_RANGE'));
    expect(vf(4, 0)).toEqual(failure('VF_DEV_GET'));
    expect(vf(0, 0, [], {}, { SRIOV_EN: 0 })).toEqual(failure('ID_OUT_OF_RANGE'));
  });

  it('follows the configuration file: the example of the guide', () => {
    const example = { macBase: '06:11:22:33:44:55', features: '0x230047082b', vfsPerPf: 126, queuePairs: 4 };
    expect(ok(vf(0, 0, [], example)).mac).toBe('06:11:22:33:44:55');
    const last = ok(vf(3, 125, [], { ...example, queueSize: 256 }));
    expect(last).toMatchObject({ mac: '06:11:22:33:46:4C', queuePairs: 4, queueSize: 256 });
    const bits = [
      NetFeature.CSUM,
      NetFeature.MAC,
      NetFeature.STATUS,
      NetFeature.CTRL_VQ,
      VirtioFeature.VERSION_1,
    ];
    expect(BigInt(last.features)).toBe(featureMask(bits) & BigInt('0x230047082b'));
  });

  it('with a smaller vfs_per_pf two VFs get one address, as the guide warns', () => {
    const narrow = { macBase: '06:11:22:33:44:55', vfsPerPf: 10 };
    expect(ok(vf(0, 10, [], narrow)).mac).toBe(ok(vf(1, 0, [], narrow)).mac);
  });

  it.each([
    [{ queuePairs: 0 }, 'QUEUES_INVALID'],
    [{ queueSize: 100 }, 'QUEUE_SIZE_INVALID'],
    [{ features: 'many' }, 'DEV_FEATURE_VALIDATE'],
  ] as const)('%j is refused', (defaults, name) => {
    expect(vf(0, 0, [], defaults)).toEqual(failure(name));
  });
});

describe('plan of a fixed function', () => {
  it.each([ok(pf(3)), ok(vf(3, 125))])('comes back the same from JSON', (plan) => {
    expect(restorePlan(JSON.parse(JSON.stringify(plan)))).toEqual(plan);
  });

  it.each<[object]>([
    [{ ...ok(pf(3)), address: 0x1402 }],
    [{ ...ok(pf(3)), vfId: 0 }],
    [{ ...ok(pf(3)), switchPort: 0 }],
    [{ ...ok(pf(3)), sfNum: 2000 }],
    [{ ...ok(pf(3)), pfId: 31, address: 0x1421 }],
    [{ ...ok(vf(0, 0)), vfId: null }],
    [{ ...ok(vf(0, 0)), address: 0x1402 }],
    [{ ...ok(vf(0, 0)), sfNum: 1000 }],
    [{ ...ok(vf(0, 0)), switchPort: 1 }],
    [{ ...ok(vf(0, 0)), kind: FunctionKind.HOTPLUG_PF }],
  ])('%j is refused', (saved) => {
    expect(typeof restorePlan(saved)).toBe('string');
  });
});

it('a pool counts from what a VF starts with', () => {
  const limits = firmwareLimits(firmware);
  const most = { msixVectors: 256, queuePairs: 127 };
  for (const defaults of [NO_DEFAULTS, { ...NO_DEFAULTS, queuePairs: 9 }]) {
    const { msixVectors, queuePairs } = ok(vf(0, 0, [], defaults));
    expect(vfPoolRules(limits, defaults)).toEqual({ initial: { msixVectors, queuePairs }, most });
  }
});

it('vectors are enough for one pair or many', () => {
  expect([2, 4, 12, 64, 256, 2048].map(pairsForVectors)).toEqual([0, 1, 5, 31, 127, 127]);
});
