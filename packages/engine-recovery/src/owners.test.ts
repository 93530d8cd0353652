import { describe, expect, it } from 'vitest';
import { Owners } from './owners.js';

/** Owners of a standby, over processes that die when the test says so. */
function world() {
  const deaths = new Map<number, () => void>();
  const killed: number[] = [];
  let alone = 0;
  const owners = new Owners({
    ownPid: 1,
    watch: (pid, onDied) => {
      deaths.set(pid, onDied);
      return { kill: () => void killed.push(pid), close: () => void deaths.delete(pid) };
    },
    bury: () => {},
    nowMs: () => 5,
    onAlone: () => alone++,
  });
  owners.arm();
  return { owners, killed, die: (pid: number) => deaths.get(pid)?.(), alone: () => alone };
}

describe('owners of devices', () => {
  it('nobody takes over before its owner is dead and everything it said was told', () => {
    for (const order of [
      ['die', 'lost'],
      ['lost', 'die'],
    ] as const) {
      const { owners, die, alone } = world();
      owners.synced(7);
      for (const event of order) {
        expect(alone()).toBe(0);
        if (event === 'die') die(7);
        else owners.lost(7);
      }
      expect(alone()).toBe(1);
    }
  });

  it('an owner that lost its connection and has one again is told of once more before it counts as gone', () => {
    const { owners, die, alone } = world();
    owners.synced(7);
    owners.lost(7);
    owners.hold(7); // it took the lease again, and says more
    die(7);
    expect(alone()).toBe(0);
    owners.lost(7);
    expect(alone()).toBe(1);
  });

  it('what was told before a standby lost the keeper counts for nothing, unless the owner was dead by then', () => {
    const alive = world();
    alive.owners.synced(7);
    alive.owners.lost(7);
    alive.owners.unheard();
    alive.die(7);
    expect(alive.alone()).toBe(0);
    alive.owners.synced(null); // the keeper is heard again, and nobody holds the lease
    expect(alive.alone()).toBe(1);
  });

  it('of two owners the one that is left is killed, so that all devices have one successor', () => {
    const { owners, die, killed, alone } = world();
    owners.synced(7);
    owners.borrow(8);
    owners.lost(7);
    die(7);
    expect(killed).toEqual([8]);
    expect(alone()).toBe(0);
    owners.lost(8);
    die(8);
    expect(alone()).toBe(1);
  });
});
