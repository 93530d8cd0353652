import { QueueCounter, queueBlock, statePageSize } from '@virtnet/wire';
import { beforeEach, describe, expect, it } from 'vitest';
import { type BalancedDevice, Balancer } from './balancer.js';
import type { PairsTogether } from './device-queues.js';
import { EASY_LOAD, LASTING_PERIODS, REST_PERIODS } from './pair-balance.js';

const PERIOD_MS = 1000;
const PAIRS = 2;
/** What a frame of a TAP is taken to cost. */
const TAP_FRAME_US = 3;

/** A device whose pairs move as they are told, and whose counters the test writes. */
class FakeDevice implements BalancedDevice {
  readonly page = { buffer: new ArrayBuffer(statePageSize(2 * PAIRS)) };
  readonly vuid: string;
  readonly representor: BalancedDevice['representor'];
  pairGroups: PairsTogether[] = [];
  readonly moved: string[] = [];
  moving: Promise<boolean> = Promise.resolve(true);

  constructor(vuid: string, representor: BalancedDevice['representor'], ...groups: PairsTogether[]) {
    this.vuid = vuid;
    this.representor = representor;
    this.pairGroups = groups;
  }

  movePair(pair: number, worker: number): Promise<boolean> {
    this.moved.push(`${pair} to ${worker}`);
    return this.moving;
  }

  work(queue: number, frames: number, bytes: number): void {
    const { counters } = queueBlock(this.page.buffer, queue);
    counters[QueueCounter.FRAMES]! += frames;
    counters[QueueCounter.BYTES]! += bytes;
  }
}

const at = (worker: number, ...pairs: number[]): PairsTogether => ({ pairs, worker, stay: false });

describe('balancer', () => {
  let devices: FakeDevice[];
  let balancer: Balancer;
  let said: unknown[];
  let nowMs: number;

  beforeEach(() => {
    devices = [];
    said = [];
    nowMs = 0;
    balancer = new Balancer(2, { devices: () => devices, onMove: (move) => said.push(move), beat() {} });
  });

  /** Some periods, in each of which `work` is done. */
  const pass = async (periods: number, work: () => void, periodMs = PERIOD_MS) => {
    for (let period = 0; period < periods; period++) {
      work();
      nowMs += periodMs;
      await balancer.look(nowMs);
    }
  };
  const moved = () => devices.flatMap(({ vuid, moved: list }) => list.map((move) => `${vuid}: ${move}`));
  const FRAMES = 2 * EASY_LOAD;

  it('two devices are busy on one worker: a pair of one goes to the other, and the move is told', async () => {
    devices = [new FakeDevice('a', 'tap', at(0, 0)), new FakeDevice('b', 'tap', at(0, 1), at(1, 0))];
    await pass(1 + LASTING_PERIODS, () => {
      devices[0]!.work(0, FRAMES, 0);
      devices[1]!.work(3, FRAMES / 2, 0);
      devices[1]!.work(0, FRAMES / 4, 0);
    });
    expect(moved()).toEqual(['b: 1 to 1']);
    expect(said).toEqual([{ vuid: 'b', pairs: [1], from: 0, to: 1 }]);
  });

  it('what was moved before the first look does not count', async () => {
    devices = [new FakeDevice('a', 'tap', at(0, 0)), new FakeDevice('b', 'tap', at(0, 1))];
    for (const device of devices) for (const queue of [0, 1, 2, 3]) device.work(queue, 1e12, 1e15);
    await pass(10, () => {});
    expect(moved()).toEqual([]);
  });

  it('the load is that of a second, however late the look is', async () => {
    devices = [new FakeDevice('a', 'tap', at(0, 0)), new FakeDevice('b', 'tap', at(0, 1))];
    const work = () => {
      devices[0]!.work(0, EASY_LOAD / TAP_FRAME_US, 0);
      devices[1]!.work(3, EASY_LOAD / TAP_FRAME_US, 0);
    };
    await pass(10, work, 2 * PERIOD_MS + 1);
    expect(moved()).toEqual([]);
    await pass(1 + LASTING_PERIODS, work, 2 * PERIOD_MS - 1);
    expect(moved()).toHaveLength(1);
  });

  it('bytes count by the kilobyte, and frames between guests little', async () => {
    devices = [new FakeDevice('a', 'tap', at(0, 0)), new FakeDevice('b', 'loop', at(0, 1))];
    await pass(1 + LASTING_PERIODS, () => {
      devices[0]!.work(0, 0, (EASY_LOAD / 2) * 10 * 1024 * 0.99);
      devices[1]!.work(3, (EASY_LOAD / 2) * 10 * 0.99, 0);
    });
    expect(moved()).toEqual([]);
    await pass(1 + LASTING_PERIODS, () => {
      devices[0]!.work(0, 0, (EASY_LOAD / 2) * 10 * 1024 * 1.01);
      devices[1]!.work(3, (EASY_LOAD / 2) * 10 * 1.01, 0);
    });
    expect(moved()).toHaveLength(1);
  });

  it('pairs that go together are one load, named by the first of them, and who stays is left where he is', async () => {
    devices = [
      new FakeDevice('a', 'tap', { ...at(0, 0), stay: true }),
      new FakeDevice('b', 'tap', at(0, 1, 0)),
    ];
    await pass(1 + LASTING_PERIODS, () => {
      devices[0]!.work(0, 2 * FRAMES, 0);
      for (const queue of [0, 1, 2, 3]) devices[1]!.work(queue, FRAMES / 4, 0);
    });
    expect(moved()).toEqual(['b: 1 to 1']);
    await pass(REST_PERIODS - 1, () => {
      devices[0]!.work(0, 2 * FRAMES, 0);
      devices[1]!.work(0, FRAMES, 0);
    });
    expect(moved(), 'it stayed, for want of room say: it is not asked again soon').toHaveLength(1);
  });

  it('nothing is asked while a move is under way', async () => {
    devices = Array.from({ length: 4 }, (_, i) => new FakeDevice(`${i}`, 'tap', at(0, 0)));
    const { promise, resolve } = Promise.withResolvers<boolean>();
    for (const device of devices) device.moving = promise;
    const work = () => {
      for (const device of devices) device.work(0, FRAMES, 0);
    };
    work();
    for (let period = 0; period < 20; period++) {
      work();
      nowMs += PERIOD_MS;
      void balancer.look(nowMs);
    }
    expect(moved()).toHaveLength(1);
    resolve(true);
    await promise;
    await pass(1 + LASTING_PERIODS, work);
    expect(moved()).toHaveLength(2);
  });
});
