/**
 * features.ts: what each feature bit is called, what it needs, and what this device offers.
 *
 * Theory
 *   A row of NEEDS names a bit and the bits of which at least one has to come with it. Some rows the specification
 *   demands of both sides (5.1.3.1); others only make no sense to offer alone, and a driver that accepts such a bit
 *   alone is within its rights.
 *
 * Invariants
 *   I1  featureProblems(withoutOrphans(x), 'offered') is empty for every x.
 *
 * Limits  bits 0 to 63.
 */
import { featureMask, hasFeature, NetFeature, VirtioFeature } from '@virtnet/wire';

const N = NetFeature;
const V = VirtioFeature;

/** Where the command line says something else than the specification. */
const SPECIAL_LABELS: Readonly<Record<number, string>> = {
  [N.MRG_RXBUF]: 'VIRTIO_F_MRG_RX_BUFFER',
  [V.ACCESS_PLATFORM]: 'VIRTIO_F_IOMMU_PLATFORM',
};

const LABELS: ReadonlyMap<number, string> = new Map([
  ...Object.entries(V).map(([name, bit]): [number, string] => [bit, `VIRTIO_F_${name}`]),
  ...Object.entries(N).map(([name, bit]): [number, string] => [bit, `VIRTIO_NET_F_${name}`]),
  ...Object.entries(SPECIAL_LABELS).map(([bit, label]): [number, string] => [Number(bit), label]),
]);

/** The name of a bit as the `virtnet` command prints it; null for a bit that has none. */
export function featureLabel(bit: number): string | null {
  return LABELS.get(bit) ?? null;
}

/** A bit, the bits of which it needs at least one, and who has to heed it. */
interface Need {
  readonly bit: number;
  readonly oneOf: readonly number[];
  /** Only what is offered is held to this; a driver need not be. */
  readonly offerOnly?: true;
}

const NEEDS: readonly Need[] = [
  { bit: N.GUEST_TSO4, oneOf: [N.GUEST_CSUM] },
  { bit: N.GUEST_TSO6, oneOf: [N.GUEST_CSUM] },
  { bit: N.GUEST_ECN, oneOf: [N.GUEST_TSO4, N.GUEST_TSO6] },
  { bit: N.GUEST_UFO, oneOf: [N.GUEST_CSUM] },
  { bit: N.GUEST_USO4, oneOf: [N.GUEST_CSUM] },
  { bit: N.GUEST_USO6, oneOf: [N.GUEST_CSUM] },
  { bit: N.HOST_TSO4, oneOf: [N.CSUM] },
  { bit: N.HOST_TSO6, oneOf: [N.CSUM] },
  { bit: N.HOST_ECN, oneOf: [N.HOST_TSO4, N.HOST_TSO6] },
  { bit: N.HOST_UFO, oneOf: [N.CSUM] },
  { bit: N.HOST_USO, oneOf: [N.CSUM] },
  { bit: N.CTRL_RX, oneOf: [N.CTRL_VQ] },
  { bit: N.CTRL_VLAN, oneOf: [N.CTRL_VQ] },
  { bit: N.GUEST_ANNOUNCE, oneOf: [N.CTRL_VQ] },
  { bit: N.MQ, oneOf: [N.CTRL_VQ] },
  { bit: N.CTRL_MAC_ADDR, oneOf: [N.CTRL_VQ] },
  { bit: N.NOTF_COAL, oneOf: [N.CTRL_VQ] },
  { bit: N.VQ_NOTF_COAL, oneOf: [N.CTRL_VQ] },
  { bit: N.RSS, oneOf: [N.CTRL_VQ] },
  { bit: N.RSC_EXT, oneOf: [N.HOST_TSO4, N.HOST_TSO6] },
  { bit: N.HASH_TUNNEL, oneOf: [N.CTRL_VQ] },
  { bit: N.HASH_TUNNEL, oneOf: [N.RSS, N.HASH_REPORT] },
  { bit: N.CTRL_RX_EXTRA, oneOf: [N.CTRL_VQ], offerOnly: true },
  { bit: N.HASH_REPORT, oneOf: [N.CTRL_VQ], offerOnly: true },
  { bit: N.CTRL_GUEST_OFFLOADS, oneOf: [N.CTRL_VQ], offerOnly: true },
  // The request to announce is a bit of the status field.
  { bit: N.GUEST_ANNOUNCE, oneOf: [N.STATUS], offerOnly: true },
];

