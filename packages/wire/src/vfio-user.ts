/**
 * vfio-user.ts: the messages of the vfio-user protocol, version 0.0, and this project's private commands.
 *
 * Theory
 *   Every message, request or reply, is a 16-byte header and a body. Offsets below count from the end of the header.
 *   Bodies that mirror a Linux VFIO structure carry `argsz`, which in a request is the room for the reply's body.
 *   File descriptors ride with the header's bytes.
 *
 * Invariants
 *   I1  everything is little-endian (the protocol says: the host's order; only little-endian hosts are served).
 *   I2  a private command is used only after both sides announced VFIO_USER_PRIVATE_CAPABILITY in VERSION.
 *
 * Limits
 *   Sizes and counts that a server accepts are its own decision (server-vfio-user/limits.ts).
 *
 * Spec: QEMU docs/interop/vfio-user.rst; structures that mirror VFIO: linux/vfio.h.
 */
import { layout, u16, u32, u64 } from './layout.js';

/** Leads every message, both ways ("Header"). */
export const VfioUserHeader = layout('VfioUserHeader', 16, {
  /** Chosen by the sender of the request, echoed in the reply. */
  messageId: u16,
  /** One of VfioUserCommand. */
  command: u16,
  /** The whole message in bytes, this header included. */
  sizeBytes: u32,
  /** VfioUserFlags. */
  flags: u32,
  /** Errno of a reply that carries ERROR; reserved in a request. */
  errno: u32,
});

/** Header flags. Bits 0..3 are the type. */
export const VfioUserFlags = {
  TYPE_MASK: 0xf,
  TYPE_COMMAND: 0x0,
  TYPE_REPLY: 0x1,
  /** The sender of this request wants no reply (a posted write). */
  NO_REPLY: 0x10,
  /** The reply is an error; no body follows. */
  ERROR: 0x20,
} as const;

export const VFIO_USER_VERSION_MAJOR = 0;
/** QEMU refuses any other minor version. */
export const VFIO_USER_VERSION_MINOR = 0;

/** Commands; client to server unless noted ("Commands"). */
export const VfioUserCommand = {
  /** Agree on version and limits; always first. */
  VERSION: 1,
  /** Offer a range of guest memory, with its fd when it can be shared. */
  DMA_MAP: 2,
  /** Withdraw a range; the reply says that nobody touches it any more. */
  DMA_UNMAP: 3,
  DEVICE_GET_INFO: 4,
  DEVICE_GET_REGION_INFO: 5,
  /** Ask for eventfds that stand for writes to parts of a region. */
  DEVICE_GET_REGION_IO_FDS: 6,
  DEVICE_GET_IRQ_INFO: 7,
  DEVICE_SET_IRQS: 8,
  REGION_READ: 9,
  REGION_WRITE: 10,
  /** Server to client. */
  DMA_READ: 11,
  /** Server to client. */
  DMA_WRITE: 12,
  DEVICE_RESET: 13,
  /** Of older drafts; still in QEMU's header. */
  DIRTY_PAGES: 14,
  REGION_WRITE_MULTI: 15,
  DEVICE_FEATURE: 16,
  MIG_DATA_READ: 17,
  MIG_DATA_WRITE: 18,
  /** Private: the eventfd with which the driver kicks a queue. */
  QUEUE_KICK: 0x7f00,
  /** Private: position a queue starts from when it is enabled next. */
  QUEUE_BASE_SET: 0x7f01,
  /** Private: stop a queue and tell its position. */
  QUEUE_BASE_GET: 0x7f02,
  /** Private: whether a queue may be given frames. */
  QUEUE_ENABLE: 0x7f03,
} as const;
export type VfioUserCommand = (typeof VfioUserCommand)[keyof typeof VfioUserCommand];

/** For logs. A command without a name does not compile. */
export const vfioUserCommandName = {
  1: 'VERSION',
  2: 'DMA_MAP',
  3: 'DMA_UNMAP',
  4: 'DEVICE_GET_INFO',
  5: 'DEVICE_GET_REGION_INFO',
  6: 'DEVICE_GET_REGION_IO_FDS',
  7: 'DEVICE_GET_IRQ_INFO',
  8: 'DEVICE_SET_IRQS',
  9: 'REGION_READ',
  10: 'REGION_WRITE',
  11: 'DMA_READ',
  12: 'DMA_WRITE',
  13: 'DEVICE_RESET',
  14: 'DIRTY_PAGES',
  15: 'REGION_WRITE_MULTI',
  16: 'DEVICE_FEATURE',
  17: 'MIG_DATA_READ',
  18: 'MIG_DATA_WRITE',
  [VfioUserCommand.QUEUE_KICK]: 'QUEUE_KICK',
  [VfioUserCommand.QUEUE_BASE_SET]: 'QUEUE_BASE_SET',
  [VfioUserCommand.QUEUE_BASE_GET]: 'QUEUE_BASE_GET',
  [VfioUserCommand.QUEUE_ENABLE]: 'QUEUE_ENABLE',
} as const satisfies Record<VfioUserCommand, keyof typeof VfioUserCommand>;

