import type { Logger } from '@virtnet/host-ipc';
import { describe, expect, it } from 'vitest';
import type { Child } from './child.js';
import { DeathNotices } from './death-notices.js';

/** An emulator that hears what `knows` lets through, and what was logged. */
function stage(knows: (deaths: readonly object[]) => boolean = () => true) {
  const heard: (readonly object[])[] = [];
  const warnings: unknown[] = [];
  const notices = new DeathNotices({ warn: (facts: unknown) => warnings.push(facts) } as unknown as Logger);
  const client = {
    call: async (_: string, { deaths }: { deaths: readonly object[] }) => {
      if (!knows(deaths)) throw new Error('schema');
      heard.push(deaths);
    },
  };
  const child = (state: string) => ({ state, client, spec: { instance: 2 } }) as unknown as Child;
  return { notices, heard, warnings, child };
}

describe('death notices', () => {
  it('nobody died, or nobody can listen: nothing is said', async () => {
    const { notices, heard, child } = stage();
    await notices.tell(child('serving'));
    notices.add({ pid: 7, deathCause: 'killed', deathLane: null });
    await notices.tell(child('starting'));
    expect(heard).toEqual([]);
  });

  it('every death is told with its cause, the thread it came from, and whose fault it may be; the oldest are forgotten', async () => {
    const { notices, heard, child } = stage();
    for (let pid = 1; pid <= 17; pid++) {
      const hang = { deathCause: 'hang', deathLane: 0 } as const;
      notices.add({ pid, ...(pid === 17 ? hang : { deathCause: 'killed', deathLane: null }) });
    }
    await notices.tell(child('ready'));
    expect(heard[0]).toHaveLength(16);
    expect(heard[0]![0]).toEqual({ pid: 2, guestsFault: false, cause: 'killed' });
    expect(heard[0]!.at(-1)).toEqual({ pid: 17, guestsFault: true, cause: 'hang', lane: 0 });
  });

  it('an older emulator that refuses causes hears the rest', async () => {
    const { notices, heard, warnings, child } = stage((deaths) => !deaths.some((death) => 'cause' in death));
    notices.add({ pid: 7, deathCause: 'worker', deathLane: 2 });
    await notices.tell(child('serving'));
    expect(heard).toEqual([[{ pid: 7, guestsFault: true }]]);
    expect(warnings).toEqual([]);
  });

  it('one that hears nothing is reported', async () => {
    const { notices, warnings, child } = stage(() => false);
    notices.add({ pid: 7, deathCause: 'exit', deathLane: null });
    await notices.tell(child('serving'));
    expect(warnings).toEqual([{ error: new Error('schema'), instance: 2 }]);
  });
});