const lacks = (features: bigint, { bit, oneOf }: Need): boolean =>
  hasFeature(features, bit) && !oneOf.some((needed) => hasFeature(features, needed));

/** What is wrong with a set that is offered, or accepted, as such; empty when nothing is. */
export function featureProblems(features: bigint, role: 'offered' | 'accepted'): string[] {
  return NEEDS.filter((need) => (role === 'offered' || !need.offerOnly) && lacks(features, need)).map(
    ({ bit, oneOf }) => `${featureLabel(bit)} needs ${oneOf.map(featureLabel).join(' or ')}`,
  );
}

/** `features` without the bits that lack what they need, and without those that needed them. */
export function withoutOrphans(features: bigint): bigint {
  let left = features;
  for (;;) {
    const orphans = featureMask(NEEDS.filter((need) => lacks(left, need)).map(({ bit }) => bit));
    if (orphans === 0n) return left;
    left &= ~orphans;
  }
}

/** Offloads of received frames that the driver may switch (5.1.6.5.6). */
export const RECEIVE_OFFLOADS = featureMask([
  N.GUEST_CSUM,
  N.GUEST_TSO4,
  N.GUEST_TSO6,
  N.GUEST_ECN,
  N.GUEST_UFO,
  N.GUEST_USO4,
  N.GUEST_USO6,
]);

/** What every function offers. */
const HOTPLUG_FEATURES = featureMask([
  N.CSUM,
  N.GUEST_CSUM,
  N.CTRL_GUEST_OFFLOADS,
  N.MTU,
  N.MAC,
  N.GUEST_TSO4,
  N.GUEST_TSO6,
  N.GUEST_ECN,
  N.HOST_TSO4,
  N.HOST_TSO6,
  N.HOST_ECN,
  N.STATUS,
  N.CTRL_VQ,
  N.CTRL_RX,
  N.CTRL_RX_EXTRA,
  N.GUEST_ANNOUNCE,
  N.MQ,
  N.CTRL_MAC_ADDR,
  V.INDIRECT_DESC,
  V.EVENT_IDX,
  V.VERSION_1,
  V.ACCESS_PLATFORM,
  V.RING_RESET,
  N.VQ_NOTF_COAL,
  N.NOTF_COAL,
  N.GUEST_HDRLEN,
  N.SPEED_DUPLEX,
]);

/**
 * Works without being asked for, and is offered only when it is: the device gives buffers back in order anyway and
 * needs no data with a notification, so the bits save it nothing, while drivers that see them take paths of theirs that
 * are used less.
 */
const ON_REQUEST = [V.IN_ORDER, V.NOTIFICATION_DATA] as const;

/** UDP segments, in both directions: the host's TAPs take and give them, or they do not. */
const UDP_SEGMENTATION = featureMask([N.GUEST_USO4, N.GUEST_USO6, N.HOST_USO]);

/** Every bit this device can keep its word on; nothing else may be offered (2.2.2). */
export const SUPPORTED_FEATURES =
  HOTPLUG_FEATURES |
  UDP_SEGMENTATION |
  featureMask([N.CTRL_VLAN, N.MRG_RXBUF, N.HASH_REPORT, N.RSS, V.RING_PACKED, ...ON_REQUEST]);

/** What decides which features a function offers by default. */
export interface FeatureSwitches {
  /** The host's TAPs have segmentation offload for UDP. */
  readonly uso: boolean;
  /** A VLAN filter was asked for. */
  readonly vlan?: boolean;
  /** Packed virtqueues. */
  readonly packedVq?: boolean;
  /** Mergeable receive buffers. */
  readonly mrgRxbuf?: boolean;
}

/** Features a hotplug function offers unless a request adds some. */
export function hotplugFeatures({ uso, vlan, packedVq, mrgRxbuf }: FeatureSwitches): bigint {
  const more: number[] = [];
  if (vlan) more.push(N.CTRL_VLAN);
  if (packedVq) more.push(V.RING_PACKED);
  if (mrgRxbuf) more.push(N.MRG_RXBUF);
  return HOTPLUG_FEATURES | featureMask(more) | (uso ? UDP_SEGMENTATION : 0n);
}

/** Features a request may ask for on a host whose TAPs have (`uso`) or lack segmentation offload for UDP. */
export function supportedFeatures({ uso }: Pick<FeatureSwitches, 'uso'>): bigint {
  return uso ? SUPPORTED_FEATURES : SUPPORTED_FEATURES & ~UDP_SEGMENTATION;
}
