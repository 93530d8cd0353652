/**
 * emulator.ts: the life of one emulator process.
 *
 * Theory
 *   Every emulator starts as a standby: it subscribes to the state keeper, maps what the active one maps, and lets
 *   its workers compile their loops. It becomes active when the controller says so, or by itself when the active one
 *   is gone: the keeper has told everything the active one sent (lease lost) and the kernel says that the process is
 *   dead (pidfd). Then it builds every device from its mirror, continues the rings, and only after that takes the
 *   sockets over, since a guest's packets are more urgent than its registers.
 *
 * States      standby -> active -> ended; standby -> ended
 *   active -> standby      Prohibited: another may be active by then.
 *
 * Invariants
 *   I1  no ring is touched before the predecessor is dead.
 *   I2  a device that cannot be restored is reported and left out; it never keeps the others waiting.
 *
 * Limits  limits.ts
 */
import { unlinkSync } from 'node:fs';
import type { VirtnetConf } from '@virtnet/engine-control';
import type { Logger, ShelfClient, VirtnetPaths } from '@virtnet/host-ipc';
import {
  type Arena,
  close,
  Nice,
  type Poller,
  pidfdOpen,
  setProcessNice,
  type Watch,
} from '@virtnet/host-linux';
import type { ServerConnectionOptions } from '@virtnet/server-vfio-user';
import { Errno, StatePageHeader } from '@virtnet/wire';
import type { Datapath } from './datapath.js';
import { DeviceEndpoint } from './device-endpoint.js';
import { pciAddress, restoreDevice } from './device-factory.js';
import type { DeviceHost, HostServices } from './device-host.js';
import { DeviceStore } from './device-store.js';
import { type DeviceMirror, Mirror } from './mirror.js';
import { rehearse } from './rehearsal.js';
import { shelfNames } from './shelf-names.js';

export interface Device {
  readonly host: DeviceHost;
  readonly endpoint: DeviceEndpoint;
}

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
}

const ROUND_MS_DIGITS = 3;

export class Emulator {
  readonly devices = new Map<string, Device>();
  readonly arena: Arena;
  readonly paths: VirtnetPaths;
  readonly conf: VirtnetConf;
  readonly services: HostServices;
  readonly replyRing: ServerConnectionOptions['replyRing'];
  readonly #shelf: ShelfClient;
  readonly #datapath: Datapath;
  readonly #poller: Poller;
  readonly #log: Logger;
  readonly #mirror: Mirror;
  #role: 'standby' | 'active' = 'standby';
  #mirrored = false;
  #warm = false;
  #ahead = false;
  #takeoverMs: number | null = null;
  #promotion: Promise<void> | null = null;
  /** The active process as this standby knows it. */
  #active: { pid: number; pidfd: number; watch: Watch; deadAt: number | null; leaseLost: boolean } | null =
    null;

  constructor(parts: EmulatorParts) {
    this.arena = parts.arena;
    this.paths = parts.paths;
    this.conf = parts.conf;
    this.replyRing = parts.replyRing;
    this.#shelf = parts.shelf;
    this.#datapath = parts.datapath;
    this.#poller = parts.poller;
    this.#log = parts.log;
    this.#mirror = new Mirror(parts.arena);
    const store = new DeviceStore(this.#shelf, (errno) =>
      this.#log.debug({ errno }, 'the state keeper is away; it will be uploaded to'),
    );
    this.services = {
      datapath: parts.datapath,
      poller: parts.poller,
      store,
      log: (level, message, facts) => this.#log[level](facts ?? {}, message),
    };
  }

  get role(): 'standby' | 'active' {
    return this.#role;
  }

  /** A standby is ready when it holds the whole mirror and its loops are compiled. */
  get ready(): boolean {
    return this.#role === 'active' ? this.#promotion === null : this.#mirrored && this.#warm;
  }

  get takeoverMs(): number | null {
    return this.#takeoverMs;
  }

  get deviceCount(): number {
    return this.#role === 'active' ? this.devices.size : this.#mirror.size;
  }

