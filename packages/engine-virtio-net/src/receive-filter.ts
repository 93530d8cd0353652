/**
 * receive-filter.ts: which frames the driver wants, compiled for the datapath.
 *
 * Theory
 *   The control queue changes plain state (ReceiveFilterState, which crosses to a worker as it is); the worker
 *   compiles it once and asks it per frame. Order of precedence (virtio 1.3, 5.1.6.5.1):
 *     promiscuous      takes everything, VLANs included
 *     VLAN             a tagged frame whose id was not added is dropped; untagged and priority-tagged ones pass, and tags of
 *                      802.1ad in front, whose ids no driver adds
 *     no*              drops a kind of frame whatever else is set
 *     all*             takes a kind of frame whatever the tables hold
 *     tables           own address and MAC table; broadcast passes unless noBroadcast
 *
 * Invariants
 *   I1  accepts() does not allocate.
 *
 * Limits  table entries are compared one by one; the device bounds their number.
 */
import { MAC_BYTES, QueueCounter, VLAN_IDS } from '@virtnet/wire';

/** Why a frame is not delivered, or 0. Counter 0 is no drop, so that the reasons leave room for it. */
export type FilterVerdict = 0 | typeof QueueCounter.DROP_FILTER_MAC | typeof QueueCounter.DROP_FILTER_VLAN;

/**
 * What the driver set. Without CTRL_RX but with CTRL_VLAN: allUnicast and allMulticast true, promiscuous false.
 * Without either there is no filter at all.
 */
export interface ReceiveFilterState {
  readonly promiscuous: boolean;
  readonly allMulticast: boolean;
  readonly allUnicast: boolean;
  readonly noMulticast: boolean;
  readonly noUnicast: boolean;
  readonly noBroadcast: boolean;
  /** The device's address, 6 bytes. */
  readonly mac: ArrayLike<number>;
  /** MAC table, 6 bytes an entry. */
  readonly unicast: ArrayLike<number>;
  readonly multicast: ArrayLike<number>;
  /** VLAN ids added; null when CTRL_VLAN is not negotiated. */
  readonly vlans: Iterable<number> | null;
}

/** No VLAN tag of 802.1Q in front. */
export const UNTAGGED = -1;
/** VLAN id of a frame that carries a priority but belongs to no VLAN. */
const PRIORITY_TAGGED = 0;

const ACCEPT = 0;
const { DROP_FILTER_MAC, DROP_FILTER_VLAN } = QueueCounter;

const high16 = (bytes: ArrayLike<number>, at: number): number => (bytes[at]! << 8) | bytes[at + 1]!;
const low32 = (bytes: ArrayLike<number>, at: number): number =>
  (bytes[at + 2]! << 24) | (bytes[at + 3]! << 16) | (bytes[at + 4]! << 8) | bytes[at + 5]!;

const NO_ADDRESSES = new Int32Array(0);

/** Addresses as pairs of small integers: two comparisons instead of six. */
function compile(...tables: ArrayLike<number>[]): Int32Array {
  const words: number[] = [];
  for (const table of tables) {
    for (let at = 0; at + MAC_BYTES <= table.length; at += MAC_BYTES) {
      words.push(high16(table, at), low32(table, at));
    }
  }
  return words.length === 0 ? NO_ADDRESSES : Int32Array.from(words);
}

function holds(table: Int32Array, high: number, low: number): boolean {
  for (let i = 0; i < table.length; i += 2) if (table[i] === high && table[i + 1] === low) return true;
  return false;
}

export class ReceiveFilter {
  readonly #promiscuous: boolean;
  readonly #allUnicast: boolean;
  readonly #allMulticast: boolean;
  readonly #noUnicast: boolean;
  readonly #noMulticast: boolean;
  readonly #noBroadcast: boolean;
  readonly #unicast: Int32Array;
  readonly #multicast: Int32Array;
  /** 1 for every VLAN id that passes. */
  readonly #vlans: Uint8Array | null;

  constructor(state: ReceiveFilterState) {
    this.#promiscuous = state.promiscuous;
    this.#allUnicast = state.allUnicast;
    this.#allMulticast = state.allMulticast;
    this.#noUnicast = state.noUnicast;
    this.#noMulticast = state.noMulticast;
    this.#noBroadcast = state.noBroadcast;
    this.#unicast = compile(state.mac, state.unicast);
    this.#multicast = compile(state.multicast);
    this.#vlans = null;
    if (state.vlans !== null) {
      this.#vlans = new Uint8Array(VLAN_IDS);
      this.#vlans[PRIORITY_TAGGED] = 1;
      for (const id of state.vlans) this.#vlans[id] = 1;
    }
  }

  /** Whether every frame is wanted. */
  get acceptsAll(): boolean {
    return this.#promiscuous;
  }

  /** Judges a frame by its destination, the first six bytes of `frame`, and its VLAN id (UNTAGGED for none). */
  accepts(frame: Uint8Array, vlan: number): FilterVerdict {
    if (this.#promiscuous) return ACCEPT;
    if (vlan !== UNTAGGED && this.#vlans !== null && this.#vlans[vlan] !== 1) return DROP_FILTER_VLAN;
    return this.#wants(high16(frame, 0), low32(frame, 0)) ? ACCEPT : DROP_FILTER_MAC;
  }

  #wants(high: number, low: number): boolean {
    if (high === 0xffff && low === -1) return !this.#noBroadcast;
    if ((high & 0x0100) !== 0) {
      return !this.#noMulticast && (this.#allMulticast || holds(this.#multicast, high, low));
    }
    return !this.#noUnicast && (this.#allUnicast || holds(this.#unicast, high, low));
  }
}
