/**
 * race-layout.ts: where everything is in the memory that a device and a driver on another thread race over.
 *
 * Theory
 *   Every descriptor of the ring has a slot for its buffers and a table of its own, and a hostile driver only ever names
 *   those, or what is in no region at all. So whatever mix of its writes a device sees in one read of each field, what it
 *   makes of descriptor i lies in slot or table i, or is refused. A device that reads a field twice may judge one value and
 *   use another, and ends up elsewhere.
 *   A slot is full of a byte that stands for its descriptor, behind the part in front where headers are rewritten, and ends
 *   with a stripe that no buffer reaches. Half of the slots lie in the region that the ring is in, across a line at which
 *   memory is cut, which is a line of 4 GiB as well. The others lie in a region of their own. Tables may only be read.
 *
 * Invariants
 *   I1  no word of one kind of field leads into memory when it is taken for another: the high words of regions are seen
 *       nowhere else, and low words of different regions differ.
 *
 * Limits  SLOTS descriptors.
 */
import type { MemoryRegion } from '@virtnet/engine-virtqueue';

/** Memory that both threads have; what is around it is guarded by the test. */
export interface SharedBytes {
  readonly buffer: SharedArrayBuffer;
  readonly byteOffset: number;
  readonly sizeBytes: number;
}

export const SLOTS = 8;
export const SLOT_BYTES = 8192;
/** What buffers may have of a slot; a stripe is behind it. */
export const BUFFER_BYTES = SLOT_BYTES - 64;
/** Where buffers begin in a slot. */
export const OFFSETS = [0, 64, 128] as const;
/** Behind this a slot is full of its byte. */
export const HEAD_BYTES = 256;
/** Multiples of 4; those of 16 are lengths of tables as well. */
export const LENGTHS = [16, 48, 64, 76, 600, 1528, 3000] as const;
/** More than any frame that is received, with its header. */
export const WRITTEN_MAX = 3072;
export const TABLE_ENTRIES = 4;
export const ENTRY_BYTES = 16;
/** A table has as much room as a slot: it may be taken for a buffer. */
const TABLE_STRIDE = SLOT_BYTES;
export const STRIPE = 0x5a;

const MAIN_SLOTS = SLOTS / 2;
/** Slot 1 begins this far in front of the cut. */
const BEFORE_CUT = 512;
const CUT_AT = 16_384;
const MAIN_SLOTS_AT = CUT_AT - BEFORE_CUT - SLOT_BYTES;
const PAGE_BYTES = 4096;
const pages = (bytes: number): number => Math.ceil(bytes / PAGE_BYTES) * PAGE_BYTES;

/** What a region is for, where the guest has it, and whether a device may write there. */
export const RaceRegion = {
  main: {
    iova: 2 ** 32 - CUT_AT,
    sizeBytes: pages(MAIN_SLOTS_AT + MAIN_SLOTS * SLOT_BYTES),
    writable: true,
  },
  far: { iova: 0x2_8000_0000, sizeBytes: (SLOTS - MAIN_SLOTS) * SLOT_BYTES, writable: true },
  tables: { iova: 0x3_4000_0000, sizeBytes: pages(SLOTS * TABLE_STRIDE), writable: false },
} as const;
export type RaceRegionName = keyof typeof RaceRegion;

export type RaceMemory = Readonly<Record<RaceRegionName, SharedBytes>>;

export const regionOf = (name: RaceRegionName, { buffer, byteOffset }: SharedBytes): MemoryRegion => ({
  iova: BigInt(RaceRegion[name].iova),
  sizeBytes: RaceRegion[name].sizeBytes,
  writable: RaceRegion[name].writable,
  buffer: buffer as unknown as ArrayBuffer,
  byteOffset,
  address: 0x7f00_0000_0000 + byteOffset,
});

/** Which region a slot is in, and where there. */
export const slotRegion = (slot: number): 'main' | 'far' => (slot < MAIN_SLOTS ? 'main' : 'far');
export const slotAt = (slot: number): number =>
  slot < MAIN_SLOTS ? MAIN_SLOTS_AT + slot * SLOT_BYTES : (slot - MAIN_SLOTS) * SLOT_BYTES;
export const slotAddress = (slot: number): number => RaceRegion[slotRegion(slot)].iova + slotAt(slot);
/** Where a descriptor's table is in its region. */
export const tableAt = (slot: number): number => slot * TABLE_STRIDE;
export const tableAddress = (slot: number): number => RaceRegion.tables.iova + tableAt(slot);
export const slotByte = (slot: number): number => 0x40 + slot;
/** Descriptors that may be without a byte. */
export const mayBeEmpty = (slot: number): boolean => slot % 4 === 3;

/** Which slot, or table, `bytes` bytes at an address wholly lie in; -1: none. */
export function ownerOf(address: number, bytes: number): number {
  const { main, far, tables } = RaceRegion;
  if (address >= tables.iova) return within(address - tables.iova, bytes, TABLE_STRIDE, BUFFER_BYTES, SLOTS);
  if (address >= far.iova) {
    const slot = within(address - far.iova, bytes, SLOT_BYTES, BUFFER_BYTES, SLOTS - MAIN_SLOTS);
    return slot < 0 ? -1 : slot + MAIN_SLOTS;
  }
  return within(address - main.iova - MAIN_SLOTS_AT, bytes, SLOT_BYTES, BUFFER_BYTES, MAIN_SLOTS);
}

function within(at: number, bytes: number, stride: number, room: number, count: number): number {
  const index = Math.floor(at / stride);
  return index >= 0 && index < count && (at % stride) + bytes <= room ? index : -1;
}

/** Where in its slot an address is; -1: in a table. */
export function placeInSlot(address: number, slot: number): number {
  return address >= RaceRegion.tables.iova ? -1 : address - slotAddress(slot);
}

/** The stripes of a region: bytes that nobody may change. */
export function stripesOf(name: RaceRegionName, bytes: Uint8Array): Uint8Array[] {
  const stripes: Uint8Array[] = [];
  for (let slot = 0; slot < SLOTS; slot++) {
    if (name === 'tables') {
      stripes.push(bytes.subarray(tableAt(slot) + BUFFER_BYTES, tableAt(slot) + TABLE_STRIDE));
    } else if (name === slotRegion(slot)) {
      stripes.push(bytes.subarray(slotAt(slot) + BUFFER_BYTES, slotAt(slot) + SLOT_BYTES));
    }
  }
  return stripes;
}
