/**
 * supervisor.ts: keeps the service's processes as service-plan.ts wants them.
 *
 * Theory
 *   Every event of a child leads to one question: what does the plan say now? The answer's steps are carried out, and
 *   what they cause is the next event. There is no other place that starts, promotes or ends a process.
 *   After a death the standby promotes itself; `emu.promote` is sent as well, which does nothing then, and does
 *   everything when the keeper could not tell the standby.
 *
 * Invariants
 *   I1  pid files say what lives, as far as they can be written: emu.pid is the active one, or the one that will be.
 *   I2  one promotion is under way at a time.
 *   I3  the service is never given up: restarts slow down, they do not end.
 *
 * Limits  the crash-loop rule of supervision.ts; limits.ts.
 */
import { readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import {
  isInformed,
  planService,
  restartDelayMs,
  type ServiceView,
  type Step,
  whoServes,
} from '@virtnet/engine-recovery';
import type { DescriptorStore, Logger, LogLevelName, VirtnetPaths } from '@virtnet/host-ipc';
import type { Poller } from '@virtnet/host-linux';
import type { Build } from './builds.js';
import { Child, type ChildSpec, INHERITED_FD, type StopRequest } from './child.js';
import { DeathNotices } from './death-notices.js';
import {
  COMMAND_DEADLINE_MS,
  READY_POLL_MS,
  STANDBY_PATIENCE_MS,
  STOP_ACTIVE_MS,
  STOP_KEEPER_MS,
  STOP_STANDBY_MS,
} from './limits.js';
import { PidFiles } from './pid-files.js';
import { nodeFlags, type ProgramKind } from './programs.js';
import { watchProgress } from './progress-watcher.js';
import { findSurvivors } from './survivors.js';
import { Waiters } from './waiters.js';

export interface SupervisorOptions {
  readonly paths: VirtnetPaths;
  readonly poller: Poller;
  readonly log: Logger;
  /** The build this controller runs from. */
  readonly running: Build;
  /** What the service manager keeps for us; null without one. */
  readonly store: DescriptorStore | null;
  /** Nobody of ours knows the devices any more, but the manager does: it has to start us anew. */
  readonly onDevicesLost: () => void;
  /** Called before anything is started; `adopting` when processes of a former controller live on. */
  readonly configure?: (adopting: boolean) => Promise<void>;
}

/** A device on its way from one emulator to another. */
export interface MovingDevice {
  readonly vuid: string;
  readonly pf: number;
  readonly vf: number | null;
}

export class Supervisor {
  readonly #paths: VirtnetPaths;
  readonly #poller: Poller;
  readonly #log: Logger;
  readonly #store: DescriptorStore | null;
  readonly #onDevicesLost: () => void;
  /** What the next process of a kind is started from. */
  readonly #builds: Record<ProgramKind, Build>;
  readonly #pidFiles: PidFiles;
  readonly #configure: (adopting: boolean) => Promise<void>;
  readonly #deathsMs: Record<ProgramKind, number[]> = { ha: [], emu: [] };
  #keeper: Child | null = null;
  readonly #emulators = new Set<Child>(); // two, and for moments their predecessors
  /** Destinations of a handover (live-update.ts); the plan leaves them alone. */
  readonly #reserves = new Set<Child>();
  /** Devices are divided between the active emulator and this one. */
  #divided: Child | null = null;
  /** A standby takes the place of another. */
  #exchanging = false;
  /** The device that is between two processes this instant. */
  moving: MovingDevice | null = null;
  #nextInstance = 1;
  #everServed = false;
  #finding: Promise<unknown> = Promise.resolve();
  #stopping = false;
  #promoting = false;
  #planned = false;
  #restartTimer: NodeJS.Timeout | undefined;
  readonly #waiters = new Waiters();
  #logLevel: LogLevelName = 'info';
  #stopWatching: () => void = () => {};
  #standbyFailed = false;
  readonly #notices: DeathNotices;
  /** What the service manager kept is put on a shelf, and whoever is ready knows nothing; then it waits to be served. */
  #restoring: 'to the shelf' | 'to be served' | null = null;
  /** Those who may have the devices are asked. */
  #looking = false;
  readonly counters = { takeovers: 0, deaths: 0 };

  constructor(options: SupervisorOptions) {
    this.#paths = options.paths;
    this.#poller = options.poller;
    this.#log = options.log;
    this.#store = options.store;
    this.#notices = new DeathNotices(options.log);
    this.#onDevicesLost = options.onDevicesLost;
    this.#builds = { ha: options.running, emu: options.running };
    this.#pidFiles = new PidFiles(options.paths, options.log);
    this.#configure = options.configure ?? (async () => {});
  }

  /** Takes over what a former controller left, starts what is missing, and resolves when devices are served. */
  async start(): Promise<void> {
    this.#pidFiles.set('controller', process.pid);
    this.#stopWatching = watchProgress(() => this.#living(), this.#log);
    const { mains } = this.#builds.emu;
    const finding = findSurvivors(this.#paths, this.#pidFiles, mains, this.#poller, this.#log);
    const configured = finding.then(async (survivors) => {
      await this.#configure(survivors.length > 0);
      return survivors;
    });
    this.#finding = configured;
    const survivors = await configured;
    for (const { kind, instance, pid, as, reserve } of survivors) {
      this.#log.info({ kind, instance, childPid: pid, as, reserve }, 'adopted');
      const child = this.#make(kind, instance, this.#builds[kind]);
      this.#nextInstance = Math.max(this.#nextInstance, instance + 1);
      if (reserve) this.#reserves.add(child);
      child.adopt(pid, as);
      if (reserve) child.fence('a former controller died over a live update');
    }
    const restoring = this.#beginRestoring();
    if (restoring && this.#store?.partial === true) {
      this.#onDevicesLost(); // only a new start is handed what the manager keeps
      return new Promise(() => {});
    }
    this.#plan();
    if (restoring) await this.#restore();
    const startedMs = performance.now();
    await this.#waiters.until(() => {
      if (this.active === null) return false;
      const patience = performance.now() - startedMs > STANDBY_PATIENCE_MS;
      return this.standby !== null || this.#standbyFailed || patience;
    });
  }

  /** Whether the devices have to come out of the manager's store: it has some, and nobody who lives knows them. */
  #beginRestoring(): boolean {
    const known = this.#keeper !== null || [...this.#emulators].some(({ state }) => state !== 'starting');
    if (!known && this.#store?.holds === true) this.#restoring = 'to the shelf';
    else this.#store?.discard();
    return this.#restoring !== null;
  }

  async #restore(): Promise<void> {
    const startedMs = performance.now();
    const entries = await this.#store?.restore(this.#paths.haSocket, this.#poller);
    const restoreMs = Math.round(performance.now() - startedMs);
    if (entries === null || !(await this.#hasRead(this.#keeper))) {
      this.#onDevicesLost(); // the manager has everything still
      return;
    }
    this.#log.warn({ entries, restoreMs }, 'restored what the service manager kept');
    this.#restoring = 'to be served';
    this.#plan();
    await this.#waiters.until(() => this.active !== null || this.#stopping);
    this.#restoring = null;
    this.#plan();
  }

  /** Whether the keeper comes to have read all that it was sent; it does not when it dies over that. */
  async #hasRead(keeper: Child | null): Promise<boolean> {
    while (keeper !== null && this.#keeper === keeper && !this.#stopping) {
      await keeper.look();
      if (keeper.hasSettled) return true;
      await new Promise((resolve) => setTimeout(resolve, READY_POLL_MS));
    }
    return this.#stopping;
  }

  /** The active emulator, or null while there is none. */
  get active(): Child | null {
    return whoServes(this.#ordinary());
  }

  /** Every process that was started and is not gone. */
  get children(): readonly Child[] {
    return this.#living();
  }

  get keeper(): Child | null {
    return this.#keeper;
  }

  get stopping(): boolean {
    return this.#stopping;
  }

  /** A standby that is warm. */
  get standby(): Child | null {
    for (const child of this.#ordinary()) if (child.state === 'ready') return child;
    return null;
  }

  /** Starts an emulator that the plan leaves alone. */
  startReserve(build: Build): Child {
    const child = this.#make('emu', this.#nextInstance++, build, ['--reserve']);
    this.#reserves.add(child);
    child.spawn();
    return child;
  }

  /** The active emulator begins to hand its devices to `to`; commands wait until they are united. */
  divide(to: Child): void {
    this.#divided = to;
  }

  /** Everything is with `to` now and `from` may end; nulls when a handover has fallen and somebody took over. */
  unite(from: Child | null, to: Child | null): void {
    this.#divided = null;
    if (to !== null) {
      this.#reserves.delete(to);
      from?.stop({ removeDevices: false, deadlineMs: STOP_STANDBY_MS });
      to.serving();
    }
    this.#writePidFiles();
    this.#waiters.wake();
    this.#planSoon();
  }

  /** Replaces the state keeper by one of `build`; returns the former one. */
  replaceKeeper(build: Build): Child | null {
    this.#builds.ha = build;
    const former = this.#keeper;
    former?.stop({ removeDevices: false, deadlineMs: STOP_KEEPER_MS });
    return former;
  }

  /** Emulators are started from `build` from now on. */
  useBuild(build: Build): void {
    this.#builds.emu = build;
  }

  /** Makes `reserve`, which is ready, the one standby. */
  async exchangeStandby(reserve: Child, build: Build): Promise<void> {
    this.#exchanging = true;
    try {
      this.#builds.emu = build;
      const others = [...this.#ordinary()].filter(({ state }) => state !== 'serving');
      await this.#end(others, { removeDevices: false, deadlineMs: STOP_STANDBY_MS });
      await reserve.client.call('emu.stand', {});
    } catch (error) {
      this.#log.error({ error }, 'the new standby does not stand by: another one is started');
      reserve.fence('it does not stand by');
    } finally {
      this.#reserves.delete(reserve);
      this.#exchanging = false;
      this.#writePidFiles();
      this.#planSoon();
    }
  }

  /** The active emulator as soon as there is one; null when there is none for `deadlineMs`. */
  async waitForActive(deadlineMs = COMMAND_DEADLINE_MS): Promise<Child | null> {
    const served = () => (this.active !== null && this.#divided === null) || this.#stopping;
    await this.#waiters.until(served, deadlineMs);
    return this.#divided === null ? this.active : null;
  }

  /** Resolves when `child` is no longer the active emulator, everything ends, or after `deadlineMs`. */
  waitUntilNotActive(child: Child, deadlineMs: number): Promise<void> {
    return this.#waiters.until(() => this.active !== child || this.#stopping, deadlineMs);
  }

  /** Sets the level of every process, now and when it is started later. */
  setLogLevel(level: LogLevelName): void {
    this.#logLevel = level;
    for (const child of this.#living()) this.#tellLogLevel(child);
  }

  /**
   * Ends everything: the standby first, so that it does not take over; then the active one, with its devices unless a
   * service manager keeps them; then the keeper. Who does not end in its time is killed. Resolves when all are dead and their files are gone.
   */
  async stop(): Promise<void> {
    const removeDevices = this.#store === null; // else the manager decides: it keeps them, or closes them
    this.#stopping = true;
    this.#stopWatching();
    clearTimeout(this.#restartTimer);
    this.#waiters.wake();
    await this.#finding;
    await this.#waiters.until(() => !this.#promoting); // who is active must be known before anybody is asked to end
    const standbys = [...this.#emulators].filter((child) => child.state !== 'serving');
    await this.#end(standbys, { removeDevices: false, deadlineMs: STOP_STANDBY_MS });
    await this.#end([...this.#emulators], { removeDevices, deadlineMs: STOP_ACTIVE_MS });
    const keepers = this.#keeper === null ? [] : [this.#keeper];
    await this.#end(keepers, { removeDevices: false, deadlineMs: STOP_KEEPER_MS });
    for (const name of ['emu', 'emu-standby', 'emu-reserve', 'ha', 'controller'] as const)
      this.#pidFiles.set(name, null);
    // Whoever was killed could not remove its own; nobody is left who serves them.
    for (const path of [this.#paths.haSocket, this.#paths.config]) rmSync(path, { force: true });
    if (!removeDevices) return;
    for (const name of readdirSync(this.#paths.pci)) rmSync(join(this.#paths.pci, name), { force: true });
  }

  /** Ends whatever lives at once, since nobody of them knows the devices. Resolves when all are dead. */
  async abandon(): Promise<void> {
    this.#stopping = true;
    this.#stopWatching();
    clearTimeout(this.#restartTimer);
    for (const child of this.#living()) child.fence('the devices are with the service manager');
    await this.#waiters.until(() => this.#living().length === 0);
  }

  /** Emulators that the plan is about. */
  *#ordinary(): IterableIterator<Child> {
    for (const child of this.#emulators) if (!this.#reserves.has(child)) yield child;
  }

  #living(): Child[] {
    return [...(this.#keeper === null ? [] : [this.#keeper]), ...this.#emulators];
  }

  async #end(children: readonly Child[], request: StopRequest): Promise<void> {
    for (const child of children) child.stop(request);
    await this.#waiters.until(() => children.every((child) => child.state === 'gone'));
  }

  #make(kind: ProgramKind, instance: number, build: Build, extra: readonly string[] = []): Child {
    const own = kind === 'ha' ? [] : ['--instance', String(instance), '--role', 'standby'];
    const inherited = kind === 'ha' ? (this.#store?.logFds ?? []) : [];
    const logFds = inherited.length > 0 ? ['--log-fds', `${INHERITED_FD},${INHERITED_FD + 1}`] : [];
    const spec: ChildSpec = {
      kind,
      instance,
      ipcPath: kind === 'ha' ? this.#paths.haIpc : this.#paths.emuIpc(instance),
      build,
      command: [...nodeFlags[kind], build.mains[kind], ...own, ...extra, ...logFds],
      inherited,
      root: this.#paths.root,
      // Where nobody serves yet, the first of the two is waited for.
      prepares: kind === 'emu' && [...this.#ordinary()].some(({ state }) => state !== 'gone'),
    };
    const child = new Child(spec, this.#poller, this.#log, {
      moved: () => this.#moved(child),
      died: () => this.#died(child),
    });
    if (kind === 'ha') this.#keeper = child;
    else this.#emulators.add(child);
    return child;
  }

  #died(child: Child): void {
    const { kind, instance } = child.spec;
    this.counters.deaths += 1;
    if (kind === 'emu') this.#announce(child);
    if (this.#reserves.has(child)) {
      this.#log.error({ kind, instance, childPid: child.pid }, 'a destination of the live update died');
      return; // no reason to slow down what has nothing to do with it
    }
    const nowMs = performance.now();
    const deaths = this.#deathsMs[kind];
    // One that served was no false start: the sooner there is a standby again, the better.
    if (!child.hasServed) deaths.push(nowMs);
    if (deaths.length > DEATHS_REMEMBERED) deaths.shift();
    this.#standbyFailed ||= kind === 'emu' && !child.hasServed;
    const delayMs = child.hasServed ? 0 : restartDelayMs(deaths, nowMs);
    const cause = child.deathCause;
    const line = {
      kind,
      instance,
      childPid: child.pid,
      served: child.hasServed,
      cause,
      restartInMs: delayMs,
    };
    this.#log.error(line, delayMs > 0 ? 'died, again and again: restarts are slowed down' : 'died');
  }

  #announce(child: Child): void {
    this.#notices.add(child);
    for (const other of this.#emulators) if (other !== child) void this.#notices.tell(other);
  }

  #moved(child: Child): void {
    if (child.state === 'serving') {
      if (this.#everServed) this.counters.takeovers += 1;
      this.#everServed = true;
      void this.#notices.tell(child); // one that took over before it was known to be ready has not heard them
    }
    if (child.state === 'gone') {
      this.#emulators.delete(child);
      this.#reserves.delete(child);
      if (this.#keeper === child) this.#keeper = null;
    }
    if (child.state === 'ready' && this.#logLevel !== 'info') this.#tellLogLevel(child);
    this.#writePidFiles();
    this.#waiters.wake();
    this.#planSoon();
  }

  /** Not now: a step may be in the middle of moving another child. */
  #planSoon(): void {
    if (!this.#planned) setImmediate(() => this.#plan());
    this.#planned = true;
  }

  #writePidFiles(): void {
    if (this.#stopping) return; // what is written stays, for whoever has to clean up should we die
    const byAge = [...this.#ordinary()]
      .filter(({ pid }) => pid > 0)
      .sort((a, b) => a.spec.instance - b.spec.instance);
    const predecessor = byAge.find(({ hasServed }) => hasServed); // until its death is certain
    const first = this.active ?? predecessor ?? byAge[0] ?? null;
    const other = byAge.findLast((child) => child !== first) ?? null;
    this.#pidFiles.set('controller', process.pid); // there may have been no room for it
    this.#pidFiles.set('emu', first?.pid ?? null);
    this.#pidFiles.set('emu-standby', other?.pid ?? null);
    this.#pidFiles.set('emu-reserve', [...this.#reserves].at(-1)?.pid || null);
    this.#pidFiles.set('ha', this.#keeper?.pid || null);
  }

  #view(): ServiceView {
    return {
      stopping: this.#stopping,
      keeper: this.#keeper?.state ?? 'gone',
      emulators: [...this.#ordinary()].map(({ spec, state, informed, servesSince }) => ({
        instance: spec.instance,
        ...{ state, informed, servesSince },
      })),
      restoring: this.#restoring === 'to the shelf',
      moving: this.#divided !== null && this.#divided.state !== 'gone',
      exchanging: this.#exchanging,
      mayStartKeeper: this.#startsInMs('ha') === 0,
      // While guests wait for their devices a second one would only take time from the first.
      mayStartEmulator:
        this.#startsInMs('emu') === 0 && !(this.#restoring !== null && this.#emulators.size > 0),
    };
  }

  /** Time until the crash-loop rule permits a start. */
  #startsInMs(kind: ProgramKind): number {
    const deaths = this.#deathsMs[kind];
    const last = deaths.at(-1);
    if (last === undefined) return 0;
    // Counted as of the last death: waiting must not shorten the wait.
    return Math.max(0, last + restartDelayMs(deaths, last) - performance.now());
  }

  #plan(): void {
    this.#planned = false;
    if (this.#devicesMissing()) {
      const asked = this.#whoMayKnow();
      if (asked.length > 0) {
        void this.#lookForDevices(asked);
        return;
      }
      if (this.#devicesLost()) {
        this.#onDevicesLost();
        return;
      }
    }
    this.#planSteps();
  }

  #planSteps(): void {
    for (const step of planService(this.#view())) this.#carryOut(step);
    if (this.active === null && this.standby === null) this.#hurryOne();
    clearTimeout(this.#restartTimer);
    const waits = [this.#startsInMs('ha'), this.#startsInMs('emu')].filter((waitMs) => waitMs > 0);
    if (waits.length > 0 && !this.#stopping)
      this.#restartTimer = setTimeout(() => this.#plan(), Math.ceil(Math.min(...waits)) + 1);
  }

  /** Two that hurry would keep each other from it: the one that has been starting for longest. */
  #hurryOne(): void {
    for (const child of this.#emulators)
      if (child.state === 'starting') {
        child.hurry();
        return;
      }
  }

  /**
   * Nobody who lives is known to know the devices, which were served, or came out of the manager's store. A new keeper that
   * is there already has nothing before it has settled; as far as is known here, which is what it said last.
   */
  #devicesMissing(): boolean {
    if (this.#stopping || this.#restoring === 'to the shelf') return false;
    if (!this.#everServed && this.#restoring === null) return false;
    return this.#keeper?.hasSettled !== true && ![...this.#emulators].some(isInformed);
  }

  /** The service manager alone has what keeper and emulators knew, who died together. */
  #devicesLost(): boolean {
    return this.#store !== null && this.#devicesMissing();
  }

  /**
   * Who has not said yet that it knows: a new keeper, which may have been told everything before the last emulator died;
   * an emulator of which we have not heard yet that it is ready, or has taken over even.
   */
  #whoMayKnow(): Child[] {
    const keeper = this.#store === null ? null : this.#keeper;
    const starting = [...this.#emulators].filter(({ state, answers }) => state === 'starting' && answers);
    return keeper === null ? starting : [keeper, ...starting];
  }

  /** Nothing is begun before they have answered. */
  async #lookForDevices(asked: readonly Child[]): Promise<void> {
    if (this.#looking) return;
    this.#looking = true;
    await Promise.all(asked.map((child) => child.look()));
    this.#looking = false;
    if (this.#devicesLost()) this.#onDevicesLost();
    else this.#planSteps();
  }

  #carryOut(step: Step): void {
    switch (step.kind) {
      case 'start-keeper':
        this.#make(
          'ha',
          0,
          this.#builds.ha,
          step.expectUpload || this.#restoring !== null ? ['--expect-upload'] : [],
        ).spawn();
        return;
      case 'start-emulator':
        this.#make(
          'emu',
          this.#nextInstance++,
          this.#builds.emu,
          this.#restoring !== null ? ['--urgent'] : [],
        ).spawn();
        return;
      case 'promote':
        void this.#promote(this.#emulator(step.instance));
        return;
      case 'stop-emulator':
        this.#emulator(step.instance).stop({ removeDevices: false, deadlineMs: STOP_STANDBY_MS });
        return;
      case 'fence-emulator':
        this.#emulator(step.instance).fence('another emulator took over', null);
    }
  }

  #emulator(instance: number): Child {
    for (const child of this.#emulators) if (child.spec.instance === instance) return child;
    throw new RangeError(`the plan names emulator ${instance}, which is gone`);
  }

  async #promote(child: Child): Promise<void> {
    if (this.#promoting) return;
    this.#promoting = true;
    const reason = this.#everServed || this.#restoring !== null ? 'crash' : 'first';
    let promoted = false;
    try {
      await this.#notices.tell(child);
      const { devices, takeoverMs } = await child.client.call('emu.promote', { reason });
      this.#log.info(
        { instance: child.spec.instance, childPid: child.pid, reason, devices, takeoverMs },
        'promoted',
      );
      promoted = true;
    } catch (error) {
      this.#log.error({ error, instance: child.spec.instance }, 'promotion failed');
      child.fence('it cannot be promoted');
    }
    if (promoted) child.serving(); // not above: a fault of our own is no failed promotion
    this.#promoting = false;
    this.#waiters.wake();
    this.#plan();
  }

  #tellLogLevel(child: Child): void {
    child.client.call('log.level', { level: this.#logLevel }).catch((error: unknown) => {
      this.#log.warn({ error, child: child.spec.kind }, 'did not take the log level');
    });
  }
}

/** More than fit the crash-loop window at the slowest rate. */
const DEATHS_REMEMBERED = 256;
