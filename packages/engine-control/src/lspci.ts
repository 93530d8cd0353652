/** lspci.ts: the host's view of the functions, as rows of lspci. */
import { hexLower } from './format.js';
import { type PciAddress, parseBdf, rawBdf } from './identity.js';
import { verboseLines } from './lspci-verbose.js';

/** One function as lspci shows it. */
export interface PciRow {
  /** `bus:device.function` without a domain. */
  readonly bdf: string;
  readonly classCode: number;
  readonly vendorId: number;
  readonly deviceId: number;
  readonly revisionId: number;
  /** Name of the driver it is bound to; empty when there is none. */
  readonly driver?: string;
  /** Its configuration space, for -vvv. */
  readonly config?: Uint8Array;
}

/** How much to show of each function. */
export interface LspciOptions {
  readonly numeric: boolean;
  readonly filter: PciFilter | null;
  /** With capabilities and all. */
  readonly verbose?: boolean;
  /** With the driver. */
  readonly kernel?: boolean;
  /** With the domain. */
  readonly domain?: boolean;
}

/** Names lspci would take from its database. */
const CLASS_NAMES: Readonly<Record<number, string>> = { 512: 'Ethernet controller' };
const DEVICE_NAME = 'Red Hat, Inc. Virtio network device';

/** Which functions to show; null parts match everything. */
export type PciFilter = { readonly [K in keyof PciAddress]: number | null };

const FILTER_PATTERN =
  /^(?:(?:([0-9a-f]{1,4}|\*)?:)?([0-9a-f]{1,2}|\*)?:)?([0-9a-f]{1,2}|\*)?(?:\.([0-7]|\*)?)?$/i;

/**
 * Reads `[[[[domain]:]bus]:][device][.[function]]`, each part hexadecimal, `*` or absent. Null for any other text, and
 * for a domain other than 0: there are no functions in it.
 */
export function parsePciFilter(text: string): PciFilter | null {
  const match = FILTER_PATTERN.exec(text);
  if (match === null || text === '') return null;
  const [domain, bus, device, fn] = match.slice(1).map(filterPart) as (number | null)[];
  if ((domain ?? 0) !== 0 || (device ?? 0) > 0x1f) return null;
  return { bus: bus ?? null, device: device ?? null, fn: fn ?? null };
}

function filterPart(part: string | undefined): number | null {
  return part === undefined || part === '*' ? null : Number.parseInt(part, 16);
}

/** Rows in bus order, one line each; names in words, or in numbers when `numeric`. */
export function lspciLines(
  rows: readonly PciRow[],
  { numeric, filter, verbose, kernel, domain }: LspciOptions,
): string[] {
  return rows
    .flatMap((row) => {
      const address = parseBdf(row.bdf);
      return address !== null && matches(address, filter) ? [{ row, order: rawBdf(address) }] : [];
    })
    .sort((a, b) => a.order - b.order)
    .flatMap(({ row }) => {
      const at = domain === true ? `0000:${row.bdf}` : row.bdf;
      const line = `${at} ${numeric ? numbers(row) : words(row)}${revision(row)}`;
      const driver = row.driver ?? '';
      if (verbose === true)
        return [line, ...verboseLines(row.config ?? new Uint8Array(0), driver, numeric), ''];
      return kernel === true && driver !== '' ? [line, `\tKernel driver in use: ${driver}`] : [line];
    });
}

function matches(address: PciAddress, filter: PciFilter | null): boolean {
  if (filter === null) return true;
  const parts = ['bus', 'device', 'fn'] as const;
  return parts.every((part) => filter[part] === null || filter[part] === address[part]);
}

function numbers({ classCode, vendorId, deviceId }: PciRow): string {
  return `${hex4(classCode >> 8)}: ${hex4(vendorId)}:${hex4(deviceId)}`;
}

function words({ classCode }: PciRow): string {
  return `${CLASS_NAMES[classCode >> 8] ?? `Class ${hexLower(classCode >> 8)}`}: ${DEVICE_NAME}`;
}

function revision({ revisionId }: PciRow): string {
  return revisionId === 0 ? '' : ` (rev ${revisionId.toString(16).padStart(2, '0')})`;
}

function hex4(value: number): string {
  return value.toString(16).padStart(4, '0');
}
