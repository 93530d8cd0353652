/** Makes the objects of one function that is new, from its plan; device-restore.ts makes those of one that exists. */
import { type DevicePlan, FunctionKind, type RepresentorKind } from '@virtnet/engine-control';
import { type Arena, close, setMtu } from '@virtnet/host-linux';
import { Errno } from '@virtnet/wire';
import { functionEngines } from './device-engines.js';
import { DeviceHost } from './device-host.js';
import { DeviceInterrupts } from './device-interrupts.js';
import { DeviceMemory } from './device-memory.js';
import type { HostServices } from './device-parts.js';
import { INITIAL_SETTINGS } from './device-settings.js';
import { DeviceTaps } from './device-taps.js';
import { newPage } from './page-mapping.js';

/** PCI address with its domain, as sockets are named. */
export function pciAddress(bdf: string): string {
  return `0000:${bdf}`;
}

/** vfio vector counts: INTx, MSI, MSI-X, ERR, REQ. A VF has no INTx. */
export function interruptsOf(plan: DevicePlan): DeviceInterrupts {
  return new DeviceInterrupts([plan.kind === FunctionKind.VF ? 0 : 1, 0, plan.msixVectors, 1, 1]);
}

/** What the kernel says to who may not make TAPs, or has none to make. */
const NO_TAPS_HERE: ReadonlySet<number> = new Set([Errno.EPERM, Errno.EACCES, Errno.ENOENT, Errno.ENODEV]);

/**
 * Makes a planned function with its representor and state page; nothing is shelved yet. -errno when the host refuses.
 * Throws a RangeError when no function can have this plan. Either way nothing of it is left, nor of what was pooled.
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
  let host: DeviceHost | number = setMtu(plan.representor, plan.mtu);
  try {
    if (host >= 0) host = buildDevice(plan, 'tap', requestId, taps, arena, services);
    return host;
  } finally {
    if (typeof host === 'number') taps.close();
  }
}

/** The same over TAP queues that exist, which stay the caller's on failure. Throws as `createDevice` does. */
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
  try {
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
  } catch (error) {
    page.close();
    close(page.fd);
    throw error;
  }
}
