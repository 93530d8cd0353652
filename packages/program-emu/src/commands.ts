/**
 * commands.ts: what the command line asks of the active emulator.
 *
 * Theory
 *   Requests that change devices run one after the other and carry an id. The id is saved with the device they make,
 *   so a request that is repeated because its first answer was lost is answered and not carried out again; that of an
 *   unplug is saved by the message that removes the device (unplugged.ts), that of what the host does with its state
 *   (host-commands.ts).
 *   While the state keeper is being replaced an answer waits until the new one knows of the change. Others need not wait
 *   for that: they are carried out meanwhile.
 *
 * Invariants
 *   I1  a hotplug answers success only when the device is recorded and can be connected to.
 *   I2  an unplug answers success only when the representor is gone from the host and no recovery file can bring the
 *       function back.
 *   I3  what was answered is not forgotten when this process dies, but for a keeper that has been away for long.
 */
import {
  type ControllerFacts,
  DEVICE_MISSING,
  type DeviceFacts,
  type DeviceSelector,
  emulationManager,
  FunctionKind,
  failure,
  firmwareLimits,
  type HotplugRequest,
  healthAnswer,
  hotplugAnswer,
  isFailure,
  type JsonObject,
  listAnswer,
  type ModifyRequest,
  type Outcome,
  type PlanSite,
  planHotplug,
  planUnplug,
  type QueryRequest,
  queryAnswer,
  type StatsRequest,
  SUCCESS,
  selectDevices,
  statsAnswer,
  type UnplugRequest,
  unsavedFailure,
  uplinkOf,
} from '@virtnet/engine-control';
import { ControlSite } from './control-site.js';
import { probeDatapath } from './datapath-probe.js';
import { clearDebugCounters, statsFacts } from './device-counters.js';
import { deviceFacts, healthFacts } from './device-facts.js';
import { identityOf, makeDevice, nameFree, unmakeDevice } from './device-maker.js';
import type { Device, Emulator, PromotionReason } from './emulator.js';
import { HostCommands, type SentRequest } from './host-commands.js';
import { hostStateFailure } from './host-store.js';
import { type ModifyPlace, modifyDevices } from './modify-command.js';
import { Provision } from './provision.js';
import { RecoveryStore } from './recovery-store.js';

/** More than a PF can have VFs. */
const ORDER_STEP = 2048;
/** Bit 0: split, bit 1: packed. */
const RING_FORMATS = 3;
/** NO_MSIX_MODE and MSIX_MODE. */
const EVENT_MODES = 0b101;
/** Descriptors the tunnel of the original takes; here the segments a chain of ours may have do not depend on it. */
const TUNNEL_DESCRIPTORS = 6;

export class Commands {
  readonly #emulator: Emulator;
  readonly #site: ControlSite;
  readonly #provision: Provision;
  readonly #host: HostCommands;
  #turn: Promise<unknown> = Promise.resolve();

  constructor(emulator: Emulator) {
    this.#emulator = emulator;
    this.#site = new ControlSite(emulator.paths, emulator.conf, emulator.services.log);
    const recovers = emulator.conf.recovery === 1;
    const recovery = new RecoveryStore(emulator.paths, recovers, emulator.services.log);
    this.#provision = new Provision(emulator, this.#site, recovery);
    this.#host = new HostCommands(emulator, this.#site, this.#provision, recovery);
  }

