/**
 * progress-page.ts: the layout of a process's progress page, by which its supervisor sees that it gets on.
 *
 * Theory
 *   One memfd per supervised process, made by the controller and handed over at the start as a descriptor. Each thread
 *   that must not stand still has a lane: a count of its turns, and whether it sleeps because there is nothing to do.
 *   Both are plain stores; the supervisor reads them and asks nothing.
 *   A lane also tells when its thread has ended, long before the process is gone: the number of the thread is a robust
 *   futex (set_robust_list(2)), which the kernel marks when the thread has left user space for good. Freeing the
 *   memory of a process takes ten milliseconds and more, and everything else that tells of its end comes after that.
 *
 * Parties
 *   thread      writes its own lane.
 *   controller  reads all of them; trusts nothing but its own clock and the kernel's accounts.
 *   successor   waits for the ends of the threads.
 *   kernel      marks THREAD with FutexWord.OWNER_DIED.
 *
 * Invariants
 *   I1  a lane has one writer.
 *   I2  a lane whose STATE is UNUSED is not watched: a thread that starts is watched once it says so.
 *
 * Limits  PROGRESS_LANES_MAX threads.
 */

export const PROGRESS_MAGIC = 0x50_4e_53_50; // "PSNP"
export const PROGRESS_VERSION = 1;
/** The main thread and as many datapath threads as a pool may have. */
export const PROGRESS_LANES_MAX = 65;
/** Lane of the main thread; datapath thread n has lane n + 1. */
export const MAIN_LANE = 0;
export const PROGRESS_HEADER_WORDS = 16;
export const PROGRESS_LANE_WORDS = 16;
export const PROGRESS_PAGE_BYTES = 4 * (PROGRESS_HEADER_WORDS + PROGRESS_LANES_MAX * PROGRESS_LANE_WORDS);

/** 32-bit words of the header. */
export const ProgressWord = {
  MAGIC: 0,
  VERSION: 1,
  /** One of LastWord: what the process said of its own end. */
  LAST_WORD: 2,
  /** 1: the supervisor asks before it worries, so a main thread without work need not take turns. */
  ASKS: 3,
  /** Lane of the thread that LAST_WORD is about, plus 1; 0: nobody knows. */
  LAST_LANE: 4,
} as const;

/** What a process that ends by its own fault says last. */
export const LastWord = {
  NOTHING: 0,
  /** An exception nobody caught. */
  EXCEPTION: 1,
  /** A datapath thread failed or did not answer. */
  WORKER: 2,
  /** A signal that somebody sent, though it looks like one that a fault raises (SIGSEGV, SIGABRT). */
  FOREIGN_SIGNAL: 3,
} as const;
export type LastWord = (typeof LastWord)[keyof typeof LastWord];

/** 32-bit words of a lane. */
export const LaneWord = {
  /** One of LaneState. */
  STATE: 0,
  /** Bumped with every turn. */
  BEAT: 1,
  /** The thread, as the kernel numbers it, and bits of FutexWord. */
  THREAD: 2,
  /** Of the writing process, at its addresses: struct robust_list_head, whose only entry is the next one. */
  ROBUST_HEAD: 4,
  /** struct robust_list. */
  ROBUST_ENTRY: 10,
} as const;

export const LaneState = {
  UNUSED: 0,
  /** Turns are expected. */
  AWAKE: 1,
  /** Waits for an event, for as long as it takes. */
  ASLEEP: 2,
} as const;
export type LaneState = (typeof LaneState)[keyof typeof LaneState];

/** Bits of a futex that has an owner (linux/futex.h). */
export const FutexWord = {
  /** Somebody waits: whoever changes the word wakes them. */
  WAITERS: 0x8000_0000,
  /** The thread that owned it ended. */
  OWNER_DIED: 0x4000_0000,
  THREAD_MASK: 0x3fff_ffff,
} as const;
