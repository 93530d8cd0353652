import { ReplyRing } from '@virtnet/host-linux';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { rehearse } from './rehearsal.js';
import { mappingsOf, openFds } from './test-support/holdings.js';
import { TestWorld } from './test-support/test-device.js';

const held = () => [openFds(), mappingsOf('virtnet-rehearsal'), mappingsOf('virtnet-state-page')];

describe('rehearsal', () => {
  let world: TestWorld;
  const replyRing = ReplyRing.create();
  beforeEach(() => {
    world = new TestWorld();
  });
  afterEach(() => world.close());

  it('takes a function over again and again, and leaves no descriptor, no mapping and no word behind', async () => {
    const before = held();
    const rounds = await rehearse(world.arena, world.services, replyRing);
    expect(rounds).toBeGreaterThan(0);
    expect(held()).toEqual(before);
    expect([world.arena.regionCount, world.shelf.entries.size, world.said, world.poller.size]).toEqual([
      0,
      0,
      [],
      0,
    ]);
  });

  it.each([1, 2, 3, 4, 6, 8, 10, 12, 14, 16])(
    'fails at its %ith wait for the workers: says so, and leaves nothing behind either',
    async (at) => {
      const before = held();
      let waits = 0;
      const datapath = Object.create(world.datapath) as typeof world.datapath;
      datapath.settle = () =>
        ++waits === at ? Promise.reject(new Error('no answer')) : world.datapath.settle();
      const rounds = await rehearse(world.arena, { ...world.services, datapath }, replyRing);
      expect(rounds).toEqual(new Error('no answer'));
      expect(held()).toEqual(before);
      expect(world.arena.regionCount).toBe(0);
    },
  );
});