  /** Lets the planning of a device be compiled before somebody waits for it; changes nothing. */
  warmUp(): void {
    const request: HotplugRequest = {
      ibDevice: emulationManager(this.#emulator.conf),
      mac: '02:00:00:00:00:01',
      mtu: 1500,
      queues: 3,
      queuePairs: null,
      queueSize: 256,
      sfNum: null,
      features: null,
      legacy: false,
    };
    const site = this.#site.planSite(request.ibDevice);
    hotplugAnswer(planHotplug(request, this.#site.firmware(), this.#devices().map(identityOf), site));
    this.list();
    this.query({ all: true, pf: null, vf: null, vuid: null, brief: false, queue: null });
    void this.health({ all: true, pf: null, vf: null, vuid: null });
  }

  /**
   * Makes what exists without anybody's asking. To be called when this emulator has become the active one. Never rejects:
   * what it took over is served already, and not to be given up for what is wrong with the rest.
   */
  provision(reason: PromotionReason): Promise<void> {
    const done = this.#inTurn(async () => {
      // A successor that was asked for is a restart: the pool does not outlive that, if it is not to.
      if (reason === 'update' && this.#emulator.conf.sf_pool_force_destroy === 1)
        this.#emulator.destroyPool();
      await this.#host.provision();
    });
    return done.catch((error: Error) =>
      this.#emulator.services.log('error', 'not every function could be made', { reason: error.stack }),
    );
  }

  hotplug(request: HotplugRequest & { readonly requestId: string }): Promise<JsonObject | Outcome> {
    return this.#change(() => this.#hotplug(request));
  }

  unplug(request: UnplugRequest & { readonly requestId: string }): Promise<Outcome> {
    return this.#change(() => this.#unplug(request));
  }

  /** The host's side. What only looks waits for what changes, too: it shows a state between two changes. */
  host(request: SentRequest): Promise<JsonObject | Outcome> {
    const looks = request.verb === 'functions' || request.verb === 'dmesg';
    const answer = () => this.#host.answer(request).catch(hostStateFailure);
    return looks ? this.#inTurn(answer) : this.#change(answer);
  }

  list(): JsonObject {
    const limits = firmwareLimits(this.#site.firmware());
    const controller: ControllerFacts = {
      emulationManager: emulationManager(this.#emulator.conf),
      hotplugDevicesMax: limits.hotplugPorts,
      devicesMax: limits.devicesMax,
      virtQueuesMax: limits.virtQueuesMax,
      tunnelDescriptorsMax: TUNNEL_DESCRIPTORS,
      supportedFeatures: this.#site.supportedFeatures,
      queueTypes: RING_FORMATS,
      eventModes: EVENT_MODES,
    };
    return listAnswer(controller, this.#facts(this.#devices()));
  }

  modify(request: ModifyRequest & { readonly requestId: string }): Promise<Outcome> {
    return this.#change(async () => {
      const place = { devices: () => this.#devices(), site: this.#modifySites() };
      const before = new Set(this.#provision.plans);
      const outcome = await modifyDevices(request, place);
      const changed = this.#provision.plans.filter((plan) => !before.has(plan));
      const saved = changed.length === 0 || (await this.#provision.save(changed));
      const warned = outcome.errno === failure('DEV_NOT_FUNCTIONAL').errno; // carried out all the same
      return saved || (isFailure(outcome) && !warned) ? outcome : unsavedFailure(request.device ?? {});
    });
  }

  stats(request: StatsRequest): JsonObject | Outcome {
    const facts = this.#devices().map(({ host }) => statsFacts(host));
    return statsAnswer(selectDevices(facts, { ...request, all: false })[0], request.queue);
  }

  query(request: QueryRequest): JsonObject | Outcome {
    const { uplinkTaps } = this.#emulator;
    const selected = this.#selected(request);
    const uplinks = request.all ? null : new Set(selected.map(({ host }) => host.plan.ibDevice));
    if (request.statsClear === true) {
      for (const { host } of selected) clearDebugCounters(host);
      uplinkTaps.clear(uplinks);
    }
    return queryAnswer(this.#facts(selected), request, uplinkTaps.facts(uplinks));
  }

  async health(request: DeviceSelector): Promise<JsonObject | readonly JsonObject[]> {
    const answers = await Promise.all(
      this.#selected(request).map(async ({ host }) => {
        this.#emulator.beat();
        return healthAnswer(healthFacts(host, await probeDatapath(host, this.#emulator.services.datapath)));
      }),
    );
    return request.all ? answers : (answers[0] ?? DEVICE_MISSING);
  }

  async #hotplug(request: HotplugRequest & { readonly requestId: string }): Promise<JsonObject | Outcome> {
    const emulator = this.#emulator;
    for (const { host } of emulator.devices.values()) {
      if (host.requestId === request.requestId) return hotplugAnswer(host.plan);
    }
    if (!(await this.#provision.giveUp(request.requestId))) return failure('REC_MAC_DEL');
    if (uplinkOf(emulator.conf, request.ibDevice) === null) return failure('PORT_CTX_NOT_FOUND');
    const site = this.#site.planSite(request.ibDevice);
    const planned = () => planHotplug(request, this.#site.firmware(), this.#provision.allPlans, site);
    let plan = planned();
    if (!isFailure(plan) && (await nameFree(emulator, plan))) plan = planned();
    if (isFailure(plan)) return plan;
    this.#host.plugging(plan.bdf);
    const made = makeDevice(emulator, plan, request.requestId);
    if (isFailure(made)) {
      this.#host.forget(plan.bdf);
      return made;
    }
    if (await this.#provision.record([plan])) {
      this.#host.plugged(plan.bdf);
      return hotplugAnswer(plan);
    }
    await unmakeDevice(emulator, made);
    this.#host.forget(plan.bdf);
    return failure('REC_FILE_CREATE');
  }

  async #unplug(request: UnplugRequest & { readonly requestId: string }): Promise<Outcome> {
    if (this.#emulator.unplugged.has(request.requestId)) return SUCCESS;
    const devices = this.#devices();
    const found = planUnplug(request, devices.map(identityOf));
    if (isFailure(found)) return found;
    const device = devices.find(({ host }) => host.vuid === found.device.vuid)!;
    if (this.#host.keeps(device.host.plan.bdf)) return failure('DEV_UNPLUG_NOT_READY');
    if (!(await this.#provision.forget([device.host.plan]))) return failure('REC_MAC_DEL');
    await unmakeDevice(this.#emulator, device, request.requestId);
    this.#host.forget(device.host.plan.bdf);
    return SUCCESS;
  }

  /** Features that this build knows. */
  get supportedFeatures(): bigint {
    return this.#site.supportedFeatures;
  }

  /** Runs `action` between two changes. */
  whenIdle<T>(action: () => Promise<T>): Promise<T> {
    return this.#inTurn(action);
  }

  /** Carries a change out in its turn; resolves when it is kept. */
  async #change<T>(change: () => Promise<T>): Promise<T> {
    const answer = await this.#inTurn(change);
    await this.#emulator.services.store.kept();
    return answer;
  }

  /** Runs changes one after the other. */
  #inTurn<T>(change: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(change);
    this.#turn = result.catch(() => undefined);
    return result;
  }

  /** PFs by number, each followed by its VFs. */
  #devices(): Device[] {
    const order = ({ pfId, vfId }: Device['host']['plan']) => pfId * ORDER_STEP + (vfId ?? -1);
    return [...this.#emulator.devices.values()].sort((a, b) => order(a.host.plan) - order(b.host.plan));
  }

  /** What each device of one command finds; firmware and uplinks are looked at once. */
  #modifySites(): ModifyPlace['site'] {
    const { virtQueuesMax } = firmwareLimits(this.#site.firmware());
    const sites = new Map<string, PlanSite>();
    const poolOf = this.#provision.pools();
    return ({ host: { plan } }, planned) => {
      this.#emulator.beat();
      const site = sites.get(plan.ibDevice) ?? this.#site.planSite(plan.ibDevice);
      sites.set(plan.ibDevice, site);
      const pool = plan.vfId === null ? null : poolOf(plan.pfId, planned);
      return { ...site, virtQueuesMax, pool };
    };
  }

  /** Those of the devices that a request selects. */
  #selected(request: DeviceSelector): Device[] {
    const named = this.#devices().map((device) => ({ ...identityOf(device), device }));
    return selectDevices(named, request).map(({ device }) => device);
  }

  /** What is shown of some devices. */
  #facts(shown: readonly Device[]): DeviceFacts[] {
    const { vfsPerPf } = firmwareLimits(this.#site.firmware());
    const speeds = new Map<string, number | null>();
    const enabled = new Map<number, number>();
    for (const { pfId, vfId, ibDevice } of this.#devices().map(({ host }) => host.plan)) {
      if (vfId !== null) enabled.set(pfId, (enabled.get(pfId) ?? 0) + 1);
      if (!speeds.has(ibDevice)) speeds.set(ibDevice, this.#site.uplinkSpeed(ibDevice));
    }
    const poolOf = this.#provision.pools();
    return shown.map(({ host }) => {
      this.#emulator.beat();
      const { kind, pfId, vfId, ibDevice } = host.plan;
      return deviceFacts(host, {
        beat: this.#emulator.beat,
        uplinkSpeed: speeds.get(ibDevice) ?? null,
        maxVfs: kind === FunctionKind.STATIC_PF ? vfsPerPf : 0,
        enabledVfs: vfId === null ? (enabled.get(pfId) ?? 0) : 0,
        vfPool: kind === FunctionKind.STATIC_PF ? poolOf(pfId) : null,
      });
    });
  }
}
