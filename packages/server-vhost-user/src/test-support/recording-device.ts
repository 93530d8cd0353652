/** recording-device.ts: a device for tests: does nothing, remembers what it was told, refuses what it is told to. */
import { Errno } from '@virtnet/wire';
import type { BackendProfile, VhostBackendDevice } from '../device.js';
import { backendFeatures } from '../features.js';
import type { GuestRegion } from '../memory-table.js';
import type { RingSetup } from '../vring.js';

export class RecordingDevice implements VhostBackendDevice {
  readonly profile: BackendProfile;
  /** Every call, as `name argument…`. */
  readonly calls: string[] = [];
  readonly regions = new Set<GuestRegion>();
  readonly running = new Map<number, RingSetup>();
  /** Positions that stopRing answers, by ring; the base the ring was started with otherwise. */
  readonly positions = new Map<number, number>();
  /** Names of calls that answer -EIO. */
  readonly failing = new Set<string>();
  /** Awaited by every call, to hold the device up. */
  gate: Promise<void> = Promise.resolve();

  constructor(offer: bigint, profile: Partial<BackendProfile> = {}) {
    this.profile = {
      features: backendFeatures(offer),
      requiredFeatures: 0n,
      queueCount: 4,
      queueSizeMax: 1024,
      mtuMaxBytes: 1500,
      ...profile,
    };
  }

  async mapRegion(region: GuestRegion): Promise<number> {
    const result = await this.#did('mapRegion', `0x${region.guestAddress.toString(16)}`);
    if (result === 0) this.regions.add(region);
    return result;
  }

  async unmapRegion(region: GuestRegion): Promise<number> {
    this.regions.delete(region);
    return this.#did('unmapRegion', `0x${region.guestAddress.toString(16)}`);
  }

  async startRing(setup: RingSetup): Promise<number> {
    const result = await this.#did('startRing', setup.index);
    if (result === 0) this.running.set(setup.index, setup);
    return result;
  }

  async stopRing(index: number): Promise<number> {
    const base = this.positions.get(index) ?? this.running.get(index)?.base ?? 0;
    this.running.delete(index);
    const result = await this.#did('stopRing', index);
    return result < 0 ? result : base;
  }

  setRingEnabled(index: number, enabled: boolean): Promise<number> {
    this.#change(index, { enabled });
    return this.#did('setRingEnabled', index, enabled);
  }

  setRingCall(index: number, fd: number | null): Promise<number> {
    this.#change(index, { callFd: fd });
    return this.#did('setRingCall', index, fd === null ? 'none' : 'fd');
  }

  setRingKick(index: number, fd: number | null): Promise<number> {
    this.#change(index, { kickFd: fd });
    return this.#did('setRingKick', index, fd === null ? 'none' : 'fd');
  }

  reset(): Promise<number> {
    this.running.clear();
    return this.#did('reset');
  }

  async release(): Promise<void> {
    this.running.clear();
    this.regions.clear();
    await this.#did('release');
  }

  #change(index: number, change: Partial<RingSetup>): void {
    const setup = this.running.get(index);
    if (setup !== undefined) this.running.set(index, { ...setup, ...change });
  }

  async #did(name: string, ...facts: (string | number | boolean)[]): Promise<number> {
    this.calls.push([name, ...facts].join(' '));
    await this.gate;
    return this.failing.has(name) ? -Errno.EIO : 0;
  }
}
