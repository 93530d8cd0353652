/**
 * host-commands.ts: what `virtnet-host` asks: the host's side of the functions, and what each event does to them.
 *
 * Theory
 *   The host's state is written before the functions follow it. A successor finds the number of VFs the host asked for
 *   and makes or removes the rest, and lets the host look at functions that it had not looked at yet. The answer of a
 *   command is written with that change of the state from which a successor gets to the same end; sent again, the
 *   command is answered by it. One that had not come so far is carried out from its start, which does not do again what
 *   is so already. What an event does to a function is the matrix of engine-control and nothing else.
 *   VFs whose recovery files cannot be removed are removed all the same: the host's state says that there are none, and
 *   a start that finds their files removes them again.
 *   What has happened is noted. Should that fail it is not undone and nobody is told that it has not: it is noted later.
 *   The callers run these one after the other, so two numbers for one PF at once are two numbers one after the other.
 */
import {
  bindDriver,
  expectFunction,
  type Failure,
  type FirmwareStore,
  FunctionKind,
  failure,
  findFunction,
  firmwareLimits,
  forgetFunctions,
  formerAnswer,
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
  lookAt,
  type Outcome,
  outcomeOf,
  powerCycledFirmwareStore,
  type RecoveryEvent,
  type Remembered,
  recoveryDeleted,
  refusal,
  SUCCESS,
  setAutoprobe,
  setNumVfs,
  UNDOES_BIND,
  unbindDriver,
  undoBind,
  unloadVirtioNet,
  withAnswer,
  withoutVfs,
} from '@virtnet/engine-control';
import { readFirmwareStore, updateFirmwareStore } from '@virtnet/host-ipc';
import type { ControlSite } from './control-site.js';
import { pciFacts } from './device-facts.js';
import { unmakeDevice } from './device-maker.js';
import type { Device, Emulator } from './emulator.js';
import { bootedHost, HostStore } from './host-store.js';
import type { PfNotMade, Provision } from './provision.js';
import type { RecoveryStore } from './recovery-store.js';

const CONFIG_BYTES = 4096;
const INVALID: Outcome = refusal('EINVAL', 'the function, the driver or the number is missing');

/** A function as the host's model and the commands see it. */
interface Seen extends HostFunction {
  readonly device: Device;
}

