/**
 * features.ts: what each feature bit is called, what is wrong with a set of them, and what this device offers.
 *
 * Invariants
 *   I1  featureProblems(withoutOrphans(x), 'offered') is empty for every x.
 *
 * Limits  bits 0 to 63.
 */
import { featureMask, isUnmet, NET_FEATURE_NEEDS, NetFeature, VirtioFeature } from '@virtnet/wire';

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

/** What is wrong with a set that is offered, or accepted, as such; empty when nothing is. */
export function featureProblems(features: bigint, role: 'offered' | 'accepted'): string[] {
  return NET_FEATURE_NEEDS.filter(
    (need) => (role === 'offered' || !need.offerOnly) && isUnmet(features, need),
  ).map(({ bit, oneOf }) => `${featureLabel(bit)} needs ${oneOf.map(featureLabel).join(' or ')}`);
}

/** `features` without the bits that lack what they need, and without those that needed them. */
export function withoutOrphans(features: bigint): bigint {
  let left = features;
  for (;;) {
    const orphans = featureMask(
      NET_FEATURE_NEEDS.filter((need) => isUnmet(left, need)).map(({ bit }) => bit),
    );
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
