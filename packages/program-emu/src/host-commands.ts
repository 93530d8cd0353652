/**
 * host-commands.ts: what `virtnet-host` asks: the host's side of the functions, and what each event does to them.
 *
 * Theory
 *   The host's state is written before the functions follow it. A successor finds the number of VFs the host asked for
 *   and makes or removes the rest; then it answers the command that is sent to it again, which changes nothing any
 *   more. What an event does to a function is the matrix of engine-control and nothing else.
 *   VFs whose recovery files cannot be removed are removed all the same: the host's state says that there are none, and
 *   a start that finds their files removes them again.
 *   What has happened is noted. Should that fail it is not undone and nobody is told that it has not: it is noted later.
 *   The callers run these one after the other, so two numbers for one PF at once are two numbers one after the other.
 */
import {
  bindDriver,
  type FirmwareStore,
  FunctionKind,
  failure,
  findFunction,
  firmwareLimits,
  forgetFunctions,
  type HostDriver,
  type HostFunction,
  type HostRequest,
  type HostState,
  isFailure,
  isHeld,
  isHostDriver,
  type JsonObject,
  loadVirtioNet,
  logged,
  logText,
  type Outcome,
  outcomeOf,
  powerCycledFirmwareStore,
  probeFunctions,
  type RecoveryEvent,
  recoveryDeleted,
  SUCCESS,
  setAutoprobe,
  setNumVfs,
  UNDOES_BIND,
  unbindDriver,
  undoBind,
  unloadVirtioNet,
  withoutVfs,
} from '@virtnet/engine-control';
import { readFirmwareStore, updateFirmwareStore } from '@virtnet/host-ipc';
import type { ControlSite } from './control-site.js';
import { pciFacts } from './device-facts.js';
import { unmakeDevice } from './device-maker.js';
import type { Device, Emulator } from './emulator.js';
import { bootedHost, HostStore } from './host-store.js';
import type { Provision } from './provision.js';
import type { RecoveryStore, Remembered } from './recovery-store.js';

const CONFIG_BYTES = 4096;
const INVALID: Outcome = { errno: -22, errstr: 'Invalid argument' };

/** A function as the host's model and the commands see it. */
interface Seen extends HostFunction {
  readonly device: Device;
}

export class HostCommands {
  readonly #emulator: Emulator;
  readonly #site: ControlSite;
  readonly #provision: Provision;
  readonly #recovery: RecoveryStore;
  readonly #store: HostStore;
  #state: HostState = bootedHost();

  constructor(emulator: Emulator, site: ControlSite, provision: Provision, recovery: RecoveryStore) {
    this.#emulator = emulator;
    this.#site = site;
    this.#provision = provision;
    this.#recovery = recovery;
    const isOurs = () => emulator.role === 'active';
    this.#store = new HostStore(emulator.paths.hostState, emulator.services.log, isOurs);
  }

  /** Brings the functions in line with what the host, the firmware and the recovery files say. */
  async provision(): Promise<void> {
    const known = this.#store.load();
    if (known !== null) this.#state = known; // whatever becomes of the rest
    const remembered = await this.#provision.remembered();
    await this.#provision.staticPfs(remembered);
    await this.#provision.hotplugPfs(remembered);
    if (known === null) this.#state = this.#inferred(remembered);
    for (const pfId of this.#staticPfIds()) {
      const wanted = this.#state.numVfs[this.#bdfOf(pfId)] ?? 0;
      const isNew = this.#provision.vfsOf(pfId).length < wanted;
      if (wanted === 0) await this.#provision.removeVfs(pfId);
      // Without recovery a host finds its VFs gone, as after a power cycle.
      const allowed = !isNew || this.#recovery.enabled || this.#provision.vfsOf(pfId).length > 0;
      const failed = allowed
        ? await this.#provision.makeVfs(pfId, wanted, remembered)
        : failure('VF_DEV_GET');
      if (failed !== null && wanted > 0) this.#note(withoutVfs(this.#state, this.#bdfOf(pfId), Date.now()));
    }
    const known = this.#site.knowsFirmware; // else what is missing may be there again once it is
    if (known) this.#forgetMissing();
    const present = this.#emulator.devices;
    const ended = [...remembered.recoveries].filter(
      ([vuid, { vfId }]) => known && vfId !== null && !present.has(vuid),
    );
    await this.#recovery.forget(ended.map(([vuid]) => vuid)); // VFs the host does not ask for any more
    await this.#provision.saveMissing(remembered);
    await this.#provision.fillPool();
  }

