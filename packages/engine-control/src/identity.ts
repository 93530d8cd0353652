/**
 * identity.ts: the names and numbers by which one function is known.
 *
 * Theory
 *   The adapter's own functions share one range of routing ids that begins at 14:00.0, in the order that the guide's
 *   examples and sums show: two native PFs, the static virtio-net PFs (the first is 14:00.2), the RShim, and the VFs
 *   of the first PF, of the second, and so on (14:00.4 where there is one PF). Where they are more than 256 the range
 *   goes on over the next buses, as a host booted with pci=assign-busses lets it. Behind it lies the emulated PCIe
 *   switch: a hotplug PF sits alone behind a port, so its bus follows from the port; without so many VFs the first
 *   is 15:00.0. The representor's name follows from the uplink port and the SF number, the VUID from the board
 *   serial, the kind and the PCI device and function; a VF's is its PF's and the VF's number counted from 1.
 *
 * Limits
 *   VHCA ids, the cross-device memory key and the SF's RDMA device exist in the original's hardware only. Here they
 *   are derived from numbers that are unique already, so that scripts that read them find something stable. They
 *   have no meaning.
 */
import {
  HOTPLUG_SF_FIRST,
  HOTPLUG_SF_LAST,
  PF_IDS,
  STATIC_PFS_MAX,
  STATIC_SF_FIRST,
  VF_SF_FIRST,
  VF_SF_LAST,
  VFS_MAX,
} from './limits.js';

/** Serial of the emulated board, the first part of every VUID. */
export const BOARD_SERIAL = 'MT2151X03152';
/** PCI address of the emulated adapter's first port, as `mlxconfig -d` takes it. */
export const ADAPTER_BDF = '03:00.0';
/** Routing id of the adapter's first function as the host sees it: 14:00.0. */
const ADAPTER_AT = 0x1400;
/** The native PFs before the static virtio-net PFs, and the RShim behind them. */
const NATIVE_PFS = 2;
const RSHIMS = 1;
const FUNCTIONS_PER_BUS = 256;
/** Every function of the adapter's own range at most. */
const ADAPTER_FUNCTIONS_MAX = NATIVE_PFS + STATIC_PFS_MAX + RSHIMS + VFS_MAX;

/** How many functions the firmware's configuration gives the adapter. */
export interface FunctionLayout {
  readonly staticPfs: number;
  readonly vfsPerPf: number;
}

/** The uplink ports by the RDMA device names under which the command line knows them. A bond is port 0. */
export const UPLINK_PORTS: Readonly<Record<string, 0 | 1>> = { mlx5_0: 0, mlx5_1: 1, mlx5_bond_0: 0 };

/** Uplink port of an RDMA device name; null when there is no such device. */
export function uplinkPort(ibDevice: string): 0 | 1 | null {
  return Object.hasOwn(UPLINK_PORTS, ibDevice) ? UPLINK_PORTS[ibDevice]! : null;
}

export interface PciAddress {
  readonly bus: number;
  readonly device: number;
  readonly fn: number;
}

const BDF_PATTERN = /^(?:0000:)?([0-9a-f]{2}):([01][0-9a-f])\.([0-7])$/i;

/** `bus:device.function` in lower-case hexadecimal, without the domain, as the original prints it. */
export function formatBdf({ bus, device, fn }: PciAddress): string {
  const pair = (value: number) => value.toString(16).padStart(2, '0');
  return `${pair(bus)}:${pair(device)}.${fn}`;
}

/** Reads `15:00.0` or `0000:15:00.0`; null for any other text, also for another domain. */
export function parseBdf(text: string): PciAddress | null {
  const match = BDF_PATTERN.exec(text);
  if (match === null) return null;
  const [, bus, device, fn] = match as unknown as [string, string, string, string];
  return { bus: Number.parseInt(bus, 16), device: Number.parseInt(device, 16), fn: Number.parseInt(fn, 16) };
}

/** An address as `formatBdf` writes it, of any text that `parseBdf` reads; null for any other text. */
export function canonicalBdf(text: string): string | null {
  const address = parseBdf(text);
  return address === null ? null : formatBdf(address);
}

/** Name of the host's network interface of the function at `bus:device.function`, at most 11 bytes: `vnet14s00f2`. */
export function netdevName(bdf: string): string {
  return `vnet${bdf.replace(':', 's').replace('.', 'f')}`;
}

/** The 16 bits `bus << 8 | device << 3 | function` that recovery files hold. */
export function rawBdf({ bus, device, fn }: PciAddress): number {
  return (bus << 8) | (device << 3) | fn;
}

/** The address of a routing id, the inverse of `rawBdf`. */
export function addressOf(raw: number): PciAddress {
  return { bus: raw >> 8, device: (raw >> 3) & 0x1f, fn: raw & 7 };
}

/** Address of static PF `pfId`, counted from 0. */
export function staticAddress(pfId: number): PciAddress {
  return addressOf(ADAPTER_AT + NATIVE_PFS + pfId);
}

