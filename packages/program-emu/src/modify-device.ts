/**
 * modify-device.ts: carries a planned change of one device out.
 *
 * Theory
 *   What a change says is put into the engines and the settings in one go, without a moment in which anything else can
 *   run, and recorded with the id of the command in the same message. Only then it becomes visible: the driver is
 *   interrupted, workers and representor follow. A successor finds a device either without the change, and is asked
 *   again, or with it, and only finishes what becomes visible.
 *   The shape (address, MTU, features, queues) is given to new engines that take the place of the old ones, which no
 *   driver holds. Whoever is connected keeps the connection: registers, descriptors and memory are the same.
 *
 * Invariants
 *   I1  a command is carried out once on each device, whoever asks again.
 *   I2  a device whose change fails is as it was before.
 *   I3  a descriptor that is no longer needed is closed only after every worker was told.
 *
 * Limits  CHANGES_REMEMBERED commands in device-settings.ts.
 */
import {
  type ControlErrorName,
  type DeviceChange,
  type Failure,
  failure,
  restorePlan,
} from '@virtnet/engine-control';
import { closeAll, setMtu } from '@virtnet/host-linux';
import {
  ControlRx,
  DeviceStatus,
  QueueCounter,
  SIZE_CLASSES,
  StatePageHeader,
  VirtioPciCommon,
} from '@virtnet/wire';
import { framesWithoutBuffer } from './device-counters.js';
import { functionEngines } from './device-engines.js';
import { interruptsOf } from './device-factory.js';
import type { DeviceHost } from './device-host.js';
import { type DeviceSettings, rememberChange } from './device-settings.js';
import { shelfNames } from './shelf-names.js';

/** What a command was answered with, beside success, when it was carried out before; undefined when it was not. */
export function changedBefore(host: DeviceHost, requestId: string): ControlErrorName | null | undefined {
  return host.settings.changes.find((change) => change.requestId === requestId)?.warning;
}

/** Makes visible whatever a predecessor recorded and may not have shown any more. */
export async function finishChange(host: DeviceHost): Promise<void> {
  await host.reconcile(false);
  if (!host.settings.mtuPending) return;
  if (setMtu(host.plan.representor, host.plan.mtu) < 0) host.taps.errors++;
  set(host, { mtuPending: false });
  host.commit(host.applied);
}

/** Changes a device; null, or why it could not be changed. */
export async function changeDevice(
  host: DeviceHost,
  change: DeviceChange,
  requestId: string,
): Promise<Failure | null> {
  const { shape } = change;
  const reshapes = Object.keys(shape).length > 0 || change.hashTypes !== undefined;
  if (reshapes) await host.reconcile(false); // the last queue of the last driver has left its worker
  if (change.countSizes === true) await startSizesAnew(host);
  let leaving: readonly number[] = [];
  if (reshapes) {
    const reshaped = reshape(host, change);
    if ('errno' in reshaped) return reshaped;
    leaving = reshaped.leaving;
  }
  const shows = applyLive(host, change);
  const changes = rememberChange(host.settings.changes, { requestId, warning: change.warning ?? null });
  set(host, { changes });
  host.commit(host.applied);
  for (const show of shows) await show();
  await finishChange(host);
  closeAll(leaving);
  return null;
}

function set(host: DeviceHost, settings: Partial<DeviceSettings>): void {
  host.settings = { ...host.settings, ...settings };
  host.touch();
}

/** Sets the size classes to zero while no worker counts them. */
async function startSizesAnew(host: DeviceHost): Promise<void> {
  if (host.settings.countSizes) {
    host.settings = { ...host.settings, countSizes: false };
    await host.reconcile(false);
  }
  for (const queue of host.fn.queues.keys()) {
    const { counters } = host.state.block(queue);
    const first = QueueCounter.SIZE_CLASS_FIRST;
    counters.fill(0, first, first + SIZE_CLASSES);
  }
}

