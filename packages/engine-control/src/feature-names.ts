/**
 * feature-names.ts: feature bits as the virtnet command line names them, and what each bit needs.
 *
 * Theory
 *   The names follow the specification with the prefix of their table, except where the original prints something
 *   else. Every bit the specification has gets a name, so that an object that explains a mask never loses a bit.
 *   Dependencies are those of virtio 1.3, section 5.1.3.1, and those without which a bit makes no sense: it may be offered
 *   only with one of the bits it needs. A device is made by the table of engine-virtio-net, which has to say the same.
 *
 * Invariants
 *   I1  keys of `featureObject(mask)` are exactly the bits set in `mask`.
 *   I2  `featureProblem(mask) === null` means that every bit in `mask` has what it needs.
 */
import { hasFeature, NetFeature, VirtioFeature } from '@virtnet/wire';
import { bitObject } from './format.js';

/** Where the original's name is not the specification's. */
const ORIGINAL_NAMES: ReadonlyMap<number, string> = new Map<number, string>([
  [NetFeature.MRG_RXBUF, 'VIRTIO_F_MRG_RX_BUFFER'],
  [VirtioFeature.ACCESS_PLATFORM, 'VIRTIO_F_IOMMU_PLATFORM'],
]);

const NAMES: ReadonlyMap<number, string> = new Map([
  ...Object.entries(NetFeature).map(([name, bit]) => [bit, `VIRTIO_NET_F_${name}`] as [number, string]),
  ...Object.entries(VirtioFeature).map(([name, bit]) => [bit, `VIRTIO_F_${name}`] as [number, string]),
  ...ORIGINAL_NAMES,
]);

/** Name of a feature bit; undefined when neither the specification nor the original has one. */
export function featureName(bit: number): string | undefined {
  return NAMES.get(bit);
}

/** A feature mask as the command line prints it: `value` and one key per bit. */
export function featureObject(mask: bigint): Record<string, string> {
  return bitObject(mask, featureName, 'UNKNOWN FEATURE BIT');
}

const N = NetFeature;

/** A bit and the bits of which at least one must come with it. */
const NEEDS: readonly (readonly [bit: number, oneOf: readonly number[]])[] = [
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
  [N.CTRL_RX_EXTRA, [N.CTRL_VQ]],
  [N.CTRL_VLAN, [N.CTRL_VQ]],
  [N.GUEST_ANNOUNCE, [N.CTRL_VQ]],
  [N.GUEST_ANNOUNCE, [N.STATUS]], // the request to announce is a bit of the status field
  [N.MQ, [N.CTRL_VQ]],
  [N.CTRL_MAC_ADDR, [N.CTRL_VQ]],
  [N.VQ_NOTF_COAL, [N.CTRL_VQ]],
  [N.NOTF_COAL, [N.CTRL_VQ]],
  [N.RSS, [N.CTRL_VQ]],
  [N.HASH_REPORT, [N.CTRL_VQ]],
  [N.CTRL_GUEST_OFFLOADS, [N.CTRL_VQ]],
  [N.RSC_EXT, [N.HOST_TSO4, N.HOST_TSO6]],
  [N.HASH_TUNNEL, [N.CTRL_VQ]],
  [N.HASH_TUNNEL, [N.RSS, N.HASH_REPORT]],
];

/** A bit that lacks what it needs. */
export interface FeatureProblem {
  readonly bit: number;
  readonly needsOneOf: readonly number[];
}

/** The first dependency that `mask` breaks, or null. */
export function featureProblem(mask: bigint): FeatureProblem | null {
  for (const [bit, needsOneOf] of NEEDS)
    if (hasFeature(mask, bit) && !needsOneOf.some((needed) => hasFeature(mask, needed)))
      return { bit, needsOneOf };
  return null;
}

const FEATURE_TEXT = /^(?:0x)?([0-9a-f]{1,16})$/i;

/** A 64-bit feature mask from hexadecimal text with or without `0x`; null for any other text. */
export function parseFeatures(text: string): bigint | null {
  const match = FEATURE_TEXT.exec(text);
  return match === null ? null : BigInt(`0x${match[1]}`);
}
