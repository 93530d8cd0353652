/**
 * child.ts: one supervised process, started by us or taken over from a former controller.
 *
 * Theory
 *   What happens to it is looked up in engine-recovery's supervision table; this file carries the cells' actions out.
 *   Death is what the pidfd says: it works for processes that are not our children, and it comes after the last
 *   thread is gone.
 *
 * States   see supervision.ts.
 *
 * Invariants
 *   I1  a signal is sent through the pidfd, so never to a stranger with a reused pid.
 *   I2  after `gone` no timer, descriptor or connection of this object is left.
 *
 * Limits  deadlines in limits.ts.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import {
  type ChildAction,
  type ChildEvent,
  type ChildState,
  type DeathCause,
  deathCause,
  deathLane,
  type ExitStatus,
  type Sentence,
  supervisionTable,
} from '@virtnet/engine-recovery';
import { type EmuStatus, type HaStatus, type Logger, RpcClient } from '@virtnet/host-ipc';
import {
  close,
  Nice,
  type Poller,
  ProgressPage,
  pidfdOpen,
  pidfdSendSignal,
  processorWaitMs,
  reapChild,
  setProcessNice,
  type Watch,
} from '@virtnet/host-linux';
import { LastWord } from '@virtnet/wire';
import type { Build } from './builds.js';
import {
  BEHIND_OTHERS_MS,
  EXIT_STATUS_MS,
  HEALTH_DEADLINE_MS,
  HEALTH_EXCUSED_MAX,
  HEALTH_INTERVAL_MS,
  HEALTH_MISSES,
  READY_DEADLINE_MS,
  READY_EXTENSION_MS,
  READY_POLL_MS,
} from './limits.js';
import type { ProgramKind } from './programs.js';

export interface ChildSpec {
  readonly kind: ProgramKind;
  /** Instance of an emulator; 0 for the keeper. */
  readonly instance: number;
  /** Where it answers RPC. */
  readonly ipcPath: string;
  /** What it is started from. */
  readonly build: Build;
  /** Node flags, main module and arguments. */
  readonly command: readonly string[];
  /** Descriptors it inherits, as INHERITED_FD and the numbers behind it. They stay ours. */
  readonly inherited?: readonly number[];
  readonly root: string;
  /** Somebody else does its work: loading and warming up must not slow them. */
  readonly prepares: boolean;
}

export interface ChildHooks {
  /** After every move; `gone` is the last. */
  moved(child: Child, from: ChildState): void;
  /** An unasked death. */
  died(child: Child): void;
}

/** How it is asked to end. */
export interface StopRequest {
  readonly removeDevices: boolean;
  /** When it has not ended by then it is killed, in milliseconds. */
  readonly deadlineMs: number;
}

const SIGKILL = 9;
/** Number under which every child finds its progress page. */
const PROGRESS_FD = 3;
/** The first of those that ChildSpec.inherited names. */
export const INHERITED_FD = PROGRESS_FD + 1;

/**
 * Of the C library, with what the operator set: above 2 KiB it would copy with an instruction that takes ten times as long
 * where source and target are not aligned alike, as a frame and its buffer never are.
 */
function tunables(): string {
  const set = process.env.GLIBC_TUNABLES;
  return `${set === undefined || set === '' ? '' : `${set}:`}glibc.cpu.x86_rep_movsb_threshold=0x40000000`;
}

/** In the environment of every child, for the controller that adopts it. */
const BUILD_VARIABLE = 'VIRTNET_BUILD';

function buildRootOf(pid: number): string | null {
  try {
    const environment = readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0');
    const said = environment.find((variable) => variable.startsWith(`${BUILD_VARIABLE}=`));
    return said?.slice(BUILD_VARIABLE.length + 1) ?? null;
  } catch {
    return null; // gone
  }
}

