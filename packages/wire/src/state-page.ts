/**
 * state-page.ts: the layout of a device's state page, the one thing a crash must not take along.
 *
 * Theory
 *   One memfd per device, mapped by the active emulator, its datapath workers and the warm standby. It holds what
 *   cannot be inferred from guest memory after the active process has vanished between two instructions: the queue
 *   positions, the ISR, the sequence of the vfio-user request in progress, and the counters. Everything slow lives
 *   in the device record instead. The TAP of an uplink has a page of one block, for its counters.
 *
 * Parties
 *   main     writes the header and the control queue's block; takes marks of a dead owner away before anything is worked.
 *   worker   writes the blocks of the queues it owns; one writer per block at any time.
 *   kernel   writes the page of a queue while it sends, or reads, a burst for the worker.
 *   standby  reads, only after the active process was fenced.
 *
 * Layout
 *   byte 0     header, STATE_PAGE_HEADER_BYTES
 *   then       one block of QUEUE_BLOCK_BYTES per virtqueue: 8 32-bit words, then counters as 64-bit floats
 *              (exact to 2^53; plain stores, no BigInt on the datapath), at their end the main thread's marks, among
 *              them from QUEUE_BURST_AT on what tells how far the kernel came with a burst (BurstWord), then
 *              from QUEUE_JOURNAL_AT on the journal of a packed ring: what was given back and is not published yet
 *   then       one page for each virtqueue the file has room for: the completion ring by which the kernel says what it
 *              has sent of a burst, or read, and the headers of what it has read; untouched where there never was one. Files of older builds end before.
 *
 * Invariants
 *   I1  word POSITION of a queue is stored after the frame's used entry is in guest memory, so a successor that
 *       continues from it repeats or loses at most the one frame in flight.
 *   I2  a block has one writer, but for its marks, which are the main thread's, and the size classes, which are the
 *       main thread's while the worker does not count them.
 *
 * Limits  65,535 queues by index width; sized at creation for the queues the device has.
 */
import { layout, u32 } from './layout.js';

export const STATE_PAGE_MAGIC = 0x56_4e_53_50; // "VNSP"
export const STATE_PAGE_VERSION = 2;
export const STATE_PAGE_HEADER_BYTES = 4096;
/** Where what is said of a burst begins in a block: the places of floats 26 to 29, which no counter has. */
export const QUEUE_BURST_AT = 240;
/** Words there; they mean something while QueueWord.BURST is not 0. */
export const BurstWord = {
  /** Frames of the burst that are completed or dropped; counted before POSITION says so. */
  SETTLED: 0,
  /** Tail of the completion ring when the burst began: the kernel adds one for each frame. */
  TAIL_BEFORE: 1,
  /** Where in the queue's page that tail is, where the entries begin, and what to mask their index with. */
  TAIL_AT: 2,
  ENTRIES_AT: 3,
  ENTRIES_MASK: 4,
  /** QueueWord.HEARTBEAT when it began. With another one somebody has worked the queue since who knows no bursts. */
  HEARTBEAT: 5,
  /** POSITION when it began. */
  BEGIN: 6,
  /** Of reads: frames that were dropped since, whose chains were kept. */
  DROPPED: 7,
  COUNT: 8,
} as const;
/** Frames that one call of the kernel sends. */
export const BURST_FRAMES_MAX = 32;
export const BURST_PAGE_BYTES = 4096;
/** Where in the page of a receive queue the headers of frames are that the kernel has read, and how far one is from the next. */
export const BURST_HEADERS_AT = 3584;
export const BURST_HEADER_BYTES = 16;
/** Where the journal begins in a block. */
export const QUEUE_JOURNAL_AT = 512;
/** Chains a packed ring can give back before it has to publish: four bursts, or the longest mergeable frame. */
export const QUEUE_JOURNAL_ENTRIES = 256;
/** Words of a journal entry: buffer id with the descriptors of the chain above it, then the bytes written. */
export const JOURNAL_ENTRY_WORDS = 2;
export const QUEUE_BLOCK_BYTES = QUEUE_JOURNAL_AT + QUEUE_JOURNAL_ENTRIES * JOURNAL_ENTRY_WORDS * 4;

