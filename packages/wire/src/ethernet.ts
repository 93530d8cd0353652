/**
 * Where the headers of a frame keep what the datapath has to look at: Ethernet (IEEE 802.3, 802.1Q), IPv4 (RFC 791),
 * IPv6 (RFC 8200), TCP (RFC 9293), UDP (RFC 768). Offsets in bytes from the start of each header; network byte order.
 */

export const Ethernet = {
  HEADER_BYTES: 14,
  /** Offset of the EtherType in a frame without tags. */
  TYPE_AT: 12,
  /** Bytes one VLAN tag adds. */
  TAG_BYTES: 4,
  /** The VLAN id in the 16 bits behind a tag's EtherType. */
  VLAN_ID_MASK: 0x0fff,
} as const;

export const EtherType = {
  IPV4: 0x0800,
  IPV6: 0x86dd,
  /** Customer tag. */
  VLAN: 0x8100,
  /** Service tag, in front of a customer tag. */
  SERVICE_VLAN: 0x88a8,
} as const;
export type EtherType = (typeof EtherType)[keyof typeof EtherType];

/** FRAGMENT_AT: 16 bits, FRAGMENT_MASK of them say that there is more than this fragment or something before it. */
export const Ipv4 = {
  HEADER_BYTES_MIN: 20,
  TOTAL_LENGTH_AT: 2,
  ID_AT: 4,
  FRAGMENT_AT: 6,
  FRAGMENT_MASK: 0x3fff,
  PROTOCOL_AT: 9,
  CHECKSUM_AT: 10,
} as const;
export const Ipv6 = { HEADER_BYTES: 40, PAYLOAD_LENGTH_AT: 4 } as const;

export const IpProtocol = { TCP: 6, UDP: 17 } as const;
export type IpProtocol = (typeof IpProtocol)[keyof typeof IpProtocol];

/** DATA_OFFSET_AT: the byte whose upper half is the header's length in units of 4 bytes. */
export const Tcp = {
  HEADER_BYTES_MIN: 20,
  SEQUENCE_AT: 4,
  DATA_OFFSET_AT: 12,
  FLAGS_AT: 13,
  CHECKSUM_AT: 16,
} as const;
export const TcpFlag = { FIN: 0x01, PSH: 0x08, CWR: 0x80 } as const;
export type TcpFlag = (typeof TcpFlag)[keyof typeof TcpFlag];
export const Udp = { HEADER_BYTES: 8, LENGTH_AT: 4, CHECKSUM_AT: 6 } as const;

/** Bytes of the Internet checksum (RFC 1071). */
export const CHECKSUM_BYTES = 2;
