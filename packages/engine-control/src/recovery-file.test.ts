import { featureMask, NetFeature, VirtioFeature } from '@virtnet/wire';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type DevicePlan, restorePlan } from './device-plan.js';
import { isFailure } from './errors.js';
import { FunctionKind } from './facts.js';
import { hotplugValues } from './firmware-entries.js';
import { hexLower } from './format.js';
import { planHotplug } from './hotplug.js';
import { recoveredHotplug, recoveredPlan } from './recovered-plan.js';
import {
  isRecoveryOf,
  RECOVERY_BYTES_MAX,
  type Recovery,
  readRecovery,
  writeRecovery,
} from './recovery-file.js';
import { type FunctionSite, NO_DEFAULTS, planStaticPf, planVf } from './static-functions.js';

const firmware = {
  ...hotplugValues(),
  VIRTIO_NET_EMULATION_NUM_PF: 2,
  VIRTIO_NET_EMULATION_NUM_VF: 100,
  VIRTIO_NET_EMULATION_NUM_VF_MSIX: 12,
  PCI_SWITCH_EMULATION_NUM_PORT: 15,
  PF_TOTAL_SF: 300,
  SRIOV_EN: 1,
};
const site: FunctionSite = {
  uplinkMtu: null,
  supportedFeatures: 0x1_0000_0020n,
  defaultFeatures: 0x1_0000_0020n,
  ibDevice: 'mlx5_0',
  mac: '02:00:00:00:00:07',
  sfNum: null,
};
function ok(plan: ReturnType<typeof planVf>): DevicePlan {
  if (isFailure(plan)) throw new Error(plan.errstr);
  return plan;
}
const staticPf = ok(planStaticPf(1, firmware, [], site, NO_DEFAULTS));
const vf = ok(planVf(1, 7, firmware, [], site, NO_DEFAULTS));
const hotplug = ok(
  planHotplug(
    {
      ibDevice: 'mlx5_0',
      mac: '0C:C4:7A:FF:22:93',
      mtu: 1500,
      queues: 3,
      queuePairs: null,
      queueSize: 1024,
      sfNum: null,
      features: null,
      legacy: false,
    },
    hotplugValues(),
    [],
    site,
  ),
);
const supported = site.supportedFeatures;
const plans = { 'static PF': staticPf, 'hotplug PF': hotplug, VF: vf };
const read = (text: string, vuid: string): Recovery => {
  const recovery = readRecovery(text, vuid);
  if ('problem' in recovery) throw new Error(recovery.problem);
  return recovery;
};
const refused = (problem: unknown, row: unknown = expect.any(String)) => ({ problem, row });

