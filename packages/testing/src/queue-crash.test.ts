/** Crash and recovery of the frame queues by the state page: at most one frame lost or repeated per crash. */

import { ReceiveQueue, TransmitQueue } from '@virtnet/engine-virtio-net';
import { GuestMemory, resumePosition, SplitRing, type WorkedQueue } from '@virtnet/engine-virtqueue';
import {
  featureMask,
  QueueCounter,
  QueueWord,
  queueBlock,
  statePageSize,
  VirtioFeature,
} from '@virtnet/wire';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Crash, CrashPoints } from './crash-points.js';
import { DriverMemory } from './driver-memory.js';
import { MemoryPort } from './memory-port.js';
import { netHeader, shapeFrame } from './net-fixture.js';
import { SplitDriver } from './split-driver.js';
import { openSplitRing } from './split-ring-fixture.js';

const QUEUE_SIZE = 8;
const INDEX_MASK = 0xffff;

interface World {
  readonly driver: SplitDriver;
  readonly memory: DriverMemory;
  readonly port: MemoryPort;
  readonly page: ArrayBuffer;
  readonly crashes: CrashPoints;
  readonly direction: 'transmit' | 'receive';
}

function makeWorld(direction: World['direction'], startIndex: number, eventIdx: boolean): World {
  const memory = new DriverMemory({ sizeBytes: 1 << 16 });
  const driver = new SplitDriver({ memory, queueSize: QUEUE_SIZE, eventIdx, startIndex });
  const page = new ArrayBuffer(statePageSize(1));
  queueBlock(page, 0).words.set([startIndex, startIndex], QueueWord.POSITION);
  return { driver, memory, port: new MemoryPort(), page, crashes: new CrashPoints(), direction };
}

/** What a successor does: everything from memory, nothing from the dead one's objects. */
function successor({ driver, memory, port, page, crashes, direction }: World): WorkedQueue {
  const block = queueBlock(page, 0);
  const opened = openSplitRing(driver, new GuestMemory([memory.region]), { position: resumePosition(block) });
  if (!(opened instanceof SplitRing)) throw new Error(opened.code);
  const options = {
    ring: crashes.ring(opened),
    port: crashes.port(port),
    block: crashes.block(block),
    features: featureMask([VirtioFeature.VERSION_1]),
    mtu: 1500,
    linkUp: true,
  };
  const queue =
    direction === 'transmit'
      ? new TransmitQueue(options)
      : new ReceiveQueue({ ...options, active: true, filter: null });
  queue.resume();
  return queue;
}

/** Frame numbers survive in the last byte of the source address (shapeFrame's seed). */
const frameOf = (number: number): Uint8Array => shapeFrame({ seed: number, payloadBytes: 20 }).bytes;
const numberOf = (frame: Uint8Array): number => frame[11]!;

interface Outcome {
  /** Frame numbers on the far side, in order. */
  readonly arrived: number[];
  readonly crashed: number;
  readonly completed: number;
}

/** Moves `frames` frames with a crash after each of `lives` steps; the driver keeps the ring as full as it can. */
function run(world: World, frames: number, lives: readonly number[], budget: number): Outcome {
  const { driver, port, crashes, direction } = world;
  const block = queueBlock(world.page, 0);
  const left = [...lives];
  const arrived: number[] = [];
  let posted = 0;
  let completed = 0;
  let crashed = 0;
  let queue: WorkedQueue | null = null;
  if (direction === 'receive') for (let i = 0; i < frames; i++) port.push(frameOf(i));

  const rearm = () => {
    const next = left.shift();
    if (next === undefined) crashes.disarm();
    else crashes.arm(next);
  };
  rearm();
  for (let idle = 0; idle < 3; ) {
    if (direction === 'transmit') {
      while (posted < frames && driver.add({ readable: [netHeader({}), frameOf(posted)] }) >= 0) posted++;
    } else while (driver.add({ writable: [1600] }) >= 0);
    driver.publish();
    try {
      if (queue === null) {
        queue = successor(world);
        expect(driver.usedIndex, 'what was completed is visible').toBe(block.words[QueueWord.POSITION]);
      }
      idle = queue.poll(budget) === 0 ? idle + 1 : 0;
      if (queue.fault !== null) expect.fail(queue.fault.code);
    } catch (error) {
      if (!(error instanceof Crash)) throw error;
      crashed++;
      idle = 0;
      queue = null;
      rearm();
      const behind = (block.words[QueueWord.POSITION]! - driver.usedIndex) & INDEX_MASK;
      expect(behind, 'the used index never runs ahead of the position').toBeLessThanOrEqual(QUEUE_SIZE);
    }
    for (const used of driver.collect()) {
      completed++;
      if (direction === 'receive') {
        expect(used.lengthBytes).toBe(12 + frameOf(0).length);
        const frame = used.written.subarray(12, used.lengthBytes);
        expect(frame).toEqual(frameOf(numberOf(frame)));
        arrived.push(numberOf(frame));
      }
    }
  }
  if (direction === 'transmit') for (const { frame } of port.sent) arrived.push(numberOf(frame));
  return { arrived, crashed, completed };
}

