/**
 * device-maker.ts: makes a planned function whole and takes it apart again: socket, representor, record, endpoint.
 *
 * Invariants
 *   I1  a function that `makeDevice` returns is recorded with the keeper and can be connected to.
 *   I2  one that it fails to make leaves nothing behind, and stops nobody else: whatever is wrong with a plan is a Failure.
 */
import { rmSync } from 'node:fs';
import {
  type DeviceIdentity,
  type DevicePlan,
  type Failure,
  FunctionKind,
  failure,
} from '@virtnet/engine-control';
import { messageOf } from '@virtnet/host-ipc';
import { close, descriptorsAreScarce, interfaceExists, listen, removeInterfaces } from '@virtnet/host-linux';
import { DeviceEndpoint } from './device-endpoint.js';
import { createDevice, pciAddress } from './device-factory.js';
import type { DeviceHost } from './device-host.js';
import type { Device, Emulator } from './emulator.js';

/** How long a removed representor may stay visible. */
const REPRESENTOR_GONE_MS = 10_000;
/** After which a removed representor is taken from whoever still has it. */
const OTHERS_LET_GO_MS = 200;
/** How long a new representor waits for the end of a former one of its name. */
export const NAME_FREE_MS = 2_000;

/** Which function a device is, as planning sees it. */
export function identityOf({ host }: Device): DeviceIdentity {
  const { kind, pfId, vfId, vuid, bdf, sfNum } = host.plan;
  return { kind, pfId, vfId, vuid, bdf, sfNum };
}

/**
 * Waits while an interface has the name of a representor that is about to be made: one that was removed a moment ago may
 * still be held by a process that has not heard of it, as while the service is moved to another version. One that is
 * in the pool is no hindrance. Waits until `deadline`, by performance.now(), at most. True when it did wait: other
 * functions may have been made meanwhile.
 */
export async function nameFree(
  emulator: Emulator,
  { representor }: DevicePlan,
  deadline = performance.now() + NAME_FREE_MS,
): Promise<boolean> {
  if ((emulator.conf.software.representor ?? 'tap') !== 'tap' || emulator.pool.has(representor)) return false;
  if (!interfaceExists(representor)) return false;
  while (interfaceExists(representor) && performance.now() < deadline)
    await new Promise((resolve) => setTimeout(resolve, 5));
  return true;
}

/** Makes a planned function; `requestId` is the request that asked for it. Of a plan that no device can have: a Failure. */
export function makeDevice(emulator: Emulator, plan: DevicePlan, requestId: string): Device | Failure {
  const { services } = emulator;
  if (descriptorsAreScarce()) {
    services.log('error', 'no function is made: this process may have hardly any more descriptors', {
      vuid: plan.vuid,
    });
    return failure('SNAP_PF_HOTPLUG');
  }
  const wanted = emulator.conf.software.representor;
  const mayBeTap = (wanted ?? 'tap') === 'tap';
  const pooled = mayBeTap ? emulator.pool.take(plan.representor) : null;
  if (mayBeTap && pooled === null && interfaceExists(plan.representor)) {
    services.log('error', 'an interface of the representor’s name exists already', {
      name: plan.representor,
    });
    return failure('SF_CREATE');
  }
  const path = emulator.paths.pciSocket(pciAddress(plan.bdf));
  const listenerFd = listen(path, 'stream');
  if (listenerFd < 0) {
    services.log('error', 'cannot listen', { path, errno: -listenerFd });
    return failure('SNAP_PF_HOTPLUG');
  }
  const host = created(emulator, plan, requestId, pooled);
  if (typeof host !== 'object') {
    close(listenerFd);
    rmSync(path, { force: true });
    if (pooled !== null) emulator.pool.taken(plan.representor); // it is closed
    const { representor, vuid } = plan;
    if (typeof host === 'number') {
      services.log('error', 'the host refused a device', { representor, errno: -host });
      return failure('SF_CREATE');
    }
    services.log('error', 'no device can be what was planned', { representor, vuid, reason: host });
    return failure('SNAP_PF_HOTPLUG');
  }
  const endpoint = new DeviceEndpoint(host, listenerFd, services, emulator.replyRing);
  endpoint.upload();
  host.upload();
  if (pooled !== null) emulator.pool.taken(plan.representor);
  const device = { host, endpoint };
  emulator.addDevice(device);
  endpoint.listen();
  return device;
}

/** The function; -errno when the host refuses it, a sentence when it cannot be at all. */
function created(
  emulator: Emulator,
  plan: DevicePlan,
  requestId: string,
  pooled: readonly number[] | null,
): DeviceHost | number | string {
  const { arena, services, conf } = emulator;
  try {
    return createDevice(plan, conf.software.representor, requestId, arena, services, pooled);
  } catch (error) {
    return messageOf(error);
  }
}

/**
 * Removes a function, as `requestId` asked for; resolves when its representor is gone from the host, or in the pool if
 * it is a VF's.
 */
export async function unmakeDevice(
  emulator: Emulator,
  device: Device,
  requestId: string | null = null,
): Promise<void> {
  const { plan, representor } = device.host;
  const keepTaps = plan.kind === FunctionKind.VF && representor === 'tap';
  await emulator.removeDevice(device, { requestId, keepTaps });
  if (keepTaps) return;
  const deadline = performance.now() + REPRESENTOR_GONE_MS;
  const isThere = () => representor === 'tap' && interfaceExists(plan.representor);
  const patience = performance.now() + OTHERS_LET_GO_MS;
  let removed = false;
  while (isThere() && performance.now() < deadline) {
    if (!removed && performance.now() >= patience) {
      // While the state keeper is replaced, the standby does not hear that it is to let go.
      removed = true;
      removeInterfaces([plan.representor]);
    }
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}
