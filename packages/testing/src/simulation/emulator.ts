/**
 * emulator.ts: an emulator process from its start as a standby to its end.
 *
 * Theory
 *   Follows program-emu's Emulator, Mirror, Commands and Unplugged step by step; whose death lets it take over
 *   (Owners), who is suspected and what becomes of them (suspicion) are the real engines.
 *
 * States   standby -> active
 */
import { isUnsaved, MTU_DEFAULT } from '@virtnet/engine-control';
import {
  type Blame,
  findSuspicion,
  NO_BLAME,
  Owners,
  partIn,
  type Suspicion,
  sentence,
  takeMarks,
} from '@virtnet/engine-recovery';
import { Errno } from '@virtnet/wire';
import { type DeviceWorld, type Flaws, SimDevice } from './device.js';
import type { SimFiles } from './files.js';
import { ListenerObject, PageObject, type TapObject } from './objects.js';
import { nameOf, planAgain, planOf } from './plans.js';
import { type KeeperAddress, type Operation, SimShelfClient } from './shelf-link.js';
import { SimHandle, type SimObject, type SimProcess, type SimWorld } from './world.js';

const VERDICT_MS = 3_000;
const UNPLUGGED_KEPT_MS = 30_000;
const NOTHING = new Uint8Array(0);
/** In place of the id of a command. */
const NOBODY = 'provision';

export interface EmulatorStatus {
  readonly role: 'standby' | 'active';
  readonly ready: boolean;
  /** It was told everything, and could go on with the devices. */
  readonly informed: boolean;
}

/** What the service's processes have in common. */
export interface Service extends KeeperAddress {
  readonly world: SimWorld;
  readonly flaws: Flaws;
  /** Where a function's socket is, by its VUID, for clients to find. */
  readonly sockets: Map<string, ListenerObject>;
  /** Who works the rings of a device. */
  readonly workers: Map<string, SimProcess>;
  /** The recovery files. */
  readonly files: SimFiles;
  poisoned(vuid: string, worker: SimProcess): boolean;
  /** The representor of a new function, or of one that is made anew. */
  makeTap(vuid: string, anew: boolean): TapObject;
}

/** A command of the operator, as the controller passes it on. */
export interface DeviceCommand {
  readonly requestId: string;
  readonly verb: 'hotplug' | 'unplug' | 'modify';
  readonly vuid: string;
  /** Bytes; what it is to be when it is modified. */
  readonly mtu: number;
}

/** 0 or -errno. */
export interface CommandAnswer {
  readonly errno: number;
}

interface Mirrored {
  record: Uint8Array | null;
  readonly handles: Map<string, SimHandle>;
}

interface Restored {
  readonly device: SimDevice;
  readonly connected: boolean;
}

export class SimEmulator {
  readonly process: SimProcess;
  readonly devices = new Map<string, SimDevice>();
  readonly shelf: SimShelfClient;
  /** It holds the whole mirror. */
  mirrored = false;
  readonly #service: Service;
  readonly #world: SimWorld;
  readonly #owners: Owners;
  readonly #mirror = new Map<string, Mirrored>();
  readonly #unplugged = new Map<string, () => void>();
  readonly #verdicts = new Map<number, Blame>();
  readonly #site: DeviceWorld;
  readonly #awaited = new Map<number, ((blame: Blame) => void)[]>();
  #role: 'standby' | 'active' = 'standby';
  #promoting = false;
  #warm = false;
  #whenRestored: (() => void)[] | null = null;
  #whenPromoted: ((errno: number) => void)[] = [];

