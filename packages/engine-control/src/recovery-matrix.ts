/**
 * recovery-matrix.ts: what becomes of each kind of function after each event: the guide's table.
 *
 * `recover`: the function is there again with what its recovery file says. `gone`: it is not, and its recovery file
 * is removed. `fresh`: it is there again as if for the first time, and its recovery file is removed. `absent`: the
 * event does not concern such a function.
 *
 * The guide's cells say "Recover" or "No recover"; what the latter means follows from the kind: a static PF exists
 * because the firmware says so, a hotplug PF or a VF because somebody asked for it, which the event makes void.
 * Unloading a driver leaves a function where it is: a PF comes back with its state, and its VFs end with it.
 */
import { FunctionKind } from './facts.js';

export const RECOVERY_EVENTS = [
  'restart controller',
  'live update',
  'hot unplug',
  'destroy VFs',
  'unload driver',
  'power cycle',
  'warm reboot',
  'live migration',
] as const;
export type RecoveryEvent = (typeof RECOVERY_EVENTS)[number];

export type RecoveryOutcome = 'recover' | 'gone' | 'fresh' | 'absent';

const { STATIC_PF, HOTPLUG_PF, VF } = FunctionKind;

/** One row an event; static PF, hotplug PF, VF. */
export const RECOVERY_MATRIX: Readonly<
  Record<RecoveryEvent, Readonly<Record<FunctionKind, RecoveryOutcome>>>
> = {
  'restart controller': { [STATIC_PF]: 'recover', [HOTPLUG_PF]: 'recover', [VF]: 'recover' },
  'live update': { [STATIC_PF]: 'recover', [HOTPLUG_PF]: 'recover', [VF]: 'recover' },
  'hot unplug': { [STATIC_PF]: 'absent', [HOTPLUG_PF]: 'gone', [VF]: 'absent' },
  'destroy VFs': { [STATIC_PF]: 'absent', [HOTPLUG_PF]: 'absent', [VF]: 'gone' },
  'unload driver': { [STATIC_PF]: 'recover', [HOTPLUG_PF]: 'recover', [VF]: 'gone' },
  'power cycle': { [STATIC_PF]: 'fresh', [HOTPLUG_PF]: 'gone', [VF]: 'gone' },
  'warm reboot': { [STATIC_PF]: 'recover', [HOTPLUG_PF]: 'recover', [VF]: 'gone' },
  'live migration': { [STATIC_PF]: 'recover', [HOTPLUG_PF]: 'recover', [VF]: 'recover' },
};

/** What becomes of a function of `kind` after `event`. */
export function outcomeOf(event: RecoveryEvent, kind: FunctionKind): RecoveryOutcome {
  return RECOVERY_MATRIX[event][kind];
}
