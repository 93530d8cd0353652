/**
 * plain-burst.ts: what is done with a burst of plain chains (plain-chains.ts), all of it at once.
 *
 * Theory
 *   First every frame is judged and copied (in the window by WebAssembly, window-module.ts), then the answers to all of
 *   them are written, which nobody looks at yet, then every frame is completed in its order. A successor of a process
 *   that died while it copied or answered does that again; of one that died while it completed it goes on where that
 *   stopped. So a crash still costs one frame at most.
 *   Answers of a split ring wait for the driver's cache lines, counters for nobody: in loops of their own, a line's answers
 *   are all that stands in front of the next line.
 *   Each loop here does one thing, calls nothing, and has all it needs in locals: the compiler then leaves out what it
 *   would otherwise check and load again after every store.
 *
 * Invariants
 *   I1  only what scan() has judged is read or written: lengths are compared before a byte is copied.
 *   I2  a frame's counters and POSITION are stored in the order of QueueLedger.completePlain, before those of the next and
 *       behind the answers to it.
 */
import { Ethernet, QueueCounter, QueueWord } from '@virtnet/wire';
import { copyBetween, type PrivateMemory } from './chain-copy.js';
import { copyBurstInWindow, onlySegment } from './copy-window.js';
import type { DeviceRing } from './device-ring.js';
import type { MemoryPiece } from './guest-memory.js';
import { PLAIN_CHAINS_MAX } from './limits.js';
import { ANSWER_WORDS, type PlainChains } from './plain-chains.js';
import type { QueueLedger } from './queue-ledger.js';
import { PlainRoom } from './ring-room.js';
import { ONE_BUFFER } from './window-layout.js';

const WORD_SHIFT = 2;
const { POSITION } = QueueWord;
const { FRAMES, BYTES, COMPLETED_DESC } = QueueCounter;

/** What a burst's frames lie in: buffers of pieces of memory. */
export interface Buffers {
  readonly plain: Pick<PlainChains, 'pieces' | 'offsets' | 'lengths' | 'place'>;
  readonly memory: { readonly pieces: readonly MemoryPiece[] };
}

/** How frames are copied from some buffers to others. */
export interface Copying {
  from: Buffers;
  /** Bytes in front of each frame. */
  fromHeader: number;
  to: Buffers;
  /** NetHeader.sizeBytes: the header of a plain frame is put in front of each; 0: none. */
  readonly toHeader: number;
  /** Bits of a buffer's first word, which a header begins with, that none of these frames may have. */
  readonly unwanted: number;
  /** Longest frame that may arrive. */
  bytesMax: number;
}

/** Frames on their way from the plain chains of a driver that sends to those of one that receives. */
export interface Crossing extends Copying {
  from: DeviceRing;
  readonly to: DeviceRing;
}

/**
 * Copies up to `most` frames, from buffer `first` on to buffer `next` on; how many, up to one that does not fit, is no
 * frame, or is unwanted.
 */
export function copyBurst(copying: Copying, first: number, next: number, most: number): number {
  const { from, fromHeader, to, toHeader, unwanted, bytesMax } = copying;
  const { place: fromPlace } = from.plain;
  const { place: toPlace } = to.plain;
  let done = 0;
  if (fromPlace >= 0 && toPlace >= 0) {
    const source = (fromPlace + (first << WORD_SHIFT)) | 0;
    const target = (toPlace + (next << WORD_SHIFT)) | 0;
    done = copyBurstInWindow(source, target, fromHeader, toHeader, unwanted, bytesMax, most);
  }
  return done < most ? copyOneByOne(copying, first, next, done, most) : done;
}

/** The same from frame `done` on: outside of the window, too short for it, or such as to end the burst. */
function copyOneByOne(copying: Copying, first: number, next: number, done: number, most: number): number {
  const { from, fromHeader, to, toHeader, unwanted, bytesMax } = copying;
  const { offsets: sources, lengths, pieces: sourcePlaces } = from.plain;
  const { offsets: targets, lengths: rooms, pieces: targetPlaces } = to.plain;
  const sourcePieces = from.memory.pieces;
  const targetPieces = to.memory.pieces;
  for (let i = done; i < most; i++) {
    const source = (first + i) | 0;
    const target = (next + i) | 0;
    const bytes = (lengths[source]! - fromHeader) | 0;
    if (bytes > rooms[target]! - toHeader || bytes > bytesMax || bytes < Ethernet.HEADER_BYTES) return i;
    const piece = sourcePieces[sourcePlaces[source]!]!;
    const at = sources[source]!;
    if (unwanted !== 0 && (piece.view.getInt32(at, true) & unwanted) !== 0) return i;
    const targetPiece = targetPieces[targetPlaces[target]!]!;
    const targetAt = targets[target]!;
    if (toHeader !== 0) writePlainHeader(targetPiece.view, targetAt);
    copyBetween(piece, (at + fromHeader) | 0, targetPiece, (targetAt + toHeader) | 0, bytes);
  }
  return most;
}

