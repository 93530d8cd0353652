import { featureMask, hasFeature, NetFeature, VhostFeature, VirtioFeature } from '@virtnet/wire';
import { describe, expect, test } from 'vitest';
import { backendFeatures, functionFeatures, PASSABLE_FEATURES } from './features.js';

const N = NetFeature;
const V = VirtioFeature;
const everything = (1n << 64n) - 1n;
const bit = (n: number) => 1n << BigInt(n);

/** virtio 5.1.3.1, written again from the specification: a bit and what it needs one of. */
const dependencies: readonly (readonly [number, readonly number[]])[] = [
  [N.GUEST_TSO4, [N.GUEST_CSUM]],
  [N.GUEST_TSO6, [N.GUEST_CSUM]],
  [N.GUEST_ECN, [N.GUEST_TSO4, N.GUEST_TSO6]],
  [N.GUEST_UFO, [N.GUEST_CSUM]],
  [N.GUEST_USO4, [N.GUEST_CSUM]],
  [N.GUEST_USO6, [N.GUEST_CSUM]],
  [N.HOST_TSO4, [N.CSUM]],
  [N.HOST_TSO6, [N.CSUM]],
  [N.HOST_ECN, [N.HOST_TSO4, N.HOST_TSO6]],
  [N.HOST_UFO, [N.CSUM]],
  [N.HOST_USO, [N.CSUM]],
  [N.CTRL_RX, [N.CTRL_VQ]],
  [N.CTRL_VLAN, [N.CTRL_VQ]],
  [N.GUEST_ANNOUNCE, [N.CTRL_VQ]],
  [N.MQ, [N.CTRL_VQ]],
  [N.CTRL_MAC_ADDR, [N.CTRL_VQ]],
];
const orphansIn = (mask: bigint, present = mask) =>
  dependencies.filter(([b, oneOf]) => hasFeature(mask, b) && !oneOf.some((o) => hasFeature(present, o)));

describe('backend features', () => {
  test('a function that offers everything > what only the frontend, or a PCI driver, may offer stays back', () => {
    const offer = backendFeatures(everything);
    const kept = [
      N.CTRL_VQ,
      N.CTRL_RX,
      N.CTRL_VLAN,
      N.CTRL_RX_EXTRA,
      N.CTRL_MAC_ADDR,
      N.CTRL_GUEST_OFFLOADS,
      N.MAC,
      N.STATUS,
      N.RSS,
      N.HASH_REPORT,
      N.STANDBY,
      N.SPEED_DUPLEX,
      N.NOTF_COAL,
      N.VQ_NOTF_COAL,
      V.ACCESS_PLATFORM,
      V.ORDER_PLATFORM,
      V.SR_IOV,
      V.RING_RESET,
      V.ADMIN_VQ,
      V.NOTIFICATION_DATA,
      VhostFeature.LOG_ALL,
    ];
    expect(kept.filter((b) => hasFeature(offer, b))).toEqual([]);
  });

  test('a function that offers everything > every bit QEMU and virtio-user ask a backend for is there', () => {
    const offer = backendFeatures(everything);
    const asked = [
      N.CSUM,
      N.GUEST_CSUM,
      N.GUEST_TSO4,
      N.GUEST_TSO6,
      N.GUEST_ECN,
      N.GUEST_UFO,
      N.HOST_TSO4,
      N.HOST_TSO6,
      N.HOST_ECN,
      N.HOST_UFO,
      N.MRG_RXBUF,
      N.MTU,
      N.GUEST_ANNOUNCE,
      N.MQ,
      V.INDIRECT_DESC,
      V.EVENT_IDX,
      V.VERSION_1,
      V.RING_PACKED,
      V.IN_ORDER,
      VhostFeature.PROTOCOL_FEATURES,
    ];
    expect(asked.filter((b) => !hasFeature(offer, b))).toEqual([]);
  });

  test('§5.1.3.1 any pair of bits a function may lack > nothing is offered beyond it, and nothing without what it needs', () => {
    for (let a = 0; a < 64; a++)
      for (let b = a; b < 64; b++) {
        const functionOffer = everything & ~(bit(a) | bit(b));
        const offer = backendFeatures(functionOffer) & ~bit(VhostFeature.PROTOCOL_FEATURES);
        expect(offer & ~functionOffer, `without ${a} and ${b}`).toBe(0n);
        // The control queue is the frontend's own.
        expect(orphansIn(offer, offer | bit(N.CTRL_VQ)), `without ${a} and ${b}`).toEqual([]);
      }
  });

  test('a function without a control queue > neither several pairs nor announcements are offered', () => {
    const offer = backendFeatures(everything & ~bit(N.CTRL_VQ));
    expect(hasFeature(offer, N.MQ) || hasFeature(offer, N.GUEST_ANNOUNCE)).toBe(false);
  });

  test('§5.1.3.1 any subset a frontend accepts > becomes a set the function can accept', () => {
    let seed = 0x9e3779b97f4a7c15n;
    for (let round = 0; round < 2000; round++) {
      seed = (seed * 6364136223846793005n + 1442695040888963407n) & everything;
      const functionOffer = seed | bit(N.CTRL_VQ);
      seed = (seed * 6364136223846793005n + 1442695040888963407n) & everything;
      const accepted = backendFeatures(functionOffer) & seed;
      const features = functionFeatures(accepted, functionOffer);
      expect(features & ~functionOffer).toBe(0n);
      expect(orphansIn(features)).toEqual([]);
    }
  });

  test('several pairs accepted > the function is asked for its control queue too, and never for announcements', () => {
    const features = functionFeatures(featureMask([N.MQ, N.GUEST_ANNOUNCE, V.VERSION_1]), everything);
    expect(features).toBe(featureMask([N.MQ, N.CTRL_VQ, N.MAC, V.VERSION_1]));
    expect(hasFeature(PASSABLE_FEATURES, N.CTRL_VQ)).toBe(false);
  });
});