/** Routing id of the first VF of static PF `pfId`, whether it exists or not. The others follow one by one. */
export function vfAddressFirst({ staticPfs, vfsPerPf }: FunctionLayout, pfId: number): number {
  return ADAPTER_AT + NATIVE_PFS + staticPfs + RSHIMS + pfId * vfsPerPf;
}

/** Whether a routing id can be that of a VF: behind at least one static PF and within the adapter's range. */
export function isVfAddress(raw: number): boolean {
  return raw >= ADAPTER_AT + NATIVE_PFS + 1 + RSHIMS && raw < ADAPTER_AT + ADAPTER_FUNCTIONS_MAX;
}

/** Bus of the first port of the emulated switch: the first one behind the adapter's own functions. */
export function hotplugBusFirst({ staticPfs, vfsPerPf }: FunctionLayout): number {
  const functions = NATIVE_PFS + staticPfs + RSHIMS + staticPfs * vfsPerPf;
  return (ADAPTER_AT >> 8) + Math.ceil(functions / FUNCTIONS_PER_BUS);
}

/** Whether `bus` can be that of the switch's first port in any configuration. */
export function isHotplugBus(bus: number): boolean {
  const first = ADAPTER_AT >> 8;
  return bus > first && bus <= first + Math.ceil(ADAPTER_FUNCTIONS_MAX / FUNCTIONS_PER_BUS);
}

/** Address of the device behind switch port `portIndex`, counted from 0. */
export function hotplugAddress(portIndex: number, layout: FunctionLayout): PciAddress {
  return { bus: hotplugBusFirst(layout) + portIndex, device: 0, fn: 0 };
}

/** VUID of the hotplug PF behind switch port `portIndex`. */
export function hotplugVuid(portIndex: number): string {
  return `${BOARD_SERIAL}VNETS1D${portIndex}F0`;
}

/** VUID of static PF `pfId`. */
export function staticVuid(pfId: number): string {
  const { device, fn } = staticAddress(pfId);
  return `${BOARD_SERIAL}VNETS0D${device}F${fn}`;
}

/** VUID of VF `vfId` of static PF `pfId`; the number in it counts from 1. */
export function vfVuid(pfId: number, vfId: number): string {
  return `${staticVuid(pfId)}VF${vfId + 1}`;
}

const VUID_PATTERN = /^[0-9A-Z]{1,32}VNETS[01]D\d{1,4}F\d{1,4}(VF\d{1,4})?$/;

/** Whether a text has the form of a VUID. */
export function isVuid(text: string): boolean {
  return VUID_PATTERN.test(text);
}

/** Name of the representor of SF `sfNum` on uplink port `port`. */
export function representorName(port: 0 | 1, sfNum: number): string {
  return `en3f${port}pf${port}sf${sfNum}`;
}

/** PCI address of the uplink port an SF is made on, with its domain. */
export function uplinkPciAddress(port: 0 | 1): string {
  return `0000:03:00.${port}`;
}

/** Without meaning here: VHCA id of a PF. 0 and 1 are the adapter's own ports. */
export function pciVhcaId(pfId: number): number {
  return 2 + pfId;
}

/** Without meaning here: VHCA id of the VF at a routing id, above those of all SFs. */
export function vfVhcaId(address: number): number {
  return 0x80 + (VF_SF_LAST - STATIC_SF_FIRST) + 1 + (address - ADAPTER_AT);
}

/** Without meaning here: VHCA id of an SF, above those of all PFs. */
export function sfVhcaId(sfNum: number): number {
  return 0x80 + (sfNum - STATIC_SF_FIRST);
}

/** Without meaning here: cross-device memory key of an SF; the low byte is the same in all of the guide's examples. */
export function sfCrossMkey(sfNum: number): number {
  return (sfNum << 8) | 0x42;
}

/** Without meaning here: RDMA device of a PF's SF, numbered after the adapter's two ports. */
export function sfRdmaDevice(pfId: number): string {
  return `mlx5_${2 + pfId}`;
}

/** Without meaning here: RDMA device of the SF of the VF at a routing id, numbered after those of all PFs. */
export function vfRdmaDevice(address: number): string {
  return `mlx5_${2 + PF_IDS + (address - ADAPTER_AT)}`;
}

/**
 * SF number of the hotplug PF behind a switch port, unless the request names one: the first free number at or after
 * the port's own; null when there is none.
 */
export function freeHotplugSf(portIndex: number, taken: ReadonlySet<number>): number | null {
  for (let sf = HOTPLUG_SF_FIRST + portIndex; sf <= HOTPLUG_SF_LAST; sf++) if (!taken.has(sf)) return sf;
  return null;
}

/**
 * Lowest free SF number for a VF: those of VFs that are gone are used again first, and those in `promised` if there is no
 * other. Null when there is none.
 */
export function freeVfSf(taken: ReadonlySet<number>, promised?: ReadonlySet<number>): number | null {
  let last: number | null = null;
  for (let sf = VF_SF_FIRST; sf <= VF_SF_LAST; sf++) {
    if (taken.has(sf)) continue;
    if (promised?.has(sf) !== true) return sf;
    last ??= sf;
  }
  return last;
}
