/**
 * virtio-net on the wire: feature bits, frame header, device configuration, control commands
 * (virtio 1.3, section 5.1). Device-independent feature bits are in virtio-features.ts.
 */
import { layout, u8, u16, u32 } from './layout.js';
import { hasFeature } from './virtio-features.js';

/** virtio device type (section 5): network card. */
export const VIRTIO_ID_NET = 1;

/** Feature bits of the network device (5.1.3). */
export const NetFeature = {
  /** The device completes a checksum the driver left open. */
  CSUM: 0,
  /** The driver takes frames whose checksum is open. */
  GUEST_CSUM: 1,
  /** The driver may switch its receive offloads at run time. */
  CTRL_GUEST_OFFLOADS: 2,
  /** The configuration has the largest MTU. */
  MTU: 3,
  /** The configuration has a MAC address. */
  MAC: 5,
  /** The driver takes TCP segments of IPv4 larger than the MTU. */
  GUEST_TSO4: 7,
  /** The same for IPv6. */
  GUEST_TSO6: 8,
  /** The same with explicit congestion notification. */
  GUEST_ECN: 9,
  /** The driver takes fragmented UDP datagrams larger than the MTU. */
  GUEST_UFO: 10,
  /** The device segments TCP over IPv4. */
  HOST_TSO4: 11,
  /** The device segments TCP over IPv6. */
  HOST_TSO6: 12,
  /** The device segments TCP with explicit congestion notification. */
  HOST_ECN: 13,
  /** The device fragments UDP datagrams. */
  HOST_UFO: 14,
  /** A received frame may span several buffers. */
  MRG_RXBUF: 15,
  /** The configuration has a link status. */
  STATUS: 16,
  /** There is a control queue. */
  CTRL_VQ: 17,
  /** Control: receive modes. */
  CTRL_RX: 18,
  /** Control: VLAN filter. */
  CTRL_VLAN: 19,
  /** Control: the additional receive modes. */
  CTRL_RX_EXTRA: 20,
  /** The device can ask the driver to announce itself. */
  GUEST_ANNOUNCE: 21,
  /** Several queue pairs with automatic steering. */
  MQ: 22,
  /** Control: the MAC address. */
  CTRL_MAC_ADDR: 23,
  /** Hash over the inner header of a tunnel. */
  HASH_TUNNEL: 51,
  /** Notification coalescing for one queue. */
  VQ_NOTF_COAL: 52,
  /** Notification coalescing for all queues of a direction. */
  NOTF_COAL: 53,
  /** The driver takes UDP segments over IPv4 larger than the MTU. */
  GUEST_USO4: 54,
  /** The same for IPv6. */
  GUEST_USO6: 55,
  /** The device segments UDP. */
  HOST_USO: 56,
  /** The frame header carries the hash. */
  HASH_REPORT: 57,
  /** hdr_len of a frame with GSO is exact. */
  GUEST_HDRLEN: 59,
  /** Receive side scaling with a table the driver sets. */
  RSS: 60,
  /** The device reports coalesced segments. */
  RSC_EXT: 61,
  /** The device may be the standby of another. */
  STANDBY: 62,
  /** The configuration has speed and duplex. */
  SPEED_DUPLEX: 63,
} as const;
export type NetFeature = (typeof NetFeature)[keyof typeof NetFeature];

/** A feature bit, the bits of which it needs at least one, and who has to heed it. */
export interface FeatureNeed {
  readonly bit: number;
  readonly oneOf: readonly number[];
  /** Only what is offered is held to this, since it makes no sense alone; a driver that accepts it alone is within its rights. */
  readonly offerOnly?: true;
}

const N = NetFeature;

