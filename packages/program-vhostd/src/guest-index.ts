/**
 * guest-index.ts: how far a split ring has come, read from guest memory.
 *
 * The device fills the used ring in order, so its used index is the position to go on from: what was taken and not
 * yet returned is worked once more. The file is read, not mapped: one that was truncated gives a short read.
 */
import { readSync } from 'node:fs';
import type { GuestRegion, RingSetup } from '@virtnet/server-vhost-user';
import { u16, viewOf } from '@virtnet/wire';

/** virtq_used.idx behind virtq_used.flags (virtio 2.7.8). */
const USED_INDEX_AT = 2n;

/** The used index of a split ring; null when it cannot be read, or the ring is packed and has none. */
export function usedIndex(setup: RingSetup, regions: Iterable<GuestRegion>): number | null {
  if (setup.packed) return null;
  const address = setup.deviceAddress + USED_INDEX_AT;
  for (const region of regions) {
    const offset = address - region.guestAddress;
    if (offset < 0n || offset + BigInt(u16.sizeBytes) > region.sizeBytes) continue;
    const bytes = new Uint8Array(u16.sizeBytes);
    try {
      const count = readSync(region.fd, bytes, 0, bytes.length, region.mmapOffset + offset);
      return count === bytes.length ? u16.read(viewOf(bytes), 0) : null;
    } catch {
      return null; // no file to read from: the caller has another answer
    }
  }
  return null;
}
