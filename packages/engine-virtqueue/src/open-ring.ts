/** Opens the device's end of a ring in the format that was negotiated. */
import type { DeviceRing } from './device-ring.js';
import type { RingFault } from './fault.js';
import type { PackedRingConfig } from './packed-config.js';
import { PackedRing } from './packed-ring.js';
import { SplitRing } from './split-ring.js';

export interface RingConfig extends PackedRingConfig {
  /** RING_PACKED was negotiated. */
  readonly packed: boolean;
}

/** The ring, or what is wrong with it. The journal is a packed ring's; a split ring needs none. */
export function openRing(config: RingConfig): DeviceRing | RingFault {
  return config.packed ? PackedRing.open(config) : SplitRing.open(config);
}

export const isRing = (opened: DeviceRing | RingFault): opened is DeviceRing => 'take' in opened;

const SPLIT_BASE_MAX = 0xffff;

/**
 * Where a ring goes on that another backend worked, from what vhost calls its base: for a split ring the available
 * index, for a packed ring the next entry to take in the lower half and the next to answer in the upper one. What was
 * taken there and never given back is worked again, so the latter counts; but DPDK leaves it 0 and means both sides by
 * the lower half. null when it is none.
 */
export function positionOfBase(base: number, packed: boolean): number | null {
  if (!packed) return base <= SPLIT_BASE_MAX ? base : null;
  const used = base >>> 16;
  const half = used === 0 ? base & 0xffff : used;
  return ((half << 16) | half) >>> 0;
}
