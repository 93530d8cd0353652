/** A crash between any two steps of the eswitch: both rings continue, and at most the frame in flight is repeated. */
import { LoopPort, SwitchDomain } from '@virtnet/engine-eswitch';
import { NetFeature, QueueWord } from '@virtnet/wire';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Crash, CrashPoints } from './crash-points.js';
import { shapeFrame } from './net-fixture.js';
import { packedPosition } from './packed-ring-fixture.js';
import type { UsedChain } from './ring-driver.js';
import { SplitDriver } from './split-driver.js';
import { type FunctionOptions, SwitchedPair } from './switch-fixture.js';

const HEADER = 12;
const QUEUE_SIZE = 8;
const MEMORY_BYTES = 1 << 16;
const FRAMES = 10;
const BROADCAST = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
/** Buffers of which a frame needs two. */
const MERGED_BYTES = 60;

const STATION = [2, 0, 0, 0, 0, 9];

/** Frame `number`, which is its last byte: to everybody, or from one station to another one. */
const frameOf = (number: number, { learned = false }: Way): Uint8Array => {
  const destination = learned ? STATION : BROADCAST;
  const { bytes } = shapeFrame({ destination, seed: learned ? 0 : number, payloadBytes: 20 });
  bytes[bytes.length - 1] = number;
  return bytes;
};

/** What a station at `port` sends to everybody tells a switch where it is. */
function learn({ eswitch }: SwitchDomain, port: number, station: ArrayLike<number>): void {
  eswitch.decide(port, Uint8Array.from([...BROADCAST, ...Array.from(station), 8, 0, 0, 0]));
}

type Ring = 'split' | 'packed';

interface Way {
  readonly name: string;
  readonly from: Ring;
  /** One function each; 'back': to the driver that sent them, in bursts. */
  readonly to: readonly Ring[] | 'back';
  /** Receivers have mergeable buffers, too small for a frame. */
  readonly merged?: boolean;
  /** Senders have the header in a buffer of its own, so that no frame goes the short way. */
  readonly parts?: boolean;
  /** Senders name the buffers in a table, so that frames go in bursts of their own. */
  readonly table?: boolean;
  /** The switch knows where both stations are, so that frames cross it in bursts. */
  readonly learned?: boolean;
}

const BOTH = ['split', 'packed'] as const;
const WAYS: readonly Way[] = BOTH.flatMap((from): Way[] => [
  { name: `${from}, to a split and a packed ring`, from, to: BOTH },
  { name: `${from} in several buffers, to a split and a packed ring`, from, to: BOTH, parts: true },
  { name: `${from}, to mergeable buffers of either ring`, from, to: BOTH, merged: true },
  { name: `${from}, back to where it came from`, from, to: 'back' },
  { name: `${from} in tables, back to where it came from`, from, to: 'back', parts: true, table: true },
  { name: `${from} in tables, back to mergeable buffers`, from, to: 'back', table: true, merged: true },
  ...BOTH.map((to) => ({
    name: `${from} in tables, to mergeable buffers of a ${to} ring that is known`,
    ...{ from, to: [to], table: true, merged: true, learned: true },
  })),
]);

interface Outcome {
  /** Numbers each receiver got, in order. */
  readonly arrived: readonly number[][];
  readonly crashed: number;
  readonly completed: number;
}

/** A function whose rings wrap while the test runs. */
const functionAt = (port: number, ring: Ring, features: readonly number[] = []): SwitchedPair => {
  const start = ring === 'packed' ? packedPosition(QUEUE_SIZE - 3, 0) : 65_533;
  const shape: FunctionOptions = {
    packed: ring === 'packed',
    queueSize: QUEUE_SIZE,
    memoryBytes: MEMORY_BYTES,
  };
  return new SwitchedPair(port, { ...shape, start, features });
};

/** Everything completed is visible: of a split ring the used index says so, of a packed ring both halves do. */
function expectVisible({ receiver, blocks }: SwitchedPair): void {
  const position = blocks[0].words[QueueWord.POSITION]!;
  if (receiver instanceof SplitDriver) expect(receiver.usedIndex).toBe(position);
  else expect(position >>> 16).toBe(position & 0xffff);
}

