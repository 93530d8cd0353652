/**
 * device-record.ts: everything slow that is known of one function, as the state keeper and a successor see it.
 *
 * Theory
 *   The record is written before a change is visible to the driver. It holds plain data only; engines check their own
 *   parts when they are restored, this file checks the rest. Framing (magic, version, checksum) is engine-recovery's.
 *   A usual record is a few kilobytes of JSON. One that does not fit (2048 vectors whose table was written, 4096 VLANs)
 *   is compressed: a client must not be able to make a record that cannot be kept.
 *
 * Limits  RECORD_BYTES_MAX; UNPACKED_BYTES_MAX when it is read.
 */
import { deflateRawSync, inflateRawSync } from 'node:zlib';
import {
  type DevicePlan,
  isRepresentorKind,
  type RepresentorKind,
  restorePlan,
} from '@virtnet/engine-control';
import { decodeRecord, describeRecordFault, encodeRecord, type RecordFault } from '@virtnet/engine-recovery';
import { type DeviceSettings, restoreSettings } from './device-settings.js';

export const RECORD_SCHEMA = 3;

const WORD_MAX = 0xffff_ffff;
/** Largest JSON believed: four times that of the largest function. */
const UNPACKED_BYTES_MAX = 1024 * 1024;

/** What a predecessor had applied and was about to answer when it died. */
export interface AppliedRequest {
  readonly sequence: number;
  /** CRC-32 of the whole request. */
  readonly digest: number;
  /** The reply, base64; null for a request that gets none. */
  readonly reply: string | null;
}

export interface DeviceHealth {
  recoveries: number;
  /** Why its former emulator died, as death-cause.ts has it; null when none did. */
  lastCause: string | null;
  /** Milliseconds in which nobody worked it (recoveries.ts). */
  lastPauseMs: number | null;
  maxPauseMs: number | null;
  /** Why it waits for a reset: one of deviceErrors; null when it does not, or its driver or an operator made it. */
  error: DeviceError | null;
}

export const deviceErrors = [
  /** Emulators died over it. */
  'QUARANTINED',
  /** Its client took memory away that it had given. */
  'MEMORY_TRUNCATED',
  /** A ring cannot be believed any more. */
  'RING_FAULT',
] as const;
export type DeviceError = (typeof deviceErrors)[number];

export interface DeviceRecord {
  readonly schema: typeof RECORD_SCHEMA;
  /** Request that made the device, so that its repetition is answered and not carried out again. */
  readonly requestId: string;
  readonly plan: DevicePlan;
  readonly settings: DeviceSettings;
  /** What stands for it on the host. */
  readonly representor: RepresentorKind;
  readonly linkUp: boolean;
  readonly pci: unknown;
  readonly net: unknown;
  /** Saved protocol session of the connected client; null when none is connected. */
  readonly session: unknown;
  readonly applied: AppliedRequest | null;
  /** Position set for a queue that is not enabled yet. */
  readonly bases: Readonly<Record<string, number>>;
  /** Rings a vhost-user frontend switched, by queue; steering follows them when there are any. */
  readonly ringEnables: Readonly<Record<string, boolean>>;
  /** Queues that faulted and wait for a reset. */
  readonly broken: readonly number[];
  readonly health: DeviceHealth;
}

/** The record as the keeper stores it; the fault when it is too large. */
export function encodeDeviceRecord(record: DeviceRecord): Uint8Array | RecordFault {
  const plain = encodeRecord(record, RECORD_SCHEMA);
  if (plain instanceof Uint8Array) return plain;
  const packed = deflateRawSync(JSON.stringify(record)).toString('base64');
  return encodeRecord({ packed }, RECORD_SCHEMA);
}

/** What stands in for a record that was too large; null when it is damaged. */
function unpack(packed: string): unknown {
  try {
    const bytes = inflateRawSync(Buffer.from(packed, 'base64'), { maxOutputLength: UNPACKED_BYTES_MAX });
    return JSON.parse(bytes.toString('utf8'));
  } catch {
    return null;
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Reads a record; a text that says what is wrong when it is none. */
export function decodeDeviceRecord(bytes: Uint8Array): DeviceRecord | string {
  const decoded = decodeRecord(bytes);
  if ('code' in decoded) return describeRecordFault(decoded);
  const outer = decoded.payload;
  const value = isObject(outer) && typeof outer.packed === 'string' ? unpack(outer.packed) : outer;
  if (!isObject(value)) return 'not an object';
  if (value.schema !== RECORD_SCHEMA) return `schema ${String(value.schema)} is not ${RECORD_SCHEMA}`;
  if (typeof value.requestId !== 'string') return 'requestId is not a text';
  const plan = restorePlan(value.plan);
  if (typeof plan === 'string') return plan;
  const settings = restoreSettings(value.settings);
  if (typeof settings === 'string') return settings;
  const representor = value.representor ?? 'tap'; // before there was another
  if (!isRepresentorKind(representor)) return 'representor is no kind of it';
  if (typeof value.linkUp !== 'boolean') return 'linkUp is not a boolean';
  if (!isByQueue(value.bases, isWord)) return 'bases are not positions';
  if (!isByQueue(value.ringEnables, (on) => typeof on === 'boolean')) return 'ringEnables are not switches';
  if (!Array.isArray(value.broken) || !value.broken.every(isWord)) return 'broken is not a list of queues';
  if (!isHealth(value.health)) return 'health is not a health';
  if (value.applied !== null && !isApplied(value.applied)) return 'applied is not a request';
  const health = { ...value.health, error: value.health.error ?? null }; // before it was recorded
  return { ...(value as unknown as DeviceRecord), plan, settings, representor, health };
}

function isWord(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) <= WORD_MAX;
}

/** An object whose keys are queues and whose values all pass `check`. */
function isByQueue(value: unknown, check: (entry: unknown) => boolean): boolean {
  if (!isObject(value)) return false;
  return Object.entries(value).every(([queue, entry]) => /^\d{1,5}$/.test(queue) && check(entry));
}

function isHealth(value: unknown): value is DeviceHealth {
  if (!isObject(value)) return false;
  const { recoveries, lastCause, lastPauseMs, maxPauseMs, error = null } = value;
  const isPause = (ms: unknown) => ms === null || Number.isFinite(ms);
  const isCause = lastCause === null || typeof lastCause === 'string';
  const isError = error === null || deviceErrors.includes(error as DeviceError);
  return isWord(recoveries) && isCause && isPause(lastPauseMs) && isPause(maxPauseMs) && isError;
}

function isApplied(value: unknown): value is AppliedRequest {
  if (!isObject(value)) return false;
  const { sequence, digest, reply } = value;
  return isWord(sequence) && isWord(digest) && (reply === null || typeof reply === 'string');
}
