/**
 * net-device.ts: a virtio network device without its queues: configuration, features, and what the driver has set.
 *
 * Theory
 *   The profile is the operator's word and outlives resets. Features and control state are the driver's word: they
 *   begin with acceptFeatures and end with reset. The device configuration is worked out from both whenever it is read.
 *   Commands of the control queue are executed by control-queue.ts, which gives this object a new control state.
 *
 * Parties
 *   transport  (PCI function) reads configuration, agrees on features, resets. Sees this class as a VirtioDevice.
 *   program    sets the link, asks for an announcement, and raises the configuration interrupt when told to.
 *   uplink     the device's way out of the host: the link is up while both the operator and the uplink have it up, and
 *              its speed is the device's where the operator has set none.
 *
 * Invariants
 *   I1  features is a subset of what is offered and has no feature without what it needs.
 *   I2  every configuration field can be read before features are agreed on; fields of features not offered are 0.
 *   I3  restore changes either everything or nothing.
 *   I4  the speed that a driver reads, which agreed on both it and the link's status, stays while the link is up: a new
 *       one is there when the link comes up again, or after a reset.
 *
 * Saved   features, link, uplink, the speed shown, announcement, control state. Not the profile.
 * Limits  limits.ts.
 * Spec    virtio 1.3, 5.1.
 */
import {
  Duplex,
  HASH_KEY_BYTES_MAX,
  hasFeature,
  hex64,
  NetConfig,
  NetFeature,
  NetStatus,
  PlainReader,
  RSS_TABLE_ENTRIES_MAX,
  SPEED_MAX_MBPS,
  SPEED_UNKNOWN,
  VIRTIO_ID_NET,
} from '@virtnet/wire';
import { type Coalescing, coalescingOf, withoutQueue } from './coalescing.js';
import {
  type ControlState,
  initialControlState,
  parseControlState,
  type SavedControlState,
  saveControlState,
} from './control-state.js';
import { featureProblems, withoutOrphans } from './features.js';
import type { HashSettings } from './flow-hash.js';
import { parseMac } from './mac-address.js';
import { type NetProfile, profileProblems, QUEUES_PER_PAIR } from './net-profile.js';
import type { ReceiveFilterState } from './receive-filter.js';
import { namesPair, type RssSettings } from './receive-steering.js';

/** What a virtqueue is for under the features agreed on. */
export type QueueRole = 'receive' | 'transmit' | 'control' | 'unused';

/** What the driver sees of the uplink. */
export interface UplinkState {
  readonly up: boolean;
  /** Mb/s; null when not known. */
  readonly speedMbps: number | null;
}

/** Without a network device behind it an uplink cannot be down. */
export const UPLINK_UNKNOWN: UplinkState = { up: true, speedMbps: null };

/** What `NetDevice.save` returns: plain data. */
export interface NetDeviceState {
  readonly features: string;
  /** As the operator has set it. */
  readonly linkUp: boolean;
  readonly uplink: UplinkState;
  /** What the driver reads, Mb/s; null: that it is not known. */
  readonly shownSpeedMbps: number | null;
  readonly announcing: boolean;
  readonly control: SavedControlState;
}

export class NetDevice {
  readonly deviceType = VIRTIO_ID_NET;
  readonly configBytes = NetConfig.sizeBytes;
  profile: NetProfile;
  /** What the driver has set; replaced as a whole by control commands. */
  control: ControlState;

  readonly #mac: Uint8Array;
  #features = 0n;
  #linkUp = true;
  #uplink = UPLINK_UNKNOWN;
  #shownSpeedMbps: number | null;
  #announcing = false;

  /** Throws RangeError when no device can have this profile. */
  constructor(profile: NetProfile) {
    const problems = profileProblems(profile);
    const mac = parseMac(profile.mac);
    if (problems.length > 0 || mac === null) throw new RangeError(problems.join('; '));
    this.profile = profile;
    this.#mac = mac;
    this.#shownSpeedMbps = profile.speedMbps;
    this.control = initialControlState(mac, 0n);
  }

  get offeredFeatures(): bigint {
    return this.profile.offeredFeatures;
  }

