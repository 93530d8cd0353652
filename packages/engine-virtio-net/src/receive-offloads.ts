/**
 * receive-offloads.ts: which frames larger than the MTU a driver takes as they are.
 *
 * Theory
 *   A frame with GSO may be handed to a driver that accepted its kind, and must be segmented for any other. The kinds
 *   of features tell IPv4 from IPv6 where the kinds of GSO do not, so the frame's EtherType decides with them.
 */
import { Ethernet, EtherType, GSO_ECN, GsoType, hasFeature, NetFeature } from '@virtnet/wire';

/** Bytes of a frame up to its EtherType, two VLAN tags included. */
export const OFFLOAD_HEAD_BYTES = Ethernet.HEADER_BYTES + 2 * Ethernet.TAG_BYTES;

const V4 = 1;
const V6 = 2;

const LAST_TYPE_AT = OFFLOAD_HEAD_BYTES - 2;

/** Offset of the EtherType behind at most two tags of a frame whose first OFFLOAD_HEAD_BYTES bytes are `head`. */
export function typeAt(head: Uint8Array): number {
  let at: number = Ethernet.TYPE_AT;
  while (at < LAST_TYPE_AT) {
    const type = (head[at]! << 8) | head[at + 1]!;
    if (type !== EtherType.VLAN && type !== EtherType.SERVICE_VLAN) break;
    at += Ethernet.TAG_BYTES;
  }
  return at;
}

export class ReceiveOffloads {
  /** GUEST_CSUM: a checksum may be left open. */
  readonly checksum: boolean;
  /** By kind of GSO: the IP versions it may come with. */
  readonly #families = new Uint8Array(GsoType.UDP_L4 + 1);
  readonly #ecn: boolean;

  /** `features`: in force, so without those switched off since they were negotiated. */
  constructor(features: bigint) {
    const has = (feature: number) => hasFeature(features, feature);
    this.checksum = has(NetFeature.GUEST_CSUM);
    this.#ecn = has(NetFeature.GUEST_ECN);
    if (!this.checksum) return;
    if (has(NetFeature.GUEST_TSO4)) this.#families[GsoType.TCPV4] = V4;
    if (has(NetFeature.GUEST_TSO6)) this.#families[GsoType.TCPV6] = V6;
    if (has(NetFeature.GUEST_UFO)) this.#families[GsoType.UDP] = V4 | V6;
    this.#families[GsoType.UDP_L4] =
      (has(NetFeature.GUEST_USO4) ? V4 : 0) | (has(NetFeature.GUEST_USO6) ? V6 : 0);
  }

  /** Whether a frame with this gso_type and these first OFFLOAD_HEAD_BYTES bytes need not be segmented. */
  takes(gsoType: number, head: Uint8Array): boolean {
    if (gsoType === GsoType.NONE) return true;
    const kind = gsoType & ~GSO_ECN;
    if (kind > GsoType.UDP_L4 || ((gsoType & GSO_ECN) !== 0 && !this.#ecn)) return false;
    const families = this.#families[kind]!;
    if (families === 0) return false;
    const at = typeAt(head);
    const type = (head[at]! << 8) | head[at + 1]!;
    return (families & (type === EtherType.IPV4 ? V4 : type === EtherType.IPV6 ? V6 : 0)) !== 0;
  }
}
