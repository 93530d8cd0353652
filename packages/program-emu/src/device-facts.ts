/** What the command line's answers need of one device, read from the engines and the state page. */
import {
  type DeviceFacts,
  formatMac,
  type HealthFacts,
  NO_VF_POOL,
  type VfPool,
} from '@virtnet/engine-control';
import { ifIndex } from '@virtnet/host-linux';
import { DeviceStatus, PciHeader, QueueCounter, viewOf } from '@virtnet/wire';
import type { Probed } from './datapath-probe.js';
import { droppedFrames } from './device-counters.js';
import type { DeviceHost } from './device-host.js';
import { queueFacts } from './queue-facts.js';

const PCI_CLASS_ETHERNET = 0x020000;
const VIRTIO_VENDOR = 0x1af4;
const VIRTIO_NET_MODERN = 0x1041;

/** How a function presents itself on the bus. */
export interface PciFacts {
  readonly classCode: number;
  readonly vendorId: number;
  readonly deviceId: number;
  readonly revisionId: number;
}

export function pciFacts({ fn }: DeviceHost): PciFacts {
  const header = PciHeader.decode(viewOf(fn.readConfig(0, PciHeader.sizeBytes)));
  const { baseClass, subclass, programmingInterface, vendorId, deviceId, revision } = header;
  const classCode = (baseClass << 16) | (subclass << 8) | programmingInterface;
  return { classCode, vendorId, deviceId, revisionId: revision };
}

/** What a device's facts need that is not the device's own. */
export interface FactsContext {
  /** Called before what takes long among many devices. */
  readonly beat: () => void;
  /** Mb/s of the uplink's network device, null when there is none. */
  readonly uplinkSpeed: number | null;
  /** VFs the function may have, and has now. */
  readonly maxVfs: number;
  readonly enabledVfs: number;
  /** What its VFs share; null without VFs. */
  readonly vfPool: VfPool | null;
}

export function deviceFacts(host: DeviceHost, context: FactsContext): DeviceFacts {
  const { plan, fn, net } = host;
  const { hashLimits } = net;
  const loaded = (fn.status & DeviceStatus.DRIVER_OK) !== 0;
  return {
    kind: plan.kind,
    pfId: plan.pfId,
    vfId: plan.vfId,
    vuid: plan.vuid,
    bdf: plan.bdf,
    sfNum: plan.sfNum,
    transitional: false,
    pciVhcaId: plan.pciVhcaId,
    pciMaxVfs: context.maxVfs,
    enabledVfs: context.enabledVfs,
    vfPool:
      plan.vfId === null
        ? (context.vfPool ?? {
            ...NO_VF_POOL,
            msixMax: plan.msixVectors,
            queuePairsMax: Math.max(0, (plan.msixVectors - 2) >> 1),
          })
        : null,
    msixVectors: plan.msixVectors,
    queueCount: fn.queues.length,
    enabledQueueCount: fn.queues.filter((queue) => queue.enabled).length,
    queueSizeMax: plan.queueSize,
    msixConfigVector: fn.configVector,
    mac: plan.mac,
    linkUp: net.linkUp,
    queuePairsMax: plan.queuePairs,
    mtu: plan.mtu,
    speedMbps: net.speedMbps ?? context.uplinkSpeed ?? 0,
    rssKeySizeMax: hashLimits.keyBytes,
    supportedHashTypes: hashLimits.types,
    driverMac: loaded ? formatMac(net.currentMac) : null,
    driverQueuePairs: loaded ? receivingPairs(host) : 0,
    ibDevice: plan.ibDevice,
    ibDevicePciAddress: plan.ibDevicePciAddress,
    representor: plan.representor,
    representorIfindex: host.representor === 'tap' ? Math.max(0, ifIndex(plan.representor)) : 0,
    sfRdmaDevice: plan.sfRdmaDevice,
    sfCrossMkey: plan.sfCrossMkey,
    sfVhcaId: plan.sfVhcaId,
    aarfs: host.settings.aarfs,
    dim: host.settings.dim,
    pciDeviceId: VIRTIO_NET_MODERN,
    pciVendorId: VIRTIO_VENDOR,
    pciClassCode: PCI_CLASS_ETHERNET,
    pciSubsystemId: plan.subsystemId,
    pciSubsystemVendorId: plan.subsystemVendorId,
    pciRevisionId: 1,
    deviceFeatures: net.offeredFeatures,
    driverFeatures: fn.driverFeatures,
    status: fn.status,
    resetting: fn.queues.some((queue) => queue.resetting),
    enabled: fn.status !== 0,
    /** Worked out when somebody looks: a list of a thousand functions does not. */
    get queues() {
      context.beat();
      return fn.queues.map((_, index) => queueFacts(host, index));
    },
    droppedFrames: droppedFrames(host),
  };
}

/** Queue pairs that may be given frames. */
function receivingPairs({ taps, state }: DeviceHost): number {
  return taps.fds.filter((_, pair) => state.mayReceive(pair)).length;
}

/** `datapath`: what a probe has just found. */
export function healthFacts(host: DeviceHost, datapath: Probed): HealthFacts {
  const { plan, fn, health } = host;
  let spurious = 0;
  let stopped = 0;
  for (let index = 0; index < fn.queues.length; index++) {
    spurious += host.state.block(index).counters[QueueCounter.SPURIOUS_KICKS]!;
    stopped += host.state.broken.has(index) ? 1 : 0;
  }
  return {
    kind: plan.kind,
    pfId: plan.pfId,
    vfId: plan.vfId,
    vuid: plan.vuid,
    status: fn.status,
    fatal: host.quarantined || (fn.status & DeviceStatus.NEEDS_RESET) !== 0 || datapath.fault,
    recoverCount: health.recoveries,
    recovery: {
      lastCause: health.lastCause,
      lastPauseMs: health.lastPauseMs ?? 0,
      maxPauseMs: health.maxPauseMs ?? 0,
      error: health.error,
      datapath: datapath.text,
    },
    controlPlaneErrors: {
      sf_rqt_update_err: 0,
      sf_drop_create_err: 0,
      sf_tir_create_err: 0,
      steer_rx_domain_err: 0,
      steer_rx_table_err: 0,
      sf_flows_apply_err: host.taps.errors,
      aarfs_flow_init_err: 0,
      vlan_flow_init_err: 0,
      drop_cnt_config_err: 0,
    },
    dataPlaneErrors: {
      sq_stall: stopped + datapath.stalled,
      dma_q_stall: 0,
      spurious_db_invoke: spurious,
      aux_not_invoked: 0,
      dma_q_errors: 0,
      host_read_errors: 0,
    },
  };
}
