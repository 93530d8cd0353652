/**
 * queue-ledger.ts: keeps a queue's block of the state page in step with its ring.
 *
 * Theory
 *   The process may vanish between any two instructions; what it stored before stays. So the order of stores is the
 *   protocol, and it is written here once, for every kind of queue:
 *     begin      IN_FLIGHT = 1, then the owner does what can not be undone (sends, or reads, a frame)
 *     complete   used element into guest memory (packed: into the journal), POSITION, IN_FLIGHT = 0
 *     publish    used index (packed: the answers) into guest memory, PUBLISHED and POSITION
 *   A burst of plain frames is begun once, each of its frames completed by itself, and then ended.
 *   A port that has the kernel send a whole burst in one call (BURST) says before by what to tell how far the kernel came,
 *   and where it began. A frame is settled by the POSITION behind its chain. A successor completes those that were sent and
 *   not settled, and sends the others. They are counted as well, each before its POSITION, for builds that go by the count.
 *   Of a burst that the kernel reads, a frame is settled by the POSITION behind its chain, or counted as dropped. A successor
 *   goes on with those that were read and not settled.
 *   A frame over several chains is completed by one store of POSITION, so it is there as a whole or not at all.
 *   A successor opens the ring at POSITION and calls resume(), which publishes what the dead process had completed.
 *
 * Invariants
 *   I1  POSITION never runs ahead of the used elements in guest memory or journal, and what the driver sees never ahead
 *       of POSITION.
 *   I2  so a crash costs at most one frame: sent but not completed is sent again, read but not completed is lost. A burst
 *       of the kernel's costs none.
 *   I3  a chain that is given back is counted once: as a frame, or under one reason to drop it.
 *
 * Limits  counters are 64-bit floats, exact to 2^53.
 */
import {
  BurstWord,
  type QueueBlock,
  QueueCounter,
  QueueWord,
  SIZE_CLASS_LIMITS,
  SIZE_CLASSES,
} from '@virtnet/wire';
import type { DeviceRing } from './device-ring.js';
import { type RingFaultCode, remedyForCode } from './fault.js';
import type { PlainChains } from './plain-chains.js';

const { POSITION, PUBLISHED, HEARTBEAT, IN_FLIGHT, MODERATION_LEVEL, STARTED_BY, BURST } = QueueWord;
const { RECEIVED_DESC, COMPLETED_DESC, FRAMES, BYTES, MAX_POSTED, HANDLER_RUNS, BATCHES } = QueueCounter;

/** Counter a refused chain goes to, beside DROP_BAD_CHAIN. */
export function counterOfFault(code: RingFaultCode): QueueCounter {
  switch (code) {
    case 'CHAIN_TOO_LONG':
      return QueueCounter.EXCEED_MAX_CHAIN;
    case 'BUFFER_OUTSIDE_MEMORY':
    case 'BUFFER_READ_ONLY':
      return QueueCounter.INVALID_BUFFER;
    default:
      return QueueCounter.BAD_DESC_ERRORS;
  }
}

/** Where a ring goes on that was worked by a process that is gone. */
export const resumePosition = (block: QueueBlock): number => block.words[POSITION]!;

/**
 * Sets a queue's block to where the queue begins. `request` is the number of the client's request that starts it, 0 for
 * none: a successor that works the same request again, because it was not recorded, leaves the position alone, which the
 * queue may have left behind since.
 */
export function prepareBlock({ words }: QueueBlock, position: number, request: number): void {
  if (request !== 0 && words[STARTED_BY] === request) return;
  words[POSITION] = position;
  words[PUBLISHED] = position;
  words[IN_FLIGHT] = 0;
  words[BURST] = 0;
  words[MODERATION_LEVEL] = 0;
  words[STARTED_BY] = request; // last: before that it is all done again
}

/** The request under way ends what it started itself: if it starts the queue once more, that is a new beginning. */
export function unprepareBlock({ words }: Pick<QueueBlock, 'words'>): void {
  words[STARTED_BY] = 0;
}

