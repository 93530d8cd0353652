/**
 * driver-thread.ts: the driver's side of a split ring on a thread of its own, for races.
 *
 * Theory
 *   Driver and device share a SharedArrayBuffer and nothing else, as guest and host do. The control words beside it
 *   stand for the kick and interrupt events: a counter each, with Atomics.notify as the wake-up. The thread runs one
 *   of these parts:
 *     steady    follows every rule, checks every used element against what the device said it would write, and
 *               sleeps on interrupts when the ring is full; kicks only when it must
 *     spinning  the same without ever sleeping, so that it meets the used ring half written if that is possible
 *     hostile   rewrites descriptors, indices and buffers as fast as it can
 *     litmus-…  one round after the other, both sides at the same moment, do the two steps a wake-up hangs on: publish,
 *               and look whether the other wants to know; ask to be told, and look whether something is there
 *
 * Limits  runs until `chains` are done, `flips` are made, or STOP is set; gives up WAKE_UP_MS after a lost interrupt.
 */
import { DescriptorFlag, descriptorAreaBytes, deviceAreaBytes, driverAreaBytes } from '@virtnet/wire';
import { DriverMemory } from './driver-memory.js';
import { SplitDriver } from './split-driver.js';

/** Positions in the control words. */
export const Control = {
  /** Times the driver kicked. */
  KICKS: 0,
  /** Times the device interrupted. */
  INTERRUPTS: 1,
  STOP: 2,
  /** Chains the driver got back, or words a hostile one rewrote. */
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
} as const;
export const CONTROL_WORDS = 16;

/** Longest a side sleeps before it must be woken by an event that is due. */
export const WAKE_UP_MS = 2000;

const { NEXT, WRITE } = DescriptorFlag;

export interface DriverThreadStart {
  readonly part: 'steady' | 'spinning' | 'hostile' | 'litmus-interrupt' | 'litmus-kick';
  readonly memory: SharedArrayBuffer;
  /** The guest memory's place in it; what is around is guarded by the test. */
  readonly byteOffset: number;
  readonly sizeBytes: number;
  readonly control: SharedArrayBuffer;
  readonly queueSize: number;
  readonly eventIdx: boolean;
  readonly startIndex: number;
  /** Chains (steady, spinning) or rewritten words (hostile) to do. */
  readonly count: number;
  readonly seed: number;
}

