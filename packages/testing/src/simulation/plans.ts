/** plans.ts: which functions there can be: engine-control's plans of hotplug PFs, each known by the name in its address. */
import {
  type DevicePlan,
  formatMac,
  hotplugValues,
  isFailure,
  type PlanSite,
  parseMac,
  planHotplug,
  type Remembered,
  recoveredHotplug,
  VIRT_QUEUES_MIN,
} from '@virtnet/engine-control';
import { featureMask, NetFeature, VirtioFeature } from '@virtnet/wire';
import { SimViolation } from './world.js';

export const OFFERED = featureMask([
  VirtioFeature.VERSION_1,
  VirtioFeature.RING_PACKED,
  VirtioFeature.EVENT_IDX,
  NetFeature.MAC,
]);

const FIRMWARE = hotplugValues();
const SITE: PlanSite = { uplinkMtu: null, supportedFeatures: OFFERED, defaultFeatures: OFFERED };
const UPLINK = 'mlx5_0';
const QUEUE_SIZE = 16;
/** A local address of one station. */
const MAC_FIRST = 0x02;

/** Name of the function that has this address, `D` and a number: VUIDs are given again to others, names are not. */
export function nameOf({ mac }: Pick<DevicePlan, 'mac'>): string {
  const [, , , , high, low] = parseMac(mac)!;
  return `D${high! * 256 + low!}`;
}

/** What the operator asks for under `name`, with `mtu`, beside functions that exist. */
export function planOf(name: string, mtu: number, existing: readonly DevicePlan[]): DevicePlan {
  const number = Number(name.slice(1));
  const request = {
    ibDevice: UPLINK,
    mac: formatMac(Uint8Array.of(MAC_FIRST, 0, 0, 0, number >> 8, number & 0xff)),
    mtu,
    queues: VIRT_QUEUES_MIN,
    queuePairs: null,
    queueSize: QUEUE_SIZE,
    ...{ sfNum: null, features: null, legacy: false },
  };
  const plan = planHotplug(request, FIRMWARE, existing, SITE);
  if (isFailure(plan)) throw new SimViolation(`${name} cannot be planned: ${plan.errstr}`);
  return plan;
}

/** What the files say of the function with this VUID, beside others that exist. */
export function planAgain(
  vuid: string,
  { recoveries, plans }: Remembered,
  existing: readonly DevicePlan[],
): DevicePlan {
  const saved = plans.get(vuid) ?? null;
  const plan = recoveredHotplug(vuid, recoveries.get(vuid)!, UPLINK, saved, FIRMWARE, existing, SITE);
  if (typeof plan === 'string') throw new SimViolation(`${vuid} cannot be made anew: ${plan}`);
  return plan;
}
