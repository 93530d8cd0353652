/**
 * uring.ts: the least of io_uring: queue some operations, run them all in one system call.
 *
 * Theory
 *   The kernel shares two rings of memory with us: submissions (an array of entries and a ring of indices into it)
 *   and completions. run() publishes the entries filled since the last run, enters the kernel once and takes their
 *   results. Operations that need not wait are carried out inside that call, one after the other in order.
 *
 *   submit() is for operations that may take for ever: it does not wait. The ring's descriptor is readable once there
 *   are results, and taken() takes them. A ring is used in one of the two ways.
 *
 * Parties
 *   this thread   writes submission tail and completion head.
 *   kernel        writes submission head and completion tail, only inside our system calls (no polling thread).
 *
 * Invariants
 *   I1  between calls of run() both rings are empty: it returns only after every operation it submitted has completed.
 *   I2  entry i of a batch completes into results[i], through its userData.
 *
 * Limits  `entries` operations per run. One thread.
 */
import {
  CompletionEntry,
  CompletionRingOffsets,
  Errno,
  MmapFlag,
  MmapProtection,
  SubmissionEntry,
  SubmissionRingOffsets,
  SyscallNumber,
  URING_COMPLETION_OFFSETS_AT,
  URING_PARAMETERS_BYTES,
  URING_SUBMISSION_OFFSETS_AT,
  UringEnter,
  UringFeature,
  UringMmapOffset,
  UringParametersHead,
  UringSetup,
} from '@virtnet/wire';
import { close } from './fd.js';
import { declare, NativeBuffer, negativeErrno, setPointer, viewMemory } from './libc.js';
import { nativeMmap, nativeMunmap } from './memory.js';

/** syscall: glibc has no io_uring functions. */
const nativeSyscall = declare<
  (n: number, a: number, b: number, c: number, d: number, e: number, f: number) => number
>('syscall', 'int', ['int64_t', 'int64_t', 'int64_t', 'int64_t', 'int64_t', 'int64_t', 'int64_t']);

interface Region {
  readonly address: number;
  readonly sizeBytes: number;
}

/** One operation; fields as in struct io_uring_sqe. */
export interface Operation {
  readonly opcode: number;
  readonly fd: number;
  readonly address: number;
  readonly length: number;
  readonly operationFlags: number;
  readonly offset?: bigint;
  readonly address3?: bigint;
}

export class Uring {
  /** Results of the last run: bytes or -errno, in the order of add(). */
  readonly results: Int32Array;
  readonly fd: number;
  readonly #regions: readonly Region[];
  readonly #entries: DataView;
  readonly #submissionTail: Uint32Array;
  readonly #submissionMask: number;
  readonly #submissionArray: Uint32Array;
  readonly #completionHead: Uint32Array;
  readonly #completionTail: Uint32Array;
  readonly #completionMask: number;
  readonly #completions: DataView;
  readonly #capacity: number;
  #pending = 0;

