/** Positions in a packed ring: an index with a wrap counter, twice (PackedPosition). */
import { PACKED_FLAGS_SHIFT, PackedEventFlag, PackedPosition } from '@virtnet/wire';

const { INDEX_MASK, WRAP } = PackedPosition;

/** Where a half of a position lies in two laps of `queueSize`, -1 when it is in none. */
export function lapOffset(half: number, queueSize: number): number {
  const index = half & INDEX_MASK;
  if (index >= queueSize) return -1;
  return (half & WRAP) === 0 ? index + queueSize : index;
}

/** An offset in two laps that is not known any more. */
export const ANYWHERE = -1;

/**
 * Whether a driver whose event structure says `event` wants to hear that the place went from `before` to `after`, both of
 * them offsets in two laps (2.7.10.1, 2.8.10).
 */
export function wantsPassed(
  event: number,
  eventIdx: boolean,
  before: number,
  after: number,
  queueSize: number,
): boolean {
  const flags = (event >>> PACKED_FLAGS_SHIFT) & 3;
  if (flags === PackedEventFlag.DISABLE) return false;
  if (flags !== PackedEventFlag.DESCRIPTOR || !eventIdx || before === ANYWHERE) return true;
  return passes(event & 0xffff, before, after, queueSize);
}

/**
 * Whether the slot that the driver's event structure names, as a half of a position, is among those from `before` up to,
 * and without, `after`, both of them offsets in two laps (2.8.10).
 */
function passes(event: number, before: number, after: number, queueSize: number): boolean {
  const wanted = lapOffset(event, queueSize);
  if (wanted < 0) return true; // no slot of this ring: better one interrupt too many
  const laps = 2 * queueSize;
  const distance = wanted - before;
  const moved = after - before;
  return (distance < 0 ? distance + laps : distance) < (moved < 0 ? moved + laps : moved);
}