  /** Answers a request; to be called one after the other with everything else that changes devices. */
  async answer({ verb, bdf, value, driver }: HostRequest): Promise<JsonObject | Outcome> {
    switch (verb) {
      case 'functions':
        return this.#functions(value === 1);
      case 'dmesg':
        return { lines: this.#state.log.map(logText) };
      case 'sriov':
        return bdf === null || value === null ? INVALID : this.#sriov(bdf, value);
      case 'bind':
      case 'unbind':
        if (bdf === null || driver === null) return INVALID;
        if (!isHostDriver(driver)) return failure('OPT_NOT_SUPPORTED');
        if (verb === 'bind')
          return this.#changed(bindDriver(this.#state, this.#seen(), bdf, driver, Date.now()));
        if (value === UNDOES_BIND)
          return this.#changed(undoBind(this.#state, this.#seen(), bdf, driver, Date.now()));
        return this.#unbind(bdf, driver);
      case 'autoprobe':
        if (bdf === null || value === null) return INVALID;
        return this.#changed(setAutoprobe(this.#state, this.#seen(), bdf, value, Date.now()));
      case 'modprobe':
        return value === 0 ? this.#unload() : this.#load();
      case 'flr':
        return bdf === null ? INVALID : this.#flr(bdf);
      case 'warm-reboot':
        return this.#warmReboot();
      case 'power-cycle':
        return this.#powerCycle();
    }
  }

  /** A function appeared. */
  plugged(bdf: string): void {
    this.#probe(({ host }) => host.plan.bdf === bdf);
  }

  /** Whether the host keeps a function that is to be unplugged, which it logs. */
  keeps(bdf: string): boolean {
    const found = findFunction(this.#seen(), bdf);
    if (isFailure(found) || !isHeld(this.#state, found)) return false;
    this.#note(logged(this.#state, Date.now(), `vfio-pci 0000:${bdf}: not removed, somebody holds it open`));
    return true;
  }

  /** A function that is no more, or another one now. */
  forget(bdf: string): void {
    this.#note(forgetFunctions(this.#state, [bdf]));
  }

  async #sriov(bdf: string, count: number): Promise<Outcome> {
    const next = setNumVfs(this.#state, this.#seen(), bdf, count, Date.now());
    if (next === null) return SUCCESS;
    if (isFailure(next)) return next;
    const { device } = findFunction(this.#seen(), bdf) as Seen;
    const { pfId } = device.host.plan;
    this.#change(next);
    if (count === 0) {
      await this.#event('destroy VFs', this.#provision.vfsOf(pfId));
      return SUCCESS;
    }
    const failed = (await this.#provision.makeVfs(pfId, count)) ?? (await this.#provision.recordVfs(pfId));
    if (failed === null) {
      this.#announce(this.#provision.vfsOf(pfId));
      if (this.#state.noAutoprobe[device.host.plan.bdf] === undefined)
        this.#probe(({ host: { plan } }) => plan.pfId === pfId && plan.vfId !== null);
      return SUCCESS;
    }
    this.#note(withoutVfs(this.#state, device.host.plan.bdf, Date.now()));
    return failed;
  }

  async #unbind(bdf: string, driver: HostDriver): Promise<Outcome> {
    const found = findFunction(this.#seen(), bdf);
    const next = unbindDriver(this.#state, this.#seen(), bdf, driver, Date.now());
    if (isFailure(next)) return next;
    this.#change(next);
    if (isFailure(found)) return found;
    const { kind, pfId } = found.device.host.plan;
    if (kind === FunctionKind.STATIC_PF) await this.#event('unload driver', this.#provision.vfsOf(pfId));
    return SUCCESS;
  }

  #load(): Outcome {
    const next = loadVirtioNet(this.#state, this.#seen(), Date.now());
    if (next !== null) this.#change(next);
    return SUCCESS;
  }

  /** Static PFs lose their VFs with their driver. */
  async #unload(): Promise<Outcome> {
    const driven = this.#seen().filter(({ bdf }) => this.#state.drivers[bdf] === 'virtio-pci');
    this.#change(unloadVirtioNet(this.#state, this.#seen(), Date.now()));
    for (const { kind, pfId } of driven.map(({ device }) => device.host.plan))
      if (kind === FunctionKind.STATIC_PF) await this.#event('unload driver', this.#provision.vfsOf(pfId));
    return SUCCESS;
  }

  /** The virtio-net driver looks at functions that are new. */
  #probe(isNew: (device: Device) => boolean): void {
    const found = this.#seen().filter(({ device }) => isNew(device));
    const next = probeFunctions(this.#state, found, Date.now());
    if (next !== this.#state) this.#note(next);
  }

  async #flr(bdf: string): Promise<Outcome> {
    const found = findFunction(this.#seen(), bdf);
    if (isFailure(found)) return found;
    await found.device.host.functionReset();
    this.#note(logged(this.#state, Date.now(), `pci 0000:${found.bdf}: function level reset`));
    return SUCCESS;
  }

  /** The host boots again: its machines are gone, its functions come out of reset, its bindings are forgotten. */
  async #warmReboot(): Promise<Outcome> {
    this.#change(bootedHost());
    const devices = [...this.#emulator.devices.values()];
    for (const { endpoint, host } of devices) {
      await endpoint.disconnect();
      if (host.fn.status !== 0) await host.functionReset(); // its client had gone before
    }
    await this.#event('warm reboot', devices);
    this.#announce([...this.#emulator.devices.values()]);
    return SUCCESS;
  }

  /**
   * Host and adapter lose power: what the firmware was told for the next boot is true now. When values with an effect
   * changed, the store says so until every recovery file is gone: whoever is asked again goes on from there.
   */
  async #powerCycle(): Promise<Outcome> {
    const { fwconfig } = this.#emulator.paths;
    const read = readFirmwareStore(fwconfig);
    if ('problem' in read) return { errno: -5, errstr: read.problem };
    this.#store.save(this.#state); // where this cannot be written, nothing is begun
    const ended = this.#provision.allPlans.filter(({ kind }) => outcomeOf('power cycle', kind) !== 'recover');
    if (!(await this.#provision.forget(ended))) return failure('REC_MAC_DEL');
    const cycled = (store: FirmwareStore) => ({ store: powerCycledFirmwareStore(store) });
    const updated = await updateFirmwareStore(fwconfig, cycled);
    if ('problem' in updated) {
      await this.#provision.save(ended);
      return { errno: -5, errstr: updated.problem };
    }
    this.#note(bootedHost());
    await this.#emulator.removeAll();
    if (updated.store.recoveryObsolete === true) {
      this.#recovery.clear();
      const deleted = (store: FirmwareStore) => ({ store: recoveryDeleted(store) });
      const cleared = await updateFirmwareStore(fwconfig, deleted);
      if ('problem' in cleared) return { errno: -5, errstr: cleared.problem };
    }
    await this.provision();
    this.#announce([...this.#emulator.devices.values()]);
    return SUCCESS;
  }

  /** Does to each function what the matrix says. */
  async #event(event: RecoveryEvent, devices: readonly Device[]): Promise<void> {
    const gone = devices.filter(({ host }) => outcomeOf(event, host.plan.kind) === 'gone');
    await this.#recovery.forget(gone.map(({ host }) => host.vuid));
    for (const device of [...gone].reverse()) {
      await unmakeDevice(this.#emulator, device);
      await new Promise((resolve) => setImmediate(resolve));
    }
    this.#forgetMissing();
    const byPf = new Map<number, number>();
    for (const { host } of gone) {
      const { pfId, vfId } = host.plan;
      if (vfId !== null) byPf.set(pfId, (byPf.get(pfId) ?? 0) + 1);
    }
    for (const [pfId, count] of byPf) {
      this.#provision.showVfs(pfId);
      this.#emulator.services.log('info', `static PF[${pfId}], Unload (${count}) VFs finished`);
    }
  }

  #functions(withConfig: boolean): JsonObject {
    return {
      functions: this.#seen().map(({ bdf, device }) => ({
        ...pciFacts(device.host),
        bdf,
        driver: this.#state.drivers[bdf] ?? '',
        ...(withConfig
          ? { config: Buffer.from(device.host.fn.readConfig(0, CONFIG_BYTES)).toString('base64') }
          : {}),
      })),
    };
  }

  #seen(): Seen[] {
    const { vfsPerPf } = firmwareLimits(this.#site.firmware());
    return [...this.#emulator.devices.values()].map((device) => ({
      bdf: device.host.plan.bdf,
      vfsMax: device.host.plan.kind === FunctionKind.STATIC_PF ? vfsPerPf : 0,
      inUse: device.endpoint.connected,
      device,
    }));
  }

  #staticPfIds(): number[] {
    const plans = this.#provision.plans.filter(({ kind }) => kind === FunctionKind.STATIC_PF);
    return plans.map(({ pfId }) => pfId).sort((a, b) => a - b);
  }

  #bdfOf(pfId: number): string {
    return this.#provision.plans.find((plan) => plan.vfId === null && plan.pfId === pfId)?.bdf ?? '';
  }

  /** The numbers of VFs that recovery files and devices tell of, where the host's own state is lost. */
  #inferred({ recoveries }: Remembered): HostState {
    const counts: Record<string, number> = {};
    const vfs = [...recoveries.values(), ...this.#provision.plans].filter(({ vfId }) => vfId !== null);
    for (const { pfId, vfId } of vfs) {
      const bdf = this.#bdfOf(pfId);
      if (bdf !== '') counts[bdf] = Math.max(counts[bdf] ?? 0, vfId! + 1);
    }
    return { ...bootedHost(), numVfs: counts };
  }

  #forgetMissing(): void {
    const present = new Set(this.#provision.plans.map(({ bdf }) => bdf));
    const named = [...Object.keys(this.#state.drivers), ...Object.keys(this.#state.numVfs)];
    const gone = named.filter((bdf) => !present.has(bdf));
    if (gone.length > 0) this.#note(forgetFunctions(this.#state, gone));
  }

  #announce(devices: readonly Device[]): void {
    const lines = devices.map(({ host }) => {
      const { vendorId, deviceId, classCode } = pciFacts(host);
      const ids = [vendorId, deviceId].map((id) => id.toString(16).padStart(4, '0')).join(':');
      return `pci 0000:${host.plan.bdf}: [${ids}] type 00 class 0x${classCode.toString(16).padStart(6, '0')}`;
    });
    this.#note(logged(this.#state, Date.now(), ...lines));
  }

  #changed(next: ReturnType<typeof bindDriver>): Outcome {
    if (isFailure(next)) return next;
    this.#change(next);
    return SUCCESS;
  }

  /** What is going to happen to functions; nothing may when this throws a HostStateError. */
  #change(state: HostState): void {
    this.#store.save(state);
    this.#state = state;
  }

  /** After they did. */
  #note(state: HostState): void {
    this.#state = state;
    this.#store.keep(state);
  }
}
