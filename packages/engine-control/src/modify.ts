/**
 * modify.ts: what `virtnet modify device` leads to.
 *
 * Theory
 *   All options of a command are judged together before anything is changed: a command is carried out whole or not at
 *   all. The outcome is a change, every value of it decided, or one error row. Some changes need a device that no
 *   driver holds, because a driver reads them once; some need a driver, because they are about queues or filters that
 *   do not exist without one; the others take effect at once.
 *
 * Invariants
 *   I1  a change that was planned can be carried out: what can still fail is the host.
 *   I2  an option without effect here is refused, never ignored.
 *
 * Limits
 *   Not here: the original's destination port rule and DMA queues.
 */
import {
  DeviceStatus,
  HASH_KEY_BYTES_MAX,
  HASH_TYPES,
  hasFeature,
  NetFeature,
  VirtioFeature,
} from '@virtnet/wire';
import { isQueuePairCount, isQueueSize, isStationAddress, isWithin } from './device-plan.js';
import { type ControlErrorName, type Failure, failure, isFailure, refusal } from './errors.js';
import { FunctionKind, type VfPool } from './facts.js';
import { featureProblem, parseFeatures } from './feature-names.js';
import { formatMac, hexLower, parseMac } from './format.js';
import { MTU_MAX, MTU_MIN, QUEUE_SIZE_MAX } from './limits.js';
import type { DeviceOption, DeviceOptions, QueueOptions } from './modify-request.js';
import { isQueueModeration, type QueueModeration } from './queue-moderation.js';
import { shareWarning, shareWithPairs, shareWithVectors, type VfShare } from './vf-pool.js';

/** Speeds a link may be given, in Mb/s. The original's list is not known: these are the usual ones of Ethernet. */
export const LINK_SPEEDS = [
  1000, 2500, 5000, 10_000, 25_000, 40_000, 50_000, 100_000, 200_000, 400_000, 800_000,
] as const;
export type LinkSpeed = (typeof LINK_SPEEDS)[number];
/** Commands of class CTRL_RX: promiscuous to no broadcast. */
export const RX_MODES = 0x3f;
const STATUS_BITS =
  DeviceStatus.ACKNOWLEDGE |
  DeviceStatus.DRIVER |
  DeviceStatus.DRIVER_OK |
  DeviceStatus.FEATURES_OK |
  DeviceStatus.NEEDS_RESET |
  DeviceStatus.FAILED;

/** What planning needs to know of a device. */
export interface ModifiableDevice {
  readonly kind: FunctionKind;
  /** Device status byte. */
  readonly status: number;
  /** Features agreed on with the driver; 0n before. */
  readonly driverFeatures: bigint;
  /** Features the device offers. */
  readonly deviceFeatures: bigint;
  /** Whether somebody holds the function, so that its PCI capabilities cannot change. */
  readonly connected: boolean;
  readonly share: VfShare;
}

/** What the place where the device lives can offer. */
export interface ModifySite {
  /** MTU in bytes of the device's uplink; null when that uplink has no network device. */
  readonly uplinkMtu: number | null;
  /** Features that a device can offer at all. */
  readonly supportedFeatures: bigint;
  /** Virtqueues of one device by the firmware. */
  readonly virtQueuesMax: number;
  /** The pool of the device's PF; null unless the device is a VF. */
  readonly pool: VfPool | null;
}

/** What is to become of a device. Absent: stays as it is. */
export interface DeviceChange {
  /** For the next driver. Empty when nothing of it changes. */
  readonly shape: {
    readonly mac?: string;
    readonly mtu?: number;
    readonly features?: string;
    readonly queueSize?: number;
    readonly queuePairs?: number;
    readonly msixVectors?: number;
  };
  /** For the next driver: bits of HashType it may enable. */
  readonly hashTypes?: number;
  readonly speedMbps?: number;
  readonly linkUp?: boolean;
  /** Take the device from its driver, or ask the driver to reset it. */
  readonly status?: 'reset' | 'needs-reset';
  /** A bit for each command of class CTRL_RX. */
  readonly rxMode?: number;
  readonly countSizes?: boolean;
  readonly countDrops?: boolean;
  /** For the next driver: dynamic moderation of interrupts. */
  readonly dim?: boolean;
  /** Whether the switch follows the device's flows. */
  readonly aarfs?: boolean;
  /** Moderation of interrupts of receive queues; null ends it. */
  readonly moderation?: QueueModeration | null;
  /** Carried out, and answered with this. */
  readonly warning?: ControlErrorName;
}

