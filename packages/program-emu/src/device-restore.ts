/**
 * device-restore.ts: makes the objects of a function again, from what its owner left or will leave.
 *
 * Theory
 *   A standby makes ahead whatever a takeover needs: the engines of every function, and, of one that a client is
 *   connected to, the whole function, whose workers are told what they will be given. At the takeover what is left to
 *   do is to look at what the owner wrote until the end (page, positions), and to say that it holds. All of it is
 *   worth nothing when anything of the function changes, and then made again.
 *
 * Ownership
 *   What is made ahead uses descriptors, memory and page of the mirror, which stay the mirror's until `restoreDevice`
 *   has succeeded.
 *
 * Invariants
 *   I1  nothing that is made ahead changes the page or the client's memory, which is looked at only where the client cannot
 *       take it away (memory-ahead.ts).
 *   I2  what was made ahead is taken back (`forsake`) before anything that it uses is let go of.
 *
 * Limits  those of the mirror.
 */

import { suspicionsOf } from '@virtnet/engine-recovery';
import { closeAll } from '@virtnet/host-linux';
import { type PreparedEngines, prepareEngines } from './device-engines.js';
import { interruptsOf } from './device-factory.js';
import { DeviceHost } from './device-host.js';
import type { HostServices } from './device-parts.js';
import type { DeviceRecord } from './device-record.js';
import { DeviceTaps, tapQueueCount } from './device-taps.js';
import type { DeviceMirror, MadeAhead } from './mirror.js';
import type { PageMapping } from './page-mapping.js';
import { statePageProblem } from './state-page-check.js';

export interface RestoredDevice {
  readonly host: DeviceHost;
  readonly record: DeviceRecord;
}

/** A function, and descriptors in its mirror that nobody needs. */
interface Rebuilt extends RestoredDevice {
  readonly unknown: readonly number[];
}

/** What a standby made of a function ahead. */
export class PreparedDevice implements MadeAhead {
  readonly engines: PreparedEngines;
  /** Of a function that a client is connected to. */
  readonly whole: Rebuilt | null;

  constructor(engines: PreparedEngines, whole: Rebuilt | null) {
    this.engines = engines;
    this.whole = whole;
  }

  forsake(): void {
    this.whole?.host.forsake();
  }
}

/** Makes ahead what can be made of a mirror as it is; null: nothing, and why not is told by who takes the device over. */
export function prepareDevice(mirror: DeviceMirror, services: HostServices): PreparedDevice | null {
  try {
    const engines = prepareEngines(mirror);
    const { page } = mirror;
    if (typeof engines === 'string' || page === null) return null;
    const whole = mirror.connectionFd < 0 ? null : rebuild(mirror, page, engines, services);
    if (typeof whole === 'string') return null;
    whole?.host.goAhead(whole.record);
    return new PreparedDevice(engines, whole);
  } catch {
    return null;
  }
}

/**
 * Makes a function from its mirror, whose descriptors it takes over; what is wrong when that cannot be done, and then
 * they stay the mirror's. Never throws: a record that cannot be used would end every successor alike.
 */
export function restoreDevice(mirror: DeviceMirror, services: HostServices): RestoredDevice | string {
  try {
    const ahead = mirror.prepared instanceof PreparedDevice ? mirror.prepared : null;
    const engines = ahead?.engines ?? prepareEngines(mirror);
    if (typeof engines === 'string') return engines;
    const { page } = mirror;
    if (page === null) return 'no state page';
    const pageProblem = statePageProblem(page.buffer); // its owner wrote it until the end
    if (pageProblem !== null) return pageProblem;
    const suspect = suspicionsOf(page.buffer) > 0;
    if (suspect) mirror.forsake(); // suspects have a worker of their own
    const whole = (suspect ? null : ahead?.whole) ?? rebuild(mirror, page, engines, services);
    if (typeof whole === 'string') return whole;
    mirror.prepared = null;
    closeAll(whole.unknown);
    return { host: whole.host, record: whole.record };
  } catch (error) {
    return `the record describes no possible device: ${error instanceof Error ? error.message : String(error)}`;
  }
}

function rebuild(
  mirror: DeviceMirror,
  page: PageMapping,
  { record, net, fn }: PreparedEngines,
  services: HostServices,
): Rebuilt | string {
  const { plan, representor } = record;
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
  return { host, record, unknown };
}
