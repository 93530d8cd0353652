/** Makes the objects of one function: new from a plan, or again from what a predecessor left. */
import {
  type DevicePlan,
  FunctionKind,
  type RepresentorKind,
  VIRT_QUEUES_MAX,
} from '@virtnet/engine-control';
import { type SriovRole, VirtioPciFunction } from '@virtnet/engine-pci';
import { NetDevice } from '@virtnet/engine-virtio-net';
import { type Arena, close, closeAll, memfdCreate, setMtu } from '@virtnet/host-linux';
import { Errno, STATE_PAGE_MAGIC, STATE_PAGE_VERSION, StatePageHeader, statePageSize } from '@virtnet/wire';
import { DeviceHost, type HostServices } from './device-host.js';
import { DeviceInterrupts } from './device-interrupts.js';
import { DeviceMemory } from './device-memory.js';
import { type DeviceRecord, decodeDeviceRecord } from './device-record.js';
import { type DeviceSettings, INITIAL_SETTINGS } from './device-settings.js';
import { DeviceTaps } from './device-taps.js';
import { type DeviceMirror, mapPage, type PageMapping } from './mirror.js';
import { statePageProblem } from './state-page-check.js';

/** PCI address with its domain, as sockets are named. */
export function pciAddress(bdf: string): string {
  return `0000:${bdf}`;
}

const PCI_CLASS_ETHERNET = 0x020000;