/** Gives the function another shape; the descriptors it no longer needs, or why it could not be. */
function reshape(
  host: DeviceHost,
  { shape, hashTypes }: DeviceChange,
): { readonly leaving: readonly number[] } | Failure {
  const { fn, net, plan: before, page, taps, vuid } = host;
  if ((fn.status & DeviceStatus.DRIVER) !== 0) return failure('DRV_SHOULD_NOT_LOAD'); // it came meanwhile
  const plan = restorePlan({ ...before, ...shape });
  if (typeof plan === 'string') return failure('SNAP_DEV_MODIFY');
  const settings = hashTypes === undefined ? host.settings : { ...host.settings, hashTypes };
  const engines = functionEngines(plan, settings, page);
  // Registers of queues are at reset without a driver; the new ones may have other sizes. Vectors change only while
  // nobody is connected: then everything is as after power-on.
  const problems =
    plan.msixVectors === before.msixVectors
      ? engines.fn.restore({ ...fn.save(), queues: [], halves: [], queueSelect: 0 })
      : [];
  if (problems.length > 0) return failure('SNAP_DEV_MODIFY');
  engines.fn.setVfs(fn.vfs);
  engines.net.setLinkUp(net.linkWanted);
  engines.net.setUplink(net.uplink);
  const pairs = taps.fds.length;
  const leaving = taps.resize(plan.queuePairs);
  for (let pair = taps.fds.length; pair < pairs; pair++) host.drop(shelfNames.tap(vuid, pair));
  const interrupts = plan.msixVectors === before.msixVectors ? host.interrupts : interruptsOf(plan);
  new Uint32Array(page.buffer)[StatePageHeader.at.queueCount / 4] = plan.queueCount;
  page.view();
  host.settings = settings;
  host.reshape({ plan, ...engines, interrupts });
  if (shape.mtu !== undefined) set(host, { mtuPending: true });
  return { leaving };
}

/** Puts everything that does not wait for the next driver into the engines; what has to be shown afterwards. */
function applyLive(host: DeviceHost, change: DeviceChange): (() => unknown)[] {
  const { net } = host;
  const shows: (() => unknown)[] = [];
  let configChanged = false;
  // Speed first: a link that comes up comes up with it.
  if (change.speedMbps !== undefined) {
    set(host, { speedMbps: change.speedMbps });
    if (net.setSpeed(change.speedMbps)) configChanged = true;
  }
  if (change.linkUp !== undefined && net.setLinkUp(change.linkUp)) configChanged = true;
  if (change.rxMode !== undefined) net.control = { ...net.control, modes: receiveModes(change.rxMode) };
  if (change.countSizes !== undefined) set(host, { countSizes: change.countSizes });
  if (change.countDrops !== undefined)
    set(host, { dropsFrom: change.countDrops ? framesWithoutBuffer(host) : null });
  if (change.dim !== undefined) set(host, { dim: change.dim });
  if (change.aarfs !== undefined) set(host, { aarfs: change.aarfs });
  if (change.moderation !== undefined) set(host, { moderation: change.moderation });
  if (change.status === 'needs-reset' && host.fn.needsReset()) configChanged = true;
  if (configChanged) shows.push(host.configChange());
  if (change.status === 'reset') shows.push(() => host.carryOut(driverReset(host)));
  return shows;
}

/** The effects of a driver that writes 0 into the device status. */
function driverReset({ fn }: DeviceHost) {
  const { bar, offset } = fn.layout.common;
  return fn.writeRegion(bar, offset + VirtioPciCommon.at.deviceStatus, Uint8Array.of(0));
}

function receiveModes(mask: number) {
  const on = (command: ControlRx): boolean => (mask & (1 << command)) !== 0;
  return {
    promiscuous: on(ControlRx.PROMISC),
    allMulticast: on(ControlRx.ALLMULTI),
    allUnicast: on(ControlRx.ALLUNI),
    noMulticast: on(ControlRx.NOMULTI),
    noUnicast: on(ControlRx.NOUNI),
    noBroadcast: on(ControlRx.NOBCAST),
  };
}
