/**
 * session-rings.ts: the frontend's ring messages, carried out.
 *
 * Theory
 *   See vring.ts for when a ring starts. While it runs, its eventfds and its enabled state may change; its size, base
 *   and place may not, except by a change of memory, which stops and starts it here.
 *
 * Ownership
 *   setKick, setCall and setError take the descriptor they keep out of the list they are given; the rest of the list
 *   stays the caller's. A descriptor that was replaced is closed after the device has been told.
 *
 * Invariants
 *   I1  a running ring has size, addresses, kick and accepted features.
 *   I2  after a call eventfd was replaced on a running ring it is signalled once: the device may have signalled the
 *       old one last.
 *   I3  after a start the kick eventfd is signalled once: the driver's kick may be older than the start.
 */
import { Errno } from '@virtnet/wire';
import type { VhostBackendDevice } from './device.js';
import { RING_SIZE_MAX } from './limits.js';
import { type GuestRegion, type MemoryTable, touches } from './memory-table.js';
import type { VringAddress } from './requests.js';
import { hex, restoreAddresses, type SavedRing, savedFdName } from './saved-session.js';
import { newVring, placeRing, type RingPlace, type RingSetup, ringParts, type Vring } from './vring.js';

/** What the session needs from the process. */
export interface SessionPorts {
  closeFd(fd: number): void;
  /** Whether it is an eventfd, which can be signalled without ever waiting. */
  usableEventfd(fd: number): boolean;
  /** Adds one to an eventfd. */
  signal(fd: number): void;
  /** Whether both descriptors are of the same file. */
  sameFile(a: number, b: number): boolean;
  /** A ring could not be started again after memory changed, though no request says so. */
  ringLost(index: number, errno: number): void;
  /** A request was not granted, and the frontend will be told so. */
  declined(request: number, errno: number): void;
}

/** What SET_FEATURES settled. */
export interface AcceptedFeatures {
  readonly accepted: bigint;
  readonly packed: boolean;
  /** Without PROTOCOL_FEATURES a ring is enabled from its start. */
  readonly enabledFromStart: boolean;
}

const SPLIT_BASE_MAX = 0xffff;

export class SessionRings {
  readonly #device: VhostBackendDevice;
  readonly #table: MemoryTable;
  readonly #ports: SessionPorts;
  readonly #rings: Vring[];
  readonly #places = new Map<Vring, RingPlace>();
  #features: AcceptedFeatures | null = null;

  constructor(device: VhostBackendDevice, table: MemoryTable, ports: SessionPorts) {
    this.#device = device;
    this.#table = table;
    this.#ports = ports;
    this.#rings = Array.from({ length: device.profile.queueCount }, newVring);
  }

