/** Makes the objects of one function: new from a plan, or again from what a predecessor left. */
import {
  type DevicePlan,
  FunctionKind,
  type RepresentorKind,
  VIRT_QUEUES_MAX,
} from '@virtnet/engine-control';
import { type Arena, close, closeAll, memfdCreate, setMtu } from '@virtnet/host-linux';
import { Errno, STATE_PAGE_MAGIC, STATE_PAGE_VERSION, StatePageHeader, statePageSize } from '@virtnet/wire';
import { functionEngines, prepareEngines } from './device-engines.js';
import { DeviceHost } from './device-host.js';
import { DeviceInterrupts } from './device-interrupts.js';
import { DeviceMemory } from './device-memory.js';
import type { HostServices } from './device-parts.js';
import type { DeviceRecord } from './device-record.js';
import { INITIAL_SETTINGS } from './device-settings.js';
import { DeviceTaps, tapQueueCount } from './device-taps.js';
import type { DeviceMirror } from './mirror.js';
import { mapPage, type PageMapping } from './page-mapping.js';
import { statePageProblem } from './state-page-check.js';

/** PCI address with its domain, as sockets are named. */
export function pciAddress(bdf: string): string {
  return `0000:${bdf}`;
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
  page.view();
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
  const prepared = mirror.prepared ?? prepareEngines(mirror);
  if (typeof prepared === 'string') return prepared;
  const { record, net, fn } = prepared;
  const { plan } = record;
  const { page } = mirror;
  if (page === null) return 'no state page';
  const pageProblem = statePageProblem(page.buffer); // its owner wrote it until the end
  if (pageProblem !== null) return pageProblem;
  const { representor } = record;
  const { taps } = mirror;
  const tapFds =
    representor === 'tap'
      ? Array.from({ length: tapQueueCount(plan.queuePairs) }, (_, pair) => taps.get(pair) ?? -1)
      : [];
  if (tapFds[0] === -1) return 'the first queue of the representor is missing';
  if (mirror.listenerFd < 0) return 'no listening socket';
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
