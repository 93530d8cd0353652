/**
 * vring.ts: what a frontend has said about one ring, and what a device needs to work it.
 *
 * Theory
 *   A ring is described bit by bit (size, base, addresses, eventfds). It is complete once size, addresses and kick are
 *   known and features are agreed; then it starts. GET_VRING_BASE stops it, and it needs a new kick to start again.
 *   Enabled is a second, independent state: a started ring that is disabled is worked without an effect outside.
 *
 * Spec  vhost-user.rst, "Ring states".
 */
import { Errno } from '@virtnet/wire';
import type { MemoryTable } from './memory-table.js';
import type { VringAddress } from './requests.js';

/** One ring as the frontend described it so far. */
export interface Vring {
  /** Entries; 0 while not known. */
  size: number;
  /** Where it goes on: for a split ring an available index, for a packed ring both positions with their wraps. */
  base: number;
  addresses: VringAddress | null;
  /** Undefined: not given yet, the ring cannot start. Null: there is none, the ring is to be polled. */
  kickFd: number | null | undefined;
  callFd: number | null;
  errorFd: number | null;
  /** What SET_VRING_ENABLE said last; undefined before that. */
  enableRequested: boolean | undefined;
  /** The device works it. */
  running: boolean;
}

export function newVring(): Vring {
  return {
    size: 0,
    base: 0,
    addresses: null,
    kickFd: undefined,
    callFd: null,
    errorFd: null,
    enableRequested: undefined,
    running: false,
  };
}

/** The three parts of a ring in guest memory. */
export interface RingPlace {
  readonly descriptorAddress: bigint;
  readonly driverAddress: bigint;
  readonly deviceAddress: bigint;
}

/** Everything a device needs to start a ring. Descriptors stay the session's. */
export interface RingSetup extends RingPlace {
  readonly index: number;
  readonly size: number;
  readonly base: number;
  /** Null: the frontend gives no kick, poll. */
  readonly kickFd: number | null;
  /** Null: the frontend wants no signal. */
  readonly callFd: number | null;
  readonly enabled: boolean;
  /** Virtio features the frontend accepted. */
  readonly features: bigint;
  readonly packed: boolean;
}

/** Bytes and alignment of each part (virtio 2.7, 2.8). */
export function ringParts(size: number, packed: boolean) {
  return packed
    ? ({ descriptor: [16 * size, 16n], driver: [4, 4n], device: [4, 4n] } as const)
    : ({ descriptor: [16 * size, 16n], driver: [6 + 2 * size, 2n], device: [6 + 8 * size, 4n] } as const);
}

/** Translates the parts. -EINVAL when one is not aligned, -EFAULT when one is not in guest memory. */
export function placeRing(
  ring: Vring,
  addresses: VringAddress,
  table: MemoryTable,
  packed: boolean,
): RingPlace | number {
  const parts = ringParts(ring.size, packed);
  const { descriptor, available, used } = addresses;
  const { descriptor: d, driver, device } = parts;
  if (descriptor % d[1] !== 0n || available % driver[1] !== 0n || used % device[1] !== 0n)
    return -Errno.EINVAL;
  const descriptorAddress = table.translate(descriptor, d[0]);
  const driverAddress = table.translate(available, driver[0]);
  const deviceAddress = table.translate(used, device[0]);
  if (descriptorAddress === null || driverAddress === null || deviceAddress === null) return -Errno.EFAULT;
  return { descriptorAddress, driverAddress, deviceAddress };
}
