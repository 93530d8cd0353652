/**
 * Packed virtqueues on the wire (virtio 1.3, section 2.8): one ring of descriptors and an event suppression structure
 * for each side. The datapath reads them as 32-bit words at the positions below; tests use the layouts.
 */
import { layout, u16, u32, u64 } from './layout.js';

/** struct pvirtq_desc (2.8.13). */
export const PackedDescriptor = layout('PackedDescriptor', 16, {
  /** Guest address of the buffer, or of the table of an indirect descriptor. */
  address: u64,
  /** Bytes of the buffer; in a used descriptor, bytes written into it. */
  lengthBytes: u32,
  /** What the driver calls the buffer; that of a chain is in its last descriptor. */
  id: u16,
  /** Bits of DescriptorFlag (2.7.5) and of PackedFlag. */
  flags: u16,
});

/** The two flags that say whose a descriptor is (2.8.1). */
export const PackedFlag = { AVAIL: 1 << 7, USED: 1 << 15 } as const;
export type PackedFlag = (typeof PackedFlag)[keyof typeof PackedFlag];

/** struct pvirtq_event_suppress (2.8.14). */
export const PackedEvent = layout('PackedEvent', 4, {
  /** Bits 0 to 14: a position in the ring; bit 15: the wrap counter it is meant with. */
  position: u16,
  /** One of PackedEventFlag in bits 0 and 1. */
  flags: u16,
});

/** When a side wants to be told (2.8.10). */
export const PackedEventFlag = {
  ENABLE: 0,
  DISABLE: 1,
  /** When the position is passed; only with EVENT_IDX. */
  DESCRIPTOR: 2,
} as const;
export type PackedEventFlag = (typeof PackedEventFlag)[keyof typeof PackedEventFlag];

/** Most entries a packed queue can have (2.8.10.1); any number up to it is legal. */
export const PACKED_QUEUE_SIZE_MAX = 32_768;

/** Alignment of each part in bytes (2.8.10.1). */
export const PackedAlignment = { DESCRIPTOR: 16, DRIVER: 4, DEVICE: 4 } as const;

/** A descriptor as 32-bit words: four to a descriptor; the last has the id below and the flags above. */
export const PackedWord = { ADDRESS_LOW: 0, ADDRESS_HIGH: 1, LENGTH: 2, ID_FLAGS: 3 } as const;
/** Bits to shift word ID_FLAGS, or an event word, right by to get the flags. */
export const PACKED_FLAGS_SHIFT = 16;

/** Half of a position: 15 bits of index and the wrap counter in bit 15. Both halves make what vhost calls a base. */
export const PackedPosition = { INDEX_MASK: 0x7fff, WRAP: 0x8000, USED_SHIFT: 16 } as const;

/** Size in bytes of the descriptor area. */
export const packedDescriptorAreaBytes = (queueSize: number): number =>
  queueSize * PackedDescriptor.sizeBytes;

/** Where a ring begins that was just set up: index 0 and wrap counter 1 on both sides (2.8.1); 0 when it is split. */
export const initialRingPosition = (packed: boolean): number => (packed ? 0x8000_8000 : 0);
