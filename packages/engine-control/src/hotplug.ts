/**
 * hotplug.ts: what a hotplug or unplug request leads to.
 *
 * Theory
 *   A request is judged against the firmware's current values, the devices that exist and what the site can offer;
 *   the outcome is either a complete plan of the new device, every name and number decided, or one error row. The
 *   emulator only carries a plan out.
 *
 * Invariants
 *   I1  a plan's PF number, switch port, address, VUID and SF number belong to no existing device.
 *   I2  a plan's features are within the site's and have what they need.
 *   I3  the same inputs give the same plan.
 *
 * Limits
 *   The original checks only the length of a MAC address; here a group address and the zero address are refused
 *   too, because no network accepts them from a station.
 */

import {
  completePlan,
  type DeviceChoice,
  type DevicePlan,
  isQueuePairCount,
  isQueueSize,
  isStationAddress,
  isWithin,
  NO_VFS,
} from './device-plan.js';
import { selectorFailure } from './device-selector.js';
import { type Failure, failure, isFailure } from './errors.js';
import { type DeviceIdentity, FunctionKind } from './facts.js';
import { featureProblem, parseFeatures } from './feature-names.js';
import { type FirmwareLimits, firmwareLimits } from './firmware-config.js';
import type { FirmwareValues } from './firmware-entries.js';
import { formatMac, hexLower, parseMac } from './format.js';
import { freeHotplugSf, hotplugAddress, hotplugBusFirst, parseBdf, rawBdf, uplinkPort } from './identity.js';
import {
  HOTPLUG_SF_FIRST,
  HOTPLUG_SF_LAST,
  MSIX_VECTORS_MIN,
  MTU_MAX,
  MTU_MIN,
  PF_IDS,
  QUEUE_SIZE_MAX,
  VIRT_QUEUES_MIN,
} from './limits.js';
import type { HotplugRequest, UnplugRequest } from './requests.js';

/** What the place where a function shall live can offer. */
export interface PlanSite {
  /** MTU in bytes of the function's uplink; null when that uplink has no network device. */
  readonly uplinkMtu: number | null;
  /** Features a function can offer at all. */
  readonly supportedFeatures: bigint;
  /** Features it offers unless the request says more; within the supported ones. */
  readonly defaultFeatures: bigint;
}

/** A device that exists, as far as planning is concerned. */
export type ExistingDevice = DeviceIdentity;

/** Plans a new hotplug PF, or says which rule the request breaks. */
export function planHotplug(
  request: HotplugRequest,
  firmware: FirmwareValues,
  devices: readonly ExistingDevice[],
  site: PlanSite,
): DevicePlan | Failure {
  if (request.legacy) return failure('OPT_NOT_SUPPORTED');
  const port = uplinkPort(request.ibDevice);
  if (port === null) return failure('PORT_CTX_NOT_FOUND');
  const limits = firmwareLimits(firmware);
  const own = ownChoice(request, limits, site);
  if (isFailure(own)) return own;
  const place = freePlace(request, limits, devices);
  return isFailure(place) ? place : completePlan({ ...place, ...own }, port);
}

/** Finds the device an unplug request names, or says why it cannot be unplugged. */
export function planUnplug<T extends ExistingDevice>(
  { pf, vuid }: UnplugRequest,
  devices: readonly T[],
): { readonly device: T } | Failure {
  if ((pf === null) === (vuid === null)) return failure('OPT_NOT_SUPPORTED');
  const impossible = selectorFailure({ pf, vf: null, vuid });
  if (impossible !== null) return impossible;
  const device = devices.find((d) => (vuid === null ? d.pfId === pf && d.vfId === null : d.vuid === vuid));
  if (device === undefined) return failure('DEV_NOT_EXIST');
  return device.kind === FunctionKind.HOTPLUG_PF ? { device } : failure('DEV_NOT_HOTPLUG');
}

type Place = Pick<
  DeviceChoice,
  'kind' | 'pfId' | 'vfId' | 'switchPort' | 'address' | 'sfNum' | keyof typeof NO_VFS
>;

