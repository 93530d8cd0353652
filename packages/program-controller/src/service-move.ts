/**
 * service-move.ts: replaces the processes below the controller by those of another build, while guests run.
 *
 * Theory
 *   start     an emulator of the destination is started in reserve, which maps and rehearses like any standby but takes
 *             nothing over by itself
 *   check     it builds every device from its record for trial, and compares features; refused until here: nothing has
 *             moved
 *   switch    device by device from the active emulator to the destination's (handover.ts of program-emu)
 *   confirm   the destination serves alone for a while, the former build's standby behind it
 *   keeper    the state keeper ends and the destination's is started; the active emulator puts everything there
 *   standby   the destination's standby comes up, then the former one ends
 *
 *   Whatever fails before the switch costs the reserve. From the switch on the former build's standby is the way back:
 *   it takes over by itself what a dying destination leaves, and what a living one has is handed to it.
 *
 * Invariants
 *   I1  until the phase `standby` has ended there is a standby of the former build, or one is being started.
 *   I2  commands that change devices wait while devices are divided between two processes.
 *   I3  a device whose loan was begun and did not come about has no owner that can be trusted: both processes end, and
 *       the standby takes everything over.
 *
 * Limits  below.
 */
import { type Logger, messageOf, RpcError } from '@virtnet/host-ipc';
import { Errno } from '@virtnet/wire';
import type { Build } from './builds.js';
import type { Child } from './child.js';
import type { MovingDevice, Supervisor } from './supervisor.js';
import type { UpdatePhase } from './update-record.js';

/** Until a process that was just started is ready; the supervisor ends one that is not (limits.ts). */
const READY_MS = 120_000;
/** How long the destination has to serve before anything else is given up. */
const CONFIRM_MS = 500;
const KEEPER_MS = 15_000;
/** A state keeper that dies so often while it comes up is given up. */
const KEEPER_STARTS_MAX = 2;
const LOOK_MS = 10;
/** Most that one look counts of the time since the one before: more is time in which this process itself stood still. */
const LOOK_MS_MAX = 2_000;
const REASONS_MAX = 8;

/** Why a move ends over the end of the controller. */
export const TOLD_TO_END = 'the controller was told to end';

/** Why an update ends, in words for `virtnet update -t`. */
export class UpdateFailure extends Error {}

export interface ServiceMoveOptions {
  readonly supervisor: Supervisor;
  readonly log: Logger;
  /** What it goes back to. */
  readonly former: Build;
  readonly enter: (phase: UpdatePhase) => void;
  /** Takes how long each device that was moved was worked by nobody. */
  readonly pausesMs: number[];
}

export class ServiceMove {
  readonly #options: ServiceMoveOptions;
  readonly #supervisor: Supervisor;

  constructor(options: ServiceMoveOptions) {
    this.#options = options;
    this.#supervisor = options.supervisor;
  }

