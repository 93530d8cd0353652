/**
 * capabilities.ts: the configuration space of a virtio function: header, BARs and the capability list.
 *
 * Theory
 *   The list, in order: power management, PCI Express, MSI-X (with vectors only), then the virtio structures: common,
 *   notify, ISR, device, and the configuration access window. Each is described by its reset value and its writable
 *   bits, both written through the same layout.
 *
 * Invariants
 *   I1  capabilities are 4-byte aligned, do not overlap and end before PCI_EXTENDED_AT.
 *   I2  every virtio structure named lies inside its BAR.
 *
 * Limits  extended capabilities are in extended.ts; without them the word at PCI_EXTENDED_AT is 0.
 * Spec    virtio 1.3, 4.1.4; PCI Express Base, 7.5.
 */
import {
  EXPRESS_DEVICE_CONTROL_RESET,
  EXPRESS_DEVICE_CONTROL_WRITABLE,
  EXPRESS_ENDPOINT_V2,
  EXPRESS_FLR,
  EXPRESS_LINK_CONTROL_WRITABLE,
  EXPRESS_LINK_GEN1_X1,
  EXPRESS_LINK_SPEEDS_GEN1,
  EXPRESS_ROLE_BASED_ERRORS,
  EXPRESS_TARGET_GEN1,
  type Layout,
  MsixControl,
  PCI_BAR_BYTES,
  PCI_BAR_MEMORY_MASK,
  PCI_CAPABILITIES_AT,
  PCI_EXTENDED_AT,
  PCI_PIN_INTA,
  PciBarFlag,
  PciCapability,
  PciCommand,
  PciExpress,
  PciHeader,
  PciMsix,
  PciPowerManagement,
  PciStatus,
  PM_NO_SOFT_RESET,
  PM_STATE_MASK,
  PM_VERSION,
  type Scalar,
  VIRTIO_PCI_CAP_EXTRA_AT,
  VIRTIO_PCI_CFG_CAP_BYTES,
  VIRTIO_PCI_NOTIFY_CAP_BYTES,
  VirtioPciCap,
  VirtioPciCapType,
  viewOf,
} from '@virtnet/wire';
import type { BarLayout, Structure } from './bar-layout.js';
import { ConfigSpace } from './config-space.js';
import { NOTIFY_MULTIPLIER } from './limits.js';

/** Ids and class of a function. */
export interface FunctionIdentity {
  readonly vendorId: number;
  readonly deviceId: number;
  readonly subsystemVendorId: number;
  readonly subsystemId: number;
  /** Base class, subclass and programming interface, 8 bits each. */
  readonly classCode: number;
  readonly revision: number;
  /** It can raise INTA. */
  readonly hasIntx: boolean;
}

/** Offsets of the capabilities that do something when accessed. */
export interface CapabilityOffsets {
  readonly powerManagement: number;
  readonly express: number;
  /** null without vectors. */
  readonly msix: number | null;
  /** The configuration access window (4.1.4.9). */
  readonly window: number;
}

/** A structure with the fields given, the others 0. */
function encoded<F extends Record<string, Scalar<number>>>(
  layoutOf: Layout<F>,
  fields: { readonly [K in keyof F]?: number },
): Uint8Array {
  const bytes = new Uint8Array(layoutOf.sizeBytes);
  return layoutOf.bytes({ ...layoutOf.decode(viewOf(bytes)), ...fields });
}

function placeHeader(space: ConfigSpace, identity: FunctionIdentity): void {
  const header = encoded(PciHeader, {
    vendorId: identity.vendorId,
    deviceId: identity.deviceId,
    status: PciStatus.CAPABILITIES,
    revision: identity.revision,
    programmingInterface: identity.classCode & 0xff,
    subclass: (identity.classCode >> 8) & 0xff,
    baseClass: identity.classCode >> 16,
    subsystemVendorId: identity.subsystemVendorId,
    subsystemId: identity.subsystemId,
    capabilities: PCI_CAPABILITIES_AT,
    interruptPin: identity.hasIntx ? PCI_PIN_INTA : 0,
  });
  const command =
    PciCommand.MEMORY | PciCommand.BUS_MASTER | PciCommand.PARITY | PciCommand.SERR | PciCommand.INTX_DISABLE;
  space.place(0, header, encoded(PciHeader, { command, cacheLineSize: 0xff, interruptLine: 0xff }));
}

function placeBars(space: ConfigSpace, layout: BarLayout): void {
  for (const bar of layout.bars) {
    const bytes = bar.is64Bit ? 2 * PCI_BAR_BYTES : PCI_BAR_BYTES;
    const reset = new Uint8Array(bytes);
    const writable = new Uint8Array(bytes).fill(0xff);
    viewOf(reset).setUint32(0, bar.is64Bit ? PciBarFlag.MEMORY_64 : 0, true);
    viewOf(writable).setUint32(0, (PCI_BAR_MEMORY_MASK & -bar.sizeBytes) >>> 0, true);
    space.place(PciHeader.at.bar0 + bar.index * PCI_BAR_BYTES, reset, writable);
  }
}

