/**
 * device-status.ts: which writes to the device status are accepted.
 *
 * Theory
 *   The driver walks ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK upwards, may add FAILED at any time, and goes back
 *   only by writing 0. The table says which bits each bit needs; a bit whose needs are not met is left out, the other
 *   bits of the same write are looked at all the same.
 *
 * Prohibited
 *   clearing a bit without reset   The write is ignored as a whole (2.1.1).
 *   any new bit after FAILED       The driver must reset first (2.1.1).
 *   NEEDS_RESET and unknown bits   Belong to the device or to nobody; ignored.
 *
 * Invariants
 *   I1  DRIVER_OK implies FEATURES_OK implies DRIVER.
 *
 * Limits  one byte.
 */
import { DeviceStatus } from '@virtnet/wire';

/** Bits in the order they are looked at, each with the bits that must be set before. */
export const STATUS_STEPS: readonly { readonly bit: DeviceStatus; readonly needs: number }[] = [
  { bit: DeviceStatus.ACKNOWLEDGE, needs: 0 },
  { bit: DeviceStatus.DRIVER, needs: 0 },
  { bit: DeviceStatus.FEATURES_OK, needs: DeviceStatus.DRIVER },
  { bit: DeviceStatus.DRIVER_OK, needs: DeviceStatus.FEATURES_OK },
  { bit: DeviceStatus.FAILED, needs: 0 },
];

/** What a write to the status means. */
export type StatusWrite = 'reset' | 'ignored' | 'steps';

/** Judges a write of `value` while the status is `current`. */
export function judgeStatusWrite(current: number, value: number): StatusWrite {
  if (value === 0) return 'reset';
  const cleared = current & ~value & ~DeviceStatus.NEEDS_RESET;
  if (cleared !== 0 || (current & DeviceStatus.FAILED) !== 0) return 'ignored';
  return 'steps';
}

/** Whether a status can come about by accepted writes and by the device setting NEEDS_RESET. */
export function isReachableStatus(status: number): boolean {
  if (status === DeviceStatus.NEEDS_RESET) return false;
  const known = STATUS_STEPS.reduce((bits, step) => bits | step.bit, DeviceStatus.NEEDS_RESET as number);
  if ((status & ~known) !== 0) return false;
  return STATUS_STEPS.every(({ bit, needs }) => (status & bit) === 0 || (status & needs) === needs);
}