describe('recovery file', () => {
  it('of a hotplug PF is the guide’s example, but for its place', () => {
    expect(JSON.parse(writeRecovery(hotplug))).toEqual({
      port_ib_dev: 'mlx5_0',
      pf_id: 0,
      function_type: 'pf',
      bdf_raw: 0x1500,
      device_type: 'hotplug',
      mac: '0c:c4:7a:ff:22:93',
      pf_num: 0,
      sf_num: 2000,
      mq: 3,
    });
    expect(Object.keys(JSON.parse(writeRecovery(hotplug)))).toEqual([
      ...['port_ib_dev', 'pf_id', 'function_type', 'bdf_raw', 'device_type', 'mac', 'pf_num', 'sf_num', 'mq'],
    ]);
  });

  it.each(Object.entries(plans))('of a %s says again what the plan says', (_, plan) => {
    const { kind, ibDevice, pfId, vfId, address, mac, sfNum, queuePairs } = plan;
    const recovery = read(writeRecovery(plan), plan.vuid);
    expect(recovery).toEqual({ kind, ibDevice, pfId, vfId, address, mac, sfNum, queuePairs });
    expect(isRecoveryOf(recovery, plan)).toBe(true);
    expect(isRecoveryOf({ ...recovery, mac: '02:00:00:00:00:08' }, plan)).toBe(false);
  });

  it.each([
    ['empty', ''],
    ['torn', writeRecovery(vf).slice(0, 40)],
    ['no object', '[]'],
    ['null', 'null'],
    ['too large', `${writeRecovery(vf)}${' '.repeat(RECOVERY_BYTES_MAX)}`],
  ])('%s: a sentence', (_, text) => {
    expect(readRecovery(text, vf.vuid)).toEqual(refused(expect.any(String), 'REC_CONFIG_LOAD'));
  });

  it.each([
    [{ mac: 'no' }, 'REC_MAC_LOAD', 'mac is out of range'],
    [{ pf_id: -1 }, 'REC_PFNUM_LOAD', 'pf_id is out of range'],
    [{ pf_num: 256 }, 'REC_PFNUM_LOAD', 'pf_num is out of range'],
    [{ sf_num: 2999 }, 'REC_SFNUM_LOAD', 'sf_num is out of range'],
    [{ mq: 2 }, 'REC_CONFIG_LOAD', 'mq is out of range'],
    [{ vf_id: 8 }, 'REC_CONFIG_LOAD', `of another function than ${vf.vuid}`],
  ])('%j is refused by the guide’s row about it', (wrong, row, problem) => {
    const file = { ...(JSON.parse(writeRecovery(vf)) as object), ...wrong };
    expect(readRecovery(JSON.stringify(file), vf.vuid)).toEqual(refused(problem, row));
  });

  it.each<Record<string, unknown>>([
    { mac: '01:00:00:00:00:01' },
    { mac: '00:00:00:00:00:00' },
    { mac: 5 },
    { sf_num: 2000 },
    { sf_num: 3000.5 },
    { mq: 1 },
    { mq: 1e9 },
    { mq: 4 },
    { bdf_raw: -1 },
    { bdf_raw: 65536 },
    { port_ib_dev: '../../x' },
    { pf_id: 0 },
    { vf_id: 8 },
    { vf_id: '7' },
    { function_type: 'pf' },
    { device_type: 'static' },
    { pf_num: null },
    { more: 1 },
    { constructor: 1 },
  ])('%j in the file of another function, or out of range: a sentence', (wrong) => {
    const file = { ...(JSON.parse(writeRecovery(vf)) as object), ...wrong };
    expect(readRecovery(JSON.stringify(file), vf.vuid)).toEqual(refused(expect.any(String)));
  });

  it('of a VF without a share says so; no PF can be without queues', () => {
    const none = restorePlan({ ...vf, msixVectors: 0, queuePairs: 0 });
    if (typeof none === 'string') throw new Error(none);
    expect(none.queueCount).toBe(0);
    const text = writeRecovery(none);
    expect(JSON.parse(text)).toMatchObject({ function_type: 'vf', mq: 0 });
    const recovery = read(text, vf.vuid);
    expect(recovery.queuePairs).toBe(0);
    expect(recoveredPlan(vf, recovery, none, [], supported)).toEqual(none);
    for (const pf of [staticPf, hotplug]) {
      const file = { ...(JSON.parse(writeRecovery(pf)) as object), mq: 0 };
      expect(readRecovery(JSON.stringify(file), pf.vuid)).toEqual(refused('mq is out of range'));
      for (const without of [{ msixVectors: 0 }, { queuePairs: 0 }])
        expect(restorePlan({ ...pf, ...without })).toBe('only a VF can have no msixVectors or no queuePairs');
    }
  });

  it('vectors and pairs of a VF are kept each by itself', () => {
    const half = restorePlan({ ...vf, msixVectors: 0, queuePairs: 3 });
    if (typeof half === 'string') throw new Error(half);
    expect([half.queueCount, read(writeRecovery(half), vf.vuid).queuePairs]).toEqual([0, 3]);
    expect(recoveredPlan(vf, read(writeRecovery(half), vf.vuid), half, [], supported)).toEqual(half);
  });

  it('a file copied to another function’s name is refused', () => {
    for (const plan of Object.values(plans))
      for (const other of Object.values(plans))
        if (plan !== other)
          expect(readRecovery(writeRecovery(plan), other.vuid)).toEqual(refused(expect.any(String)));
  });

  it('whatever stands in it: a recovery within all limits, or a sentence', () => {
    const file = JSON.parse(writeRecovery(vf)) as Record<string, unknown>;
    const key = fc.constantFrom(...Object.keys(file));
    const change = fc.dictionary(key, fc.jsonValue(), { minKeys: 1, noNullPrototype: true });
    fc.assert(
      fc.property(
        fc.oneof(
          fc.json(),
          change.map((some) => JSON.stringify({ ...file, ...some })),
        ),
        (text) => {
          const recovery = readRecovery(text, vf.vuid);
          if ('problem' in recovery) return;
          const plan = recoveredPlan(vf, recovery, null, [], supported);
          if (typeof plan !== 'string') expect(restorePlan(plan)).toEqual(plan);
        },
      ),
    );
  });
});

