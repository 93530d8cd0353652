import { DEFAULT_CONF } from '@virtnet/engine-control';
import { close, dup, eventfd, memfdCreate } from '@virtnet/host-linux';
import { Errno, QueueCounter, queueBlock, StatePageHeader, statePageSize } from '@virtnet/wire';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { UplinkConfig } from './datapath-protocol.js';
import { DeviceStore } from './device-store.js';
import { mapPage, newPage } from './page-mapping.js';
import { openFds } from './test-support/holdings.js';
import { UplinkTaps } from './uplink-taps.js';

const { FRAMES, DROP_NO_DESTINATION, DROP_SAME_PORT, DROP_NOT_SWITCHED, STATIONS_REFUSED } = QueueCounter;
const CONF = {
  ...DEFAULT_CONF,
  single_port: 0 as const,
  software: {
    ...DEFAULT_CONF.software,
    uplink_taps: { mlx5_0: 'up0', mlx5_1: 'up1', mlx5_bond_0: null },
  },
};
const NONE = {
  frames: 0,
  drop_no_destination: 0,
  drop_same_port: 0,
  drop_not_switched: 0,
  stations_refused: 0,
};

/** The TAPs of one emulator after another; the keeper is a map, the kernel says yes. */
describe('uplink TAPs', () => {
  let before: number;
  let shelf: Map<string, number>;
  let log: string[];
  let attached: (fd: number, on: boolean) => number;
  let emulators: UplinkTaps[];
  const transaction: ConstructorParameters<typeof DeviceStore>[0]['transaction'] = (operations) => {
    for (const operation of operations) {
      if ('put' in operation) {
        drop(operation.put);
        shelf.set(operation.put, dup(operation.fd!));
      } else if ('delete' in operation) drop(operation.delete);
    }
    return 0;
  };
  const drop = (name: string) => {
    const fd = shelf.get(name);
    if (fd !== undefined) close(fd);
    shelf.delete(name);
  };

  beforeEach(() => {
    before = openFds();
    shelf = new Map();
    log = [];
    attached = () => 0;
    emulators = [];
  });
  afterEach(() => {
    for (const each of emulators) each.close();
    for (const name of [...shelf.keys()]) drop(name);
    expect(openFds()).toBe(before);
  });

  const opened = () => {
    const store = new DeviceStore({ transaction, kept: () => null }, () => undefined);
    const taps = new UplinkTaps(store, (_, message) => log.push(message), {
      openTap: () => [eventfd()],
      setOffload: () => 0,
      setQueueAttached: (fd, on) => attached(fd, on),
    });
    taps.open(CONF);
    emulators.push(taps);
    return taps;
  };
  /** Serves with what the keeper has; what the worker of each domain is told. */
  const serve = (taps: UplinkTaps) => {
    const told: (UplinkConfig | null)[] = [];
    const pages = [...shelf].map(([name, fd]) => [Number(name.split('/')[1]), mapPage(dup(fd))!] as const);
    taps.serve({ uplink: (domain, uplink) => (told[domain] = uplink) }, new Map(pages));
    return told;
  };
  const countersOf = (domain: number) => {
    const page = mapPage(shelf.get(`uplink/${domain}/page`)!)!;
    const { counters } = queueBlock(page.buffer, 0);
    return { counters, close: () => page.close() };
  };

  it('count in a page each, which the keeper has, and of which each RDMA device shows its own', () => {
    const taps = opened();
    expect(taps.facts(null), 'a standby has nothing to tell').toEqual([]);
    expect(serve(taps)).toMatchObject([{ pageBytes: 8192 }, { pageBytes: 8192 }]);
    expect([...shelf.keys()]).toEqual(['uplink/0/page', 'uplink/1/page']);
    const { counters, close: done } = countersOf(1);
    counters.set([1, 2, 3], DROP_NO_DESTINATION);
    counters[FRAMES] = 7;
    counters[STATIONS_REFUSED] = 4;
    const debug = {
      frames: 7,
      drop_no_destination: 1,
      drop_same_port: 2,
      drop_not_switched: 3,
      stations_refused: 4,
    };
    expect(taps.facts(null)).toEqual([
      { ibDevice: 'mlx5_0', tap: 'up0', debug: NONE },
      { ibDevice: 'mlx5_1', tap: 'up1', debug },
    ]);
    expect(taps.facts(new Set(['mlx5_0']))).toHaveLength(1);
    taps.clear(new Set(['mlx5_0']));
    expect(taps.facts(new Set(['mlx5_1']))).toMatchObject([{ debug }]);
    taps.clear(new Set(['mlx5_1']));
    counters[DROP_SAME_PORT]!++;
    expect(taps.facts(new Set(['mlx5_1']))).toMatchObject([{ debug: { ...NONE, drop_same_port: 1 } }]);
    expect(counters[DROP_NOT_SWITCHED], 'the worker’s counter counts on').toBe(3);
    done();
  });

  it('a successor goes on in the page of its predecessor, an empty keeper is told it again, and it ends with the service', () => {
    serve(opened());
    const { counters, close: done } = countersOf(0);
    counters[DROP_NO_DESTINATION] = 5;
    const next = opened();
    serve(next);
    counters[DROP_NO_DESTINATION]++;
    expect(next.facts(new Set(['mlx5_0']))).toMatchObject([{ debug: { drop_no_destination: 6 } }]);
    for (const name of [...shelf.keys()]) drop(name);
    next.upload();
    expect([...shelf.keys()]).toEqual(['uplink/0/page', 'uplink/1/page']);
    const last = opened();
    serve(last);
    expect(last.facts(new Set(['mlx5_0']))).toMatchObject([{ debug: { drop_no_destination: 6 } }]);
    last.forget();
    expect([...shelf.keys()]).toEqual([]);
    done();
  });

  it('a page that cannot be gone on with is replaced, and one of an uplink that is no more forgotten', () => {
    shelf.set('uplink/0/page', memfdCreate('uplink-taps-test', statePageSize(1)));
    const newer = newPage(1);
    if (typeof newer === 'number') throw new Error(`errno ${-newer}`);
    new DataView(newer.buffer).setUint32(StatePageHeader.at.version, 99, true);
    queueBlock(newer.buffer, 0).counters[FRAMES] = 9;
    shelf.set('uplink/1/page', newer.fd);
    newer.close();
    const former = [...shelf.values()].map((fd) => dup(fd));
    const taps = opened();
    expect(serve(taps)).toHaveLength(2);
    expect(taps.facts(null).map(({ debug }) => debug)).toEqual([NONE, NONE]);
    for (const fd of former) close(fd);
    const without = new UplinkTaps(
      new DeviceStore({ transaction, kept: () => null }, () => undefined),
      () => 0,
    );
    emulators.push(without);
    without.open(DEFAULT_CONF);
    serve(without);
    expect([...shelf.keys()]).toEqual([]);
  });

  it('one that cannot be attached is reported, and its worker is told nothing', () => {
    const taps = opened();
    attached = () => -Errno.EINVAL;
    expect(serve(taps)).toEqual([]);
    expect(log).toEqual(Array(2).fill('the uplink of the eswitch cannot be attached'));
  });
});
