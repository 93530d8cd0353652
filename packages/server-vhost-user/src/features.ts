/**
 * features.ts: which virtio features a vhost-user backend may offer on behalf of a virtio-net function.
 *
 * Theory
 *   The frontend is the guest's device; the backend only works its data rings. So the frontend keeps the control
 *   queue, the configuration space and everything steered through them to itself, and asks the backend for the bits
 *   of the data path alone. A bit that only the frontend may offer, offered by the backend, would make the guest
 *   believe in something that nobody does. The list of bits that may pass is therefore closed: an unknown bit stays
 *   back.
 *   The function on the other side is a complete device with dependencies between its bits (virtio 5.1.3.1): several
 *   queue pairs need a control queue there, although nobody will use it. `functionFeatures` adds such bits.
 *
 * Invariants
 *   I1  offered bits are a subset of the function's, plus PROTOCOL_FEATURES.
 *   I2  no bit is offered without what it needs among the offered bits and those that the frontend itself provides.
 *   I3  bits accepted by a frontend become a set that the function can accept.
 *
 * Limits
 *   LOG_ALL is not offered: pages written are not logged, so QEMU refuses to migrate instead of losing data.
 *   RING_RESET, ACCESS_PLATFORM, NOTIFICATION_DATA, ADMIN_VQ, SR_IOV concern a PCI driver of the function itself.
 */
import {
  featureMask,
  hasFeature,
  NetFeature,
  VhostFeature,
  VhostUserProtocolFeature,
  VirtioFeature,
} from '@virtnet/wire';

const N = NetFeature;
const V = VirtioFeature;

/** Bits that may pass from the function to the frontend. */
export const PASSABLE_FEATURES = featureMask([
  N.CSUM,
  N.GUEST_CSUM,
  N.MTU, // the frontend checks the guest's MTU with NET_SET_MTU
  N.GUEST_TSO4,
  N.GUEST_TSO6,
  N.GUEST_ECN,
  N.GUEST_UFO,
  N.HOST_TSO4,
  N.HOST_TSO6,
  N.HOST_ECN,
  N.HOST_UFO,
  N.MRG_RXBUF,
  N.GUEST_ANNOUNCE, // on the frontend's control queue; without it QEMU would want RARP sent
  N.MQ,
  N.GUEST_USO4,
  N.GUEST_USO6,
  N.HOST_USO,
  N.GUEST_HDRLEN,
  V.INDIRECT_DESC,
  V.EVENT_IDX,
  V.VERSION_1,
  V.RING_PACKED,
  V.IN_ORDER,
]);

/** A bit and the bits of which one must come with it (virtio 5.1.3.1), as far as they pass. */
const NEEDS: readonly (readonly [bit: number, oneOf: readonly number[]])[] = [
  [N.GUEST_TSO4, [N.GUEST_CSUM]],
  [N.GUEST_TSO6, [N.GUEST_CSUM]],
  [N.GUEST_UFO, [N.GUEST_CSUM]],
  [N.GUEST_USO4, [N.GUEST_CSUM]],
  [N.GUEST_USO6, [N.GUEST_CSUM]],
  [N.GUEST_ECN, [N.GUEST_TSO4, N.GUEST_TSO6]],
  [N.HOST_TSO4, [N.CSUM]],
  [N.HOST_TSO6, [N.CSUM]],
  [N.HOST_UFO, [N.CSUM]],
  [N.HOST_USO, [N.CSUM]],
  [N.HOST_ECN, [N.HOST_TSO4, N.HOST_TSO6]],
];

/** Takes out, until nothing changes, every bit that lacks what it needs. */
function withoutOrphans(mask: bigint): bigint {
  let result = mask;
  for (;;) {
    const before = result;
    for (const [bit, oneOf] of NEEDS)
      if (hasFeature(result, bit) && !oneOf.some((other) => hasFeature(result, other)))
        result &= ~(1n << BigInt(bit));
    if (result === before) return result;
  }
}

/** The features to answer GET_FEATURES with, from those the function offers. */
export function backendFeatures(functionOffer: bigint): bigint {
  let offer = functionOffer & PASSABLE_FEATURES;
  // On the function these need its control queue (see functionFeatures).
  if (!hasFeature(functionOffer, N.CTRL_VQ)) offer &= ~featureMask([N.MQ, N.GUEST_ANNOUNCE]);
  return withoutOrphans(offer) | featureMask([VhostFeature.PROTOCOL_FEATURES]);
}

/**
 * The features to accept on the function for those a frontend accepted. ANNOUNCE lives on the frontend's control
 * queue and is not asked of the function; several pairs need the function's control queue.
 */
export function functionFeatures(accepted: bigint, functionOffer: bigint): bigint {
  let features = accepted & PASSABLE_FEATURES & ~featureMask([N.GUEST_ANNOUNCE]);
  if (hasFeature(features, N.MQ)) features |= featureMask([N.CTRL_VQ]);
  if (hasFeature(functionOffer, N.MAC)) features |= featureMask([N.MAC]);
  return withoutOrphans(features & functionOffer);
}

const P = VhostUserProtocolFeature;

/** The protocol features this backend has. */
export const PROTOCOL_FEATURES = featureMask([
  P.MQ,
  P.REPLY_ACK,
  P.NET_MTU,
  P.RESET_DEVICE,
  P.CONFIGURE_MEM_SLOTS,
  P.STATUS,
]);