  private constructor(fd: number, parameters: NativeBuffer, rings: Region, entries: Region) {
    const head = UringParametersHead.decode(parameters.view);
    const sq = SubmissionRingOffsets.decode(parameters.view, URING_SUBMISSION_OFFSETS_AT);
    const cq = CompletionRingOffsets.decode(parameters.view, URING_COMPLETION_OFFSETS_AT);
    const ring = viewMemory(BigInt(rings.address), rings.sizeBytes);
    const word = (at: number): Uint32Array => new Uint32Array(ring, at, 1);
    this.fd = fd;
    this.#regions = [rings, entries];
    this.#capacity = head.submissionEntries;
    this.results = new Int32Array(this.#capacity);
    this.#entries = new DataView(viewMemory(BigInt(entries.address), entries.sizeBytes));
    this.#submissionTail = word(sq.tail);
    this.#submissionMask = word(sq.ringMask)[0]!;
    this.#submissionArray = new Uint32Array(ring, sq.array, head.submissionEntries);
    this.#completionHead = word(cq.head);
    this.#completionTail = word(cq.tail);
    this.#completionMask = word(cq.ringMask)[0]!;
    this.#completions = new DataView(ring, cq.entries, head.completionEntries * CompletionEntry.sizeBytes);
  }

  /** A ring of at least `entries` operations per run, or -errno (-ENOSYS, -EPERM: this machine allows none). */
  static create(entries: number): Uring | number {
    const parameters = new NativeBuffer(URING_PARAMETERS_BYTES);
    const fd = setup(entries, parameters);
    if (fd < 0) return fd;
    const head = UringParametersHead.decode(parameters.view);
    const sq = SubmissionRingOffsets.decode(parameters.view, URING_SUBMISSION_OFFSETS_AT);
    const cq = CompletionRingOffsets.decode(parameters.view, URING_COMPLETION_OFFSETS_AT);
    if ((head.features & UringFeature.SINGLE_MMAP) === 0) {
      close(fd);
      return -Errno.ENOSYS;
    }
    const ringBytes = Math.max(
      sq.array + head.submissionEntries * Uint32Array.BYTES_PER_ELEMENT,
      cq.entries + head.completionEntries * CompletionEntry.sizeBytes,
    );
    const rings = mapPart(fd, UringMmapOffset.SUBMISSION_RING, ringBytes);
    const entriesBytes = head.submissionEntries * SubmissionEntry.sizeBytes;
    const table = mapPart(fd, UringMmapOffset.ENTRIES, entriesBytes);
    if (typeof rings !== 'number' && typeof table !== 'number')
      return new Uring(fd, parameters, rings, table);
    for (const part of [rings, table]) {
      if (typeof part !== 'number') nativeMunmap(part.address, part.sizeBytes);
    }
    close(fd);
    return typeof rings === 'number' ? rings : (table as number);
  }

  /** Operations that still fit into this batch. */
  get room(): number {
    return this.#capacity - this.#pending;
  }

  /** Queues an operation; there must be room. */
  add(operation: Operation): void {
    const i = this.#pending++;
    const at = i * SubmissionEntry.sizeBytes;
    const field = SubmissionEntry.at;
    const view = this.#entries;
    for (let p = 0; p < SubmissionEntry.sizeBytes; p += 4) view.setUint32(at + p, 0, true);
    view.setUint8(at + field.opcode, operation.opcode);
    view.setInt32(at + field.fd, operation.fd, true);
    setPointer(view, at + field.address, operation.address);
    view.setUint32(at + field.length, operation.length, true);
    view.setUint32(at + field.operationFlags, operation.operationFlags, true);
    view.setUint32(at + field.userData, i, true);
    if (operation.offset !== undefined) view.setBigUint64(at + field.offset, operation.offset, true);
    if (operation.address3 !== undefined) view.setBigUint64(at + field.address3, operation.address3, true);
    const tail = this.#submissionTail[0]! + i;
    this.#submissionArray[tail & this.#submissionMask] = i;
  }

  /**
   * Runs the queued operations in order, in one system call, and waits for all of them. Returns their number
   * (results are in `results`; -EAGAIN there also for an operation never begun), or -errno when none was begun.
   */
  run(): number {
    const count = this.#pending;
    this.#pending = 0;
    const tail = this.#submissionTail;
    const before = tail[0]!;
    Atomics.store(tail, 0, before + count);
    const submitted = this.#enter(count, count);
    if (submitted !== count) {
      // The kernel had no memory for the rest: they count as operations to be tried again.
      Atomics.store(tail, 0, before + Math.max(submitted, 0));
      if (submitted < 0) return submitted;
      this.results.fill(-Errno.EAGAIN, submitted, count);
    }
    let taken = 0;
    while (taken < submitted) {
      const got = this.#takeCompletions();
      if (got === 0) this.#enter(0, submitted - taken);
      taken += got;
    }
    return count;
  }

  /** Hands the queued operations to the kernel. Returns their number or -errno. */
  submit(): number {
    const count = this.#pending;
    this.#pending = 0;
    const tail = this.#submissionTail;
    Atomics.store(tail, 0, tail[0]! + count);
    return this.#enter(count, 0);
  }

  /** Puts what has completed since the last call into `results`; returns how many operations that were. */
  taken(): number {
    return this.#takeCompletions();
  }

  /** Frees the ring, and cancels what it waits for. It must not be used afterwards. */
  close(): void {
    for (const { address, sizeBytes } of this.#regions) nativeMunmap(address, sizeBytes);
    close(this.fd);
  }

  #enter(submit: number, wait: number): number {
    return enterRing(this.fd, submit, wait);
  }

  #takeCompletions(): number {
    let head = this.#completionHead[0]!;
    const tail = Atomics.load(this.#completionTail, 0);
    let count = 0;
    for (; head !== tail; head = (head + 1) >>> 0, count++) {
      const at = (head & this.#completionMask) * CompletionEntry.sizeBytes;
      const i = this.#completions.getUint32(at + CompletionEntry.at.userData, true);
      this.results[i] = this.#completions.getInt32(at + CompletionEntry.at.result, true);
    }
    Atomics.store(this.#completionHead, 0, head);
    return count;
  }
}

/** io_uring_enter: submits entries and waits for completions. Returns how many were submitted, or -errno. */
export function enterRing(fd: number, submit: number, wait: number): number {
  for (;;) {
    const { IO_URING_ENTER } = SyscallNumber;
    const result = nativeSyscall(IO_URING_ENTER, fd, submit, wait, UringEnter.GETEVENTS, 0, 0);
    if (result >= 0) return result;
    const error = negativeErrno();
    if (error !== -Errno.EINTR) return error;
  }
}

/** io_uring_setup with parameters as they are. Returns the ring's descriptor (close-on-exec) or -errno. */
export function setupRing(entries: number, parameters: NativeBuffer): number {
  const fd = nativeSyscall(SyscallNumber.IO_URING_SETUP, entries, parameters.address, 0, 0, 0, 0);
  return fd >= 0 ? fd : negativeErrno();
}

/** io_uring_setup, with the flag of newer kernels first. Returns the ring's descriptor (close-on-exec) or -errno. */
function setup(entries: number, parameters: NativeBuffer): number {
  let error = 0;
  for (const flags of [UringSetup.CLAMP | UringSetup.SUBMIT_ALL, UringSetup.CLAMP]) {
    parameters.u8.fill(0);
    parameters.view.setUint32(UringParametersHead.at.flags, flags, true);
    const fd = setupRing(entries, parameters);
    if (fd >= 0) return fd;
    error = fd;
    if (error !== -Errno.EINVAL) break;
  }
  return error;
}

function mapPart(fd: number, at: number, sizeBytes: number): Region | number {
  const protection = MmapProtection.READ | MmapProtection.WRITE;
  const address = nativeMmap(0, sizeBytes, protection, MmapFlag.SHARED | MmapFlag.POPULATE, fd, at);
  return address < 0 ? negativeErrno() : { address, sizeBytes };
}
