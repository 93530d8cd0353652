import { featureMask, hasFeature, NetFeature, VirtioFeature } from '@virtnet/wire';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  featureLabel,
  featureProblems,
  hotplugFeatures,
  RECEIVE_OFFLOADS,
  SUPPORTED_FEATURES,
  supportedFeatures,
  withoutOrphans,
} from './features.js';
import { NetDevice } from './net-device.js';
import { profileProblems } from './net-profile.js';
import { PROFILE } from './test-profile.fixture.js';

const N = NetFeature;

/** 5.1.3.1 of the specification, written down a second time so that a slip in the table is seen. */
const SPECIFIED: readonly [bit: number, oneOf: readonly number[]][] = [
  [7, [1]],
  [8, [1]],
  [9, [7, 8]],
  [10, [1]],
  [54, [1]],
  [55, [1]],
  [11, [0]],
  [12, [0]],
  [13, [11, 12]],
  [14, [0]],
  [56, [0]],
  [18, [17]],
  [19, [17]],
  [21, [17]],
  [22, [17]],
  [23, [17]],
  [53, [17]],
  [61, [11, 12]],
  [60, [17]],
  [52, [17]],
  [51, [17]],
  [51, [60, 57]],
];

const obeys = (mask: bigint): boolean =>
  SPECIFIED.every(([bit, oneOf]) => !hasFeature(mask, bit) || oneOf.some((n) => hasFeature(mask, n)));

const subsetOf = (mask: bigint) => fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }).map((bits) => bits & mask);

describe('features: what is offered', () => {
  it('a hotplug function offers exactly its set, UDP segmentation, VLAN filter and hashes only when asked for', () => {
    const plain = hotplugFeatures({ uso: false });
    const bits = Array.from({ length: 64 }, (_, bit) => bit).filter((bit) => hasFeature(plain, bit));
    expect(bits).toEqual([
      0, 1, 2, 3, 5, 7, 8, 9, 11, 12, 13, 16, 17, 18, 20, 21, 22, 23, 28, 29, 32, 33, 40, 52, 53, 59, 63,
    ]);
    expect(hotplugFeatures({ uso: true }) ^ plain).toBe(featureMask([54, 55, 56]));
    expect(hotplugFeatures({ uso: false, vlan: true }) ^ plain).toBe(1n << 19n);
    expect(hotplugFeatures({ uso: false, packedVq: true }) ^ plain).toBe(1n << 34n);
    expect(hotplugFeatures({ uso: false, mrgRxbuf: true }) ^ plain).toBe(1n << 15n);
  });

  it('supports packed and mergeable together, hashes and their use for steering, in-order use and notification data, all on request', () => {
    const request = featureMask([N.MRG_RXBUF, N.CTRL_VLAN, N.HASH_REPORT, N.RSS, 34, 35, 38]);
    for (const uso of [false, true])
      expect(supportedFeatures({ uso })).toBe(hotplugFeatures({ uso }) | request);
    expect(SUPPORTED_FEATURES, 'UDP segments both ways').toBe(supportedFeatures({ uso: true }));
    expect(profileProblems({ ...PROFILE, offeredFeatures: supportedFeatures({ uso: true }) })).toEqual([]);
  });

  it('BF-3 no profile offers a feature without what it needs, whatever mask is configured', () => {
    fc.assert(
      fc.property(subsetOf(SUPPORTED_FEATURES), (mask) => {
        const offeredFeatures = mask | featureMask([VirtioFeature.VERSION_1]);
        const problems = profileProblems({ ...PROFILE, offeredFeatures });
        if (problems.length === 0) expect(obeys(offeredFeatures)).toBe(true);
        else expect(() => new NetDevice({ ...PROFILE, offeredFeatures })).toThrow(RangeError);
        const pruned = withoutOrphans(offeredFeatures);
        expect(profileProblems({ ...PROFILE, offeredFeatures: pruned })).toEqual([]);
      }),
      { numRuns: 2000 },
    );
  });

  it('BF-5 a bit the device does not implement cannot be offered', () => {
    for (let bit = 0; bit < 64; bit++) {
      if (hasFeature(SUPPORTED_FEATURES, bit)) continue;
      const offeredFeatures = PROFILE.offeredFeatures | (1n << BigInt(bit));
      expect(profileProblems({ ...PROFILE, offeredFeatures })[0]).toContain('unsupported');
    }
  });

  it('BF-11 what the function has no capability for is not offered', () => {
    for (const bit of [VirtioFeature.SR_IOV, VirtioFeature.ADMIN_VQ])
      expect(hasFeature(SUPPORTED_FEATURES, bit)).toBe(false);
  });

  it('BF-7 VERSION_1 must be offered', () => {
    expect(profileProblems({ ...PROFILE, offeredFeatures: 0n })).toContain('VERSION_1 is not offered');
  });

  it('A21 GUEST_ANNOUNCE is not offered without control queue and link status', () => {
    const without = (bit: number): bigint => PROFILE.offeredFeatures & ~(1n << BigInt(bit));
    expect(featureProblems(without(N.STATUS), 'offered').join()).toContain('GUEST_ANNOUNCE');
    expect(hasFeature(withoutOrphans(without(N.CTRL_VQ)), N.GUEST_ANNOUNCE)).toBe(false);
  });
});