  /** Begins to mirror the keeper's shelf and to warm up. */
  start(): void {
    void this.#warmUp();
    this.#shelf.on('refused', (errno) => this.#log.error({ errno }, 'the state keeper refused a change'));
    this.#shelf.on('lost', (reason) => this.#log.info({ reason }, 'state keeper lost'));
    this.#shelf.subscribe({
      onEntry: (name, blob, fd) => this.#mirror.put(name, blob, fd),
      onDelete: (name) => this.#mirror.delete(name),
      onSynced: (holderPid) => {
        this.#mirrored = true;
        if (holderPid !== null) this.#watchActive(holderPid);
      },
      onLeaseHeld: (holderPid) => this.#watchActive(holderPid),
      onLeaseLost: (holderPid) => this.#leaseLost(holderPid),
    });
    this.#shelf.start();
  }

  async #warmUp(): Promise<void> {
    await this.#datapath.ready;
    const rounds = await rehearse(this.arena, this.services, this.replyRing);
    if (typeof rounds === 'number') this.#log.debug({ rounds }, 'rehearsed a takeover');
    else this.#log.error({ reason: rounds.stack }, 'the rehearsal of a takeover failed');
    this.#goAhead();
    this.#warm = true;
  }

  /** From now on a pause of this process may be a pause of every guest: its threads go before ordinary ones. */
  #goAhead(): void {
    if (this.#ahead) return;
    this.#ahead = true;
    if (!setProcessNice(Nice.PREFERRED)) this.#log.debug('no precedence over other processes (CAP_SYS_NICE)');
  }

  /**
   * Becomes active. The caller vouches that no other active process lives; the keeper's grant of the lease comes
   * behind everything the former one sent. Rejects when somebody else holds the lease. Idempotent.
   */
  promote(reason: 'first' | 'crash'): Promise<void> {
    this.#promotion ??= this.#role === 'active' ? null : this.#becomeActive(reason, performance.now(), false);
    return this.#promotion ?? Promise.resolve();
  }

  /** Ends every device; with `remove` they disappear from the keeper, and the host, as well. */
  async shutdown(remove: boolean): Promise<void> {
    for (const device of [...this.devices.values()]) {
      if (remove) await this.removeDevice(device);
    }
    this.#forgetActive();
    this.#mirror.close();
    this.#shelf.close();
  }

  /** Files a new or restored device and begins to serve it. */
  addDevice(device: Device): void {
    this.devices.set(device.host.vuid, device);
  }

  /** Ends a device and everything of it. */
  async removeDevice({ host, endpoint }: Device): Promise<void> {
    this.devices.delete(host.vuid);
    endpoint.end();
    await host.destroy();
    this.services.store.forget(host, shelfNames.device(host.vuid));
    try {
      unlinkSync(this.paths.pciSocket(pciAddress(host.plan.bdf)));
    } catch {
      // somebody removed it before
    }
  }

  #watchActive(pid: number): void {
    if (pid === process.pid || this.#active?.pid === pid) return;
    this.#forgetActive();
    const pidfd = pidfdOpen(pid);
    if (pidfd < 0) return; // dead before we could look: the controller promotes us
    const watch = this.#poller.watch(pidfd, { readable: true }, () => this.#activeDied());
    if (typeof watch === 'number') {
      close(pidfd);
      return;
    }
    this.#active = { pid, pidfd, watch, deadAt: null, leaseLost: false };
  }

  #forgetActive(): void {
    if (this.#active === null) return;
    this.#active.watch.close();
    close(this.#active.pidfd);
    this.#active = null;
  }

  #activeDied(): void {
    const active = this.#active;
    if (active === null) return;
    active.deadAt ??= performance.now();
    active.watch.close();
    this.#takeOverIfAlone();
  }

  #leaseLost(pid: number): void {
    if (this.#active?.pid !== pid) return;
    this.#active.leaseLost = true;
    this.#takeOverIfAlone();
  }

  #takeOverIfAlone(): void {
    const active = this.#active;
    if (active === null || active.deadAt === null || !active.leaseLost || this.#role === 'active') return;
    this.#promotion ??= this.#becomeActive('crash', active.deadAt, true);
  }

  /** `told`: the keeper has said already that it told everything the former active process sent. */
  async #becomeActive(reason: 'first' | 'crash', since: number, told: boolean): Promise<void> {
    this.#role = 'active';
    this.#goAhead();
    this.#forgetActive();
    const restoring = Promise.withResolvers<void>();
    const leased = this.#shelf.lease(async () => {
      await restoring.promise; // before that there is nothing to upload
      this.#upload();
    });
    if (!told && (await leased) === -Errno.EBUSY) {
      this.#role = 'standby';
      this.#promotion = null;
      throw new Error('another emulator is active');
    }
    const restored: { device: Device; mirror: DeviceMirror; session: unknown }[] = [];
    const attached: Promise<void>[] = [];
    for (const mirror of this.#mirror.take()) {
      const result = restoreDevice(mirror, this.services);
      if (typeof result === 'string') {
        this.#log.error({ vuid: mirror.vuid, reason: result }, 'a device could not be recovered');
        mirror.close();
        continue;
      }
      const { host, record } = result;
      const endpoint = new DeviceEndpoint(host, mirror.listenerFd, this.services, this.replyRing);
      const device = { host, endpoint };
      this.addDevice(device);
      attached.push(host.adopt(record));
      restored.push({ device, mirror, session: record.session });
    }
    await Promise.all(attached);
    restoring.resolve();
    this.#takeoverMs = Number((performance.now() - since).toFixed(ROUND_MS_DIGITS));
    for (const { device, mirror, session } of restored) {
      this.#countRecovery(device.host, reason);
      if (mirror.connectionFd >= 0) device.endpoint.adopt(mirror.connectionFd, session);
      else if (mirror.memory.count > 0) await device.host.disconnected();
      device.endpoint.listen();
      device.host.touch();
      device.host.commit(device.host.applied);
    }
    const lease = await leased;
    if (lease < 0) this.#log.warn({ errno: -lease }, 'serving without the state keeper for now');
    if (reason === 'crash') {
      this.#log.warn({ devices: this.devices.size, takeoverMs: this.#takeoverMs }, 'took over');
    }
    this.#promotion = null;
  }

  #countRecovery(host: DeviceHost, reason: 'first' | 'crash'): void {
    const words = new Uint32Array(host.page.buffer, 0, StatePageHeader.sizeBytes / 4);
    const at = StatePageHeader.at.takeovers / 4;
    words[at] = (words[at]! + 1) >>> 0;
    const { health } = host;
    health.recoveries++;
    health.lastCause = reason;
    health.lastPauseMs = this.#takeoverMs;
    health.maxPauseMs = Math.max(health.maxPauseMs ?? 0, this.#takeoverMs ?? 0);
  }

  /** Puts everything on a keeper that knows nothing. */
  #upload(): void {
    for (const { host, endpoint } of this.devices.values()) {
      endpoint.upload();
      host.upload();
    }
  }
}
