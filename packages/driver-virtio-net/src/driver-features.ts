/**
 * driver-features.ts: what of a function's offer this driver accepts, and what follows for the TAP.
 *
 * Theory
 *   A TAP speaks virtio's own frame header, so an offload that the function has is one that the TAP may ask of it, and
 *   the other way round. A frame lies in one buffer that is large enough for the largest segment, so receive offloads
 *   need no mergeable buffers.
 *
 * Invariants
 *   I1  what is accepted is a subset of what is offered, and complete in itself (5.1.3.1).
 */
import { withoutOrphans } from '@virtnet/engine-virtio-net';
import { featureMask, hasFeature, NetFeature, TunOffload, VirtioFeature } from '@virtnet/wire';

const N = NetFeature;
const V = VirtioFeature;

const WANTED = featureMask([
  N.CSUM,
  N.GUEST_CSUM,
  N.MTU,
  N.MAC,
  N.GUEST_TSO4,
  N.GUEST_TSO6,
  N.HOST_TSO4,
  N.HOST_TSO6,
  N.STATUS,
  N.CTRL_VQ,
  N.CTRL_RX,
  N.MQ,
  V.EVENT_IDX,
  V.VERSION_1,
  V.ACCESS_PLATFORM,
  V.ORDER_PLATFORM,
]);

/** The features to agree on; null when the function is none that can be driven. */
export function driverFeatures(offered: bigint): bigint | null {
  return hasFeature(offered, V.VERSION_1) ? withoutOrphans(offered & WANTED) : null;
}

/** What the host's stack may leave to the function, as TunOffload bits. */
export function tapOffloads(features: bigint): number {
  if (!hasFeature(features, N.CSUM)) return 0;
  const { CSUM, TSO4, TSO6 } = TunOffload;
  const four = hasFeature(features, N.HOST_TSO4) ? TSO4 : 0;
  const six = hasFeature(features, N.HOST_TSO6) ? TSO6 : 0;
  return CSUM | four | six;
}

/** Whether frames may be larger than the MTU in this direction. */
export function takesSegments(features: bigint, direction: 'receive' | 'transmit'): boolean {
  const bits = direction === 'receive' ? [N.GUEST_TSO4, N.GUEST_TSO6] : [N.HOST_TSO4, N.HOST_TSO6];
  return bits.some((bit) => hasFeature(features, bit));
}
