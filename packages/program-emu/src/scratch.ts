/**
 * scratch.ts: a worker's private memory for frames that come from no guest or go to none.
 *
 * It lies in the arena, like guests' memory, because copies within one buffer are the fastest there are
 * (chain-copy.ts). It costs address space until it is used.
 */
import { SINK_BYTES } from '@virtnet/engine-eswitch';
import { PrivateMemory } from '@virtnet/engine-virtqueue';
import type { ArenaPlace } from '@virtnet/host-linux';

/** Room for the largest frame with its header, rounded up. */
const FRAME_SLOT_BYTES = 68 * 1024;
/** Frames: a segment, one from the uplink, and the one a source repeats. */
const FRAMES = 3;

export const SCRATCH_BYTES = FRAMES * FRAME_SLOT_BYTES + SINK_BYTES;

export class Scratch {
  readonly segment: PrivateMemory;
  readonly uplink: PrivateMemory;
  readonly source: PrivateMemory;
  readonly sink: PrivateMemory;
  /** Process address of `uplink`. */
  readonly uplinkAddress: number;

  /** SCRATCH_BYTES from a place on. */
  constructor({ buffer, byteOffset, address }: ArenaPlace) {
    let next = byteOffset;
    const memory = (sizeBytes: number) => {
      const made = new PrivateMemory(sizeBytes, buffer, next);
      next += sizeBytes;
      return made;
    };
    this.segment = memory(FRAME_SLOT_BYTES);
    this.uplinkAddress = address + next - byteOffset;
    this.uplink = memory(FRAME_SLOT_BYTES);
    this.source = memory(FRAME_SLOT_BYTES);
    this.sink = memory(SINK_BYTES);
  }
}
