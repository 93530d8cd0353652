/**
 * simulation.ts: a whole service in one thread, and everything that can go wrong with its processes.
 *
 * Theory
 *   Controller, state keeper and emulators, guests with numbered frames and an operator with commands live over a world
 *   whose every event may be the last of its process. Between what one of them does and what another hears of it lies a
 *   time drawn from the seed. After each event the invariants are looked at; in the end nothing happens by itself any
 *   more, and everything must come to rest with what was promised.
 *
 *   In some schedules keeper and emulators die all at once, with or without the controller. What is left then are the
 *   recovery files, and of each function what they say of it.
 *
 * Invariants, beside those of guest.ts
 *   I1  the rings of a device are worked by one process at a time.
 *   I2  no device is lost: what was made and not removed is there after every promotion, with all that was done to it.
 *   I3  each command is answered once; what was answered with success was done once, what was not done at most once.
 *       A function that was made anew from its file is as it was asked to be; guests come back to it by themselves.
 *   I4  in the end every function has its recovery file, which says what it is, and there is no other.
 *   I5  whatever dies, everything is served again and comes to rest.
 *
 * Limits
 *   A process does not die here by itself while it alone knows something that a guest was told: the active emulator while
 *   no keeper has what it changed and nobody inherits that of a dead one, the keeper while nobody else does. Who loses
 *   both within that time is restored by the service manager, or begins anew as after the loss of everything.
 *   Messages between keeper and emulators are objects here, not bytes. Live updates are not part of it.
 */
import { isUnsaved } from '@virtnet/engine-control';
import { SimController } from './controller.js';
import type { Flaws, SimDevice } from './device.js';
import { type DeviceCommand, type Service, SimEmulator } from './emulator.js';
import { SimFiles } from './files.js';
import { SimGuest } from './guest.js';
import { SimKeeper } from './keeper.js';
import { type ListenerObject, TapObject } from './objects.js';
import { SimOperator } from './operator.js';
import type { ShelfLink } from './shelf-link.js';
import { type SimProcess, SimViolation, SimWorld } from './world.js';

export interface SimOutcome {
  readonly seed: number;
  /** What was wrong; null when nothing was. */
  readonly violation: string | null;
  /** Of everything that happened, in order. */
  readonly hash: string;
  readonly events: number;
  readonly counters: Readonly<Record<string, number>>;
  /** The last events. */
  readonly trace: readonly string[];
}

/** Virtual milliseconds in which things go wrong, and after which everything must be at rest. */
const CHAOS_MS = 120;
const REST_MS = 30_000;
const EVENTS_MAX = 60_000;
/** In the schedules whose seeds it divides everything dies at once. */
export const LOSS_EVERY = 16;
/** After so many virtual milliseconds. */
const LOSS_MS = [15, 110] as const;

class Simulation implements Service {
  readonly world: SimWorld;
  readonly flaws: Flaws;
  readonly files: SimFiles;
  readonly sockets = new Map<string, ListenerObject>();
  readonly workers = new Map<string, SimProcess>();
  readonly emulators = new Map<number, SimEmulator>();
  readonly guests = new Map<string, SimGuest>();
  readonly operator: SimOperator;
  keeper: SimKeeper | null = null;
  controller: SimController | null = null;
  /** Who takes what the last keeper left. */
  #heir: SimEmulator | null = null;

  constructor(seed: number, flaws: Flaws) {
    this.world = new SimWorld(seed);
    this.flaws = flaws;
    this.files = new SimFiles(this.world);
    const { world } = this;
    world.mayDie = (process, within) => this.#mayDie(process, within);
    world.onDeath = (process) => this.#died(process);
    world.check = () => {
      for (const guest of this.guests.values()) guest.check();
    };
    this.operator = new SimOperator(world, {
      controller: () => this.controller,
      unplugging: (vuid) => {
        const guest = this.guests.get(vuid);
        if (guest !== undefined) guest.unplugged = true;
      },
    });
    this.#startController();
    this.operator.start();
    this.#faultSoon();
    if (seed % LOSS_EVERY === 0)
      world.after(null, world.between(...LOSS_MS), 'everything dies', () => this.#loseEverything());
  }

  /** Runs until everything is at rest. */
  run(): void {
    const { world } = this;
    while (world.now < CHAOS_MS && world.step()) this.#bound();
    world.faults = false;
    world.note('no more faults');
    this.operator.quiet = true;
    for (const guest of this.guests.values()) guest.calm();
    let problem: string | null = 'nothing happened';
    while (problem !== null) {
      if (world.now > CHAOS_MS + REST_MS) world.fail(`it does not come to rest: ${problem}`);
      if (!world.step()) world.fail(`everything stands still: ${problem}`);
      this.#bound();
      problem = this.#unrest();
    }
    this.#verify();
  }

  #bound(): void {
    if (this.world.events > EVENTS_MAX)
      this.world.fail(`it does not come to rest within ${EVENTS_MAX} events`);
  }

