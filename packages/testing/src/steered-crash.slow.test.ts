/** A crash between any two steps of steering a TAP: at most the frame that was read and not given is lost. */
import { SwitchDomain } from '@virtnet/engine-eswitch';
import { PrivateMemory } from '@virtnet/engine-virtqueue';
import { HashType } from '@virtnet/wire';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Crash, CrashPoints } from './crash-points.js';
import { shapeFrame } from './net-fixture.js';
import { SwitchedPair } from './switch-fixture.js';

const HEADER = 12;
const FRAME_AT = 14;
const BURST = 3;
const KEY = Uint8Array.from({ length: 40 }, (_, i) => (i * 73 + 11) & 0xff);
const RSS = { types: HashType.IPV4, key: [...KEY], table: [0, 1, 1, 0], unclassified: 0 };
const NO_OFFLOAD = new Uint8Array(HEADER);

/** Frames of many flows, each with its number in its last byte. */
function frameOf(number: number): Uint8Array {
  const { bytes } = shapeFrame({ seed: number, payloadBytes: 20 });
  bytes.set([8, 0, 0x45], 12);
  bytes.set([10, (number * 37) & 0xff, (number * 91) & 0xff, number, 10, 0, 0, 2], FRAME_AT + 12);
  bytes[bytes.length - 1] = number;
  return bytes;
}

interface Outcome {
  /** Numbers each queue got, in order. */
  readonly arrived: readonly number[][];
  readonly crashed: number;
}

/** Reads `count` frames out of a TAP, with a crash after each of `lives` steps. */
const run = (packed: boolean, crashes: CrashPoints, count: number, lives: readonly number[]): Outcome =>
  crashes.watched(() => runWatched(packed, crashes, count, lives));

function runWatched(packed: boolean, crashes: CrashPoints, count: number, lives: readonly number[]): Outcome {
  const options = { packed, rss: RSS, queueSize: 8, memoryBytes: 1 << 16 };
  const pairs = [0, 1].map((pair) => new SwitchedPair(0, { ...options, pair }));
  const memory = new PrivateMemory(2048);
  const left = [...lives];
  const arrived: number[][] = [[], []];
  let domain: SwitchDomain | null = null;
  let next = 0;
  let crashed = 0;
  const rearm = () => {
    const steps = left.shift();
    if (steps === undefined) crashes.disarm();
    else crashes.arm(steps);
  };
  rearm();
  // A life of the worker more after the last frame: what was not shown yet is shown then.
  for (let idle = 0; idle < 2; ) {
    for (const { receiver } of pairs) {
      while (receiver.add({ writable: [1600] }) >= 0);
      receiver.publish();
    }
    try {
      if (domain === null) {
        const made: SwitchDomain = new SwitchDomain({ seed: 1, settled: () => {} });
        for (const pair of pairs) pair.open(made, crashes);
        domain = made;
      }
      domain.begin();
      idle = next === count ? idle + 1 : 0;
      for (let i = 0; i < BURST && next < count; i++) {
        const frame = frameOf(next++); // the kernel has given it away
        crashes.step();
        memory.u8.set(frame, HEADER);
        expect(domain.give(0, memory, HEADER, frame.length, NO_OFFLOAD)).toBe(true);
      }
      domain.flush();
    } catch (error) {
      if (!(error instanceof Crash)) throw error;
      crashed++;
      idle = 0;
      domain = null;
      rearm();
    }
    pairs.forEach((pair, queue) => {
      for (const { written, lengthBytes } of pair.collect()) {
        const number = written[lengthBytes - 1]!;
        expect(written.subarray(HEADER, lengthBytes)).toEqual(frameOf(number));
        arrived[queue]!.push(number);
      }
    });
  }
  return { arrived, crashed };
}

const FRAMES = 12;

/** Every frame in its queue, in order, none twice, and no more missing than crashes. */
function expectAlmostWhole({ arrived, crashed }: Outcome, expected: Outcome['arrived']): number {
  arrived.forEach((numbers, queue) => {
    expect(numbers).toEqual(expected[queue]!.filter((number) => numbers.includes(number)));
  });
  const missing = FRAMES - arrived.flat().length;
  expect(missing).toBeLessThanOrEqual(crashed);
  return missing;
}

describe.each(['split', 'packed'] as const)('crash and recovery of a TAP whose driver steers: %s', (ring) => {
  const packed = ring === 'packed';
  const undisturbed = new CrashPoints();
  /** Where each frame belongs: as it arrives when nothing happens. */
  const expected = run(packed, undisturbed, FRAMES, []).arrived;

  it('without a crash every frame arrives, in both queues', () => {
    expect(expected.flat().toSorted((a, b) => a - b)).toEqual(Array.from({ length: FRAMES }, (_, i) => i));
    expect(expected.every((numbers) => numbers.length > 1)).toBe(true);
  });

  it('a crash at any step loses at most the frame that was read, and repeats none', () => {
    const { steps } = undisturbed;
    expect(steps).toBeGreaterThan(100);
    let missing = 0;
    for (let at = 0; at < steps; at++) {
      const outcome = run(packed, new CrashPoints(), FRAMES, [at]);
      expect(outcome.crashed, `step ${at}`).toBe(1);
      missing += expectAlmostWhole(outcome, expected);
    }
    expect(missing, 'some steps lie between reading and remembering').toBeGreaterThan(0);
  });

  it('any number of crashes in a row costs at most a frame each', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 0, max: 80 }), { maxLength: 8 }), (lives) => {
        expectAlmostWhole(run(packed, new CrashPoints(), FRAMES, lives), expected);
      }),
      { numRuns: 150 },
    );
  });
});
