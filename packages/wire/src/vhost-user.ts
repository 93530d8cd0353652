/**
 * vhost-user.ts: the messages of the vhost-user protocol, as a backend for network devices meets them.
 *
 * Theory
 *   A message is a 12-byte header and a payload of `sizeBytes`. File descriptors ride with the header's bytes. The
 *   frontend (QEMU, DPDK's virtio-user) asks; the backend answers requests that have a reply of their own, and, once
 *   REPLY_ACK is agreed on, any other request that carries NEED_REPLY.
 *
 * Invariants
 *   I1  everything is little-endian (the protocol says: the host's order; only little-endian hosts are served).
 *
 * Limits
 *   Sizes and counts that a backend accepts are its own decision (server-vhost-user/limits.ts).
 *
 * Spec: QEMU docs/interop/vhost-user.rst.
 */
import { layout, u32, u64 } from './layout.js';

/** Leads every message, both ways ("Header"). */
export const VhostUserHeader = layout('VhostUserHeader', 12, {
  /** One of VhostUserRequest. */
  request: u32,
  /** VhostUserFlags. */
  flags: u32,
  /** Payload that follows, in bytes. */
  sizeBytes: u32,
});

/** Header flags. Bits 0 and 1 are the version. */
export const VhostUserFlags = {
  VERSION_MASK: 0x3,
  /** The only version there is. */
  VERSION: 0x1,
  /** This message is a reply. */
  REPLY: 0x4,
  /** The frontend wants an acknowledgement (REPLY_ACK). */
  NEED_REPLY: 0x8,
} as const;

/** Requests of the frontend ("Front-end message types"). */
export const VhostUserRequest = {
  GET_FEATURES: 1,
  SET_FEATURES: 2,
  /** The frontend takes the session over. */
  SET_OWNER: 3,
  /** Deprecated: disable all rings. */
  RESET_OWNER: 4,
  /** The whole of guest memory, one fd for each region. */
  SET_MEM_TABLE: 5,
  SET_LOG_BASE: 6,
  SET_LOG_FD: 7,
  /** Queue size. */
  SET_VRING_NUM: 8,
  SET_VRING_ADDR: 9,
  /** Where the ring goes on. */
  SET_VRING_BASE: 10,
  /** Stops the ring and asks where it stopped. */
  GET_VRING_BASE: 11,
  /** The eventfd the driver signals. */
  SET_VRING_KICK: 12,
  /** The eventfd the driver waits on. */
  SET_VRING_CALL: 13,
  /** The eventfd that tells of a broken ring. */
  SET_VRING_ERR: 14,
  GET_PROTOCOL_FEATURES: 15,
  SET_PROTOCOL_FEATURES: 16,
  GET_QUEUE_NUM: 17,
  SET_VRING_ENABLE: 18,
  SEND_RARP: 19,
  NET_SET_MTU: 20,
  SET_BACKEND_REQ_FD: 21,
  IOTLB_MSG: 22,
  SET_VRING_ENDIAN: 23,
  GET_CONFIG: 24,
  SET_CONFIG: 25,
  CREATE_CRYPTO_SESSION: 26,
  CLOSE_CRYPTO_SESSION: 27,
  POSTCOPY_ADVISE: 28,
  POSTCOPY_LISTEN: 29,
  POSTCOPY_END: 30,
  GET_INFLIGHT_FD: 31,
  SET_INFLIGHT_FD: 32,
  GPU_SET_SOCKET: 33,
  /** Back to the initial state; the session stays. */
  RESET_DEVICE: 34,
  VRING_KICK: 35,
  GET_MAX_MEM_SLOTS: 36,
  ADD_MEM_REG: 37,
  REM_MEM_REG: 38,
  /** The virtio device status. */
  SET_STATUS: 39,
  GET_STATUS: 40,
} as const;
export type VhostUserRequest = (typeof VhostUserRequest)[keyof typeof VhostUserRequest];

