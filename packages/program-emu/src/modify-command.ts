/** `virtnet modify`: which devices are meant, whether all of them can be changed so, and then the changes. */
import {
  type DeviceChange,
  type Failure,
  failure,
  isFailure,
  type ModifiableDevice,
  type ModifyRequest,
  type ModifySite,
  type Outcome,
  planModify,
  planModifyQueues,
  SUCCESS,
  selectDevices,
  selectorFailure,
  type VfShare,
} from '@virtnet/engine-control';
import type { Device } from './emulator.js';
import { changeDevice, changedBefore, finishChange } from './modify-device.js';

/** What a command needs of the place it works in. */
export interface ModifyPlace {
  /** All devices, in their order. */
  devices(): readonly Device[];
  /** `planned`: what VFs will have of their PF's pool, by VUID. */
  site(device: Device, planned: ReadonlyMap<string, VfShare>): ModifySite;
}

function modifiable({ host, endpoint }: Device): ModifiableDevice {
  const { plan, fn, net } = host;
  return {
    kind: plan.kind,
    status: fn.status,
    driverFeatures: fn.driverFeatures,
    deviceFeatures: net.offeredFeatures,
    connected: endpoint.connected,
    share: { msixVectors: plan.msixVectors, queuePairs: plan.queuePairs },
  };
}

/** All devices are judged before the first is changed. A device that was changed before by this command is left. */
export async function modifyDevices(
  request: ModifyRequest & { readonly requestId: string },
  place: ModifyPlace,
): Promise<Outcome> {
  const { requestId, device: options, queueOptions } = request;
  const impossible = selectorFailure(request);
  if (impossible !== null) return impossible;
  const named = place.devices().map((device) => ({
    pfId: device.host.plan.pfId,
    vfId: device.host.plan.vfId,
    vuid: device.host.vuid,
    device,
  }));
  const chosen = selectDevices(named, request).map(({ device }) => device);
  if (chosen.length === 0) return failure(request.vf === null ? 'DEV_NOT_EXIST' : 'VF_DEV_GET');
  const changes: { readonly device: Device; readonly change: DeviceChange }[] = [];
  const planned = new Map<string, VfShare>();
  let outcome: Outcome = SUCCESS;
  for (const device of chosen) {
    const before = changedBefore(device.host, requestId);
    if (before !== undefined) {
      await finishChange(device.host);
      if (before !== null) outcome = failure(before);
      continue;
    }
    const change: DeviceChange | Failure =
      queueOptions === undefined
        ? planModify(options ?? {}, modifiable(device), place.site(device, planned))
        : planModifyQueues(queueOptions);
    if (isFailure(change)) return change;
    const { msixVectors, queuePairs } = { ...device.host.plan, ...change.shape };
    planned.set(device.host.vuid, { msixVectors, queuePairs });
    changes.push({ device, change });
  }
  for (const { device, change } of changes) {
    const failed = await changeDevice(device.host, change, requestId);
    if (failed !== null) return failed;
    if (change.warning !== undefined) outcome = failure(change.warning);
  }
  return outcome;
}
