/**
 * saved-session.ts: what a frontend has said, as plain data for whoever goes on with its connection.
 *
 * Theory
 *   After each message a session can be written down: numbers as text, descriptors by name. A successor is given the
 *   same descriptors under the same names. What is read back may come from anybody: it is checked for its shape here,
 *   and for its sense (sizes, overlaps, places of rings) where it is put into rings and table.
 *
 * Limits  rings and regions as in limits.ts; text of 64-bit numbers in hexadecimal.
 */
import { MEMORY_REGIONS_MAX, RING_SIZE_MAX } from './limits.js';
import type { RegionDescription, VringAddress } from './requests.js';

export interface SavedRing {
  readonly index: number;
  readonly size: number;
  readonly base: number;
  readonly addresses: { readonly [K in 'descriptor' | 'available' | 'used']: string } | null;
  /** 'unset': not given yet. 'polled': there is none. */
  readonly kick: 'unset' | 'polled' | 'eventfd';
  readonly call: boolean;
  readonly error: boolean;
  readonly enableRequested: boolean | null;
  readonly running: boolean;
}

export interface SavedRegion {
  readonly guestAddress: string;
  readonly sizeBytes: string;
  readonly userAddress: string;
  readonly mmapOffset: string;
  /** Additions beyond the first. */
  readonly again: number;
}

export interface SavedSession {
  readonly protocolFeatures: string;
  readonly status: number;
  /** null: SET_FEATURES did not come yet. */
  readonly features: string | null;
  readonly regions: readonly SavedRegion[];
  /** Rings of which anything is known. */
  readonly rings: readonly SavedRing[];
}

/** Names of a session's descriptors. */
export const savedFdName = {
  memory: (region: Pick<RegionDescription, 'guestAddress'>) => `memory/${hex(region.guestAddress)}`,
  kick: (index: number) => `kick/${index}`,
  call: (index: number) => `call/${index}`,
  error: (index: number) => `error/${index}`,
} as const;

/** A session and its descriptors, which stay the session's. */
export interface SessionSnapshot {
  readonly session: SavedSession;
  readonly fds: ReadonlyMap<string, number>;
}

export const hex = (value: bigint): string => value.toString(16);

/** The number in a text that isSavedSession has seen. */
export const unhex = (text: string): bigint => BigInt(`0x${text}`);

export function saveRegion(region: RegionDescription, again: number): SavedRegion {
  const { guestAddress, sizeBytes, userAddress, mmapOffset } = region;
  return {
    guestAddress: hex(guestAddress),
    sizeBytes: hex(sizeBytes),
    userAddress: hex(userAddress),
    mmapOffset: hex(mmapOffset),
    again,
  };
}

export function restoreRegion(saved: SavedRegion): RegionDescription {
  const { guestAddress, sizeBytes, userAddress, mmapOffset } = saved;
  return {
    guestAddress: unhex(guestAddress),
    sizeBytes: unhex(sizeBytes),
    userAddress: unhex(userAddress),
    mmapOffset: unhex(mmapOffset),
  };
}

export function restoreAddresses(index: number, saved: SavedRing['addresses']): VringAddress | null {
  if (saved === null) return null;
  const { descriptor, available, used } = saved;
  return {
    index,
    flags: 0,
    descriptor: unhex(descriptor),
    used: unhex(used),
    available: unhex(available),
    log: 0n,
  };
}

/** Whether this has the shape of a saved session. */
export function isSavedSession(saved: unknown): saved is SavedSession {
  if (!isObject(saved)) return false;
  const { protocolFeatures, status, features, regions, rings } = saved;
  return (
    isHex(protocolFeatures) &&
    isCount(status, 0xff) &&
    (features === null || isHex(features)) &&
    Array.isArray(regions) &&
    regions.length <= MEMORY_REGIONS_MAX &&
    regions.every(isRegion) &&
    Array.isArray(rings) &&
    rings.every(isRing)
  );
}

function isRegion(region: unknown): boolean {
  if (!isObject(region)) return false;
  const { guestAddress, sizeBytes, userAddress, mmapOffset, again } = region;
  return (
    [guestAddress, sizeBytes, userAddress, mmapOffset].every(isHex) && isCount(again, Number.MAX_SAFE_INTEGER)
  );
}

function isRing(ring: unknown): boolean {
  if (!isObject(ring)) return false;
  const { index, size, base, addresses, kick, call, error, enableRequested, running } = ring;
  const placed =
    isObject(addresses) && [addresses.descriptor, addresses.available, addresses.used].every(isHex);
  return (
    isCount(index, 0xffff) &&
    isCount(size, RING_SIZE_MAX) &&
    isCount(base, 0xffff_ffff) &&
    (addresses === null || placed) &&
    (kick === 'unset' || kick === 'polled' || kick === 'eventfd') &&
    [call, error, running].every((flag) => typeof flag === 'boolean') &&
    (enableRequested === null || typeof enableRequested === 'boolean')
  );
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isHex(value: unknown): boolean {
  return typeof value === 'string' && /^[0-9a-f]{1,16}$/.test(value);
}

function isCount(value: unknown, maximum: number): boolean {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 && value <= maximum;
}
