/**
 * pci-enumeration.ts: finds out what a PCI function is, as a careful operating system does.
 *
 * Theory
 *   Reads ids, sizes every BAR by writing ones, walks the capability list and judges what it finds: offsets aligned,
 *   no loop, every virtio structure inside a memory BAR and large enough. What Linux or QEMU would trip over is an
 *   error here.
 *
 * Invariants
 *   I1  BARs and command register hold afterwards what they held before.
 *
 * Limits  CAPABILITIES_MAX links.
 */
import {
  MSIX_BAR_MASK,
  MsixControl,
  MsixEntry,
  PCI_BAR_BYTES,
  PCI_BAR_MEMORY_MASK,
  PCI_BARS,
  PCI_CAPABILITIES_AT,
  PCI_EXTENDED_AT,
  PciBarFlag,
  PciCapability,
  PciCapabilityHeader,
  PciHeader,
  PciMsix,
  PciStatus,
  VIRTIO_PCI_CAP_EXTRA_AT,
  VirtioPciCap,
  VirtioPciCapType,
  VirtioPciCommon,
  viewOf,
} from '@virtnet/wire';
import type { FunctionAccess } from './function-access.js';

/** What a driver objects to. */
export class DriverError extends Error {
  override readonly name = 'DriverError';
}

export interface FoundBar {
  readonly index: number;
  readonly sizeBytes: number;
  readonly is64Bit: boolean;
}

/** A virtio structure found through its capability. */
export interface FoundStructure {
  readonly capabilityAt: number;
  readonly bar: number;
  readonly offset: number;
  readonly lengthBytes: number;
}

export interface FoundMsix {
  readonly capabilityAt: number;
  readonly vectors: number;
  readonly table: { readonly bar: number; readonly offset: number };
  readonly pending: { readonly bar: number; readonly offset: number };
}

export interface FoundFunction {
  readonly header: ReturnType<typeof PciHeader.decode>;
  readonly bars: readonly FoundBar[];
  /** Capability ids in the order of the list, with their offsets. */
  readonly capabilities: readonly { readonly id: number; readonly at: number }[];
  readonly common: FoundStructure;
  readonly notify: FoundStructure;
  readonly notifyMultiplier: number;
  readonly isr: FoundStructure;
  readonly device: FoundStructure;
  /** The configuration access window. */
  readonly window: FoundStructure;
  readonly msix: FoundMsix | null;
}

/** Four bytes apart at least, between header and extended space. */
const CAPABILITIES_MAX = (PCI_EXTENDED_AT - PCI_CAPABILITIES_AT) / 4;
const ONES = Uint8Array.of(0xff, 0xff, 0xff, 0xff);

export function check(condition: boolean, text: string): asserts condition {
  if (!condition) throw new DriverError(text);
}

/** A number as little-endian bytes. */
export function littleEndian(value: number, sizeBytes: number): Uint8Array {
  return Uint8Array.from({ length: sizeBytes }, (_, i) => Math.floor(value / 2 ** (8 * i)) & 0xff);
}

async function readU32(access: FunctionAccess, at: number): Promise<number> {
  return viewOf(await access.readConfig(at, 4)).getUint32(0, true);
}

/** What remains of a register when ones are written; its value is put back. */
async function probeOnes(access: FunctionAccess, at: number): Promise<number> {
  const before = await access.readConfig(at, PCI_BAR_BYTES);
  await access.writeConfig(at, ONES);
  const mask = await readU32(access, at);
  await access.writeConfig(at, before);
  return mask;
}

async function sizeBars(access: FunctionAccess): Promise<FoundBar[]> {
  const bars: FoundBar[] = [];
  const commandAt = PciHeader.at.command;
  const command = await access.readConfig(commandAt, 2);
  await access.writeConfig(commandAt, new Uint8Array(2));
  for (let index = 0; index < PCI_BARS; index++) {
    const at = PciHeader.at.bar0 + index * PCI_BAR_BYTES;
    const mask = await probeOnes(access, at);
    if (mask === 0) continue;
    check((mask & PciBarFlag.IO) === 0, `BAR ${index} is I/O space`);
    const is64Bit = (mask & PciBarFlag.MEMORY_64) !== 0;
    const low = BigInt((mask & PCI_BAR_MEMORY_MASK) >>> 0);
    const high = BigInt(is64Bit ? await probeOnes(access, at + PCI_BAR_BYTES) : 0xffff_ffff);
    const size = (1n << 64n) - ((high << 32n) | low);
    check((size & (size - 1n)) === 0n, `BAR ${index}: size ${size} is no power of two`);
    bars.push({ index, sizeBytes: Number(size), is64Bit });
    if (is64Bit) index++;
  }
  await access.writeConfig(commandAt, command);
  return bars;
}

