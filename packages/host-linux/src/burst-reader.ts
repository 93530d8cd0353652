/**
 * burst-reader.ts: reads many frames of a TAP in one system call, and leaves behind what of them was read.
 *
 * Theory
 *   A ring (burst-ring.ts) of READVs. The headers lie in the page that outlives the process as well, frames in the driver's
 *   buffers. So whatever the kernel had read when the process was killed, its successor finds (readOfBurst).
 *   What is larger than its buffer ends in private memory, where nobody looks at it.
 *
 * Invariants
 *   I1  a frame that comes during the call may be read behind a read that found nothing; frames are in the order of reads.
 *
 * Limits  each frame into one piece of memory.
 */
import {
  BURST_FRAMES_MAX,
  BURST_HEADER_BYTES,
  BURST_HEADERS_AT,
  BURST_PAGE_BYTES,
  BurstWord,
  CompletionEntry,
  Errno,
  NetHeader,
  UringOperation,
} from '@virtnet/wire';
import { EntryTable, entryPage } from './burst-ring.js';
import { NativeBuffer, viewMemory } from './libc.js';

const COMPLETION_WORDS = CompletionEntry.sizeBytes / 4;
const RESULT = CompletionEntry.at.result / 4;
const USER_DATA = CompletionEntry.at.userData / 4;
const HEADER = 0;
const FRAME = 1;
/** What of the frame has no room. */
const REST = 2;
const PARTS = 3;
/** A frame with GSO, rounded up. */
const REST_BYTES = 66 * 1024;

/** Where frames are read to. */
export class ReadTable extends EntryTable {
  readonly #rest = new NativeBuffer(REST_BYTES);

  private constructor(address: number) {
    super(address, UringOperation.READV, PARTS);
    for (let i = 0; i < BURST_FRAMES_MAX; i++) this.setPart(i, REST, this.#rest.address, REST_BYTES);
  }

  /** One for the calling thread; null when there is no memory. */
  static create(): ReadTable | null {
    const address = entryPage();
    return address === null ? null : new ReadTable(address);
  }

  /** Where read `i` of the next burst goes: its frame to `length` bytes from `address`, its header into the page at `pageAddress`. */
  set(i: number, pageAddress: number, address: number, length: number): void {
    this.setPart(i, HEADER, pageAddress + BURST_HEADERS_AT + i * BURST_HEADER_BYTES, NetHeader.sizeBytes);
    this.setPart(i, FRAME, address, length);
  }
}

/** The headers of a queue's page, BURST_HEADER_BYTES from one to the next. */
export function burstHeaders(pageAddress: number): Uint8Array {
  const page = viewMemory(BigInt(pageAddress), BURST_PAGE_BYTES);
  return new Uint8Array(page, BURST_HEADERS_AT, BURST_FRAMES_MAX * BURST_HEADER_BYTES);
}

/**
 * What became of the reads of a burst whose owner is dead, into `results`: bytes, header included, or -errno (-EAGAIN: never
 * begun, or nothing was there). `page` is the queue's, `burst` what was said of it, `count` how many reads it had.
 */
export function readOfBurst(page: Uint32Array, burst: Uint32Array, count: number, results: Int32Array): void {
  results.fill(-Errno.EAGAIN);
  const before = burst[BurstWord.TAIL_BEFORE]!;
  const tail = page[burst[BurstWord.TAIL_AT]! / 4] ?? 0;
  const entries = burst[BurstWord.ENTRIES_AT]! / 4;
  const mask = burst[BurstWord.ENTRIES_MASK]!;
  for (let i = 0, completed = Math.min((tail - before) >>> 0, count, BURST_FRAMES_MAX); i < completed; i++) {
    const at = entries + (((before + i) & mask) >>> 0) * COMPLETION_WORDS;
    results[page[at + USER_DATA]! & (BURST_FRAMES_MAX - 1)] = page[at + RESULT] ?? -Errno.EAGAIN;
  }
}
