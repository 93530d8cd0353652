/** test-config-space.ts: configuration space of a virtio-net function, for tests. */
import {
  NetConfig,
  PCI_CONFIG_BYTES,
  PciCapability,
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

/** The common configuration is at the start of BAR 0, the device configuration here. */
export const DEVICE_AT = 0x1000;
const COMMON_AT = 0;
/** Where the MSI-X capability is in configuration space. */
export const MSIX_CAP_AT = 0x80;

/** Bytes of configuration space with the capabilities a virtio function has. */
export function testConfigSpace(vectors: number): Uint8Array {
  const config = new Uint8Array(PCI_CONFIG_BYTES);
  const view = viewOf(config);
  view.setUint16(PciHeader.at.vendorId, VIRTIO_PCI_VENDOR_ID, true);
  view.setUint16(PciHeader.at.deviceId, VIRTIO_PCI_DEVICE_ID_BASE + VIRTIO_ID_NET, true);
  view.setUint16(PciHeader.at.status, PciStatus.CAPABILITIES, true);
  view.setUint8(PciHeader.at.capabilities, 0x40);
  const cap = (at: number, next: number, type: number, offset: number, length: number) =>
    VirtioPciCap.encode(view, at, {
      capId: PciCapability.VENDOR,
      next,
      capLength: VirtioPciCap.sizeBytes,
      type,
      bar: 0,
      id: 0,
      reserved: 0,
      offset,
      length,
    });
  cap(0x40, 0x50, VirtioPciCapType.COMMON, COMMON_AT, VirtioPciCommon.sizeBytes);
  cap(0x50, MSIX_CAP_AT, VirtioPciCapType.DEVICE, DEVICE_AT, NetConfig.sizeBytes);
  PciMsix.encode(view, MSIX_CAP_AT, {
    id: PciCapability.MSIX,
    next: 0,
    control: vectors - 1,
    table: 4,
    pending: 4,
  });
  return config;
}
