/**
 * commands.ts: what the command line asks of the active emulator.
 *
 * Theory
 *   Requests that change devices run one after the other and carry an id. The id is saved with the device they make,
 *   so a request that is repeated because its first answer was lost is answered and not carried out again.
 *
 * Invariants
 *   I1  a hotplug answers success only when the device is recorded and can be connected to.
 *   I2  an unplug answers success only when the representor is gone from the host.
 *
 * Limits  UNPLUGGED_REMEMBERED ids of unplugs.
 */
import { readFileSync, rmSync } from 'node:fs';
import {
  type ControllerFacts,
  DEVICE_MISSING,
  type DeviceSelector,
  type ExistingDevice,
  emulationManager,
  FunctionKind,
  failure,
  firmwareLimits,
  type HotplugRequest,
  healthAnswer,
  hotplugAnswer,
  initialFirmwareStore,
  isFailure,
  type JsonObject,
  listAnswer,
  type Outcome,
  parseFirmwareStore,
  planHotplug,
  planUnplug,
  type QueryRequest,
  queryAnswer,
  SUCCESS,
  selectDevices,
  type UnplugRequest,
  uplinkOf,
} from '@virtnet/engine-control';
import { hotplugFeatures } from '@virtnet/engine-virtio-net';
import type { VirtnetPaths } from '@virtnet/host-ipc';
import { close, getMtu, interfaceExists, listen, supportsUso } from '@virtnet/host-linux';
import { DeviceEndpoint } from './device-endpoint.js';
import { createDevice, pciAddress } from './device-factory.js';
import { deviceFacts, healthFacts, uplinkSpeed } from './device-facts.js';
import type { Device, Emulator } from './emulator.js';

const UNPLUGGED_REMEMBERED = 64;
const REPRESENTOR_GONE_MS = 2000;
const SPLIT_RINGS = 1;
/** NO_MSIX_MODE and MSIX_MODE. */
const EVENT_MODES = 0b101;
/** Descriptors the tunnel of the original takes; here the segments a chain of ours may have do not depend on it. */
const TUNNEL_DESCRIPTORS = 6;

