import { isWithin } from './device-plan.js';
import { type Failure, failure } from './errors.js';
import { isVuid } from './identity.js';
import { PF_IDS, VFS_MAX } from './limits.js';

/** Which devices a command means: all, one PF, one VF of a PF, or one VUID. */
export interface DeviceSelector {
  readonly all: boolean;
  readonly pf: number | null;
  readonly vf: number | null;
  readonly vuid: string | null;
}

/**
 * Why a command that changes devices can mean none, or null: a PF or VF number that no device can have, or a text that
 * is no VUID. Whether there is such a device is another question.
 */
export function selectorFailure({ pf, vf, vuid }: Omit<DeviceSelector, 'all'>): Failure | null {
  const possible = (id: number | null, count: number): boolean => id === null || isWithin(id, 0, count - 1);
  if (!possible(pf, PF_IDS) || !possible(vf, VFS_MAX)) return failure('ID_OUT_OF_RANGE');
  return vuid === null || isVuid(vuid) ? null : failure('VUID_INVALID');
}
