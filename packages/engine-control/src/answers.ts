/**
 * answers.ts: the JSON each command answers with.
 *
 * Theory
 *   Scripts read these answers with grep and line offsets, so the order of keys, the kind of each value (JSON number
 *   or string) and the padding of bit numbers are part of the interface. They follow the guide's example outputs,
 *   which win over its prose. One function makes one answer, out of facts that carry no formatting.
 *
 * Invariants
 *   I1  an object's keys are inserted in the order in which they are printed, and none looks like an integer.
 *   I2  every number printed comes from a fact.
 *
 * Limits
 *   The guide shows no answer of `health -a`: here it is an array of the objects that a single device answers with.
 */

import type { DevicePlan } from './device-plan.js';
import type { DeviceSelector } from './device-selector.js';
import { DEVICE_MISSING, type Failure, failure, isFailure, type Outcome, SUCCESS } from './errors.js';
import {
  CONTROL_PLANE_ERRORS,
  type ControllerFacts,
  DATA_PLANE_ERRORS,
  type DeviceFacts,
  type DeviceIdentity,
  type HealthFacts,
  type QueueFacts,
  type UplinkFacts,
  type VfPool,
} from './facts.js';
import { featureObject } from './feature-names.js';
import { bitObject, hexLower, hexUpper } from './format.js';

/** An answer or a part of it. */
export type Json = string | number | readonly Json[] | { readonly [key: string]: Json };
export type JsonObject = { readonly [key: string]: Json };

const QUEUE_TYPES: Readonly<Record<number, string>> = { 0: 'SPLIT', 1: 'PACKED' };
const EVENT_MODES: Readonly<Record<number, string>> = { 0: 'NO_MSIX_MODE', 2: 'MSIX_MODE' };
const STATUS_BITS: Readonly<Record<number, string>> = {
  0: 'ACK',
  1: 'DRIVER',
  2: 'DRIVER_OK',
  3: 'FEATURES_OK',
  6: 'DEVICE_NEEDS_RESET',
  7: 'FAILED',
};
const NO_MAC = '00:00:00:00:00:00';

/** Answer of hotplug: the new device, or the failure alone. */
export function hotplugAnswer(plan: DevicePlan | Failure): JsonObject | Outcome {
  if (isFailure(plan)) return { errno: plan.errno, errstr: plan.errstr };
  return {
    bdf: plan.bdf,
    vuid: plan.vuid,
    id: plan.pfId,
    transitional: 0,
    sf_rep_net_device: plan.representor,
    mac: plan.mac,
    ...SUCCESS,
  };
}

/** Answer of list: the controller, then every device. */
export function listAnswer(controller: ControllerFacts, devices: readonly DeviceFacts[]): JsonObject {
  return {
    controller: {
      emulation_manager: controller.emulationManager,
      max_hotplug_devices: String(controller.hotplugDevicesMax),
      max_virt_net_devices: String(controller.devicesMax),
      max_virt_queues: String(controller.virtQueuesMax),
      max_tunnel_descriptors: String(controller.tunnelDescriptorsMax),
      supported_features: featureObject(controller.supportedFeatures),
      supported_virt_queue_types: bitObject(controller.queueTypes, (bit) => QUEUE_TYPES[bit]),
      supported_event_modes: bitObject(controller.eventModes, (bit) => EVENT_MODES[bit]),
    },
    devices: devices.map((device) => ({
      ...identityKeys(device),
      pci_vhca_id: hexUpper(device.pciVhcaId),
      pci_max_vfs: String(device.pciMaxVfs),
      enabled_vfs: String(device.enabledVfs),
      ...(device.vfPool === null ? {} : poolKeys(device.vfPool)),
      ...networkKeys(device),
    })),
  };
}

/** What of a device query shows. */
export interface QueryOptions {
  /** No virtqueues. */
  readonly brief: boolean;
  /** Only this virtqueue; null for all. */
  readonly queue: number | null;
  /** Adds each virtqueue's debug counters. */
  readonly dbgStats?: boolean;
}

/**
 * Answer of query. `devices` are those the request selected: none of one asked for by name is the guide's "doesn't
 * exist" (`all` false), and none of all is an empty list. Fails when no device has the virtqueue asked for.
 * `uplinks` are the TAPs behind these devices; they have only debug counters, and are no virtqueue.
 */
