import { describe, expect, it } from 'vitest';
import { FunctionKind } from './facts.js';
import { outcomeOf, RECOVERY_EVENTS, RECOVERY_MATRIX } from './recovery-matrix.js';

/** The guide's table: rows static PF, hotplug PF, VF; columns as RECOVERY_EVENTS. */
const GUIDE = {
  [FunctionKind.STATIC_PF]: 'Recover | Recover | N/A | N/A | Recover | No recover | Recover | Recover',
  [FunctionKind.HOTPLUG_PF]:
    'Recover | Recover | No recover | N/A | Recover | No recover | Recover | Recover',
  [FunctionKind.VF]:
    'Recover | Recover | N/A | Recovery file deleted | No Recover | No recover | No recover | Recover',
};
const kinds = [FunctionKind.STATIC_PF, FunctionKind.HOTPLUG_PF, FunctionKind.VF] as const;
const cells = RECOVERY_EVENTS.flatMap((event, column) =>
  kinds.map((kind) => ({ event, kind, cell: GUIDE[kind].split(' | ')[column]!.toLowerCase() })),
);

describe('recovery matrix', () => {
  it('has the 8 events and 3 kinds of the guide, and no other', () => {
    expect(cells).toHaveLength(24);
    expect(Object.keys(RECOVERY_MATRIX)).toEqual([...RECOVERY_EVENTS]);
    for (const row of Object.values(RECOVERY_MATRIX))
      expect(Object.keys(row).sort()).toEqual([...kinds].sort());
  });

  it.each(cells)('$event, $kind: $cell', ({ event, kind, cell }) => {
    const outcome = outcomeOf(event, kind);
    if (cell === 'recover') expect(outcome).toBe('recover');
    else if (cell === 'n/a') expect(outcome).toBe('absent');
    // The firmware makes a static PF again; what somebody asked for is gone.
    else expect(outcome).toBe(kind === FunctionKind.STATIC_PF ? 'fresh' : 'gone');
  });
});