export class Child {
  readonly spec: ChildSpec;
  #client: RpcClient | null = null;
  readonly #poller: Poller;
  readonly #log: Logger;
  readonly #hooks: ChildHooks;
  #state: ChildState = 'new';
  #pid = 0;
  #pidfd = -1;
  /** Of the build it was started from; null when its controller did not say. */
  #buildRoot: string | null = null;
  #watch: Watch | null = null;
  #process: ChildProcess | null = null;
  #behindTimer: NodeJS.Timeout | undefined;
  #readyTimer: NodeJS.Timeout | undefined;
  #stopTimer: NodeJS.Timeout | undefined;
  #pollTimer: NodeJS.Timeout | undefined;
  #exitTimer: NodeJS.Timeout | undefined;
  #stopRequest: StopRequest = { removeDevices: false, deadlineMs: 0 };
  /** Questions in a row that it left unanswered. */
  #misses = 0;
  /** Questions since its last answer that it need not have answered. */
  #excused = 0;
  /** How long its threads had waited for a processor at the last of these, in milliseconds. */
  #missedAtWaitMs = 0;
  /** It was asked for a turn and has not answered yet. */
  #asked = false;
  #progress: ProgressPage | null = null;
  #lastWord: number = LastWord.NOTHING;
  #lastLane: number | null = null;
  #exit: ExitStatus = { code: null, signal: null };
  /** Why we killed it. */
  #sentence: Sentence | null = null;
  /** Lane of the thread that stood still. */
  #hungLane: number | null = null;
  /** Since when it is known to be, or to have been, the active emulator, in milliseconds; null when it never was. */
  servesSince: number | null = null;
  /** What it last said about itself. */
  lastStatus: EmuStatus | HaStatus | null = null;

  constructor(spec: ChildSpec, poller: Poller, log: Logger, hooks: ChildHooks) {
    this.spec = spec;
    this.#poller = poller;
    this.#hooks = hooks;
    this.#log = log.child({ child: spec.kind, instance: spec.instance });
  }

  /** Made when it is needed first: what it needs is loaded while the process starts. */
  get client(): RpcClient {
    this.#client ??= new RpcClient(this.spec.ipcPath);
    return this.#client;
  }
  get hasServed(): boolean {
    return this.servesSince !== null;
  }
  get state(): ChildState {
    return this.#state;
  }
  /** Of a keeper: it said last that it has been told everything, or waited for that in vain. */
  get hasSettled(): boolean {
    return this.lastStatus !== null && 'settled' in this.lastStatus && this.lastStatus.settled;
  }

