/**
 * burst-reader.ts: reads many frames of a TAP in one system call, and leaves behind what of them was read.
 *
 * Theory
 *   As burst-writer.ts: one io_uring_enter carries a burst of READVs, the kernel runs one after the other inside the call and
 *   says in a page that outlives the process how far it came. The headers lie in that page as well. Frames lie in the
 *   driver's buffers. So whatever the kernel had read when the process was killed, its successor finds.
 *   What is larger than its buffer ends in private memory, where nobody looks at it.
 *
 * Parties
 *   this thread   fills the table, enters the kernel, takes completions.   kernel   reads and writes only inside the call.
 *   successor     reads the page of a ring whose owner is dead (readOfBurst), before it makes a ring there itself.
 *
 * Invariants
 *   I1  a frame that comes during the call may be read behind a read that found nothing; frames are in the order of reads.
 *
 * Limits  BURST_FRAMES_MAX frames a call, each into one piece of memory. Linux 6.5; before that frames are read one by one.
 */
import {
  BURST_FRAMES_MAX,
  BURST_HEADER_BYTES,
  BURST_HEADERS_AT,
  BURST_PAGE_BYTES,
  BurstWord,
  CompletionEntry,
  Errno,
  Iovec,
  MmapFlag,
  MmapProtection,
  NetHeader,
  UringOperation,
} from '@virtnet/wire';
import { type EntryTable, prepareEntry } from './burst-writer.js';
import { NativeBuffer, setPointer, viewMemory } from './libc.js';
import { nativeMmap, nativeMunmap, PAGE_BYTES } from './memory.js';

const VECTOR_WORDS = Iovec.sizeBytes / 4;
const BASE = Iovec.at.base / 4;
const VECTOR_LENGTH = Iovec.at.length / 4;
const HIGH_WORD = 2 ** 32;
const COMPLETION_WORDS = CompletionEntry.sizeBytes / 4;
const RESULT = CompletionEntry.at.result / 4;
const USER_DATA = CompletionEntry.at.userData / 4;
/** Header, frame, and what of the frame has no room. */
const PARTS = 3;
/** A frame with GSO, rounded up. */
const REST_BYTES = 66 * 1024;

/** What all rings of a thread share. */
export class ReadTable implements EntryTable {
  readonly address: number;
  readonly entries: Int32Array;
  readonly #vectors = new NativeBuffer(BURST_FRAMES_MAX * PARTS * Iovec.sizeBytes);
  readonly #rest = new NativeBuffer(REST_BYTES);

  private constructor(address: number) {
    this.address = address;
    const buffer = viewMemory(BigInt(address), PAGE_BYTES);
    this.entries = new Int32Array(buffer);
    const vectors = this.#vectors;
    for (let i = 0; i < BURST_FRAMES_MAX; i++) {
      const vector = i * PARTS * Iovec.sizeBytes;
      vectors.u32[vector / 4 + VECTOR_LENGTH] = NetHeader.sizeBytes;
      const rest = vector + (PARTS - 1) * Iovec.sizeBytes;
      setPointer(vectors.view, rest + Iovec.at.base, this.#rest.address);
      vectors.u32[rest / 4 + VECTOR_LENGTH] = REST_BYTES;
      prepareEntry(new DataView(buffer), i, UringOperation.READV, vectors.address + vector, PARTS);
    }
  }

  /** One for the calling thread; null when there is no memory. */
  static create(): ReadTable | null {
    const flags = MmapFlag.PRIVATE | MmapFlag.ANONYMOUS | MmapFlag.POPULATE;
    const address = nativeMmap(0, PAGE_BYTES, MmapProtection.READ | MmapProtection.WRITE, flags, -1, 0);
    return address < 0 ? null : new ReadTable(address);
  }

  /** Where read `i` of the next burst goes: its frame to `length` bytes from `address`, its header into the page at `pageAddress`. */
  set(i: number, pageAddress: number, address: number, length: number): void {
    const words = this.#vectors.u32;
    const at = i * PARTS * VECTOR_WORDS;
    const header = pageAddress + BURST_HEADERS_AT + i * BURST_HEADER_BYTES;
    words[at + BASE] = header;
    words[at + BASE + 1] = header / HIGH_WORD;
    words[at + VECTOR_WORDS + BASE] = address;
    words[at + VECTOR_WORDS + BASE + 1] = address / HIGH_WORD;
    words[at + VECTOR_WORDS + VECTOR_LENGTH] = length;
  }

  /** To be called when no ring uses it any more. */
  close(): void {
    nativeMunmap(this.address, PAGE_BYTES);
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