export class QueueLedger {
  readonly #ring: DeviceRing;
  /** The block's, for bursts (plain-burst.ts). */
  readonly words: Uint32Array;
  readonly counters: Float64Array;
  /** What is said of a burst that the kernel sends (BurstWord). */
  readonly burst: Uint32Array;
  readonly #plain: PlainChains;

  constructor(ring: DeviceRing, block: QueueBlock) {
    this.#ring = ring;
    this.#plain = ring.plain;
    this.words = block.words;
    this.counters = block.counters;
    this.burst = block.burst;
  }

  /**
   * Begins a turn: heartbeat, and what the driver made available. Returns the entries waiting. RECEIVED_DESC is what
   * was completed plus what waits, so that a crash neither loses nor repeats any of it.
   */
  turn(): number {
    const counters = this.counters;
    const waiting = this.#ring.available();
    this.words[HEARTBEAT] = this.words[HEARTBEAT]! + 1;
    counters[HANDLER_RUNS] = counters[HANDLER_RUNS]! + 1;
    counters[RECEIVED_DESC] = counters[COMPLETED_DESC]! + waiting;
    if (waiting > counters[MAX_POSTED]!) counters[MAX_POSTED] = waiting;
    return waiting;
  }

  /** The next step can not be undone. */
  begin(): void {
    this.words[IN_FLIGHT] = 1;
  }

  /** The step did not take place, or its frame was dropped; the chain stays with the driver. */
  keep(): void {
    this.#ring.untake();
    this.words[IN_FLIGHT] = 0;
  }

  /** Hands the current chain back as a frame of `frameBytes`, with `writtenBytes` in its writable segments. */
  completeFrame(frameBytes: number, writtenBytes: number): void {
    const counters = this.counters;
    counters[FRAMES] = counters[FRAMES]! + 1;
    counters[BYTES] = counters[BYTES]! + frameBytes;
    this.#complete(writtenBytes);
  }

  /** The same for a frame in the first of several current chains; the chains that it did not need stay. */
  completeSpread(frameBytes: number, writtenBytes: number): void {
    const counters = this.counters;
    const words = this.words;
    counters[FRAMES] = counters[FRAMES]! + 1;
    counters[BYTES] = counters[BYTES]! + frameBytes;
    const chains = this.#ring.giveFilled(writtenBytes);
    words[POSITION] = this.#ring.position;
    words[IN_FLIGHT] = 0;
    counters[COMPLETED_DESC] = counters[COMPLETED_DESC]! + chains;
  }

  /** completeFrame for chain `index` of the ring's `plain`; another step that can not be undone may follow. */
  completePlain(index: number, frameBytes: number, writtenBytes: number): void {
    const counters = this.counters;
    counters[FRAMES] = counters[FRAMES]! + 1;
    counters[BYTES] = counters[BYTES]! + frameBytes;
    counters[COMPLETED_DESC] = counters[COMPLETED_DESC]! + 1;
    this.words[POSITION] = this.#plain.answer(index, writtenBytes);
  }

  /** completeDrop for chain `index` of the ring's `plain`. */
  dropPlain(index: number, reason: QueueCounter): void {
    this.count(reason);
    this.count(COMPLETED_DESC);
    this.words[POSITION] = this.#plain.answer(index, 0);
  }

  /** The kernel is about to be given `count` frames, of which `burst` tells. */
  beginKernelBurst(count: number): void {
    const { burst, words } = this;
    burst[BurstWord.BEGIN] = words[POSITION]!;
    burst[BurstWord.SETTLED] = 0;
    burst[BurstWord.HEARTBEAT] = words[HEARTBEAT]!;
    words[BURST] = count;
  }

  /** The same of reads, into the next chains. What of them is settled follows from POSITION, and from those dropped. */
  beginKernelReads(count: number): void {
    this.burst[BurstWord.DROPPED] = 0;
    this.beginKernelBurst(count);
  }

