/** Bounds of the control plane. Each is the original's own, from its guide, unless it says otherwise. */

/** Static PFs of one controller. */
export const STATIC_PFS_MAX = 31;
/** Hotplug PFs of one controller: ports of the emulated PCIe switch. */
export const HOTPLUG_PFS_MAX = 31;
/** Hotplug PFs when VFs are configured as well. */
export const HOTPLUG_PFS_WITH_VFS_MAX = 15;
/** VFs of one controller, over all its PFs. */
export const VFS_MAX = 1008;
/** PF numbers: every static and every hotplug PF has one, counted from 0. */
export const PF_IDS = STATIC_PFS_MAX + HOTPLUG_PFS_MAX;

/** Smallest MTU a device may have, in bytes: virtio 1.3, 5.1.4.1. */
export const MTU_MIN = 68;
/** MTU of a function nobody chose one for, unless its uplink has less. */
export const MTU_DEFAULT = 1500;
/** Largest MTU in bytes where the uplink has no network device that would say less: the guide's jumbo size. */
export const MTU_MAX = 9216;

/** Entries of a virtqueue. */
export const QUEUE_SIZE_MIN = 0x4;
export const QUEUE_SIZE_MAX = 0x8000;
/** Of a function nobody chose one for. */
export const QUEUE_SIZE_DEFAULT = 256;
/** Virtqueues of one device: receive, transmit and control together. */
export const VIRT_QUEUES_MAX = 256;
/** A network device has at least a receive, a transmit and a control queue. */
export const VIRT_QUEUES_MIN = 3;
/** Data queue pairs of one device: all of its virtqueues but the control queue. */
export const QUEUE_PAIRS_MAX = (VIRT_QUEUES_MAX - 1) >> 1;

/** MSI-X vectors of a function, least and (PCI 3.0, table size field of 11 bits) most. */
export const MSIX_VECTORS_MIN = 4;
export const MSIX_VECTORS_MAX = 2048;

/**
 * SF numbers by kind of function, first and last. The guide names no upper end for VFs; here it is what a name of an
 * interface, 15 bytes, has room for. One SF each, so a VF's number stays below 4008.
 */
export const STATIC_SF_FIRST = 1000;
export const HOTPLUG_SF_FIRST = 2000;
export const HOTPLUG_SF_LAST = 2999;
export const VF_SF_FIRST = 3000;
export const VF_SF_LAST = 9999;
