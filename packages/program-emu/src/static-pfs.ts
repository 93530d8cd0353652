/**
 * static-pfs.ts: the static PFs, which exist from the start of the service because the firmware's configuration says so.
 *
 * Whoever becomes active looks for them: the first emulator finds none and makes them all, a successor makes those that
 * its predecessor did not get to.
 */
import { randomBytes } from 'node:crypto';
import {
  FunctionKind,
  firmwareLimits,
  formatMac,
  isFailure,
  NO_DEFAULTS,
  planStaticPf,
  staticPfDevice,
} from '@virtnet/engine-control';
import type { ControlSite } from './control-site.js';
import { identityOf, makeDevice } from './device-maker.js';
import type { Emulator } from './emulator.js';

/** In place of the id of a request. */
const REQUEST_ID = 'static';

/** An address of one station that no manufacturer gave away. */
export function randomMac(): string {
  const bytes = randomBytes(6);
  bytes[0] = (bytes[0]! & 0xfc) | 2;
  return formatMac(bytes);
}

/** Makes the static PFs that do not exist. One that cannot be made is reported and left out. */
export function makeStaticPfs(emulator: Emulator, site: ControlSite): void {
  const { conf } = emulator;
  const firmware = site.firmware();
  const ibDevice = staticPfDevice(conf);
  const defaults = { ...NO_DEFAULTS, macBase: conf.static_pf.mac_base, features: conf.static_pf.features };
  const { staticPfs } = firmwareLimits(firmware);
  for (let pfId = 0; pfId < staticPfs; pfId++) {
    const devices = [...emulator.devices.values()].map(identityOf);
    if (devices.some((device) => device.kind === FunctionKind.STATIC_PF && device.pfId === pfId)) continue;
    const place = { ...site.planSite(ibDevice), ibDevice, mac: randomMac(), sfNum: null };
    const plan = planStaticPf(pfId, firmware, devices, place, defaults);
    const made = isFailure(plan) ? plan : makeDevice(emulator, plan, REQUEST_ID);
    if (isFailure(made)) {
      emulator.services.log('error', 'a static PF could not be made', { pfId, reason: made.errstr });
    }
  }
}
