/**
 * lspci-verbose.ts: one function as `lspci -vvv` describes it, read from its configuration space.
 *
 * Theory
 *   Everything but the driver's name comes from the bytes a driver would read: what is not there is not shown. The
 *   form is lspci's as far as the guide and scripts use it: capability lines with their offset, "Kernel driver in use".
 */
import {
  MsixControl,
  PCI_CAPABILITIES_AT,
  PCI_CONFIG_BYTES,
  PCI_EXTENDED_AT,
  PciCapability,
  PciCommand,
  PciExtendedCapability,
  PciHeader,
  PciMsix,
  PciSriov,
  PciStatus,
  SriovControl,
  VIRTIO_PCI_VENDOR_ID,
  VirtioPciCap,
  VirtioPciCapType,
} from '@virtnet/wire';
import type { PciSubsystem } from './facts.js';

/** Capabilities followed at most: a list that loops ends. */
const CAPABILITIES_MAX = 48;
const VIRTIO_STRUCTURES: Readonly<Record<number, string>> = {
  [VirtioPciCapType.COMMON]: 'CommonCfg',
  [VirtioPciCapType.NOTIFY]: 'Notify',
  [VirtioPciCapType.ISR]: 'ISR',
  [VirtioPciCapType.DEVICE]: 'DeviceCfg',
  [VirtioPciCapType.PCI]: '<unknown>',
};

const MELLANOX_VENDOR_ID = 0x15b3;
/** Vendors that lspci would find in its database. */
const VENDOR_NAMES: Readonly<Record<number, string>> = {
  [VIRTIO_PCI_VENDOR_ID]: 'Red Hat, Inc.',
  [MELLANOX_VENDOR_ID]: 'Mellanox Technologies',
};

function subsystem({ subsystemVendorId, subsystemId }: PciSubsystem, numeric: boolean): string {
  const [vendor, device] = [hex(subsystemVendorId, 4), hex(subsystemId, 4)];
  if (numeric) return `${vendor}:${device}`;
  const name = VENDOR_NAMES[subsystemVendorId];
  return name === undefined ? `Device ${vendor}:${device}` : `${name} Device ${device}`;
}

/** The lines below a function's row; `driver` is empty when it has none. */
export function verboseLines(config: Uint8Array, driver: string, numeric = false): string[] {
  if (config.byteLength < PCI_CONFIG_BYTES) return [];
  const view = new DataView(config.buffer, config.byteOffset, config.byteLength);
  const header = PciHeader.decode(view);
  return [
    `Subsystem: ${subsystem(header, numeric)}`,
    `Control: ${flags(header.command, CONTROL_FLAGS)}`,
    `Status: ${flags(header.status, STATUS_FLAGS)}`,
    ...(header.interruptPin === 0
      ? []
      : [`Interrupt: pin ${'?ABCD'[header.interruptPin] ?? '?'} routed to IRQ 0`]),
    ...regions(view),
    ...capabilities(view),
    ...extended(view),
    ...(driver === '' ? [] : [`Kernel driver in use: ${driver}`]),
  ].map((line) => `\t${line}`);
}

const CONTROL_FLAGS = [
  ['Mem', PciCommand.MEMORY],
  ['BusMaster', PciCommand.BUS_MASTER],
  ['ParErr', PciCommand.PARITY],
  ['SERR', PciCommand.SERR],
  ['DisINTx', PciCommand.INTX_DISABLE],
] as const;
const STATUS_FLAGS = [
  ['Cap', PciStatus.CAPABILITIES],
  ['INTx', PciStatus.INTERRUPT],
] as const;

function flags(value: number, names: readonly (readonly [string, number])[]): string {
  return names.map(([name, bit]) => `${name}${sign(value, bit)}`).join(' ');
}

function sign(value: number, bit: number): string {
  return (value & bit) !== 0 ? '+' : '-';
}

function hex(value: number, digits: number): string {
  return value.toString(16).padStart(digits, '0');
}

