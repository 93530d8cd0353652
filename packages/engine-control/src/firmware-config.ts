/**
 * firmware-config.ts: the emulated adapter's firmware configuration.
 *
 * Theory
 *   Every entry has a default, a current value and a next-boot value. A user changes next-boot values; a power cycle
 *   makes them current, and then the next start of the controller deletes all recovery files. The store is one small
 *   JSON document. No store means the guide's configuration of 16 hotplug PFs, both as current and as next-boot values.
 *
 * Invariants
 *   I1  `assign` changes next-boot values only, all of them or none.
 *   I2  next-boot values that `assign` yields obey every rule in `brokenRule`.
 *   I3  a document that is read back is believed only after each value has passed its entry's width and range.
 *
 * Limits
 *   The guide also bounds all functions of one host to 256, which its own examples of 504 and 1008 VFs exceed; that
 *   bound is not applied. One store serves both ports of the adapter.
 */

import type { PciSubsystem } from './facts.js';
import {
  FIRMWARE_NAMES,
  type FirmwareEntryName,
  type FirmwareValues,
  factoryValues,
  firmwareEntry,
  hotplugValues,
  isFirmwareName,
} from './firmware-entries.js';
import { HOTPLUG_PFS_WITH_VFS_MAX, VFS_MAX, VIRT_QUEUES_MAX } from './limits.js';

/** Version of the document; another one is refused. */
export const FIRMWARE_STORE_VERSION = 1;
/** Bytes a document may have. All entries with long values take less than 2 KiB. */
export const FIRMWARE_STORE_BYTES_MAX = 64 * 1024;
/** Assignments in one command; far above the number of entries. */
export const ASSIGNMENTS_MAX = 256;

export interface FirmwareStore {
  readonly current: FirmwareValues;
  readonly nextBoot: FirmwareValues;
  /** Values that matter became current: what was saved of devices before is obsolete. */
  readonly recoveryObsolete?: true;
}

/** Why a document or an assignment was refused, as one sentence. */
export interface FirmwareProblem {
  readonly problem: string;
}

/** The store of an adapter that has none yet. */
export function initialFirmwareStore(): FirmwareStore {
  return { current: hotplugValues(), nextBoot: hotplugValues() };
}

/** All next-boot values back to their defaults. */
export function resetFirmwareStore(store: FirmwareStore): FirmwareStore {
  return { ...store, nextBoot: factoryValues() };
}

/**
 * The store after a power cycle: next-boot values are current. When one of them has an effect here and differs from
 * what it replaces, recovery files are obsolete until `recoveryDeleted`.
 */
export function powerCycledFirmwareStore(store: FirmwareStore): FirmwareStore {
  const { current, nextBoot } = store;
  const changed = FIRMWARE_NAMES.some(
    (name) => firmwareEntry(name).storedOnly !== true && current[name] !== nextBoot[name],
  );
  return { ...store, current: nextBoot, ...(changed ? { recoveryObsolete: true } : {}) };
}

/** The store once the obsolete recovery files are gone. */
export function recoveryDeleted({ current, nextBoot }: FirmwareStore): FirmwareStore {
  return { current, nextBoot };
}

/** The document of a store; `parseFirmwareStore` reads it back unchanged. */
export function serialiseFirmwareStore(store: FirmwareStore): string {
  const document = {
    version: FIRMWARE_STORE_VERSION,
    ...(store.recoveryObsolete === true ? { recovery_obsolete: true } : {}),
    current: store.current,
    next_boot: store.nextBoot,
  };
  return `${JSON.stringify(document, null, 2)}\n`;
}