describe('features: what a driver may accept', () => {
  it('BF-4 of 2000 random subsets exactly those that obey the specification are accepted', () => {
    const device = new NetDevice(PROFILE);
    let refused = 0;
    fc.assert(
      fc.property(subsetOf(PROFILE.offeredFeatures), (mask) => {
        const accepted = device.featureProblems(mask).length === 0;
        expect(accepted).toBe(obeys(mask));
        if (!accepted) refused++;
      }),
      { numRuns: 2000 },
    );
    expect(refused).toBeGreaterThan(100);
  });

  it('BF-4 each dependency broken alone is refused by name', () => {
    for (const [bit, oneOf] of SPECIFIED) {
      const mask = (PROFILE.offeredFeatures | (1n << BigInt(bit))) & ~featureMask(oneOf);
      expect(featureProblems(mask, 'accepted').join()).toContain(featureLabel(bit));
    }
  });

  it('a bit that was not offered is refused', () => {
    const device = new NetDevice({ ...PROFILE, offeredFeatures: hotplugFeatures({ uso: false }) });
    expect(device.featureProblems(featureMask([N.CSUM, N.HOST_USO]))).toHaveLength(1);
    expect(device.featureProblems(1n << 62n)).toEqual(['not offered: 0x4000000000000000']);
  });

  it('withoutOrphans removes what it must, what depended on that, and nothing else', () => {
    fc.assert(
      fc.property(subsetOf((1n << 64n) - 1n), (mask) => {
        const left = withoutOrphans(mask);
        expect(left & ~mask).toBe(0n);
        expect(featureProblems(left, 'offered')).toEqual([]);
        if (featureProblems(mask, 'offered').length === 0) expect(left).toBe(mask);
      }),
    );
    expect(withoutOrphans(featureMask([N.HOST_ECN, N.HOST_TSO4]))).toBe(0n);
  });
});

describe('features: labels', () => {
  it('are the command line’s, also where the specification says otherwise', () => {
    expect(
      [0, 3, 15, 17, 28, 33, 34, 40, 41, 53, 54, 55, 56, 59, 63].map((bit) => featureLabel(bit)),
    ).toEqual([
      'VIRTIO_NET_F_CSUM',
      'VIRTIO_NET_F_MTU',
      'VIRTIO_F_MRG_RX_BUFFER',
      'VIRTIO_NET_F_CTRL_VQ',
      'VIRTIO_F_INDIRECT_DESC',
      'VIRTIO_F_IOMMU_PLATFORM',
      'VIRTIO_F_RING_PACKED',
      'VIRTIO_F_RING_RESET',
      'VIRTIO_F_ADMIN_VQ',
      'VIRTIO_NET_F_NOTF_COAL',
      'VIRTIO_NET_F_GUEST_USO4',
      'VIRTIO_NET_F_GUEST_USO6',
      'VIRTIO_NET_F_HOST_USO',
      'VIRTIO_NET_F_GUEST_HDRLEN',
      'VIRTIO_NET_F_SPEED_DUPLEX',
    ]);
    expect(featureLabel(50)).toBeNull();
  });

  it('every bit offered has one, and no two bits share one', () => {
    const labels = Array.from({ length: 64 }, (_, bit) => featureLabel(bit)).filter(
      (label) => label !== null,
    );
    expect(new Set(labels).size).toBe(labels.length);
    for (let bit = 0; bit < 64; bit++)
      if (hasFeature(SUPPORTED_FEATURES, bit)) expect(featureLabel(bit)).toMatch(/^VIRTIO_(NET_)?F_/);
  });

  it('receive offloads are features a driver accepts for itself', () => {
    expect(RECEIVE_OFFLOADS).toBe(featureMask([1, 7, 8, 9, 10, 54, 55]));
  });
});
