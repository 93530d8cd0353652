/**
 * device.ts: the device behind a vhost-user backend, as the session sees it.
 */
import type { GuestRegion } from './memory-table.js';
import type { RingSetup } from './vring.js';

/** What does not change while a frontend is connected. */
export interface BackendProfile {
  /** Bits for GET_FEATURES (see backendFeatures). */
  readonly features: bigint;
  /** Bits a frontend must accept before a ring can start. */
  readonly requiredFeatures: bigint;
  /** Data queues. */
  readonly queueCount: number;
  /** Largest queue in entries. */
  readonly queueSizeMax: number;
  /** Largest MTU in bytes. */
  readonly mtuMaxBytes: number;
}

/**
 * A device worked on behalf of a frontend. Calls come one at a time, each after the previous one has settled. They
 * answer 0 (stopRing: a base) or a negative errno and do not reject. Descriptors stay the caller's, who keeps them
 * open until the call that withdraws or replaces them has settled.
 */
export interface VhostBackendDevice {
  readonly profile: BackendProfile;
  mapRegion(region: GuestRegion): Promise<number>;
  unmapRegion(region: GuestRegion): Promise<number>;
  /** Starts a ring. A device that cannot do it now, but will later, answers 0. */
  startRing(setup: RingSetup): Promise<number>;
  /** Stops a ring and tells the base it would go on from, an unsigned 32-bit number. */
  stopRing(index: number): Promise<number>;
  setRingEnabled(index: number, enabled: boolean): Promise<number>;
  setRingCall(index: number, fd: number | null): Promise<number>;
  setRingKick(index: number, fd: number | null): Promise<number>;
  /** Back to the initial state, every ring stopped; the memory stays. */
  reset(): Promise<number>;
  /** The frontend is gone: back to the initial state, without any memory. */
  release(): Promise<void>;
}
