/** What a test may ask of the driver's side of a ring, split or packed. */

/** Buffers of one request in order: the device reads the first ones and writes the others. */
export interface ChainSpec {
  /** Contents of the readable buffers, one descriptor each. */
  readonly readable?: readonly Uint8Array[];
  /** Sizes in bytes of the writable buffers, one descriptor each. */
  readonly writable?: readonly number[];
}

export interface AddOptions {
  /** Index of the descriptor from which on the rest goes into an indirect table; absent: none does. */
  readonly indirectFrom?: number;
}

/** A chain the device gave back. */
export interface UsedChain {
  /** What `add` returned for it. */
  readonly id: number;
  /** Bytes the device says it wrote. */
  readonly lengthBytes: number;
  /** The writable buffers, joined, as they are now. Unwritten bytes are POISON. */
  readonly written: Uint8Array;
  /** Whether the readable buffers and an indirect table still hold what the driver put there. */
  readonly readableIntact: boolean;
}

/** What writable buffers hold before the device gets them. */
export const POISON = 0xa5;

export interface RingDriver {
  readonly queueSize: number;
  /** Lays a chain out and puts it into the ring, not yet visible; its id, or -1 when there is no room. */
  add(chain: ChainSpec, options?: AddOptions): number;
  /** Makes added chains visible; whether the device must be kicked. */
  publish(): boolean;
  /** Everything the device gave back since the last call. Error when it gave back what it did not have. */
  collect(): UsedChain[];
  /** Whether the device shall interrupt: never, or from the next used chain on. */
  wantInterrupts(wanted: boolean): void;
  /** Posts one chain whose only buffer is outside any memory. */
  addOutside(): number;
}
