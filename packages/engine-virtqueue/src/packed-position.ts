/** Positions in a packed ring: an index with a wrap counter, twice (PackedPosition). */
import { PackedPosition } from '@virtnet/wire';

const { INDEX_MASK, WRAP } = PackedPosition;

/** Where a half of a position lies in two laps of `queueSize`, -1 when it is in none. */
export function lapOffset(half: number, queueSize: number): number {
  const index = half & INDEX_MASK;
  if (index >= queueSize) return -1;
  return (half & WRAP) === 0 ? index + queueSize : index;
}