  /** Moves to `build` what is of another one; with `all` also what is of the same. Rejects when it went back. */
  async to(build: Build, all: boolean): Promise<void> {
    const supervisor = this.#supervisor;
    await this.#await('the processes to say what they are', READY_MS, () =>
      [supervisor.keeper, supervisor.active].every((child) => child?.lastStatus != null),
    );
    const isDone = (child: Child | null) => !all && child?.isOf(build) === true;
    if (!isDone(supervisor.active)) await this.#moveDevices(build);
    try {
      if (!isDone(supervisor.keeper)) {
        this.#options.enter('keeper');
        await this.#replaceKeeper(build);
      }
      if (!isDone(supervisor.standby)) {
        this.#options.enter('standby');
        await this.#replaceStandby(build);
      }
    } catch (error) {
      await this.back(error);
    }
  }

  /** Moves everything back to the former build because of `cause`, with which it always rejects. */
  async back(cause: unknown): Promise<never> {
    const reason = messageOf(cause);
    if (this.#supervisor.stopping) throw new UpdateFailure(reason); // nobody is to be started any more
    try {
      await this.#wayBack(reason);
    } catch (error) {
      throw new UpdateFailure(`${reason}; the way back failed as well: ${messageOf(error)}`);
    }
    throw new UpdateFailure(reason);
  }

  async #moveDevices(build: Build): Promise<void> {
    const supervisor = this.#supervisor;
    this.#options.enter('start');
    const reserve = supervisor.startReserve(build);
    try {
      await this.#ready(reserve, 'the destination’s emulator');
      this.#options.enter('check');
      const { problems } = await reserve.client.call('emu.check', {});
      if (problems.length > 0)
        throw new UpdateFailure(`the destination refuses: ${problems.slice(0, REASONS_MAX).join('; ')}`);
      await this.#await('a warm standby', READY_MS, () => supervisor.standby !== null);
      // A change that takes long is over before the first device is moved.
      await supervisor.active?.client.call('emu.devices', {}, { deadlineMs: READY_MS });
    } catch (error) {
      await this.#abandon(reserve);
      throw error;
    }
    this.#options.enter('switch');
    await this.#switch(reserve);
    this.#options.enter('confirm');
    await this.#confirm(reserve);
  }

  async #ready(child: Child, what: string): Promise<void> {
    const isSettled = () => child.state === 'ready' || child.state === 'gone';
    await this.#await(`${what} to be ready`, READY_MS, isSettled);
    if (child.state === 'gone') throw new UpdateFailure(`${what} died before it was ready`);
  }

  async #abandon(child: Child): Promise<void> {
    if (child.state !== 'gone') child.fence('the update failed');
    await this.#await('the end of the reserve', READY_MS, () => child.state === 'gone');
  }

  /** Hands everything from the active emulator to `to`. */
  async #switch(to: Child): Promise<void> {
    const supervisor = this.#supervisor;
    const from = supervisor.active;
    if (from === null) {
      await this.#abandon(to);
      throw new UpdateFailure('the emulator died just before the switch');
    }
    const progress = { begun: false };
    supervisor.divide(to);
    try {
      await this.#moveAll(from, to, progress);
    } catch (error) {
      supervisor.moving = null;
      await this.#succeed(to, progress.begun ? from : null);
      const what = progress.begun ? 'the switch failed and the standby took over' : 'nothing was moved';
      throw new UpdateFailure(`${what}: ${messageOf(error)}`);
    }
    supervisor.unite(from, to);
    await this.#await('the end of the former emulator', READY_MS, () => from.state === 'gone');
  }

  async #moveAll(from: Child, to: Child, progress: { begun: boolean }): Promise<void> {
    for (;;) {
      const { devices } = await from.client.call('emu.devices', {});
      if (devices.length === 0) break; // one may have come about by itself
      for (const device of devices) await this.#moveOne(device, from, to, progress);
    }
    progress.begun = true;
    await from.client.call('emu.pass', { pid: to.pid });
    await to.client.call('emu.promote', { reason: 'update' });
  }

  /** Waits when the state keeper is away: a device is then not given up. */
  async #moveOne(device: MovingDevice, from: Child, to: Child, progress: { begun: boolean }): Promise<void> {
    const { vuid } = device;
    this.#supervisor.moving = device;
    const patience = new Patience(KEEPER_MS);
    for (;;) {
      if (to.state !== 'ready') throw new UpdateFailure('the destination died');
      const begunBefore = progress.begun;
      progress.begun = true;
      try {
        await from.client.call('emu.lend', { vuid, pid: to.pid });
      } catch (error) {
        if (!isRefusal(error)) throw error;
        progress.begun = begunBefore;
        if (error.errno === -Errno.ENODEV) break; // it was unplugged meanwhile
        if (patience.isOver()) throw error;
        await sleep(LOOK_MS);
        continue;
      }
      this.#options.pausesMs.push((await to.client.call('emu.borrow', { vuid })).pauseMs);
      break;
    }
    this.#supervisor.moving = null;
  }

  /** A handover has fallen: its destination ends, and `from` too when it may have lent something. */
  async #succeed(to: Child, from: Child | null): Promise<void> {
    const supervisor = this.#supervisor;
    await this.#abandon(to);
    if (from !== null) {
      from.fence('the handover has fallen');
      await this.#await('the end of the former emulator', READY_MS, () => from.state === 'gone');
    }
    supervisor.unite(null, null);
    await this.#await('a successor', READY_MS, () => supervisor.active !== null);
  }

  async #confirm(child: Child): Promise<void> {
    const untilMs = performance.now() + CONFIRM_MS;
    while (performance.now() < untilMs && child.state === 'serving') await sleep(LOOK_MS);
    if (child.state === 'serving') return;
    await this.#await('the standby to serve', READY_MS, () => this.#supervisor.active !== null);
    throw new UpdateFailure('the destination died after the switch; the former version serves again');
  }

  async #replaceKeeper(build: Build): Promise<void> {
    const supervisor = this.#supervisor;
    const serving = supervisor.active;
    const former = supervisor.replaceKeeper(build);
    const started = new Set<Child>();
    await this.#await('the new state keeper to have everything', KEEPER_MS, async () => {
      const { keeper, active } = supervisor;
      if (active !== serving) throw new UpdateFailure('the destination died after the switch');
      if (keeper === null || keeper === former) return false;
      started.add(keeper);
      if (started.size > KEEPER_STARTS_MAX)
        throw new UpdateFailure('the destination’s state keeper dies whenever it is started');
      if (keeper.state !== 'ready') return false;
      const status = await keeper.client.call('ha.status', {}).catch(() => null);
      return status?.settled === true && status.leaseHolderPid === active?.pid;
    });
  }

  async #replaceStandby(build: Build): Promise<void> {
    const supervisor = this.#supervisor;
    const { active } = supervisor;
    const reserve = supervisor.startReserve(build);
    try {
      await this.#ready(reserve, 'the destination’s standby');
      if (supervisor.active !== active) throw new UpdateFailure('the destination died after the switch');
    } catch (error) {
      await this.#abandon(reserve);
      throw error;
    }
    await supervisor.exchangeStandby(reserve, build);
  }

  async #wayBack(reason: string): Promise<void> {
    const { former, log } = this.#options;
    const supervisor = this.#supervisor;
    const isFormer = (child: Child | null) => child?.isOf(former) === true;
    log.warn({ version: former.version, reason }, 'going back');
    supervisor.useBuild(former);
    await this.#await('somebody to serve', READY_MS, () => supervisor.active !== null);
    if (!isFormer(supervisor.keeper)) await this.#replaceKeeper(former);
    if (isFormer(supervisor.active)) return;
    if (supervisor.standby !== null && !isFormer(supervisor.standby)) await this.#replaceStandby(former);
    await this.#await('a standby of the former version', READY_MS, () => supervisor.standby !== null);
    const { standby, active } = supervisor;
    if (standby !== null && active !== null && !isFormer(active)) await this.#switch(standby);
  }

  /** Resolves when `condition` holds; fails after `deadlineMs`, or when everything ends. */
  async #await(what: string, deadlineMs: number, condition: () => boolean | Promise<boolean>): Promise<void> {
    const patience = new Patience(deadlineMs);
    while (!(await condition())) {
      if (this.#supervisor.stopping) throw new UpdateFailure(TOLD_TO_END);
      if (patience.isOver()) throw new UpdateFailure(`waited in vain for ${what}`);
      await sleep(LOOK_MS);
    }
  }
}

/** How long somebody waits, not counting that it was stopped itself: nobody else was slow then. */
class Patience {
  #leftMs: number;
  #lookedMs = performance.now();

  constructor(ms: number) {
    this.#leftMs = ms;
  }

  /** Asked again and again: what is longer than LOOK_MS_MAX since the last time does not count. */
  isOver(): boolean {
    const nowMs = performance.now();
    this.#leftMs -= Math.min(nowMs - this.#lookedMs, LOOK_MS_MAX);
    this.#lookedMs = nowMs;
    return this.#leftMs < 0;
  }
}

/** The lender kept the device: it has none of that name, or the state keeper was away. */
function isRefusal(error: unknown): error is RpcError {
  return error instanceof RpcError && (error.errno === -Errno.ENODEV || error.errno === -Errno.EAGAIN);
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
