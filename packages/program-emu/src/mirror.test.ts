import { Arena, close, dup, eventfd, memfdCreate } from '@virtnet/host-linux';
import { statePageSize } from '@virtnet/wire';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { DEVICES_MAX } from './limits.js';
import { Mirror } from './mirror.js';
import { isOpen, mappingsOf, openFds } from './test-support/holdings.js';

const NOTHING = new Uint8Array(0);
const MEMORY = 'mirror-test-memory';
const PAGE = 'mirror-test-page';
const text = (value: unknown) => new TextEncoder().encode(JSON.stringify(value));
const dma = (iova: string, sizeBytes: number) =>
  text({ iova, sizeBytes, fdOffset: 0, readable: true, writable: true });

describe('mirror', () => {
  let arena: Arena;
  let mirror: Mirror;
  let before: number;
  const memory = (sizeBytes = 8192) => memfdCreate(MEMORY, sizeBytes);
  const page = (sizeBytes = statePageSize(5)) => memfdCreate(PAGE, sizeBytes);
  const held = () => ({ memory: mappingsOf(MEMORY), page: mappingsOf(PAGE), regions: arena.regionCount });

  beforeEach(() => {
    before = openFds();
    arena = Arena.reserve(2 ** 32);
    mirror = new Mirror(arena);
  });
  afterEach(() => {
    mirror.close();
    expect(openFds()).toBe(before);
    expect(held()).toEqual({ memory: 0, page: 0, regions: 0 });
  });

  it('files every kind of entry of a device under that device, and maps memory and page at once', () => {
    const fds = {
      listener: eventfd(),
      connection: eventfd(),
      tap: eventfd(),
      irq: eventfd(),
      kick: eventfd(),
    };
    mirror.put('dev/A/page', NOTHING, page());
    mirror.put('dev/A/listener', NOTHING, fds.listener);
    mirror.put('dev/A/connection', NOTHING, fds.connection);
    mirror.put('dev/A/tap/1', NOTHING, fds.tap);
    mirror.put('dev/A/irq/2/5', NOTHING, fds.irq);
    mirror.put('dev/A/kick/3', NOTHING, fds.kick);
    mirror.put('dev/A/dma/10000', dma('0x10000', 8192), memory());
    mirror.put('dev/A/dma/20000', dma('0x20000', 4096), -1);
    mirror.put('dev/A/record', Uint8Array.of(1, 2), -1);
    mirror.put('dev/B/record', Uint8Array.of(3), -1);
    expect([mirror.size, mirror.refused]).toEqual([2, 0]);
    expect(held()).toEqual({ memory: 1, page: 1, regions: 1 });
    const [a, b] = mirror.take();
    expect([a?.vuid, b?.vuid]).toEqual(['A', 'B']);
    expect(a).toMatchObject({
      record: Uint8Array.of(1, 2),
      listenerFd: fds.listener,
      connectionFd: fds.connection,
      taps: new Map([[1, fds.tap]]),
      irqs: new Map([['2/5', fds.irq]]),
      kicks: new Map([[3, fds.kick]]),
    });
    expect([...a!.memory.all()].map(({ iova }) => iova)).toEqual([0x10000n, 0x20000n]);
    expect(mirror.size).toBe(0);
    a!.close();
    b!.close();
  });

  it('of a device whose record was never told nothing is left once its other entries are gone', () => {
    mirror.put('dev/A/page', NOTHING, page());
    mirror.put('dev/A/tap/0', NOTHING, eventfd());
    mirror.put('dev/A/dma/10000', dma('0x10000', 8192), memory());
    mirror.delete('dev/A/page');
    mirror.delete('dev/A/tap/0');
    expect(mirror.size).toBe(1);
    mirror.delete('dev/A/dma/10000');
    expect(mirror.size).toBe(0);
  });

  it('an entry that replaces another of its name closes and unmaps the former, and only that', () => {
    for (const name of ['listener', 'connection', 'tap/0', 'irq/2/0', 'kick/0']) {
      const [former, next] = [eventfd(), eventfd()];
      mirror.put(`dev/A/${name}`, NOTHING, former);
      mirror.put(`dev/A/${name}`, NOTHING, next);
      expect([name, isOpen(former), isOpen(next)]).toEqual([name, false, true]);
    }
    for (const fd of [page(), page(statePageSize(40))]) mirror.put('dev/A/page', NOTHING, fd);
    for (const size of [4096, 8192]) mirror.put('dev/A/dma/0', dma('0x0', size), memory());
    expect(held()).toEqual({ memory: 1, page: 1, regions: 1 });
    const [device] = mirror.take();
    device?.page?.view(100);
    expect(device?.page?.buffer.byteLength).toBe(statePageSize(40));
    device!.close();
  });

  it('devices with a new record are prepared one at a time; what cannot be is not held against anybody', () => {
    for (const name of ['A', 'B', 'C']) mirror.put(`dev/${name}/record`, Uint8Array.of(1), -1);
    mirror.delete('dev/B/record');
    const made: string[] = [];
    const forsaken: string[] = [];
    const next = () =>
      mirror.prepareNext(({ vuid }) => {
        made.push(vuid);
        return vuid === 'C' ? null : { forsake: () => forsaken.push(vuid) };
      });
    expect([next(), next(), next()]).toEqual([true, false, false]);
    mirror.put('dev/A/record', Uint8Array.of(2), -1);
    mirror.put('dev/C/record', Uint8Array.of(2), -1);
    mirror.takeOne('A');
    expect([next(), next()]).toEqual([false, false]);
    expect([made, forsaken]).toEqual([['A', 'C', 'C'], ['A']]);
    mirror.put('dev/B/record', Uint8Array.of(1), -1);
    next();
    mirror.delete('dev/B/tap/7');
    expect([next(), made.splice(3), forsaken.splice(1)]).toEqual([false, ['B', 'B'], ['B']]);
    mirror.close();
    expect(forsaken).toEqual(['A', 'B']);
  });

  it('delete closes and unmaps what the name stood for', () => {
    const parts = ['listener', 'connection', 'tap/0', 'irq/2/0', 'kick/0'];
    mirror.put('dev/A/record', Uint8Array.of(1), -1);
    const kept = openFds();
    for (const part of parts) mirror.put(`dev/A/${part}`, NOTHING, eventfd());
    mirror.put('dev/A/page', NOTHING, page());
    mirror.put('dev/A/dma/ff000', dma('0xff000', 4096), memory());
    for (const part of [...parts, 'page', 'dma/ff000']) mirror.delete(`dev/A/${part}`);
    expect(openFds()).toBe(kept);
    expect(held()).toEqual({ memory: 0, page: 0, regions: 0 });
    expect(mirror.size).toBe(1);
  });

  it('delete of the record is the end of the device, whatever is left of it', () => {
    mirror.put('dev/A/record', Uint8Array.of(1), -1);
    mirror.put('dev/A/tap/0', NOTHING, eventfd());
    mirror.put('dev/A/dma/0', dma('0x0', 4096), memory());
    mirror.delete('dev/A/record');
    expect([mirror.size, openFds()]).toEqual([0, before]);
    for (const part of ['tap/0', 'dma/0', 'record', 'unheard-of']) mirror.delete(`dev/A/${part}`);
    mirror.delete('dev/nobody/page');
    mirror.delete('not a name of ours');
  });

  it.each([
    ['a name of nothing we know', 'lease', NOTHING],
    ['an unknown part', 'dev/A/colour', NOTHING],
    ['a queue that is no number', 'dev/A/tap/x', NOTHING],
    ['a queue that is no whole number', 'dev/A/kick/1.5', NOTHING],
    ['a negative queue', 'dev/A/kick/-1', NOTHING],
    ['a number in another notation', 'dev/A/tap/0x1', NOTHING],
    ['an empty number', 'dev/A/tap/', NOTHING],
    ['no vector', 'dev/A/irq/2', NOTHING],
    ['a vector that is no number', 'dev/A/irq/2/x', NOTHING],
    ['a page that is no file', 'dev/A/page', NOTHING],
    ['a range that is no JSON', 'dev/A/dma/0', Uint8Array.of(0x7b)],
    ['a range without fields', 'dev/A/dma/0', text({})],
    ['a range in what is no file', 'dev/A/dma/0', dma('0x0', 4096)],
  ])('%s: refused, counted, closed, and no device is made of it', (_, name, blob) => {
    const fd = eventfd();
    mirror.put(name, blob, fd);
    expect([mirror.refused, isOpen(fd), mirror.size]).toEqual([1, false, 0]);
  });

  it('entries that need a descriptor and have none, and one that needs none and has one, are refused', () => {
    for (const part of ['page', 'listener', 'connection', 'tap/0', 'kick/0', 'irq/2/0'])
      mirror.put(`dev/A/${part}`, NOTHING, -1);
    expect(mirror.refused).toBe(6);
    const fd = eventfd();
    mirror.put('dev/A/record', Uint8Array.of(1), fd);
    expect([mirror.refused, isOpen(fd)]).toEqual([7, false]);
  });

  it('memory that its owner has cut off before it came here: the device is known for that', () => {
    const fd = memory();
    mirror.put('dev/A/dma/0', dma('0x0', 1 << 30), fd);
    expect([
      mirror.refused,
      mirror.get('A')?.memory.findTruncated(),
      mirror.get('A')?.memory.messages(),
    ]).toEqual([0, true, []]);
    mirror.delete('dev/A/dma/0');
    expect([isOpen(fd), openFds()]).toEqual([false, before]);
  });

  it('requests that were carried out and left no device: known until they are deleted', () => {
    mirror.put('unplugged/one', NOTHING, -1);
    mirror.put('unplugged/two', NOTHING, -1);
    mirror.delete('unplugged/one');
    mirror.put('unplugged/', NOTHING, -1);
    expect([[...mirror.unplugged], mirror.size, mirror.refused]).toEqual([['two'], 0, 1]);
  });

  it('pages of uplinks: mapped, replaced, deleted, handed over; anything else under such a name is refused', () => {
    const [former, now, other] = [page(), page(), page()];
    mirror.put('uplink/0/page', NOTHING, former);
    mirror.put('uplink/0/page', NOTHING, now);
    mirror.put('uplink/1/page', NOTHING, other);
    expect([isOpen(former), isOpen(now), held().page, mirror.size]).toEqual([false, true, 2, 0]);
    mirror.delete('uplink/1/page');
    mirror.delete('uplink/1/page');
    expect([isOpen(other), held().page]).toEqual([false, 1]);
    for (const fd of [eventfd(), page(100), -1]) mirror.put('uplink/0/page', NOTHING, fd);
    mirror.put('uplink/2/page', NOTHING, page());
    expect([mirror.refused, isOpen(now)]).toEqual([4, true]);
    const pages = mirror.takeUplinkPages();
    expect([[...pages.keys()], mirror.takeUplinkPages().size]).toEqual([[0], 0]);
    for (const each of pages.values()) each.close();
    close(now);
    mirror.put('uplink/1/page', NOTHING, page());
  });

  it('a refused replacement leaves nothing of itself behind', () => {
    const good = page();
    mirror.put('dev/A/page', NOTHING, good);
    mirror.put('dev/A/page', NOTHING, eventfd());
    mirror.put('dev/A/page', NOTHING, page(0));
    expect([mirror.refused, isOpen(good), openFds()]).toEqual([2, true, before + 1]);
  });

  it('ranges of one device that overlap: the second is refused and closed; those of two devices are not', () => {
    mirror.put('dev/A/dma/0', dma('0x0', 8192), memory());
    mirror.put('dev/A/dma/1000', dma('0x1000', 4096), memory());
    expect(mirror.refused).toBe(1);
    mirror.put('dev/B/dma/0', dma('0x0', 8192), memory());
    expect([mirror.refused, held().regions, openFds()]).toEqual([1, 2, before + 2]);
  });

  it(`device ${DEVICES_MAX + 1} is refused`, () => {
    for (let i = 0; i <= DEVICES_MAX; i++) mirror.put(`dev/${i}/record`, NOTHING, -1);
    expect([mirror.size, mirror.refused]).toEqual([DEVICES_MAX, 1]);
  });

  it('close ends everything', () => {
    const fd = eventfd();
    for (const device of 'ABC') {
      for (const part of ['listener', 'tap/0', 'tap/1', 'irq/0/0', 'kick/2'])
        mirror.put(`dev/${device}/${part}`, NOTHING, dup(fd));
      mirror.put(`dev/${device}/page`, NOTHING, page());
      mirror.put(`dev/${device}/dma/0`, dma('0x0', 8192), memory());
    }
    close(fd);
    mirror.close();
    expect([mirror.size, openFds()]).toEqual([0, before]);
  });
});
