/**
 * progress.ts: progress pages: made by a supervisor, written by the threads of the supervised process.
 *
 * The layout is wire's progress-page.ts. A process that was given no page writes into memory of its own, so that no
 * caller has to ask whether it is watched.
 */
import { openSync, readdirSync, readFileSync, readlinkSync, readSync } from 'node:fs';
import {
  Errno,
  FutexWord,
  LaneState,
  LaneWord,
  type LastWord,
  MAIN_LANE,
  PROGRESS_HEADER_WORDS,
  PROGRESS_LANE_WORDS,
  PROGRESS_LANES_MAX,
  PROGRESS_MAGIC,
  PROGRESS_PAGE_BYTES,
  PROGRESS_VERSION,
  ProgressWord,
} from '@virtnet/wire';
import { close, describeFd } from './fd.js';
import { memfdCreate, sharedMapping, viewAt } from './memory.js';
import { hasEnded, ownRobustly } from './robust-futex.js';

const MEMFD_NAME = 'virtnet-progress';

/** One thread's own line of a page. */
export class ProgressLane {
  readonly #words: Uint32Array;
  /** Of `words` in this process; 0 when nobody else sees them. */
  readonly #address: bigint;
  /** Its number. */
  readonly index: number;
  #beats: number;

  constructor(words: Uint32Array, index: number, address = 0n) {
    this.index = index;
    this.#words = words;
    this.#address = address;
    this.#beats = words[LaneWord.BEAT]!;
  }

  /** From now on the calling thread is expected to get on. */
  begin(): void {
    this.#words[LaneWord.THREAD] = callingThread();
    if (this.#address !== 0n) ownRobustly(this.#words, this.#address);
    this.beat();
    this.#words[LaneWord.STATE] = LaneState.AWAKE;
  }

  /** Counts one turn. */
  beat(): void {
    this.#beats = (this.#beats + 1) | 0;
    this.#words[LaneWord.BEAT] = this.#beats;
  }

  /** The thread is about to wait for as long as nothing happens. */
  fallAsleep(): void {
    this.#words[LaneWord.STATE] = LaneState.ASLEEP;
  }

  wakeUp(): void {
    this.beat();
    this.#words[LaneWord.STATE] = LaneState.AWAKE;
  }

  /** The thread ends: it is no longer watched. */
  end(): void {
    this.#words[LaneWord.STATE] = LaneState.UNUSED;
  }
}

/** What a supervisor reads of a lane. */
export interface LaneReading {
  readonly lane: number;
  readonly beat: number;
  readonly asleep: boolean;
  readonly thread: number;
}

/** The lane of a thread that has not ended. */
export interface LivingThread {
  readonly words: Uint32Array;
  /** Of `words` in this process. */
  readonly address: bigint;
}

export class ProgressPage {
  /** -1 for a page of our own that nobody watches. */
  readonly fd: number;
  /** 0 for a page of our own. */
  readonly address: bigint;
  readonly #words: Uint32Array;
  readonly #release: () => void;

  private constructor(fd: number, address: bigint, buffer: ArrayBuffer, release: () => void) {
    this.fd = fd;
    this.address = address;
    this.#words = new Uint32Array(buffer, 0, PROGRESS_PAGE_BYTES / 4);
    this.#release = release;
  }

  /** A new page in a memfd, for a process that is about to be started; or -errno. */
  static create(): ProgressPage | number {
    const fd = memfdCreate(MEMFD_NAME, PROGRESS_PAGE_BYTES);
    if (fd < 0) return fd;
    const page = ProgressPage.#map(fd);
    if (typeof page === 'number') {
      close(fd);
      return page;
    }
    page.#words[ProgressWord.MAGIC] = PROGRESS_MAGIC;
    page.#words[ProgressWord.VERSION] = PROGRESS_VERSION;
    page.#words[ProgressWord.ASKS] = 1;
    return page;
  }