  // ---- service -----------------------------------------------------------------------------------------------

  connect(client: SimProcess): ShelfLink | null {
    return this.keeper?.connect(client) ?? null;
  }

  startKeeper(expectUpload: boolean): SimKeeper {
    if (this.keeper?.process.alive === true) this.world.fail('two keepers');
    this.keeper = new SimKeeper(this.world, this.world.spawn('keeper'), expectUpload);
    return this.keeper;
  }

  startEmulator(): SimEmulator {
    const process = this.world.spawn('emulator');
    const emulator = new SimEmulator(this, process);
    this.emulators.set(process.pid, emulator);
    this.world.after(process, this.world.between(1, 15), 'emulator starts', () => emulator.start());
    return emulator;
  }

  makeTap(vuid: string, anew: boolean): TapObject {
    const tap = new TapObject(this.world, `tap ${vuid}`);
    const former = this.guests.get(vuid);
    if (anew && former !== undefined) {
      former.plugInto(tap);
      return tap;
    }
    // Of a device that died with its maker.
    if (former !== undefined) former.unplugged = true;
    const guest = new SimGuest(this, vuid, tap);
    this.guests.set(vuid, guest);
    if (this.operator.quiet) guest.calm();
    guest.start();
    return tap;
  }

  poisoned(vuid: string, worker: SimProcess): boolean {
    return this.guests.get(vuid)?.poisoned === true && this.#mayDie(worker, true);
  }

  /** Whoever may look: the page is memory that outlives its users. */
  pageOf(vuid: string): ArrayBuffer | null {
    const worker = this.workers.get(vuid);
    return worker === undefined ? null : (this.emulators.get(worker.pid)?.devices.get(vuid)?.page ?? null);
  }

  get active(): SimEmulator | null {
    for (const emulator of this.emulators.values()) if (emulator.serves) return emulator;
    return null;
  }