function regions(view: DataView): string[] {
  const lines: string[] = [];
  for (let bar = 0; bar < 6; bar++) {
    const at = PciHeader.at.bar0 + 4 * bar;
    const low = view.getUint32(at, true);
    const wide = (low & 6) === 4;
    const address = (low & ~0xf) >>> 0;
    const high = wide ? view.getUint32(at + 4, true) : 0;
    if (wide || address !== 0) {
      const where =
        address === 0 && high === 0 ? '<unassigned>' : hex(high * 2 ** 32 + address, wide ? 16 : 8);
      lines.push(`Region ${bar}: Memory at ${where} (${wide ? 64 : 32}-bit, non-prefetchable)`);
    }
    if (wide) bar++;
  }
  return lines;
}

function capabilities(view: DataView): string[] {
  const lines: string[] = [];
  let at = view.getUint8(PciHeader.at.capabilities);
  for (
    let count = 0;
    count < CAPABILITIES_MAX && at >= PCI_CAPABILITIES_AT && at < PCI_EXTENDED_AT - 16;
    count++
  ) {
    lines.push(...capability(view, at));
    at = view.getUint8(at + 1);
  }
  return lines;
}

function capability(view: DataView, at: number): string[] {
  const title = (text: string) => `Capabilities: [${hex(at, 2)}] ${text}`;
  switch (view.getUint8(at)) {
    case PciCapability.POWER_MANAGEMENT:
      return [title(`Power Management version ${view.getUint16(at + 2, true) & 7}`)];
    case PciCapability.EXPRESS:
      return [title(`Express (v${view.getUint16(at + 2, true) & 0xf}) Endpoint, MSI 00`)];
    case PciCapability.MSIX: {
      const { control, table, pending } = PciMsix.decode(view, at);
      const enable = sign(control, MsixControl.ENABLE);
      const masked = sign(control, MsixControl.FUNCTION_MASK);
      return [
        title(`MSI-X: Enable${enable} Count=${(control & 0x7ff) + 1} Masked${masked}`),
        `\tVector table: BAR=${table & 7} offset=${hex((table & ~7) >>> 0, 8)}`,
        `\tPBA: BAR=${pending & 7} offset=${hex((pending & ~7) >>> 0, 8)}`,
      ];
    }
    case PciCapability.VENDOR: {
      const { type, bar, offset, length } = VirtioPciCap.decode(view, at);
      return [
        title(`Vendor Specific Information: VirtIO: ${VIRTIO_STRUCTURES[type] ?? '<unknown>'}`),
        `\tBAR=${bar} offset=${hex(offset, 8)} size=${hex(length, 8)}`,
      ];
    }
    default:
      return [title(`#${hex(view.getUint8(at), 2)}`)];
  }
}

function extended(view: DataView): string[] {
  const lines: string[] = [];
  let at = PCI_EXTENDED_AT;
  for (let count = 0; count < CAPABILITIES_MAX; count++) {
    const header = view.getUint32(at, true);
    if (header === 0) break;
    const title = (text: string) => `Capabilities: [${hex(at, 3)} v${(header >>> 16) & 0xf}] ${text}`;
    switch (header & 0xffff) {
      case PciExtendedCapability.ARI:
        lines.push(title('Alternative Routing-ID Interpretation (ARI)'));
        break;
      case PciExtendedCapability.SRIOV:
        lines.push(title('Single Root I/O Virtualization (SR-IOV)'), ...sriov(view, at));
        break;
      default:
        lines.push(title(`Extended Capability ID 0x${hex(header & 0xffff, 2)}`));
    }
    at = header >>> 20;
    if (at < PCI_EXTENDED_AT || at > PCI_CONFIG_BYTES - PciSriov.sizeBytes) break;
  }
  return lines;
}

function sriov(view: DataView, at: number): string[] {
  const s = PciSriov.decode(view, at);
  const control = [
    ['Enable', SriovControl.VF_ENABLE],
    ['MSE', SriovControl.VF_MEMORY],
    ['ARIHierarchy', SriovControl.ARI],
  ] as const;
  return [
    `\tIOVCtl: ${flags(s.control, control)}`,
    `\tInitial VFs: ${s.initialVfs}, Total VFs: ${s.totalVfs}, Number of VFs: ${s.numVfs}, Function Dependency Link: ${hex(s.dependencyLink, 2)}`,
    `\tVF offset: ${s.firstVfOffset}, stride: ${s.vfStride}, Device ID: ${hex(s.vfDeviceId, 4)}`,
  ];
}
