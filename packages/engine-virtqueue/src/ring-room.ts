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
import { ROOMS_AT, roomsMemory } from './copy-window.js';
import { SeamEntry } from './indirect-table.js';
import { PLAIN_CHAINS_MAX } from './limits.js';
import { PLAIN_ROOM_BYTES, RoomPart, SEGMENTS_BYTES, SegmentPart } from './window-layout.js';

/** For current chains (chain.ts). */
export class ChainRoom {
  /** Where lists of segments begin in the memory of rooms (SegmentPart of window-layout.ts); -1: they are elsewhere. */
  readonly place: number;
  /** Page of this thread's window that each segment's piece begins with; -1: it is elsewhere. */
  readonly segmentPage: Int32Array;
  readonly segmentAddress: Float64Array;
  readonly segmentLength: Uint32Array;
  readonly segmentPiece: Int32Array;
  readonly segmentOffset: Int32Array;
  /** Of each chain: writable bytes up to its end, buffer id or head, and descriptors. */
  readonly chainEnds: Uint32Array;
  readonly ids: Uint16Array;
  readonly slots: Uint16Array;
  readonly seam = new SeamEntry();

  /** `kept`: for as long as the thread lives, so it gets a place in its memory of rooms if there is one. */
  constructor(segmentsMax: number, kept = false) {
    const memory = kept ? roomsMemory() : null;
    this.place = takePlace(memory, SEGMENTS_BYTES);
    const buffer = memory !== null && this.place >= 0 ? memory : new ArrayBuffer(SEGMENTS_BYTES);
    const at = Math.max(this.place, 0);
    this.segmentPage = new Int32Array(buffer, at + SegmentPart.PAGES, segmentsMax);
    this.segmentOffset = new Int32Array(buffer, at + SegmentPart.OFFSETS, segmentsMax);
    this.segmentLength = new Uint32Array(buffer, at + SegmentPart.LENGTHS, segmentsMax);
    this.segmentPiece = new Int32Array(buffer, at + SegmentPart.PIECES, segmentsMax);
    this.segmentAddress = new Float64Array(segmentsMax);
    this.chainEnds = new Uint32Array(segmentsMax);
    this.ids = new Uint16Array(segmentsMax);
    this.slots = new Uint16Array(segmentsMax);
  }

  /** Segments there is room for. */
  get segmentsMax(): number {
    return this.segmentAddress.length;
  }
}

/** Where plain rooms were that were collected, in the memory of rooms; all from `fresh` on was never used. */
const free: number[] = [];
let fresh = 0;
let freshOf: ArrayBuffer | null = null;
const collected = new FinalizationRegistry<{ readonly memory: ArrayBuffer; readonly at: number }>(
  ({ memory, at }) => {
    if (memory === freshOf) free.push(at);
  },
);

/** Takes a place in this thread's memory for rooms; -1: there is none, or no memory. */
function takePlace(memory: ArrayBuffer | null, bytes: number): number {
  if (memory === null) return -1;
  if (memory !== freshOf) {
    freshOf = memory;
    fresh = ROOMS_AT;
    free.length = 0;
  }
  const at = bytes === PLAIN_ROOM_BYTES ? free.pop() : undefined;
  if (at !== undefined) return at;
  if (fresh + bytes > memory.byteLength) return -1;
  fresh += bytes;
  return fresh - bytes;
}

/**
 * For a burst of plain chains (plain-chains.ts). In the memory of rooms, if this thread has one with a place left, so that
 * WebAssembly can copy the burst (copy-window.ts). A thread that never comes back to its event loop gets no place back: it
 * has to use its rooms again itself.
 */
export class PlainRoom {
  /** Page of this thread's window that each chain's piece begins with; -1: it is elsewhere. */
  readonly pages: Int32Array;
  readonly offsets: Int32Array;
  readonly lengths: Int32Array;
  readonly pieces: Int32Array;
  readonly ids: Uint32Array;
  /** Where it is in the memory of rooms; -1: it is elsewhere. */
  readonly place: number;

  constructor() {
    const memory = roomsMemory();
    this.place = takePlace(memory, PLAIN_ROOM_BYTES);
    const inside = memory !== null && this.place >= 0;
    const buffer = inside ? memory : new ArrayBuffer(PLAIN_ROOM_BYTES);
    const at = inside ? this.place : 0;
    if (inside) collected.register(this, { memory, at });
    this.pages = new Int32Array(buffer, at + RoomPart.PAGES, PLAIN_CHAINS_MAX);
    this.offsets = new Int32Array(buffer, at + RoomPart.OFFSETS, PLAIN_CHAINS_MAX);
    this.lengths = new Int32Array(buffer, at + RoomPart.LENGTHS, PLAIN_CHAINS_MAX);
    this.pieces = new Int32Array(buffer, at + RoomPart.PIECES, PLAIN_CHAINS_MAX);
    this.ids = new Uint32Array(buffer, at + RoomPart.IDS, PLAIN_CHAINS_MAX);
    if (inside) new Uint8Array(buffer, at, PLAIN_ROOM_BYTES).fill(0); // what another ring's driver said
  }
}

/** What a ring is given to lay chains out in; what is absent it has for itself. */
export interface RingRooms {
  /** With as many segments as a chain of the ring may have, at least. */
  readonly chainRoom?: ChainRoom;
  /** Only for rings whose bursts end with the poll that began them. */
  readonly plainRoom?: PlainRoom;
}
