/** A profile and helpers for this package's own tests. Not exported. */
import { featureMask, HASH_TYPES, NetControlHeader, NetFeature } from '@virtnet/wire';
import { hotplugFeatures } from './features.js';
import { NetDevice } from './net-device.js';
import type { NetProfile } from './net-profile.js';

export const PROFILE: NetProfile = {
  mac: '0C:C4:7A:FF:22:93',
  mtu: 1500,
  maxQueuePairs: 3,
  maxQueueSize: 1024,
  speedMbps: 25_000,
  offeredFeatures:
    hotplugFeatures({ uso: true, vlan: true }) | featureMask([NetFeature.HASH_REPORT, NetFeature.RSS]),
  hashTypes: HASH_TYPES,
};

/** A device whose driver accepted everything offered, without the bits given. */
export function agreedDevice(without: readonly number[] = [], profile: Partial<NetProfile> = {}): NetDevice {
  const device = new NetDevice({ ...PROFILE, ...profile });
  device.acceptFeatures(device.offeredFeatures & ~featureMask(without));
  return device;
}

export function request(controlClass: number, command: number, ...data: readonly number[]): Uint8Array {
  return Uint8Array.of(...NetControlHeader.bytes({ class: controlClass, command }), ...data);
}

export const u16 = (value: number): number[] => [value & 0xff, value >> 8];
export const u32 = (value: number): number[] => [...u16(value & 0xffff), ...u16(value >>> 16)];
export const u64 = (value: bigint): number[] => [
  ...u32(Number(value & 0xffff_ffffn)),
  ...u32(Number(value >> 32n)),
];