/** What bits need: those without `offerOnly` by 5.1.3.1. */
export const NET_FEATURE_NEEDS: readonly FeatureNeed[] = [
  { bit: N.GUEST_TSO4, oneOf: [N.GUEST_CSUM] },
  { bit: N.GUEST_TSO6, oneOf: [N.GUEST_CSUM] },
  { bit: N.GUEST_ECN, oneOf: [N.GUEST_TSO4, N.GUEST_TSO6] },
  { bit: N.GUEST_UFO, oneOf: [N.GUEST_CSUM] },
  { bit: N.GUEST_USO4, oneOf: [N.GUEST_CSUM] },
  { bit: N.GUEST_USO6, oneOf: [N.GUEST_CSUM] },
  { bit: N.HOST_TSO4, oneOf: [N.CSUM] },
  { bit: N.HOST_TSO6, oneOf: [N.CSUM] },
  { bit: N.HOST_ECN, oneOf: [N.HOST_TSO4, N.HOST_TSO6] },
  { bit: N.HOST_UFO, oneOf: [N.CSUM] },
  { bit: N.HOST_USO, oneOf: [N.CSUM] },
  { bit: N.CTRL_RX, oneOf: [N.CTRL_VQ] },
  { bit: N.CTRL_RX_EXTRA, oneOf: [N.CTRL_VQ], offerOnly: true },
  { bit: N.CTRL_VLAN, oneOf: [N.CTRL_VQ] },
  { bit: N.GUEST_ANNOUNCE, oneOf: [N.CTRL_VQ] },
  { bit: N.GUEST_ANNOUNCE, oneOf: [N.STATUS], offerOnly: true }, // the request to announce is a bit of the status field
  { bit: N.MQ, oneOf: [N.CTRL_VQ] },
  { bit: N.CTRL_MAC_ADDR, oneOf: [N.CTRL_VQ] },
  { bit: N.VQ_NOTF_COAL, oneOf: [N.CTRL_VQ] },
  { bit: N.NOTF_COAL, oneOf: [N.CTRL_VQ] },
  { bit: N.RSS, oneOf: [N.CTRL_VQ] },
  { bit: N.HASH_REPORT, oneOf: [N.CTRL_VQ], offerOnly: true },
  { bit: N.CTRL_GUEST_OFFLOADS, oneOf: [N.CTRL_VQ], offerOnly: true },
  { bit: N.RSC_EXT, oneOf: [N.HOST_TSO4, N.HOST_TSO6] },
  { bit: N.HASH_TUNNEL, oneOf: [N.CTRL_VQ] },
  { bit: N.HASH_TUNNEL, oneOf: [N.RSS, N.HASH_REPORT] },
];

/** Whether `mask` has the bit and nothing of what it needs. */
export function isUnmet(mask: bigint, { bit, oneOf }: FeatureNeed): boolean {
  return hasFeature(mask, bit) && !oneOf.some((needed) => hasFeature(mask, needed));
}

/** struct virtio_net_hdr (5.1.6) as VERSION_1 has it: num_buffers is always there. */
export const NetHeader = layout('NetHeader', 12, {
  /** Bits of NetHeaderFlag. */
  flags: u8,
  /** One of GsoType, with GSO_ECN possibly added. */
  gsoType: u8,
  /** Bytes of Ethernet, IP and transport header; a hint unless GUEST_HDRLEN is negotiated. */
  hdrLen: u16,
  /** Payload bytes of each segment. */
  gsoSize: u16,
  /** Byte at which checksumming starts, counted from the start of the frame. */
  csumStart: u16,
  /** Where the checksum goes, counted from csumStart. */
  csumOffset: u16,
  /** Buffers a received frame spans. */
  numBuffers: u16,
});

/** Size in bytes of the header without num_buffers: legacy devices without MRG_RXBUF. */
export const NET_HEADER_LEGACY_BYTES = 10;
/** Size in bytes of the header with the hash fields of HASH_REPORT. */
export const NET_HEADER_HASH_BYTES = 20;

/** Where the header of HASH_REPORT has hash and report, in bytes; two bytes of padding follow. */
export const NET_HEADER_HASH_AT = { value: 12, report: 16 } as const;

