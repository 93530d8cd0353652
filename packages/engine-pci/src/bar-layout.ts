/**
 * Where a function's registers are in its BARs. BAR 0 (64 bits wide) holds the virtio structures, each from a page of
 * its own; BAR 4 holds the MSI-X table and the pending bits, from a page of their own each.
 */
import { MsixEntry, VirtioPciCommon } from '@virtnet/wire';
import { NOTIFY_MULTIPLIER, REGION_PAGE_BYTES } from './limits.js';

/** BAR of the virtio structures. */
export const VIRTIO_BAR = 0;
/** BAR of the MSI-X table and pending bits. */
export const MSIX_BAR = 4;

/** A register structure in a BAR. */
export interface Structure {
  readonly bar: number;
  readonly offset: number;
  readonly lengthBytes: number;
}

/** A BAR a client sees as a region. */
export interface Bar {
  readonly index: number;
  /** A power of two. */
  readonly sizeBytes: number;
  readonly is64Bit: boolean;
}

export interface BarLayout {
  readonly bars: readonly Bar[];
  readonly common: Structure;
  readonly isr: Structure;
  readonly device: Structure;
  readonly notify: Structure;
  /** null without vectors. */
  readonly msix: { readonly vectors: number; readonly table: Structure; readonly pending: Structure } | null;
}

const pages = (bytes: number): number => Math.ceil(bytes / REGION_PAGE_BYTES) * REGION_PAGE_BYTES;

function powerOfTwo(bytes: number): number {
  let size = REGION_PAGE_BYTES;
  while (size < bytes) size *= 2;
  return size;
}

/** Places structures one after the other, each from a fresh page. */
function placeAll(bar: number, lengths: readonly number[]): { structures: Structure[]; sizeBytes: number } {
  let offset = 0;
  const structures = lengths.map((lengthBytes) => {
    const structure = { bar, offset, lengthBytes };
    offset += pages(lengthBytes);
    return structure;
  });
  return { structures, sizeBytes: powerOfTwo(offset) };
}

/** Bytes of the pending bit array: whole 64-bit words (PCI 3.0, 6.8.2.10). */
export function pendingBytes(vectors: number): number {
  return Math.ceil(vectors / 64) * 8;
}

/** The layout of a function with this many queues, bytes of device configuration and MSI-X vectors (0: none). */
export function layOutBars(queueCount: number, configBytes: number, vectors: number): BarLayout {
  const virtio = placeAll(VIRTIO_BAR, [
    VirtioPciCommon.sizeBytes,
    1,
    configBytes,
    Math.max(1, queueCount) * NOTIFY_MULTIPLIER, // without queues, too, a driver finds all structures
  ]);
  const [common, isr, device, notify] = virtio.structures as [Structure, Structure, Structure, Structure];
  const bars: Bar[] = [{ index: VIRTIO_BAR, sizeBytes: virtio.sizeBytes, is64Bit: true }];
  if (vectors === 0) return { bars, common, isr, device, notify, msix: null };
  const interrupts = placeAll(MSIX_BAR, [vectors * MsixEntry.sizeBytes, pendingBytes(vectors)]);
  const [table, pending] = interrupts.structures as [Structure, Structure];
  bars.push({ index: MSIX_BAR, sizeBytes: interrupts.sizeBytes, is64Bit: false });
  return { bars, common, isr, device, notify, msix: { vectors, table, pending } };
}
