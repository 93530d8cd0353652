/**
 * recovered-plan.ts: the plan of a function that existed before, from its recovery file and what was saved beside it.
 *
 * The recovery file decides what it has keys for, but for the uplink, which is the configuration's business. The rest
 * comes from the saved plan if there is one, else from what a new function would have. Both are as untrusted as any
 * saved state: what no function can be is not planned.
 */
import { hasFeature, VirtioFeature } from '@virtnet/wire';
import { type DevicePlan, restorePlan } from './device-plan.js';
import { FunctionKind } from './facts.js';
import { featureProblem } from './feature-names.js';
import { type FirmwareLimits, firmwareLimits } from './firmware-config.js';
import type { FirmwareValues } from './firmware-entries.js';
import { hexLower } from './format.js';
import type { ExistingDevice, PlanSite } from './hotplug.js';
import { hotplugAddress, rawBdf } from './identity.js';
import { MTU_DEFAULT, QUEUE_SIZE_DEFAULT } from './limits.js';
import { hotplugPortOfVuid, type Recovery } from './recovery-file.js';

/**
 * `fresh`: the plan that a new function in this place, on the uplink of now, would have; `supported`: the features that
 * one can offer there. A sentence when the two do not go together.
 */
export function recoveredPlan(
  fresh: DevicePlan,
  recovery: Recovery,
  saved: DevicePlan | null,
  existing: readonly ExistingDevice[],
  supported: bigint,
): DevicePlan | string {
  if (fresh.address !== recovery.address) return 'bdf_raw is not where the function is now';
  const { mac, sfNum, queuePairs } = recovery;
  const { mtu, queueSize, msixVectors } = saved ?? fresh;
  const features =
    saved === null ? fresh.features : recoveredFeatures(saved.features, fresh.features, supported);
  const plan = restorePlan({
    ...fresh,
    mtu,
    queueSize,
    msixVectors,
    features,
    mac,
    sfNum,
    queuePairs,
  });
  if (typeof plan === 'string') return plan;
  if (plan.vuid !== fresh.vuid) return 'the saved plan is of another function';
  const taken = existing.some(
    (other) => other.sfNum === sfNum || other.vuid === plan.vuid || other.bdf === plan.bdf,
  );
  return taken ? 'another function has its SF number or its place' : plan;
}

/** The saved features without those that cannot be had any more; those of a new function where the rest is no set to offer. */
function recoveredFeatures(saved: string, fresh: string, supported: bigint): string {
  const features = BigInt(saved) & supported;
  const possible = hasFeature(features, VirtioFeature.VERSION_1) && featureProblem(features) === null;
  return possible ? hexLower(features) : fresh;
}

/** The plan of a hotplug PF that existed before, on `ibDevice` now: nobody but its files knows what it was. */
export function recoveredHotplug(
  vuid: string,
  recovery: Recovery,
  ibDevice: string,
  saved: DevicePlan | null,
  firmware: FirmwareValues,
  existing: readonly ExistingDevice[],
  site: PlanSite,
): DevicePlan | string {
  const limits: FirmwareLimits = firmwareLimits(firmware);
  const switchPort = hotplugPortOfVuid(vuid);
  if (switchPort === null || switchPort >= limits.hotplugPorts) return 'the firmware has no such switch port';
  if (
    existing.some((other) => other.vfId === null && other.pfId === recovery.pfId) ||
    recovery.pfId < limits.staticPfs
  )
    return 'another function has its PF number';
  const fresh = restorePlan({
    kind: FunctionKind.HOTPLUG_PF,
    pfId: recovery.pfId,
    vfId: null,
    switchPort,
    address: rawBdf(hotplugAddress(switchPort, limits)),
    sfNum: recovery.sfNum,
    ibDevice,
    mac: recovery.mac,
    mtu: Math.min(MTU_DEFAULT, site.uplinkMtu ?? MTU_DEFAULT),
    queuePairs: recovery.queuePairs,
    queueSize: QUEUE_SIZE_DEFAULT,
    msixVectors: limits.msixVectors,
    features: hexLower(site.defaultFeatures),
    ...limits.subsystem,
  });
  return typeof fresh === 'string'
    ? fresh
    : recoveredPlan(fresh, recovery, saved, existing, site.supportedFeatures);
}
