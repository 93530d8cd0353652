/**
 * flow-hash.ts: which hash a received frame has, and over what (virtio 1.3, 5.1.6.4.3).
 *
 * Theory
 *   The driver enables hash types; of those that fit a frame the most specific one is calculated: with ports for TCP
 *   and UDP, else over addresses alone. The _EX types take an IPv6 frame's home address (destination options) and the
 *   address of a type 2 routing header instead of those of its header; without them extension headers are skipped.
 *   A frame without any fitting type, and one cut short, has no hash.
 *
 * Parties
 *   frame    the network's bytes, already in the driver's memory: the driver may change them meanwhile and then gets
 *            the hash of what it wrote. They are read once, into private memory.
 *
 * Invariants
 *   I1  nothing is allocated for a frame, and no step depends on a length that the frame claims.
 *
 * Limits  HASHED_BYTES_MAX bytes of a frame; ports that lie behind them count as missing. HEADERS_MAX extension headers.
 */
import { Ethernet, EtherType, HashReport, HashType, IpProtocol, Ipv4, Ipv6 } from '@virtnet/wire';
import { typeAt } from './receive-offloads.js';
import { INPUT_BYTES_MAX, Toeplitz } from './toeplitz.js';

/** What the driver has set with HASH_CONFIG. Plain data. */
export interface HashSettings {
  /** Bits of HashType. */
  readonly types: number;
  readonly key: readonly number[];
}

/** Nothing is hashed before the driver says so. */
export const NO_HASHES: HashSettings = { types: 0, key: [] };

/** Two VLAN tags, IPv6, and 170 bytes of extension headers. */
export const HASHED_BYTES_MAX = 232;
const HEADERS_MAX = 8;

const ADDRESS4_BYTES = 4;
const ADDRESS6_BYTES = 16;
const PORTS_BYTES = 4;
const IPV4_SOURCE_AT = 12;
const IPV6_NEXT_AT = 6;
const IPV6_SOURCE_AT = 8;
const IPV6_TARGET_AT = 24;

/** IPv6 extension headers; their lengths are in units of 8 bytes behind the first 8. */
const Extension = { HOP_BY_HOP: 0, ROUTING: 43, FRAGMENT: 44, DESTINATION: 60, MOBILITY: 135 } as const;
const UNIT_BYTES = 8;
const ROUTING_TYPE_2 = 2;
const HOME_ADDRESS_OPTION = 0xc9;
const PAD1_OPTION = 0;

export class FlowHash {
  /** Hash of the last frame, and its HashReport. */
  value = 0;
  report: HashReport = HashReport.NONE;
  readonly #types: number;
  readonly #toeplitz: Toeplitz;
  readonly #input = new Uint8Array(INPUT_BYTES_MAX);
  #reversed = false;

  constructor({ types, key }: HashSettings) {
    this.#types = types;
    this.#toeplitz = new Toeplitz(key);
  }

