/**
 * provision.ts: the functions that exist without anybody's asking now: static PFs, those of recovery files, and VFs.
 *
 * Theory
 *   Whoever becomes active compares what should exist with what does. The first emulator finds nothing and makes
 *   everything; a successor makes what its predecessor did not get to, and gives each function without a recovery
 *   file one. VFs should exist in the number the host asked for last, which the host's state says.
 *   A hotplug PF that cannot be made again, since the configuration has no uplink for it or the host no room, keeps its
 *   place, its number and its file for the next start: somebody may mend what is in the way.
 *   What is made anew may find its former representor held still, for a moment, by who kept it for the service. It is
 *   waited for, NAME_FREE_MS for all functions that are made together.
 *   A hotplug PF is made again as the one its command asked for: the command may be sent again, since whoever carried it out
 *   died before it was answered, and is then answered with it.
 *   Making a function takes milliseconds of the main thread, so between two functions everybody else has a turn.
 *
 * Invariants
 *   I1  a function that cannot be made is reported and left out; it never keeps the others waiting.
 *   I2  VFs exist all or not at all: a PF that cannot have as many as the host asked for has none, and is told so. So it
 *       is with new VFs whose recovery files cannot be written. VFs that come back stay all the same: somebody may use
 *       them.
 *   I3  a function that is made anew takes nothing from one that is still to come back.
 *   I4  a function whose recovery file cannot be removed is not removed either, for it would come back. VFs are: the
 *       host's state says that there are none.
 */
import { randomBytes } from 'node:crypto';
import {
  type DeviceIdentity,
  type DevicePlan,
  type Failure,
  type FunctionDefaults,
  FunctionKind,
  failure,
  firmwareLimits,
  formatMac,
  isFailure,
  isUnsaved,
  NO_DEFAULTS,
  type PlanSite,
  planStaticPf,
  planVf,
  type Recovery,
  type Remembered,
  recoveredHotplug,
  recoveredPlan,
  representorName,
  staticPfDevice,
  uplinkAgain,
  uplinkPort,
  VF_SF_FIRST,
  VF_SF_LAST,
  type VfPool,
  type VfShare,
  vfPool,
  vfPoolRules,
} from '@virtnet/engine-control';
import { descriptorsAreScarce, interfaceExists } from '@virtnet/host-linux';
import { Errno } from '@virtnet/wire';
import type { ControlSite } from './control-site.js';
import { identityOf, makeDevice, NAME_FREE_MS, nameFree, unmakeDevice } from './device-maker.js';
import { DeviceTaps } from './device-taps.js';
import type { Device, Emulator } from './emulator.js';
import { NOTHING, type RecoveryStore } from './recovery-store.js';

/** In place of the id of a request. */
const REQUEST_ID = 'provision';

/** An address of one station that no manufacturer gave away. */
function randomMac(): string {
  const bytes = randomBytes(6);
  bytes[0] = (bytes[0]! & 0xfc) | 2;
  return formatMac(bytes);
}

/** Lets everything else that waits have its turn. */
function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** A representor without a function, or -errno. */
function newRepresentor(name: string): DeviceTaps | number {
  if (interfaceExists(name)) return -Errno.EEXIST;
  return descriptorsAreScarce() ? -Errno.EMFILE : DeviceTaps.create(name, 1);
}

/** A static PF that the firmware wants and that could not be made. */
export interface PfNotMade {
  readonly pfId: number;
  readonly failure: Failure;
}

export class Provision {
  readonly #emulator: Emulator;
  readonly #site: ControlSite;
  readonly #recovery: RecoveryStore;
  readonly #staticDefaults: FunctionDefaults;
  readonly #vfDefaults: FunctionDefaults;
  readonly #ibDevice: string;
  /** What hotplug PFs would be that could not be made again, and which command asked for them. */
  #leftOut: readonly { readonly plan: DevicePlan; readonly requestId: string | undefined }[] = [];

