/**
 * static-functions.ts: the functions that the firmware's configuration makes: static PFs and their VFs.
 *
 * Theory
 *   Nobody asks for a MAC address, an MTU or a number of queues when a static PF appears or a host enables VFs: they
 *   follow from the firmware's current values and from what the configuration file says about the kind. What neither
 *   says is chosen: as many queue pairs as there are vectors for, queues of QUEUE_SIZE_DEFAULT, an address that the
 *   caller drew.
 *
 * Invariants
 *   I1  the same inputs give the same plan.
 *   I2  a plan's features are within the site's and have what they need.
 *
 * Limits  limits.ts; queue pairs nobody chose: a vector for each of their virtqueues, one for the control queue and one
 *         for configuration changes. VFs whose number of pairs is chosen may have more: queues share vectors then.
 */

import { featureMask, VirtioFeature } from '@virtnet/wire';
import {
  completePlan,
  type DevicePlan,
  isQueuePairCount,
  isQueueSize,
  isWithin,
  NO_VFS,
} from './device-plan.js';
import { type Failure, failure } from './errors.js';
import { FunctionKind } from './facts.js';
import { featureProblem, parseFeatures } from './feature-names.js';
import { type FirmwareLimits, firmwareLimits } from './firmware-config.js';
import type { FirmwareValues } from './firmware-entries.js';
import { formatMac, hexLower, parseMac } from './format.js';
import type { ExistingDevice, PlanSite } from './hotplug.js';
import { freeVfSf, rawBdf, staticAddress, uplinkPort, vfAddressFirst } from './identity.js';
import {
  MSIX_VECTORS_MIN,
  MTU_DEFAULT,
  MTU_MIN,
  QUEUE_PAIRS_MAX,
  QUEUE_SIZE_DEFAULT,
  STATIC_SF_FIRST,
  VIRT_QUEUES_MAX,
} from './limits.js';
import type { VfPoolRules } from './vf-pool.js';

/** Every function is a modern one, whatever a mask says. */
const VERSION_1 = featureMask([VirtioFeature.VERSION_1]);

/** What the configuration file says about one kind of function; null where it says nothing. */
export interface FunctionDefaults {
  /** Address of the first function; the others count up from it. */
  readonly macBase: string | null;
  /** All features to offer, hexadecimal. Those the site does not have are left out. */
  readonly features: string | null;
  readonly queuePairs: number | null;
  readonly queueSize: number | null;
  /** By how much the addresses of one PF's VFs are apart from the next PF's. */
  readonly vfsPerPf: number | null;
}

export const NO_DEFAULTS: FunctionDefaults = {
  macBase: null,
  features: null,
  queuePairs: null,
  queueSize: null,
  vfsPerPf: null,
};

/** Where the function shall live, and an address that is free for it. */
export interface FunctionSite extends PlanSite {
  readonly ibDevice: string;
  /** Used when there is no base to count from. */
  readonly mac: string;
  /** SF number to take if it is free; null for the usual one. */
  readonly sfNum: number | null;
  /** SF numbers of functions that are still to come back: the usual one is none of these, as long as there are others. */
  readonly promisedSfs?: ReadonlySet<number>;
}

/** Plans static PF `pfId`, or says why the configuration permits none. */
export function planStaticPf(
  pfId: number,
  firmware: FirmwareValues,
  devices: readonly ExistingDevice[],
  site: FunctionSite,
  defaults: FunctionDefaults,
): DevicePlan | Failure {
  const limits = firmwareLimits(firmware);
  if (!isWithin(pfId, 0, limits.staticPfs - 1)) return failure('ID_OUT_OF_RANGE');
  const sfNum = STATIC_SF_FIRST + pfId;
  if (devices.some((device) => device.sfNum === sfNum)) return failure('SF_NUM_IN_USE');
  const address = rawBdf(staticAddress(pfId));
  const vfs =
    limits.vfsPerPf === 0
      ? NO_VFS
      : { vfsMax: limits.vfsPerPf, firstVfOffset: vfAddressFirst(limits, pfId) - address };
  const kind = FunctionKind.STATIC_PF;
  const place = { kind, pfId, vfId: null, switchPort: null, address, sfNum, ...vfs };
  return finish(place, pfId, limits.msixVectors, limits, devices.length, site, defaults);
}