  get pid(): number {
    return this.#pid;
  }
  /** Where its threads say that they get on; null before it lives, and for one that was started by hand. */
  get progress(): ProgressPage | null {
    return this.#progress;
  }
  /** Why it died, as far as we know; meaningful once it is `gone`. */
  get deathCause(): DeathCause {
    return deathCause({ sentence: this.#sentence, ...this.#exit, lastWord: this.#lastWord });
  }
  /** Progress lane of the thread it died of; null: nobody knows. Meaningful once it is `gone`. */
  get deathLane(): number | null {
    return deathLane(this.deathCause, this.#hungLane, this.#lastLane);
  }

  /** Whether it was started from `build`; where it does not say from which, whether it is of that version. */
  isOf(build: Build): boolean {
    return this.#buildRoot === null
      ? this.lastStatus?.version === build.version
      : this.#buildRoot === build.root;
  }

  spawn(): void {
    this.#buildRoot = this.spec.build.root;
    this.#event('spawn');
  }

  /** Takes the living process `pid` over. */
  adopt(pid: number, as: 'starting' | 'ready' | 'serving'): void {
    this.#pid = pid;
    this.#buildRoot = buildRootOf(pid);
    this.#progress = ProgressPage.ofProcess(pid, PROGRESS_FD);
    this.#event(`adopt-${as}`);
  }

  /** It told us by the answer to emu.promote that it serves. */
  serving(): void {
    this.#event('serving');
  }

  /**
   * It does not do what it should: kill it. `sentence` null: it is dying already, of something else; `lane`: of the
   * thread that stands still.
   */
  fence(reason: string, sentence: Sentence | null = 'silent', lane: number | null = null): void {
    if ('next' in supervisionTable[this.#state].silent) {
      this.#log.error({ childPid: this.#pid, reason }, 'killing');
      this.#sentence = sentence;
      this.#hungLane = lane;
    }
    this.#event('silent');
  }

  /** Nobody serves any more: what it prepares for is now. */
  hurry(): void {
    this.#startAt(Nice.PREFERRED);
  }

  stop(request: StopRequest): void {
    this.#stopRequest = request;
    this.#event('stop');
  }

  #event(event: ChildEvent): void {
    const from = this.#state;
    const cell = supervisionTable[from][event];
    if ('prohibited' in cell) throw new RangeError(`supervision: ${event} in ${from}: ${cell.prohibited}`);
    if ('ignored' in cell) return;
    this.#state = cell.next;
    if (cell.next === 'serving') this.servesSince ??= performance.now();
    for (const action of cell.actions) this.#do(action);
    if (from !== cell.next) this.#log.info({ childPid: this.#pid, from, to: cell.next, event }, 'moved');
    if (from !== cell.next) this.#hooks.moved(this, from);
  }

  #do(action: ChildAction): void {
    switch (action) {
      case 'spawn':
        this.#spawn();
        return;
      case 'watch':
        this.#watchDeath();
        this.#poll(0);
        return;
      case 'arm-ready-deadline':
        this.#armReadyDeadline(READY_DEADLINE_MS);
        return;
      case 'disarm-ready-deadline':
        clearTimeout(this.#readyTimer);
        return;
      case 'kill':
        if (this.#pidfd >= 0) pidfdSendSignal(this.#pidfd, SIGKILL);
        else this.#process?.kill('SIGKILL');
        return;
      case 'ask-to-stop':
        void this.#askToStop();
        return;
      case 'arm-stop-deadline':
        this.#stopTimer = setTimeout(() => this.#event('stop-deadline'), this.#stopRequest.deadlineMs);
        return;
      case 'tally':
        this.#lastWord = this.#progress?.lastWord ?? LastWord.NOTHING;
        this.#lastLane = this.#progress?.lastLane ?? null;
        this.#hooks.died(this);
        return;
      case 'clean-up':
        this.#cleanUp();
    }
  }

  /** Time that its threads waited for a processor is not held against it: on a machine that busy, nobody is faster. */
  #armReadyDeadline(afterMs: number, excusedMs = 0): void {
    this.#readyTimer = setTimeout(() => {
      const waitedMs = processorWaitMs(this.#pid);
      const moreMs = waitedMs - excusedMs;
      if (moreMs < READY_EXTENSION_MS) void this.#fenceUnlessReady();
      else this.#armReadyDeadline(Math.min(moreMs, READY_DEADLINE_MS), waitedMs);
    }, afterMs);
  }

  /** When we were stopped ourselves, it may have been ready, or the active one, for long: it is asked once more. */
  async #fenceUnlessReady(): Promise<void> {
    await this.look();
    if (this.#state === 'starting') this.fence(`not ready within ${READY_DEADLINE_MS} ms`);
  }

  #startAt(nice: number): void {
    clearTimeout(this.#behindTimer);
    if (this.#state === 'starting' && this.#pid > 0) setProcessNice(nice, this.#pid);
  }

  #spawn(): void {
    const progress = ProgressPage.create();
    if (typeof progress === 'number') this.#log.error({ errno: -progress }, 'no progress page');
    else this.#progress = progress;
    const page = this.#progress === null ? [] : ['--progress-fd', `${PROGRESS_FD}`];
    const notStarted = (error: unknown) => {
      this.#log.error({ error }, 'cannot be started');
      this.#event('exit');
    };
    let child: ChildProcess;
    try {
      child = spawn(this.spec.build.node, [...this.spec.command, ...page], {
        // Its standard output goes to our standard error: ours carries the one word `ready`.
        stdio: ['ignore', 2, 2, this.#progress?.fd ?? 'ignore', ...(this.spec.inherited ?? [])],
        env: {
          ...process.env,
          GLIBC_TUNABLES: tunables(),
          VIRTNET_ROOT: this.spec.root,
          [BUILD_VARIABLE]: this.spec.build.root,
        },
      });
    } catch (error) {
      setImmediate(() => notStarted(error)); // no memory to fork, for example; others come as an event
      return;
    }
    this.#process = child;
    this.#pid = child.pid ?? 0;
    if (this.spec.prepares) {
      setProcessNice(Nice.LATER, this.#pid);
      this.#behindTimer = setTimeout(() => this.#startAt(Nice.ORDINARY), BEHIND_OTHERS_MS);
    }
    child.on('exit', (code, signal) => {
      this.#log.info({ childPid: this.#pid, code, signal }, 'exited');
      this.#exit = { code, signal };
      this.#event('exit'); // the pidfd says the same, where there is one
    });
    child.on('error', (error) => {
      if (child.pid === undefined) notStarted(error);
      else this.#log.error({ error }, 'cannot be signalled');
    });
  }

  #watchDeath(): void {
    if (this.#pid === 0) return; // not even started, which is said next
    this.#pidfd = pidfdOpen(this.#pid);
    const watch =
      this.#pidfd < 0 ? this.#pidfd : this.#poller.watch(this.#pidfd, { readable: true }, () => this.#dead());
    if (typeof watch === 'object') this.#watch = watch;
    else if (this.#process === null)
      setImmediate(() => this.#event('exit')); // adopted, and gone meanwhile
    else this.#log.error({ errno: -watch }, 'no pidfd; waiting for the exit instead');
  }

  /**
   * The kernel says that it is dead. Of our own child we are told its exit status as well, a moment before or after;
   * however late the timer is, there is one more look at what has come before it is given up (setImmediate).
   */
  #dead(): void {
    this.#watch?.close();
    if (this.#process === null) {
      // Ours from before an exec, perhaps; Node reaps those that it started itself.
      this.#exit = reapChild(this.#pid) ?? this.#exit;
      this.#event('exit');
    } else {
      this.#exitTimer ??= setTimeout(() => setImmediate(() => this.#event('exit')), EXIT_STATUS_MS);
    }
  }

  /** Asks for its state in `delayMs`, and again for as long as it lives. */
  #poll(delayMs: number): void {
    this.#pollTimer = setTimeout(() => void this.#ask(), delayMs);
  }

  async #ask(): Promise<void> {
    const starting = this.#state === 'starting';
    let silent = false;
    const options = { deadlineMs: starting ? READY_DEADLINE_MS : HEALTH_DEADLINE_MS };
    try {
      const status = await this.#status(options);
      if (this.#state === 'gone') return;
      this.#misses = 0;
      this.#excused = 0;
      this.#heard(status);
    } catch (error) {
      if (this.#state === 'gone' || this.#state === 'stopping') return;
      // Its death ends the connection first; the pidfd follows. Silence alone is a hang.
      silent = !starting && isTimeout(error);
      if (silent) this.#missed();
      if (this.#misses >= HEALTH_MISSES) this.fence(`no answer to ${HEALTH_MISSES} questions`);
    }
    if (this.#pollTimer === undefined) return;
    if (this.#state === 'starting') this.#poll(READY_POLL_MS);
    else this.#poll(silent ? 0 : HEALTH_INTERVAL_MS);
  }

  /** A question that its threads waited for a processor meanwhile is not held against it. */
  #missed(): void {
    const waitedMs = processorWaitMs(this.#pid);
    const waited = waitedMs - this.#missedAtWaitMs >= READY_EXTENSION_MS;
    if (this.#misses > 0 && waited && this.#excused < HEALTH_EXCUSED_MAX) this.#excused += 1;
    else this.#misses += 1;
    this.#missedAtWaitMs = waitedMs;
  }

  /** It answers, or has answered: before, nobody can have told it anything. */
  get answers(): boolean {
    return existsSync(this.spec.ipcPath);
  }

  /** It said last that it was told everything. */
  get informed(): boolean {
    const status = this.lastStatus;
    return status !== null && 'informed' in status && status.informed === true;
  }

  /** Asks it for its state now; resolves when it has moved accordingly, or does not answer in time. */
  async look(): Promise<void> {
    try {
      this.#heard(await this.#status({ deadlineMs: HEALTH_DEADLINE_MS }));
    } catch {
      // it is no wiser than before
    }
  }

  #heard(status: EmuStatus | HaStatus): void {
    if (this.#state === 'gone') return;
    this.lastStatus = status;
    if (status.ready) this.#event('role' in status && status.role === 'active' ? 'serving' : 'ready');
  }

  /** Its main thread takes a turn to answer, if it can. */
  askForTurn(): void {
    if (this.#asked) return;
    this.#asked = true;
    const answered = (): void => {
      this.#asked = false;
    };
    this.#status({ deadlineMs: HEALTH_DEADLINE_MS }).then(answered, answered);
  }

  #status(options: { deadlineMs: number }): Promise<EmuStatus | HaStatus> {
    return this.spec.kind === 'ha'
      ? this.client.call('ha.status', {}, options)
      : this.client.call('emu.status', {}, options);
  }

  async #askToStop(): Promise<void> {
    const { removeDevices, deadlineMs } = this.#stopRequest;
    try {
      if (this.spec.kind === 'ha') await this.client.call('ha.shutdown', {}, { deadlineMs });
      else await this.client.call('emu.shutdown', { removeDevices }, { deadlineMs });
    } catch (error) {
      if (this.#state !== 'gone') this.#log.warn({ error }, 'did not take the request to end');
    }
  }

  #cleanUp(): void {
    clearTimeout(this.#behindTimer);
    clearTimeout(this.#readyTimer);
    clearTimeout(this.#stopTimer);
    clearTimeout(this.#pollTimer);
    clearTimeout(this.#exitTimer);
    this.#pollTimer = undefined;
    this.#watch?.close();
    this.#progress?.close();
    this.#progress = null;
    if (this.#pidfd >= 0) close(this.#pidfd);
    this.#pidfd = -1;
    this.#client?.close();
    rmSync(this.spec.ipcPath, { force: true });
  }
}

const ETIMEDOUT = -110;

function isTimeout(error: unknown): boolean {
  return error instanceof Error && 'errno' in error && error.errno === ETIMEDOUT;
}
