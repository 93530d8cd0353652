/** A crash between any two steps of the eswitch: both rings continue, and at most the frame in flight is repeated. */
import { LoopPort, SwitchDomain } from '@virtnet/engine-eswitch';
import { QueueWord } from '@virtnet/wire';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Crash, CrashPoints } from './crash-points.js';
import { shapeFrame } from './net-fixture.js';
import { SwitchedPair } from './switch-fixture.js';

const HEADER = 12;
const QUEUE_SIZE = 8;
const BROADCAST = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff];

/** Frame numbers survive in the last byte of the source address. */
const frameOf = (number: number) =>
  shapeFrame({ destination: BROADCAST, seed: number, payloadBytes: 20 }).bytes;

/** Where frames go. */
type Way =
  /** Through the switch, to two others, frame by frame. */
  | 'switch'
  /** Back to the driver that sent them, in bursts. */
  | 'loop';

interface Outcome {
  /** Numbers each receiver got, in order. */
  readonly arrived: readonly number[][];
  readonly crashed: number;
  readonly completed: number;
}

/** Sends `frames` frames, with a crash after each of `lives` steps. */
function run(
  way: Way,
  crashes: CrashPoints,
  frames: number,
  lives: readonly number[],
  budget: number,
): Outcome {
  const options = { queueSize: QUEUE_SIZE };
  // Receivers have room for what is sent and for what is repeated, or it would be dropped.
  const sender = new SwitchedPair(0, options);
  const receivers = way === 'loop' ? [sender] : [new SwitchedPair(1, options), new SwitchedPair(2, options)];
  const pairs = new Set([sender, ...receivers]);
  const makePort = way === 'loop' ? (to: SwitchDomain) => new LoopPort(to, 0, 0) : undefined;
  const left = [...lives];
  const arrived: number[][] = receivers.map(() => []);
  let posted = 0;
  let completed = 0;
  let crashed = 0;
  let domain: SwitchDomain | null = null;
  const rearm = () => {
    const next = left.shift();
    if (next === undefined) crashes.disarm();
    else crashes.arm(next);
  };
  rearm();
  for (let idle = 0; idle < 3; ) {
    while (posted < frames && posted - completed < QUEUE_SIZE / 2 && sender.send(frameOf(posted)) >= 0)
      posted++;
    for (const receiver of receivers) {
      while (receiver.receiver.add({ writable: [1600] }) >= 0);
      receiver.receiver.publish();
    }
    try {
      if (domain === null) {
        domain = new SwitchDomain({ seed: 1, settled: () => {} });
        for (const pair of pairs) pair.open(domain, crashes, makePort);
      }
      domain.begin();
      idle = sender.transmit.poll(budget) === 0 ? idle + 1 : 0;
      domain.flush();
    } catch (error) {
      if (!(error instanceof Crash)) throw error;
      crashed++;
      idle = 0;
      domain = null;
      rearm();
      for (const { blocks, receiver } of receivers) {
        const behind = (blocks[0].words[QueueWord.POSITION]! - receiver.usedIndex) & 0xffff;
        expect(behind, 'the used index never runs ahead of the position').toBeLessThanOrEqual(QUEUE_SIZE);
      }
    }
    completed += sender.transmitter.collect().length;
    receivers.forEach((receiver, i) => {
      for (const { written, lengthBytes } of receiver.collect()) {
        const frame = written.subarray(HEADER, lengthBytes);
        expect(frame).toEqual(frameOf(frame[11]!));
        arrived[i]!.push(frame[11]!);
      }
    });
  }
  return { arrived, crashed, completed };
}

const all = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

/** Nothing lost, order kept, and at each receiver no more repetitions than crashes, each behind its original. */
function expectWhole({ arrived, crashed, completed }: Outcome, frames: number): number {
  for (const numbers of arrived) {
    expect(numbers.filter((number, i) => i === 0 || numbers[i - 1] !== number)).toEqual(all(frames));
    expect(numbers.length - frames).toBeLessThanOrEqual(crashed);
  }
  expect(completed, 'every chain of the sender came back once').toBe(frames);
  return arrived.flat().length - arrived.length * frames;
}

describe.each(['switch', 'loop'] as const)('crash and recovery of the eswitch: %s', (way) => {
  it('a crash at any step repeats at most one frame for each receiver and loses none', () => {
    const undisturbed = new CrashPoints();
    expectWhole(run(way, undisturbed, 10, [], 3), 10);
    const { steps } = undisturbed;
    expect(steps).toBeGreaterThan(200);
    let repeated = 0;
    for (let at = 0; at < steps; at++) {
      const outcome = run(way, new CrashPoints(), 10, [at], 3);
      expect(outcome.crashed, `step ${at}`).toBe(1);
      repeated += expectWhole(outcome, 10);
    }
    expect(repeated, 'some steps lie between delivering and remembering it').toBeGreaterThan(0);
  });

  it('any number of crashes in a row costs at most a repetition each, whatever the burst', () => {
    const lives = fc.array(fc.integer({ min: 0, max: 150 }), { maxLength: 10 });
    fc.assert(
      fc.property(lives, fc.integer({ min: 1, max: 8 }), (steps, budget) => {
        expectWhole(run(way, new CrashPoints(), 20, steps, budget), 20);
      }),
      { numRuns: 150 },
    );
  });
});
