/**
 * Whether moving an index from `before` to `after` passes the point the other side asked to be told of
 * (virtio 1.3, 2.7.7.2 and 2.7.10.2). All three are free-running modulo 2^16; `event` names the entry whose passing
 * matters: the notification is due when entry `event` is among those in [before, after).
 */
export function needsEvent(event: number, after: number, before: number): boolean {
  return ((after - event - 1) & 0xffff) < ((after - before) & 0xffff);
}
