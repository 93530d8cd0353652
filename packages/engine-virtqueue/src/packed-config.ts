/** What a packed ring is opened with. */
import type { GuestMemory } from './guest-memory.js';
import type { RingRooms } from './ring-room.js';

export interface PackedRingConfig extends RingRooms {
  /** Entries: any number up to PACKED_QUEUE_SIZE_MAX. */
  readonly queueSize: number;
  readonly memory: GuestMemory;
  readonly descriptorAddress: bigint;
  readonly driverAddress: bigint;
  readonly deviceAddress: bigint;
  /** INDIRECT_DESC was negotiated. */
  readonly indirect: boolean;
  /**
   * Every buffer of this queue is for the device to read: what an indirect table says of WRITE is ignored, since DPDK's
   * driver sets it for the header of each frame it transmits. Default false.
   */
  readonly readsOnly?: boolean;
  /** EVENT_IDX was negotiated. */
  readonly eventIdx: boolean;
  /** Where to go on: initialRingPosition for a ring just set up; null: resumeAt() says it later. */
  readonly position: number | null;
  /** Most segments the owner can take, at most CHAIN_SEGMENTS_MAX. */
  readonly chainSegmentsMax: number;
  /** Memory that survives with `position`; at least as many entries as chains may be current. */
  readonly journal: Uint32Array;
}
