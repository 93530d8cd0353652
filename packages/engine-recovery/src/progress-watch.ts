/**
 * progress-watch.ts: tells a thread that hangs from one that is not let run.
 *
 * Theory
 *   The watcher looks every REST_MS, and every SAMPLE_MS while it is in doubt about somebody. A thread that took a turn
 *   since, or that sleeps for want of work, gets on. A main thread does not say that it is about to sleep; the kernel
 *   says that it waits for events. It takes a turn when it is asked to, and is asked while there is doubt: whoever has
 *   much to do answers between two pieces of it.
 *   A thread that took no turn is charged with the time it stood still *although it could have got on*:
 *     running     the processor time it used: a loop that never ends is charged, a thread that waits for a processor
 *                 on an overloaded machine is not, however long it waits;
 *     stopped     (SIGSTOP, a debugger) the whole time, and
 *     blocked     (in a system call, on a lock) likewise; but only a quarter of it while another thread of the process
 *                 is running or waits for a processor: it may be the one that is waited for. Nor more than the others
 *                 used of a processor meanwhile: V8 lets a thread wait for its helpers, which wait for a processor.
 *                 The same quarter for one in uninterruptible sleep: a disk or the memory of a loaded machine has it
 *                 wait.
 *   What is charged for one look never exceeds LOOK_MS_MAX: a watcher that was itself not let run, or a machine that
 *   was suspended, sees one long look, not a hang. A thread that is charged HANG_MS without a turn between hangs.
 *
 * Invariants
 *   I1  a turn, or sleep, clears the charge.
 *   I2  no single look makes a hang.
 *   I3  a hang is told once.
 *
 * Limits  a stopped thread is found within 200 ms, one that spins within 240 ms, when the watcher is punctual.
 */

/** Between two looks while somebody took no turn although it could have. */
export const SAMPLE_MS = 40;
/** Between two looks while everybody gets on, or waits. */
export const REST_MS = 60;
/** How often a main thread without work takes a turn all the same, where its supervisor does not ask. */
export const BEAT_MS = 30;
/** Charged time after which a thread hangs. */
export const HANG_MS = 140;
/** Most that one look may charge. */
export const LOOK_MS_MAX = 50;

/** What the kernel says of a thread. */
export interface ThreadView {
  /** As proc(5) has it. */
  readonly state: string;
  /** Processor time used so far. */
  readonly cpuMs: number;
  /** Another thread of the process is running, or waits for a processor or for the machine. */
  readonly othersRun: boolean;
  /** Processor time that the others used so far. */
  readonly othersCpuMs: number;
  /** The kernel's function it waits in; empty when nobody knows. */
  readonly waitsIn: string;
}

/** One thread at one look. */
export interface LaneView {
  readonly lane: number;
  readonly beat: number;
  readonly asleep: boolean;
  /** The kernel says that it waits for events; asked only of a thread that took no turn. */
  waits(): boolean;
  /** What the kernel says; asked only of one that took no turn and does not wait. Null: the thread is gone. */
  account(): ThreadView | null;
}

export interface Hang {
  readonly lane: number;
  readonly how: 'stopped' | 'spins' | 'blocked';
  readonly chargedMs: number;
  /** The kernel's function it waits in, where that is known. */
  readonly waitsIn: string;
}

interface LaneMemory {
  beat: number;
  chargedMs: number;
  /** At the last look; null when it was not asked then. */
  account: ThreadView | null;
  told: boolean;
}

export class ProgressWatch {
  readonly #lanes = new Map<number, LaneMemory>(); // at most PROGRESS_LANES_MAX
  #lookedMs: number | null = null;
  #inDoubt = false;

  /** At the last look somebody took no turn and did not wait either: it shall be asked, and looked at soon. */
  get inDoubt(): boolean {
    return this.#inDoubt;
  }

  /** One look at every lane in use at `nowMs`; the first lane found hanging, or null. */
  look(nowMs: number, lanes: readonly LaneView[]): Hang | null {
    const passedMs = this.#lookedMs === null ? 0 : Math.min(nowMs - this.#lookedMs, LOOK_MS_MAX);
    this.#lookedMs = nowMs;
    let found: Hang | null = null;
    this.#inDoubt = false;
    for (const view of lanes) found = this.#lookAt(view, passedMs) ?? found;
    for (const lane of this.#lanes.keys())
      if (!lanes.some((view) => view.lane === lane)) this.#lanes.delete(lane);
    return found;
  }

  /** Everything seen so far counts for nothing: the process did something long that was expected of it. */
  forget(): void {
    this.#lanes.clear();
  }

  #lookAt(view: LaneView, passedMs: number): Hang | null {
    const memory = this.#lanes.get(view.lane);
    if (memory === undefined || memory.beat !== view.beat) {
      this.#lanes.set(view.lane, { beat: view.beat, chargedMs: 0, account: null, told: false });
      return null;
    }
    const account = view.asleep || view.waits() ? null : view.account();
    if (account === null) {
      memory.chargedMs = 0;
      memory.account = null;
      return null;
    }
    this.#inDoubt = true;
    memory.chargedMs += chargeMs(account, memory.account ?? account, passedMs);
    memory.account = account;
    if (memory.chargedMs < HANG_MS || memory.told) return null;
    memory.told = true;
    const { state } = account;
    const how = STOPPED.includes(state) ? 'stopped' : state === RUNNING ? 'spins' : 'blocked';
    return { lane: view.lane, how, chargedMs: Math.round(memory.chargedMs), waitsIn: account.waitsIn };
  }
}

/** For how long of `passedMs`, at whose beginning it was `before`, a thread could have got on and did not. */
function chargeMs(now: ThreadView, before: ThreadView, passedMs: number): number {
  const { state, othersRun } = now;
  if (state === RUNNING) return Math.min(Math.max(0, now.cpuMs - before.cpuMs), passedMs);
  if (STOPPED.includes(state)) return passedMs;
  const partMs = passedMs / BLOCKED_BY_OTHERS;
  if (othersRun) return Math.min(Math.max(0, now.othersCpuMs - before.othersCpuMs), partMs);
  return state === UNINTERRUPTIBLE ? partMs : passedMs;
}

const RUNNING = 'R';

/** Stopped by a signal, or by a tracer. */
const STOPPED: readonly string[] = ['T', 't'];
/** In the kernel, for something that is expected to end by itself. */
const UNINTERRUPTIBLE = 'D';
/** By how much the time of a blocked thread counts less while something else than itself may be the reason. */
const BLOCKED_BY_OTHERS = 4;
