/**
 * shelf-channel.ts: the messages between the state keeper and its clients, one per SOCK_SEQPACKET datagram.
 *
 *   header (24)  then `operations` times: operation (16), name, blob
 *
 * The descriptors of a message travel as SCM_RIGHTS, in the order of the operations that have one.
 */
import { i32, layout, u8, u16, u32 } from './layout.js';

export const SHELF_MAGIC = 0x46_4c_48_53; // "SHLF"
export const SHELF_VERSION = 1;

/** SCM_MAX_FD: the kernel's limit for one message. */
export const SHELF_DESCRIPTORS_MAX = 253;
/** One message, header included; small enough for one socket buffer allocation of the kernel. */
export const SHELF_MESSAGE_BYTES_MAX = 180 * 1024;
export const SHELF_NAME_BYTES_MAX = 200;
/**
 * The socket of whoever an entry's siblings were made for: while it has a peer, their time to live does not begin. An
 * entry `a/b/c/d` is a sibling of `a/b/connection`.
 */
export const SHELF_CONNECTION_NAME = 'connection';
/** One operation is at least its header and a name of one byte, so this bounds the loop, not the use. */
export const SHELF_OPERATIONS_MAX = 4096;

export const ShelfMessageHeader = layout('ShelfMessageHeader', 24, {
  magic: u32,
  version: u16,
  /** One of ShelfMessageKind. */
  kind: u16,
  /** Whole message, this header included. */
  sizeBytes: u32,
  operations: u32,
  /** A pid, a negative errno, or a member of LeaseMode: see the kind. */
  argument: i32,
  reserved: u32,
});

export const ShelfOperationHeader = layout('ShelfOperationHeader', 16, {
  /** One of ShelfOperationKind. */
  kind: u8,
  /** 1 when the next descriptor of the message belongs to this operation. */
  hasDescriptor: u8,
  nameBytes: u16,
  blobBytes: u32,
  /** The keeper drops the entry once it has had no client for so long; 0 = never. Milliseconds. */
  ttlWithoutHolderMs: u32,
  reserved: u32,
});

export const ShelfMessageKind = {
  /** Client: apply these operations, all or none. Keeper: these operations were applied. */
  TRANSACTION: 1,
  /** Client: send me the whole shelf, then every change. */
  SUBSCRIBE: 2,
  /** Client: I am the writer from now on; argument is a LeaseMode. Keeper: granted (0) or -errno. */
  LEASE: 3,
  /** Client: everything was uploaded; what was not put since LEASE is dropped. */
  COMPLETE: 4,
  /** Keeper: what was sent so far is the whole shelf; argument is the lease holder's pid, or 0. */
  SYNCED: 5,
  /** Keeper: process `argument` is now the writer. */
  LEASE_HELD: 6,
  /** Keeper: the connection of writer or borrower `argument` ended, and everything it ever sent was told before this. */
  LEASE_LOST: 7,
  /** Keeper: a transaction was refused as a whole; argument is -errno. */
  REFUSED: 8,
  /**
   * Writer: from now on process `argument` writes every name that begins with the name of an operation; the operations
   * are puts without descriptors, their blobs are passed on. Keeper: this was lent.
   */
  LEND: 9,
  /** Writer: process `argument` is the writer from now on. */
  PASS: 10,
  /**
   * Client: process `argument` executes nothing any more, though it may not be gone yet: take what its connections
   * hold, end them, and answer with LEASE_LOST, whether there was any or not.
   */
  BURY: 11,
  /**
   * Keeper: its own end of the connection of writer `argument`, as the descriptor of the only operation. What is in it
   * when the keeper dies was not passed on.
   */
  WRITER_END: 12,
} as const;
export type ShelfMessageKind = (typeof ShelfMessageKind)[keyof typeof ShelfMessageKind];

export const ShelfOperationKind = {
  /** Store blob and descriptor under the name, in place of what was there. */
  PUT: 1,
  DELETE: 2,
  /** Delete every name that begins with `name`. */
  DELETE_PREFIX: 3,
} as const;
export type ShelfOperationKind = (typeof ShelfOperationKind)[keyof typeof ShelfOperationKind];

export const LeaseMode = {
  /** The shelf is right as it is. */
  ADOPT: 1,
  /** Everything will be put again, up to COMPLETE. */
  UPLOAD: 2,
  /** The same, out of the service manager's store: what is put is kept there already. */
  RESTORE: 3,
} as const;
export type LeaseMode = (typeof LeaseMode)[keyof typeof LeaseMode];