function netDevice(plan: DevicePlan, { speedMbps, hashTypes }: DeviceSettings): NetDevice {
  return new NetDevice({
    mac: plan.mac,
    mtu: plan.mtu,
    maxQueuePairs: plan.queuePairs,
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

/** vfio vector counts: INTx, MSI, MSI-X, ERR, REQ. A VF has no INTx. */
export function interruptsOf(plan: DevicePlan): DeviceInterrupts {
  return new DeviceInterrupts([plan.kind === FunctionKind.VF ? 0 : 1, 0, plan.msixVectors, 1, 1]);
}

/**
 * A new state page; -errno when there is no memory. It has room for as many queues as the device may ever be given:
 * what is not touched costs nothing, and a page that never moves needs no handover.
 */
function newPage(queueCount: number): PageMapping | number {
  const fd = memfdCreate('virtnet-state-page', statePageSize(VIRT_QUEUES_MAX));
  if (fd < 0) return fd;
  const page = mapPage(fd);
  if (page === null) {
    close(fd);
    return -Errno.ENOMEM;
  }
  StatePageHeader.encode(new DataView(page.buffer), 0, {
    magic: STATE_PAGE_MAGIC,
    version: STATE_PAGE_VERSION,
    queueCount,
    isr: 0,
    configGeneration: 0,
    requestSequence: 0,
    takeovers: 0,
    connectionEpoch: 0,
    suspicions: 0,
    requestUnderWay: 0,
    ownerPid: process.pid,
  });
  return page;
}

/** What the kernel says to who may not make TAPs, or has none to make. */
const NO_TAPS_HERE: ReadonlySet<number> = new Set([Errno.EPERM, Errno.EACCES, Errno.ENOENT, Errno.ENODEV]);

/**
 * Makes a planned function with its representor and state page; nothing is shelved yet. -errno when the host refuses.
 * `wanted` null: a TAP where this process may make one, else the eswitch. `pooled` are the queues of a TAP that exists.
 */
export function createDevice(
  plan: DevicePlan,
  wanted: RepresentorKind | null,
  requestId: string,
  arena: Arena,
  services: HostServices,
  pooled: readonly number[] | null = null,
): DeviceHost | number {
  if (wanted !== null && wanted !== 'tap') {
    return buildDevice(
      plan,
      wanted,
      requestId,
      DeviceTaps.none(plan.representor, plan.queuePairs),
      arena,
      services,
    );
  }
  const taps =
    pooled === null
      ? DeviceTaps.create(plan.representor, plan.queuePairs)
      : DeviceTaps.reuse(plan.representor, pooled, plan.queuePairs);
  if (typeof taps === 'number') {
    if (wanted !== null || !NO_TAPS_HERE.has(-taps)) return taps;
    services.log('info', 'TAPs are not permitted here: the function is on the eswitch', { errno: -taps });
    return createDevice(plan, 'eswitch', requestId, arena, services);
  }
  const sized = setMtu(plan.representor, plan.mtu);
  const host = sized < 0 ? sized : buildDevice(plan, 'tap', requestId, taps, arena, services);
  if (typeof host === 'number') taps.close();
  return host;
}

/** The same over TAP queues that exist, which stay the caller's on failure. */
export function buildDevice(
  plan: DevicePlan,
  representor: RepresentorKind,
  requestId: string,
  taps: DeviceTaps,
  arena: Arena,
  services: HostServices,
): DeviceHost | number {
  const page = newPage(plan.queueCount);
  if (typeof page === 'number') return page;
  const settings = INITIAL_SETTINGS;
  return new DeviceHost(
    {
      plan,
      settings,
      requestId,
      ...functionEngines(plan, settings, page),
      page,
      representor,
      taps,
      memory: new DeviceMemory(arena),
      interrupts: interruptsOf(plan),
      kicks: new Map(),
      health: { recoveries: 0, lastCause: null, lastPauseMs: null, maxPauseMs: null, error: null },
    },
    services,
  );
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

export interface RestoredDevice {
  readonly host: DeviceHost;
  readonly record: DeviceRecord;
}

/**
 * Makes a function from its mirror, whose descriptors it takes over; what is wrong when that cannot be done, and then
 * they stay the mirror's. Never throws: a record that cannot be used would end every successor alike.
 */
export function restoreDevice(mirror: DeviceMirror, services: HostServices): RestoredDevice | string {
  try {
    return rebuildDevice(mirror, services);
  } catch (error) {
    return `the record describes no possible device: ${error instanceof Error ? error.message : String(error)}`;
  }
}

function rebuildDevice(mirror: DeviceMirror, services: HostServices): RestoredDevice | string {
  if (mirror.record === null) return 'no record';
  const record = decodeDeviceRecord(mirror.record);
  if (typeof record === 'string') return record;
  const { plan } = record;
  if (plan.vuid !== mirror.vuid) return `record of another device: ${plan.vuid}`;
  const { page } = mirror;
  if (page === null || page.buffer.byteLength < statePageSize(plan.queueCount)) return 'no state page';
  const pageProblem = statePageProblem(page.buffer);
  if (pageProblem !== null) return pageProblem;
  const { representor } = record;
  const { taps } = mirror;
  const tapFds =
    representor === 'tap' ? Array.from({ length: plan.queuePairs }, (_, pair) => taps.get(pair) ?? -1) : [];
  if (tapFds[0] === -1) return 'the first queue of the representor is missing';
  if (mirror.listenerFd < 0) return 'no listening socket';
  const { net, fn } = functionEngines(plan, record.settings, page);
  const netProblems = net.restore(record.net);
  if (netProblems.length > 0) return netProblems.join('; ');
  const pciProblems = fn.restore(record.pci);
  if (pciProblems.length > 0) return pciProblems.join('; ');
  const unknown = [...taps.values()].filter((fd) => !tapFds.includes(fd));
  const interrupts = interruptsOf(plan);
  for (const [key, fd] of mirror.irqs) {
    const [index, vector] = key.split('/').map(Number) as [number, number];
    if (interrupts.has(index, vector)) interrupts.replace(index, vector, fd);
    else unknown.push(fd);
  }
  const host = new DeviceHost(
    {
      plan,
      settings: record.settings,
      requestId: record.requestId,
      fn,
      net,
      page,
      representor,
      taps:
        representor === 'tap'
          ? new DeviceTaps(plan.representor, tapFds)
          : DeviceTaps.none(plan.representor, plan.queuePairs),
      memory: mirror.memory,
      interrupts,
      kicks: new Map(mirror.kicks),
      health: { ...record.health },
    },
    services,
  );
  closeAll(unknown);
  return { host, record };
}