export function queryAnswer(
  devices: readonly DeviceFacts[],
  options: QueryOptions & { readonly all?: boolean },
  uplinks: readonly UplinkFacts[] = [],
): JsonObject | Outcome {
  if (devices.length === 0 && options.all !== true) return DEVICE_MISSING;
  const { queue } = options;
  if (queue !== null && devices.length > 0 && !devices.some((device) => isQueueIndex(queue, device)))
    return failure('QUEUE_IDX_INVALID');
  const withUplinks = options.dbgStats === true && !options.brief && queue === null && uplinks.length > 0;
  return {
    devices: devices.map((device) => queriedDevice(device, options)),
    ...(withUplinks ? { uplinks: uplinks.map(uplinkKeys) } : {}),
  };
}

function uplinkKeys({ ibDevice, tap, debug }: UplinkFacts): JsonObject {
  return { sf_parent_device: ibDevice, uplink_tap: tap, ...debug };
}

function isQueueIndex(queue: number, device: DeviceFacts): boolean {
  return Number.isInteger(queue) && queue >= 0 && queue < device.queueCount;
}

function queriedDevice(device: DeviceFacts, options: QueryOptions): JsonObject {
  return {
    ...identityKeys(device),
    pci_vhca_id: hexUpper(device.pciVhcaId),
    pci_max_vfs: String(device.pciMaxVfs),
    enabled_vfs: String(device.enabledVfs),
    pci_dev_id: hexLower(device.pciDeviceId),
    pci_vendor_id: hexLower(device.pciVendorId),
    pci_class_code: hexLower(device.pciClassCode),
    pci_subsys_id: hexLower(device.pciSubsystemId),
    pci_subsys_vendor_id: hexLower(device.pciSubsystemVendorId),
    pci_revision_id: String(device.pciRevisionId),
    device_feature: featureObject(device.deviceFeatures),
    driver_feature: featureObject(device.driverFeatures),
    status: statusObject(device.status),
    reset: device.resetting ? '1' : '0',
    enabled: device.enabled ? '1' : '0',
    ...networkKeys(device),
    ...(device.droppedFrames === null ? {} : { num_desc_drop_pkts: String(device.droppedFrames) }),
    ...(options.brief ? {} : { 'enabled-queues-info': shownQueues(device, options) }),
  };
}

function shownQueues(device: DeviceFacts, { queue, dbgStats }: QueryOptions): JsonObject[] {
  return device.queues
    .filter(({ enabled, index }) => enabled && (queue === null || index === queue))
    .map((facts) => ({ ...queueKeys(facts), ...(dbgStats === true ? facts.debug : {}) }));
}

/** Answer of health for one device. */
export function healthAnswer(facts: HealthFacts): JsonObject {
  return {
    pf_id: facts.pfId,
    ...(facts.vfId === null ? {} : { vf_id: facts.vfId }),
    type: facts.kind,
    vuid: facts.vuid,
    dev_status: statusObject(facts.status),
    health_status: facts.fatal ? 'Fatal' : 'Good',
    health_recover_counter: facts.recoverCount,
    dev_health_details: {
      control_plane_errors: inOrder(CONTROL_PLANE_ERRORS, facts.controlPlaneErrors),
      data_plane_errors: inOrder(DATA_PLANE_ERRORS, facts.dataPlaneErrors),
    },
    recovery: {
      last_cause: facts.recovery.lastCause ?? 'none',
      last_pause_ms: facts.recovery.lastPauseMs,
      max_pause_ms: facts.recovery.maxPauseMs,
      error: facts.recovery.error ?? 'none',
      datapath: facts.recovery.datapath,
    },
  };
}

/** Answer of version: the controller that runs and the one installed. Both without the leading `v`. */
export function versionAnswer(original: string, destination: string): Json {
  return [{ 'Original Controller': `v${original}` }, { 'Destination Controller': `v${destination}` }];
}

/** The devices a selector means, in the order given; none when it means one that does not exist. */
export function selectDevices<T extends Pick<DeviceIdentity, 'pfId' | 'vfId' | 'vuid'>>(
  devices: readonly T[],
  { all, pf, vf, vuid }: DeviceSelector,
): T[] {
  if (all) return [...devices];
  if (vuid !== null) return devices.filter((device) => device.vuid === vuid);
  return devices.filter((device) => device.pfId === pf && device.vfId === vf);
}

