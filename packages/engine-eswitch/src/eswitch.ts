/**
 * eswitch.ts: a learning switch between representors; decides where a frame goes and touches none.
 *
 * Theory
 *   A frame's source address says where its station is, its destination address where the frame goes: to the port
 *   where that station was last heard, or, for a group address or a station nobody heard, to every other port. VLANs
 *   are learned apart (the id is part of the key); tags pass as they are, and which VLANs a port receives is its
 *   function's own filter's business. The owner hands in the first bytes of the frame, carries out the verdict, and
 *   tells the time.
 *
 * Parties
 *   owner   one datapath worker; adds and removes ports between frames.
 *   guests  choose every byte of every frame. What they can make up is bounded (station-table.ts), and a port's frames
 *           never change what is known of other ports' stations, save by claiming to be them: stations move.
 *
 * Invariants
 *   I1  a verdict of a port or of FLOOD never includes the port the frame came from.
 *   I2  decide() does not allocate.
 *   I3  a port that was removed is in no verdict, and what was heard there is forgotten.
 *
 * Limits  limits.ts.
 * Spec    IEEE 802.1Q, 8.6 (forwarding), 8.7 (learning), 8.8 (ageing), table 8-1 (reserved addresses).
 */
import { Ethernet, EtherType } from '@virtnet/wire';
import { AGEING_SECONDS, PORTS_MAX, STATIONS_MAX, STATIONS_PER_PORT_MAX } from './limits.js';
import { Learned, StationTable } from './station-table.js';

/** What decide() says besides a port's number: all below 0. */
export const Verdict = {
  /** Goes to every port in `ports` but the one it came from. */
  FLOOD: -1,
  /** Nobody else is there. */
  NO_DESTINATION: -2,
  /** Its station is where it came from. */
  SAME_PORT: -3,
  /** An address that bridges keep to themselves (01:80:c2:00:00:0x). */
  RESERVED: -4,
  /** The source address is a group's, or zero. */
  BAD_SOURCE: -5,
} as const;
export type Verdict = (typeof Verdict)[keyof typeof Verdict];

/** Bytes of a frame that decide() looks at. */
export const SWITCHED_HEAD_BYTES = Ethernet.HEADER_BYTES + Ethernet.TAG_BYTES;

export interface EswitchOptions {
  /** 32 bits nobody outside can guess; keys the table. */
  readonly seed: number;
  readonly stations?: number;
  readonly stationsPerPort?: number;
  readonly ageingSeconds?: number;
}

/** Sums since the switch was made. */
export interface EswitchCounters {
  learned: number;
  moved: number;
  expired: number;
  refusedTableFull: number;
  refusedPortFull: number;
}

const GROUP_BIT = 0x0100;
/** 01:80:c2:00:00:0x as the words of an address. */
const RESERVED_HIGH = 0x0180;
const RESERVED_LOW = 0xc200_0000 | 0;
const RESERVED_MASK = 0xffff_fff0 | 0;

const NOWHERE = -1;

export class Eswitch {
  readonly counters: EswitchCounters = {
    learned: 0,
    moved: 0,
    expired: 0,
    refusedTableFull: 0,
    refusedPortFull: 0,
  };
  readonly #ports: number[] = [];
  readonly #table: StationTable;
  readonly #ageingSeconds: number;
  #now = 0;
  /** Whether the source of the frame last decided on could not be remembered. */
  refused = false;

  constructor(options: EswitchOptions) {
    this.#ageingSeconds = options.ageingSeconds ?? AGEING_SECONDS;
    this.#table = new StationTable({
      stations: options.stations ?? STATIONS_MAX,
      perPort: options.stationsPerPort ?? STATIONS_PER_PORT_MAX,
      ports: PORTS_MAX,
      seed: options.seed,
    });
  }

  /** Ports there are, in no order. */
  get ports(): readonly number[] {
    return this.#ports;
  }

  get stations(): number {
    return this.#table.size;
  }

  /** Adds port `port`, from 0 and below PORTS_MAX; false when it exists or can not. */
  add(port: number): boolean {
    if (!Number.isInteger(port) || port < 0 || port >= PORTS_MAX || this.#ports.includes(port)) return false;
    this.#ports.push(port);
    return true;
  }

  /** Takes a port out and forgets its stations. */
  remove(port: number): void {
    const at = this.#ports.indexOf(port);
    if (at < 0) return;
    this.#ports.splice(at, 1);
    this.#table.forget(port);
  }

  /** Tells the time in whole seconds, from any beginning, never backwards; forgets who has been silent too long. */
  tick(seconds: number): void {
    if (seconds <= this.#now) return;
    this.#now = seconds;
    this.counters.expired += this.#table.expire(seconds - this.#ageingSeconds);
  }

  /**
   * Where a frame from `source` goes: a port, or a Verdict. `head` is its first SWITCHED_HEAD_BYTES bytes; a frame of
   * fewer is filled up with zeros.
   */
  decide(source: number, head: Uint8Array): number {
    this.refused = false;
    const destinationHigh = (head[0]! << 8) | head[1]!;
    const destinationLow = word32(head, 2);
    const sourceHigh = (head[6]! << 8) | head[7]!;
    const sourceLow = word32(head, 8);
    if ((sourceHigh & GROUP_BIT) !== 0 || (sourceHigh | sourceLow) === 0) return Verdict.BAD_SOURCE;
    if (destinationHigh === RESERVED_HIGH && (destinationLow & RESERVED_MASK) === RESERVED_LOW) {
      return Verdict.RESERVED;
    }
    const vlan = vlanKey(head);
    this.#learn(vlan | sourceHigh, sourceLow, source);
    if ((destinationHigh & GROUP_BIT) === 0) {
      const port = this.#table.find(vlan | destinationHigh, destinationLow);
      if (port === source) return Verdict.SAME_PORT;
      if (port !== NOWHERE) return port;
    }
    return this.#ports.length > 1 ? Verdict.FLOOD : Verdict.NO_DESTINATION;
  }

  /** The port of a station that a frame is for, if that is another one and its source is known to be at `source`; else -1. */
  known(source: number, head: Uint8Array): number {
    const vlan = vlanKey(head);
    const sourceHigh = vlan | (head[6]! << 8) | head[7]!;
    if ((head[0]! & 1) !== 0 || this.#table.find(sourceHigh, word32(head, 8)) !== source) return NOWHERE;
    const port = this.#table.find(vlan | (head[0]! << 8) | head[1]!, word32(head, 2));
    return port === source ? NOWHERE : port;
  }

  #learn(high: number, low: number, port: number): void {
    const learned = this.#table.hear(high, low, port, this.#now);
    if (learned === Learned.KNOWN) return;
    const { counters } = this;
    if (learned === Learned.NEW) counters.learned++;
    else if (learned === Learned.MOVED) counters.moved++;
    else {
      this.refused = true;
      if (learned === Learned.TABLE_FULL) counters.refusedTableFull++;
      else counters.refusedPortFull++;
    }
  }
}

const word32 = (bytes: Uint8Array, at: number): number =>
  (bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!;

/** VLAN id << 16; untagged and priority-tagged frames are VLAN 0's. */
function vlanKey(head: Uint8Array): number {
  const type = (head[Ethernet.TYPE_AT]! << 8) | head[Ethernet.TYPE_AT + 1]!;
  if (type !== EtherType.VLAN && type !== EtherType.SERVICE_VLAN) return 0;
  return (((head[14]! << 8) | head[15]!) & Ethernet.VLAN_ID_MASK) << 16;
}