/** What the request decides by itself: everything but the device's place among the others. */
function ownChoice(
  request: HotplugRequest,
  limits: FirmwareLimits,
  site: PlanSite,
): Omit<DeviceChoice, keyof Place> | Failure {
  const macBytes = parseMac(request.mac);
  if (macBytes === null || !isStationAddress(macBytes)) return failure('MAC_INVALID');
  const mtuMax = Math.min(site.uplinkMtu ?? MTU_MAX, MTU_MAX);
  if (!isWithin(request.mtu, MTU_MIN, mtuMax)) return failure('MTU_INVALID');
  if (limits.msixVectors < MSIX_VECTORS_MIN) return failure('MSIX_INVALID');
  const queuePairs = queuePairsOf(request, limits);
  if (queuePairs === null) return failure('QUEUES_INVALID');
  if (!isQueueSize(request.queueSize))
    return failure(request.queueSize > QUEUE_SIZE_MAX ? 'QUEUE_SIZE_INVALID' : 'QUEUE_SIZE_RULE');
  const features = offeredFeatures(request.features, site);
  if (features === null) return failure('DEV_FEATURE_VALIDATE');
  return {
    ibDevice: request.ibDevice,
    mac: formatMac(macBytes),
    mtu: request.mtu,
    queuePairs,
    queueSize: request.queueSize,
    msixVectors: limits.msixVectors,
    features: hexLower(features),
    ...limits.subsystem,
  };
}

/** Data queue pairs by either way to ask for them; an even number of virtqueues leaves one over. */
function queuePairsOf({ queues, queuePairs }: HotplugRequest, limits: FirmwareLimits): number | null {
  if (queues !== null && queuePairs !== null) return null;
  if (queues !== null && !isWithin(queues, VIRT_QUEUES_MIN, limits.virtQueuesMax)) return null;
  const pairs = queues === null ? queuePairs : Math.floor((queues - 1) / 2);
  return isQueuePairCount(pairs, limits.virtQueuesMax) ? pairs : null;
}

/** Default features and those asked for; null when one is not supported or lacks what it needs. */
function offeredFeatures(asked: string | null, site: PlanSite): bigint | null {
  const added = asked === null ? 0n : parseFeatures(asked);
  if (added === null || (added & ~site.supportedFeatures) !== 0n) return null;
  const features = site.defaultFeatures | added;
  return featureProblem(features) === null ? features : null;
}

/** The numbers that make the device unique. */
function freePlace(
  request: HotplugRequest,
  limits: FirmwareLimits,
  devices: readonly ExistingDevice[],
): Place | Failure {
  const taken = new Set(devices.map(({ sfNum }) => sfNum));
  if (request.sfNum !== null) {
    if (!isWithin(request.sfNum, HOTPLUG_SF_FIRST, HOTPLUG_SF_LAST)) return failure('SF_NUM_RANGE');
    if (taken.has(request.sfNum)) return failure('SF_NUM_IN_USE');
  }
  const switchPort = lowestFree(usedPorts(devices, limits), limits.hotplugPorts);
  const pfIds = new Set(devices.filter(({ vfId }) => vfId === null).map((d) => d.pfId));
  for (let pfId = 0; pfId < limits.staticPfs; pfId++) pfIds.add(pfId); // theirs also while they do not exist
  const pfId = lowestFree(pfIds, PF_IDS);
  if (switchPort === null || pfId === null) return failure('SNAP_PF_HOTPLUG');
  if (limits.sfsMax !== null && devices.length >= limits.sfsMax) return failure('SF_CREATE');
  const sfNum = request.sfNum ?? freeHotplugSf(switchPort, taken);
  if (sfNum === null) return failure('SF_CREATE');
  const address = rawBdf(hotplugAddress(switchPort, limits));
  return { kind: FunctionKind.HOTPLUG_PF, pfId, vfId: null, switchPort, address, sfNum, ...NO_VFS };
}

function usedPorts(devices: readonly ExistingDevice[], limits: FirmwareLimits): Set<number> {
  const used = new Set<number>();
  for (const device of devices) {
    const address = device.kind === FunctionKind.HOTPLUG_PF ? parseBdf(device.bdf) : null;
    if (address !== null) used.add(address.bus - hotplugBusFirst(limits));
  }
  return used;
}

function lowestFree(used: ReadonlySet<number>, count: number): number | null {
  for (let candidate = 0; candidate < count; candidate++) if (!used.has(candidate)) return candidate;
  return null;
}
