/**
 * device-engines.ts: the engines of a function: made new, or from a record, also ahead of the time when they are needed.
 *
 * Theory
 *   A takeover builds every function from its record, one after the other, and the guest of the last one waits for all.
 *   Nearly all of that work needs nothing but the record. So a standby does it whenever it has been told a new one, and
 *   at the takeover the engines are there. What is prepared lies over the page that a living owner works with, and only
 *   reads it.
 *
 * Invariants
 *   I1  preparing changes no byte of the page.
 *   I2  what was prepared from a record is thrown away with it (mirror.ts).
 */
import { type DevicePlan, FunctionKind, isFunctional } from '@virtnet/engine-control';
import { type SriovRole, VirtioPciFunction } from '@virtnet/engine-pci';
import { NetDevice } from '@virtnet/engine-virtio-net';
import { StatePageHeader, statePageSize } from '@virtnet/wire';
import { type DeviceRecord, decodeDeviceRecord } from './device-record.js';
import type { DeviceSettings } from './device-settings.js';
import type { PageMapping } from './page-mapping.js';
import { statePageProblem } from './state-page-check.js';

const PCI_CLASS_ETHERNET = 0x020000;

function netDevice(plan: DevicePlan, { speedMbps, hashTypes }: DeviceSettings): NetDevice {
  return new NetDevice({
    mac: plan.mac,
    mtu: plan.mtu,
    maxQueuePairs: isFunctional(plan) ? plan.queuePairs : 0,
    maxQueueSize: plan.queueSize,
    speedMbps,
    offeredFeatures: BigInt(plan.features),
    hashTypes,
  });
}

function pciFunction(plan: DevicePlan, device: NetDevice, page: PageMapping): VirtioPciFunction {
  const words = new Uint32Array(page.buffer, 0, StatePageHeader.sizeBytes / 4);
  const cell = (at: number) => ({
    get: () => words[at / 4]! & 0xff,
    set: (value: number) => {
      words[at / 4] = value;
    },
  });
  return new VirtioPciFunction({
    device,
    classCode: PCI_CLASS_ETHERNET,
    msixVectors: plan.msixVectors,
    subsystemVendorId: plan.subsystemVendorId,
    subsystemId: plan.subsystemId,
    ...sriovOf(plan),
    isr: cell(StatePageHeader.at.isr),
    generation: cell(StatePageHeader.at.configGeneration),
  });
}

/** The engines of a function with this plan, as nobody has touched them, over the page it has. */
export function functionEngines(
  plan: DevicePlan,
  settings: DeviceSettings,
  page: PageMapping,
): { readonly net: NetDevice; readonly fn: VirtioPciFunction } {
  const net = netDevice(plan, settings);
  return { net, fn: pciFunction(plan, net, page) };
}

/** A static PF and its VFs are on the adapter that has SR-IOV. */
function sriovOf({ kind, vfsMax, firstVfOffset }: DevicePlan): { readonly sriov?: SriovRole } {
  if (kind === FunctionKind.VF) return { sriov: { kind: 'vf' } };
  return kind === FunctionKind.STATIC_PF ? { sriov: { kind: 'pf', totalVfs: vfsMax, firstVfOffset } } : {};
}

/** Builds a function from a record and forgets it; what is wrong when that cannot be done. `page` is only read. */
export function tryRecord(
  { plan, settings, net: netState, pci }: DeviceRecord,
  page: PageMapping,
): string | null {
  try {
    const copy = { ...page, buffer: page.buffer.slice(0, StatePageHeader.sizeBytes) };
    const { net, fn } = functionEngines(plan, settings, copy);
    const problems = [...net.restore(netState), ...fn.restore(pci)];
    return problems.length === 0 ? null : problems.join('; ');
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/** What can be made of a record before the function is taken over. */
export interface PreparedEngines {
  readonly record: DeviceRecord;
  readonly net: NetDevice;
  readonly fn: VirtioPciFunction;
}

/** What of a mirror the engines are made from. */
export interface EngineSource {
  readonly vuid: string;
  readonly record: Uint8Array | null;
  readonly page: PageMapping | null;
}

/** Makes the engines of a function as its record says; what is wrong when that cannot be done. May throw, too. */
export function prepareEngines({ vuid, record: bytes, page }: EngineSource): PreparedEngines | string {
  if (bytes === null) return 'no record';
  const record = decodeDeviceRecord(bytes);
  if (typeof record === 'string') return record;
  const { plan, settings } = record;
  if (plan.vuid !== vuid) return `record of another device: ${plan.vuid}`;
  const pageBytes = statePageSize(plan.queueCount);
  page?.view(plan.queueCount);
  if (page === null || page.buffer.byteLength < pageBytes) return 'no state page';
  const pageProblem = statePageProblem(page.buffer);
  if (pageProblem !== null) return pageProblem;
  const { net, fn } = functionEngines(plan, settings, page);
  const problems = [...net.restore(record.net), ...fn.restore(record.pci)];
  return problems.length > 0 ? problems.join('; ') : { record, net, fn };
}