/** Types of hashes (5.1.6.4.3.1); TCP_EX and UDP_EX are those of IPv6. */
export const HashType = {
  IPV4: 1 << 0,
  TCPV4: 1 << 1,
  UDPV4: 1 << 2,
  IPV6: 1 << 3,
  TCPV6: 1 << 4,
  UDPV6: 1 << 5,
  IP_EX: 1 << 6,
  TCP_EX: 1 << 7,
  UDP_EX: 1 << 8,
} as const;
export type HashType = (typeof HashType)[keyof typeof HashType];
/** All of them. */
export const HASH_TYPES = 0x1ff;

/** hash_report of a received frame (5.1.6.4.3.4). */
export const HashReport = {
  NONE: 0,
  IPV4: 1,
  TCPV4: 2,
  UDPV4: 3,
  IPV6: 4,
  TCPV6: 5,
  UDPV6: 6,
  IPV6_EX: 7,
  TCPV6_EX: 8,
  UDPV6_EX: 9,
} as const;
export type HashReport = (typeof HashReport)[keyof typeof HashReport];

/** Longest hash key in bytes. */
export const HASH_KEY_BYTES_MAX = 40;

/**
 * Entries of the longest indirection table of RSS: the fewest that a device may have (5.1.4.1), and the most that some
 * drivers have room for.
 */
export const RSS_TABLE_ENTRIES_MAX = 128;

/** Flags of the frame header (5.1.6). */
export const NetHeaderFlag = {
  /** The checksum at csumStart + csumOffset is still to be completed. */
  NEEDS_CSUM: 1,
  /** The checksum was found right. */
  DATA_VALID: 2,
  /** csumStart and csumOffset hold coalescing counts (RSC_EXT). */
  RSC_INFO: 4,
} as const;
export type NetHeaderFlag = (typeof NetHeaderFlag)[keyof typeof NetHeaderFlag];

/** gso_type of the frame header, without the ECN bit (5.1.6). */
export const GsoType = {
  NONE: 0,
  TCPV4: 1,
  UDP: 3,
  TCPV6: 4,
  UDP_L4: 5,
} as const;
export type GsoType = (typeof GsoType)[keyof typeof GsoType];

/** Bit of gso_type: TCP with ECN set. */
export const GSO_ECN = 0x80;

/** struct virtio_net_config (5.1.4). A field means something only when its feature is offered. */
export const NetConfig = layout('NetConfig', 28, {
  mac0: u8,
  mac1: u8,
  mac2: u8,
  mac3: u8,
  mac4: u8,
  mac5: u8,
  /** Bits of NetStatus (STATUS). */
  status: u16,
  /** Largest number of queue pairs (MQ or RSS). */
  maxVirtqueuePairs: u16,
  /** Largest MTU in bytes (MTU). */
  mtu: u16,
  /** Mb/s; SPEED_UNKNOWN when not known (SPEED_DUPLEX). */
  speed: u32,
  /** One of Duplex (SPEED_DUPLEX). */
  duplex: u8,
  /** Bytes of RSS key (RSS or HASH_REPORT). */
  rssMaxKeySize: u8,
  /** Entries of the RSS table (RSS). */
  rssMaxIndirectionTableLength: u16,
  /** Hash types (RSS or HASH_REPORT). */
  supportedHashTypes: u32,
  /** Tunnel types (HASH_TUNNEL). */
  supportedTunnelTypes: u32,
});

/** Bytes of a MAC address. */
export const MAC_BYTES = 6;

/** Bits of the status field of the configuration. */
export const NetStatus = {
  /** The link is up. */
  LINK_UP: 1,
  /** The driver is asked to announce itself. */
  ANNOUNCE: 2,
} as const;
export type NetStatus = (typeof NetStatus)[keyof typeof NetStatus];

/** duplex field of the configuration. */
export const Duplex = { HALF: 0, FULL: 1, UNKNOWN: 0xff } as const;
export type Duplex = (typeof Duplex)[keyof typeof Duplex];

/** speed field when the speed is not known. */
export const SPEED_UNKNOWN = 0xffff_ffff;
/** Largest value of the speed field that is a speed, in Mb/s (5.1.4.1). */
export const SPEED_MAX_MBPS = 0x7fff_ffff;

