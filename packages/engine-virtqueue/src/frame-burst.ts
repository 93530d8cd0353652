/**
 * frame-burst.ts: bursts of frames that lie in several pieces, or are spread over several buffers.
 *
 * Theory
 *   A jumbo frame seldom lies in one buffer: its sender names its pieces in a table of descriptors, and who receives it into
 *   mergeable buffers needs several of them. Taken one by one, each frame waits for its descriptor, then for its table, then for
 *   its bytes, and nothing of the next one is under way meanwhile. So a burst of them is laid out at once (scanFrames() of
 *   device-ring.ts), copied by one call of WebAssembly, and answered as plain-burst.ts does it. What WebAssembly does not
 *   do (memory outside of the window, odd tables, headers that ask for something) goes one by one as before.
 *
 * Invariants
 *   I1  a frame's buffers become the driver's by one store of POSITION: all of it is there or nothing (queue-ledger.ts).
 *   I2  which buffers a frame is in follows from its length and theirs, as the copy had it: private memory both.
 */
import { QueueCounter, QueueWord } from '@virtnet/wire';
import { copyFramesInWindow } from './copy-window.js';
import type { DeviceRing } from './device-ring.js';
import type { Buffers, Copying, Crossing } from './plain-burst.js';
import type { PlainChains } from './plain-chains.js';
import type { QueueLedger } from './queue-ledger.js';

const WORD_SHIFT = 2;
const { POSITION } = QueueWord;
const { FRAMES, BYTES, COMPLETED_DESC } = QueueCounter;

/** What frames in pieces lie in: their segments are listed at segmentPlace. */
export interface Pieces extends Buffers {
  readonly segmentPlace: number;
}

/**
 * Copies up to `most` frames, from frame `first` on, into the `buffers` buffers from `next` on, each into as many of them as
 * it needs, `buffersMax` at most. How many, up to one that does not fit; 0 outside of the window.
 */
export function copyFrames(
  { from, fromHeader, to, toHeader, bytesMax }: Copying & { readonly from: Pieces },
  first: number,
  next: number,
  most: number,
  buffers: number,
  buffersMax: number,
): number {
  const { place: fromPlace } = from.plain;
  const { place: toPlace } = to.plain;
  if (fromPlace < 0 || toPlace < 0 || from.segmentPlace < 0) return 0;
  const source = (fromPlace + (first << WORD_SHIFT)) | 0;
  const target = (toPlace + (next << WORD_SHIFT)) | 0;
  return copyFramesInWindow(
    source,
    from.segmentPlace,
    target,
    buffers,
    buffersMax,
    fromHeader,
    toHeader,
    bytesMax,
    most,
  );
}

/** Answers the buffers from `next` on that `bytes` bytes are in; the first one behind them. */
function answerSpread(plain: PlainChains, next: number, bytes: number): number {
  let left = bytes;
  let chain = next;
  for (; left > 0; chain++) {
    const written = Math.min(left, plain.lengths[chain]!);
    plain.answer(chain, written);
    left = (left - written) | 0;
  }
  return chain;
}

/**
 * Completes `count` frames that copyFrames() has spread, with the receiver and then with the sender, as completeCrossing()
 * does it. How many of the receiver's buffers they are in.
 */
export function completeSpreadCrossing(
  { from, fromHeader, to, toHeader }: Crossing,
  sender: QueueLedger,
  receiver: QueueLedger,
  first: number,
  next: number,
  count: number,
): number {
  const { lengths } = from.plain;
  let chain = next;
  for (let i = first; i < first + count; i++)
    chain = answerSpread(to.plain, chain, (lengths[i]! - fromHeader + toHeader) | 0);
  let done = next;
  for (let i = first; i < first + count; i++) {
    const bytes = (lengths[i]! - fromHeader) | 0;
    done = completeReceived(to, receiver, done, bytes, toHeader);
    sender.completePlain(i, bytes, 0);
  }
  return done - next;
}

/** Completes a frame of `bytes` bytes whose buffers are answered, from `next` on; the first one behind them. */
function completeReceived(
  { plain }: DeviceRing,
  { words, counters }: QueueLedger,
  next: number,
  bytes: number,
  header: number,
): number {
  const { lengths } = plain;
  let left = (bytes + header) | 0;
  let chain = next;
  for (; left > 0; chain++) left = (left - lengths[chain]!) | 0;
  counters[FRAMES] = counters[FRAMES]! + 1;
  counters[BYTES] = counters[BYTES]! + bytes;
  counters[COMPLETED_DESC] = counters[COMPLETED_DESC]! + (chain - next);
  words[POSITION] = plain.positionAt(chain - 1);
  return chain;
}

/**
 * Completes `count` frames of `bytes` bytes each, behind `header` bytes, that are spread over a ring's buffers from `first`
 * on. How many buffers they are in.
 */
export function completeSpreadBurst(
  ring: DeviceRing,
  ledger: QueueLedger,
  first: number,
  count: number,
  bytes: number,
  header: number,
): number {
  let chain = first;
  for (let i = 0; i < count; i++) chain = answerSpread(ring.plain, chain, bytes + header);
  let done = first;
  for (let i = 0; i < count; i++) done = completeReceived(ring, ledger, done, bytes, header);
  return done - first;
}