/** Commands from here up are private. */
export const VFIO_USER_PRIVATE_COMMANDS_FROM = 0x7f00;

/** Names in the VERSION JSON, under "capabilities". */
export const VfioUserCapability = {
  /** Most descriptors the sender takes with one message; 1 when absent. */
  MAX_MSG_FDS: 'max_msg_fds',
  /** Most bytes of data the sender takes in a region or DMA access; 1 MiB when absent. */
  MAX_DATA_XFER_SIZE: 'max_data_xfer_size',
  /** Most DMA regions valid at once; 65,535 when absent. */
  MAX_DMA_MAPS: 'max_dma_maps',
  /** true: REGION_WRITE_MULTI is understood. */
  WRITE_MULTIPLE: 'write_multiple',
  /** 1: this project's private commands are understood. */
  PRIVATE: 'virtnet',
} as const;
export type VfioUserCapability = (typeof VfioUserCapability)[keyof typeof VfioUserCapability];

/** The version of the private commands that both sides announce. */
export const VFIO_USER_PRIVATE_VERSION = 1;
export const VFIO_USER_DEFAULT_MAX_MSG_FDS = 1;
export const VFIO_USER_DEFAULT_MAX_DATA_XFER_SIZE = 1024 * 1024;

/** VERSION, both ways; JSON and a NUL follow. */
export const VfioUserVersion = layout('VfioUserVersion', 4, { major: u16, minor: u16 });

/** DMA_MAP. */
export const VfioUserDmaMap = layout('VfioUserDmaMap', 32, {
  argsz: u32,
  /** VfioUserDmaFlags. */
  flags: u32,
  /** Where the region begins in the fd; 0 without one. */
  fdOffset: u64,
  iova: u64,
  sizeBytes: u64,
});

/** Flags of DMA_MAP. MMAP and FILE_IO are libvfio-user's hints about the fd. */
export const VfioUserDmaFlags = { READ: 1, WRITE: 2, MMAP: 4, FILE_IO: 8 } as const;

/** DMA_UNMAP, both ways. */
export const VfioUserDmaUnmap = layout('VfioUserDmaUnmap', 24, {
  argsz: u32,
  /** VfioUserUnmapFlags. */
  flags: u32,
  iova: u64,
  sizeBytes: u64,
});

/** Flags of DMA_UNMAP. */
export const VfioUserUnmapFlags = {
  GET_DIRTY_BITMAP: 1,
  /** Everything; address and size are zero then. */
  ALL: 2,
} as const;

/** DEVICE_GET_INFO, both ways. */
export const VfioUserDeviceInfo = layout('VfioUserDeviceInfo', 16, {
  argsz: u32,
  /** VfioUserDeviceFlags. */
  flags: u32,
  regionCount: u32,
  irqTypeCount: u32,
});

/** Flags of DEVICE_GET_INFO. */
export const VfioUserDeviceFlags = { RESET: 1, PCI: 2 } as const;

/** DEVICE_GET_REGION_INFO, both ways; capabilities may follow in a reply. */
export const VfioUserRegionInfo = layout('VfioUserRegionInfo', 32, {
  argsz: u32,
  /** VfioUserRegionFlags. */
  flags: u32,
  index: u32,
  /** First capability, counted from the start of this structure. */
  capabilityOffset: u32,
  sizeBytes: u64,
  /** Offset to give to mmap, to which an area's own offset is added. */
  mmapOffset: u64,
});

/** Flags of DEVICE_GET_REGION_INFO. */
export const VfioUserRegionFlags = { READ: 1, WRITE: 2, MMAP: 4, CAPS: 8 } as const;

/** struct vfio_region_info_cap_sparse_mmap without its areas. */
export const VfioUserSparseMmap = layout('VfioUserSparseMmap', 16, {
  id: u16,
  version: u16,
  /** Next capability, 0 for none. */
  next: u32,
  areaCount: u32,
  reserved: u32,
});
/** One mappable area of a region. */
export const VfioUserSparseArea = layout('VfioUserSparseArea', 16, { offset: u64, sizeBytes: u64 });
export const VFIO_USER_CAP_SPARSE_MMAP = 1;
export const VFIO_USER_CAP_SPARSE_MMAP_VERSION = 1;