const all = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

/** Nothing lost, order kept, and no more repetitions than crashes, each right behind its original. */
function expectSent({ arrived, crashed, completed }: Outcome, frames: number): void {
  expect(arrived.filter((number, i) => i === 0 || arrived[i - 1] !== number)).toEqual(all(frames));
  expect(arrived.length - frames).toBeLessThanOrEqual(crashed);
  expect(completed, 'every chain came back once').toBe(frames);
}

/** Nothing repeated, order kept, and no more losses than crashes. */
function expectReceived({ arrived, crashed }: Outcome, frames: number): void {
  expect(arrived.every((number, i) => i === 0 || arrived[i - 1]! < number)).toBe(true);
  expect(frames - arrived.length).toBeLessThanOrEqual(crashed);
}

describe('crash and recovery by the state page', () => {
  const modes = [
    ['without EVENT_IDX', 0, false],
    ['with EVENT_IDX, across the wrap', 65_533, true],
  ] as const;

  for (const [mode, startIndex, eventIdx] of modes) {
    it(`transmit ${mode}: a crash at any step repeats at most one frame and loses none`, () => {
      const undisturbed = makeWorld('transmit', startIndex, eventIdx);
      expectSent(run(undisturbed, 12, [], 3), 12);
      const steps = undisturbed.crashes.steps;
      expect(steps).toBeGreaterThan(150);
      let repeated = 0;
      for (let at = 0; at < steps; at++) {
        const outcome = run(makeWorld('transmit', startIndex, eventIdx), 12, [at], 3);
        expect(outcome.crashed, `step ${at}`).toBe(1);
        expectSent(outcome, 12);
        repeated += outcome.arrived.length - 12;
      }
      expect(repeated, 'some steps lie between sending and remembering it').toBeGreaterThan(0);
    });

    it(`receive ${mode}: a crash at any step loses at most one frame and repeats none`, () => {
      const undisturbed = makeWorld('receive', startIndex, eventIdx);
      expectReceived(run(undisturbed, 12, [], 3), 12);
      const steps = undisturbed.crashes.steps;
      expect(steps).toBeGreaterThan(150);
      let lost = 0;
      for (let at = 0; at < steps; at++) {
        const outcome = run(makeWorld('receive', startIndex, eventIdx), 12, [at], 3);
        expect(outcome.crashed, `step ${at}`).toBe(1);
        expectReceived(outcome, 12);
        lost += 12 - outcome.arrived.length;
      }
      expect(lost, 'some steps lie between reading and remembering it').toBeGreaterThan(0);
    });
  }

  it('any number of crashes in a row costs at most one frame each, whatever the burst', () => {
    const lives = fc.array(fc.integer({ min: 0, max: 90 }), { maxLength: 12 });
    const directions = fc.constantFrom('transmit' as const, 'receive' as const);
    fc.assert(
      fc.property(directions, lives, fc.integer({ min: 1, max: 8 }), (direction, steps, budget) => {
        const outcome = run(makeWorld(direction, 65_530, true), 30, steps, budget);
        (direction === 'transmit' ? expectSent : expectReceived)(outcome, 30);
      }),
      { numRuns: 300 },
    );
  });

  it('a successor of a process that died before publishing publishes, and reports that an interrupt may be missing', () => {
    let met = 0;
    for (let at = 0; met === 0 || at < 60; at++) {
      const world = makeWorld('transmit', 0, false);
      world.driver.add({ readable: [netHeader({}), frameOf(0)] });
      world.driver.publish();
      const queue = successor(world);
      world.crashes.arm(at);
      try {
        queue.poll(1);
        break; // no step left to die at
      } catch (error) {
        if (!(error instanceof Crash)) throw error;
      }
      world.crashes.disarm();
      const { words } = queueBlock(world.page, 0);
      if (words[QueueWord.POSITION] !== 1 || world.driver.usedIndex !== 0) continue;
      met++;
      const next = successor(world);
      expect(next.interrupt).toBe(true);
      expect(world.driver.usedIndex).toBe(1);
      expect(successor(world).interrupt, 'nothing is missing twice').toBe(false);
    }
    expect(met).toBeGreaterThan(0);
  });

  it('counters survive a crash and go on', () => {
    const world = makeWorld('transmit', 0, false);
    const outcome = run(world, 30, [40, 40, 40], 4);
    expect(outcome.crashed).toBe(3);
    const { counters } = queueBlock(world.page, 0);
    const frames = counters[QueueCounter.FRAMES]!;
    expect(Math.abs(frames - 30)).toBeLessThanOrEqual(outcome.crashed);
  });
});
