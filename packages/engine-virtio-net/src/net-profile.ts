/** What the operator decides about a network device before a driver sees it. */
import {
  HASH_TYPES,
  hasFeature,
  MTU_MAX_BYTES,
  MTU_MIN_BYTES,
  QUEUE_COUNT_MAX,
  QUEUE_PAIRS_MAX,
  QUEUE_PAIRS_MIN,
  QUEUE_SIZE_MAX,
  SPEED_MAX_MBPS,
  VirtioFeature,
} from '@virtnet/wire';
import { featureProblems, SUPPORTED_FEATURES } from './features.js';
import { isStationMac, parseMac } from './mac-address.js';

export interface NetProfile {
  /** As text, e.g. 0C:C4:7A:FF:22:93. */
  readonly mac: string;
  /** Largest packet in bytes, Ethernet header excluded. */
  readonly mtu: number;
  /** 0: the device has no queues at all, and no driver can use it. */
  readonly maxQueuePairs: number;
  /** Entries; a power of two. */
  readonly maxQueueSize: number;
  /** Mb/s; null when not known. */
  readonly speedMbps: number | null;
  readonly offeredFeatures: bigint;
  /** Bits of HashType a driver may enable; they matter with HASH_REPORT and RSS. */
  readonly hashTypes: number;
}

/** Queues of a pair: receive and transmit. */
export const QUEUES_PER_PAIR = 2;

const within = (value: number, min: number, max: number): boolean =>
  Number.isInteger(value) && value >= min && value <= max;

/** Why no device can have this profile; empty when one can. */
export function profileProblems(profile: NetProfile): string[] {
  const problems: string[] = [];
  const mac = parseMac(profile.mac);
  if (mac === null || !isStationMac(mac)) problems.push(`mac ${profile.mac}`);
  if (!within(profile.mtu, MTU_MIN_BYTES, MTU_MAX_BYTES)) problems.push(`mtu ${profile.mtu}`);
  const pairsMax = Math.min(QUEUE_PAIRS_MAX, Math.floor((QUEUE_COUNT_MAX - 1) / QUEUES_PER_PAIR));
  if (profile.maxQueuePairs !== 0 && !within(profile.maxQueuePairs, QUEUE_PAIRS_MIN, pairsMax))
    problems.push(`${profile.maxQueuePairs} queue pairs`);
  const size = profile.maxQueueSize;
  if (!within(size, 1, QUEUE_SIZE_MAX) || (size & (size - 1)) !== 0) problems.push(`queue size ${size}`);
  if (profile.speedMbps !== null && !within(profile.speedMbps, 0, SPEED_MAX_MBPS))
    problems.push(`speed ${profile.speedMbps}`);
  if (!within(profile.hashTypes, 0, HASH_TYPES)) problems.push(`hash types ${profile.hashTypes}`);
  const unsupported = profile.offeredFeatures & ~SUPPORTED_FEATURES;
  if (unsupported !== 0n) problems.push(`unsupported features 0x${unsupported.toString(16)}`);
  if (!hasFeature(profile.offeredFeatures, VirtioFeature.VERSION_1))
    problems.push('VERSION_1 is not offered');
  problems.push(...featureProblems(profile.offeredFeatures, 'offered'));
  return problems;
}