/** A request as it is sent: again with the same id when its answer was lost. */
export type SentRequest = HostRequest & { readonly requestId: string };

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

  /**
   * Brings the functions in line with what the host, the firmware and the recovery files say. Returns the static PFs
   * that could not be made; the log says what else could not.
   */
  async provision(): Promise<readonly PfNotMade[]> {
    const known = this.#store.load();
    if (known !== null) this.#state = known; // whatever becomes of the rest
    const remembered = await this.#provision.remembered();
    const notMade = await this.#provision.staticPfs(remembered);
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
    const judged = this.#site.knowsFirmware; // else what is missing may be there again once it is
    if (judged) {
      this.#forgetMissing();
      this.#lookAtNew();
    }
    const present = this.#emulator.devices;
    const ended = [...remembered.recoveries].filter(
      ([vuid, { vfId }]) => judged && vfId !== null && !present.has(vuid),
    );
    await this.#recovery.forget(ended.map(([vuid]) => vuid)); // VFs the host does not ask for any more
    await this.#provision.saveMissing(remembered);
    await this.#provision.fillPool();
    return notMade;
  }

  /** Answers a request; to be called one after the other with everything else that changes devices. */
  async answer({ requestId, verb, bdf, value, driver }: SentRequest): Promise<JsonObject | Outcome> {
    const former = formerAnswer(this.#state, requestId);
    if (former !== null) return former;
    switch (verb) {
      case 'functions':
        return this.#functions(value === 1);
      case 'dmesg':
        return { lines: this.#state.log.map(logText) };
      case 'sriov':
        return bdf === null || value === null ? INVALID : this.#sriov(requestId, bdf, value);
      case 'bind':
      case 'unbind':
        if (bdf === null || driver === null) return INVALID;
        if (!isHostDriver(driver)) return failure('OPT_NOT_SUPPORTED');
        if (verb === 'bind')
          return this.#changed(requestId, bindDriver(this.#state, this.#seen(), bdf, driver, Date.now()));
        if (value === UNDOES_BIND)
          return this.#changed(requestId, undoBind(this.#state, this.#seen(), bdf, driver, Date.now()));
        return this.#unbind(requestId, bdf, driver);
      case 'autoprobe':
        if (bdf === null || value === null) return INVALID;
        return this.#changed(requestId, setAutoprobe(this.#state, this.#seen(), bdf, value, Date.now()));
      case 'modprobe':
        return value === 0 ? this.#unload(requestId) : this.#load(requestId);
      case 'flr':
        return bdf === null ? INVALID : this.#flr(requestId, bdf);
      case 'warm-reboot':
        return this.#warmReboot(requestId);
      case 'power-cycle':
        return this.#powerCycle(requestId);
    }
  }

  /** A function is about to appear. */
  plugging(bdf: string): void {
    const next = expectFunction(this.#state, bdf);
    if (next !== this.#state) this.#note(next);
  }

  /** A function appeared. */
  plugged(bdf: string): void {
    if (this.#state.appearing[bdf] !== undefined) this.#note(this.#lookedAt(bdf));
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

  async #sriov(requestId: string, bdf: string, count: number): Promise<Outcome> {
    const next = setNumVfs(this.#state, this.#seen(), bdf, count, Date.now());
    if (next === null) return SUCCESS;
    if (isFailure(next)) return next;
    const { device } = findFunction(this.#seen(), bdf) as Seen;
    const { pfId, bdf: pf } = device.host.plan;
    if (count === 0) {
      this.#done(requestId, next);
      await this.#event('destroy VFs', this.#provision.vfsOf(pfId));
      return SUCCESS;
    }
    this.#change(next);
    const failed = (await this.#provision.makeVfs(pfId, count)) ?? (await this.#provision.recordVfs(pfId));
    if (failed === null) return this.#noted(requestId, this.#lookedAt(pf));
    return this.#noted(requestId, withoutVfs(this.#state, pf, Date.now()), failed);
  }

  async #unbind(requestId: string, bdf: string, driver: HostDriver): Promise<Outcome> {
    const found = findFunction(this.#seen(), bdf);
    const next = unbindDriver(this.#state, this.#seen(), bdf, driver, Date.now());
    if (isFailure(next)) return next;
    this.#done(requestId, next);
    if (isFailure(found)) return found;
    const { kind, pfId } = found.device.host.plan;
    if (kind === FunctionKind.STATIC_PF) await this.#event('unload driver', this.#provision.vfsOf(pfId));
    return SUCCESS;
  }

  #load(requestId: string): Outcome {
    const next = loadVirtioNet(this.#state, this.#seen(), Date.now());
    return next === null ? SUCCESS : this.#done(requestId, next);
  }

  /** Static PFs lose their VFs with their driver. */
  async #unload(requestId: string): Promise<Outcome> {
    const driven = this.#seen().filter(({ bdf }) => this.#state.drivers[bdf] === 'virtio-pci');
    this.#done(requestId, unloadVirtioNet(this.#state, this.#seen(), Date.now()));
    for (const { kind, pfId } of driven.map(({ device }) => device.host.plan))
      if (kind === FunctionKind.STATIC_PF) await this.#event('unload driver', this.#provision.vfsOf(pfId));
    return SUCCESS;
  }

  /** The state once the host has looked at what appears at an address: a hotplug PF, or the VFs of a static PF. */
  #lookedAt(bdf: string): HostState {
    const found = findFunction(this.#seen(), bdf);
    if (isFailure(found)) return lookAt(this.#state, bdf, [], Date.now());
    const { kind, pfId } = found.device.host.plan;
    if (kind !== FunctionKind.STATIC_PF) return lookAt(this.#state, bdf, [found], Date.now());
    const vfs = this.#seen().filter(({ device }) => isVfOf(device, pfId));
    return lookAt(this.#announced(vfs.map(({ device }) => device)), bdf, vfs, Date.now());
  }

  /** What a predecessor did not come to: the functions are there now, if they will be. */
  #lookAtNew(): void {
    for (const bdf of Object.keys(this.#state.appearing)) this.#note(this.#lookedAt(bdf));
  }

  async #flr(requestId: string, bdf: string): Promise<Outcome> {
    const found = findFunction(this.#seen(), bdf);
    if (isFailure(found)) return found;
    await found.device.host.functionReset();
    const text = `pci 0000:${found.bdf}: function level reset`;
    return this.#noted(requestId, logged(this.#state, Date.now(), text));
  }

  /** The host boots again: its machines are gone, its functions come out of reset, its bindings are forgotten. */
  async #warmReboot(requestId: string): Promise<Outcome> {
    this.#change(this.#booted());
    const devices = [...this.#emulator.devices.values()];
    for (const { endpoint, host } of devices) {
      await endpoint.disconnect();
      if (host.fn.status !== 0) await host.functionReset(); // its client had gone before
    }
    await this.#event('warm reboot', devices);
    return this.#noted(requestId, this.#announced([...this.#emulator.devices.values()]));
  }

  /**
   * Host and adapter lose power: what the firmware was told for the next boot is true now. When values with an effect
   * changed, the store says so until every recovery file is gone: whoever is asked again goes on from there. A PF that
   * cannot be made is the answer; everything else has happened all the same.
   */
  async #powerCycle(requestId: string): Promise<Outcome> {
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
    this.#note(this.#booted());
    await this.#emulator.removeAll();
    if (updated.store.recoveryObsolete === true) {
      this.#recovery.clear();
      const deleted = (store: FirmwareStore) => ({ store: recoveryDeleted(store) });
      const cleared = await updateFirmwareStore(fwconfig, deleted);
      if ('problem' in cleared) return { errno: -5, errstr: cleared.problem };
    }
    const notMade = await this.provision();
    const outcome = notMade.length === 0 ? SUCCESS : powerCycledWithout(notMade);
    return this.#noted(requestId, this.#announced([...this.#emulator.devices.values()]), outcome);
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

  /** The state with a line of the log for each of the devices. */
  #announced(devices: readonly Device[]): HostState {
    const lines = devices.map(({ host }) => {
      const { vendorId, deviceId, classCode } = pciFacts(host);
      const ids = [vendorId, deviceId].map((id) => id.toString(16).padStart(4, '0')).join(':');
      return `pci 0000:${host.plan.bdf}: [${ids}] type 00 class 0x${classCode.toString(16).padStart(6, '0')}`;
    });
    return logged(this.#state, Date.now(), ...lines);
  }

  #changed(requestId: string, next: HostState | Failure): Outcome {
    return isFailure(next) ? next : this.#done(requestId, next);
  }

  /** A host that has just booted; what was answered is not forgotten. */
  #booted(): HostState {
    return { ...bootedHost(), answers: this.#state.answers };
  }

  /** The last change of a request: its answer is kept with it. */
  #done(requestId: string, state: HostState, outcome: Outcome = SUCCESS): Outcome {
    this.#change(withAnswer(state, requestId, outcome));
    return outcome;
  }

  /** The same of a request that functions have followed already. */
  #noted(requestId: string, state: HostState, outcome: Outcome = SUCCESS): Outcome {
    this.#note(withAnswer(state, requestId, outcome));
    return outcome;
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

/** The answer of a power cycle that has happened, but for these PFs. */
function powerCycledWithout(notMade: readonly PfNotMade[]): Outcome {
  const [{ pfId, failure: why }, ...others] = notMade as [PfNotMade, ...PfNotMade[]];
  const more = others.length === 0 ? '' : `, and ${others.length} more`;
  const { errno, errstr } = why;
  return { errno, errstr: `${errstr}: power-cycled, but without static PF ${pfId}${more}; the log says why` };
}

function isVfOf({ host: { plan } }: Device, pfId: number): boolean {
  return plan.vfId !== null && plan.pfId === pfId;
}