/** First bytes of a state page. */
export const StatePageHeader = layout('StatePageHeader', 48, {
  magic: u32,
  version: u32,
  queueCount: u32,
  /** ISR status byte of the function (virtio 4.1.4.5). */
  isr: u32,
  /** config_generation of the common configuration. */
  configGeneration: u32,
  /** Number of vfio-user messages begun on the current connection. */
  requestSequence: u32,
  /** How often an emulator took this device over. */
  takeovers: u32,
  /** Incremented on every connection accepted. */
  connectionEpoch: u32,
  /** Deaths of emulators that this device is suspected of (see suspicion.ts of engine-recovery). */
  suspicions: u32,
  /** 1 while a request of its client is being worked. */
  requestUnderWay: u32,
  /** Process that works the device, or did when it died; 0 after one that ended as it was told to. */
  ownerPid: u32,
  /**
   * When its owner was last seen to get on: milliseconds of CLOCK_MONOTONIC modulo 2^32. 0: not said here. One page of all
   * that a process owns says it.
   */
  workedMs: u32,
});

/** 32-bit words at the start of a queue block. */
export const QueueWord = {
  /**
   * Where the ring goes on. Split: free-running index of the next available entry to take, which is the used index as
   * well. Packed: index and wrap counter of the next entry to take in the lower half, of the first entry that is not
   * published in the upper half (PackedPosition).
   */
  POSITION: 0,
  /** The position when the driver last saw everything up to it. */
  PUBLISHED: 1,
  /** Bumped by the owner once per loop turn in which the queue was looked at. */
  HEARTBEAT: 2,
  /** 1 while frames are on their way: one of them may be between its side effect and its POSITION store. */
  IN_FLIGHT: 3,
  /** Level of dynamic interrupt moderation, where a successor goes on. */
  MODERATION_LEVEL: 4,
  /** A WorkMark while the queue is being worked; what a death leaves behind says what was worked then, and by whom. */
  UNDER_WORK: 5,
  /** Number of the client's request that started the queue: worked again, it does not start it anew. 0: none. */
  STARTED_BY: 6,
  /** Frames of the burst that the kernel was given, until all of them are settled; 0: there is none. */
  BURST: 7,
} as const;
export type QueueWord = (typeof QueueWord)[keyof typeof QueueWord];

/** What UNDER_WORK says: 0, nobody works the queue, or the sum of these and the worker's progress lane. */
export const WorkMark = {
  /** By a thread that does not say which it is. */
  SOMEBODY: 1,
  /** By the thread of a lane, which is added. */
  LANE: 0x100,
} as const;

/** Index of the first 64-bit float of a block, counted from the start of the block in 8-byte units. */
export const QUEUE_COUNTERS_AT = 4;

/** Counters of a queue, as indices into its floats. Every drop has a reason of its own. */
export const QueueCounter = {
  /** Descriptors taken from the driver. */
  RECEIVED_DESC: 0,
  /** Descriptors returned to the driver. */
  COMPLETED_DESC: 1,
  /** Chains whose descriptors were malformed. */
  BAD_DESC_ERRORS: 2,
  /** Chains with more segments than the device takes. */
  EXCEED_MAX_CHAIN: 3,
  /** Chains that name memory outside the device's regions. */
  INVALID_BUFFER: 4,
  /** Frames moved. */
  FRAMES: 5,
  /** Bytes of frames moved, header excluded. */
  BYTES: 6,
  /** Interrupts sent to the driver. */
  INTERRUPTS: 7,
  /** Times the worker found the queue kicked with nothing new in it. */
  SPURIOUS_KICKS: 8,
  /** Dropped: virtio-net header refused. */
  DROP_HEADER: 9,
  /** Dropped: the representor, or the uplink of the eswitch, would not take it now (full). */
  DROP_TAP_AGAIN: 10,
  /** Dropped: the representor, or the uplink of the eswitch, is down or refused it. */
  DROP_TAP_ERROR: 11,
  /** Dropped: link down. */
  DROP_LINK_DOWN: 12,
  /** Dropped: destination MAC not wanted by the driver. */
  DROP_FILTER_MAC: 13,
  /** Dropped: VLAN not wanted by the driver. */
  DROP_FILTER_VLAN: 14,
  /** Dropped: larger than the MTU. */
  DROP_MTU: 15,
  /** Dropped: larger than the driver's buffer. */
  DROP_NO_BUFFER: 16,
  /** Dropped: chain malformed (counted in BAD_DESC_ERRORS or INVALID_BUFFER too). */
  DROP_BAD_CHAIN: 17,
  /** Bursts worked. */
  BATCHES: 18,
  /** Most descriptors found waiting at once. */
  MAX_POSTED: 19,
  /** Times the worker's handler ran for this queue. */
  HANDLER_RUNS: 20,
  /** Dropped: the driver had no buffer for it (eswitch; a TAP keeps such frames). */
  DROP_NO_DESC: 21,
  /** Dropped by the eswitch: nobody receives where it goes. */
  DROP_NO_DESTINATION: 22,
  /** Dropped by the eswitch: its destination is where it came from. */
  DROP_SAME_PORT: 23,
  /** Dropped by the eswitch: an address that bridges do not forward, a source no station can have, or a frame too short for addresses. */
  DROP_NOT_SWITCHED: 24,
  /** Frames whose source the eswitch could not remember: its table, or the port's share, is full. */
  STATIONS_REFUSED: 25,
  // 26 to 29 are what is said of a burst (QUEUE_BURST_AT).
  /** Copies of flooded frames that the uplink did not take, while another port did: the frames are no drops. */
  UPLINK_MISSED: 30,
  /** Frames by size, while packet counters are on: SIZE_CLASSES classes from here on. */
  SIZE_CLASS_FIRST: 32,
} as const;
export type QueueCounter = (typeof QueueCounter)[keyof typeof QueueCounter];

