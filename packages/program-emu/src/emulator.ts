/**
 * emulator.ts: the life of one emulator process.
 *
 * Theory
 *   Every emulator starts as a standby: it subscribes to the state keeper, maps what the active one maps, and lets
 *   its workers compile their loops. It becomes active when the controller says so, or by itself when the active one
 *   is gone: the keeper has told everything the active one sent (lease lost) and the kernel says that the process is
 *   dead (pidfd). Then it builds every device from its mirror, continues the rings, and only after that takes the
 *   sockets over, since a guest's packets are more urgent than its registers. Functions that nobody is connected to
 *   wait until all others are served: a thousand idle VFs lengthen no guest's pause.
 *   A planned handover moves device by device while both processes live (handover.ts). Its destination stands by in
 *   reserve: who succeeds an owner that dies is the ordinary standby's business (owners.ts).
 *
 * States      standby -> active -> ended; standby -> ended
 *   active -> standby      only by laying the lease down (pass), without a device left; what follows is its end.
 *
 * Invariants
 *   I1  no ring is touched before the predecessor is dead and the lease is held (or no keeper is there to ask).
 *   I2  a device that cannot be restored is reported and left out; it never keeps the others waiting.
 *
 * Limits  limits.ts
 */
import { readdirSync, rmSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { VirtnetConf } from '@virtnet/engine-control';
import { Owners, own } from '@virtnet/engine-recovery';
import { type Logger, RpcError, type ShelfClient, type VirtnetPaths } from '@virtnet/host-ipc';
import { type Arena, GROUP_MAX, type Poller, removeInterfaces } from '@virtnet/host-linux';
import type { ServerConnectionOptions } from '@virtnet/server-vfio-user';
import { Errno } from '@virtnet/wire';
import { askedFirst } from './asked-first.js';
import type { Datapath } from './datapath.js';
import { DeviceEndpoint } from './device-endpoint.js';
import { pciAddress } from './device-factory.js';
import type { DeviceHost } from './device-host.js';
import type { HostServices } from './device-parts.js';
import { prepareDevice, restoreDevice } from './device-restore.js';
import { DeviceStore } from './device-store.js';
import { Handover } from './handover.js';
import { checkMirror } from './handover-check.js';
import { MakingAhead } from './making-ahead.js';
import { type DeviceMirror, Mirror } from './mirror.js';
import { finishChange } from './modify-device.js';
import { ownerPorts } from './owner-watch.js';
import { Precedence } from './precedence.js';
import { type Death, type Left, leftBy, Recoveries } from './recoveries.js';
import { rehearse } from './rehearsal.js';
import type { Device } from './served-device.js';
import { SfPool } from './sf-pool.js';
import { shelfNames } from './shelf-names.js';
import { forgetMarks, Suspects, type Verdict } from './suspects.js';
import { Unplugged } from './unplugged.js';
import { UplinkMonitor } from './uplink-monitor.js';
import { UplinkTaps } from './uplink-taps.js';

/** Why a standby becomes active: nobody was before, somebody died, somebody handed everything over. */
export type PromotionReason = 'first' | 'crash' | 'update';

export type { Device };

export interface EmulatorParts {
  readonly arena: Arena;
  readonly poller: Poller;
  readonly datapath: Datapath;
  readonly shelf: ShelfClient;
  readonly replyRing: ServerConnectionOptions['replyRing'];
  readonly paths: VirtnetPaths;
  readonly log: Logger;
  /** The configuration in effect. */
  readonly conf: VirtnetConf;
  /** A destination of a handover: it does not succeed the active one by itself. */
  readonly reserve: boolean;
  /** Become ready without practising. */
  readonly urgent: boolean;
  /** The descriptor by which this process, and every other emulator, has its progress page; null: nobody watches. */
  readonly progressFd: number | null;
  /** Tells whoever watches that the main thread gets on; for what takes long in one go. */
  readonly beat: () => void;
}

interface Restored {
  readonly device: Device;
  readonly mirror: DeviceMirror;
  readonly session: unknown;
  readonly attached: Promise<void>;
  readonly left: Left;
}

export class Emulator {
  readonly devices = new Map<string, Device>();
  readonly unplugged: Unplugged;
  readonly arena: Arena;
  readonly paths: VirtnetPaths;
  readonly conf: VirtnetConf;
  readonly services: HostServices;
  readonly replyRing: ServerConnectionOptions['replyRing'];
  /** Representors that VFs left behind. */
  readonly pool: SfPool;
  readonly uplinkTaps: UplinkTaps;
  /** Called when this process has become the active one and every device it took over is served. */
  onActive: (reason: PromotionReason) => Promise<void> = () => Promise.resolve();
  readonly beat: () => void;
  readonly #urgent: boolean;
  readonly #shelf: ShelfClient;
  readonly #datapath: Datapath;
  readonly #log: Logger;
  readonly #mirror: Mirror;
  readonly #uplinks: UplinkMonitor;
  #role: 'standby' | 'active' = 'standby';
  #mirrored = false;
  #warm = false;
  readonly #precedence = new Precedence();
  #rehearsalFault: string | null = null;
  #takeoverMs: number | null = null;
  #promotion: Promise<void> | null = null;
  /** The keeper was asked for the lease. */
  #leased: Promise<number> | null = null;
  /** Resolved when every device is here: before that there is nothing to upload. */
  readonly #restored = Promise.withResolvers<void>();
  /** Who works the devices while this one stands by. */
  readonly #owners: Owners;
  /** It takes over only when it is told to. */
  #reserve: boolean;
  readonly #handover: Handover;
  readonly #suspects: Suspects<Restored>;
  readonly #recoveries: Recoveries;
  readonly #makingAhead: MakingAhead;
  /** What the keeper told at first was prepared. */
  #prepared = false;
  /** Nobody is held back any more. */
  #settled: Promise<void> = Promise.resolve();

  constructor(parts: EmulatorParts) {
    this.arena = parts.arena;
    this.paths = parts.paths;
    this.conf = parts.conf;
    this.replyRing = parts.replyRing;
    this.#recoveries = new Recoveries(this.devices, () => parts.datapath.getsOn());
    this.beat = parts.beat;
    this.#urgent = parts.urgent;
    this.#shelf = parts.shelf;
    this.#datapath = parts.datapath;
    this.#log = parts.log;
    this.#mirror = new Mirror(parts.arena);
    this.#owners = new Owners(
      ownerPorts(parts.poller, parts.progressFd, {
        bury: (pid, alone) => this.#bury(pid, alone),
        onAlone: (deadAt) => this.#takeOver(deadAt),
      }),
    );
    this.#reserve = parts.reserve;
    this.#makingAhead = new MakingAhead(this.#precedence, {
      wanted: () => this.#role === 'standby',
      one: () => {
        this.beat();
        return this.#mirror.prepareNext((mirror) => prepareDevice(mirror, this.services));
      },
      made: (more) => {
        if (!more) this.#prepared ||= this.#mirrored;
        this.#standByIfReady();
      },
    });
    this.#handover = new Handover(
      parts.shelf,
      (mirror) => this.#serve(mirror),
      this.devices,
      this.#precedence,
    );
    this.#uplinks = new UplinkMonitor(parts.conf, () => this.#hosts());
    const store = new DeviceStore(this.#shelf, (errno) =>
      this.#log.debug({ errno }, 'the state keeper is away; it will be uploaded to'),
    );
    this.unplugged = new Unplugged(store);
    this.pool = new SfPool(store);
    this.uplinkTaps = new UplinkTaps(store, (level, message, facts) => this.#log[level](facts, message));
    this.services = {
      datapath: parts.datapath,
      poller: parts.poller,
      store,
      sourceFrameBytes: parts.conf.software.source_frame_bytes,
      log: (level, message, facts) => this.#log[level](facts ?? {}, message),
    };
    this.#suspects = new Suspects(this.services.log, (restored) => this.#openLate(restored), this.devices);
  }

  get role(): 'standby' | 'active' {
    return this.#role;
  }

  /** It does not take over by itself. */
  get reserve(): boolean {
    return this.#reserve;
  }

  /** A standby is ready when it holds the whole mirror, has prepared it, and its loops are compiled. */
  get ready(): boolean {
    return this.#role === 'active'
      ? this.#promotion === null
      : this.#mirrored && this.#warm && this.#prepared;
  }

  /** It was told everything: it is active, or could be. */
  get informed(): boolean {
    return this.#role === 'active' || this.#mirrored;
  }

  /** Resolves when a promotion that is under way is over, and every device it takes over is here. */
  get whole(): Promise<void> {
    return (this.#promotion ?? Promise.resolve()).catch(() => undefined);
  }

  get takeoverMs(): number | null {
    return this.#takeoverMs;
  }

  get deviceCount(): number {
    return this.#role === 'active' ? this.devices.size : this.#mirror.size;
  }

  /** Begins to mirror the keeper's shelf and to warm up. */
  start(): void {
    this.uplinkTaps.open(this.conf);
    void this.#warmUp();
    this.#shelf.on('refused', (errno) => this.#log.error({ errno }, 'the state keeper refused a change'));
    this.#shelf.on('keeper-missing', () =>
      this.#log.warn('no state keeper comes: answers are given that a successor will not know of'),
    );
    this.#shelf.on('lost', (reason) => {
      this.#owners.unheard();
      if (this.#role === 'standby' && this.#leased !== null) {
        this.#leased = null;
        this.#shelf.withdraw();
      }
      if (this.#role === 'standby') this.#precedence.aside(); // everything is told anew
      this.#log.info({ reason }, 'state keeper lost');
    });
    this.#shelf.subscribe({
      onEntry: (name, blob, fd) => {
        this.#mirror.put(name, blob, fd);
        this.#makingAhead.later();
      },
      onDelete: (name) => {
        this.#mirror.delete(name);
        this.#makingAhead.later();
      },
      onSynced: (holderPid) => {
        this.#mirrored = true;
        this.#makingAhead.soon();
        this.#owners.synced(holderPid);
      },
      onLeaseHeld: (holderPid) => this.#owners.hold(holderPid),
      onLeaseLost: (holderPid) => this.#owners.lost(holderPid),
      onLent: (prefix, pid, note) => {
        if (pid === process.pid) this.#handover.lent(prefix, note, this.#mirror);
        else this.#owners.borrow(pid);
      },
    });
    if (!this.#reserve) this.#owners.arm();
    this.#shelf.start();
  }

  async #warmUp(): Promise<void> {
    await this.#datapath.ready;
    if (this.#urgent) {
      this.#warm = true;
      this.#standByIfReady();
      return;
    }
    const rounds = await rehearse(this.arena, this.services, this.replyRing);
    if (typeof rounds === 'number') this.#log.debug({ rounds }, 'rehearsed a takeover');
    else {
      this.#log.error({ reason: rounds.stack }, 'the rehearsal of a takeover failed');
      this.#rehearsalFault = rounds.message;
    }
    this.#warm = true;
    this.#standByIfReady();
  }

  #standByIfReady(): void {
    if (this.#role !== 'standby' || !this.ready || this.#precedence.standsBy) return;
    // Much was made, once: whoever runs in real time must not be stopped by its traces for a tenth of a second. Who is
    // waited for tidies up when V8 thinks fit.
    if (!this.#urgent) globalThis.gc?.();
    this.#standBy();
  }

  #standBy(): void {
    if (!this.#precedence.standBy()) this.#log.debug('no precedence over other processes (CAP_SYS_NICE)');
  }

  /**
   * Becomes active. The caller vouches that no other active process lives; the keeper's grant of the lease comes
   * behind everything the former one sent. Rejects when somebody else holds the lease. Idempotent.
   */
  promote(reason: PromotionReason): Promise<void> {
    this.#promotion ??= this.#role === 'active' ? null : this.#becomeActive(reason, null, false);
    return this.#promotion ?? Promise.resolve();
  }

  /** The controller says why emulators died. */
  verdicts(verdicts: readonly (Verdict & Death)[]): void {
    this.#suspects.verdicts(verdicts);
    void this.#recoveries.told(verdicts);
  }

  /** It is the one that takes over from now on. */
  stand(): void {
    this.#reserve = false;
    this.#owners.arm();
  }

  /** Devices and records that a handover to this process would meet, and what stands in its way. */
  check(supportedFeatures: bigint): string[] {
    const problems = this.#precedence.meanwhile(() =>
      checkMirror(this.#mirror.all(), supportedFeatures, this.beat),
    );
    if (this.#rehearsalFault !== null) problems.unshift(`self-test: ${this.#rehearsalFault}`);
    return problems;
  }

  /** Takes a device over that its owner is about to lend; resolves to how long nobody worked it, in milliseconds. */
  borrow(vuid: string): Promise<number> {
    this.#standBy();
    return this.#handover.borrow(vuid);
  }

  /** Hands a device to process `pid`, which expects it. */
  async lend(vuid: string, pid: number): Promise<void> {
    const device = this.devices.get(vuid);
    if (this.#role !== 'active' || device === undefined) throw new RpcError(-Errno.ENODEV, `no ${vuid} here`);
    await this.#settled; // a device that is held back has no connection yet that could be handed over
    await this.#handover.lend(device, pid);
  }

  /** Lays the lease down in favour of process `pid`, which has every device by now. */
  pass(pid: number): void {
    if (this.#role === 'active' && this.devices.size > 0)
      throw new RpcError(-Errno.EBUSY, `${this.devices.size} devices are still here`);
    if (this.#shelf.pass(pid) < 0)
      this.#log.warn({ pid }, 'the state keeper is away; the successor asks it itself');
    this.#handover.forget();
    this.#role = 'standby';
    this.uplinkTaps.release();
    this.#recoveries.stop();
    this.#mirrored = false; // it knows nothing any more and only waits for its end
    this.#uplinks.stop();
  }

  *#hosts(): Iterable<DeviceHost> {
    for (const { host } of this.devices.values()) yield host;
  }

  /** Ends every device; with `remove` they disappear from the keeper, and the host, as well. */
  async shutdown(remove: boolean): Promise<void> {
    this.#uplinks.stop();
    if (remove) {
      await this.removeAll();
      this.uplinkTaps.forget();
    }
    this.#owners.close();
    this.#makingAhead.stop();
    this.#suspects.close();
    this.#recoveries.stop();
    this.unplugged.close();
    this.#mirror.close();
    this.#shelf.close();
  }

  /** Lets go of what the workers used, after they have ended; whoever comes next hears that nobody died. */
  close(): void {
    for (const { page } of this.#hosts()) own(page.buffer, 0);
    this.uplinkTaps.close();
  }

  /** Ends every device and the pool. */
  async removeAll(): Promise<void> {
    const taps = [...this.#hosts()].filter(({ representor }) => representor === 'tap');
    this.#removeRepresentors([...taps.map(({ plan }) => plan.representor), ...this.pool.names]);
    for (const device of [...this.devices.values()]) {
      this.beat();
      await this.removeDevice(device);
    }
    this.pool.close();
  }

  /** Ends the pool; its representors are gone from the host. */
  destroyPool(): void {
    this.#removeRepresentors(this.pool.names);
    this.pool.close();
  }

  /** Files a new or restored device and begins to serve it. */
  addDevice(device: Device): void {
    own(device.host.page.buffer, process.pid);
    this.devices.set(device.host.vuid, device);
    this.#uplinks.joined(device.host);
  }

  /**
   * Ends a device and everything of it, as `requestId` asked for; its representor goes to the pool if it is to be kept.
   */
  async removeDevice(
    { host, endpoint }: Device,
    { requestId = null, keepTaps = false }: { requestId?: string | null; keepTaps?: boolean } = {},
  ): Promise<void> {
    this.devices.delete(host.vuid);
    endpoint.end();
    await host.destroy({ keepTaps });
    if (keepTaps) {
      host.taps.setCarrier(false);
      this.pool.give(host.plan.representor, host.taps.release());
    }
    const names = requestId === null ? [] : this.unplugged.remember(requestId);
    this.services.store.forget(host, shelfNames.device(host.vuid), names);
    try {
      unlinkSync(this.paths.pciSocket(pciAddress(host.plan.bdf)));
    } catch {
      // somebody removed it before
    }
  }

  /** `deadAt`: null when nobody here saw a death. `told`: the keeper has said that it told everything the dead one sent. */
  async #becomeActive(reason: PromotionReason, deadAt: number | null, told: boolean): Promise<void> {
    this.#recoveries.start(deadAt);
    this.#role = 'active';
    this.#standBy();
    this.#owners.close();
    // Whoever has just lost the keeper may lack what was said since: what it knows comes before its grant.
    if (!told) this.#shelf.start();
    const leased = this.#askLease();
    // Also of one that took this upon itself: the controller may have promoted another in the same instant.
    if ((await leased) === -Errno.EBUSY) {
      this.#role = 'standby';
      this.#promotion = null;
      this.#leased = null;
      throw new Error('another emulator is active');
    }
    this.uplinkTaps.serve(this.#datapath, this.#mirror.takeUplinkPages());
    this.pool.adopt(this.#mirror.takePool());
    this.unplugged.adopt(this.#mirror.unplugged);
    const mirrors = this.#mirror.take();
    const used = mirrors.filter(({ connectionFd }) => connectionFd >= 0);
    this.#suspects.begin(used);
    const restored = used.flatMap((mirror) => this.#restore(mirror, this.#suspects.examine(mirror)) ?? []);
    await Promise.all(restored.map(({ attached }) => attached));
    this.#takeoverMs = this.#recoveries.resumed(restored);
    this.#precedence.worked(this.#shelf.keeperPid);
    for (const each of askedFirst(restored)) await this.#resume(each, reason);
    this.#precedence.served();
    const open = restored.filter(({ mirror }) => !this.#suspects.heldBack(mirror));
    this.#settled = this.#suspects.settle(restored, !told);
    for (const { device } of open) {
      await this.#record(device);
      await nextTurn();
    }
    for (const mirror of mirrors) {
      if (used.includes(mirror)) continue;
      forgetMarks(mirror);
      const each = this.#restore(mirror);
      if (each === null) continue;
      await each.attached;
      await this.#resume(each, reason);
      await this.#record(each.device);
      await nextTurn();
    }
    for (const { plan } of this.#hosts()) this.pool.drop(plan.representor);
    if (reason === 'crash') this.#removeStaleSockets();
    this.#restored.resolve();
    this.#uplinks.start();
    const lease = await leased;
    if (lease < 0) this.#log.warn({ errno: -lease }, 'serving without the state keeper for now');
    if (reason === 'crash') {
      this.#log.warn({ devices: this.devices.size, takeoverMs: this.#takeoverMs }, 'took over');
    }
    await this.onActive(reason);
    this.#precedence.settled();
    this.#promotion = null;
  }

  #askLease(): Promise<number> {
    this.#leased ??= this.#shelf.lease(async () => {
      await this.#restored.promise;
      this.#upload();
    });
    return this.#leased;
  }

  /** Asks for the lease in the same breath if nobody else can be in the way: the keeper then answers both at once. */
  #bury(pid: number, alone: boolean): void {
    const { keeperPid } = this.#shelf;
    if (alone) this.#precedence.hurry(keeperPid);
    this.#shelf.bury(pid);
    if (alone && this.#mirrored && this.#role === 'standby' && keeperPid !== null) void this.#askLease();
  }

  /** Becomes active by itself. Where another one is already, this one, which fits nothing any more, ends (unhandled). */
  #takeOver(deadAt: number): void {
    if (this.#role === 'active' || this.#reserve) return;
    this.#promotion ??= this.#becomeActive('crash', deadAt, true);
  }

  /** Builds a device and continues its rings; null, and reported, when that cannot be done. */
  #restore(mirror: DeviceMirror, heldBack = false): Restored | null {
    this.beat();
    const result = restoreDevice(mirror, this.services);
    if (typeof result === 'string') {
      this.#log.error({ vuid: mirror.vuid, reason: result }, 'a device could not be recovered');
      mirror.close();
      return null;
    }
    const { host, record } = result;
    const endpoint = new DeviceEndpoint(host, mirror.listenerFd, this.services, this.replyRing);
    const device = { host, endpoint };
    const left = leftBy(host);
    this.addDevice(device);
    return { device, mirror, session: record.session, attached: host.adopt(record, heldBack), left };
  }

  async #resume(restored: Restored, reason: PromotionReason): Promise<void> {
    this.beat();
    if (reason !== 'update') this.#recoveries.count(restored.device, restored.left);
    if (!this.#suspects.heldBack(restored.mirror)) await this.#open(restored);
  }

  /** Takes the sockets over, of a device whose rings run. */
  async #open({ device: { host, endpoint }, mirror, session }: Restored): Promise<void> {
    await host.settle();
    if (mirror.connectionFd >= 0) endpoint.adopt(mirror.connectionFd, session);
    else if (mirror.memory.count > 0) await host.disconnected();
    endpoint.listen();
    host.commit(host.applied); // what the driver is about to see, if anything is new
  }

  /** Records that a device was taken over; its guest waits for that no longer. */
  async #record({ host }: Device): Promise<void> {
    if (this.devices.get(host.vuid)?.host !== host) return; // unplugged meanwhile
    this.beat();
    host.touch();
    host.commit(host.applied);
    if (host.settings.mtuPending) await finishChange(host);
  }

  /** The same for one that was held back: what a keeper was told meanwhile had no connection in it. */
  async #openLate(restored: Restored): Promise<void> {
    this.#recoveries.heldBack(restored.device);
    await this.#open(restored);
    restored.device.endpoint.upload();
    await this.#record(restored.device);
  }

  /** Serves one device that was lent; false when it cannot. */
  async #serve(mirror: DeviceMirror): Promise<(() => Promise<void>) | null> {
    const restored = this.#restore(mirror);
    if (restored === null) return null;
    await restored.attached;
    this.#recoveries.begin();
    return async () => {
      await this.#open(restored);
      await this.#record(restored.device);
    };
  }

  /** What a predecessor that died over an unplug or a hotplug left of devices that do not exist. */
  #removeStaleSockets(): void {
    const served = new Set(
      [...this.devices.values()].map(({ host }) => this.paths.pciSocket(pciAddress(host.plan.bdf))),
    );
    try {
      for (const name of readdirSync(this.paths.pci)) {
        const path = join(this.paths.pci, name);
        if (name.endsWith('.sock') && !served.has(path)) rmSync(path, { force: true });
      }
    } catch {
      // there is no directory as long as there was no device
    }
  }

  /** Removes many representors faster than closing them one by one does. What stays goes with its descriptors. */
  #removeRepresentors(names: readonly string[]): void {
    for (let from = 0; from < names.length; from += GROUP_MAX) {
      this.beat();
      removeInterfaces(names.slice(from, from + GROUP_MAX));
    }
  }

  /** Puts everything on a keeper that knows nothing. */
  #upload(): void {
    for (const { host, endpoint } of this.devices.values()) {
      this.beat();
      endpoint.upload();
      host.upload();
    }
    this.unplugged.upload();
    this.#handover.lendAgain();
    this.pool.upload();
    this.uplinkTaps.upload();
  }
}