/** Reads a document. An entry it lacks has its default; an entry nobody knows is a problem. Never throws. */
export function parseFirmwareStore(text: string): { readonly store: FirmwareStore } | FirmwareProblem {
  if (text.length > FIRMWARE_STORE_BYTES_MAX)
    return { problem: `larger than ${FIRMWARE_STORE_BYTES_MAX} bytes` };
  let document: unknown;
  try {
    document = JSON.parse(text);
  } catch (error) {
    return { problem: `not JSON: ${error instanceof Error ? error.message : String(error)}` };
  }
  if (!isObject(document)) return { problem: 'not a JSON object' };
  if (document.version !== FIRMWARE_STORE_VERSION)
    return { problem: `version ${JSON.stringify(document.version)}, expected ${FIRMWARE_STORE_VERSION}` };
  const current = readValues(document.current, 'current');
  if ('problem' in current) return current;
  const nextBoot = readValues(document.next_boot, 'next_boot');
  if ('problem' in nextBoot) return nextBoot;
  const obsolete = document.recovery_obsolete;
  if (obsolete !== undefined && obsolete !== true)
    return { problem: `recovery_obsolete cannot be ${JSON.stringify(obsolete)}` };
  const values = { current: current.values, nextBoot: nextBoot.values };
  return { store: obsolete === undefined ? values : { ...values, recoveryObsolete: true } };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function readValues(raw: unknown, where: string): { readonly values: FirmwareValues } | FirmwareProblem {
  if (!isObject(raw)) return { problem: `${where}: not a JSON object` };
  const values: Record<FirmwareEntryName, number> = { ...factoryValues() };
  for (const [name, value] of Object.entries(raw)) {
    if (!isFirmwareName(name)) return { problem: `${where}: unknown entry ${JSON.stringify(name)}` };
    if (typeof value !== 'number' || !isStorable(name, value))
      return { problem: `${where}: ${name} cannot be ${JSON.stringify(value)}` };
    values[name] = value;
  }
  return { values };
}

/**
 * The values in a text that `JSON.stringify` made of some, maybe those of another version: an entry that nobody knows here
 * is left out, and one that is missing or cannot be has its default. Null for any other text. Never throws.
 */
export function restoreFirmwareValues(text: string): FirmwareValues | null {
  let raw: unknown;
  try {
    raw = JSON.parse(text);
  } catch {
    return null;
  }
  if (!isObject(raw)) return null;
  const values: Record<FirmwareEntryName, number> = { ...factoryValues() };
  for (const [name, value] of Object.entries(raw))
    if (isFirmwareName(name) && typeof value === 'number' && isStorable(name, value)) values[name] = value;
  return values;
}

/** A default is storable even where a user could not set it. */
function isStorable(name: FirmwareEntryName, value: number): boolean {
  return (
    Number.isInteger(value) && (value === firmwareEntry(name).default || rangeProblem(name, value) === null)
  );
}

/**
 * Sets next-boot values from `NAME=VALUE` texts, all or none. Numbers are decimal or `0x…`; BOOL also takes
 * `True`/`False`, ENUM its words, both in any case.
 */
export function assign(
  store: FirmwareStore,
  assignments: readonly string[],
): { readonly store: FirmwareStore; readonly names: readonly FirmwareEntryName[] } | FirmwareProblem {
  if (assignments.length > ASSIGNMENTS_MAX) return { problem: `More than ${ASSIGNMENTS_MAX} assignments` };
  const values: Record<FirmwareEntryName, number> = { ...store.nextBoot };
  const names: FirmwareEntryName[] = [];
  for (const text of assignments) {
    const parsed = parseAssignment(text);
    if ('problem' in parsed) return parsed;
    if (names.includes(parsed.name)) return { problem: `Duplicate parameter, ${parsed.name}.` };
    names.push(parsed.name);
    values[parsed.name] = parsed.value;
  }
  const broken = brokenRule(values);
  if (broken !== null) return { problem: cannotSet(broken.name, values[broken.name], broken.reason) };
  return { store: { ...store, nextBoot: values }, names };
}

function parseAssignment(
  text: string,
): { readonly name: FirmwareEntryName; readonly value: number } | FirmwareProblem {
  const equals = text.indexOf('=');
  if (equals <= 0) return { problem: `Invalid Configuration argument ${text}` };
  const name = text.slice(0, equals);
  const written = text.slice(equals + 1);
  if (!isFirmwareName(name)) return { problem: `Unknown Parameter ${name}` };
  const value = parseValue(name, written);
  if (value === null) return { problem: `Unknown value ${written}` };
  const { widthBits } = firmwareEntry(name);
  if (value >= 2 ** widthBits)
    return { problem: `The value ${written} is not valid,  as its size is ${widthBits} bits` };
  const reason = rangeProblem(name, value);
  return reason === null ? { name, value } : { problem: cannotSet(name, written, reason) };
}

const NUMBER_TEXT = /^(?:0x[0-9a-f]{1,12}|[0-9]{1,15})$/i;
const BOOL_TEXT = new Map([
  ['true', 1],
  ['false', 0],
]);

function parseValue(name: FirmwareEntryName, written: string): number | null {
  const { type, words } = firmwareEntry(name);
  const word = written.toLowerCase();
  const bool = type === 'bool' ? BOOL_TEXT.get(word) : undefined;
  if (bool !== undefined) return bool;
  const index = words?.findIndex((known) => known.toLowerCase() === word) ?? -1;
  if (index >= 0) return index;
  return NUMBER_TEXT.test(written) ? Number(written) : null;
}

function rangeProblem(name: FirmwareEntryName, value: number): string | null {
  const { min, max, zeroMeans, meaning } = firmwareEntry(name);
  if ((value === 0 && zeroMeans !== undefined) || (value >= min && value <= max)) return null;
  if (max === min) return meaning;
  return `it must be ${min} to ${max}${zeroMeans === undefined ? '' : `, or 0 (${zeroMeans})`}`;
}

function cannotSet(name: FirmwareEntryName, value: number | string, reason: string): string {
  return `Cannot set the value ${value} for the parameter ${name}: ${reason}`;
}

/** The rules between entries. Each is checked on the complete next-boot values, so that one command may change both. */
function brokenRule(v: FirmwareValues): { readonly name: FirmwareEntryName; readonly reason: string } | null {
  const vfs = v.VIRTIO_NET_EMULATION_NUM_PF * v.VIRTIO_NET_EMULATION_NUM_VF;
  if (v.PER_PF_NUM_SF === 1 && v.PF_BAR2_ENABLE === 1)
    return { name: 'PER_PF_NUM_SF', reason: 'PF_BAR2_ENABLE must be 0' };
  if (v.PF_TOTAL_SF > 0 && v.PER_PF_NUM_SF === 0)
    return { name: 'PF_TOTAL_SF', reason: 'PER_PF_NUM_SF must be 1' };
  if (v.PF_SF_BAR_SIZE > 0 && (v.PF_TOTAL_SF === 0 || v.PER_PF_NUM_SF === 0))
    return { name: 'PF_SF_BAR_SIZE', reason: 'PF_TOTAL_SF must not be 0' };
  if (vfs > VFS_MAX)
    return { name: 'VIRTIO_NET_EMULATION_NUM_VF', reason: `all PFs together may have ${VFS_MAX} VFs` };
  if (vfs > 0 && v.PCI_SWITCH_EMULATION_NUM_PORT > HOTPLUG_PFS_WITH_VFS_MAX)
    return {
      name: 'PCI_SWITCH_EMULATION_NUM_PORT',
      reason: `with VFs there are at most ${HOTPLUG_PFS_WITH_VFS_MAX} hotplug ports`,
    };
  return null;
}

/** What a set of values makes of the adapter. */
export interface FirmwareLimits {
  readonly staticPfs: number;
  /** Ports of the emulated switch that can hold a hotplug PF. */
  readonly hotplugPorts: number;
  readonly vfsPerPf: number;
  /** All functions of the controller. */
  readonly devicesMax: number;
  /** Of a PF. */
  readonly msixVectors: number;
  /** Of a VF. */
  readonly vfMsixVectors: number;
  /** Virtqueues one device may have: one vector is for configuration changes. */
  readonly virtQueuesMax: number;
  /** SFs for all devices, one each; null when the configuration does not count them. */
  readonly sfsMax: number | null;
  /** How every function presents itself. */
  readonly subsystem: PciSubsystem;
}

/** Limits that follow from the current values. */
export function firmwareLimits(v: FirmwareValues): FirmwareLimits {
  const dpuMode = v.INTERNAL_CPU_MODEL === 1 && v.INTERNAL_CPU_OFFLOAD_ENGINE === 0;
  const on = dpuMode && v.VIRTIO_NET_EMULATION_ENABLE === 1;
  const staticPfs = on ? v.VIRTIO_NET_EMULATION_NUM_PF : 0;
  const hotplugPorts = on && v.PCI_SWITCH_EMULATION_ENABLE === 1 ? v.PCI_SWITCH_EMULATION_NUM_PORT : 0;
  const vfsPerPf = v.SRIOV_EN === 1 ? v.VIRTIO_NET_EMULATION_NUM_VF : 0;
  const msixVectors = v.VIRTIO_NET_EMULATION_NUM_MSIX;
  return {
    staticPfs,
    hotplugPorts,
    vfsPerPf,
    devicesMax: staticPfs + hotplugPorts + staticPfs * vfsPerPf,
    msixVectors,
    vfMsixVectors: vfVectors(v),
    virtQueuesMax: Math.max(0, Math.min(VIRT_QUEUES_MAX, msixVectors - 1)),
    sfsMax: v.PER_PF_NUM_SF === 1 ? v.PF_TOTAL_SF : null,
    subsystem: {
      subsystemVendorId: v.VIRTIO_NET_EMU_SUBSYSTEM_VENDOR_ID,
      subsystemId: v.VIRTIO_NET_EMULATION_SUBSYSTEM_ID,
    },
  };
}

/** A VF's own entry wins; without it a VF has what a PF has, and not more than a native VF if that is limited. */
function vfVectors(v: FirmwareValues): number {
  const { VIRTIO_NET_EMULATION_NUM_VF_MSIX: own, VIRTIO_NET_EMULATION_NUM_MSIX: pf, NUM_VF_MSIX: native } = v;
  if (own !== 0) return own;
  return native === 0 ? pf : Math.min(native, pf);
}

/** Entry names a query asks for; all when it names none. */
export function chooseEntries(
  names: readonly string[],
): { readonly names: readonly FirmwareEntryName[] } | FirmwareProblem {
  if (names.length === 0) return { names: FIRMWARE_NAMES };
  const chosen: FirmwareEntryName[] = [];
  for (const name of names) {
    if (!isFirmwareName(name)) return { problem: `The Device doesn't support ${name} parameter` };
    if (!chosen.includes(name)) chosen.push(name);
  }
  return { names: chosen };
}
