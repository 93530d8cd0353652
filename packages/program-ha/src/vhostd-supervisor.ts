/**
 * vhostd-supervisor.ts: starts vfe-vhostd, and again whenever it dies: for systems without a service manager.
 *
 * Theory
 *   Whoever listens at the lock's path is the vfe-vhostd of this root. One that is there already, because the
 *   supervisor before this one died, is not disturbed: its end is waited for. However one ends, the next is started, as
 *   a service manager would; a signal for one alone is how it is replaced. Only together with the keeper it is told to
 *   let go of everything (SIGINT).
 *
 * States    starting -> running (a child, or somebody else's) -> waiting -> starting;  any -> ended
 *
 * Invariants
 *   I1  at most one child at a time.
 *   I2  after stop() resolves, the vfe-vhostd that was watched has ended: it is killed when it takes longer than STOP_MS.
 *
 * Limits  STOP_MS. START_AGAIN_FIRST_MS, doubled to START_AGAIN_LAST_MS after each start that did not last LASTED_MS.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { constants } from 'node:os';
import { fileURLToPath } from 'node:url';
import type { Logger } from '@virtnet/host-ipc';
import {
  close,
  connect,
  type Poller,
  peerCredentials,
  pidfdOpen,
  pidfdSendSignal,
} from '@virtnet/host-linux';

const PROGRAM = fileURLToPath(new URL('../../program-vhostd/dist/main.cjs', import.meta.url));
const START_AGAIN_FIRST_MS = 20;
const START_AGAIN_LAST_MS = 1_000;
const LASTED_MS = 2_000;
/** To let go of machines and functions takes it some tenths of a second. */
const STOP_MS = 5_000;

export interface VhostdSupervisorOptions {
  /** Where vfe-vhostd listens to say that it is the one. */
  readonly lockPath: string;
  readonly options: readonly string[];
  readonly poller: Poller;
  readonly log: Logger;
}

export class VhostdSupervisor {
  readonly #options: VhostdSupervisorOptions;
  #child: ChildProcess | null = null;
  /** Of a vfe-vhostd that is not our child; -1 when there is none. */
  #pidfd = -1;
  #timer: NodeJS.Timeout | undefined;
  #delayMs = START_AGAIN_FIRST_MS;
  #stopping = false;
  readonly #ended = Promise.withResolvers<void>();

  constructor(options: VhostdSupervisorOptions) {
    this.#options = options;
  }

  start(): void {
    if (this.#stopping) return;
    const { lockPath, log, options } = this.#options;
    const holder = holderOf(lockPath);
    if (holder !== null && this.#await(holder)) return;
    const startedMs = performance.now();
    const notStarted = (error: unknown) => log.error({ error }, 'vfe-vhostd cannot be started');
    let child: ChildProcess;
    try {
      child = spawn(process.execPath, [...process.execArgv, PROGRAM, ...options], {
        stdio: ['ignore', 'ignore', 'inherit'],
      });
    } catch (error) {
      notStarted(error); // no memory to fork, for example; others come as an event
      this.#gone({});
      return;
    }
    this.#child = child;
    log.info({ childPid: child.pid ?? null }, 'vfe-vhostd started');
    child.once('error', notStarted);
    child.once('close', (code, signal) => {
      this.#child = null;
      if (performance.now() - startedMs >= LASTED_MS) this.#delayMs = START_AGAIN_FIRST_MS;
      this.#gone({ code, signal });
    });
  }

  /** Ends the vfe-vhostd that runs; resolves when it has ended. */
  async stop(): Promise<void> {
    this.#stopping = true;
    clearTimeout(this.#timer);
    if (!this.#signal('SIGINT')) return;
    const patience = setTimeout(() => {
      this.#options.log.error('vfe-vhostd does not end: killing');
      this.#signal('SIGKILL');
    }, STOP_MS);
    await this.#ended.promise;
    clearTimeout(patience);
  }

  /** False when there is none. */
  #signal(signal: 'SIGINT' | 'SIGKILL'): boolean {
    if (this.#child !== null) this.#child.kill(signal);
    else if (this.#pidfd >= 0) pidfdSendSignal(this.#pidfd, constants.signals[signal]);
    else return false;
    return true;
  }

  /** Waits for the end of a vfe-vhostd that is somebody else's; false when it is gone. */
  #await(pid: number): boolean {
    const { poller, log } = this.#options;
    const pidfd = pidfdOpen(pid);
    if (pidfd < 0) return false;
    const watch = poller.watch(pidfd, { readable: true }, () => {
      if (typeof watch !== 'number') watch.close();
      close(pidfd);
      this.#pidfd = -1;
      this.#gone({ pid });
    });
    if (typeof watch === 'number') {
      close(pidfd);
      return false;
    }
    this.#pidfd = pidfd;
    log.info({ pid }, 'vfe-vhostd runs already');
    return true;
  }

  #gone(facts: object): void {
    const { log } = this.#options;
    if (this.#stopping) {
      this.#ended.resolve();
      return;
    }
    log.warn({ ...facts, againMs: this.#delayMs }, 'vfe-vhostd ended');
    this.#timer = setTimeout(() => this.start(), this.#delayMs);
    this.#delayMs = Math.min(this.#delayMs * 2, START_AGAIN_LAST_MS);
  }
}

/** The process that listens at `path`, null when nobody does. */
function holderOf(path: string): number | null {
  const fd = connect(path, 'stream');
  if (fd < 0) return null;
  const peer = peerCredentials(fd);
  close(fd);
  return typeof peer === 'number' ? null : peer.pid;
}