/** Region indices of a PCI device (linux/vfio.h). */
export const VfioPciRegion = {
  BAR0: 0,
  BAR1: 1,
  BAR2: 2,
  BAR3: 3,
  BAR4: 4,
  BAR5: 5,
  ROM: 6,
  CONFIG: 7,
  VGA: 8,
} as const;
/** QEMU demands at least 8 regions. */
export const VFIO_PCI_REGION_COUNT = 9;

/** DEVICE_GET_REGION_IO_FDS, both ways; `count` entries follow in a reply. */
export const VfioUserRegionIoFds = layout('VfioUserRegionIoFds', 16, {
  argsz: u32,
  flags: u32,
  index: u32,
  count: u32,
});

/** One entry of the reply to DEVICE_GET_REGION_IO_FDS, of type IOEVENTFD. */
export const VfioUserIoEventFd = layout('VfioUserIoEventFd', 40, {
  /** Where in the region. */
  offset: u64,
  /** Access size in bytes; 0: any. */
  sizeBytes: u64,
  /** Index among the message's descriptors. */
  fdIndex: u32,
  /** VfioUserIoFdType. */
  type: u32,
  /** VfioUserIoEventFdFlags. */
  flags: u32,
  padding: u32,
  /** The value that must be written, with DATAMATCH. */
  dataMatch: u64,
});
export const VfioUserIoFdType = { IOEVENTFD: 0, IOREGIONFD: 1 } as const;
/** KVM_IOEVENTFD_FLAG_*. */
export const VfioUserIoEventFdFlags = { DATAMATCH: 1, PIO: 2 } as const;

/** DEVICE_GET_IRQ_INFO, both ways. */
export const VfioUserIrqInfo = layout('VfioUserIrqInfo', 16, {
  argsz: u32,
  /** VfioUserIrqFlags. */
  flags: u32,
  index: u32,
  count: u32,
});

/** Flags of DEVICE_GET_IRQ_INFO. */
export const VfioUserIrqFlags = {
  /** Can be signalled by eventfd. */
  EVENTFD: 1,
  /** Understands MASK and UNMASK. */
  MASKABLE: 2,
  /** Masks itself when it fires. */
  AUTOMASKED: 4,
  /** Set up as a whole; growing it means disabling it first. */
  NORESIZE: 8,
} as const;

/** Interrupt indices of a PCI device (linux/vfio.h). */
export const VfioPciIrq = { INTX: 0, MSI: 1, MSIX: 2, ERR: 3, REQ: 4 } as const;
export const VFIO_PCI_IRQ_TYPE_COUNT = 5;

/** DEVICE_SET_IRQS; booleans, a byte each, may follow. */
export const VfioUserIrqSet = layout('VfioUserIrqSet', 20, {
  argsz: u32,
  /** VfioUserIrqSetFlags: one DATA, one ACTION. */
  flags: u32,
  index: u32,
  start: u32,
  count: u32,
});

/** Flags of DEVICE_SET_IRQS. */
export const VfioUserIrqSetFlags = {
  DATA_NONE: 1,
  DATA_BOOL: 2,
  DATA_EVENTFD: 4,
  DATA_MASK: 7,
  ACTION_MASK: 8,
  ACTION_UNMASK: 16,
  ACTION_TRIGGER: 32,
  ACTIONS_MASK: 56,
} as const;

/** REGION_READ and REGION_WRITE, both ways; data may follow. */
export const VfioUserRegionAccess = layout('VfioUserRegionAccess', 16, {
  offset: u64,
  region: u32,
  count: u32,
});

/** REGION_WRITE_MULTI, both ways; in a request `writeCount` entries follow. */
export const VfioUserWriteMulti = layout('VfioUserWriteMulti', 8, { writeCount: u64 });
/** One write of REGION_WRITE_MULTI; the first `count` bytes of `data` count. */
export const VfioUserWriteOne = layout('VfioUserWriteOne', 24, {
  offset: u64,
  region: u32,
  count: u32,
  data: u64,
});

/** Private: QUEUE_KICK, with the eventfd; without an fd it is withdrawn. */
export const VfioUserQueueKick = layout('VfioUserQueueKick', 8, { queue: u32, flags: u32 });
/** Private: QUEUE_BASE_SET, and the reply to QUEUE_BASE_GET. */
export const VfioUserQueueBase = layout('VfioUserQueueBase', 8, { queue: u32, base: u32 });
/** Private: QUEUE_BASE_GET. */
export const VfioUserQueue = layout('VfioUserQueue', 8, { queue: u32, reserved: u32 });
/** Private: QUEUE_ENABLE; `enabled` is 0 or 1. */
export const VfioUserQueueEnable = layout('VfioUserQueueEnable', 8, { queue: u32, enabled: u32 });