/** Largest frame of each size class, in bytes; whatever is larger is counted in the last class. */
export const SIZE_CLASS_LIMITS = [64, 127, 255, 511, 1023, 1522, 2047, 4095, 8191, 9022] as const;
export const SIZE_CLASSES = SIZE_CLASS_LIMITS.length;

/** Counters that an operator may set back. What is shown of them is their value without their mark. */
export const CLEARABLE_COUNTERS: readonly QueueCounter[] = [
  QueueCounter.UPLINK_MISSED, // first, because the others' marks had their places before
  QueueCounter.FRAMES,
  QueueCounter.SPURIOUS_KICKS,
  QueueCounter.DROP_HEADER,
  QueueCounter.DROP_TAP_AGAIN,
  QueueCounter.DROP_TAP_ERROR,
  QueueCounter.DROP_LINK_DOWN,
  QueueCounter.DROP_FILTER_MAC,
  QueueCounter.DROP_FILTER_VLAN,
  QueueCounter.DROP_MTU,
  QueueCounter.DROP_NO_BUFFER,
  QueueCounter.DROP_BAD_CHAIN,
  QueueCounter.DROP_NO_DESC,
  QueueCounter.DROP_NO_DESTINATION,
  QueueCounter.DROP_SAME_PORT,
  QueueCounter.DROP_NOT_SWITCHED,
  QueueCounter.STATIONS_REFUSED,
];
/** Index of the first mark among a block's floats; one for each of CLEARABLE_COUNTERS, to the last float. */
export const QUEUE_MARKS_AT = 43;

/** Size in bytes of the state page of a device with `queueCount` virtqueues. */
export function statePageSize(queueCount: number): number {
  return STATE_PAGE_HEADER_BYTES + Math.ceil((queueCount * QUEUE_BLOCK_BYTES) / 4096) * 4096;
}

/** The typed views of one queue's block. */
export interface QueueBlock {
  readonly words: Uint32Array;
  readonly counters: Float64Array;
  /** BurstWord. */
  readonly burst: Uint32Array;
  /** QUEUE_JOURNAL_ENTRIES entries of a packed ring. */
  readonly journal: Uint32Array;
}

/** Size in bytes of a file with room for `queueCount` virtqueues, the pages of their bursts included. */
export function statePageFileSize(queueCount: number): number {
  return statePageSize(queueCount) + queueCount * BURST_PAGE_BYTES;
}

/** Where in such a file the page of queue `index` begins. */
export const burstPageAt = (queueCount: number, index: number): number =>
  statePageSize(queueCount) + index * BURST_PAGE_BYTES;

/** Where in a state page the block of queue `index` begins. */
export const queueBlockAt = (index: number): number => STATE_PAGE_HEADER_BYTES + index * QUEUE_BLOCK_BYTES;

/** The words of queue `index` alone: `queueBlock` makes three views more. */
export function queueWords(page: ArrayBufferLike, index: number, pageOffset = 0): Uint32Array {
  return new Uint32Array(page as ArrayBuffer, pageOffset + queueBlockAt(index), 8);
}

/** Views over queue `index` of a mapped state page. */
export function queueBlock(page: ArrayBufferLike, index: number, pageOffset = 0): QueueBlock {
  const at = pageOffset + queueBlockAt(index);
  return {
    words: queueWords(page, index, pageOffset),
    counters: new Float64Array(
      page as ArrayBuffer,
      at + QUEUE_COUNTERS_AT * 8,
      QUEUE_JOURNAL_AT / 8 - QUEUE_COUNTERS_AT,
    ),
    burst: new Uint32Array(page as ArrayBuffer, at + QUEUE_BURST_AT, BurstWord.COUNT),
    journal: new Uint32Array(
      page as ArrayBuffer,
      at + QUEUE_JOURNAL_AT,
      QUEUE_JOURNAL_ENTRIES * JOURNAL_ENTRY_WORDS,
    ),
  };
}