/**
 * Puts the header of a plain frame in one buffer into the NetHeader.sizeBytes bytes from `at` on. A driver that uses its
 * buffers again mostly finds there what it left: then nothing is written, and the cache line stays with both.
 */
export function writePlainHeader(view: DataView, at: number): void {
  const different =
    view.getInt32(at, true) |
    view.getInt32((at + 4) | 0, true) |
    (view.getInt32((at + 8) | 0, true) ^ ONE_BUFFER);
  if (different === 0) return;
  view.setFloat64(at, 0); // eight bytes of zeros
  view.setInt32((at + 8) | 0, ONE_BUFFER, true);
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
    for (let j = i; j < end; j++) {
      toAnswers[toAt] = toIds[next + j]!;
      toAnswers[toAt + 1] = (lengths[first + j]! - fromHeader + toHeader) | 0;
      toAt = (toAt + ANSWER_WORDS) | 0;
      fromAnswers[fromAt] = fromIds[first + j]!;
      fromAnswers[fromAt + 1] = 0;
      fromAt = (fromAt + ANSWER_WORDS) | 0;
    }
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
      toWords[POSITION] = toPosition;
      frames += 1;
      bytes += frameBytes;
      chains += 1;
      fromCounters[FRAMES] = frames;
      fromCounters[BYTES] = bytes;
      fromCounters[COMPLETED_DESC] = chains;
      fromWords[POSITION] = fromPosition;
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
    for (let j = i; j < end; j++) {
      answers[at] = ids[j]!;
      answers[at + 1] = written;
      at = (at + ANSWER_WORDS) | 0;
    }
    let position = plain.positionAt(i);
    for (; i < end; i++) {
      frames += 1;
      bytes += ((written === 0 ? lengths[i]! : written) - header) | 0;
      chains += 1;
      counters[FRAMES] = frames;
      counters[BYTES] = bytes;
      counters[COMPLETED_DESC] = chains;
      words[POSITION] = position;
      position = (position + 1) | 0;
    }
  }
}

/** Buffers in memory of our own, PLAIN_CHAINS_MAX of them, laid out once for many bursts; until then without a byte. */
export class PrivateBuffers implements Buffers {
  readonly plain = new PlainRoom();
  /** Of each buffer. */
  bytes = 0;
  readonly memory: { readonly pieces: readonly MemoryPiece[] };
  /** Where the segments of layFrames() are; -1: outside of the window. */
  segmentPlace = -1;
  readonly #piece: MemoryPiece;
  /** Laid out as frames and not as buffers. */
  #frames = false;

  constructor({ piece }: PrivateMemory) {
    this.memory = { pieces: [piece] };
    this.#piece = piece;
    this.plain.pages.fill(piece.windowPage);
  }

  /** Lays buffers of `bytes` bytes out, `stride` bytes apart and as many as `room` bytes have room for; then those again. */
  lay(bytes: number, stride: number, room: number): void {
    const { offsets, lengths, pages } = this.plain;
    if (this.#frames) pages.fill(this.#piece.windowPage);
    this.#frames = false;
    const count = stride === 0 ? 1 : Math.max(1, Math.floor(room / stride));
    this.bytes = bytes;
    lengths.fill(bytes);
    for (let i = 0; i < PLAIN_CHAINS_MAX; i++) offsets[i] = (i % count) * stride;
  }

  /** For the next copyFrames(): every frame is the first `bytes` bytes. */
  layFrames(bytes: number): void {
    const { windowPage } = this.#piece;
    this.segmentPlace = windowPage < 0 ? -1 : onlySegment(windowPage, 0, bytes);
    if (this.#frames && this.bytes === bytes) return;
    const { offsets, lengths, pages } = this.plain;
    this.#frames = true;
    this.bytes = bytes;
    lengths.fill(bytes);
    offsets.fill(0);
    pages.fill(1);
  }

  /** Buffers of `bytes` bytes are laid out. */
  holds(bytes: number): boolean {
    return !this.#frames && this.bytes === bytes;
  }
}