/** Numbers of the frames in what came back; each is there as a whole, in as many buffers as its header says. */
function numbersIn(used: readonly UsedChain[], way: Way): number[] {
  const { merged = false } = way;
  const numbers: number[] = [];
  for (let at = 0; at < used.length; ) {
    const buffers = merged ? used[at]!.written[10]! : 1;
    const parts = used.slice(at, at + buffers);
    if (parts.length !== buffers) expect.fail('a frame is not visible as a whole');
    const written = parts.map(({ written, lengthBytes }) => written.subarray(0, lengthBytes));
    const frame = Buffer.concat(written).subarray(HEADER);
    const number = frame.at(-1)!;
    // Of some hundred thousand frames: vitest's own comparison takes longer than their way through the switch.
    if (!frame.equals(frameOf(number, way)))
      expect.fail(`frame ${number} is another: ${frame.toString('hex')}`);
    numbers.push(number);
    at += buffers;
  }
  return numbers;
}

/** Sends `frames` frames, with a crash after each of `lives` steps. */
function run(way: Way, crashes: CrashPoints, frames: number, lives: readonly number[], budget: number) {
  return crashes.watched(() => runWatched(way, crashes, frames, lives, budget));
}

function runWatched(
  way: Way,
  crashes: CrashPoints,
  frames: number,
  lives: readonly number[],
  budget: number,
): Outcome {
  const { from, to, merged = false, table = false } = way;
  const sender = functionAt(0, from, to === 'back' && merged ? [NetFeature.MRG_RXBUF] : []);
  const receivers =
    to === 'back'
      ? [sender]
      : to.map((ring, i) => functionAt(i + 1, ring, merged ? [NetFeature.MRG_RXBUF] : []));
  const pairs = new Set([sender, ...receivers]);
  const makePort = to === 'back' ? (domain: SwitchDomain) => new LoopPort(domain, 0, 0) : undefined;
  // Receivers have room for what is sent and for what is repeated, or it would be dropped.
  const alone = (way.parts === true && !table) || (merged && !table);
  const atOnce = alone ? 1 : QUEUE_SIZE / (merged ? 4 : 2);
  const parts = way.parts === true ? [30] : [];
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
    while (
      posted < frames &&
      posted - completed < atOnce &&
      sender.send(frameOf(posted, way), undefined, parts, table ? { indirectFrom: 0 } : {}) >= 0
    )
      posted++;
    for (const { receiver } of receivers) {
      while (receiver.add({ writable: [merged ? MERGED_BYTES : 1600] }) >= 0);
      receiver.publish();
    }
    try {
      if (domain === null) {
        const made: SwitchDomain = new SwitchDomain({ seed: 1, settled: () => {} });
        for (const pair of pairs) pair.open(made, crashes, makePort);
        if (way.learned === true) {
          learn(made, 0, frameOf(0, way).subarray(6, 12));
          learn(made, 1, STATION);
        }
        domain = made;
        for (const pair of receivers) expectVisible(pair);
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
        if (!(receiver instanceof SplitDriver)) continue;
        const behind = (blocks[0].words[QueueWord.POSITION]! - receiver.usedIndex) & 0xffff;
        expect(behind, 'the used index never runs ahead of the position').toBeLessThanOrEqual(QUEUE_SIZE);
      }
    }
    completed += sender.transmitter.collect().length;
    receivers.forEach((receiver, i) => {
      arrived[i]!.push(...numbersIn(receiver.collect(), way));
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

/** Some seconds of a processor, and a busy machine may have little of it. */
const TEST_MS = 120_000;

describe.each(WAYS)('crash and recovery of the eswitch: $name', { timeout: TEST_MS }, (way) => {
  it('a crash at any step repeats at most one frame for each receiver and loses none', () => {
    const undisturbed = new CrashPoints();
    expectWhole(run(way, undisturbed, FRAMES, [], 3), FRAMES);
    const { steps } = undisturbed;
    expect(steps).toBeGreaterThan(200);
    let repeated = 0;
    for (let at = 0; at < steps; at++) {
      const outcome = run(way, new CrashPoints(), FRAMES, [at], 3);
      expect(outcome.crashed, `step ${at}`).toBe(1);
      repeated += expectWhole(outcome, FRAMES);
    }
    expect(repeated, 'some steps lie between delivering and remembering it').toBeGreaterThan(0);
  });

  it('any number of crashes in a row costs at most a repetition each, whatever the burst', () => {
    const lives = fc.array(fc.integer({ min: 0, max: 150 }), { maxLength: 10 });
    fc.assert(
      fc.property(lives, fc.integer({ min: 1, max: 8 }), (steps, budget) => {
        expectWhole(run(way, new CrashPoints(), 2 * FRAMES, steps, budget), 2 * FRAMES);
      }),
      { numRuns: 100 },
    );
  });
});