/** What went wrong, or null. */
export interface DriverThreadEnd {
  readonly complaint: string | null;
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

export function makeDriver(start: DriverThreadStart): SplitDriver {
  const { byteOffset, sizeBytes, queueSize, eventIdx, startIndex } = start;
  const memory = new DriverMemory({ buffer: start.memory, byteOffset, sizeBytes });
  return new SplitDriver({ memory, queueSize, eventIdx, startIndex });
}

/** What the device writes as answer to chain `number`: its length in bytes and its contents are derived from it. */
export const answerBytes = (number: number): number => 4 + (number % 5);

export function runDriver(start: DriverThreadStart): DriverThreadEnd {
  const control = new Int32Array(start.control);
  const end = partOf(start)(start, control);
  Atomics.store(control, Control.FINISHED, 1);
  Atomics.add(control, Control.KICKS, 1);
  Atomics.notify(control, Control.KICKS);
  return end;
}

function partOf({
  part,
}: DriverThreadStart): (start: DriverThreadStart, control: Int32Array) => DriverThreadEnd {
  switch (part) {
    case 'steady':
    case 'spinning':
      return converse;
    case 'hostile':
      return rewrite;
    case 'litmus-interrupt':
    case 'litmus-kick':
      return litmus;
  }
}

/** Spins until `word` is `value`; false when the run is to stop. */
export function spinUntil(control: Int32Array, word: number, value: number): boolean {
  while (Atomics.load(control, word) !== value) if (Atomics.load(control, Control.STOP) === 1) return false;
  return true;
}

function litmus(start: DriverThreadStart, control: Int32Array): DriverThreadEnd {
  const driver = makeDriver(start);
  const random = randomWords(start.seed);
  for (let round = 1; round <= start.count; round++) {
    driver.wantInterrupts(false);
    driver.add({ writable: [8] });
    if (start.part === 'litmus-interrupt') driver.publish();
    const before = driver.usedIndex;
    Atomics.store(control, Control.READY, round);
    if (!spinUntil(control, Control.ROUND, round)) break;
    for (let spin = random() % 32; spin > 0; spin--) Atomics.load(control, Control.STOP);
    let saw: boolean;
    if (start.part === 'litmus-kick') saw = driver.publish();
    else {
      driver.wantInterrupts(true);
      saw = driver.usedIndex !== before;
    }
    Atomics.store(control, Control.SAW, saw ? 1 : 0);
    Atomics.store(control, Control.DONE, round);
    if (!spinUntil(control, Control.JUDGED, round)) break;
    driver.collect();
  }
  return { complaint: null };
}

function converse(start: DriverThreadStart, control: Int32Array): DriverThreadEnd {
  const driver = makeDriver(start);
  const random = randomWords(start.seed);
  const sleeps = start.part === 'steady';
  let posted = 0;
  let done = 0;
  driver.wantInterrupts(false);
  const collect = (): string | null => {
    for (const { lengthBytes, written } of driver.collect()) {
      const view = new DataView(written.buffer);
      if (lengthBytes !== answerBytes(done)) return `chain ${done}: used length ${lengthBytes}`;
      if (view.getUint32(0, true) !== done) return `chain ${done}: holds ${view.getUint32(0, true)}`;
      done++;
    }
    Atomics.store(control, Control.DONE, done);
    return null;
  };
  while (done < start.count && Atomics.load(control, Control.STOP) === 0) {
    const burst = 1 + (random() % start.queueSize);
    for (let i = 0; i < burst && posted < start.count; i++) {
      if (driver.add({ writable: [8] }) < 0) break;
      posted++;
    }
    if (driver.publish()) {
      Atomics.add(control, Control.KICKS, 1);
      Atomics.notify(control, Control.KICKS);
    }
    for (let spin = random() % 200; spin > 0; spin--) Atomics.load(control, Control.STOP);
    let complaint = collect();
    if (complaint !== null) return { complaint };
    if (!sleeps || (driver.outstanding < start.queueSize && posted < start.count)) continue;
    if (done === start.count) break;
    // Sleep until something was used: say so, look once more, and only then wait.
    const before = Atomics.load(control, Control.INTERRUPTS);
    const doneBefore = done;
    driver.wantInterrupts(true);
    complaint = collect();
    if (complaint !== null) return { complaint };
    if (done === doneBefore) {
      const result = Atomics.wait(control, Control.INTERRUPTS, before, WAKE_UP_MS);
      complaint = collect();
      if (complaint !== null) return { complaint };
      if (result === 'timed-out' && done !== doneBefore) return { complaint: 'an interrupt was lost' };
    }
    driver.wantInterrupts(false);
  }
  return { complaint: null };
}

function rewrite(start: DriverThreadStart, control: Int32Array): DriverThreadEnd {
  const { queueSize, count } = start;
  const driver = makeDriver(start);
  const random = randomWords(start.seed);
  const words = (address: bigint, bytes: number) =>
    new Uint16Array(start.memory, start.byteOffset + driver.memory.at(address), bytes >>> 1);
  const table = words(driver.descriptorAddress, descriptorAreaBytes(queueSize));
  const rings = words(driver.driverAddress, driverAreaBytes(queueSize));
  const used = words(driver.deviceAddress, deviceAreaBytes(queueSize));
  const memory = new Uint16Array(start.memory, start.byteOffset, start.sizeBytes >>> 1);
  const { iova, sizeBytes } = driver.memory;
  for (let done = 0; done < count && Atomics.load(control, Control.STOP) === 0; done++) {
    const word = random();
    const value = random();
    switch (word & 7) {
      case 0: {
        // Mostly a chain that ends, of buffers that are mostly inside: then the device goes on to use it.
        const index = random() % queueSize;
        const wild = value % 32 === 0;
        driver.writeDescriptor(index, {
          address: iova + BigInt(random() % (wild ? sizeBytes + 64 : sizeBytes - 4096)),
          lengthBytes: random() % 4096,
          flags: wild ? random() % 8 : (random() % 4 === 0 ? NEXT : 0) | (random() % 2 === 0 ? WRITE : 0),
          next: wild ? random() % (queueSize + 1) : (index + 1) % queueSize,
        });
        break;
      }
      case 1:
        if (value % 64 === 0) table[random() % table.length] = random();
        break;
      case 3:
        rings[2 + (random() % queueSize)] = random() % (queueSize + (value % 512 === 0 ? 2 : 0));
        break;
      case 4: // mostly a few entries ahead, so that the device has work
        Atomics.store(rings, 1, (used[1]! + (value % 512 === 0 ? random() : random() % queueSize)) & 0xffff);
        break;
      default: // mostly zeros, so that some headers ask for nothing and their frames get through
        memory[value % memory.length] = value % 8 === 0 ? random() : 0;
    }
    Atomics.store(control, Control.DONE, done + 1);
  }
  return { complaint: null };
}