  constructor(emulator: Emulator, site: ControlSite, recovery: RecoveryStore) {
    this.#emulator = emulator;
    this.#site = site;
    this.#recovery = recovery;
    const { conf } = emulator;
    this.#ibDevice = staticPfDevice(conf);
    const { mac_base: pfMac, features: pfFeatures } = conf.static_pf;
    this.#staticDefaults = { ...NO_DEFAULTS, macBase: pfMac, features: pfFeatures };
    this.#vfDefaults = {
      macBase: conf.vf.mac_base,
      features: conf.vf.features,
      queuePairs: conf.vf.max_queue_pairs,
      queueSize: conf.vf.max_queue_size,
      vfsPerPf: conf.vf.vfs_per_pf,
    };
  }

  get plans(): DevicePlan[] {
    return [...this.#emulator.devices.values()].map(({ host }) => host.plan);
  }

  /** Functions that exist, and those that a later start may make again. */
  get allPlans(): DevicePlan[] {
    return [...this.plans, ...this.#leftOut.map(({ plan }) => plan)];
  }

  /** Commands that asked for functions that exist, or that a later start may make again. */
  get #requests(): Map<string, string> {
    const hosts = [...this.#emulator.devices.values()].map(({ host }) => host);
    const asked = hosts.filter(({ requestId }) => requestId !== REQUEST_ID);
    const left = this.#leftOut.flatMap(({ plan, requestId }) =>
      requestId === undefined ? [] : [[plan.vuid, requestId] as const],
    );
    return new Map([...left, ...asked.map(({ vuid, requestId }) => [vuid, requestId] as const)]);
  }

  /**
   * Gives up what `requestId` asked for and could not be made again, since that is asked for once more. False: its recovery
   * file cannot be removed, and it would come back beside the new one.
   */
  async giveUp(requestId: string): Promise<boolean> {
    const given = this.#leftOut.filter((left) => left.requestId === requestId);
    if (!(await this.forget(given.map(({ plan }) => plan)))) return false;
    this.#leftOut = this.#leftOut.filter((left) => !given.includes(left));
    return true;
  }

  /** VFs of static PF `pfId` that exist, by number. */
  vfsOf(pfId: number): Device[] {
    return [...this.#emulator.devices.values()]
      .filter(({ host }) => host.plan.vfId !== null && host.plan.pfId === pfId)
      .sort((a, b) => a.host.plan.vfId! - b.host.plan.vfId!);
  }

  /** Tells the pool of a static PF, null without VFs; `planned` are shares that VFs will have, by VUID. */
  pools(): (pfId: number, planned?: ReadonlyMap<string, VfShare>) => VfPool | null {
    const rules = vfPoolRules(firmwareLimits(this.#site.firmware()), this.#vfDefaults);
    const vfs = Map.groupBy(
      this.plans.filter(({ vfId }) => vfId !== null),
      ({ pfId }) => pfId,
    );
    return (pfId, planned) => {
      const shares = vfs.get(pfId)?.map((plan) => planned?.get(plan.vuid) ?? plan);
      return shares === undefined ? null : vfPool(rules, shares);
    };
  }

  /**
   * What the files know of functions that exist and of those that do not. While the firmware's store cannot be read, its
   * values are those under which the functions were made.
   */
  async remembered(): Promise<Remembered> {
    const stored = this.#site.storedFirmware();
    const remembered = await this.#recovery.load(stored);
    if (stored === null) {
      const { firmware } = this.#recovery;
      if (firmware !== null) this.#site.believe(firmware);
      const { fwconfig: path, devices } = this.#emulator.paths;
      const values = firmware !== null ? devices : this.#site.knowsFirmware ? 'when it could be' : 'initial';
      this.#error('the firmware store cannot be read: nothing that was saved is removed over that', {
        path,
        values,
      });
    }
    return remembered;
  }

  /** Makes the static PFs that do not exist. Returns those that could not be made, which the log tells as well. */
  async staticPfs(remembered: Remembered): Promise<readonly PfNotMade[]> {
    const firmware = this.#site.firmware();
    const { staticPfs } = firmwareLimits(firmware);
    const notMade: PfNotMade[] = [];
    const deadline = performance.now() + NAME_FREE_MS;
    for (let pfId = 0; pfId < staticPfs; pfId++) {
      const devices = this.#identities();
      if (devices.some(({ kind, pfId: id }) => kind === FunctionKind.STATIC_PF && id === pfId)) continue;
      const place = this.#place();
      const fresh = planStaticPf(pfId, firmware, devices, place, this.#staticDefaults);
      const plan = isFailure(fresh) ? fresh : this.#recovered(fresh, remembered, devices, place);
      const made = isFailure(plan) ? plan : await this.#made(plan, deadline);
      if (isFailure(made)) {
        this.#error('a static PF could not be made', { pfId, reason: made.errstr });
        notMade.push({ pfId, failure: made });
      }
      await turn();
    }
    return notMade;
  }

  /** Makes the hotplug PFs of recovery files. */
  async hotplugPfs(remembered: Remembered): Promise<void> {
    this.#leftOut = [];
    const deadline = performance.now() + NAME_FREE_MS;
    for (const [vuid, recovery] of remembered.recoveries) {
      if (recovery.kind !== FunctionKind.HOTPLUG_PF || this.#emulator.devices.has(vuid)) continue;
      const failed = await this.#hotplugPf(vuid, recovery, remembered, deadline);
      if (failed !== null) this.#error('a hotplug PF could not be made again', { ...failed, vuid });
      await turn();
    }
  }

  /** Makes one; null, or why not. */
  async #hotplugPf(
    vuid: string,
    recovery: Recovery,
    { plans, requests }: Remembered,
    deadline: number,
  ): Promise<(Failure & { readonly reason: string }) | null> {
    const saved = plans.get(vuid) ?? null;
    const uplink = uplinkAgain(this.#emulator.conf, recovery.ibDevice);
    const ibDevice = uplink?.ibDevice ?? recovery.ibDevice;
    const site = this.#site.planSite(ibDevice);
    const firmware = this.#site.firmware();
    const plan = recoveredHotplug(vuid, recovery, ibDevice, saved, firmware, this.allPlans, site);
    if (typeof plan === 'string') return { ...failure('REC_CONFIG_LOAD'), reason: plan };
    const made =
      uplink === null
        ? failure('PORT_CTX_NOT_FOUND')
        : await this.#made(this.#cameBack(plan, recovery, saved), deadline, requests.get(vuid));
    if (!isFailure(made)) return null;
    this.#leftOut = [...this.#leftOut, { plan, requestId: requests.get(vuid) }];
    const reason = uplink === null ? `virtnet.conf has no ${ibDevice}` : made.errstr;
    return { ...made, reason };
  }

  /** Makes `count` VFs of a PF, those that do not exist. Null, or why there are none now (I2). */
  async makeVfs(pfId: number, count: number, remembered: Remembered = NOTHING): Promise<Failure | null> {
    const firmware = this.#site.firmware();
    const devices = this.#identities();
    const { sfsMax } = firmwareLimits(firmware);
    const present = new Set(this.vfsOf(pfId).map(({ host }) => host.plan.vfId));
    const missing = Array.from({ length: count }, (_, vfId) => vfId).filter((vfId) => !present.has(vfId));
    // Those that are there were judged when they were made.
    if (sfsMax !== null && missing.length > 0 && devices.length + missing.length > sfsMax)
      return failure('SF_CREATE');
    const place = { ...this.#place(), promisedSfs: this.#promisedSfs(remembered) };
    const deadline = performance.now() + NAME_FREE_MS;
    for (const vfId of missing) {
      const fresh = planVf(pfId, vfId, firmware, devices, { ...place, mac: randomMac() }, this.#vfDefaults);
      const plan = isFailure(fresh) ? fresh : this.#recovered(fresh, remembered, devices, place);
      const device = isFailure(plan) ? plan : await this.#made(plan, deadline);
      if (isFailure(device)) {
        this.#error('a VF could not be made: its PF gets none', { pfId, vfId, reason: device.errstr });
        await this.removeVfs(pfId);
        return device;
      }
      devices.push(identityOf(device));
      await turn();
    }
    this.showVfs(pfId);
    return null;
  }

  /** Gives new VFs of a PF their recovery files. Null, or why there are none now (I2). */
  async recordVfs(pfId: number): Promise<Failure | null> {
    if (await this.record(this.vfsOf(pfId).map(({ host }) => host.plan))) return null;
    this.#error('the recovery files of VFs could not be written: their PF gets none', { pfId });
    await this.removeVfs(pfId);
    return failure('REC_FILE_CREATE');
  }

  /** Removes all VFs of a PF. */
  async removeVfs(pfId: number): Promise<void> {
    const vfs = this.vfsOf(pfId);
    await this.#recovery.forget(vfs.map(({ host }) => host.vuid));
    for (const device of vfs.reverse()) {
      await unmakeDevice(this.#emulator, device);
      await turn();
    }
    this.showVfs(pfId);
    if (vfs.length > 0) {
      const text = `static PF[${pfId}], Unload (${vfs.length}) VFs finished`;
      this.#emulator.services.log('info', text);
    }
  }

  /**
   * Makes the representors of VFs ahead: of the SFs that there can be as many per cent as the configuration says,
   * counting those that VFs have.
   */
  async fillPool(): Promise<void> {
    const { conf, pool, devices } = this.#emulator;
    const { sfsMax } = firmwareLimits(this.#site.firmware());
    const port = uplinkPort(this.#ibDevice);
    if (conf.sf_pool_percent === 0 || (conf.software.representor ?? 'tap') !== 'tap' || port === null) return;
    if (sfsMax === null)
      return this.#error('no pool of SFs: the firmware does not say how many there can be', {});
    const used = new Set([...devices.values()].map(({ host }) => host.plan.representor));
    const count = Math.min(Math.floor((sfsMax * conf.sf_pool_percent) / 100), VF_SF_LAST - VF_SF_FIRST + 1);
    for (let sfNum = VF_SF_FIRST; sfNum < VF_SF_FIRST + count; sfNum++) {
      const name = representorName(port, sfNum);
      if (used.has(name) || pool.has(name)) continue;
      const taps = newRepresentor(name);
      if (typeof taps === 'number')
        return this.#error('the pool of SFs is smaller than it should be', { name, errno: -taps });
      pool.give(name, taps.release());
      await turn();
    }
  }

  /** Lets the PF's SR-IOV capability say how many VFs there are. */
  showVfs(pfId: number): void {
    const count = this.vfsOf(pfId).length;
    for (const { host } of this.#emulator.devices.values()) {
      if (host.plan.kind === FunctionKind.STATIC_PF && host.plan.pfId === pfId) host.fn.setVfs(count);
    }
  }

  /** Gives functions their recovery files; false when they could not be written. */
  save(plans: readonly DevicePlan[]): Promise<boolean> {
    return this.#recovery.save(plans, this.allPlans, this.#site.storedFirmware(), this.#requests);
  }

  /** Gives new functions their recovery files; false when one could not be written: then none has one. */
  async record(plans: readonly DevicePlan[]): Promise<boolean> {
    if (await this.save(plans)) return true;
    await this.#recovery.forget(plans.map(({ vuid }) => vuid));
    return false;
  }

  /**
   * Removes the recovery files of functions that are to be removed; false when one could not be. Then nothing has
   * changed: those that could be are written again (I4).
   */
  async forget(plans: readonly DevicePlan[]): Promise<boolean> {
    if (await this.#recovery.forget(plans.map(({ vuid }) => vuid))) return true;
    await this.save(plans);
    return false;
  }

  /**
   * Gives every function a recovery file that `remembered` has none of, or another; and has the firmware's values written
   * down where they were not known.
   */
  async saveMissing(remembered: Remembered): Promise<void> {
    if (!this.#recovery.enabled) return;
    const requests = this.#requests;
    const unsaved = this.plans.filter((plan) => isUnsaved(plan, requests.get(plan.vuid), remembered));
    const isLearnt = this.#recovery.firmware === null && this.#site.storedFirmware() !== null;
    if (unsaved.length > 0 || isLearnt) await this.save(unsaved);
  }

  /** Makes a function, once its name is free or `deadline` has passed. */
  async #made(plan: DevicePlan, deadline: number, requestId = REQUEST_ID): Promise<Device | Failure> {
    await nameFree(this.#emulator, plan, deadline);
    return makeDevice(this.#emulator, plan, requestId);
  }

  /** SFs of functions that do not exist yet and will, by their files. */
  #promisedSfs({ recoveries }: Remembered): ReadonlySet<number> {
    const { devices } = this.#emulator;
    const coming = [...recoveries].filter(([vuid]) => !devices.has(vuid));
    return new Set(coming.map(([, { sfNum }]) => sfNum));
  }

  #recovered(
    fresh: DevicePlan,
    { recoveries, plans }: Remembered,
    devices: readonly DeviceIdentity[],
    { supportedFeatures }: PlanSite,
  ): DevicePlan {
    const recovery = recoveries.get(fresh.vuid);
    if (recovery === undefined) return fresh;
    const saved = plans.get(fresh.vuid) ?? null;
    const plan = recoveredPlan(fresh, recovery, saved, devices, supportedFeatures);
    if (typeof plan !== 'string') return this.#cameBack(plan, recovery, saved);
    this.#error('a recovery file does not fit: the function is made anew', {
      ...failure('REC_CONFIG_LOAD'),
      vuid: fresh.vuid,
      reason: plan,
    });
    return fresh;
  }

  /** `plan`, of which it is said what is not as it was: nobody changed that but this start. */
  #cameBack(plan: DevicePlan, recovery: Recovery, saved: DevicePlan | null): DevicePlan {
    const { vuid, features, ibDevice } = plan;
    if (saved !== null && saved.features !== features) {
      const facts = { ...failure('REC_CONFIG_LOAD'), vuid, saved: saved.features, features };
      this.#error('the features that were saved cannot be offered here: the function offers others', facts);
    }
    if (recovery.ibDevice !== ibDevice) {
      const facts = { vuid, before: recovery.ibDevice, now: ibDevice };
      this.#emulator.services.log('info', 'a function is on another uplink now', facts);
    }
    return plan;
  }

  #place() {
    const ibDevice = this.#ibDevice;
    return { ...this.#site.planSite(ibDevice), ibDevice, mac: randomMac(), sfNum: null };
  }

  #identities(): DeviceIdentity[] {
    return [...this.#emulator.devices.values()].map(identityOf);
  }

  #error(message: string, facts: Record<string, unknown>): void {
    this.#emulator.services.log('error', message, facts);
  }
}
