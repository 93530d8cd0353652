/**
 * device-settings.ts: what an operator has set on a device beside its plan, and which commands set it.
 *
 * The settings are part of the device record. A command that changes a device leaves its id here in the same message
 * as the change, so that its repetition is answered with what it was answered first and not carried out again.
 */
import { type ControlErrorName, isQueueModeration, type QueueModeration } from '@virtnet/engine-control';
import { HASH_TYPES } from '@virtnet/wire';

/** Commands remembered for each device: more than can be under way at once without an answer. */
const CHANGES_REMEMBERED = 16;
const REQUEST_ID_MAX = 64;
const SPEED_MAX = 0x7fff_ffff;

export interface RememberedChange {
  readonly requestId: string;
  /** What it was answered with beside success. */
  readonly warning: ControlErrorName | null;
}

export interface DeviceSettings {
  /** Mb/s; null: that of the uplink. */
  readonly speedMbps: number | null;
  /** Receive queues count frames by size. */
  readonly countSizes: boolean;
  /** Frames that had found no buffer when the drop counter was switched on; null while it is off. */
  readonly dropsFrom: number | null;
  /** Interrupts of receive queues, where neither the driver nor `dim` decides; null: not moderated. */
  readonly moderation: QueueModeration | null;
  /** Dynamic moderation of the interrupts of receive queues. */
  readonly dim: boolean;
  /** The switch follows its flows. */
  readonly aarfs: boolean;
  /** Types of hashes a driver may enable. */
  readonly hashTypes: number;
  /** The representor has not got the device's MTU yet. */
  readonly mtuPending: boolean;
  readonly changes: readonly RememberedChange[];
}

export const INITIAL_SETTINGS: DeviceSettings = {
  speedMbps: null,
  countSizes: false,
  dropsFrom: null,
  moderation: null,
  dim: false,
  aarfs: false,
  hashTypes: HASH_TYPES,
  mtuPending: false,
  changes: [],
};

/** The changes with one more. */
export function rememberChange(
  changes: readonly RememberedChange[],
  change: RememberedChange,
): readonly RememberedChange[] {
  return [...changes, change].slice(-CHANGES_REMEMBERED);
}

function isCount(value: unknown, most: number): value is number {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) <= most;
}

function isChange(value: unknown): value is RememberedChange {
  if (typeof value !== 'object' || value === null) return false;
  const { requestId, warning } = value as Record<string, unknown>;
  const isId = typeof requestId === 'string' && requestId.length <= REQUEST_ID_MAX;
  return isId && (warning === null || warning === 'DEV_NOT_FUNCTIONAL');
}

/** The settings that were saved; a text that says what is wrong with them. */
export function restoreSettings(saved: unknown): DeviceSettings | string {
  if (typeof saved !== 'object' || saved === null) return 'settings are not an object';
  const fields = saved as Record<string, unknown>;
  const { speedMbps, countSizes, dropsFrom, mtuPending, changes } = fields;
  // Absent in a record of before there was any:
  const { moderation = null, dim = false, aarfs = false, hashTypes = HASH_TYPES } = fields;
  if (speedMbps !== null && !isCount(speedMbps, SPEED_MAX)) return 'speedMbps is no speed';
  if (typeof countSizes !== 'boolean') return 'countSizes is not a boolean';
  if (dropsFrom !== null && !isCount(dropsFrom, Number.MAX_SAFE_INTEGER)) return 'dropsFrom is no count';
  if (moderation !== null && !isQueueModeration(moderation)) return 'moderation is none';
  if (typeof dim !== 'boolean') return 'dim is not a boolean';
  if (typeof aarfs !== 'boolean') return 'aarfs is not a boolean';
  if (!isCount(hashTypes, HASH_TYPES)) return 'hashTypes are none';
  if (typeof mtuPending !== 'boolean') return 'mtuPending is not a boolean';
  if (!Array.isArray(changes) || changes.length > CHANGES_REMEMBERED || !changes.every(isChange))
    return 'changes are not a list of commands';
  return { speedMbps, countSizes, dropsFrom, moderation, dim, aarfs, hashTypes, mtuPending, changes };
}
