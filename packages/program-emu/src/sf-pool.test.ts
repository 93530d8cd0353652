import { eventfd } from '@virtnet/host-linux';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { DeviceStore } from './device-store.js';
import { SfPool } from './sf-pool.js';
import { isOpen, openFds } from './test-support/holdings.js';

describe('pool of SFs', () => {
  let before: number;
  let shelf: Map<string, number | undefined>;
  let pool: SfPool;
  const newPool = () =>
    new SfPool(
      new DeviceStore(
        {
          transaction(operations) {
            for (const operation of operations) {
              if ('put' in operation) shelf.set(operation.put, operation.fd);
              else if ('delete' in operation) shelf.delete(operation.delete);
              else
                for (const name of [...shelf.keys()])
                  if (name.startsWith(operation.deletePrefix)) shelf.delete(name);
            }
            return 0;
          },
          kept: () => null,
        },
        () => undefined,
      ),
    );

  beforeEach(() => {
    before = openFds();
    shelf = new Map();
    pool = newPool();
  });
  afterEach(() => {
    pool.close();
    expect(openFds()).toBe(before);
    expect([...shelf]).toEqual([]);
  });

  it('keeps what was given, with the keeper too, until somebody has taken it', () => {
    const fds = [eventfd(), -1, eventfd()];
    pool.give('en3f0pf0sf3000', fds);
    expect([...shelf]).toEqual([
      ['pool/en3f0pf0sf3000/0', fds[0]],
      ['pool/en3f0pf0sf3000/2', fds[2]],
    ]);
    expect(pool.take('en3f0pf0sf3001')).toBeNull();
    expect(pool.take('en3f0pf0sf3000')).toEqual(fds);
    expect(pool.names).toEqual(['en3f0pf0sf3000']); // who dies now leaves it to be found
    pool.taken('en3f0pf0sf3000');
    expect([pool.names, [...shelf]]).toEqual([[], []]);
    expect(isOpen(fds[0]!)).toBe(true);
    pool.give('en3f0pf0sf3000', fds);
  });

  it('its owner died before or after the function’s end was told: what it still has of the representor is let go', () => {
    const [former, now] = [eventfd(), eventfd()];
    pool.adopt(new Map([['a', new Map([[0, former]])]]));
    pool.upload();
    pool.give('a', [now]);
    expect([isOpen(former), pool.take('a'), [...shelf]]).toEqual([false, [now], [['pool/a/0', now]]]);
    pool.drop('a'); // a function has it
    expect([isOpen(now), pool.has('a'), [...shelf]]).toEqual([false, false, []]);
    pool.drop('a');
  });

  it('a successor has it whole, and puts it on an empty shelf again', () => {
    const fds = [eventfd(), eventfd()];
    pool.adopt(
      new Map([
        [
          'a',
          new Map([
            [1, fds[1]!],
            [0, fds[0]!],
          ]),
        ],
      ]),
    );
    expect([...shelf]).toEqual([]);
    pool.upload();
    expect([...shelf]).toEqual([
      ['pool/a/0', fds[0]],
      ['pool/a/1', fds[1]],
    ]);
    expect(pool.take('a')).toEqual(fds);
  });
});
