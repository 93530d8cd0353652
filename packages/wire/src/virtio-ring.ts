/**
 * Split virtqueues on the wire (virtio 1.3, section 2.7): the three parts in guest memory, their flags and sizes.
 * The datapath reads them through typed arrays at the `…At` positions below; control paths and tests use the layouts.
 */
import { layout, u16, u32, u64 } from './layout.js';

/** struct virtq_desc (2.7.5). */
export const VirtqDescriptor = layout('VirtqDescriptor', 16, {
  /** Guest address of the buffer, or of the table of an indirect descriptor. */
  address: u64,
  lengthBytes: u32,
  /** Bits of DescriptorFlag. */
  flags: u16,
  /** Index of the next descriptor; meaningful under NEXT. */
  next: u16,
});

/** Flags of a descriptor (2.7.5). */
export const DescriptorFlag = {
  /** The chain goes on at `next`. */
  NEXT: 1,
  /** The device writes this buffer; otherwise it reads it. */
  WRITE: 2,
  /** The buffer is a table of descriptors (INDIRECT_DESC). */
  INDIRECT: 4,
} as const;
export type DescriptorFlag = (typeof DescriptorFlag)[keyof typeof DescriptorFlag];

/** First bytes of the available ring (2.7.6) and of the used ring (2.7.8). */
export const VirtqRingHeader = layout('VirtqRingHeader', 4, {
  /** Bits of AvailableFlag or UsedFlag. */
  flags: u16,
  /** Free-running, modulo 2^16. */
  index: u16,
});

/** struct virtq_used_elem (2.7.8). */
export const VirtqUsedElement = layout('VirtqUsedElement', 8, {
  /** Index of the head of the used chain. */
  head: u32,
  /** Bytes written into the chain's writable buffers. */
  lengthBytes: u32,
});

/** Flags of the available ring; the driver writes them. Ignored under EVENT_IDX. */
export const AvailableFlag = { NO_INTERRUPT: 1 } as const;
export type AvailableFlag = (typeof AvailableFlag)[keyof typeof AvailableFlag];

/** Flags of the used ring; the device writes them. Always 0 under EVENT_IDX. */
export const UsedFlag = { NO_NOTIFY: 1 } as const;
export type UsedFlag = (typeof UsedFlag)[keyof typeof UsedFlag];

/** Most entries a split queue can have (2.7); the size is a power of two. */
export const SPLIT_QUEUE_SIZE_MAX = 32_768;

/** Alignment of each part in bytes (2.7). */
export const SplitAlignment = { DESCRIPTOR: 16, DRIVER: 2, DEVICE: 4 } as const;

/** Descriptor table as 32-bit words: four to a descriptor. */
export const DescriptorWord = { ADDRESS_LOW: 0, ADDRESS_HIGH: 1, LENGTH: 2, FLAGS_NEXT: 3 } as const;
/** log2 of the 32-bit words of a descriptor. */
export const DESCRIPTOR_WORDS_SHIFT = 2;
/** Bits to shift word FLAGS_NEXT right by to get `next`. */
export const DESCRIPTOR_NEXT_SHIFT = 16;

/** Both rings as 16-bit words. */
export const RingWord = { FLAGS: 0, INDEX: 1, FIRST_ENTRY: 2 } as const;

/** Used ring as 32-bit words: element i is at FIRST_ELEMENT + 2 i, its length one further. */
export const UsedWord = { FIRST_ELEMENT: 1, WORDS_PER_ELEMENT_SHIFT: 1, LENGTH: 1 } as const;

/** Position of used_event in the driver area, in 16-bit words. */
export const usedEventAt = (queueSize: number): number => RingWord.FIRST_ENTRY + queueSize;
/** Position of avail_event in the device area, in 16-bit words. */
export const availableEventAt = (queueSize: number): number => RingWord.FIRST_ENTRY + queueSize * 4;

/** Size in bytes of the descriptor area. */
export const descriptorAreaBytes = (queueSize: number): number => queueSize * VirtqDescriptor.sizeBytes;
/** Size in bytes of the driver area, used_event included. */
export const driverAreaBytes = (queueSize: number): number => VirtqRingHeader.sizeBytes + queueSize * 2 + 2;
/** Size in bytes of the device area, avail_event included. */
export const deviceAreaBytes = (queueSize: number): number =>
  VirtqRingHeader.sizeBytes + queueSize * VirtqUsedElement.sizeBytes + 2;