/** Range of the mtu field in bytes (5.1.4.1). */
export const MTU_MIN_BYTES = 68;
export const MTU_MAX_BYTES = 65_535;
/** Range of max_virtqueue_pairs (5.1.4.1). */
export const QUEUE_PAIRS_MIN = 1;
export const QUEUE_PAIRS_MAX = 0x8000;

/** First two bytes of every control command (5.1.6.5). */
export const NetControlHeader = layout('NetControlHeader', 2, { class: u8, command: u8 });

/** Answer byte of a control command. */
export const ControlAck = { OK: 0, ERR: 1 } as const;
export type ControlAck = (typeof ControlAck)[keyof typeof ControlAck];

/** class field of a control command. */
export const ControlClass = {
  /** Receive modes (CTRL_RX, CTRL_RX_EXTRA). */
  RX: 0,
  /** MAC table (CTRL_RX) and address (CTRL_MAC_ADDR). */
  MAC: 1,
  /** VLAN filter (CTRL_VLAN). */
  VLAN: 2,
  /** Announcement was sent (GUEST_ANNOUNCE). */
  ANNOUNCE: 3,
  /** Queue pairs in use (MQ), RSS and hash. */
  MQ: 4,
  /** Receive offloads (CTRL_GUEST_OFFLOADS). */
  GUEST_OFFLOADS: 5,
  /** Notification coalescing. */
  NOTF_COAL: 6,
  /** Device statistics. */
  STATS: 8,
} as const;
export type ControlClass = (typeof ControlClass)[keyof typeof ControlClass];

/** Commands of class RX; the data is one byte, 0 or 1. */
export const ControlRx = {
  PROMISC: 0,
  ALLMULTI: 1,
  ALLUNI: 2,
  NOMULTI: 3,
  NOUNI: 4,
  NOBCAST: 5,
} as const;
export type ControlRx = (typeof ControlRx)[keyof typeof ControlRx];

/** Commands of class MAC. */
export const ControlMac = {
  /** Two tables, unicast then multicast: u32 entries, then 6 bytes each. */
  TABLE_SET: 0,
  /** 6 bytes. */
  ADDR_SET: 1,
} as const;
export type ControlMac = (typeof ControlMac)[keyof typeof ControlMac];

/** Commands of class VLAN; the data is a u16. */
export const ControlVlan = { ADD: 0, DEL: 1 } as const;
export type ControlVlan = (typeof ControlVlan)[keyof typeof ControlVlan];

/** VLAN ids are below this. */
export const VLAN_IDS = 4096;

/** Commands of class ANNOUNCE; no data. */
export const ControlAnnounce = { ACK: 0 } as const;
export type ControlAnnounce = (typeof ControlAnnounce)[keyof typeof ControlAnnounce];

/** Commands of class MQ. */
export const ControlMq = {
  /** The data is a u16: queue pairs. */
  VQ_PAIRS_SET: 0,
  /**
   * le32 hash_types, le16 indirection_table_mask, le16 unclassified_queue, a table of mask + 1 le16, le16 max_tx_vq,
   * u8 hash_key_length, then the key. A receive queue is named by half its index.
   */
  RSS_CONFIG: 1,
  /** le32 hash_types, le16 reserved[4], u8 hash_key_length, then the key. */
  HASH_CONFIG: 2,
} as const;
export type ControlMq = (typeof ControlMq)[keyof typeof ControlMq];

/** Commands of class GUEST_OFFLOADS; the data is a u64 of feature bits. */
export const ControlGuestOffloads = { SET: 0 } as const;
export type ControlGuestOffloads = (typeof ControlGuestOffloads)[keyof typeof ControlGuestOffloads];

/**
 * Commands of class NOTF_COAL. The data is le32 max_packets, le32 max_usecs; of one queue, le16 vq_index and le16
 * reserved before them. VQ_GET sends index and reserved, and gets the other two as its result.
 */
export const ControlNotfCoal = { TX_SET: 0, RX_SET: 1, VQ_SET: 2, VQ_GET: 3 } as const;
export type ControlNotfCoal = (typeof ControlNotfCoal)[keyof typeof ControlNotfCoal];
