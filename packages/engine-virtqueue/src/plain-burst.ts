/**
 * plain-burst.ts: what is done with a burst of plain chains (plain-chains.ts), all of it at once.
 *
 * Theory
 *   First every frame is copied, then every frame is completed, in its order, in queue-ledger.ts's order of stores. A
 *   successor of a process that died while it copied copies again; of one that died while it completed it goes on where
 *   that stopped. So a crash still costs one frame at most.
 *   Each loop here does one thing, calls nothing, and has all it needs in locals: the compiler then leaves out what it
 *   would otherwise check and load again after every store.
 *
 * Invariants
 *   I1  only what scan() has judged is read or written: lengths are compared before a byte is copied.
 *   I2  the stores of one frame come in the order of QueueLedger.completePlain, and before those of the next.
 */
import { QueueCounter, QueueWord } from '@virtnet/wire';
import { copyBetween } from './chain-copy.js';
import type { DeviceRing } from './device-ring.js';
import type { MemoryPiece } from './guest-memory.js';
import { ANSWER_WORDS } from './plain-chains.js';
import type { QueueLedger } from './queue-ledger.js';

const { POSITION } = QueueWord;
const { FRAMES, BYTES, COMPLETED_DESC } = QueueCounter;

/** Frames on their way from the plain chains of a driver that sends to those of one that receives. */
export interface Crossing {
  from: DeviceRing;
  /** Bytes in front of each frame, there and here. */
  fromHeader: number;
  readonly to: DeviceRing;
  readonly toHeader: number;
  /** Longest frame that may arrive. */
  readonly bytesMax: number;
}

/** Copies up to `most` frames, from chain `first` on to chain `next` on; how many, up to one that does not fit. */
export function copyBurst(crossing: Crossing, first: number, next: number, most: number): number {
  const { from, fromHeader, to, toHeader, bytesMax } = crossing;
  const { offsets: sources, lengths, pieces: sourcePlaces } = from.plain;
  const { offsets: targets, lengths: rooms, pieces: targetPlaces } = to.plain;
  const sourcePieces = from.memory.pieces;
  const targetPieces = to.memory.pieces;
  for (let i = 0; i < most; i++) {
    const source = (first + i) | 0;
    const target = (next + i) | 0;
    const bytes = (lengths[source]! - fromHeader) | 0;
    if (bytes > rooms[target]! - toHeader || bytes > bytesMax) return i;
    copyBetween(
      sourcePieces[sourcePlaces[source]!]!,
      (sources[source]! + fromHeader) | 0,
      targetPieces[targetPlaces[target]!]!,
      (targets[target]! + toHeader) | 0,
      bytes,
    );
  }
  return most;
}

/**
 * Completes `count` frames that were copied, each with the receiver and then with the sender: a crash between the two
 * repeats it.
 */
export function completeCrossing(
  { from, fromHeader, to, toHeader }: Crossing,
  sender: QueueLedger,
  receiver: QueueLedger,
  first: number,
  next: number,
  count: number,
): void {
  const { words: fromWords, counters: fromCounters } = sender;
  const { words: toWords, counters: toCounters } = receiver;
  const { lengths, ids: fromIds, answers: fromAnswers } = from.plain;
  const { ids: toIds, answers: toAnswers } = to.plain;
  let bytes = fromCounters[BYTES]!;
  let toBytes = toCounters[BYTES]!;
  let frames = fromCounters[FRAMES]!;
  let toFrames = toCounters[FRAMES]!;
  let chains = fromCounters[COMPLETED_DESC]!;
  let toChains = toCounters[COMPLETED_DESC]!;
  for (let i = 0; i < count; ) {
    const end = Math.min(count, i + from.plain.run(first + i), i + to.plain.run(next + i));
    let fromAt = from.plain.answerAt(first + i);
    let toAt = to.plain.answerAt(next + i);
    let fromPosition = from.plain.positionAt(first + i);
    let toPosition = to.plain.positionAt(next + i);
    for (; i < end; i++) {
      const frameBytes = (lengths[first + i]! - fromHeader) | 0;
      toFrames += 1;
      toBytes += frameBytes;
      toChains += 1;
      toCounters[FRAMES] = toFrames;
      toCounters[BYTES] = toBytes;
      toCounters[COMPLETED_DESC] = toChains;
      toAnswers[toAt] = toIds[next + i]!;
      toAnswers[toAt + 1] = frameBytes + toHeader;
      toWords[POSITION] = toPosition;
      frames += 1;
      bytes += frameBytes;
      chains += 1;
      fromCounters[FRAMES] = frames;
      fromCounters[BYTES] = bytes;
      fromCounters[COMPLETED_DESC] = chains;
      fromAnswers[fromAt] = fromIds[first + i]!;
      fromAnswers[fromAt + 1] = 0;
      fromWords[POSITION] = fromPosition;
      fromAt = (fromAt + ANSWER_WORDS) | 0;
      toAt = (toAt + ANSWER_WORDS) | 0;
      fromPosition = (fromPosition + 1) | 0;
      toPosition = (toPosition + 1) | 0;
    }
  }
}

/**
 * Completes the first `count` chains of a ring's burst as frames that begin `header` bytes into them. `written` 0: they
 * were sent, and are as long as their chains; else they were received, and have that many bytes with their headers.
 */
export function completeBurst(
  ring: DeviceRing,
  { words, counters }: QueueLedger,
  count: number,
  header: number,
  written: number,
): void {
  const { plain } = ring;
  const { lengths, ids, answers } = plain;
  let bytes = counters[BYTES]!;
  let frames = counters[FRAMES]!;
  let chains = counters[COMPLETED_DESC]!;
  for (let i = 0; i < count; ) {
    const end = Math.min(count, i + plain.run(i));
    let at = plain.answerAt(i);
    let position = plain.positionAt(i);
    for (; i < end; i++) {
      frames += 1;
      bytes += ((written === 0 ? lengths[i]! : written) - header) | 0;
      chains += 1;
      counters[FRAMES] = frames;
      counters[BYTES] = bytes;
      counters[COMPLETED_DESC] = chains;
      answers[at] = ids[i]!;
      answers[at + 1] = written;
      words[POSITION] = position;
      at = (at + ANSWER_WORDS) | 0;
      position = (position + 1) | 0;
    }
  }
}

/** Copies the same `bytes` bytes of `piece` into up to `most` chains of `to`; how many, up to one that is too short. */
export function copyToBurst(
  piece: MemoryPiece,
  bytes: number,
  to: DeviceRing,
  toHeader: number,
  most: number,
): number {
  const { offsets, lengths, pieces: places } = to.plain;
  const { pieces } = to.memory;
  const needed = toHeader + bytes;
  for (let i = 0; i < most; i++) {
    if (lengths[i]! < needed) return i;
    copyBetween(piece, 0, pieces[places[i]!]!, (offsets[i]! + toHeader) | 0, bytes);
  }
  return most;
}
