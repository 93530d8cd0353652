/**
 * burst-writer.ts: sends many frames to a TAP in one system call, and leaves behind what of them was sent.
 *
 * Theory
 *   A ring (burst-ring.ts) of WRITEVs. A successor of who was killed neither repeats nor forgets a frame (sentOfBurst).
 *
 * Limits  each frame is one piece of memory behind a header of zeros.
 */
import {
  BURST_FRAMES_MAX,
  BurstWord,
  CompletionEntry,
  Errno,
  NetHeader,
  UringOperation,
} from '@virtnet/wire';
import { EntryTable, entryPage } from './burst-ring.js';
import { NativeBuffer } from './libc.js';

const COMPLETION_WORDS = CompletionEntry.sizeBytes / 4;
const RESULT = CompletionEntry.at.result / 4;
const HEADER = 0;
const FRAME = 1;
const PARTS = 2;

/** Frames to send. */
export class WriteTable extends EntryTable {
  readonly #header = new NativeBuffer(NetHeader.sizeBytes);

  private constructor(address: number) {
    super(address, UringOperation.WRITEV, PARTS);
    for (let i = 0; i < BURST_FRAMES_MAX; i++)
      this.setPart(i, HEADER, this.#header.address, NetHeader.sizeBytes);
  }

  /** One for the calling thread; null when there is no memory. */
  static create(): WriteTable | null {
    const address = entryPage();
    return address === null ? null : new WriteTable(address);
  }

  /** Frame `i` of the next burst: `length` bytes of this process's memory from `address` (below 2^53). */
  set(i: number, address: number, length: number): void {
    this.setPart(i, FRAME, address, length);
  }
}

/**
 * How many frames of a burst its owner, who is dead, had sent and not settled. `page` is the queue's, `burst` what was said
 * of it, `count` how many frames it had.
 */
export function sentOfBurst(page: Uint32Array, burst: Uint32Array, count: number): number {
  const tail = page[burst[BurstWord.TAIL_AT]! / 4] ?? 0;
  let sent = Math.min((tail - burst[BurstWord.TAIL_BEFORE]!) >>> 0, count);
  const resultOf = (i: number): number => {
    const entry = (burst[BurstWord.TAIL_BEFORE]! + i) & burst[BurstWord.ENTRIES_MASK]!;
    return page[burst[BurstWord.ENTRIES_AT]! / 4 + entry * COMPLETION_WORDS + RESULT]! | 0;
  };
  while (sent > 0 && resultOf(sent - 1) === -Errno.EAGAIN) sent--; // there was no room: they stayed
  return Math.max(0, sent - burst[BurstWord.SETTLED]!);
}