/** Options whose effect does not exist here. */
const UNSUPPORTED: readonly DeviceOption[] = ['dstPort', 'rxDmaQNum'];

/** Plans a change of one device, or says which rule the options break. */
export function planModify(
  options: DeviceOptions,
  device: ModifiableDevice,
  site: ModifySite,
): DeviceChange | Failure {
  if (Object.keys(options).length === 0) return refusal('EINVAL', 'no option says what to modify');
  if (options.aarfs !== undefined && device.kind === FunctionKind.VF) return failure('OPT_NOT_SUPPORTED');
  if (UNSUPPORTED.some((option) => options[option] !== undefined)) return failure('OPT_NOT_SUPPORTED');
  const shape = shapeOf(options, device, site);
  if (isFailure(shape)) return shape;
  const live = liveChange(options, device);
  if (isFailure(live)) return live;
  const held = (device.status & DeviceStatus.DRIVER) !== 0;
  const offered = shape.features === undefined ? device.deviceFeatures : BigInt(shape.features);
  const aboutHashes = options.supportedHashTypes !== undefined || options.rssMaxKeySize !== undefined;
  const hashes = hasFeature(offered, NetFeature.HASH_REPORT) || hasFeature(offered, NetFeature.RSS);
  if (aboutHashes && !hashes) return failure('OPT_NOT_SUPPORTED');
  const changesNext = Object.keys(shape).length > 0 || live.dim !== undefined || live.hashTypes !== undefined;
  if (changesNext && held) return failure('DRV_SHOULD_NOT_LOAD');
  if (shape.msixVectors !== undefined && device.connected) return failure('DRV_SHOULD_NOT_LOAD');
  const started = (device.status & DeviceStatus.DRIVER_OK) !== 0;
  const needsDriver = [options.rxMode, options.dropCounter, options.packetCounter];
  if (!started && needsDriver.some((option) => option !== undefined)) return failure('DEV_NOT_START');
  if (live.rxMode !== undefined && !hasFeature(device.driverFeatures, NetFeature.CTRL_RX))
    return failure('SF_RX_MODE_SET');
  const sharesAnew = shape.msixVectors !== undefined || shape.queuePairs !== undefined;
  const warning = sharesAnew ? shareWarning({ ...device.share, ...shape }) : null;
  return { shape, ...live, ...(warning === null ? {} : { warning }) };
}

/** Plans a change of how the interrupts of receive queues are moderated. Zeros: not at all. */
export function planModifyQueues({ periodMode, period, maxCount }: QueueOptions): DeviceChange | Failure {
  const moderation = { periodMode, period, maxCount };
  return isQueueModeration(moderation) ? { shape: {}, moderation } : failure('VQ_PERIOD_UPDATE');
}

/**
 * What a command answers whose change is in force but cannot be saved in the recovery file: the row of the file's keys
 * that it is about, address first, then queue pairs; another when it is about none of them.
 */
export function unsavedFailure({ mac, maxQueuePairs, msixNum }: DeviceOptions): Failure {
  if (mac !== undefined) return failure('REC_MAC_SAVE');
  return failure(maxQueuePairs !== undefined || msixNum !== undefined ? 'REC_MQ_SAVE' : 'REC_CONFIG_SAVE');
}

type Shape = DeviceChange['shape'];

function shapeOf(options: DeviceOptions, device: ModifiableDevice, site: ModifySite): Shape | Failure {
  const { mac, mtu, features, maxQueueSize } = options;
  const shape: { -readonly [K in keyof Shape]: Shape[K] } = {};
  if (mac !== undefined) {
    const bytes = parseMac(mac);
    if (bytes === null || !isStationAddress(bytes)) return failure('MAC_INVALID');
    shape.mac = formatMac(bytes);
  }
  if (mtu !== undefined) {
    if (!isWithin(mtu, MTU_MIN, Math.min(site.uplinkMtu ?? MTU_MAX, MTU_MAX))) return failure('MTU_INVALID');
    shape.mtu = mtu;
  }
  if (features !== undefined) {
    const mask = offeredMask(features, site.supportedFeatures);
    if (mask === null) return failure('DEV_FEATURE_VALIDATE');
    shape.features = hexLower(mask);
  }
  if (maxQueueSize !== undefined) {
    if (!isQueueSize(maxQueueSize))
      return failure(maxQueueSize > QUEUE_SIZE_MAX ? 'QUEUE_SIZE_INVALID' : 'QUEUE_SIZE_RULE');
    shape.queueSize = maxQueueSize;
  }
  const share = shareOf(options, device, site);
  return isFailure(share) ? share : { ...shape, ...share };
}

