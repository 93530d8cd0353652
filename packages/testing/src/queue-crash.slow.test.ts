/** Crash and recovery of the frame queues by the state page: at most one frame lost or repeated per crash. */

import { ReceiveQueue, SpreadReceiveQueue, TransmitQueue } from '@virtnet/engine-virtio-net';
import { isRing, openRing, resumePosition, type WorkedQueue } from '@virtnet/engine-virtqueue';
import {
  featureMask,
  GsoType,
  NetFeature,
  NetHeaderFlag,
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
import { KernelMemoryPort, KernelReadingPort, MemoryPort, PlainMemoryPort } from './memory-port.js';
import { netHeader, shapeFrame } from './net-fixture.js';
import { PackedDriver } from './packed-driver.js';
import { packedPosition } from './packed-ring-fixture.js';
import type { UsedChain } from './ring-driver.js';
import { SplitDriver } from './split-driver.js';

/** A burst of frames over several buffers has to find room. */
const queueSizeOf = ({ spread }: Mode): number => (spread === true ? 32 : 8);
/** Frames of a run; the runs grow with their square. */
const FRAMES = 7;
const INDEX_MASK = 0xffff;
const PLAIN = { ring: 'split', start: 0, eventIdx: false } as const;
const HEADER_BYTES = 12;

interface Mode {
  readonly ring: 'split' | 'packed';
  /** Both sides begin here. */
  readonly start: number;
  readonly eventIdx: boolean;
  /** Mergeable buffers, of which a frame needs one to four. */
  readonly spread?: boolean;
  /** Frames in one buffer, at a port with a short way for them. */
  readonly plain?: boolean;
  /** The same, of which the kernel sends many in one call. */
  readonly kernel?: boolean;
  /** Frames that the kernel reads many of in one call, into buffers of one piece; some of them nobody wants. */
  readonly ahead?: boolean;
}

interface World extends Mode {
  readonly driver: SplitDriver | PackedDriver;
  readonly memory: DriverMemory;
  readonly port: MemoryPort;
  readonly page: ArrayBuffer;
  readonly crashes: CrashPoints;
  readonly direction: 'transmit' | 'receive';
}

function makeWorld(direction: World['direction'], mode: Mode): World {
  const memory = new DriverMemory({ sizeBytes: 1 << 16 });
  const { start, eventIdx } = mode;
  const common = { memory, queueSize: queueSizeOf(mode), eventIdx };
  const driver =
    mode.ring === 'split'
      ? new SplitDriver({ ...common, startIndex: start })
      : new PackedDriver({ ...common, startPosition: start });
  const page = new ArrayBuffer(statePageSize(1));
  queueBlock(page, 0).words.set([start, start], QueueWord.POSITION);
  const Port =
    mode.ahead === true
      ? KernelReadingPort
      : mode.kernel === true
        ? KernelMemoryPort
        : mode.plain === true
          ? PlainMemoryPort
          : MemoryPort;
  const port = new Port();
  return { ...mode, driver, memory, port, page, crashes: new CrashPoints(), direction };
}

/** What a successor does: everything from memory, nothing from the dead one's objects. */
function successor({ driver, memory, port, page, crashes, direction, spread, ring }: World): WorkedQueue {
  const block = crashes.block(queueBlock(page, 0));
  const opened = openRing({
    packed: ring === 'packed',
    queueSize: driver.queueSize,
    memory: crashes.memory([memory.region]),
    descriptorAddress: driver.descriptorAddress,
    driverAddress: driver.driverAddress,
    deviceAddress: driver.deviceAddress,
    indirect: false,
    eventIdx: driver.eventIdx,
    position: resumePosition(block),
    chainSegmentsMax: 16,
    journal: block.journal,
  });
  if (!isRing(opened)) throw new Error(opened.code);
  const features = [
    VirtioFeature.VERSION_1,
    ...(spread === true ? [NetFeature.MRG_RXBUF, NetFeature.MTU] : []),
  ];
  const options = {
    ring: crashes.ring(opened),
    port: crashes.port(port),
    block,
    features: featureMask(features),
    mtu: 1500,
    linkUp: true,
  };
  const Receive = spread === true ? SpreadReceiveQueue : ReceiveQueue;
  const queue =
    direction === 'transmit'
      ? new TransmitQueue(options)
      : new Receive({ ...options, active: true, filter: null });
  queue.resume();
  return queue;
}

/** Everything completed is visible: of a split ring the used index says so, of a packed ring both halves do. */
function expectVisible({ driver, page }: World): void {
  const position = queueBlock(page, 0).words[QueueWord.POSITION]!;
  if (driver instanceof SplitDriver) expect(driver.usedIndex).toBe(position);
  else expect(position >>> 16).toBe(position & 0xffff);
}

/** Frame numbers survive in the last byte of the source address (shapeFrame's seed). */
const frameOf = (number: number): Uint8Array =>
  shapeFrame({ seed: number, payloadBytes: 20 + (number % 4) * 110 }).bytes;
const numberOf = (frame: Uint8Array): number => frame[11]!;

/** Lets a frame wait. Where they are read ahead, a third takes the long way, and in front of some is one that nobody wants. */
function push(port: MemoryPort, number: number): void {
  if (!(port instanceof KernelReadingPort)) return port.push(frameOf(number));
  if (number % 4 === 1) port.push(frameOf(number), netHeader({ gsoType: GsoType.TCPV4 }));
  port.push(frameOf(number), netHeader(number % 3 === 1 ? { flags: NetHeaderFlag.DATA_VALID } : {}));
  if (number % 5 === 2) port.early.add(number);
}

interface Outcome {
  /** Frame numbers on the far side, in order. */
  readonly arrived: number[];
  readonly crashed: number;
  readonly completed: number;
}

/** Frames in what came back: the first buffer of each says how many it has, and all of them are there. */
function framesIn(used: readonly UsedChain[]): Uint8Array[] {
  const frames: Uint8Array[] = [];
  for (let at = 0; at < used.length; ) {
    const buffers = used[at]!.written[10]!;
    const parts = used.slice(at, at + buffers);
    expect(parts.length, 'a frame is visible as a whole').toBe(buffers);
    for (const { written, lengthBytes } of parts.slice(0, -1)) expect(lengthBytes).toBe(written.length);
    const bytes = parts.flatMap(({ written, lengthBytes }) => [...written.subarray(0, lengthBytes)]);
    frames.push(Uint8Array.from(bytes.slice(HEADER_BYTES)));
    at += buffers;
  }
  return frames;
}

/** Moves `frames` frames with a crash after each of `lives` steps; the driver keeps the ring as full as it can. */
function run(world: World, frames: number, lives: readonly number[], budget: number): Outcome {
  return world.crashes.watched(() => runWatched(world, frames, lives, budget));
}

function runWatched(world: World, frames: number, lives: readonly number[], budget: number): Outcome {
  const { driver, port, crashes, direction } = world;
  const block = queueBlock(world.page, 0);
  const left = [...lives];
  const arrived: number[] = [];
  let posted = 0;
  let completed = 0;
  let crashed = 0;
  let queue: WorkedQueue | null = null;
  if (direction === 'receive') for (let i = 0; i < frames; i++) push(port, i);

  const rearm = () => {
    const next = left.shift();
    if (next === undefined) crashes.disarm();
    else crashes.arm(next);
  };
  rearm();
  for (let idle = 0; idle < 3; ) {
    if (direction === 'transmit') {
      const parts = () => [netHeader({}), frameOf(posted)];
      const readable = () => (world.plain === true ? [Uint8Array.from(Buffer.concat(parts()))] : parts());
      while (posted < frames && driver.add({ readable: readable() }) >= 0) posted++;
    } else
      while (driver.add({ writable: [world.spread === true && world.ahead !== true ? 120 : 1600] }) >= 0);
    driver.publish();
    try {
      if (queue === null) {
        queue = successor(world);
        expectVisible(world);
      }
      idle = queue.poll(budget) === 0 ? idle + 1 : 0;
      if (queue.fault !== null) expect.fail(queue.fault.code);
    } catch (error) {
      if (!(error instanceof Crash)) throw error;
      crashed++;
      idle = 0;
      queue = null;
      rearm();
      if (driver instanceof SplitDriver) {
        const behind = (block.words[QueueWord.POSITION]! - driver.usedIndex) & INDEX_MASK;
        expect(behind, 'the used index never runs ahead of the position').toBeLessThanOrEqual(
          driver.queueSize,
        );
      }
    }
    const used = driver.collect();
    completed += used.length;
    if (direction === 'receive') {
      for (const frame of framesIn(used)) {
        expect(frame).toEqual(frameOf(numberOf(frame)));
        arrived.push(numberOf(frame));
      }
    }
  }
  if (port instanceof KernelReadingPort && direction === 'receive') {
    const read = frames + Math.floor((frames + 2) / 4);
    if (lives.length === 0) expect(port.together, 'all, and those that nobody wants').toBe(read);
    expect(block.words[QueueWord.BURST]).toBe(0);
  }
  if (port instanceof PlainMemoryPort && lives.length === 0) expect(port.plain).toBe(frames);
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
  const modes: readonly (Mode & { readonly name: string })[] = [
    { name: 'split', ring: 'split', start: 0, eventIdx: false },
    { name: 'split with EVENT_IDX, across the wrap', ring: 'split', start: 65_533, eventIdx: true },
    { name: 'packed', ring: 'packed', start: packedPosition(0, 1), eventIdx: false },
    {
      name: 'packed with EVENT_IDX, across the wrap',
      ring: 'packed',
      start: packedPosition(5, 0),
      eventIdx: true,
    },
    { name: 'split, plain frames', ring: 'split', start: 65_533, eventIdx: true, plain: true },
    {
      name: 'packed, plain frames',
      ring: 'packed',
      start: packedPosition(5, 0),
      eventIdx: true,
      plain: true,
    },
    {
      name: 'split, plain frames that the kernel sends',
      ring: 'split',
      start: 65_533,
      eventIdx: true,
      plain: true,
      kernel: true,
    },
    {
      name: 'packed, plain frames that the kernel sends',
      ring: 'packed',
      start: packedPosition(5, 0),
      eventIdx: true,
      plain: true,
      kernel: true,
    },
    { name: 'split, frames read ahead', ring: 'split', start: 65_533, eventIdx: true, ahead: true },
    {
      name: 'packed, frames read ahead',
      ring: 'packed',
      start: packedPosition(5, 0),
      eventIdx: true,
      ahead: true,
    },
    {
      name: 'packed, frames read ahead into mergeable buffers',
      ring: 'packed',
      start: packedPosition(29, 1),
      eventIdx: true,
      spread: true,
      ahead: true,
    },
    {
      name: 'split, frames over several buffers',
      ring: 'split',
      start: 65_533,
      eventIdx: true,
      spread: true,
    },
    {
      name: 'packed, frames over several buffers',
      ring: 'packed',
      start: packedPosition(29, 1),
      eventIdx: true,
      spread: true,
    },
  ];

  for (const mode of modes) {
    if (mode.spread === undefined && mode.ahead === undefined)
      it(`transmit, ${mode.name}: a crash at any step repeats at most one frame and loses none`, () => {
        const undisturbed = makeWorld('transmit', mode);
        expectSent(run(undisturbed, FRAMES, [], 3), FRAMES);
        const steps = undisturbed.crashes.steps;
        expect(steps).toBeGreaterThan(100);
        let repeated = 0;
        for (let at = 0; at < steps; at++) {
          const outcome = run(makeWorld('transmit', mode), FRAMES, [at], 3);
          expect(outcome.crashed, `step ${at}`).toBe(1);
          expectSent(outcome, FRAMES);
          repeated += outcome.arrived.length - FRAMES;
        }
        if (mode.kernel === true) expect(repeated, 'what was sent is remembered by the kernel').toBe(0);
        else expect(repeated, 'some steps lie between sending and remembering it').toBeGreaterThan(0);
      });

    it(`receive, ${mode.name}: a crash at any step loses at most one frame and repeats none`, () => {
      const undisturbed = makeWorld('receive', mode);
      const whole = run(undisturbed, FRAMES, [], 3);
      expectReceived(whole, FRAMES);
      expect(whole.arrived).toEqual(all(FRAMES));
      const steps = undisturbed.crashes.steps;
      expect(steps).toBeGreaterThan(100);
      let lost = 0;
      for (let at = 0; at < steps; at++) {
        const outcome = run(makeWorld('receive', mode), FRAMES, [at], 3);
        expect(outcome.crashed, `step ${at}`).toBe(1);
        expectReceived(outcome, FRAMES);
        lost += FRAMES - outcome.arrived.length;
      }
      if (mode.ahead === true) expect(lost, 'what was read is remembered by the kernel').toBe(0);
      else expect(lost, 'some steps lie between reading and remembering it').toBeGreaterThan(0);
    });
  }

  it('any number of crashes in a row costs at most one frame each, whatever the burst', () => {
    const lives = fc.array(fc.integer({ min: 0, max: 150 }), { maxLength: 12 });
    const directions = fc.constantFrom('transmit' as const, 'receive' as const);
    const mode = fc.constantFrom(...modes.filter(({ ahead }) => ahead !== true));
    fc.assert(
      fc.property(
        mode,
        directions,
        lives,
        fc.integer({ min: 1, max: 8 }),
        (picked, direction, steps, budget) => {
          const outcome = run(makeWorld(direction, picked), 30, steps, budget);
          (direction === 'transmit' ? expectSent : expectReceived)(outcome, 30);
        },
      ),
      { numRuns: 150 },
    );
  });

  it('any number of crashes in a row costs at most one frame each where frames are read ahead', () => {
    const mode = fc.constantFrom(...modes.filter(({ ahead }) => ahead === true));
    const lives = fc.array(fc.integer({ min: 0, max: 150 }), { maxLength: 12 });
    fc.assert(
      fc.property(mode, lives, fc.integer({ min: 3, max: 8 }), (picked, steps, budget) => {
        const outcome = run(makeWorld('receive', picked), 30, steps, budget);
        expectReceived(outcome, 30);
      }),
      { numRuns: 60 },
    );
  });

  it.each(['split', 'packed'] as const)(
    '%s: a burst that the kernel sends is neither lost nor repeated by two crashes in a row',
    (ring) => {
      const start = ring === 'split' ? 65_533 : packedPosition(5, 0);
      const mode = { ring, start, eventIdx: true, plain: true, kernel: true };
      let twice = 0;
      for (let first = 60; first < 190; first += 3) {
        for (let second = 0; second < 40; second++) {
          const outcome = run(makeWorld('transmit', mode), 12, [first, second], 3);
          expect(outcome.arrived, `crashes after ${first} and ${second} steps`).toEqual(all(12));
          if (outcome.crashed === 2) twice++;
        }
      }
      expect(twice).toBeGreaterThan(1000);
    },
  );

  it('a successor of a process that died before publishing publishes, and reports that an interrupt may be missing', () => {
    let met = 0;
    for (let at = 0; met === 0 || at < 60; at++) {
      const world = makeWorld('transmit', PLAIN);
      const driver = world.driver as SplitDriver;
      driver.add({ readable: [netHeader({}), frameOf(0)] });
      driver.publish();
      const queue = world.crashes.watched(() => successor(world));
      world.crashes.arm(at);
      try {
        world.crashes.watched(() => queue.poll(1));
        break; // no step left to die at
      } catch (error) {
        if (!(error instanceof Crash)) throw error;
      }
      world.crashes.disarm();
      const { words } = queueBlock(world.page, 0);
      if (words[QueueWord.POSITION] !== 1 || driver.usedIndex !== 0) continue;
      met++;
      const next = world.crashes.watched(() => successor(world));
      expect(next.interrupt).toBe(true);
      expect(driver.usedIndex).toBe(1);
      const again = world.crashes.watched(() => successor(world));
      expect(again.interrupt, 'nothing is missing twice').toBe(false);
    }
    expect(met).toBeGreaterThan(0);
  });

  it('counters survive a crash and go on', () => {
    const world = makeWorld('transmit', PLAIN);
    const outcome = run(world, 30, [40, 40, 40], 4);
    expect(outcome.crashed).toBe(3);
    const { counters } = queueBlock(world.page, 0);
    const frames = counters[QueueCounter.FRAMES]!;
    expect(Math.abs(frames - 30)).toBeLessThanOrEqual(outcome.crashed);
  });
});