function existing({ host }: Device): ExistingDevice {
  const { pfId, vuid, bdf, sfNum } = host.plan;
  return { kind: FunctionKind.HOTPLUG_PF, pfId, vfId: null, vuid, bdf, sfNum };
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

export class Commands {
  readonly #emulator: Emulator;
  readonly #paths: VirtnetPaths;
  readonly #unplugged: string[] = [];
  readonly #supported: bigint;
  readonly #defaults: bigint;
  #turn: Promise<unknown> = Promise.resolve();

  constructor(emulator: Emulator) {
    this.#emulator = emulator;
    this.#paths = emulator.paths;
    const uso = supportsUso();
    this.#supported = hotplugFeatures({ uso, vlan: true });
    this.#defaults = hotplugFeatures({ uso });
  }

  /** Lets the planning of a device be compiled before somebody waits for it; changes nothing. */
  warmUp(): void {
    const request: HotplugRequest = {
      ibDevice: emulationManager(this.#emulator.conf),
      mac: '02:00:00:00:00:01',
      mtu: 1500,
      queues: 3,
      queuePairs: null,
      queueSize: 256,
      sfNum: null,
      features: null,
      legacy: false,
    };
    const site = { uplinkMtu: this.#uplinkMtu(request.ibDevice), ...this.#features() };
    hotplugAnswer(planHotplug(request, this.#firmware(), this.#devices().map(existing), site));
    this.list();
    this.query({ all: true, pf: null, vf: null, vuid: null, brief: false, queue: null });
    this.health({ all: true, pf: null, vf: null, vuid: null });
  }

  hotplug(request: HotplugRequest & { readonly requestId: string }): Promise<JsonObject | Outcome> {
    return this.#inTurn(() => this.#hotplug(request));
  }

  unplug(request: UnplugRequest & { readonly requestId: string }): Promise<Outcome> {
    return this.#inTurn(() => this.#unplug(request));
  }

  list(): JsonObject {
    const firmware = this.#firmware();
    const limits = firmwareLimits(firmware);
    const controller: ControllerFacts = {
      emulationManager: emulationManager(this.#emulator.conf),
      hotplugDevicesMax: limits.hotplugPorts,
      devicesMax: limits.devicesMax,
      virtQueuesMax: limits.virtQueuesMax,
      tunnelDescriptorsMax: TUNNEL_DESCRIPTORS,
      supportedFeatures: this.#supported,
      queueTypes: SPLIT_RINGS,
      eventModes: EVENT_MODES,
    };
    return listAnswer(controller, this.#facts());
  }

  query(request: QueryRequest): JsonObject | Outcome {
    return queryAnswer(selectDevices(this.#facts(), request), request);
  }

  health(request: DeviceSelector): JsonObject | readonly JsonObject[] {
    const facts = this.#devices().map(({ host }) => healthFacts(host));
    const chosen = selectDevices(facts, request);
    if (request.all) return chosen.map(healthAnswer);
    return chosen.length === 0 ? DEVICE_MISSING : healthAnswer(chosen[0]!);
  }

  async #hotplug(request: HotplugRequest & { readonly requestId: string }): Promise<JsonObject | Outcome> {
    const emulator = this.#emulator;
    for (const { host } of emulator.devices.values()) {
      if (host.requestId === request.requestId) return hotplugAnswer(host.plan);
    }
    if (uplinkOf(emulator.conf, request.ibDevice) === null) return failure('PORT_CTX_NOT_FOUND');
    const plan = planHotplug(request, this.#firmware(), this.#devices().map(existing), {
      uplinkMtu: this.#uplinkMtu(request.ibDevice),
      ...this.#features(),
    });
    if (isFailure(plan)) return plan;
    const { services } = emulator;
    if (interfaceExists(plan.representor)) {
      services.log('error', 'an interface of the representor’s name exists already', {
        name: plan.representor,
      });
      return failure('SF_CREATE');
    }
    const path = this.#paths.pciSocket(pciAddress(plan.bdf));
    const listenerFd = listen(path, 'stream');
    if (listenerFd < 0) {
      services.log('error', 'cannot listen', { path, errno: -listenerFd });
      return failure('SNAP_PF_HOTPLUG');
    }
    const host = createDevice(plan, request.requestId, emulator.arena, services);
    if (typeof host === 'number') {
      close(listenerFd);
      rmSync(path, { force: true });
      services.log('error', 'the host refused a device', { representor: plan.representor, errno: -host });
      return failure('SF_CREATE');
    }
    const endpoint = new DeviceEndpoint(host, listenerFd, services, emulator.replyRing);
    endpoint.upload();
    host.upload();
    emulator.addDevice({ host, endpoint });
    endpoint.listen();
    return hotplugAnswer(plan);
  }

  async #unplug(request: UnplugRequest & { readonly requestId: string }): Promise<Outcome> {
    if (this.#unplugged.includes(request.requestId)) return SUCCESS;
    const devices = this.#devices();
    const found = planUnplug(request, devices.map(existing));
    if (isFailure(found)) return found;
    const device = devices.find(({ host }) => host.vuid === found.device.vuid)!;
    await this.#emulator.removeDevice(device);
    const deadline = performance.now() + REPRESENTOR_GONE_MS;
    while (interfaceExists(device.host.plan.representor) && performance.now() < deadline) await sleep(1);
    this.#unplugged.push(request.requestId);
    if (this.#unplugged.length > UNPLUGGED_REMEMBERED) this.#unplugged.shift();
    return SUCCESS;
  }

  /** Features that this build knows. */
  get supportedFeatures(): bigint {
    return this.#supported;
  }

  /** Runs `action` between two changes. */
  whenIdle<T>(action: () => Promise<T>): Promise<T> {
    return this.#inTurn(action);
  }

  /** Runs changes one after the other. */
  #inTurn<T>(change: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(change);
    this.#turn = result.catch(() => undefined);
    return result;
  }

  #devices(): Device[] {
    return [...this.#emulator.devices.values()].sort((a, b) => a.host.plan.pfId - b.host.plan.pfId);
  }

  #facts() {
    return this.#devices().map(({ host }) => {
      const uplink = uplinkOf(this.#emulator.conf, host.plan.ibDevice);
      return deviceFacts(host, uplink === null ? null : uplinkSpeed(uplink.netDevice));
    });
  }

  #features() {
    return { supportedFeatures: this.#supported, defaultFeatures: this.#defaults };
  }

  #uplinkMtu(ibDevice: string): number | null {
    const uplink = uplinkOf(this.#emulator.conf, ibDevice);
    if (uplink === null || !interfaceExists(uplink.netDevice)) return null;
    const mtu = getMtu(uplink.netDevice);
    return mtu > 0 ? mtu : null;
  }

  /** The firmware's current values; the initial ones while there is no store. */
  #firmware() {
    let text: string;
    try {
      text = readFileSync(this.#paths.fwconfig, 'utf8');
    } catch {
      return initialFirmwareStore().current;
    }
    const parsed = parseFirmwareStore(text);
    if ('store' in parsed) return parsed.store.current;
    this.#emulator.services.log('error', 'the firmware store is damaged; using the initial values', {
      ...parsed,
    });
    return initialFirmwareStore().current;
  }
}
