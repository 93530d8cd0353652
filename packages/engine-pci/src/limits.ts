/** Bounds of one PCI function, each with its arithmetic. */
import { MSIX_VECTORS_MAX, PCI_CONFIG_BYTES } from '@virtnet/wire';

/** MSI-X vectors a function may have, when it has the capability at all (virtio 1.3, 4.1.5.1.2). */
export const VECTORS_MIN = 2;
export const VECTORS_MAX = MSIX_VECTORS_MAX;

/** Page to which every register structure is aligned, so that a client can map or trap each alone. */
export const REGION_PAGE_BYTES = 4096;

/** Bytes from one queue's notify register to the next. 4: room for notification data, and one write per register. */
export const NOTIFY_MULTIPLIER = 4;

/**
 * Largest access to configuration space that can come from a driver's instruction. Longer ones are a client that
 * copies configuration space; those must not trigger what only a driver's access triggers.
 */
export const DRIVER_ACCESS_BYTES_MAX = 8;

/** Bytes of saved state that differ from reset: no more than configuration space has. */
export const CONFIG_DIFFERENCES_MAX = PCI_CONFIG_BYTES;
