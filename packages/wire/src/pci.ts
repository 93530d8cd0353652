/**
 * PCI and PCI Express configuration space: header type 0, power management, PCI Express and MSI-X capabilities
 * (PCI Local Bus 3.0 section 6, PCI Express Base section 7). Only what an endpoint function has.
 */
import { layout, u8, u16, u32 } from './layout.js';

/** Size in bytes of a PCI Express function's configuration space. */
export const PCI_CONFIG_BYTES = 4096;
/** First byte behind the header, where capabilities may begin. */
export const PCI_CAPABILITIES_AT = 0x40;
/** First byte of the extended configuration space; zeros there mean that it has no capability. */
export const PCI_EXTENDED_AT = 0x100;

/** Configuration header, type 0. */
export const PciHeader = layout('PciHeader', 64, {
  vendorId: u16,
  deviceId: u16,
  /** Bits of PciCommand. */
  command: u16,
  /** Bits of PciStatus. */
  status: u16,
  revision: u8,
  programmingInterface: u8,
  subclass: u8,
  baseClass: u8,
  cacheLineSize: u8,
  latencyTimer: u8,
  headerType: u8,
  selfTest: u8,
  bar0: u32,
  bar1: u32,
  bar2: u32,
  bar3: u32,
  bar4: u32,
  bar5: u32,
  cardbusCis: u32,
  subsystemVendorId: u16,
  subsystemId: u16,
  expansionRom: u32,
  capabilities: u8,
  reserved0: u8,
  reserved1: u16,
  reserved2: u32,
  interruptLine: u8,
  /** 0: none; 1: INTA. */
  interruptPin: u8,
  minGrant: u8,
  maxLatency: u8,
});

/** Base address registers of a type 0 header. */
export const PCI_BARS = 6;
/** Bytes from one base address register to the next. */
export const PCI_BAR_BYTES = 4;

/** Low bits of a base address register. */
export const PciBarFlag = {
  /** I/O space instead of memory. */
  IO: 1,
  /** Memory with a 64-bit address; the next register is the upper half. */
  MEMORY_64: 4,
  /** Reading has no side effects. */
  PREFETCHABLE: 8,
} as const;
export type PciBarFlag = (typeof PciBarFlag)[keyof typeof PciBarFlag];
/** The address bits of a memory base address register's low half. */
export const PCI_BAR_MEMORY_MASK = 0xffff_fff0;

/** Bits of the command register. */
export const PciCommand = {
  IO: 0x1,
  /** The function answers accesses to its memory BARs. */
  MEMORY: 0x2,
  /** The function may access memory and send MSI-X messages. */
  BUS_MASTER: 0x4,
  PARITY: 0x40,
  SERR: 0x100,
  /** INTx must not be asserted. */
  INTX_DISABLE: 0x400,
} as const;
export type PciCommand = (typeof PciCommand)[keyof typeof PciCommand];

/** Bits of the status register. */
export const PciStatus = {
  /** INTx is pending inside the function. */
  INTERRUPT: 0x8,
  /** There is a capability list. */
  CAPABILITIES: 0x10,
} as const;
export type PciStatus = (typeof PciStatus)[keyof typeof PciStatus];

/** INTA in the interrupt pin register. */
export const PCI_PIN_INTA = 1;

/** Capability ids. */
export const PciCapability = {
  POWER_MANAGEMENT: 0x01,
  VENDOR: 0x09,
  EXPRESS: 0x10,
  MSIX: 0x11,
} as const;
export type PciCapability = (typeof PciCapability)[keyof typeof PciCapability];

/** First two bytes of every capability. */
export const PciCapabilityHeader = layout('PciCapabilityHeader', 2, {
  id: u8,
  /** Offset of the next capability in configuration space; 0 ends the list. */
  next: u8,
});

/** Power management capability. */
export const PciPowerManagement = layout('PciPowerManagement', 8, {
  id: u8,
  next: u8,
  capabilities: u16,
  /** PM_STATE_MASK, PM_NO_SOFT_RESET. */
  control: u16,
  bridge: u8,
  data: u8,
});
/** Version 1.2 of the power management interface, no power management events. */
export const PM_VERSION = 3;
/** Power state D0..D3 in the control register. */
export const PM_STATE_MASK = 0x3;
/** Going from D3hot to D0 does not reset the function. */
export const PM_NO_SOFT_RESET = 0x8;

