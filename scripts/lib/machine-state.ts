/**
 * machine-state.ts: how the machine is while something is measured on two of its processors.
 *
 * Theory
 *   A word that goes to and fro between two threads, each on its processor, tells how far apart the processors are. The
 *   scheduler's account of a thread tells whether it had its processor all the time. The two threads go before ordinary
 *   ones (SCHED_FIFO), so that they are not put aside, and can measure beside threads that never sleep.
 *
 * Limits  A measurement spins on both processors for some 0.2 ms, or 0.6 where they are far from each other. Where
 *   precedence is not permitted, it takes long beside threads that never sleep.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { constants, setPriority } from 'node:os';
import { Worker } from 'node:worker_threads';

export const PingPongWord = { BALL: 0, TURN: 1, DONE: 2, PICOSECONDS: 3, COUNT: 4 } as const;

/** What a thread is started with. */
export interface PingPongStart {
  readonly words: Int32Array<SharedArrayBuffer>;
  readonly processor: number;
  readonly first: boolean;
}

export class PingPong {
  readonly #words = new Int32Array(new SharedArrayBuffer(PingPongWord.COUNT * 4));
  readonly #threads: readonly Worker[];

  constructor(processors: readonly [number, number]) {
    this.#threads = processors.map((processor, i) => {
      const workerData: PingPongStart = { words: this.#words, processor, first: i === 0 };
      return new Worker(new URL('./ping-pong-thread.ts', import.meta.url), { workerData });
    });
  }

  /** Nanoseconds one way. */
  async measure(): Promise<number> {
    const words = this.#words;
    const before = Atomics.load(words, PingPongWord.DONE);
    Atomics.store(words, PingPongWord.TURN, before + 1);
    Atomics.notify(words, PingPongWord.TURN);
    const done = Atomics.waitAsync(words, PingPongWord.DONE, before);
    await done.value;
    return Atomics.load(words, PingPongWord.PICOSECONDS) / 1_000;
  }

  async end(): Promise<void> {
    Atomics.store(this.#words, PingPongWord.TURN, -1);
    Atomics.notify(this.#words, PingPongWord.TURN);
    await Promise.all(this.#threads.map((thread) => thread.terminate()));
  }
}

/** The thread of a process that has this name. */
export function threadNamed(pid: number, name: string): number {
  for (const tid of readdirSync(`/proc/${pid}/task`))
    if (readFileSync(`/proc/${pid}/task/${tid}/comm`, 'utf8').trim() === name) return Number(tid);
  throw new Error(`process ${pid} has no thread ${name}`);
}

/**
 * Lets a thread go before all ordinary ones, for it does little and not often, and somebody waits for it. What it starts is
 * ordinary again. False when that is not permitted.
 */
export function goFirst(thread: number): boolean {
  return (
    spawnSync('chrt', ['--fifo', '--reset-on-fork', '--pid', '1', `${thread}`], { stdio: 'ignore' })
      .status === 0
  );
}

export interface ThreadOf {
  readonly pid: number;
  readonly thread: number;
}

/**
 * Gives a thread a nice value, and its session precedence over others, for sessions share the processors first
 * (sched_autogroup) and their threads what the session gets. False when that is not permitted.
 */
export function setPrecedence({ pid, thread }: ThreadOf, nice: number): boolean {
  const session = `/proc/${pid}/autogroup`;
  try {
    setPriority(thread, nice);
    if (existsSync(session)) {
      keepOwnSession();
      writeFileSync(session, `${constants.priority.PRIORITY_HIGHEST}`);
    }
    return true;
  } catch (error) {
    if (error instanceof Error && /EACCES|EPERM|EAGAIN/.test(error.message)) return false;
    throw error;
  }
}

const SESSIONS_SHARE = '/proc/sys/kernel/sched_autogroup_enabled';

/**
 * Until this process ends, processes share the processors whatever session they are of, where that may be changed. With
 * Linux 6.18 those of other sessions were seen to wait for up to 30 s beside a thread that never sleeps, as DPDK's do not.
 */
export function ignoreSessions(): void {
  try {
    if (readFileSync(SESSIONS_SHARE, 'latin1').trim() !== '1') return;
    writeFileSync(SESSIONS_SHARE, '0');
  } catch {
    return; // no such kernel, or not permitted
  }
  process.once('exit', () => writeFileSync(SESSIONS_SHARE, '1'));
}

const OWN_SESSION = '/proc/self/autogroup';
let kept = false;

/** At our end our session, which is the caller's shell's too, gets back what it has now. */
function keepOwnSession(): void {
  if (kept) return;
  kept = true;
  const nice = readFileSync(OWN_SESSION, 'latin1').trim().split(' ').at(-1)!;
  process.once('exit', () => writeFileSync(OWN_SESSION, nice));
}

/** Nanoseconds a thread has run, and waited for a processor. */
export function accountOf({ pid, thread }: ThreadOf): { readonly ranNs: number; readonly waitedNs: number } {
  const [ran, waited] = readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ');
  return { ranNs: Number(ran), waitedNs: Number(waited) };
}
