/**
 * driver-thread.ts: what a test and the driver's side of a ring on a thread of its own agree upon, for races.
 *
 * Theory
 *   Driver and device share memory and nothing else, as guest and host do. The control words beside it
 *   stand for the kick and interrupt events: a counter each, with Atomics.notify as the wake-up. The thread runs one
 *   of these parts:
 *     steady    follows every rule, checks every used element against what the device said it would write, and
 *               sleeps on interrupts when the ring is full; kicks only when it must
 *     spinning  the same without ever sleeping, so that it meets answers half written if that is possible
 *     hostile   rewrites descriptors, tables, headers and indices as fast as it can
 *     litmus-…  one round after the other, both sides at the same moment, do the two steps a wake-up hangs on: publish,
 *               and look whether the other wants to know; ask to be told, and look whether something is there
 *
 * Limits  runs until `count` is done, or STOP is set; gives up WAKE_UP_MS after a lost interrupt.
 */
import { DriverMemory } from './driver-memory.js';
import { PackedDriver } from './packed-driver.js';
import { type RaceMemory, RaceRegion, type SharedBytes } from './race-layout.js';
import { SplitDriver } from './split-driver.js';

/** Positions in the control words. */
export const Control = {
  /** Times the driver kicked. */
  KICKS: 0,
  /** Times the device interrupted. */
  INTERRUPTS: 1,
  STOP: 2,
  /** Chains the driver got back, or turns a hostile one made. */
  DONE: 3,
  /** 1 when the thread is finished, for good or bad. */
  FINISHED: 4,
  /** Litmus: the round the driver is prepared for. */
  READY: 5,
  /** Litmus: the round the device has begun. */
  ROUND: 6,
  /** Litmus: what the driver saw in its round, 0 or 1, valid when DONE is the round. */
  SAW: 7,
  /** Litmus: the round the device has judged; before that the driver must not change its wishes again. */
  JUDGED: 8,
  /** Hostile: where in a packed ring the device is (PackedPosition), so that what is rewritten is available. */
  PLACE: 9,
} as const;
export const CONTROL_WORDS = 16;

/** Longest a side sleeps before it must be woken by an event that is due. */
export const WAKE_UP_MS = 2000;

export interface DriverThreadStart {
  readonly part: 'steady' | 'spinning' | 'hostile' | 'litmus-interrupt' | 'litmus-kick';
  readonly format: 'split' | 'packed';
  /** The ring's, and what an honest driver has for its buffers. */
  readonly memory: SharedBytes;
  readonly control: SharedArrayBuffer;
  readonly queueSize: number;
  readonly eventIdx: boolean;
  /** As a ring is opened with it. */
  readonly position: number;
  /** Chains (steady, spinning), rounds (litmus) or turns (hostile) to do. */
  readonly count: number;
  readonly seed: number;
  /** Hostile: all there is, and whether the queue receives. */
  readonly race: { readonly memory: RaceMemory; readonly receives: boolean } | null;
}

/** What went wrong, or null. */
export interface DriverThreadEnd {
  readonly complaint: string | null;
}

export type ThreadDriver = SplitDriver | PackedDriver;

/** The same layout wherever it is made. */
export function makeDriver(start: DriverThreadStart): ThreadDriver {
  const { format, queueSize, eventIdx, position } = start;
  const { buffer, byteOffset, sizeBytes } = start.memory;
  const iova = BigInt(RaceRegion.main.iova);
  const memory = new DriverMemory({ buffer, byteOffset, sizeBytes, iova });
  if (format === 'split') return new SplitDriver({ memory, queueSize, eventIdx, startIndex: position });
  return new PackedDriver({ memory, queueSize, eventIdx, startPosition: position });
}

/** A small generator, so that a seed replays a run. */
export function randomWords(seed: number): () => number {
  let state = seed >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
}

/** Fruitless spins after which a side lets others run: on a busy machine the other one may need this processor. */
export const SPINS = 4096;
const REST_MS = 0.1;

/** Lets others run for a moment. */
export function rest(control: Int32Array): void {
  Atomics.wait(control, Control.STOP, 0, REST_MS);
}

/** Spins until `word` is `value`; false when the run is to stop. */
export function spinUntil(control: Int32Array, word: number, value: number): boolean {
  for (let spins = 1; Atomics.load(control, word) !== value; spins++) {
    if (Atomics.load(control, Control.STOP) === 1) return false;
    if (spins % SPINS === 0) rest(control);
  }
  return true;
}
