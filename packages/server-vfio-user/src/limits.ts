/** limits.ts: everything a vfio-user peer may make us hold, and why it is that much. */
import { VfioUserHeader, VfioUserRegionAccess } from '@virtnet/wire';

/**
 * Most bytes of data in one region access; announced as max_data_xfer_size.
 * A request stays in the socket until it is answered, so all of it must fit into the sender's socket buffer: Linux
 * gives a UNIX socket 212,992 bytes by default and charges up to twice the data. And a reply must go out whole or
 * not at all: up to about 36,000 bytes Linux makes one segment of a send. Device accesses are 8 bytes; the largest
 * that QEMU sends are 256 bytes.
 */
export const DATA_TRANSFER_BYTES_MAX = 32 * 1024;

/** Longest message taken: a header, an access and its data. A longer one ends the connection. */
export const MESSAGE_BYTES_MAX =
  VfioUserHeader.sizeBytes + VfioUserRegionAccess.sizeBytes + DATA_TRANSFER_BYTES_MAX;

/** Most descriptors taken with one message; announced as max_msg_fds. QEMU refuses a server that says more. */
export const MESSAGE_FDS_MAX = 16;

/**
 * Most DMA regions of one client; announced as max_dma_maps. A virtual machine has at most 509 memory slots, and
 * firmware shadowing adds a few dozen. Each region holds one descriptor here and one in the keeper.
 */
export const DMA_REGIONS_MAX = 1024;

/** Longest VERSION request: the longest known (QEMU) is 214 bytes. */
export const VERSION_BYTES_MAX = 4096;

/** QEMU reads a VERSION reply into the buffer of its own request. */
export const VERSION_REPLY_BYTES_MAX = 214;

/** Replies a client may leave unread: several of the longest, so that one always fits when the socket is writable. */
export const SEND_BUFFER_BYTES = 256 * 1024;

/** A message that arrived in part is looked at again after the first wait, doubling up to the second. */
export const PARTIAL_WAIT_MIN_MS = 1;
export const PARTIAL_WAIT_MAX_MS = 64;

/** Messages of one connection worked before other connections get their turn; each is a few microseconds. */
export const MESSAGES_PER_TURN = 64;

/** Requests a client has under way at once; further ones are refused. Ids are 16 bits, so this keeps them apart. */
export const CLIENT_REQUESTS_MAX = 1024;

/** Longest message a client takes from a server: a peer may have larger limits than ours. */
export const CLIENT_MESSAGE_BYTES_MAX = 1024 * 1024 + 64;

/** A server must answer within this; QEMU gives 5,000 ms as well. */
export const CLIENT_TIMEOUT_MS = 5000;
