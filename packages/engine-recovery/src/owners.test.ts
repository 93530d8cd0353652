import { describe, expect, it } from 'vitest';
import { Owners } from './owners.js';

/** Owners whose world is a list of what happened. */
function owners({ armed = true } = {}) {
  const happened: string[] = [];
  const die = new Map<number, () => void>();
  const made = new Owners({
    ownPid: 1,
    watch: (pid, onDied) => {
      die.set(pid, onDied);
      return { kill: () => happened.push(`kill ${pid}`), close: () => die.delete(pid) };
    },
    bury: (pid, alone) => happened.push(`bury ${pid}${alone ? ', the only one' : ''}`),
    nowMs: () => 5,
    onAlone: (deadAt) => happened.push(`alone ${deadAt}`),
  });
  if (armed) made.arm();
  return { made, happened, dies: (pid: number) => die.get(pid)?.() };
}

describe('owners', () => {
  it('the keeper is asked for the last words of a dead owner, and only behind them it is gone', () => {
    const { made, happened, dies } = owners();
    made.hold(7);
    dies(7);
    expect(happened).toEqual(['bury 7, the only one']);
    made.lost(7);
    expect(happened).toEqual(['bury 7, the only one', 'alone 5']);
  });

  it('that a connection of the owner ended before it died says nothing of its last words', () => {
    const { made, happened, dies } = owners();
    made.hold(7);
    made.lost(7); // it connects again, which nobody has heard yet
    dies(7);
    expect(happened).toEqual(['bury 7, the only one']);
    made.hold(7); // now it is heard
    expect(happened).toEqual(['bury 7, the only one']);
    made.lost(7);
    expect(happened).toEqual(['bury 7, the only one', 'alone 5']);
  });

  it('of two owners one that is gone takes the other with it', () => {
    const { made, happened, dies } = owners();
    made.hold(7);
    made.borrow(8);
    dies(8);
    made.lost(8);
    expect(happened).toEqual(['bury 8', 'kill 7']);
    dies(7);
    made.lost(7);
    expect(happened).toEqual(['bury 8', 'kill 7', 'bury 7', 'alone 5']);
  });

  it('whoever does not take over by itself is not alone when its owner dies', () => {
    const { made, happened, dies } = owners({ armed: false });
    made.hold(7);
    dies(7);
    expect(happened).toEqual(['bury 7']);
  });
});
