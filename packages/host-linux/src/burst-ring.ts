/**
 * burst-ring.ts: many operations on one descriptor in one system call, and what of them was done is left behind.
 *
 * Theory
 *   A call for each frame costs what it takes to enter and leave the kernel, and to call it from here. One io_uring_enter
 *   carries a whole burst: the kernel runs its operations one after the other inside the call, adds a completion for each,
 *   and looks at signals only on its way back. So whoever kills this process kills it before the call or behind it. The
 *   completions lie in memory of ours that outlives the process (IORING_SETUP_NO_MMAP): by them a successor knows
 *   exactly what was done.
 *   The kernel takes a ring apart at its leisure when it is closed, or its process ends, and once more writes the tail it
 *   had into the page. So a new ring never gets a page that had one: what is behind the address is exchanged first
 *   (MADV_REMOVE), and the former page is the former ring's alone.
 *   The submissions need not outlive anybody. All rings of a thread that do the same share one table of entries and vectors:
 *   it is used by one call at a time, and read only inside it.
 *
 * Parties
 *   this thread   fills the table, enters the kernel, takes completions.   kernel   reads and writes only inside the call.
 *   successor     reads the page of a ring whose owner is dead, before it makes a ring there itself.
 *
 * Invariants
 *   I1  operations are done in their order, and so are their completions.
 *   I2  when run() returns, every operation that was begun has completed, or the ring is `broken` and not to be used again.
 *
 * Limits  BURST_FRAMES_MAX operations a call. Descriptors that need not be waited for, as TAPs. Linux 6.5; before that there
 *         is no ring.
 */
import {
  BURST_FRAMES_MAX,
  BURST_HEADERS_AT,
  BURST_PAGE_BYTES,
  BurstWord,
  CompletionEntry,
  CompletionRingOffsets,
  Errno,
  Iovec,
  MADV_REMOVE,
  MmapFlag,
  MmapProtection,
  RWF_NOWAIT,
  SubmissionEntry,
  SubmissionRingOffsets,
  URING_COMPLETION_OFFSETS_AT,
  URING_PARAMETERS_BYTES,
  URING_SUBMISSION_OFFSETS_AT,
  UringParametersHead,
  UringSetup,
} from '@virtnet/wire';
import { close } from './fd.js';
import { NativeBuffer, negativeErrno, setPointer, viewMemory } from './libc.js';
import { nativeMadvise, nativeMmap, nativeMunmap, PAGE_BYTES } from './memory.js';
import { enterRing, setupRing } from './uring.js';

const ENTRY_WORDS = SubmissionEntry.sizeBytes / 4;
const FD = SubmissionEntry.at.fd / 4;
const VECTOR_WORDS = Iovec.sizeBytes / 4;
const BASE = Iovec.at.base / 4;
const VECTOR_LENGTH = Iovec.at.length / 4;
const COMPLETION_WORDS = CompletionEntry.sizeBytes / 4;
const RESULT = CompletionEntry.at.result / 4;
const HIGH_WORD = 2 ** 32;

/** Memory for a table's entries; null when there is none. */
export function entryPage(): number | null {
  const flags = MmapFlag.PRIVATE | MmapFlag.ANONYMOUS | MmapFlag.POPULATE;
  const address = nativeMmap(0, PAGE_BYTES, MmapProtection.READ | MmapProtection.WRITE, flags, -1, 0);
  return address < 0 ? null : address;
}

/** What all rings of a thread that do the same share: BURST_FRAMES_MAX operations, each of some parts of memory. */
export class EntryTable {
  /** The entries, on a page of their own. */
  readonly address: number;
  readonly entries: Int32Array;
  readonly #vectors: NativeBuffer;
  readonly #parts: number;