  /** -EBUSY when they differ from those that running rings use. */
  setFeatures(features: AcceptedFeatures): number {
    const changed = this.#features?.accepted !== features.accepted;
    if (changed && this.#rings.some((ring) => ring.running)) return -Errno.EBUSY;
    this.#features = features;
    return 0;
  }

  async setSize(index: number, size: number): Promise<number> {
    const ring = this.#rings[index];
    if (ring === undefined) return -Errno.EINVAL;
    if (ring.running) return ring.size === size ? 0 : -Errno.EBUSY;
    if (size === 0 || size > Math.min(RING_SIZE_MAX, this.#device.profile.queueSizeMax)) return -Errno.EINVAL;
    if (!this.#packed && (size & (size - 1)) !== 0) return -Errno.EINVAL;
    ring.size = size;
    return this.#startIfComplete(index);
  }

  async setAddresses(addresses: VringAddress): Promise<number> {
    const ring = this.#rings[addresses.index];
    // The only flag asks for logging, which is not offered.
    if (ring === undefined || addresses.flags !== 0) return -Errno.EINVAL;
    if (ring.running) return sameAddresses(ring.addresses!, addresses) ? 0 : -Errno.EBUSY;
    ring.addresses = addresses;
    return this.#startIfComplete(addresses.index);
  }

  setBase(index: number, base: number): number {
    const ring = this.#rings[index];
    if (ring === undefined || (!this.#packed && base > SPLIT_BASE_MAX)) return -Errno.EINVAL;
    if (ring.running) return -Errno.EBUSY;
    ring.base = base;
    return 0;
  }

  async setKick(index: number, fds: number[]): Promise<number> {
    const ring = this.#rings[index];
    if (ring === undefined || !this.#usable(fds)) return -Errno.EINVAL;
    const old = ring.kickFd;
    ring.kickFd = fds.shift() ?? null;
    const result = ring.running
      ? await this.#device.setRingKick(index, ring.kickFd)
      : await this.#startIfComplete(index);
    this.#closeFd(old);
    return result;
  }

  async setCall(index: number, fds: number[]): Promise<number> {
    const ring = this.#rings[index];
    if (ring === undefined || !this.#usable(fds)) return -Errno.EINVAL;
    const old = ring.callFd;
    ring.callFd = fds.shift() ?? null;
    let result = 0;
    if (ring.running) {
      result = await this.#device.setRingCall(index, ring.callFd);
      if (ring.callFd !== null) this.#ports.signal(ring.callFd);
    }
    this.#closeFd(old);
    return result;
  }

  setError(index: number, fds: number[]): number {
    const ring = this.#rings[index];
    if (ring === undefined || !this.#usable(fds)) return -Errno.EINVAL;
    this.#closeFd(ring.errorFd);
    ring.errorFd = fds.shift() ?? null;
    return 0;
  }

  async setEnabled(index: number, value: number): Promise<number> {
    const ring = this.#rings[index];
    if (ring === undefined || value > 1) return -Errno.EINVAL;
    ring.enableRequested = value === 1;
    return ring.running ? this.#device.setRingEnabled(index, ring.enableRequested) : 0;
  }

  /** Stops a ring; it needs a new kick to start again. The base it would go on from, or -errno. */
  async stop(index: number): Promise<number> {
    const ring = this.#rings[index];
    if (ring === undefined) return -Errno.EINVAL;
    const result = await this.#halt(index);
    this.#closeFd(ring.kickFd);
    ring.kickFd = undefined;
    return result < 0 ? result : ring.base;
  }

  /** Stops every ring as `stop` does. 0, or the last -errno. */
  async stopAll(): Promise<number> {
    let result = 0;
    for (const index of this.#rings.keys()) result = Math.min(await this.stop(index), result);
    return result;
  }

  /** Stops the running rings with a part in one of these regions; `startPending` starts them again. */
  async suspendTouching(regions: readonly GuestRegion[]): Promise<void> {
    for (const [index, ring] of this.#rings.entries())
      if (ring.running && regions.some((region) => this.#touches(ring, region))) await this.#halt(index);
  }

  /** Starts what became complete by a change of memory. A failure is told through `ringLost`. */
  async startPending(): Promise<void> {
    for (const index of this.#rings.keys()) {
      const result = await this.#startIfComplete(index);
      if (result < 0) this.lost(index, -result);
    }
  }

  /** Tells frontend and log that a ring is not worked any more. */
  lost(index: number, errno: number): void {
    const errorFd = this.#rings[index]?.errorFd ?? null;
    if (errorFd !== null) this.#ports.signal(errorFd);
    this.#ports.ringLost(index, errno);
  }

  /** The device works no ring any more, though it was not told to stop. */
  lostAll(errno: number): void {
    for (const [index, ring] of this.#rings.entries()) if (ring.running) this.lost(index, errno);
  }

  /** After a reset of the device: nothing runs, and all that was said is forgotten. */
  forget(): void {
    this.closeAll();
    this.#features = null;
    for (const ring of this.#rings) Object.assign(ring, newVring());
  }

  /** Closes every descriptor; the device has let go of them. */
  closeAll(): void {
    for (const ring of this.#rings) {
      for (const fd of [ring.kickFd, ring.callFd, ring.errorFd]) this.#closeFd(fd);
      Object.assign(ring, { kickFd: undefined, callFd: null, errorFd: null, running: false });
    }
    this.#places.clear();
  }

  get features(): AcceptedFeatures | null {
    return this.#features;
  }

  /** What the device was told of the rings that run. */
  setups(): RingSetup[] {
    return [...this.#places].map(([ring, place]) =>
      setupOf(this.#rings.indexOf(ring), ring, place, this.#features!),
    );
  }

  /** What is known of rings, and their descriptors into `fds`, which stay theirs. */
  save(fds: Map<string, number>): SavedRing[] {
    const saved: SavedRing[] = [];
    for (const [index, ring] of this.#rings.entries()) {
      const { size, base, addresses, kickFd, callFd, errorFd, enableRequested, running } = ring;
      if (typeof kickFd === 'number') fds.set(savedFdName.kick(index), kickFd);
      if (callFd !== null) fds.set(savedFdName.call(index), callFd);
      if (errorFd !== null) fds.set(savedFdName.error(index), errorFd);
      const touched = size > 0 || base > 0 || addresses !== null || kickFd !== undefined;
      if (!touched && callFd === null && errorFd === null && enableRequested === undefined) continue;
      saved.push({
        index,
        size,
        base,
        addresses: addresses && {
          descriptor: hex(addresses.descriptor),
          available: hex(addresses.available),
          used: hex(addresses.used),
        },
        kick: kickFd === undefined ? 'unset' : kickFd === null ? 'polled' : 'eventfd',
        call: callFd !== null,
        error: errorFd !== null,
        enableRequested: enableRequested ?? null,
        running,
      });
    }
    return saved;
  }

  /**
   * Takes back what was saved, into rings of which nothing is known yet; the table is whole already. False when it
   * makes no sense. Descriptors that `take` gave are this object's either way.
   */
  restore(
    saved: readonly SavedRing[],
    features: AcceptedFeatures | null,
    take: (name: string) => number | undefined,
  ): boolean {
    this.#features = features;
    return saved.every((entry) => this.#restoreRing(entry, take));
  }

  #restoreRing(saved: SavedRing, take: (name: string) => number | undefined): boolean {
    const { index, size, base, kick, enableRequested } = saved;
    const ring = this.#rings[index];
    if (ring === undefined) return false;
    ring.size = size;
    ring.base = base;
    ring.addresses = restoreAddresses(index, saved.addresses);
    ring.kickFd = kick === 'polled' ? null : kick === 'eventfd' ? take(savedFdName.kick(index)) : undefined;
    ring.callFd = (saved.call ? take(savedFdName.call(index)) : null) ?? null;
    ring.errorFd = (saved.error ? take(savedFdName.error(index)) : null) ?? null;
    ring.enableRequested = enableRequested ?? undefined;
    const lacking =
      (kick === 'eventfd' && ring.kickFd === undefined) ||
      (saved.call && ring.callFd === null) ||
      (saved.error && ring.errorFd === null);
    if (lacking) return false;
    if (!saved.running) return true;
    if (size === 0 || ring.addresses === null || ring.kickFd === undefined || this.#features === null)
      return false;
    const place = placeRing(ring, ring.addresses, this.#table, this.#features.packed);
    if (typeof place === 'number') return false;
    ring.running = true;
    this.#places.set(ring, place);
    return true;
  }

  get #packed(): boolean {
    return this.#features?.packed ?? false;
  }

  async #startIfComplete(index: number): Promise<number> {
    const ring = this.#rings[index]!;
    const features = this.#features;
    if (ring.running || ring.size === 0 || ring.addresses === null || ring.kickFd === undefined) return 0;
    if (features === null || this.#table.regions.length === 0) return 0;
    const { requiredFeatures } = this.#device.profile;
    if ((features.accepted & requiredFeatures) !== requiredFeatures) return -Errno.EOPNOTSUPP;
    const place = placeRing(ring, ring.addresses, this.#table, features.packed);
    if (typeof place === 'number') return place;
    const result = await this.#device.startRing(setupOf(index, ring, place, features));
    if (result < 0) return result;
    ring.running = true;
    this.#places.set(ring, place);
    if (ring.kickFd !== null) this.#ports.signal(ring.kickFd);
    return 0;
  }

  /** Stops a running ring and remembers where. 0 or -errno; it does not run afterwards either way. */
  async #halt(index: number): Promise<number> {
    const ring = this.#rings[index]!;
    if (!ring.running) return 0;
    const base = await this.#device.stopRing(index);
    ring.running = false;
    this.#places.delete(ring);
    if (base < 0) return base;
    ring.base = base;
    return 0;
  }

  #touches(ring: Vring, region: GuestRegion): boolean {
    const place = this.#places.get(ring)!;
    const { descriptor, driver, device } = ringParts(ring.size, this.#packed);
    return (
      touches(region, place.descriptorAddress, descriptor[0]) ||
      touches(region, place.driverAddress, driver[0]) ||
      touches(region, place.deviceAddress, device[0])
    );
  }

  #usable(fds: readonly number[]): boolean {
    return fds.every((fd) => this.#ports.usableEventfd(fd));
  }

  #closeFd(fd: number | null | undefined): void {
    if (typeof fd === 'number') this.#ports.closeFd(fd);
  }
}

function setupOf(index: number, ring: Vring, place: RingPlace, features: AcceptedFeatures): RingSetup {
  return {
    ...place,
    index,
    size: ring.size,
    base: ring.base,
    kickFd: ring.kickFd ?? null,
    callFd: ring.callFd,
    enabled: ring.enableRequested ?? features.enabledFromStart,
    features: features.accepted,
    packed: features.packed,
  };
}

function sameAddresses(a: VringAddress, b: VringAddress): boolean {
  return a.descriptor === b.descriptor && a.available === b.available && a.used === b.used;
}