/** PCI Express capability, version 2. */
export const PciExpress = layout('PciExpress', 60, {
  id: u8,
  next: u8,
  /** Version in bits 0..3, port type in bits 4..7. */
  flags: u16,
  deviceCapabilities: u32,
  deviceControl: u16,
  deviceStatus: u16,
  linkCapabilities: u32,
  linkControl: u16,
  linkStatus: u16,
  slotCapabilities: u32,
  slotControl: u16,
  slotStatus: u16,
  rootControl: u16,
  rootCapabilities: u16,
  rootStatus: u32,
  deviceCapabilities2: u32,
  deviceControl2: u16,
  deviceStatus2: u16,
  linkCapabilities2: u32,
  linkControl2: u16,
  linkStatus2: u16,
  slotCapabilities2: u32,
  slotControl2: u16,
  slotStatus2: u16,
});
/** flags: version 2, endpoint. */
export const EXPRESS_ENDPOINT_V2 = 0x0002;
/** deviceCapabilities: errors are reported by role (required since 1.1). */
export const EXPRESS_ROLE_BASED_ERRORS = 1 << 15;
/** deviceCapabilities: the function can be reset alone. */
export const EXPRESS_FLR = 1 << 28;
/** deviceControl: start a function level reset; reads 0. */
export const EXPRESS_INITIATE_FLR = 0x8000;
/** deviceControl after reset: relaxed ordering, no snoop, 512-byte read requests. */
export const EXPRESS_DEVICE_CONTROL_RESET = 0x2810;
/** deviceControl bits software may change: error reporting, ordering, payload and request sizes. */
export const EXPRESS_DEVICE_CONTROL_WRITABLE = 0x78ff;
/** linkControl bits software may change: ASPM, read completion boundary, common clock, extended synch. */
export const EXPRESS_LINK_CONTROL_WRITABLE = 0x00cb;
/** linkCapabilities and linkStatus: 2.5 GT/s in bits 0..3, one lane in bits 4..9. */
export const EXPRESS_LINK_GEN1_X1 = 0x11;
/** linkCapabilities2: 2.5 GT/s in the vector of supported speeds. */
export const EXPRESS_LINK_SPEEDS_GEN1 = 0x2;
/** linkControl2: target speed 2.5 GT/s. */
export const EXPRESS_TARGET_GEN1 = 0x1;

/** MSI-X capability. */
export const PciMsix = layout('PciMsix', 12, {
  id: u8,
  next: u8,
  /** Bits of MsixControl; vectors - 1 in bits 0..10. */
  control: u16,
  /** BAR index in bits 0..2, offset in the others. */
  table: u32,
  /** As table, for the pending bit array. */
  pending: u32,
});
/** Bits of the MSI-X control register. */
export const MsixControl = {
  TABLE_SIZE_MASK: 0x07ff,
  /** All vectors are masked. */
  FUNCTION_MASK: 0x4000,
  ENABLE: 0x8000,
} as const;
export type MsixControl = (typeof MsixControl)[keyof typeof MsixControl];
/** BAR index in the table and pending registers. */
export const MSIX_BAR_MASK = 0x7;

/** One entry of the MSI-X table. */
export const MsixEntry = layout('MsixEntry', 16, {
  addressLow: u32,
  addressHigh: u32,
  data: u32,
  /** MSIX_ENTRY_MASKED. */
  control: u32,
});
/** control of a table entry: no message is sent for this vector. */
export const MSIX_ENTRY_MASKED = 1;
/** Most vectors an MSI-X table can have. */
export const MSIX_VECTORS_MAX = 2048;

/** Extended capabilities: a 16-bit id, 4 bits of version, 12 bits of the next one's offset. */
export const PciExtendedCapability = { ARI: 0x000e, SRIOV: 0x0010 } as const;
export const PCI_EXTENDED_VERSION = 1;

/** Alternative routing-id interpretation: a function number of 8 bits (PCI Express Base, 7.8.8). */
export const PciAri = layout('PciAri', 8, { header: u32, capability: u16, control: u16 });

/** Single root I/O virtualization (PCI Express Base, 9.3.3). */
export const PciSriov = layout('PciSriov', 64, {
  header: u32,
  capabilities: u32,
  /** Bits of SriovControl. */
  control: u16,
  status: u16,
  initialVfs: u16,
  totalVfs: u16,
  numVfs: u16,
  dependencyLink: u16,
  /** Routing id of the first VF, counted from the PF's. */
  firstVfOffset: u16,
  /** From one VF's routing id to the next. */
  vfStride: u16,
  reserved: u16,
  vfDeviceId: u16,
  supportedPageSizes: u32,
  systemPageSize: u32,
  vfBar0: u32,
  vfBar1: u32,
  vfBar2: u32,
  vfBar3: u32,
  vfBar4: u32,
  vfBar5: u32,
  migrationState: u32,
});
export const SriovControl = { VF_ENABLE: 1, VF_MEMORY: 8, ARI: 16 } as const;
/** 4 KiB and, as real adapters, up to 4 MiB. */
export const SRIOV_PAGE_SIZES = 0x553;
