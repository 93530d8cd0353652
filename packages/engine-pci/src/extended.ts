/**
 * extended.ts: the extended capabilities of an SR-IOV adapter's functions: ARI, and on a PF SR-IOV itself.
 *
 * Theory
 *   VFs are enabled by whoever owns the PF on the host, not by a guest that was given it: the host's side of the
 *   adapter says how many there are, and for the client every register here is read-only, as vfio-pci leaves them. They
 *   are part of what a function is after reset, so a reset changes nothing and nothing of them is saved.
 *
 * Spec    PCI Express Base, 7.8.8 and 9.3.3.
 */
import {
  PCI_EXTENDED_AT,
  PCI_EXTENDED_VERSION,
  PciAri,
  PciBarFlag,
  PciExtendedCapability,
  PciSriov,
  SRIOV_PAGE_SIZES,
  SriovControl,
} from '@virtnet/wire';
import type { Bar } from './bar-layout.js';
import type { ConfigSpace } from './config-space.js';

/** What a function of an SR-IOV adapter is. */
export type SriovRole =
  | { readonly kind: 'vf' }
  | {
      readonly kind: 'pf';
      readonly totalVfs: number;
      /** Routing id of the first VF, counted from the PF's own. */
      readonly firstVfOffset: number;
    };

const SRIOV_AT = PCI_EXTENDED_AT + PciAri.sizeBytes;

function header(id: number, next: number): number {
  return id | (PCI_EXTENDED_VERSION << 16) | (next << 20);
}

function placeReadOnly(space: ConfigSpace, at: number, bytes: Uint8Array): void {
  space.place(at, bytes, new Uint8Array(bytes.length));
}

/** Puts the capabilities into configuration space, with `numVfs` VFs enabled. May be called again with another number. */
export function placeExtended(
  space: ConfigSpace,
  role: SriovRole,
  bars: readonly Bar[],
  deviceId: number,
  numVfs: number,
): void {
  const hasVfs = role.kind === 'pf' && role.totalVfs > 0;
  const ari = PciAri.bytes({
    header: header(PciExtendedCapability.ARI, hasVfs ? SRIOV_AT : 0),
    capability: 0,
    control: 0,
  });
  placeReadOnly(space, PCI_EXTENDED_AT, ari);
  if (!hasVfs) return;
  const flags = (index: number) =>
    bars.some((bar) => bar.index === index && bar.is64Bit) ? PciBarFlag.MEMORY_64 : 0;
  const sriov = PciSriov.bytes({
    header: header(PciExtendedCapability.SRIOV, 0),
    capabilities: 0,
    control: SriovControl.ARI | (numVfs > 0 ? SriovControl.VF_ENABLE | SriovControl.VF_MEMORY : 0),
    status: 0,
    initialVfs: role.totalVfs,
    totalVfs: role.totalVfs,
    numVfs,
    dependencyLink: 0,
    firstVfOffset: role.firstVfOffset,
    vfStride: 1,
    reserved: 0,
    vfDeviceId: deviceId,
    supportedPageSizes: SRIOV_PAGE_SIZES,
    systemPageSize: 1,
    vfBar0: flags(0),
    vfBar1: 0,
    vfBar2: flags(2),
    vfBar3: 0,
    vfBar4: flags(4),
    vfBar5: 0,
    migrationState: 0,
  });
  placeReadOnly(space, SRIOV_AT, sriov);
}