/** A mask that a device may offer; null when a bit is not supported, is missing, or lacks what it needs. */
function offeredMask(text: string, supported: bigint): bigint | null {
  const mask = parseFeatures(text);
  if (mask === null || (mask & ~supported) !== 0n) return null;
  return hasFeature(mask, VirtioFeature.VERSION_1) && featureProblem(mask) === null ? mask : null;
}

/** Vectors and queue pairs: a VF's out of its PF's pool; a PF's pairs within what the firmware gives it. */
function shareOf(
  { msixNum, maxQueuePairs }: DeviceOptions,
  device: ModifiableDevice,
  { pool, virtQueuesMax }: ModifySite,
): Pick<Shape, 'queuePairs' | 'msixVectors'> | Failure {
  if (msixNum !== undefined && maxQueuePairs !== undefined) return failure('QUEUES_INVALID');
  if (msixNum !== undefined) {
    if (device.kind !== FunctionKind.VF || pool === null) return failure('MSIX_INVALID');
    return shareWithVectors(pool, device.share, msixNum);
  }
  if (maxQueuePairs === undefined) return {};
  if (pool !== null) {
    const share = shareWithPairs(pool, device.share, maxQueuePairs);
    return isFailure(share) ? share : { queuePairs: share.queuePairs };
  }
  return isQueuePairCount(maxQueuePairs, virtQueuesMax)
    ? { queuePairs: maxQueuePairs }
    : failure('QUEUES_INVALID');
}

type Live = Omit<DeviceChange, 'shape' | 'warning'>;

/** Everything that does not wait for the next driver. */
function liveChange(options: DeviceOptions, device: ModifiableDevice): Live | Failure {
  const { speed, link, state, supportedHashTypes, rssMaxKeySize, rxMode } = options;
  const live: { -readonly [K in keyof Live]: Live[K] } = {};
  if (speed !== undefined) {
    if (!LINK_SPEEDS.includes(speed as LinkSpeed)) return failure('SPEED_INVALID');
    live.speedMbps = speed;
  }
  if (link !== undefined) {
    if (link !== 0 && link !== 1) return refusal('EINVAL', 'link is 0 (down) or 1 (up)');
    live.linkUp = link === 1;
  }
  if (state !== undefined) {
    const status = statusChange(state, device.status);
    if (typeof status === 'object') return status;
    if (status !== 'none') live.status = status;
  }
  if (rxMode !== undefined) {
    if (!isWithin(rxMode, 0, RX_MODES)) return refusal('EINVAL', `rx_mode is 0x0 to ${hexLower(RX_MODES)}`);
    live.rxMode = rxMode;
  }
  if (supportedHashTypes !== undefined && !isWithin(supportedHashTypes, 0, HASH_TYPES))
    return failure('HASH_TYPES_INVALID');
  if (rssMaxKeySize !== undefined && rssMaxKeySize !== HASH_KEY_BYTES_MAX)
    return failure('RSS_KEY_SIZE_INVALID');
  if (supportedHashTypes !== undefined) live.hashTypes = supportedHashTypes;
  const dim = options.dim ?? options.netDim;
  if (options.netDim !== undefined && options.netDim !== dim)
    return refusal('EINVAL', 'dim_config and net_dim_config are one setting and differ');
  if (dim !== undefined) live.dim = dim === 'enable';
  if (options.aarfs !== undefined) live.aarfs = options.aarfs === 'enable';
  if (options.packetCounter !== undefined) live.countSizes = options.packetCounter === 'enable';
  if (options.dropCounter !== undefined) live.countDrops = options.dropCounter === 'enable';
  return live;
}

/**
 * What a status asked for comes to. The driver's own bits are its own to set: they can be kept, or taken away all
 * together, which is a reset; the device's bit can be set.
 */
function statusChange(asked: number, status: number): 'reset' | 'needs-reset' | 'none' | Failure {
  if (!isWithin(asked, 0, 0xff) || (asked & ~STATUS_BITS) !== 0)
    return refusal('EINVAL', `state has bits that no device status has (those are ${hexLower(STATUS_BITS)})`);
  if (asked === status) return 'none';
  if (asked === 0) return 'reset';
  const started = (status & DeviceStatus.DRIVER_OK) !== 0;
  const onlyNeedsReset = asked === DeviceStatus.NEEDS_RESET || asked === (status | DeviceStatus.NEEDS_RESET);
  if (!onlyNeedsReset) return failure('OPT_NOT_SUPPORTED');
  return started ? 'needs-reset' : failure('DEV_NOT_START');
}