describe('recovered function', () => {
  const fresh = { ...vf, mac: '02:00:00:00:00:99' };
  const recovery = read(writeRecovery(vf), vf.vuid);

  it('has what its file says, and what was saved beside it', () => {
    expect(recoveredPlan(fresh, recovery, null, [], supported)).toEqual(vf);
    expect(recoveredPlan(fresh, recovery, { ...vf, mtu: 1400 }, [], supported)).toEqual({ ...vf, mtu: 1400 });
  });

  it('is on the uplink that the configuration has for it', () => {
    const bonded = { ...fresh, ibDevice: 'mlx5_bond_0' };
    expect(recoveredPlan(bonded, recovery, vf, [], supported)).toEqual({ ...vf, ibDevice: 'mlx5_bond_0' });
  });

  it('offers what was saved as far as that can be had here, and never what no device can offer', () => {
    const offers = (features: bigint, more = 0n) => {
      const plan = recoveredPlan(
        fresh,
        recovery,
        { ...vf, features: hexLower(features) },
        [],
        supported | more,
      );
      return typeof plan === 'string' ? plan : BigInt(plan.features);
    };
    const { CTRL_GUEST_OFFLOADS, CTRL_VQ, HOST_USO, CSUM } = NetFeature;
    const own = featureMask([VirtioFeature.VERSION_1]);
    const offloads = own | featureMask([CTRL_GUEST_OFFLOADS]);
    const segments = own | featureMask([CSUM, HOST_USO]);
    expect(offers(own)).toBe(own);
    expect(offers(own | (1n << 50n)), 'of a newer version').toBe(own);
    expect(offers(segments, featureMask([CSUM])), 'of a newer kernel').toBe(own | featureMask([CSUM]));
    expect(offers(0n), 'without VERSION_1').toBe(BigInt(fresh.features));
    expect(offers(offloads, offloads), 'without what it needs').toBe(BigInt(fresh.features));
    const whole = offloads | featureMask([CTRL_VQ]);
    expect(offers(whole, whole)).toBe(whole);
  });

  it('does not take what another has', () => {
    const { kind, pfId, vfId, vuid, bdf, sfNum } = vf;
    const other = { kind, pfId, vfId, vuid: 'X', bdf: 'Y', sfNum: 1 };
    expect(typeof recoveredPlan(fresh, recovery, null, [other], supported)).toBe('object');
    for (const taken of [{ vuid }, { bdf }, { sfNum }])
      expect(typeof recoveredPlan(fresh, recovery, null, [{ ...other, ...taken }], supported)).toBe('string');
    expect(typeof recoveredPlan(fresh, { ...recovery, address: 1 }, null, [], supported)).toBe('string');
  });

  it('a hotplug PF comes back where it was, while the firmware has its port', () => {
    const file = read(writeRecovery(hotplug), hotplug.vuid);
    const again = (values = hotplugValues(), existing: Parameters<typeof recoveredHotplug>[5] = []) =>
      recoveredHotplug(hotplug.vuid, file, 'mlx5_0', hotplug, values, existing, site);
    expect(again()).toEqual(hotplug);
    expect(recoveredHotplug(hotplug.vuid, file, 'mlx5_1', hotplug, hotplugValues(), [], site)).toMatchObject({
      ...{ ibDevice: 'mlx5_1', uplinkPort: 1, mac: hotplug.mac, representor: 'en3f1pf1sf2000' },
    });
    expect(again({ ...hotplugValues(), PCI_SWITCH_EMULATION_NUM_PORT: 0 })).toEqual(expect.any(String));
    const { kind, pfId, vfId } = hotplug;
    expect(again(hotplugValues(), [{ kind, pfId, vfId, vuid: 'X', bdf: 'Y', sfNum: 1 }])).toEqual(
      expect.any(String),
    );
    expect(FunctionKind.HOTPLUG_PF).toBe(kind);
  });
});