  /** The page behind `fd`, which becomes the page's own; -EINVAL when it is none, or -errno. */
  static open(fd: number): ProgressPage | number {
    const page = describeFd(fd)?.includes(MEMFD_NAME) === true ? ProgressPage.#map(fd) : -Errno.EINVAL;
    if (typeof page === 'number') return page;
    const [magic, version] = [page.#words[ProgressWord.MAGIC], page.#words[ProgressWord.VERSION]];
    if (magic === PROGRESS_MAGIC && version === PROGRESS_VERSION) return page;
    page.#release();
    return -Errno.EINVAL;
  }

  /** The page that process `pid` was started with as its descriptor `fd`; null when it has none. */
  static ofProcess(pid: number, fd: number): ProgressPage | null {
    const path = `/proc/${pid}/fd/${fd}`;
    try {
      if (!readlinkSync(path).includes(MEMFD_NAME)) return null;
      const own = openSync(path, 'r+');
      const page = ProgressPage.open(own);
      if (typeof page !== 'number') return page;
      close(own);
    } catch {
      // gone, or not ours to look into
    }
    return null;
  }

  /** A page nobody watches. */
  static unwatched(): ProgressPage {
    return new ProgressPage(-1, 0n, new ArrayBuffer(PROGRESS_PAGE_BYTES), () => undefined);
  }

  static #map(fd: number): ProgressPage | number {
    const mapping = sharedMapping(fd, PROGRESS_PAGE_BYTES);
    if (typeof mapping === 'number') return mapping;
    return new ProgressPage(fd, mapping.address, mapping.buffer, () => mapping.close());
  }

