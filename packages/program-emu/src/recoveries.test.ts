import { HANG_MS, own } from '@virtnet/engine-recovery';
import { monotonicMs } from '@virtnet/host-linux';
import { StatePageHeader } from '@virtnet/wire';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { decodeDeviceRecord } from './device-record.js';
import { type Left, leftBy, pauseBegan, Recoveries, stamp } from './recoveries.js';
import type { Device } from './served-device.js';
import { shelfNames } from './shelf-names.js';
import { type TestDevice, TestWorld, testPlan } from './test-support/test-device.js';

const DEAD_PID = 4711;
const WRAP_MS = 2 ** 32;

describe('when a pause began', () => {
  it.each<[string, number | null, number | null, number | null]>([
    ['its death was seen, and it got on until then', 1000 - HANG_MS, 1000, 1000],
    ['its death was seen, and it had stood still', 1000 - HANG_MS - 1, 1000, 1000 - HANG_MS - 1],
    ['nobody saw its death', 900, null, 900],
    ['a build of before left no stamp', null, 1000, 1000],
    ['nobody knows anything', null, null, null],
  ])('%s', (_, workedMs, diedMs, began) => {
    expect(pauseBegan(workedMs, diedMs)).toBe(began);
  });
});

describe('recoveries of functions', () => {
  let world: TestWorld;
  let devices: TestDevice[];
  let served: Map<string, Device>;
  let recoveries: Recoveries;
  let getsOn: boolean;

  beforeEach(() => {
    world = new TestWorld();
    devices = [0, 1].map((pfId) =>
      world.device(testPlan({ pfId, switchPort: pfId + 2, address: 0x1700 + 256 * pfId })),
    );
    served = new Map(devices.map(({ host }) => [host.vuid, { host, endpoint: {} } as Device]));
    for (const { host } of devices) host.upload();
    getsOn = true;
    recoveries = new Recoveries(served, () => getsOn);
  });
  afterEach(async () => {
    recoveries.stop();
    for (const device of devices) await device.end();
    await world.close();
  });

  const device = (index = 0): Device => served.get(devices[index]!.host.vuid)!;
  const takeOver = (left: Left, deadAt: number | null = null): number => {
    recoveries.start(deadAt);
    const takeoverMs = recoveries.resumed([{ left }]);
    recoveries.count(device(), left);
    return takeoverMs;
  };
  const health = () => device().host.record().health;
  const kept = () => {
    const record = decodeDeviceRecord(world.shelf.entries.get(shelfNames.record(device().host.vuid))!.blob);
    if (typeof record === 'string') throw new Error(record);
    return record.health;
  };
  const stamps = () =>
    devices.map(({ host }) => new Uint32Array(host.page.buffer)[StatePageHeader.at.workedMs / 4]);

  it('a stamp is read as the time it was written at, also when the clock has passed 2^32 ms', () => {
    const { host } = devices[0]!;
    own(host.page.buffer, DEAD_PID);
    expect(leftBy(host, 5000)).toEqual({ pid: DEAD_PID, workedMs: null });
    stamp(host, 3 * WRAP_MS - 10);
    expect(leftBy(host, 3 * WRAP_MS + 90)).toEqual({ pid: DEAD_PID, workedMs: 3 * WRAP_MS - 10 });
    stamp(host, WRAP_MS); // 0 would say nothing
    expect(leftBy(host, WRAP_MS + 7).workedMs).toBe(WRAP_MS + 1);
  });

  it('promoted by somebody who saw nothing: the pause is from the stamp, and longer than the takeover', () => {
    const takeoverMs = takeOver({ pid: DEAD_PID, workedMs: monotonicMs() - 700 });
    const { lastPauseMs, maxPauseMs, recoveries: count, lastCause } = health();
    expect([count, lastCause]).toEqual([1, 'crash']);
    expect(lastPauseMs).toBeGreaterThanOrEqual(700 + takeoverMs);
    expect(maxPauseMs).toBe(lastPauseMs);
  });

  it('its death was seen: the pause is the takeover, and the longest of all stays', () => {
    takeOver({ pid: DEAD_PID, workedMs: monotonicMs() - 900 });
    const longest = health().lastPauseMs;
    const deadAt = performance.now() - 12;
    const takeoverMs = takeOver({ pid: DEAD_PID, workedMs: monotonicMs() - 30 }, deadAt);
    expect(takeoverMs).toBeGreaterThanOrEqual(12);
    expect(health()).toMatchObject({ recoveries: 2, lastPauseMs: takeoverMs, maxPauseMs: longest });
  });

  it('it stood still before it was killed: that time counts', () => {
    takeOver({ pid: DEAD_PID, workedMs: monotonicMs() - 212 }, performance.now() - 2);
    expect(health().lastPauseMs).toBeGreaterThanOrEqual(212);
  });

  it('held back: its pause ends when it is worked again', () => {
    takeOver({ pid: DEAD_PID, workedMs: monotonicMs() - 100 });
    const before = health().lastPauseMs!;
    const end = monotonicMs() + 5;
    while (monotonicMs() < end);
    recoveries.heldBack(device());
    expect(health().lastPauseMs).toBeGreaterThanOrEqual(before + 5);
    expect(health().maxPauseMs).toBe(health().lastPauseMs);
  });

  it('the cause is what the controller says, of that process alone, and is recorded for the next successor', async () => {
    takeOver({ pid: DEAD_PID, workedMs: null });
    await recoveries.told([
      { pid: DEAD_PID + 1, cause: 'hang' },
      { pid: DEAD_PID, cause: null }, // a controller of before knows no more
    ]);
    expect(health().lastCause).toBe('crash');
    await recoveries.told([{ pid: DEAD_PID, cause: 'killed' }]);
    expect([health().lastCause, kept().lastCause]).toEqual(['killed', 'killed']);
    takeOver({ pid: DEAD_PID + 1, workedMs: null });
    expect(health().lastCause, 'told before the takeover').toBe('hang');
    takeOver({ pid: 0, workedMs: null });
    expect(health().lastCause, 'nobody owned it: its emulator ended as it was told to').toBe('exit');
  });

  it('an unplugged function is not recorded again', async () => {
    takeOver({ pid: DEAD_PID, workedMs: null });
    const { host } = device();
    served.delete(host.vuid);
    world.shelf.entries.delete(shelfNames.record(host.vuid));
    await recoveries.told([{ pid: DEAD_PID, cause: 'killed' }]);
    expect(world.shelf.entries.has(shelfNames.record(host.vuid))).toBe(false);
  });

  it('who gets on says so in one page: of a function in use, while it is here', () => {
    Object.defineProperty(devices[1]!.host.state, 'driverReady', { value: true });
    for (const { host } of devices) stamp(host, 1);
    recoveries.start(null);
    recoveries.resumed([]);
    for (const index of [0, 1]) recoveries.count(device(index), { pid: DEAD_PID, workedMs: null });
    const [none, stamped] = stamps();
    expect([none, stamped! > 0]).toEqual([0, true]);
    expect(leftBy(devices[1]!.host).workedMs).toBeGreaterThan(monotonicMs() - 1000);
    served.delete(devices[1]!.host.vuid);
    recoveries.resumed([]); // as if some time had passed
    expect(stamps()[0]).toBeGreaterThan(0);
  });

  it('a worker takes no turn: nobody says that all get on', () => {
    getsOn = false;
    recoveries.start(null);
    recoveries.resumed([]);
    expect(stamps()).toEqual([0, 0]);
  });
});