  constructor(service: Service, process: SimProcess) {
    this.#service = service;
    this.process = process;
    const { world } = service;
    this.#world = world;
    const shelf = new SimShelfClient(world, process, service, service.flaws.noInheritance !== true);
    this.shelf = shelf;
    this.#site = {
      world,
      process,
      flaws: service.flaws,
      transaction: (operations) => void this.shelf.transaction(operations),
      get kept() {
        return shelf.kept;
      },
      whenKept: (action) => shelf.whenKept(action),
      claim: (vuid) => this.#claim(vuid),
      unclaim: (vuid) => {
        if (service.workers.get(vuid) === process) service.workers.delete(vuid);
      },
      poisoned: (vuid) => service.poisoned(vuid, process),
    };
    this.#owners = new Owners({
      ownPid: process.pid,
      watch: (pid, onDied) => this.#watch(pid, onDied),
      bury: (pid) => this.shelf.bury(pid),
      nowMs: () => world.now,
      onAlone: () => this.#takeOver(),
    });
  }

  /** It holds the devices. */
  get serves(): boolean {
    return this.#role === 'active' && !this.#promoting;
  }

  get status(): EmulatorStatus {
    const active = this.#role === 'active';
    const ready = active ? !this.#promoting : this.mirrored && this.#warm;
    return { role: this.#role, ready, informed: active || this.mirrored };
  }

  start(): void {
    this.#world.after(this.process, this.#world.between(2, 25), 'warm', () => {
      this.#warm = true;
    });
    this.shelf.start(
      {
        onEntry: (name, blob, handle) => this.#entry(name, blob, handle),
        onDelete: (name) => this.#deleted(name),
        onSynced: (holder) => {
          this.mirrored = true;
          this.#owners.synced(holder);
        },
        onLeaseHeld: (holder) => this.#owners.hold(holder),
        onLeaseLost: (holder) => {
          if (this.#service.flaws.noFencing === true) this.#takeOver();
          else this.#owners.lost(holder);
        },
        onLent: () => {},
      },
      () => this.#owners.unheard(),
    );
    this.#owners.arm();
  }

  /** `done` hears 0, or -EBUSY when somebody else holds the lease. */
  promote(reason: 'first' | 'crash', done: (errno: number) => void): void {
    if (this.#role === 'active' && !this.#promoting) return done(0);
    this.#whenPromoted.push(done);
    if (!this.#promoting) this.#becomeActive(reason, false);
  }

  verdicts(deaths: readonly { readonly pid: number; readonly guestsFault: boolean }[]): void {
    for (const { pid, guestsFault } of deaths) {
      const blame: Blame = { guestsFault, lane: null };
      this.#verdicts.set(pid, blame);
      for (const answer of this.#awaited.get(pid) ?? []) answer(blame);
      this.#awaited.delete(pid);
    }
  }

  command(command: DeviceCommand, answer: (answer: CommandAnswer) => void): void {
    if (this.#promoting) {
      this.#whenPromoted.push(() => this.command(command, answer));
      return;
    }
    this.#carryOut(command, (result) => {
      if (this.shelf.kept || this.#service.flaws.answerUnkept === true) return answer(result);
      this.#world.count('answers held back');
      this.shelf.whenKept(() => answer(result));
    });
  }

  #carryOut({ verb, vuid, requestId, mtu }: DeviceCommand, answer: (answer: CommandAnswer) => void): void {
    if (this.#role !== 'active') return answer({ errno: -Errno.EAGAIN });
    const remembers = this.#service.flaws.noMemory !== true;
    const device = this.devices.get(vuid);
    this.#world.point();
    if (verb === 'hotplug') {
      if (remembers && device?.requestId === requestId) return answer({ errno: 0 });
      if (device !== undefined) return answer({ errno: -Errno.EEXIST });
      const { plan } = this.#make(planOf(vuid, MTU_DEFAULT, this.#plans), requestId, false);
      this.#world.point();
      this.#save([plan]);
      return answer({ errno: 0 });
    }
    if (verb === 'unplug' && remembers && this.#unplugged.has(requestId)) return answer({ errno: 0 });
    if (device === undefined) return answer({ errno: -Errno.ENODEV });
    if (verb === 'unplug') {
      this.#remove(device, requestId);
      this.#world.point();
      return answer({ errno: 0 });
    }
    if (!remembers || !device.changes.includes(requestId)) {
      device.modified++;
      device.plan = { ...device.plan, mtu };
      device.changes = [...device.changes, requestId].slice(-16);
      this.#world.point();
      device.commit();
      this.#world.point();
      if (this.#service.flaws.staleFiles !== true) this.#save([device.plan]);
    }
    answer({ errno: 0 });
  }

  // ---- standing by -------------------------------------------------------------------------------------------

  #watch(pid: number, onDied: () => void) {
    const owner = this.#world.processes.get(pid);
    if (owner === undefined) return null;
    const told = () => this.#world.after(this.process, this.#world.between(0.01, 1.5), 'pidfd', onDied);
    owner.mourners.add(told);
    return {
      kill: () => {
        if (owner.alive)
          this.#world.after(null, 0.01, `kill ${pid}`, () => this.#world.kill(owner, 'killed'));
      },
      close: () => void owner.mourners.delete(told),
    };
  }

  #entry(name: string, blob: Uint8Array, handle: SimHandle | null): void {
    const [kind, vuid, ...rest] = name.split('/');
    if (kind === 'unplugged') {
      this.#remember(vuid!);
      handle?.release();
      return;
    }
    const part = rest.join('/');
    const device = this.#mirror.get(vuid!) ?? { record: null, handles: new Map<string, SimHandle>() };
    this.#mirror.set(vuid!, device);
    if (part === 'record') device.record = blob;
    if (handle === null) return;
    device.handles.get(part)?.release();
    device.handles.set(part, handle);
  }

  #deleted(name: string): void {
    const [kind, vuid, ...rest] = name.split('/');
    if (kind === 'unplugged') {
      this.#forget(vuid!);
      return;
    }
    const device = this.#mirror.get(vuid!);
    if (device === undefined) return;
    const part = rest.join('/');
    if (part === 'record') {
      for (const handle of device.handles.values()) handle.release();
      this.#mirror.delete(vuid!);
      return;
    }
    device.handles.get(part)?.release();
    device.handles.delete(part);
    if (device.record === null && device.handles.size === 0) this.#mirror.delete(vuid!);
  }

  // ---- taking over -------------------------------------------------------------------------------------------

  #takeOver(): void {
    if (this.#role !== 'active' && !this.#promoting) this.#becomeActive('crash', true);
  }

  #becomeActive(reason: 'first' | 'crash', told: boolean): void {
    this.#role = 'active';
    this.#promoting = true;
    this.#owners.close();
    this.#whenRestored = [];
    let leased = false;
    if (!told) this.shelf.reconnect();
    this.shelf.lease(
      (ready) => this.#restoredThen(ready),
      () => this.#upload(),
      (result) => {
        if (leased) return;
        leased = true;
        if (result !== -Errno.EBUSY) return this.#takeDevices(reason, told);
        this.#role = 'standby';
        this.#promoted(-Errno.EBUSY);
        if (told) this.#world.kill(this.process, 'exit');
      },
    );
  }

  #restoredThen(action: () => void): void {
    if (this.#whenRestored === null) action();
    else this.#whenRestored.push(action);
  }

  #takeDevices(reason: 'first' | 'crash', told: boolean): void {
    const world = this.#world;
    const mirrors = [...this.#mirror];
    this.#mirror.clear();
    const used = mirrors.filter(([, { handles }]) => handles.has('connection'));
    const suspects = new Map<string, Suspicion>();
    const restored: Restored[] = [];
    for (const [vuid, mirror] of [...used, ...mirrors.filter((each) => !used.includes(each))]) {
      const connected = mirror.handles.has('connection');
      if (!this.#isWhole(vuid, mirror)) continue;
      const page = pageOf(mirror.handles);
      const suspicion = connected ? findSuspicion({ page, robbed: false }, false) : null;
      if (suspicion !== null) suspects.set(vuid, suspicion);
      if (!connected) takeMarks(page);
      const device = this.#restore(vuid, mirror);
      world.point();
      device.adopt(suspects.get(vuid)?.held === true);
      restored.push({ device, connected });
    }
    world.point();
    for (const each of restored) if (suspects.get(each.device.vuid)?.held !== true) this.#open(each);
    for (const each of restored) {
      const suspicion = suspects.get(each.device.vuid);
      if (suspicion !== undefined) this.#settle(each, suspicion, !told);
    }
    world.count(`promotions.${reason}`);
    world.note(`${this.process.pid} active ${reason}, told ${told}`);
    const waiting = this.#whenRestored ?? [];
    this.#whenRestored = null;
    for (const action of waiting) action();
    this.#provision();
    this.#promoted(0);
  }

  #promoted(errno: number): void {
    this.#promoting = false;
    for (const done of this.#whenPromoted.splice(0)) done(errno);
  }

  /** Whether all is here that a function is made of; what there is of another is let go of, as program-emu does. */
  #isWhole(vuid: string, { record, handles }: Mirrored): boolean {
    if (record !== null && ['page', 'listener', 'tap/0'].every((part) => handles.has(part))) return true;
    this.#world.note(`${vuid} cannot be recovered: of it are here ${[...handles.keys()].join(' ')}`);
    this.#world.count('left out');
    for (const handle of handles.values()) handle.release();
    return false;
  }

  #restore(vuid: string, { record, handles }: Mirrored): SimDevice {
    const device = SimDevice.restore(this.#site, record!, handles);
    if (typeof device === 'string') return this.#world.fail(`${vuid} cannot be recovered: ${device}`);
    this.devices.set(vuid, device);
    return device;
  }

  #open({ device, connected }: Restored): void {
    if (this.devices.get(device.vuid) === device) device.open(connected);
  }

  #settle(restored: Restored, suspicion: Suspicion, told: boolean): void {
    const { device } = restored;
    const decide = (blame: Blame) => {
      if (this.devices.get(device.vuid) !== device) return;
      const judgement = sentence(device.page, suspicion, partIn(suspicion, blame, [suspicion]));
      this.#world.note(
        `${device.vuid} suspected of ${suspicion.pid}, guest ${blame.guestsFault}: ${judgement}`,
      );
      if (judgement !== 'none') {
        device.quarantine();
        if (judgement === 'quarantine-without-client') return device.disconnected();
      } else if (suspicion.held) device.goOn();
      if (suspicion.held) this.#open(restored);
    };
    const known = this.#verdicts.get(suspicion.pid);
    if (known !== undefined || told) return decide(known ?? NO_BLAME);
    let open = true;
    const answer = (blame: Blame) => {
      if (open) decide(blame);
      open = false;
    };
    this.#awaited.set(suspicion.pid, [...(this.#awaited.get(suspicion.pid) ?? []), answer]);
    this.#world.after(this.process, VERDICT_MS, 'no verdict', () => answer(NO_BLAME));
  }

  #upload(): void {
    for (const device of this.devices.values()) {
      this.#world.point();
      device.upload();
    }
    for (const requestId of this.#unplugged.keys()) this.shelf.transaction([this.#note(requestId)]);
  }

  // ---- devices -----------------------------------------------------------------------------------------------

  #claim(vuid: string): void {
    const other = this.#service.workers.get(vuid);
    if (other !== undefined && other !== this.process && other.alive)
      this.#world.fail(`${vuid} is worked by ${other.pid} and by ${this.process.pid}`);
    this.#service.workers.set(vuid, this.process);
  }

  get #plans() {
    return [...this.devices.values()].map(({ plan }) => plan);
  }

  #save(plans: readonly SimDevice['plan'][]): void {
    const requests = [...this.devices.values()].map(({ plan, requestId }) => [plan.vuid, requestId] as const);
    this.#service.files.save(plans, this.#plans, new Map(requests));
  }

  /** As program-emu's Provision: makes what only its recovery file knows, and gives every function its file. */
  #provision(): void {
    const remembered = this.#service.files.load();
    const { noFiles } = this.#service.flaws;
    const present = new Set(this.#plans.map(({ vuid }) => vuid));
    for (const vuid of remembered.recoveries.keys()) {
      if (present.has(vuid) || noFiles === true) continue;
      const plan = planAgain(vuid, remembered, this.#plans);
      const asker = remembered.requests.get(vuid);
      this.#world.note(`${nameOf(plan)} is made anew, asked for by ${asker}`);
      this.#world.count('made anew');
      this.#make(plan, asker ?? NOBODY, true);
      this.#world.point();
    }
    const unsaved = [...this.devices.values()].filter(({ plan, requestId }) =>
      isUnsaved(plan, requestId, remembered),
    );
    if (unsaved.length > 0) this.#save(unsaved.map(({ plan }) => plan));
  }

  #make(plan: SimDevice['plan'], requestId: string, anew: boolean): SimDevice {
    const world = this.#world;
    const vuid = nameOf(plan);
    const handle = (object: SimObject) => new SimHandle(object, this.process);
    const listener = new ListenerObject(world, 'accept');
    listener.onGone = () => {
      if (this.#service.sockets.get(vuid) === listener) this.#service.sockets.delete(vuid);
      listener.close();
    };
    this.#service.sockets.set(vuid, listener);
    const handles = new Map([
      ['page', handle(new PageObject(`page ${vuid}`))],
      ['listener', handle(listener)],
      ['tap/0', handle(this.#service.makeTap(vuid, anew))],
    ]);
    const device = new SimDevice(this.#site, plan, requestId, handles);
    device.anew = anew;
    world.point();
    device.upload();
    world.point();
    this.devices.set(vuid, device);
    device.open(false);
    return device;
  }

  #remove(device: SimDevice, requestId: string): void {
    const { files, flaws } = this.#service;
    if (flaws.fileLast !== true) files.forget(device.plan.vuid);
    this.devices.delete(device.vuid);
    this.#world.point();
    this.#remember(requestId);
    const { vuid } = device;
    if (device.connection !== null) device.connection.refused = true;
    // What ends the device outside is its last descriptor; the others hear of it by this message.
    device.end();
    this.shelf.transaction([{ kind: 'delete-prefix', prefix: `dev/${vuid}/` }, this.#note(requestId)]);
    this.#world.point();
    if (flaws.fileLast === true) files.forget(device.plan.vuid);
  }

  #note(requestId: string): Operation {
    return {
      kind: 'put',
      name: `unplugged/${requestId}`,
      blob: NOTHING,
      handle: null,
      ttlWithoutHolderMs: 0,
    };
  }

  #remember(requestId: string): void {
    if (this.#unplugged.has(requestId)) return;
    const stop = this.#world.after(this.process, UNPLUGGED_KEPT_MS, 'forget', () => {
      this.#unplugged.delete(requestId);
      this.shelf.transaction([{ kind: 'delete', name: `unplugged/${requestId}` }]);
    });
    this.#unplugged.set(requestId, stop);
  }

  #forget(requestId: string): void {
    this.#unplugged.get(requestId)?.();
    this.#unplugged.delete(requestId);
  }
}

function pageOf(handles: ReadonlyMap<string, SimHandle>): ArrayBuffer {
  return (handles.get('page')!.object as PageObject).page;
}