/** Plans VF `vfId` of static PF `pfId`, or says why the configuration permits none. */
export function planVf(
  pfId: number,
  vfId: number,
  firmware: FirmwareValues,
  devices: readonly ExistingDevice[],
  site: FunctionSite,
  defaults: FunctionDefaults,
): DevicePlan | Failure {
  const limits = firmwareLimits(firmware);
  if (!isWithin(pfId, 0, limits.staticPfs - 1)) return failure('VF_DEV_GET');
  if (!isWithin(vfId, 0, limits.vfsPerPf - 1)) return failure('ID_OUT_OF_RANGE');
  const taken = new Set(devices.map((device) => device.sfNum));
  const wanted =
    site.sfNum !== null && !taken.has(site.sfNum) ? site.sfNum : freeVfSf(taken, site.promisedSfs);
  if (wanted === null) return failure('SF_CREATE');
  const place = {
    kind: FunctionKind.VF,
    pfId,
    vfId,
    switchPort: null,
    address: vfAddressFirst(limits, pfId) + vfId,
    sfNum: wanted,
    ...NO_VFS,
  };
  const ordinal = pfId * (defaults.vfsPerPf ?? limits.vfsPerPf) + vfId;
  return finish(place, ordinal, limits.vfMsixVectors, limits, devices.length, site, defaults);
}

type Place = Pick<
  DevicePlan,
  'kind' | 'pfId' | 'vfId' | 'switchPort' | 'address' | 'sfNum' | keyof typeof NO_VFS
>;

function finish(
  place: Place,
  ordinal: number,
  msixVectors: number,
  limits: FirmwareLimits,
  existing: number,
  site: FunctionSite,
  defaults: FunctionDefaults,
): DevicePlan | Failure {
  const port = uplinkPort(site.ibDevice);
  if (port === null) return failure('PORT_CTX_NOT_FOUND');
  if (limits.sfsMax !== null && existing >= limits.sfsMax) return failure('SF_CREATE');
  if (msixVectors < MSIX_VECTORS_MIN) return failure('MSIX_INVALID');
  const mtu = Math.min(MTU_DEFAULT, site.uplinkMtu ?? MTU_DEFAULT);
  if (mtu < MTU_MIN) return failure('MTU_INVALID');
  const queuePairs = defaults.queuePairs ?? pairsForVectors(msixVectors);
  if (!isQueuePairCount(queuePairs, VIRT_QUEUES_MAX)) return failure('QUEUES_INVALID');
  const queueSize = defaults.queueSize ?? QUEUE_SIZE_DEFAULT;
  if (!isQueueSize(queueSize)) return failure('QUEUE_SIZE_INVALID');
  const features = featuresOf(defaults.features, site);
  if (features === null) return failure('DEV_FEATURE_VALIDATE');
  const mac = macOf(defaults.macBase, ordinal) ?? site.mac;
  return completePlan(
    {
      ...place,
      ibDevice: site.ibDevice,
      mac,
      mtu,
      queuePairs,
      queueSize,
      msixVectors,
      features: hexLower(features),
      ...limits.subsystem,
    },
    port,
  );
}

/** Pairs of queues that have a vector each, beside one for the control queue and one for configuration changes. */
export function pairsForVectors(msixVectors: number): number {
  return Math.max(0, Math.min(QUEUE_PAIRS_MAX, (msixVectors - 2) >> 1));
}

/** What the VFs of a PF start with, and the most that one of them may have. */
export function vfPoolRules(
  { vfMsixVectors }: FirmwareLimits,
  { queuePairs }: FunctionDefaults,
): VfPoolRules {
  return {
    initial: { msixVectors: vfMsixVectors, queuePairs: queuePairs ?? pairsForVectors(vfMsixVectors) },
    most: { msixVectors: VIRT_QUEUES_MAX, queuePairs: QUEUE_PAIRS_MAX },
  };
}

function featuresOf(text: string | null, site: PlanSite): bigint | null {
  if (text === null) return site.defaultFeatures;
  const asked = parseFeatures(text);
  if (asked === null) return null;
  const features = (asked & site.supportedFeatures) | VERSION_1;
  return featureProblem(features) === null ? features : null;
}

/** `base + ordinal` as an address; null without a base. It wraps around within 48 bits. */
function macOf(base: string | null, ordinal: number): string | null {
  const bytes = base === null ? null : parseMac(base);
  if (bytes === null) return null;
  const sum = bytes.reduce((value, byte) => value * 256 + byte, 0) + ordinal;
  return formatMac(Uint8Array.from(bytes, (_, i) => Math.floor(sum / 256 ** (5 - i)) % 256));
}
