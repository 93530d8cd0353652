/** linux-uring.ts: the part of linux/io_uring.h that the reply ring uses. */
import { i32, layout, u8, u16, u32, u64 } from './layout.js';

/** Offsets of the shared words inside the submission ring mapping. */
export const SubmissionRingOffsets = layout('SubmissionRingOffsets', 40, {
  head: u32,
  tail: u32,
  ringMask: u32,
  ringEntries: u32,
  flags: u32,
  dropped: u32,
  array: u32,
  reserved: u32,
  userAddress: u64,
});

/** Offsets of the shared words inside the completion ring mapping. */
export const CompletionRingOffsets = layout('CompletionRingOffsets', 40, {
  head: u32,
  tail: u32,
  ringMask: u32,
  ringEntries: u32,
  overflow: u32,
  entries: u32,
  flags: u32,
  reserved: u32,
  userAddress: u64,
});

/** struct io_uring_params without the two offset structures, which follow it. */
export const UringParametersHead = layout('UringParametersHead', 40, {
  submissionEntries: u32,
  completionEntries: u32,
  flags: u32,
  threadCpu: u32,
  threadIdle: u32,
  features: u32,
  workQueueFd: u32,
  reserved0: u32,
  reserved1: u32,
  reserved2: u32,
});
export const URING_PARAMETERS_BYTES = 120;
export const URING_SUBMISSION_OFFSETS_AT = 40;
export const URING_COMPLETION_OFFSETS_AT = 80;

/** struct io_uring_sqe; what an operation does not name stays zero. */
export const SubmissionEntry = layout('SubmissionEntry', 64, {
  opcode: u8,
  flags: u8,
  ioPriority: u16,
  fd: i32,
  offset: u64,
  address: u64,
  length: u32,
  operationFlags: u32,
  userData: u64,
  bufferIndex: u16,
  personality: u16,
  spliceFd: i32,
  address3: u64,
  padding: u64,
});

/** struct io_uring_cqe. */
export const CompletionEntry = layout('CompletionEntry', 16, { userData: u64, result: i32, flags: u32 });

/** Operations. */
export const UringOperation = {
  NOP: 0,
  READV: 1,
  WRITEV: 2,
  SENDMSG: 9,
  RECVMSG: 10,
  SEND: 26,
  RECV: 27,
  FUTEX_WAIT: 51,
} as const;
/** What FUTEX_WAIT takes in place of a descriptor: a 32-bit futex that processes share. */
export const FUTEX2_SIZE_U32 = 2;
/** FUTEX_WAIT's mask: woken by whomever. */
export const FUTEX_BITSET_MATCH_ANY = 0xffff_ffffn;
/** Flags of one submission. */
export const SubmissionFlag = {
  /** The next submission starts only when this one succeeded in full. */
  LINK: 1 << 2,
} as const;
/** Flag of a read or write: it fails with EAGAIN where it would wait; without it even O_NONBLOCK files are waited for. */
export const RWF_NOWAIT = 8;
/** Flags of io_uring_setup. */
export const UringSetup = {
  CLAMP: 1 << 4,
  SUBMIT_ALL: 1 << 7,
  COOPERATE: 1 << 8,
  SINGLE_ISSUER: 1 << 12,
  /** The rings are in memory of ours, named by the user addresses of the offsets (Linux 6.5). */
  NO_MMAP: 1 << 14,
} as const;
/** Features io_uring_setup reports. */
export const UringFeature = { SINGLE_MMAP: 1 } as const;
/** mmap offsets of the ring's parts. */
export const UringMmapOffset = {
  SUBMISSION_RING: 0,
  COMPLETION_RING: 0x8000000,
  ENTRIES: 0x10000000,
} as const;
/** Flags of io_uring_enter. */
export const UringEnter = { GETEVENTS: 1 } as const;
