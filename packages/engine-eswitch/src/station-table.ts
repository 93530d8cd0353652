/**
 * station-table.ts: where each station was last heard.
 *
 * Theory
 *   A station is a MAC address within a VLAN. The table is a hash with linear probing over typed arrays, twice as many
 *   slots as stations, so that a look-up touches one or two cache lines. A removed station's followers are moved up
 *   (no tombstones), so a table that was full once is as fast as a new one. The hash is keyed with a seed of the
 *   owner's, because guests choose the addresses.
 *
 * Invariants
 *   I1  a station is in the table at most once, and no port has more than its limit.
 *   I2  every slot between a station's home and its place is taken.
 *   I3  no method but the constructor allocates.
 *
 * Limits  `stations` in all, `perPort` each; a look-up probes at most every slot.
 */

/** What came of hearing a station. */
export const Learned = {
  /** It was known there. */
  KNOWN: 0,
  NEW: 1,
  /** It was known at another port. */
  MOVED: 2,
  /** The table is full; it is not remembered. */
  TABLE_FULL: 3,
  /** The port has all the stations it may have; it is not remembered, nor where it was before. */
  PORT_FULL: 4,
} as const;
export type Learned = (typeof Learned)[keyof typeof Learned];

export interface StationTableOptions {
  readonly stations: number;
  readonly perPort: number;
  readonly ports: number;
  /** 32 bits nobody outside can guess. */
  readonly seed: number;
}

const NOWHERE = -1;

export class StationTable {
  /** Stations in the table. */
  size = 0;
  readonly #stationsMax: number;
  readonly #perPort: number;
  readonly #seed: number;
  readonly #mask: number;
  /** VLAN id and the address's first 16 bits, its last 32 bits, port or NOWHERE, second of the last frame. */
  readonly #high: Int32Array;
  readonly #low: Int32Array;
  readonly #port: Int16Array;
  readonly #heard: Int32Array;
  readonly #portSize: Int32Array;

  constructor({ stations, perPort, ports, seed }: StationTableOptions) {
    const slots = 2 ** Math.ceil(Math.log2(2 * stations));
    this.#stationsMax = stations;
    this.#perPort = perPort;
    this.#seed = seed | 0;
    this.#mask = slots - 1;
    this.#high = new Int32Array(slots);
    this.#low = new Int32Array(slots);
    this.#port = new Int16Array(slots).fill(NOWHERE);
    this.#heard = new Int32Array(slots);
    this.#portSize = new Int32Array(ports);
  }

  /** Stations at `port`. */
  sizeOf(port: number): number {
    return this.#portSize[port]!;
  }

  /** Port of a station: `high` is VLAN id << 16 | first 16 bits of the address, `low` its last 32. -1: not known. */
  find(high: number, low: number): number {
    return this.#port[this.#slotOf(high, low)]!;
  }

  /** A frame of the station came in at `port` in second `now`. */
  hear(high: number, low: number, port: number, now: number): Learned {
    const slot = this.#slotOf(high, low);
    const before = this.#port[slot]!;
    if (before === port) {
      this.#heard[slot] = now;
      return Learned.KNOWN;
    }
    if (this.#portSize[port]! >= this.#perPort) {
      if (before !== NOWHERE) this.#remove(slot);
      return Learned.PORT_FULL;
    }
    if (before === NOWHERE) {
      if (this.size >= this.#stationsMax) return Learned.TABLE_FULL;
      this.#high[slot] = high;
      this.#low[slot] = low;
      this.size++;
    } else this.#portSize[before]!--;
    this.#port[slot] = port;
    this.#heard[slot] = now;
    this.#portSize[port]!++;
    return before === NOWHERE ? Learned.NEW : Learned.MOVED;
  }

  /** Forgets the stations not heard since second `before`; how many. */
  expire(before: number): number {
    let removed = 0;
    for (let slot = 0; slot <= this.#mask; ) {
      // A removal may bring another station into the slot: it is looked at again. None moves to where we were before.
      if (this.#port[slot] !== NOWHERE && this.#heard[slot]! < before) {
        this.#remove(slot);
        removed++;
      } else slot++;
    }
    return removed;
  }

  /** Forgets every station at `port`. */
  forget(port: number): void {
    for (let slot = 0; this.#portSize[port]! > 0; ) {
      if (this.#port[slot] === port) this.#remove(slot);
      else slot++;
    }
  }

  /** Slot of the station, or the free one where it would go. */
  #slotOf(high: number, low: number): number {
    const mask = this.#mask;
    let slot = this.#home(high, low);
    while (this.#port[slot] !== NOWHERE && (this.#low[slot] !== low || this.#high[slot] !== high)) {
      slot = (slot + 1) & mask;
    }
    return slot;
  }

  #home(high: number, low: number): number {
    let mixed = Math.imul(low ^ this.#seed, 0x85eb_ca6b);
    mixed = Math.imul(mixed ^ (mixed >>> 15) ^ high, 0xc2b2_ae35);
    mixed = Math.imul(mixed ^ (mixed >>> 13) ^ this.#seed, 0x27d4_eb2f);
    return (mixed ^ (mixed >>> 16)) & this.#mask;
  }

  /** Frees a slot and moves those behind it up that may (I2). */
  #remove(slot: number): void {
    const mask = this.#mask;
    this.#portSize[this.#port[slot]!]!--;
    this.size--;
    let hole = slot;
    for (let at = (hole + 1) & mask; this.#port[at] !== NOWHERE; at = (at + 1) & mask) {
      const home = this.#home(this.#high[at]!, this.#low[at]!);
      // It may go into the hole unless its home lies behind the hole.
      if (((at - home) & mask) < ((at - hole) & mask)) continue;
      this.#high[hole] = this.#high[at]!;
      this.#low[hole] = this.#low[at]!;
      this.#port[hole] = this.#port[at]!;
      this.#heard[hole] = this.#heard[at]!;
      hole = at;
    }
    this.#port[hole] = NOWHERE;
  }
}