  /** Features agreed on; 0n before. */
  get features(): bigint {
    return this.#features;
  }

  /** Whether this feature is agreed on. */
  has(bit: number): boolean {
    return hasFeature(this.#features, bit);
  }

  get queueSizeMax(): number {
    return this.profile.maxQueueSize;
  }

  get queueCount(): number {
    if (this.profile.maxQueuePairs === 0) return 0;
    const control = hasFeature(this.offeredFeatures, NetFeature.CTRL_VQ) ? 1 : 0;
    return this.profile.maxQueuePairs * QUEUES_PER_PAIR + control;
  }

  /** Queue pairs that exist under the features agreed on (5.1.2). */
  get queuePairs(): number {
    return this.has(NetFeature.MQ) || this.has(NetFeature.RSS) ? this.profile.maxQueuePairs : 1;
  }

  /** Queue pairs the driver has put to use; with RSS, those it may transmit with. */
  get activePairs(): number {
    return this.control.activePairs;
  }

  /** Whether the driver may be given frames in the receive queue of a pair. */
  mayReceive(pair: number): boolean {
    const { rss, activePairs } = this.control;
    return rss === null ? pair < activePairs : namesPair(rss, pair);
  }

  /** Index of the control queue; null without one (5.1.2). */
  get controlQueueIndex(): number | null {
    return this.has(NetFeature.CTRL_VQ) ? this.queuePairs * QUEUES_PER_PAIR : null;
  }

  roleOf(queue: number): QueueRole {
    if (queue === this.controlQueueIndex) return 'control';
    if (queue < 0 || queue >= this.queuePairs * QUEUES_PER_PAIR) return 'unused';
    return queue % QUEUES_PER_PAIR === 0 ? 'receive' : 'transmit';
  }

  /** Address in effect: the profile's until the driver sets another. */
  get currentMac(): Uint8Array {
    return Uint8Array.from(this.control.mac);
  }

  /** Mb/s; null when not known. A driver may read the former one until the link comes up again. */
  get speedMbps(): number | null {
    return this.profile.speedMbps ?? this.#uplink.speedMbps;
  }

  /**
   * Shows the driver the speed, unless the link was up before and still is (5.1.4.1); true when the configuration
   * changed, so that the driver is to be told.
   */
  #showSpeed(wasUp: boolean): boolean {
    const { SPEED_DUPLEX, STATUS } = NetFeature;
    if (wasUp && this.linkUp && this.has(SPEED_DUPLEX) && this.has(STATUS)) return false;
    const changed = this.#shownSpeedMbps !== this.speedMbps;
    this.#shownSpeedMbps = this.speedMbps;
    return changed && hasFeature(this.offeredFeatures, SPEED_DUPLEX);
  }

