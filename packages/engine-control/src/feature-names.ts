/**
 * feature-names.ts: feature bits as the virtnet command line names them, and what each bit needs.
 *
 * Theory
 *   The names follow the specification with the prefix of their table, except where the original prints something
 *   else. Every bit the specification has gets a name, so that an object that explains a mask never loses a bit.
 *   What a bit needs to be offered says the table of @virtnet/wire, by which devices are made as well.
 *
 * Invariants
 *   I1  keys of `featureObject(mask)` are exactly the bits set in `mask`.
 *   I2  `featureProblem(mask) === null` means that every bit in `mask` has what it needs.
 */
import { isUnmet, NET_FEATURE_NEEDS, NetFeature, VirtioFeature } from '@virtnet/wire';
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

/** A bit that lacks what it needs. */
export interface FeatureProblem {
  readonly bit: number;
  readonly needsOneOf: readonly number[];
}

/** The first dependency that `mask`, as a set to offer, breaks, or null. */
export function featureProblem(mask: bigint): FeatureProblem | null {
  const need = NET_FEATURE_NEEDS.find((each) => isUnmet(mask, each));
  return need === undefined ? null : { bit: need.bit, needsOneOf: need.oneOf };
}

const FEATURE_TEXT = /^(?:0x)?([0-9a-f]{1,16})$/i;

/** A 64-bit feature mask from hexadecimal text with or without `0x`; null for any other text. */
export function parseFeatures(text: string): bigint | null {
  const match = FEATURE_TEXT.exec(text);
  return match === null ? null : BigInt(`0x${match[1]}`);
}
