/** virtio over PCI: ids, capabilities and registers (virtio 1.3, section 4.1); device status (2.1). */
import { layout, u8, u16, u32, u64 } from './layout.js';

/** Vendor of every virtio function (4.1.2). */
export const VIRTIO_PCI_VENDOR_ID = 0x1af4;
/** Device id of a modern function: this plus the virtio device type. */
export const VIRTIO_PCI_DEVICE_ID_BASE = 0x1040;

/** Bits of the device status (2.1). */
export const DeviceStatus = {
  /** The driver's system found the device. */
  ACKNOWLEDGE: 0x01,
  /** It knows how to drive it. */
  DRIVER: 0x02,
  /** It is ready; queues may be worked. */
  DRIVER_OK: 0x04,
  /** Features are agreed. */
  FEATURES_OK: 0x08,
  /** The device cannot go on. */
  NEEDS_RESET: 0x40,
  /** The driver gave up. */
  FAILED: 0x80,
} as const;
export type DeviceStatus = (typeof DeviceStatus)[keyof typeof DeviceStatus];

/** cfg_type of a virtio capability (4.1.4). */
export const VirtioPciCapType = {
  COMMON: 1,
  NOTIFY: 2,
  ISR: 3,
  DEVICE: 4,
  /** Access to the BARs through configuration space. */
  PCI: 5,
} as const;
export type VirtioPciCapType = (typeof VirtioPciCapType)[keyof typeof VirtioPciCapType];

/** struct virtio_pci_cap (4.1.4). */
export const VirtioPciCap = layout('VirtioPciCap', 16, {
  capId: u8,
  next: u8,
  /** Bytes of this capability, what follows this structure included. */
  capLength: u8,
  /** One of VirtioPciCapType. */
  type: u8,
  bar: u8,
  id: u8,
  reserved: u16,
  /** Offset in the BAR. */
  offset: u32,
  /** Length in the BAR. */
  length: u32,
});
/** Length in bytes of the notify capability: notify_off_multiplier follows the common part (4.1.4.4). */
export const VIRTIO_PCI_NOTIFY_CAP_BYTES = 20;
/** Length in bytes of the configuration access capability: pci_cfg_data follows the common part (4.1.4.9). */
export const VIRTIO_PCI_CFG_CAP_BYTES = 20;
/** Where what follows the common part begins. */
export const VIRTIO_PCI_CAP_EXTRA_AT = 16;
/** Bytes of pci_cfg_data. */
export const VIRTIO_PCI_CFG_DATA_BYTES = 4;

/** struct virtio_pci_common_cfg (4.1.4.3). */
export const VirtioPciCommon = layout('VirtioPciCommon', 64, {
  deviceFeatureSelect: u32,
  deviceFeature: u32,
  driverFeatureSelect: u32,
  driverFeature: u32,
  configVector: u16,
  queueCount: u16,
  deviceStatus: u8,
  configGeneration: u8,
  queueSelect: u16,
  queueSize: u16,
  queueVector: u16,
  queueEnable: u16,
  queueNotifyOffset: u16,
  queueDescriptor: u64,
  queueDriver: u64,
  queueDevice: u64,
  queueNotifyData: u16,
  queueReset: u16,
  adminQueueIndex: u16,
  adminQueueCount: u16,
});

/** Bits of the ISR status byte (4.1.4.5). */
export const IsrBit = {
  /** Some queue has used buffers. */
  QUEUE: 1,
  /** The device configuration changed. */
  CONFIG: 2,
} as const;
export type IsrBit = (typeof IsrBit)[keyof typeof IsrBit];

/** A vector register that names no vector. */
export const NO_VECTOR = 0xffff;
/** Largest virtqueue (2.6). */
export const QUEUE_SIZE_MAX = 32_768;
/** Most virtqueues: the width of queue_select. */
export const QUEUE_COUNT_MAX = 65_535;