  /**
   * Works out the hash of a frame whose first `length` bytes (HASHED_BYTES_MAX are enough) are in `frame`; `reversed`:
   * the hash of its answer, whose addresses and ports are the other way round.
   */
  calculate(frame: Uint8Array, length: number, reversed = false): void {
    this.#reversed = reversed;
    this.value = 0;
    this.report = HashReport.NONE;
    if (this.#types === 0 || length < Ethernet.HEADER_BYTES + 2 * Ethernet.TAG_BYTES) return;
    const at = typeAt(frame);
    const type = (frame[at]! << 8) | frame[at + 1]!;
    if (type === EtherType.IPV4) this.#ipv4(frame, at + 2, length);
    else if (type === EtherType.IPV6) this.#ipv6(frame, at + 2, length);
  }

  #ipv4(frame: Uint8Array, at: number, length: number): void {
    if (at + Ipv4.HEADER_BYTES_MIN > length) return;
    const headerBytes = (frame[at]! & 15) << 2;
    if (headerBytes < Ipv4.HEADER_BYTES_MIN) return;
    for (let i = 0; i < 2 * ADDRESS4_BYTES; i++) this.#input[i] = frame[at + IPV4_SOURCE_AT + i]!;
    const fragment =
      ((frame[at + Ipv4.FRAGMENT_AT]! << 8) | frame[at + Ipv4.FRAGMENT_AT + 1]!) & Ipv4.FRAGMENT_MASK;
    const ports = fragment === 0 && at + headerBytes + PORTS_BYTES <= length ? at + headerBytes : 0;
    const protocol = frame[at + Ipv4.PROTOCOL_AT]!;
    if (ports > 0 && protocol === IpProtocol.TCP && this.#enabled(HashType.TCPV4)) {
      this.#withPorts(frame, ports, 2 * ADDRESS4_BYTES, HashReport.TCPV4);
    } else if (ports > 0 && protocol === IpProtocol.UDP && this.#enabled(HashType.UDPV4)) {
      this.#withPorts(frame, ports, 2 * ADDRESS4_BYTES, HashReport.UDPV4);
    } else if (this.#enabled(HashType.IPV4)) this.#finish(2 * ADDRESS4_BYTES, HashReport.IPV4);
  }

  #ipv6(frame: Uint8Array, at: number, length: number): void {
    if (at + Ipv6.HEADER_BYTES > length) return;
    let source = at + IPV6_SOURCE_AT;
    let target = at + IPV6_TARGET_AT;
    let next = frame[at + IPV6_NEXT_AT]!;
    let header = at + Ipv6.HEADER_BYTES;
    let fragment = false;
    let extended = false;
    for (let i = 0; i < HEADERS_MAX && isExtension(next) && header + UNIT_BYTES <= length; i++) {
      extended = true;
      const end =
        next === Extension.FRAGMENT ? header + UNIT_BYTES : header + (frame[header + 1]! + 1) * UNIT_BYTES;
      if (next === Extension.FRAGMENT) fragment = true;
      else if (next === Extension.ROUTING) target = routedTo(frame, header, Math.min(end, length)) ?? target;
      else if (next === Extension.DESTINATION)
        source = homeAddress(frame, header, Math.min(end, length)) ?? source;
      next = frame[header]!;
      header = end;
    }
    const ports = !fragment && header + PORTS_BYTES <= length ? header : 0;
    const tcp = ports > 0 && next === IpProtocol.TCP;
    const udp = ports > 0 && next === IpProtocol.UDP;
    const bytes = 2 * ADDRESS6_BYTES;
    if (extended) {
      this.#addresses6(frame, source, target);
      if (tcp && this.#enabled(HashType.TCP_EX))
        return this.#withPorts(frame, ports, bytes, HashReport.TCPV6_EX);
      if (udp && this.#enabled(HashType.UDP_EX))
        return this.#withPorts(frame, ports, bytes, HashReport.UDPV6_EX);
      if (this.#enabled(HashType.IP_EX)) return this.#finish(bytes, HashReport.IPV6_EX);
    }
    this.#addresses6(frame, at + IPV6_SOURCE_AT, at + IPV6_TARGET_AT);
    if (tcp && this.#enabled(HashType.TCPV6)) this.#withPorts(frame, ports, bytes, HashReport.TCPV6);
    else if (udp && this.#enabled(HashType.UDPV6)) this.#withPorts(frame, ports, bytes, HashReport.UDPV6);
    else if (this.#enabled(HashType.IPV6)) this.#finish(bytes, HashReport.IPV6);
  }

  #enabled(type: HashType): boolean {
    return (this.#types & type) !== 0;
  }

  #addresses6(frame: Uint8Array, source: number, target: number): void {
    for (let i = 0; i < ADDRESS6_BYTES; i++) {
      this.#input[i] = frame[source + i]!;
      this.#input[ADDRESS6_BYTES + i] = frame[target + i]!;
    }
  }

  #withPorts(frame: Uint8Array, ports: number, at: number, report: HashReport): void {
    for (let i = 0; i < PORTS_BYTES; i++) this.#input[at + i] = frame[ports + i]!;
    this.#finish(at + PORTS_BYTES, report);
  }

  #finish(bytes: number, report: HashReport): void {
    if (this.#reversed) {
      const addressBytes = bytes < 2 * ADDRESS6_BYTES ? ADDRESS4_BYTES : ADDRESS6_BYTES;
      exchange(this.#input, 0, addressBytes);
      if (bytes > 2 * addressBytes) exchange(this.#input, 2 * addressBytes, PORTS_BYTES / 2);
    }
    this.value = this.#toeplitz.hash(this.#input, bytes);
    this.report = report;
  }
}

/** Exchanges `count` bytes from `at` on with those behind them. */
function exchange(bytes: Uint8Array, at: number, count: number): void {
  for (let i = at; i < at + count; i++) {
    const byte = bytes[i]!;
    bytes[i] = bytes[i + count]!;
    bytes[i + count] = byte;
  }
}

function isExtension(next: number): boolean {
  switch (next) {
    case Extension.HOP_BY_HOP:
    case Extension.ROUTING:
    case Extension.FRAGMENT:
    case Extension.DESTINATION:
    case Extension.MOBILITY:
      return true;
    default:
      return false;
  }
}

/** Where the address of a type 2 routing header is; null when it is another one, or cut off. */
function routedTo(frame: Uint8Array, header: number, end: number): number | null {
  const address = header + UNIT_BYTES;
  return frame[header + 2] === ROUTING_TYPE_2 && address + ADDRESS6_BYTES <= end ? address : null;
}

/** Where the home address option of a destination options header has its address; null without one. */
function homeAddress(frame: Uint8Array, header: number, end: number): number | null {
  for (let at = header + 2; at + 2 <= end; ) {
    const option = frame[at]!;
    if (option === PAD1_OPTION) at++;
    else if (option !== HOME_ADDRESS_OPTION) at += 2 + frame[at + 1]!;
    else return frame[at + 1] === ADDRESS6_BYTES && at + 2 + ADDRESS6_BYTES <= end ? at + 2 : null;
  }
  return null;
}
