/**
 * Device-independent virtio feature bits (virtio 1.3, section 6) and helpers for feature masks.
 * A mask is a bigint of 64 bits; a bit is a number from 0 to 63.
 */

/** Feature bits that belong to no device type. */
export const VirtioFeature = {
  /** Legacy: notify when the available ring runs empty. */
  NOTIFY_ON_EMPTY: 24,
  /** Legacy: any descriptor layout. Implied by VERSION_1. */
  ANY_LAYOUT: 27,
  /** A descriptor may refer to a table of descriptors. */
  INDIRECT_DESC: 28,
  /** Notifications are suppressed by index (used_event, avail_event). */
  EVENT_IDX: 29,
  /** The device follows version 1 of the specification. */
  VERSION_1: 32,
  /** Memory access is subject to the platform's translation (IOMMU). */
  ACCESS_PLATFORM: 33,
  /** Packed virtqueues. */
  RING_PACKED: 34,
  /** Buffers are used in the order they were made available. */
  IN_ORDER: 35,
  /** Memory is ordered as the platform orders it for hardware. */
  ORDER_PLATFORM: 36,
  /** The function has an SR-IOV capability. */
  SR_IOV: 37,
  /** A notification carries the position in the ring. */
  NOTIFICATION_DATA: 38,
  /** A notification carries a value of the device's choice. */
  NOTIF_CONFIG_DATA: 39,
  /** One queue can be reset alone. */
  RING_RESET: 40,
  /** The function has an administration queue. */
  ADMIN_VQ: 41,
} as const;
export type VirtioFeature = (typeof VirtioFeature)[keyof typeof VirtioFeature];

/** Bits in a feature mask; both selector words of the common configuration. */
export const FEATURE_BITS = 64;

/** The mask with exactly `bits` set. */
export function featureMask(bits: Iterable<number>): bigint {
  let mask = 0n;
  for (const bit of bits) mask |= 1n << BigInt(bit);
  return mask;
}

/** Whether `bit` is set in `mask`. */
export function hasFeature(mask: bigint, bit: number): boolean {
  return ((mask >> BigInt(bit)) & 1n) === 1n;
}
