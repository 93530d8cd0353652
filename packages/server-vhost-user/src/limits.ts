/**
 * limits.ts: what one frontend may make this backend hold.
 */
import { VHOST_USER_TABLE_REGIONS_MAX, VhostUserMemoryRegion, VhostUserMemoryTable } from '@virtnet/wire';

/** Most memory regions of one frontend: what libvhost-user and rust-vmm offer, the most QEMU's memory slots make. */
export const MEMORY_REGIONS_MAX = 509;

/** Largest payload: a full SET_MEM_TABLE (8 + 8 * 32 bytes). A longer one is refused before it is read. */
export const PAYLOAD_BYTES_MAX =
  VhostUserMemoryTable.sizeBytes + VHOST_USER_TABLE_REGIONS_MAX * VhostUserMemoryRegion.sizeBytes;

/** Most descriptors any request carries: one for each region of SET_MEM_TABLE. */
export const MESSAGE_FDS_MAX = VHOST_USER_TABLE_REGIONS_MAX;

/** Rings and regions are shared page by page. */
export const PAGE_BYTES = 4096n;

/** Largest queue the protocol's 16-bit ring indices allow (virtio 2.6). */
export const RING_SIZE_MAX = 32_768;

/** The range of NET_SET_MTU in bytes, before the device's own maximum (virtio 5.1.4.1). */
export const MTU_BYTES_MIN = 68;

/** Delay before the first retries of a connection to the frontend, in milliseconds. */
export const RETRY_FIRST_MS = 100;
/** Retries at RETRY_FIRST_MS before the delay grows. */
export const RETRY_FIRST_COUNT = 10;
/** Longest delay between retries, in milliseconds. */
export const RETRY_MAX_MS = 1000;

/** How long to wait for the rest of a message before looking again, in milliseconds: at first, and at most. */
export const PARTIAL_WAIT_MIN_MS = 1;
export const PARTIAL_WAIT_MAX_MS = 64;
