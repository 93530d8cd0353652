/** Positions in a packed ring: an index with a wrap counter, twice (PackedPosition). */
import { PackedPosition } from '@virtnet/wire';

const { INDEX_MASK, WRAP } = PackedPosition;

/** Where a half of a position lies in two laps of `queueSize`, -1 when it is in none. */
export function lapOffset(half: number, queueSize: number): number {
  const index = half & INDEX_MASK;
  if (index >= queueSize) return -1;
  return (half & WRAP) === 0 ? index + queueSize : index;
}

/**
 * Whether the slot that the driver's event structure names, as a half of a position, is among those from `before` up to,
 * and without, `after`, both of them offsets in two laps (2.8.10).
 */
export function passes(event: number, before: number, after: number, queueSize: number): boolean {
  const wanted = lapOffset(event, queueSize);
  if (wanted < 0) return true; // no slot of this ring: better one interrupt too many
  const laps = 2 * queueSize;
  const distance = wanted - before;
  const moved = after - before;
  return (distance < 0 ? distance + laps : distance) < (moved < 0 ? moved + laps : moved);
}
