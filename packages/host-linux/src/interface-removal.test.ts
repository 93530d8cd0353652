import { describe, expect, it } from 'vitest';
import { closeAll } from './fd.js';
import { GROUP_MAX, removeInterfaces } from './interface-removal.js';
import { interfaceExists } from './netdev.js';
import { openTap } from './tap.js';

const PREFIX = `vnr${process.pid.toString(36)}`;
const probe = openTap(`${PREFIX}p`, { queues: 1 });
if (typeof probe !== 'number') closeAll(probe);

describe('removal of interfaces', () => {
  it.skipIf(typeof probe === 'number')(
    'removes those named and no other, and their descriptors close',
    () => {
      const names = ['a', 'b', 'c'].map((letter) => `${PREFIX}${letter}`);
      const fds = names.flatMap((name) => openTap(name, { queues: 2 }) as number[]);
      expect(removeInterfaces([names[0]!, 'no-such-if', names[2]!])).toBe(0);
      expect(names.map(interfaceExists)).toEqual([false, true, false]);
      closeAll(fds);
      expect(interfaceExists(names[1]!)).toBe(false);
    },
  );

  it('of nothing is nothing; of too many is refused', () => {
    expect(removeInterfaces(['no-such-if'])).toBe(0);
    expect(removeInterfaces(new Array<string>(GROUP_MAX + 1).fill('x'))).toBeLessThan(0);
  });
});