  /** Whether the link is not what it was, and drivers can read that. */
  #linkTurned(wasUp: boolean): boolean {
    return wasUp !== this.linkUp && hasFeature(this.offeredFeatures, NetFeature.STATUS);
  }

  /** Whether operator and uplink both have the link up. */
  get linkUp(): boolean {
    return this.#linkUp && this.#uplink.up;
  }

  /** The link as the operator has set it. */
  get linkWanted(): boolean {
    return this.#linkUp;
  }

  /** Sets the link; true when the configuration changed, so that the driver is to be told. */
  setLinkUp(up: boolean): boolean {
    const wasUp = this.linkUp;
    this.#linkUp = up;
    const shown = this.#showSpeed(wasUp);
    return shown || this.#linkTurned(wasUp);
  }

  get uplink(): UplinkState {
    return this.#uplink;
  }

  /** The uplink is like this now; true when the configuration changed, so that the driver is to be told. */
  setUplink(uplink: UplinkState): boolean {
    const wasUp = this.linkUp;
    this.#uplink = { up: uplink.up, speedMbps: uplink.speedMbps };
    const shown = this.#showSpeed(wasUp);
    return shown || this.#linkTurned(wasUp);
  }

  /** Sets the speed in Mb/s; true when the configuration changed, so that the driver is to be told. */
  setSpeed(speedMbps: number): boolean {
    this.profile = { ...this.profile, speedMbps };
    return this.#showSpeed(this.linkUp);
  }

  /** Whether the driver was asked to announce itself and has not acknowledged. */
  get announcing(): boolean {
    return this.#announcing;
  }

  /** Asks the driver to announce itself; true when the configuration changed, false when it did not agree to this. */
  announce(): boolean {
    if (this.#announcing || !this.has(NetFeature.GUEST_ANNOUNCE)) return false;
    this.#announcing = true;
    return true;
  }

  /** The driver has announced itself; true when the configuration changed. */
  announced(): boolean {
    const changed = this.#announcing;
    this.#announcing = false;
    return changed;
  }

  /** Offloads that may be used on received frames: those switched on that also have what they need. */
  receiveOffloads(): bigint {
    return withoutOrphans(this.control.offloads);
  }

  /** How seldom the driver wants to be notified of a data queue; zeros: of every frame. */
  coalescing(queue: number): Coalescing {
    return coalescingOf(this.control.coalescing, queue);
  }

  /** What a driver may ask for of hashes: bits of HashType, and bytes of key; 0 where they are not offered. */
  get hashLimits(): { readonly types: number; readonly keyBytes: number } {
    const offered = offersHashes(this.offeredFeatures);
    return offered
      ? { types: this.profile.hashTypes, keyBytes: HASH_KEY_BYTES_MAX }
      : { types: 0, keyBytes: 0 };
  }

  /** What the datapath needs to hash received frames; null when the driver takes no hashes. Plain data, the same while so. */
  hashSettings(): HashSettings | null {
    return this.has(NetFeature.HASH_REPORT) ? this.control.hash : null;
  }

  /** What the datapath needs to find a frame's receive queue; null: steering is automatic. Plain data, the same while so. */
  rssSettings(): RssSettings | null {
    return this.control.rss;
  }

  /** A queue was reset: what the driver had set for it alone is gone. */
  queueReset(queue: number): void {
    this.control = { ...this.control, coalescing: withoutQueue(this.control.coalescing, queue) };
  }

  /** What the datapath needs to filter received frames; null when the driver agreed to no filter. Plain data. */
  filterState(): ReceiveFilterState | null {
    const { modes, mac, unicast, multicast, vlans } = this.control;
    const filtered = this.has(NetFeature.CTRL_RX);
    if (!filtered && vlans === null) return null;
    return {
      ...modes,
      promiscuous: filtered && modes.promiscuous,
      allUnicast: !filtered || modes.allUnicast || unicast.overflow,
      allMulticast: !filtered || modes.allMulticast || multicast.overflow,
      mac: Uint8Array.from(mac),
      unicast: Uint8Array.from(unicast.addresses),
      multicast: Uint8Array.from(multicast.addresses),
      // Each receive queue is told of them: copied to another thread, numbers of an array take fifteen times as long.
      vlans: vlans === null ? null : Uint16Array.from(vlans).sort(),
    };
  }

  /** Why a driver cannot accept this set; empty when it can. */
  featureProblems(features: bigint): string[] {
    const notOffered = features & ~this.offeredFeatures;
    const problems = featureProblems(features, 'accepted');
    if (notOffered !== 0n) problems.push(`not offered: 0x${notOffered.toString(16)}`);
    return problems;
  }

  /** The driver's features, judged before. */
  acceptFeatures(features: bigint): void {
    this.#features = features;
    this.#showSpeed(this.linkUp);
    this.#announcing = false;
    this.control = initialControlState(this.#mac, features);
  }

  /** Forgets what the driver said; profile and link stay. */
  reset(): void {
    this.acceptFeatures(0n);
  }

  /** Exactly `count` bytes of the device configuration (5.1.4); 0 behind its end. */
  readConfig(offset: number, count: number): Uint8Array {
    const bytes = new Uint8Array(count);
    bytes.set(this.#config().subarray(offset, offset + count));
    return bytes;
  }

  /** Drivers of modern devices must not write the configuration (5.1.4.2): nothing changes. */
  writeConfig(_offset: number, _bytes: Uint8Array): boolean {
    return false;
  }

  #config(): Uint8Array {
    const { mac } = this.control;
    const { mtu, maxQueuePairs } = this.profile;
    const { hashLimits } = this;
    const speedMbps = this.#shownSpeedMbps;
    const offers = (bit: number): boolean => hasFeature(this.offeredFeatures, bit);
    const status = (this.linkUp ? NetStatus.LINK_UP : 0) | (this.#announcing ? NetStatus.ANNOUNCE : 0);
    const hasMac = offers(NetFeature.MAC);
    const hasSpeed = offers(NetFeature.SPEED_DUPLEX);
    return NetConfig.bytes({
      mac0: hasMac ? mac[0]! : 0,
      mac1: hasMac ? mac[1]! : 0,
      mac2: hasMac ? mac[2]! : 0,
      mac3: hasMac ? mac[3]! : 0,
      mac4: hasMac ? mac[4]! : 0,
      mac5: hasMac ? mac[5]! : 0,
      status: offers(NetFeature.STATUS) ? status : 0,
      maxVirtqueuePairs: offers(NetFeature.MQ) || offers(NetFeature.RSS) ? maxQueuePairs : 0,
      mtu: offers(NetFeature.MTU) ? mtu : 0,
      speed: hasSpeed ? (speedMbps ?? SPEED_UNKNOWN) : 0,
      duplex: hasSpeed ? (speedMbps === null ? Duplex.UNKNOWN : Duplex.FULL) : 0,
      rssMaxKeySize: hashLimits.keyBytes,
      rssMaxIndirectionTableLength: offers(NetFeature.RSS) ? RSS_TABLE_ENTRIES_MAX : 0,
      supportedHashTypes: hashLimits.types,
      supportedTunnelTypes: 0,
    });
  }

  save(): NetDeviceState {
    return {
      features: hex64(this.#features),
      linkUp: this.#linkUp,
      uplink: this.#uplink,
      shownSpeedMbps: this.#shownSpeedMbps,
      announcing: this.#announcing,
      control: saveControlState(this.control),
    };
  }

  /**
   * Takes over a saved state. Returns the problems of a state that cannot be taken over; then nothing has changed.
   * Never throws.
   */
  restore(value: unknown): readonly string[] {
    const reader = new PlainReader();
    const fields = reader.object(value, 'net');
    const features = reader.hex64(fields.features, 'features');
    for (const problem of this.featureProblems(features)) reader.problem('features', problem);
    const linkUp = reader.boolean(fields.linkUp, 'linkUp');
    const uplink = parseUplink(fields.uplink, reader);
    // A record of before it was kept is of a device that showed its speed at once.
    const shown =
      fields.shownSpeedMbps === undefined
        ? (this.profile.speedMbps ?? uplink.speedMbps)
        : parseSpeed(fields.shownSpeedMbps, 'shownSpeedMbps', reader);
    const announcing = reader.boolean(fields.announcing, 'announcing');
    if (announcing && !hasFeature(features, NetFeature.GUEST_ANNOUNCE))
      reader.problem('announcing', 'not agreed on');
    const control = parseControlState(fields.control, features, this.profile.maxQueuePairs, reader);
    if (reader.problems.length > 0) return reader.problems;
    this.#features = features;
    this.#linkUp = linkUp;
    this.#uplink = uplink;
    this.#shownSpeedMbps = shown;
    this.#announcing = announcing;
    this.control = control;
    return [];
  }
}

/** Whether a driver can ask for hashes of frames, be it for itself or for the choice of the queue. */
function offersHashes(features: bigint): boolean {
  return hasFeature(features, NetFeature.HASH_REPORT) || hasFeature(features, NetFeature.RSS);
}

/** A record of before uplinks were followed has none. */
function parseUplink(value: unknown, reader: PlainReader): UplinkState {
  if (value === undefined) return UPLINK_UNKNOWN;
  const fields = reader.object(value, 'uplink');
  const up = reader.boolean(fields.up, 'uplink.up');
  return { up, speedMbps: parseSpeed(fields.speedMbps, 'uplink.speedMbps', reader) };
}

function parseSpeed(value: unknown, path: string, reader: PlainReader): number | null {
  return value === null ? null : reader.integer(value, path, 0, SPEED_MAX_MBPS);
}