function identityKeys(device: DeviceFacts): JsonObject {
  return {
    ...(device.vfId === null ? { pf_id: device.pfId } : { vf_id: device.vfId, parent_pf_id: device.pfId }),
    function_type: device.kind,
    transitional: device.transitional ? 1 : 0,
    vuid: device.vuid,
    pci_bdf: device.bdf,
  };
}

function poolKeys(pool: VfPool): JsonObject {
  return {
    msix_num_pool_size: pool.msixFree,
    min_msix_num: pool.msixMin,
    max_msix_num: pool.msixMax,
    min_num_of_qp: pool.queuePairsMin,
    max_num_of_qp: pool.queuePairsMax,
    qp_pool_size: pool.queuePairsFree,
  };
}

/** The keys from `num_msix` to `dim`, which list and query share. */
function networkKeys(device: DeviceFacts): JsonObject {
  return {
    num_msix: String(device.msixVectors),
    num_queues: String(device.queueCount),
    enabled_queues: String(device.enabledQueueCount),
    max_queue_size: String(device.queueSizeMax),
    msix_config_vector: hexUpper(device.msixConfigVector),
    mac: device.mac.toUpperCase(),
    link_status: device.linkUp ? '1' : '0',
    max_queue_pairs: String(device.queuePairsMax),
    mtu: String(device.mtu),
    speed: String(device.speedMbps),
    rss_max_key_size: String(device.rssKeySizeMax),
    supported_hash_types: hexLower(device.supportedHashTypes),
    ctrl_mac: device.driverMac?.toUpperCase() ?? NO_MAC,
    ctrl_mq: String(device.driverQueuePairs),
    sf_num: device.sfNum,
    sf_parent_device: device.ibDevice,
    sf_parent_device_pci_addr: device.ibDevicePciAddress,
    sf_rep_net_device: device.representor,
    sf_rep_net_ifindex: device.representorIfindex,
    sf_rdma_device: device.sfRdmaDevice,
    sf_cross_mkey: hexUpper(device.sfCrossMkey),
    sf_vhca_id: hexUpper(device.sfVhcaId),
    sf_rqt_num: hexLower(0), // no receive queue table exists here; the guide's examples all show 0x0
    aarfs: device.aarfs ? 'enabled' : 'disabled',
    dim: device.dim ? 'enabled' : 'disabled',
  };
}

function queueKeys(queue: QueueFacts): JsonObject {
  return {
    index: String(queue.index),
    size: String(queue.size),
    msix_vector: hexUpper(queue.msixVector),
    enable: queue.enabled ? '1' : '0',
    notify_offset: String(queue.notifyOffset),
    descriptor_address: hexLower(queue.descriptorAddress),
    driver_address: hexLower(queue.driverAddress),
    device_address: hexLower(queue.deviceAddress),
    received_desc: String(queue.receivedDesc),
    completed_desc: String(queue.completedDesc),
    bad_desc_errors: String(queue.badDescErrors),
    error_cqes: String(queue.errorCqes),
    exceed_max_chain: String(queue.exceedMaxChain),
    invalid_buffer: String(queue.invalidBuffer),
    batch_number: String(queue.batchNumber),
    dma_q_used_number: String(queue.dmaQUsedNumber),
    handler_schd_number: String(queue.handlerSchdNumber),
    aux_handler_schd_number: String(queue.auxHandlerSchdNumber),
    max_post_desc_number: String(queue.maxPostDescNumber),
    total_bytes: String(queue.totalBytes),
    rq_cq_max_count: String(queue.rqCqMaxCount),
    rq_cq_period: String(queue.rqCqPeriod),
    rq_cq_period_mode: String(queue.rqCqPeriodMode),
  };
}

function statusObject(status: number): JsonObject {
  return bitObject(status, (bit) => STATUS_BITS[bit]);
}

function inOrder<K extends string>(names: readonly K[], counts: Readonly<Record<K, number>>): JsonObject {
  return Object.fromEntries(names.map((name) => [name, counts[name]]));
}