  /** `address`: an entryPage(), the table's from now on. */
  constructor(address: number, operation: number, parts: number) {
    this.address = address;
    this.#parts = parts;
    this.#vectors = new NativeBuffer(BURST_FRAMES_MAX * parts * Iovec.sizeBytes);
    const buffer = viewMemory(BigInt(address), PAGE_BYTES);
    this.entries = new Int32Array(buffer);
    const view = new DataView(buffer);
    for (let i = 0; i < BURST_FRAMES_MAX; i++) {
      const at = i * SubmissionEntry.sizeBytes;
      view.setUint8(at + SubmissionEntry.at.opcode, operation);
      setPointer(view, at + SubmissionEntry.at.address, this.#vectors.address + i * parts * Iovec.sizeBytes);
      view.setUint32(at + SubmissionEntry.at.length, parts, true);
      view.setUint32(at + SubmissionEntry.at.operationFlags, RWF_NOWAIT, true); // it does not wait
      view.setUint32(at + SubmissionEntry.at.userData, i, true); // its result names it
    }
  }

  /** Part `part` of operation `i`: `length` bytes of this process's memory from `address` (below 2^53). */
  protected setPart(i: number, part: number, address: number, length: number): void {
    const words = this.#vectors.u32;
    const at = (i * this.#parts + part) * VECTOR_WORDS;
    words[at + BASE] = address;
    words[at + BASE + 1] = address / HIGH_WORD;
    words[at + VECTOR_LENGTH] = length;
  }

  /** To be called when no ring uses it any more. */
  close(): void {
    nativeMunmap(this.address, PAGE_BYTES);
  }
}

/** The way of one queue into its TAP, or out of it. */
export class BurstRing {
  /** Of the last burst, by operation: bytes, header included, or -errno (-EAGAIN: no room or no frame, or never begun). */
  readonly results = new Int32Array(BURST_FRAMES_MAX);
  readonly #fd: number;
  readonly #table: EntryTable;
  readonly #words: Int32Array;
  readonly #submissionTail: number;
  /** Which entry of the table is next, by submission. */
  readonly #array: number;
  readonly #arrayMask: number;
  readonly #completionHead: number;
  readonly #completionTail: number;
  readonly #entries: number;
  readonly #mask: number;
  #broken = false;

  private constructor(fd: number, table: EntryTable, page: ArrayBuffer, parameters: DataView) {
    const sq = SubmissionRingOffsets.decode(parameters, URING_SUBMISSION_OFFSETS_AT);
    const cq = CompletionRingOffsets.decode(parameters, URING_COMPLETION_OFFSETS_AT);
    const words = new Int32Array(page);
    this.#fd = fd;
    this.#table = table;
    this.#words = words;
    this.#submissionTail = sq.tail / 4;
    this.#array = sq.array / 4;
    this.#arrayMask = words[sq.ringMask / 4]!;
    this.#completionHead = cq.head / 4;
    this.#completionTail = cq.tail / 4;
    this.#entries = cq.entries / 4;
    this.#mask = words[cq.ringMask / 4]!;
  }

  /**
   * A ring whose completions are in the page at `pageAddress`, a multiple of BURST_PAGE_BYTES, which nobody else uses now;
   * or -errno: -EINVAL also where the kernel does not know such rings.
   */
  static open(table: EntryTable, pageAddress: number): BurstRing | number {
    if (nativeMadvise(pageAddress, BURST_PAGE_BYTES, MADV_REMOVE) < 0) return negativeErrno();
    const page = viewMemory(BigInt(pageAddress), BURST_PAGE_BYTES);
    const parameters = new NativeBuffer(URING_PARAMETERS_BYTES);
    const { view } = parameters;
    view.setUint32(UringParametersHead.at.flags, UringSetup.NO_MMAP | UringSetup.SUBMIT_ALL, true);
    setPointer(view, URING_SUBMISSION_OFFSETS_AT + SubmissionRingOffsets.at.userAddress, table.address);
    setPointer(view, URING_COMPLETION_OFFSETS_AT + CompletionRingOffsets.at.userAddress, pageAddress);
    const fd = setupRing(BURST_FRAMES_MAX, parameters);
    if (fd < 0) return fd;
    const ring = new BurstRing(fd, table, page, view);
    if (ring.endBytes <= BURST_HEADERS_AT) return ring;
    ring.close(); // a kernel whose rings are larger
    return -Errno.EINVAL;
  }

  /** Bytes of the page that are the kernel's. */
  get endBytes(): number {
    const completions = this.#entries + (this.#mask + 1) * COMPLETION_WORDS;
    return 4 * Math.max(completions, this.#array + this.#arrayMask + 1);
  }

  /** Says in `burst` (BurstWord) by what a successor tells how far the kernel came with the next burst. */
  describe(burst: Uint32Array): void {
    burst[BurstWord.TAIL_BEFORE] = this.#words[this.#completionTail]!;
    burst[BurstWord.TAIL_AT] = this.#completionTail * 4;
    burst[BurstWord.ENTRIES_AT] = this.#entries * 4;
    burst[BurstWord.ENTRIES_MASK] = this.#mask;
  }

  /** Does the operations 0 to `count` - 1 of the table with `fd`. */
  run(fd: number, count: number): void {
    const { results } = this;
    const words = this.#words;
    const { entries } = this.#table;
    const array = this.#array;
    const mask = this.#arrayMask;
    const tail = words[this.#submissionTail]!;
    for (let i = 0; i < count; i++) {
      entries[i * ENTRY_WORDS + FD] = fd;
      words[array + ((tail + i) & mask)] = i;
      results[i] = -Errno.EAGAIN;
    }
    Atomics.store(words, this.#submissionTail, tail + count);
    const begun = enterRing(this.#fd, count, 0);
    if (begun !== count) Atomics.store(words, this.#submissionTail, tail + Math.max(begun, 0));
    if (this.#take() !== Math.max(begun, 0)) this.#broken = true;
  }

  /** The kernel did not say what became of all frames. */
  get broken(): boolean {
    return this.#broken;
  }

  /** Frees the ring; its page stays, and says what it said. */
  close(): void {
    close(this.#fd);
  }

  /** Takes the results that are there; how many. */
  #take(): number {
    const { results } = this;
    const words = this.#words;
    const entries = this.#entries;
    const mask = this.#mask;
    const head = words[this.#completionHead]!;
    const tail = Atomics.load(words, this.#completionTail);
    const count = (tail - head) | 0;
    for (let i = 0; i < Math.min(count, BURST_FRAMES_MAX); i++) {
      const at = entries + ((head + i) & mask) * COMPLETION_WORDS;
      results[words[at]! & (BURST_FRAMES_MAX - 1)] = words[at + RESULT]!;
    }
    Atomics.store(words, this.#completionHead, tail);
    return count;
  }
}
