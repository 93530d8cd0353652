/**
 * ring-room.ts: the memory that rings lay chains out in, which rings that are never in use at once may share.
 *
 * Theory
 *   Between two polls a ring needs none of it: take() and scan() lay chains out anew. It is several kilobytes, and most
 *   queues of most functions are idle. So an owner that works one queue at a time gives all its rings the same room. A
 *   frame that goes from one ring straight into another is in two rings at once: rings that are sent from have one room
 *   then, and rings that are received into another.
 *
 * Invariants
 *   I1  what one ring laid out is no longer used when another one of the same room takes, extends or scans.
 *
 * Limits  CHAIN_SEGMENTS_MAX segments; PLAIN_CHAINS_MAX plain chains.
 */
import { SeamEntry } from './indirect-table.js';
import { PLAIN_CHAINS_MAX } from './limits.js';

/** For current chains (chain.ts). */
export class ChainRoom {
  readonly segmentAddress: Float64Array;
  readonly segmentLength: Uint32Array;
  readonly segmentPiece: Int32Array;
  readonly segmentOffset: Int32Array;
  /** Of each chain: writable bytes up to its end, buffer id or head, and descriptors. */
  readonly chainEnds: Uint32Array;
  readonly ids: Uint16Array;
  readonly slots: Uint16Array;
  readonly seam = new SeamEntry();
  constructor(segmentsMax: number) {
    this.segmentAddress = new Float64Array(segmentsMax);
    this.segmentLength = new Uint32Array(segmentsMax);
    this.segmentPiece = new Int32Array(segmentsMax);
    this.segmentOffset = new Int32Array(segmentsMax);
    this.chainEnds = new Uint32Array(segmentsMax);
    this.ids = new Uint16Array(segmentsMax);
    this.slots = new Uint16Array(segmentsMax);
  }

  /** Segments there is room for. */
  get segmentsMax(): number {
    return this.segmentAddress.length;
  }
}

/** For a burst of plain chains (plain-chains.ts). */
export class PlainRoom {
  readonly pieces = new Int32Array(PLAIN_CHAINS_MAX);
  readonly offsets = new Int32Array(PLAIN_CHAINS_MAX);
  readonly lengths = new Int32Array(PLAIN_CHAINS_MAX);
  readonly ids = new Uint32Array(PLAIN_CHAINS_MAX);
}

/** What a ring is given to lay chains out in; what is absent it has for itself. */
export interface RingRooms {
  /** With as many segments as a chain of the ring may have, at least. */
  readonly chainRoom?: ChainRoom;
  /** Only for rings whose bursts end with the poll that began them. */
  readonly plainRoom?: PlainRoom;
}
