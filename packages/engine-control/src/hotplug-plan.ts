/**
 * hotplug-plan.ts: the complete description of a hotplug PF that shall exist.
 *
 * Theory
 *   A few numbers are chosen; every name and every other number follows from them. A plan is plain JSON, so that it
 *   can be saved with the device. What was saved is not trusted: `restorePlan` checks the chosen values against their
 *   ranges and derives the rest anew.
 */

import { parseFeatures } from './feature-names.js';
import { hexLower, parseMac } from './format.js';
import * as identity from './identity.js';
import {
  HOTPLUG_PFS_MAX,
  HOTPLUG_SF_FIRST,
  HOTPLUG_SF_LAST,
  MSIX_VECTORS_MAX,
  MSIX_VECTORS_MIN,
  MTU_MAX,
  MTU_MIN,
  PF_IDS,
  QUEUE_SIZE_MAX,
  QUEUE_SIZE_MIN,
  VIRT_QUEUES_MAX,
  VIRT_QUEUES_MIN,
} from './limits.js';

/** What is chosen for a new hotplug PF. */
export interface HotplugChoice {
  readonly pfId: number;
  /** Port of the emulated switch, from 0. */
  readonly switchPort: number;
  readonly sfNum: number;
  /** RDMA device name of the uplink. */
  readonly ibDevice: string;
  /** Upper-case colon notation. */
  readonly mac: string;
  /** Bytes. */
  readonly mtu: number;
  readonly queuePairs: number;
  /** Entries per virtqueue. */
  readonly queueSize: number;
  readonly msixVectors: number;
  /** Features the device offers: a mask in hexadecimal, `0x…`. */
  readonly features: string;
}

/** What follows from the choice. */
export interface HotplugPlan extends HotplugChoice {
  readonly bdf: string;
  readonly vuid: string;
  readonly ibDevicePciAddress: string;
  readonly uplinkPort: 0 | 1;
  /** Virtqueues, control queue included. */
  readonly queueCount: number;
  readonly representor: string;
  readonly pciVhcaId: number;
  readonly sfVhcaId: number;
  readonly sfCrossMkey: number;
  readonly sfRdmaDevice: string;
}

/** Virtqueues of a device with `queuePairs` data pairs: the pairs and the control queue. */
export function virtQueueCount(queuePairs: number): number {
  return 2 * queuePairs + 1;
}

/** Whether `value` is a whole number from `least` to `most`. */
export function isWithin(value: unknown, least: number, most: number): value is number {
  return typeof value === 'number' && Number.isInteger(value) && value >= least && value <= most;
}

/** Whether `value` is a number of data pairs that makes at most `virtQueuesMax` virtqueues. */
export function isQueuePairCount(value: unknown, virtQueuesMax: number): value is number {
  return (
    isWithin(value, 1, VIRT_QUEUES_MAX) && isWithin(virtQueueCount(value), VIRT_QUEUES_MIN, virtQueuesMax)
  );
}

/** Whether `value` is a queue size the specification and the command line permit. */
export function isQueueSize(value: unknown): value is number {
  return isWithin(value, QUEUE_SIZE_MIN, QUEUE_SIZE_MAX) && (value & (value - 1)) === 0;
}

/** Whether six bytes are the address of one station: neither a group's nor zero. */
export function isStationAddress(bytes: Uint8Array): boolean {
  return (bytes[0]! & 1) === 0 && bytes.some((byte) => byte !== 0);
}

/** The plan that follows from a choice whose `ibDevice` is on `uplinkPort`. */
export function completePlan(choice: HotplugChoice, uplinkPort: 0 | 1): HotplugPlan {
  const { pfId, switchPort, sfNum } = choice;
  return {
    ...choice,
    bdf: identity.formatBdf(identity.hotplugAddress(switchPort)),
    vuid: identity.hotplugVuid(switchPort),
    ibDevicePciAddress: identity.uplinkPciAddress(uplinkPort),
    uplinkPort,
    queueCount: virtQueueCount(choice.queuePairs),
    representor: identity.representorName(uplinkPort, sfNum),
    pciVhcaId: identity.pciVhcaId(pfId),
    sfVhcaId: identity.sfVhcaId(sfNum),
    sfCrossMkey: identity.sfCrossMkey(sfNum),
    sfRdmaDevice: identity.sfRdmaDevice(pfId),
  };
}

/** What a value of each chosen field must be. */
const CHECKS: { readonly [K in keyof HotplugChoice]: (value: unknown) => boolean } = {
  pfId: (value) => isWithin(value, 0, PF_IDS - 1),
  switchPort: (value) => isWithin(value, 0, HOTPLUG_PFS_MAX - 1),
  sfNum: (value) => isWithin(value, HOTPLUG_SF_FIRST, HOTPLUG_SF_LAST),
  ibDevice: (value) => typeof value === 'string' && identity.uplinkPort(value) !== null,
  mac: (value) => typeof value === 'string' && isStationMac(value),
  mtu: (value) => isWithin(value, MTU_MIN, MTU_MAX),
  queuePairs: (value) => isQueuePairCount(value, VIRT_QUEUES_MAX),
  queueSize: isQueueSize,
  msixVectors: (value) => isWithin(value, MSIX_VECTORS_MIN, MSIX_VECTORS_MAX),
  features: (value) => typeof value === 'string' && parseFeatures(value) !== null,
};

function isStationMac(text: string): boolean {
  const bytes = parseMac(text);
  return bytes !== null && isStationAddress(bytes);
}

/** The plan that was saved as JSON, or a sentence that says what is wrong with it. Never throws. */
export function restorePlan(saved: unknown): HotplugPlan | string {
  if (typeof saved !== 'object' || saved === null) return 'the plan is not an object';
  const fields = saved as Record<string, unknown>;
  for (const [name, isRight] of Object.entries(CHECKS))
    if (!isRight(fields[name])) return `${name} of the plan is out of range`;
  const names = Object.keys(CHECKS) as (keyof HotplugChoice)[];
  const choice = Object.fromEntries(names.map((name) => [name, fields[name]])) as unknown as HotplugChoice;
  const uplinkPort = identity.uplinkPort(choice.ibDevice)!;
  return completePlan(
    { ...choice, mac: choice.mac.toUpperCase(), features: hexLower(parseFeatures(choice.features)!) },
    uplinkPort,
  );
}
