/**
 * identity.ts: the names and numbers by which one function is known.
 *
 * Theory
 *   A hotplug PF sits alone behind a port of the emulated PCIe switch, so its bus follows from the port: the guide's
 *   first one is 15:00.0. A static PF or VF keeps other rules and other numbers. The representor's name follows from
 *   the uplink port and the SF number, the VUID from the board serial, the kind and the PCI device and function.
 *
 * Limits
 *   VHCA ids, the cross-device memory key and the SF's RDMA device exist in the original's hardware only. Here they
 *   are derived from numbers that are unique already, so that scripts that read them find something stable. They
 *   have no meaning.
 */
import { HOTPLUG_SF_FIRST, HOTPLUG_SF_LAST, STATIC_SF_FIRST } from './limits.js';

/** Serial of the emulated board, the first part of every VUID. */
export const BOARD_SERIAL = 'MT2151X03152';
/** PCI address of the emulated adapter's first port, as `mlxconfig -d` takes it. */
export const ADAPTER_BDF = '03:00.0';
/** Bus of the first port of the emulated PCIe switch. */
const HOTPLUG_BUS_FIRST = 0x15;

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

/** The 16 bits `bus << 8 | device << 3 | function` that recovery files hold. */
export function rawBdf({ bus, device, fn }: PciAddress): number {
  return (bus << 8) | (device << 3) | fn;
}

/** Address of the device behind switch port `portIndex`, counted from 0. */
export function hotplugAddress(portIndex: number): PciAddress {
  return { bus: HOTPLUG_BUS_FIRST + portIndex, device: 0, fn: 0 };
}

/** Switch port of a hotplug device's address; null for an address that is not behind the switch. */
export function hotplugPortOf(address: PciAddress, portCount: number): number | null {
  const port = address.bus - HOTPLUG_BUS_FIRST;
  return port >= 0 && port < portCount && address.device === 0 && address.fn === 0 ? port : null;
}

/** VUID of the hotplug PF behind switch port `portIndex`. */
export function hotplugVuid(portIndex: number): string {
  return `${BOARD_SERIAL}VNETS1D${portIndex}F0`;
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

/**
 * SF number of the hotplug PF behind a switch port, unless the request names one: the first free number at or after
 * the port's own; null when there is none.
 */
export function freeHotplugSf(portIndex: number, taken: ReadonlySet<number>): number | null {
  for (let sf = HOTPLUG_SF_FIRST + portIndex; sf <= HOTPLUG_SF_LAST; sf++) if (!taken.has(sf)) return sf;
  return null;
}