  /** A frame that was read was dropped, and its chain kept. */
  dropOfBurst(): void {
    const { burst } = this;
    burst[BurstWord.DROPPED] = burst[BurstWord.DROPPED]! + 1;
  }

  /** One frame more of them is about to be completed or dropped. */
  settle(): void {
    const { burst } = this;
    burst[BurstWord.SETTLED] = burst[BurstWord.SETTLED]! + 1;
  }

  /** Of a former owner's burst: one that was counted and has no POSITION yet is not settled. */
  recountSettled(): void {
    const { burst } = this;
    const settled = this.#ring.chainsSince(burst[BurstWord.BEGIN]!);
    if (burst[BurstWord.SETTLED] === settled + 1) burst[BurstWord.SETTLED] = settled;
  }

  endKernelBurst(): void {
    this.words[BURST] = 0;
  }

  /** Frames of a burst that the kernel was given, by a former owner who did not come to its end; 0: there is none. */
  get kernelBurst(): number {
    const { burst, words } = this;
    return burst[BurstWord.HEARTBEAT] === words[HEARTBEAT] ? words[BURST]! : 0;
  }

  /** The burst is over: the next `count` chains of the ring's `plain` were completed or dropped. */
  endPlain(count: number): void {
    this.words[IN_FLIGHT] = 0;
    this.#ring.advance(count);
  }

  /** Hands the current chain back unused, under a reason to drop. */
  completeDrop(reason: QueueCounter): void {
    this.count(reason);
    this.#complete(0);
  }

  /** Hands the current chain back with an answer that is no frame (control queue). */
  completeAnswer(writtenBytes: number): void {
    this.#complete(writtenBytes);
  }

  /**
   * After take() found a fault: counts it, and gives a malformed chain back without a byte. False when the ring
   * itself is broken and its owner must stop.
   */
  refuse(): boolean {
    const code = this.#ring.faultCode!;
    this.count(counterOfFault(code));
    if (remedyForCode(code) === 'needs-reset') return false;
    this.completeDrop(QueueCounter.DROP_BAD_CHAIN);
    return true;
  }

  /** Counts a frame of `frameBytes` in its size class. */
  countSize(frameBytes: number): void {
    let sizeClass = 0;
    while (sizeClass < SIZE_CLASSES - 1 && frameBytes > SIZE_CLASS_LIMITS[sizeClass]!) sizeClass++;
    const at = QueueCounter.SIZE_CLASS_FIRST + sizeClass;
    this.counters[at] = this.counters[at]! + 1;
  }

  count(counter: QueueCounter): void {
    this.counters[counter] = this.counters[counter]! + 1;
  }

  /** Makes a burst visible to the driver; whether it wants an interrupt for it. */
  publish(): boolean {
    const counters = this.counters;
    counters[BATCHES] = counters[BATCHES]! + 1;
    return this.#publish();
  }

  /**
   * Publishes what was completed before this ring was opened. True when something was not visible yet: its
   * interrupt may be missing.
   */
  resume(): boolean {
    const words = this.words;
    const behind = (words[PUBLISHED]! | 0) !== this.#ring.position || words[IN_FLIGHT] === 1;
    words[POSITION] = this.#ring.position;
    words[IN_FLIGHT] = 0;
    this.#publish();
    return behind;
  }

  #publish(): boolean {
    const wanted = this.#ring.publish();
    const { position } = this.#ring;
    this.words[PUBLISHED] = position;
    this.words[POSITION] = position;
    return wanted;
  }

  #complete(writtenBytes: number): void {
    const words = this.words;
    this.counters[COMPLETED_DESC] = this.counters[COMPLETED_DESC]! + 1;
    this.#ring.give(writtenBytes);
    words[POSITION] = this.#ring.position;
    words[IN_FLIGHT] = 0;
  }
}