  lane(index: number): ProgressLane {
    return new ProgressLane(laneWords(this.#words, index), index, laneAddress(this.address, index));
  }

  /** Every lane that is in use. Nothing read here can be believed beyond being a number. */
  read(): LaneReading[] {
    const readings: LaneReading[] = [];
    const words = this.#words;
    for (let lane = MAIN_LANE; lane < PROGRESS_LANES_MAX; lane++) {
      const at = PROGRESS_HEADER_WORDS + lane * PROGRESS_LANE_WORDS;
      const state = words[at + LaneWord.STATE];
      if (state !== LaneState.AWAKE && state !== LaneState.ASLEEP) continue;
      readings.push({
        lane,
        beat: words[at + LaneWord.BEAT]!,
        asleep: state === LaneState.ASLEEP,
        thread: words[at + LaneWord.THREAD]! & FutexWord.THREAD_MASK,
      });
    }
    return readings;
  }

  /** A thread in use that has not ended; null when all have, or none ever was. */
  living(): LivingThread | null {
    for (let lane = MAIN_LANE; lane < PROGRESS_LANES_MAX; lane++) {
      const words = laneWords(this.#words, lane);
      if (words[LaneWord.STATE] === LaneState.UNUSED || hasEnded(words)) continue;
      return { words, address: laneAddress(this.address, lane) };
    }
    return null;
  }

  get lastWord(): number {
    return this.#words[ProgressWord.LAST_WORD]!;
  }

  /** Lane of the thread that the last word is about; null: nobody knows. */
  get lastLane(): number | null {
    const lane = this.#words[ProgressWord.LAST_LANE]! - 1;
    return lane >= MAIN_LANE && lane < PROGRESS_LANES_MAX ? lane : null;
  }

  /** Says why this process ends, and which of its threads is the reason. */
  endsOf(word: LastWord, lane: number | null): void {
    this.#words[ProgressWord.LAST_LANE] = lane === null ? 0 : lane + 1;
    this.#words[ProgressWord.LAST_WORD] = word;
  }

  /** Its supervisor asks the main thread for a turn when it misses one. */
  get asks(): boolean {
    return this.#words[ProgressWord.ASKS] === 1;
  }

  /** Unmaps the page and closes its descriptor. */
  close(): void {
    this.#release();
    if (this.fd >= 0) close(this.fd);
  }
}

/** The lane of a datapath thread, over a page that its process has mapped at `address`; one of its own for 0. */
export function laneAt(address: bigint, lane: number): ProgressLane {
  const buffer = address === 0n ? new ArrayBuffer(PROGRESS_PAGE_BYTES) : viewAt(address, PROGRESS_PAGE_BYTES);
  return new ProgressLane(laneWords(new Uint32Array(buffer), lane), lane, laneAddress(address, lane));
}

function laneAddress(page: bigint, lane: number): bigint {
  return page === 0n ? 0n : page + BigInt(4 * (PROGRESS_HEADER_WORDS + lane * PROGRESS_LANE_WORDS));
}

function laneWords(words: Uint32Array, lane: number): Uint32Array {
  const at = PROGRESS_HEADER_WORDS + lane * PROGRESS_LANE_WORDS;
  return words.subarray(at, at + PROGRESS_LANE_WORDS);
}

function callingThread(): number {
  try {
    return Number(readlinkSync('/proc/thread-self').split('/').at(-1));
  } catch {
    return 0;
  }
}

/** What the kernel says of one thread. */
export interface ThreadAccount {
  /** R, S, D, T and so on, as proc(5) has it. */
  readonly state: string;
  /** Processor time used so far, in milliseconds. */
  readonly cpuMs: number;
  /** Another thread of the process is running, waits for a processor, or for the machine (D). */
  readonly othersRun: boolean;
  /** Processor time that the other threads used so far, in milliseconds; 0 for a thread that runs itself. */
  readonly othersCpuMs: number;
  /** The kernel's function it waits in; empty when it does not wait, or that is not to be known. */
  readonly waitsIn: string;
}

const NANOSECONDS_PER_MS = 1_000_000;

/** Whether one thread waits for events, asked again and again. */
export class EventWait {
  readonly #fd: number;
  readonly #text = Buffer.alloc(WAIT_CHANNEL_BYTES_MAX);

  private constructor(fd: number) {
    this.#fd = fd;
  }

  /** Of thread `tid` of process `pid`; null when it is gone, or not ours to look into. */
  static open(pid: number, tid: number): EventWait | null {
    try {
      return new EventWait(openSync(`/proc/${pid}/task/${tid}/wchan`, 'r'));
    } catch {
      return null;
    }
  }

  /** It waits: nothing has come that it could do. False also when it is gone. */
  get waits(): boolean {
    try {
      return EVENT_WAIT.test(this.#text.toString('latin1', 0, readSync(this.#fd, this.#text, AT_START)));
    } catch {
      return false;
    }
  }

  close(): void {
    close(this.#fd);
  }
}

const WAIT_CHANNEL_BYTES_MAX = 64;
const AT_START = { position: 0 } as const;
/** Where epoll_wait(2) waits. */
const EVENT_WAIT = /epoll_wait|ep_poll/;

/** State and processor time of thread `tid` of process `pid`; null when it is gone. */
export function readThreadAccount(pid: number, tid: number): ThreadAccount | null {
  try {
    const tasks = `/proc/${pid}/task`;
    const own = `${tasks}/${tid}`;
    const running = { state: 'R', othersRun: false, othersCpuMs: 0, waitsIn: '' };
    const state = threadState(own);
    if (state === 'R') return { ...running, cpuMs: cpuMs(own) };
    const others = readdirSync(tasks).flatMap((name) => (Number(name) === tid ? [] : `${tasks}/${name}`));
    const othersRun = others.some((task) => GETS_ON.includes(threadState(task)));
    const othersCpuMs = others.reduce((sum, task) => sum + cpuMs(task), 0);
    const waitsIn = waitChannel(own);
    // What it waited for may have come while the others were looked at.
    if (threadState(own) === 'R') return { ...running, cpuMs: cpuMs(own) };
    return { state, cpuMs: cpuMs(own), othersRun, othersCpuMs, waitsIn };
  } catch {
    return null;
  }
}

/** States of a thread that is not stopped, and waits for nothing that another could owe it. */
const GETS_ON: readonly string[] = ['R', 'D'];

function cpuMs(task: string): number {
  return Number(readFileSync(`${task}/schedstat`, 'latin1').split(' ')[0]) / NANOSECONDS_PER_MS;
}

function waitChannel(task: string): string {
  try {
    const name = readFileSync(`${task}/wchan`, 'latin1');
    return name === '0' ? '' : name;
  } catch {
    return ''; // that is not everybody's to read
  }
}

function threadState(task: string): string {
  const stat = readFileSync(`${task}/stat`, 'latin1');
  return stat.charAt(stat.lastIndexOf(')') + 2);
}
