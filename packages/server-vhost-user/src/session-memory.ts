/**
 * session-memory.ts: the frontend's memory messages, carried out.
 *
 * Theory
 *   Removing comes before adding, because a region that changed its file keeps its guest address. Rings with a part in
 *   a removed region are stopped first and started again, at the place they had reached, once the change is done.
 *   QEMU before 9.1 adds and removes each region once for every queue pair, by messages that look the same. So a region
 *   that is there already is granted, and goes with as many removals as there were additions.
 *
 * Ownership
 *   Each call takes the descriptors of the regions it is given.
 *
 * Invariants
 *   I1  a region in the table is mapped in the device, with a descriptor that is open.
 *   I2  regions that stay are not touched: what runs in them goes on.
 */
import { Errno } from '@virtnet/wire';
import type { VhostBackendDevice } from './device.js';
import { type GuestRegion, MemoryTable } from './memory-table.js';
import type { RegionDescription } from './requests.js';
import { restoreRegion, type SavedRegion, savedFdName, saveRegion } from './saved-session.js';
import type { SessionPorts, SessionRings } from './session-rings.js';

export class SessionMemory {
  readonly table = new MemoryTable();
  readonly #device: VhostBackendDevice;
  readonly #ports: SessionPorts;
  /** Additions of a region beyond its first. */
  readonly #again = new Map<GuestRegion, number>();

  constructor(device: VhostBackendDevice, ports: SessionPorts) {
    this.#device = device;
    this.#ports = ports;
  }

  /** SET_MEM_TABLE. On failure the table holds what could be mapped. */
  async replace(next: readonly GuestRegion[], rings: SessionRings): Promise<number> {
    const change = this.table.planReplacement(next, this.#ports.sameFile);
    if (typeof change === 'number') {
      for (const region of next) this.#ports.closeFd(region.fd);
      return change;
    }
    for (const { sentFd } of change.kept) this.#ports.closeFd(sentFd);
    this.#again.clear();
    await rings.suspendTouching(change.removed);
    let result = 0;
    for (const region of change.removed) result = (await this.#take(region)) || result;
    for (const region of change.added) result = (await this.#put(region)) || result;
    await rings.startPending();
    return result;
  }

  /** ADD_MEM_REG. */
  async add(region: GuestRegion, rings: SessionRings): Promise<number> {
    const same = this.#same(region);
    if (same !== undefined) {
      this.#again.set(same, this.#addedAgain(same) + 1);
      this.#ports.closeFd(region.fd);
      return 0;
    }
    const result = await this.#put(region);
    if (result === 0) await rings.startPending();
    return result;
  }

  /** REM_MEM_REG. */
  async remove(description: RegionDescription, rings: SessionRings): Promise<number> {
    const region = this.table.find(description);
    if (region === undefined) return -Errno.ENOENT;
    if (this.#addedAgain(region) > 0) {
      this.#again.set(region, this.#addedAgain(region) - 1);
      return 0;
    }
    await rings.suspendTouching([region]);
    return this.#take(region);
  }

  /** The regions, and their descriptors into `fds`, which stay theirs. */
  save(fds: Map<string, number>): SavedRegion[] {
    return this.table.regions.map((region) => {
      fds.set(savedFdName.memory(region), region.fd);
      return saveRegion(region, this.#addedAgain(region));
    });
  }

  /** Takes back what was saved; the device has it. False when it makes no sense. `take` as in SessionRings. */
  restore(saved: readonly SavedRegion[], take: (name: string) => number | undefined): boolean {
    return saved.every((entry) => {
      const description = restoreRegion(entry);
      const fd = take(savedFdName.memory(description));
      if (fd === undefined) return false;
      const region = { ...description, fd };
      if (this.table.add(region) < 0) {
        this.#ports.closeFd(fd);
        return false;
      }
      if (entry.again > 0) this.#again.set(region, entry.again);
      return true;
    });
  }

  /** Closes every descriptor; the device has let go of them. */
  closeAll(): void {
    this.#again.clear();
    for (const region of this.table.clear()) this.#ports.closeFd(region.fd);
  }

  /** The region of the table that says the same as `region`. */
  #same(region: GuestRegion): GuestRegion | undefined {
    const known = this.table.find(region);
    if (known === undefined || known.mmapOffset !== region.mmapOffset) return undefined;
    return this.#ports.sameFile(known.fd, region.fd) ? known : undefined;
  }

  #addedAgain(region: GuestRegion): number {
    return this.#again.get(region) ?? 0;
  }

  async #put(region: GuestRegion): Promise<number> {
    let result = this.table.add(region);
    if (result === 0) {
      result = await this.#device.mapRegion(region);
      if (result < 0) this.table.remove(region);
    }
    if (result < 0) this.#ports.closeFd(region.fd);
    return result;
  }

  async #take(region: GuestRegion): Promise<number> {
    this.table.remove(region);
    this.#again.delete(region);
    const result = await this.#device.unmapRegion(region);
    this.#ports.closeFd(region.fd);
    return result;
  }
}