/** For logs; undefined for a number that is no request. */
export const vhostUserRequestName: ReadonlyMap<number, keyof typeof VhostUserRequest> = new Map(
  (Object.entries(VhostUserRequest) as [keyof typeof VhostUserRequest, number][]).map(([name, n]) => [
    n,
    name,
  ]),
);

/** Feature bits that belong to the protocol, not to virtio. */
export const VhostFeature = {
  /** Log every page written; for migration. */
  LOG_ALL: 26,
  /** GET_PROTOCOL_FEATURES and SET_PROTOCOL_FEATURES are understood. */
  PROTOCOL_FEATURES: 30,
} as const;
export type VhostFeature = (typeof VhostFeature)[keyof typeof VhostFeature];

/** Bits of the protocol features ("Protocol features"). */
export const VhostUserProtocolFeature = {
  /** GET_QUEUE_NUM, and more than one queue pair. */
  MQ: 0,
  LOG_SHMFD: 1,
  RARP: 2,
  /** NEED_REPLY. */
  REPLY_ACK: 3,
  /** NET_SET_MTU. */
  NET_MTU: 4,
  BACKEND_REQ: 5,
  CROSS_ENDIAN: 6,
  CRYPTO_SESSION: 7,
  PAGEFAULT: 8,
  CONFIG: 9,
  BACKEND_SEND_FD: 10,
  HOST_NOTIFIER: 11,
  INFLIGHT_SHMFD: 12,
  /** RESET_DEVICE. */
  RESET_DEVICE: 13,
  INBAND_NOTIFICATIONS: 14,
  /** GET_MAX_MEM_SLOTS, ADD_MEM_REG, REM_MEM_REG. */
  CONFIGURE_MEM_SLOTS: 15,
  /** SET_STATUS, GET_STATUS. */
  STATUS: 16,
} as const;
export type VhostUserProtocolFeature =
  (typeof VhostUserProtocolFeature)[keyof typeof VhostUserProtocolFeature];

/** Payload of a plain number, and of every acknowledgement (0: success). */
export const VhostUserU64 = layout('VhostUserU64', 8, { value: u64 });

/** SET_VRING_NUM, SET_VRING_BASE, SET_VRING_ENABLE; GET_VRING_BASE both ways ("A vring state description"). */
export const VhostUserVringState = layout('VhostUserVringState', 8, { index: u32, value: u32 });

/** SET_VRING_ADDR ("A vring address description"). Addresses are the frontend's own, except the log's. */
export const VhostUserVringAddress = layout('VhostUserVringAddress', 40, {
  index: u32,
  /** VhostUserVringFlags. */
  flags: u32,
  descriptor: u64,
  used: u64,
  available: u64,
  /** Guest address of the used ring for the log of written pages. */
  log: u64,
});
/** Flags of SET_VRING_ADDR. */
export const VhostUserVringFlags = { LOG: 1 } as const;

/** The number of SET_VRING_KICK, SET_VRING_CALL and SET_VRING_ERR. */
export const VhostUserVringFd = {
  INDEX_MASK: 0xffn,
  /** No descriptor comes along: poll, or do not signal. */
  NO_FD: 0x100n,
} as const;

/** Head of SET_MEM_TABLE; `regionCount` VhostUserMemoryRegion follow. */
export const VhostUserMemoryTable = layout('VhostUserMemoryTable', 8, { regionCount: u32, padding: u32 });

/** One region of guest memory ("Memory region description"). */
export const VhostUserMemoryRegion = layout('VhostUserMemoryRegion', 32, {
  guestAddress: u64,
  sizeBytes: u64,
  /** The frontend's own address of the region; ring addresses are given in this space. */
  userAddress: u64,
  /** Where the region begins in the fd. */
  mmapOffset: u64,
});

/** ADD_MEM_REG and REM_MEM_REG ("Single memory region description"). */
export const VhostUserSingleRegion = layout('VhostUserSingleRegion', 40, {
  padding: u64,
  guestAddress: u64,
  sizeBytes: u64,
  userAddress: u64,
  mmapOffset: u64,
});

/** Most regions of SET_MEM_TABLE ("Memory regions description"). */
export const VHOST_USER_TABLE_REGIONS_MAX = 8;