async function walk(access: FunctionAccess): Promise<{ id: number; at: number }[]> {
  const found: { id: number; at: number }[] = [];
  let at = (await access.readConfig(PciHeader.at.capabilities, 1))[0]!;
  while (at !== 0) {
    check(at % 4 === 0 && at >= PCI_CAPABILITIES_AT && at < PCI_EXTENDED_AT, `capability at ${at}`);
    check(found.length < CAPABILITIES_MAX, 'the capability list has a loop');
    const link = PciCapabilityHeader.decode(
      viewOf(await access.readConfig(at, PciCapabilityHeader.sizeBytes)),
    );
    found.push({ id: link.id, at });
    at = link.next;
  }
  return found;
}

/** Least length and alignment in bytes of what a driver maps of each structure. */
const LEAST: Readonly<Record<VirtioPciCapType, { readonly length: number; readonly align: number }>> = {
  [VirtioPciCapType.COMMON]: { length: VirtioPciCommon.sizeBytes, align: 4 },
  [VirtioPciCapType.NOTIFY]: { length: 2, align: 2 },
  [VirtioPciCapType.ISR]: { length: 1, align: 1 },
  [VirtioPciCapType.DEVICE]: { length: 1, align: 4 },
  [VirtioPciCapType.PCI]: { length: 0, align: 1 },
};

/** The first capability of each type; the device lists the best first (4.1.4.1). */
async function virtioStructures(
  access: FunctionAccess,
  vendor: readonly number[],
  bars: readonly FoundBar[],
): Promise<Map<number, FoundStructure>> {
  const structures = new Map<number, FoundStructure>();
  for (const capabilityAt of vendor) {
    const cap = VirtioPciCap.decode(viewOf(await access.readConfig(capabilityAt, VirtioPciCap.sizeBytes)));
    check(cap.capLength >= VirtioPciCap.sizeBytes, `capability at ${capabilityAt} is ${cap.capLength} bytes`);
    if (structures.has(cap.type) || !(cap.type in LEAST)) continue;
    const { length, align } = LEAST[cap.type as VirtioPciCapType];
    const sizeBytes = bars.find(({ index }) => index === cap.bar)?.sizeBytes ?? 0;
    check(cap.offset % align === 0 && cap.length >= length, `structure ${cap.type} is misplaced`);
    check(cap.offset + cap.length <= sizeBytes, `structure ${cap.type} leaves its BAR`);
    structures.set(cap.type, {
      capabilityAt,
      bar: cap.bar,
      offset: cap.offset,
      lengthBytes: cap.length,
    });
  }
  return structures;
}

async function msixAt(
  access: FunctionAccess,
  capabilityAt: number,
  bars: readonly FoundBar[],
): Promise<FoundMsix> {
  const cap = PciMsix.decode(viewOf(await access.readConfig(capabilityAt, PciMsix.sizeBytes)));
  const vectors = (cap.control & MsixControl.TABLE_SIZE_MASK) + 1;
  const place = (register: number, lengthBytes: number) => {
    const bar = register & MSIX_BAR_MASK;
    const offset = (register & ~MSIX_BAR_MASK) >>> 0;
    const sizeBytes = bars.find(({ index }) => index === bar)?.sizeBytes ?? 0;
    check(offset + lengthBytes <= sizeBytes, `MSI-X structure in BAR ${bar} leaves it`);
    return { bar, offset };
  };
  return {
    capabilityAt,
    vectors,
    table: place(cap.table, vectors * MsixEntry.sizeBytes),
    pending: place(cap.pending, Math.ceil(vectors / 64) * 8),
  };
}

/** Finds out everything; throws DriverError for what no driver could use. */
export async function enumerate(access: FunctionAccess): Promise<FoundFunction> {
  const header = PciHeader.decode(viewOf(await access.readConfig(0, PciHeader.sizeBytes)));
  check((header.status & PciStatus.CAPABILITIES) !== 0, 'there is no capability list');
  const bars = await sizeBars(access);
  const capabilities = await walk(access);
  const vendor = capabilities.filter(({ id }) => id === PciCapability.VENDOR).map(({ at }) => at);
  const structures = await virtioStructures(access, vendor, bars);
  const structure = (type: VirtioPciCapType): FoundStructure => {
    const found = structures.get(type);
    check(found !== undefined, `no virtio capability of type ${type}`);
    return found;
  };
  const notify = structure(VirtioPciCapType.NOTIFY);
  const msix = capabilities.find(({ id }) => id === PciCapability.MSIX);
  return {
    header,
    bars,
    capabilities,
    common: structure(VirtioPciCapType.COMMON),
    notify,
    notifyMultiplier: await readU32(access, notify.capabilityAt + VIRTIO_PCI_CAP_EXTRA_AT),
    isr: structure(VirtioPciCapType.ISR),
    device: structure(VirtioPciCapType.DEVICE),
    window: structure(VirtioPciCapType.PCI),
    msix: msix === undefined ? null : await msixAt(access, msix.at, bars),
  };
}
