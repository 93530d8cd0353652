/**
 * pci-walk.ts: where the registers of a virtio function are, found in its configuration space as a driver finds them.
 *
 * Theory
 *   Vendor-specific capabilities of virtio say in which BAR and at which offset each structure lies; of each type the
 *   first one counts (virtio 4.1.4). The MSI-X capability says how many vectors there are.
 *
 * Invariants
 *   I1  the walk ends: capabilities in configuration space are counted, not trusted.
 *   I2  a structure is accepted only when it is large enough for what is read from it.
 */
import {
  MsixControl,
  PCI_BARS,
  PCI_CAPABILITIES_AT,
  PCI_EXTENDED_AT,
  PciCapability,
  PciCapabilityHeader,
  PciHeader,
  PciMsix,
  PciStatus,
  VIRTIO_ID_NET,
  VIRTIO_PCI_DEVICE_ID_BASE,
  VIRTIO_PCI_VENDOR_ID,
  VirtioPciCap,
  VirtioPciCapType,
  VirtioPciCommon,
  viewOf,
} from '@virtnet/wire';
import { PCI_CAPABILITIES_MAX } from './limits.js';

/** Bytes of configuration space the walk needs: header and classic capabilities. */
export const WALK_BYTES = PCI_EXTENDED_AT;

/** A structure inside a BAR. */
export interface BarPart {
  readonly bar: number;
  readonly offset: number;
  readonly lengthBytes: number;
}

export interface FunctionLayout {
  readonly common: BarPart;
  readonly device: BarPart;
  /** Offset of the MSI-X capability in configuration space. */
  readonly msixAt: number;
  readonly msixVectors: number;
}

/** Bytes of the common configuration this driver uses: up to the queue addresses. */
const COMMON_BYTES_MIN = VirtioPciCommon.at.queueDevice + 8;
/** Bytes of the device configuration this driver uses: up to the MTU. */
const DEVICE_BYTES_MIN = 12;

/** Finds the registers, or says what the function lacks. */
export function walkFunction(config: Uint8Array): FunctionLayout | { readonly lacks: string } {
  if (config.length < WALK_BYTES) return { lacks: 'configuration space' };
  const view = viewOf(config);
  const header = PciHeader.decode(view);
  const modern = VIRTIO_PCI_DEVICE_ID_BASE + VIRTIO_ID_NET;
  if (header.vendorId !== VIRTIO_PCI_VENDOR_ID || header.deviceId !== modern)
    return { lacks: 'the identity of a modern virtio network card' };
  if ((header.status & PciStatus.CAPABILITIES) === 0) return { lacks: 'capabilities' };

  const parts = new Map<number, BarPart>();
  let msix: { at: number; vectors: number } | null = null;
  let at = header.capabilities & ~3;
  for (let left = PCI_CAPABILITIES_MAX; at !== 0 && left > 0; left--) {
    if (at < PCI_CAPABILITIES_AT || at + PciCapabilityHeader.sizeBytes > WALK_BYTES)
      return { lacks: 'a sound capability list' };
    const { id, next } = PciCapabilityHeader.decode(view, at);
    if (id === PciCapability.VENDOR && at + VirtioPciCap.sizeBytes <= WALK_BYTES) {
      const cap = VirtioPciCap.decode(view, at);
      if (cap.bar < PCI_BARS && !parts.has(cap.type))
        parts.set(cap.type, { bar: cap.bar, offset: cap.offset, lengthBytes: cap.length });
    }
    if (id === PciCapability.MSIX && msix === null && at + PciMsix.sizeBytes <= WALK_BYTES)
      msix = { at, vectors: (PciMsix.decode(view, at).control & MsixControl.TABLE_SIZE_MASK) + 1 };
    at = next & ~3;
  }

  const common = parts.get(VirtioPciCapType.COMMON);
  const device = parts.get(VirtioPciCapType.DEVICE);
  if (common === undefined || common.lengthBytes < COMMON_BYTES_MIN)
    return { lacks: 'a common configuration' };
  if (device === undefined || device.lengthBytes < DEVICE_BYTES_MIN)
    return { lacks: 'a device configuration' };
  if (msix === null) return { lacks: 'MSI-X' };
  return { common, device, msixAt: msix.at, msixVectors: msix.vectors };
}