/** One capability before it is put into the list: `next` is filled in then. */
interface Capability {
  readonly reset: Uint8Array;
  readonly writable: Uint8Array;
}

function powerManagement(): Capability {
  const id = PciCapability.POWER_MANAGEMENT;
  return {
    reset: encoded(PciPowerManagement, { id, capabilities: PM_VERSION, control: PM_NO_SOFT_RESET }),
    writable: encoded(PciPowerManagement, { control: PM_STATE_MASK }),
  };
}

function express(): Capability {
  return {
    reset: encoded(PciExpress, {
      id: PciCapability.EXPRESS,
      flags: EXPRESS_ENDPOINT_V2,
      deviceCapabilities: EXPRESS_ROLE_BASED_ERRORS | EXPRESS_FLR,
      deviceControl: EXPRESS_DEVICE_CONTROL_RESET,
      linkCapabilities: EXPRESS_LINK_GEN1_X1,
      linkStatus: EXPRESS_LINK_GEN1_X1,
      linkCapabilities2: EXPRESS_LINK_SPEEDS_GEN1,
      linkControl2: EXPRESS_TARGET_GEN1,
    }),
    writable: encoded(PciExpress, {
      deviceControl: EXPRESS_DEVICE_CONTROL_WRITABLE,
      linkControl: EXPRESS_LINK_CONTROL_WRITABLE,
    }),
  };
}

function msix({ vectors, table, pending }: NonNullable<BarLayout['msix']>): Capability {
  return {
    reset: encoded(PciMsix, {
      id: PciCapability.MSIX,
      control: vectors - 1,
      table: table.offset | table.bar,
      pending: pending.offset | pending.bar,
    }),
    writable: encoded(PciMsix, { control: MsixControl.ENABLE | MsixControl.FUNCTION_MASK }),
  };
}

function virtio(type: VirtioPciCapType, where: Structure | null, capLength: number): Capability {
  const place = where === null ? {} : { bar: where.bar, offset: where.offset, length: where.lengthBytes };
  const reset = new Uint8Array(capLength);
  reset.set(encoded(VirtioPciCap, { capId: PciCapability.VENDOR, capLength, type, ...place }));
  return { reset, writable: new Uint8Array(capLength) };
}

function notify(where: Structure): Capability {
  const capability = virtio(VirtioPciCapType.NOTIFY, where, VIRTIO_PCI_NOTIFY_CAP_BYTES);
  viewOf(capability.reset).setUint32(VIRTIO_PCI_CAP_EXTRA_AT, NOTIFY_MULTIPLIER, true);
  return capability;
}

/** Software sets where the window looks: bar, offset, length, and the data behind them. */
function window(): Capability {
  const capability = virtio(VirtioPciCapType.PCI, null, VIRTIO_PCI_CFG_CAP_BYTES);
  capability.writable[VirtioPciCap.at.bar] = 0xff;
  capability.writable.fill(0xff, VirtioPciCap.at.offset);
  return capability;
}

/** Builds the configuration space of a function. */
export function buildConfigSpace(
  identity: FunctionIdentity,
  layout: BarLayout,
): { readonly space: ConfigSpace; readonly at: CapabilityOffsets } {
  const space = new ConfigSpace();
  placeHeader(space, identity);
  placeBars(space, layout);
  const cap = (type: VirtioPciCapType, where: Structure): Capability =>
    virtio(type, where, VirtioPciCap.sizeBytes);
  const list: Capability[] = [
    powerManagement(),
    express(),
    ...(layout.msix === null ? [] : [msix(layout.msix)]),
    cap(VirtioPciCapType.COMMON, layout.common),
    notify(layout.notify),
    cap(VirtioPciCapType.ISR, layout.isr),
    cap(VirtioPciCapType.DEVICE, layout.device),
    window(),
  ];
  const offsets: number[] = [];
  let at: number = PCI_CAPABILITIES_AT;
  for (const [i, capability] of list.entries()) {
    const next = at + Math.ceil(capability.reset.length / 4) * 4;
    capability.reset[1] = i === list.length - 1 ? 0 : next;
    space.place(at, capability.reset, capability.writable);
    offsets.push(at);
    at = next;
  }
  if (at > PCI_EXTENDED_AT) throw new RangeError(`capabilities end at ${at}`);
  return {
    space,
    at: {
      powerManagement: offsets[0]!,
      express: offsets[1]!,
      msix: layout.msix === null ? null : offsets[2]!,
      window: offsets.at(-1)!,
    },
  };
}