  #startController(): void {
    const process = this.world.spawn('controller');
    this.controller = new SimController(this, process);
  }

  // ---- faults ------------------------------------------------------------------------------------------------

  #mayDie(process: SimProcess, within: boolean): boolean {
    const { keeper } = this;
    const keeps = keeper?.process.alive === true && keeper.ready && keeper.status.settled;
    if (process.kind === 'controller') return true;
    if (process.kind === 'keeper') return this.active !== null;
    const emulator = this.emulators.get(process.pid);
    if (emulator === undefined) return false;
    if (emulator.status.role === 'standby') return keeps || this.active !== null;
    if (keeps && emulator.shelf.uploaded) return true;
    // Another knows all that was answered, but for what a keeper had not passed on; its heir knows that, too.
    const other = [...this.emulators.values()].some(
      (each) => each !== emulator && each.mirrored && each.status.role === 'standby',
    );
    const inherited = this.#heir !== null && this.emulators.has(this.#heir.process.pid);
    return !within && emulator.serves && other && (inherited || !emulator.shelf.missed);
  }

  #died(process: SimProcess): void {
    const { world } = this;
    this.emulators.delete(process.pid);
    for (const [vuid, worker] of [...this.workers]) {
      if (worker !== process) continue;
      this.workers.delete(vuid);
      const guest = this.guests.get(vuid);
      guest?.crashed(process.cause === 'exception' && guest.poisoned);
    }
    if (process === this.keeper?.process) {
      // What it had not passed on only the active emulator knows, and who holds the end of its connection.
      const { active } = this;
      const link = active?.shelf.link ?? null;
      this.#heir =
        [...this.emulators.values()].find((each) => each !== active && each.shelf.isHeirOf(link)) ?? null;
      const followed = [...this.emulators.values()].some((each) => each !== active && each.shelf.inStep);
      if (active !== null && (this.keeper.inFlight || !followed)) active.shelf.missed = true;
    }
    if (process === this.controller?.process) {
      this.controller = null;
      world.after(null, world.between(5, 40), 'service manager', () => this.#startController());
    }
  }

  #faultSoon(): void {
    const { world } = this;
    world.after(null, world.between(4, 50), 'fault', () => {
      if (!world.faults) return;
      this.#fault();
      this.#faultSoon();
    });
  }

  #fault(): void {
    const { world } = this;
    const standbys = [...this.emulators.values()].filter(({ status }) => status.role === 'standby');
    const victims = [
      this.active?.process,
      this.active?.process,
      standbys[0]?.process,
      this.keeper?.process,
      this.controller?.process,
      'link' as const,
    ];
    const victim = world.pick(victims);
    if (victim === 'link') {
      if (this.keeper?.process.alive === true && this.keeper.status.settled) this.keeper.breakOne();
      world.count('links broken');
    } else if (victim?.alive === true && this.#mayDie(victim, false)) world.kill(victim, 'killed');
  }

  #loseEverything(): void {
    const { world } = this;
    world.count('losses');
    for (const guest of this.guests.values()) guest.bereave();
    this.operator.bereave();
    const withController = world.chance(500);
    const lost = [this.keeper?.process, ...[...this.emulators.values()].map(({ process }) => process)];
    for (const process of withController ? [...lost, this.controller?.process] : lost)
      if (process !== undefined) world.kill(process, 'killed');
  }

  // ---- rest --------------------------------------------------------------------------------------------------

  /** What is not at rest; null when everything is. */
  #unrest(): string | null {
    const { active, keeper } = this;
    if (this.controller === null) return 'no controller';
    if (keeper?.process.alive !== true || !keeper.ready || !keeper.status.settled) return 'no keeper';
    if (active === null) return 'no active emulator';
    if (!active.shelf.uploaded || keeper.inFlight) return 'the keeper does not know everything';
    if (![...this.emulators.values()].some(({ status }) => status.role === 'standby' && status.ready))
      return 'no standby';
    if (this.operator.waiting > 0) return `${this.operator.waiting} commands`;
    for (const guest of this.guests.values())
      if (active.devices.has(guest.vuid) && guest.waitsFor !== null)
        return `${guest.vuid} waits for ${guest.waitsFor}`;
    return null;
  }

  #verify(): void {
    const { world, operator } = this;
    const active = this.active!;
    for (const [vuid, expected] of operator.expected()) {
      const { exists, modifiedMost, mtuLeast, mtuMost } = expected;
      const device = active.devices.get(vuid);
      if (exists === 'yes' && device === undefined) world.fail(`${vuid} is lost`);
      if (exists === 'no' && device !== undefined) world.fail(`${vuid} was removed and is there`);
      if (device === undefined) continue;
      const modifiedLeast = device.anew ? 0 : expected.modifiedLeast;
      if (device.modified < modifiedLeast || device.modified > modifiedMost)
        world.fail(
          `${vuid} was modified ${device.modified} times, asked ${modifiedLeast} to ${modifiedMost} times`,
        );
      const { mtu } = device.plan;
      if (mtu < mtuLeast || mtu > mtuMost)
        world.fail(`${vuid} was modified to ${mtu} bytes, asked ${mtuLeast} to ${mtuMost}`);
      const guest = this.guests.get(vuid)!;
      if (!guest.isRaised(device.raised))
        world.fail(`${vuid} was raised ${device.raised} times, which nobody asked for`);
    }
    for (const vuid of active.devices.keys())
      if (!operator.expected().has(vuid)) world.fail(`${vuid} was never asked for`);
    const shelved = new Set(
      this.keeper!.names().flatMap((name) => (name.startsWith('dev/') ? [name.split('/')[1]!] : [])),
    );
    for (const vuid of shelved)
      if (!active.devices.has(vuid)) world.fail(`${vuid} is on the shelf and nowhere else`);
    for (const vuid of active.devices.keys())
      if (!shelved.has(vuid)) world.fail(`${vuid} is not on the shelf`);
    this.#verifyFiles([...active.devices.values()]);
    for (const guest of this.guests.values()) {
      world.counters.frames = (world.counters.frames ?? 0) + guest.moved;
      world.counters.lost = (world.counters.lost ?? 0) + guest.lost;
      world.counters.repeated = (world.counters.repeated ?? 0) + guest.repeated;
    }
  }

  #verifyFiles(devices: readonly SimDevice[]): void {
    const remembered = this.files.load();
    for (const { vuid, plan, requestId } of devices)
      if (isUnsaved(plan, requestId, remembered))
        this.world.fail(`the file of ${vuid} does not say what it is`);
    const present = new Set(devices.map(({ plan }) => plan.vuid));
    for (const vuid of remembered.recoveries.keys())
      if (!present.has(vuid)) this.world.fail(`there is a recovery file of ${vuid} and no such function`);
  }
}

export type { DeviceCommand, Flaws };

/** Runs one schedule. */
export function simulate(seed: number, flaws: Flaws = {}): SimOutcome {
  const simulation = new Simulation(seed, flaws);
  const { world } = simulation;
  let violation: string | null = null;
  try {
    simulation.run();
  } catch (error) {
    // An engine objected, or a driver to what an engine did.
    violation = error instanceof SimViolation ? error.message : String((error as Error).stack ?? error);
  }
  const { hash, events, counters, trace } = world;
  return { seed, violation, hash, events, counters, trace };
}
