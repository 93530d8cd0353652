/**
 * uplink-monitor.ts: what the kernel says of the uplinks' network devices, followed for as long as devices are served.
 *
 * Theory
 *   Link and speed of a device are those of its uplink. The kernel is asked a few times a second, which costs a handful
 *   of system calls however many devices there are, and misses nothing that lasts. A change is told to every device at
 *   once, and what is known to one that joins. Every EVERYONE_LOOKS looks each device is compared with its uplink all
 *   the same: one that was moved, or given another shape, at the very moment of a change is right soon as well. More
 *   often would be most of what a thousand idle devices cost.
 *   An uplink without a network device is up and has no speed: there is nothing that could be down.
 *   The MTU of an uplink bounds the MTU a device may be given, and is read at that moment; a device that has an MTU
 *   keeps it, since a driver may rely on it (virtio 1.3, 5.1.4.1).
 *
 * Limits  LOOK_INTERVAL_MS until a change is seen; EVERYONE_LOOKS times that for a device that missed it.
 */
import { uplinksOf, type VirtnetConf } from '@virtnet/engine-control';
import { UPLINK_UNKNOWN, type UplinkState } from '@virtnet/engine-virtio-net';
import { getSpeed, interfaceFlags } from '@virtnet/host-linux';
import { InterfaceFlag } from '@virtnet/wire';

const LOOK_INTERVAL_MS = 250;
const EVERYONE_LOOKS = 8;
const UP = InterfaceFlag.UP | InterfaceFlag.RUNNING;

/** A device as far as its uplink is concerned. */
export interface UplinkFollower {
  readonly plan: { readonly ibDevice: string };
  followUplink(uplink: UplinkState): void;
}

/** State of a network device of this host as an uplink. */
export function readUplink(netDevice: string): UplinkState {
  const flags = interfaceFlags(netDevice);
  if (flags < 0) return UPLINK_UNKNOWN;
  return { up: (flags & UP) === UP, speedMbps: getSpeed(netDevice) };
}

export class UplinkMonitor {
  readonly #netDevices: ReadonlyMap<string, string>;
  readonly #followers: () => Iterable<UplinkFollower>;
  readonly #read: (netDevice: string) => UplinkState;
  readonly #states = new Map<string, UplinkState>(); // as many as there are uplinks
  #timer: NodeJS.Timeout | undefined;
  #looks = 0;

  constructor(conf: VirtnetConf, followers: () => Iterable<UplinkFollower>, read = readUplink) {
    this.#netDevices = new Map(uplinksOf(conf).map(({ ibDevice, netDevice }) => [ibDevice, netDevice]));
    this.#followers = followers;
    this.#read = read;
  }

  /** Looks now, and again and again. */
  start(): void {
    this.look();
    this.#timer ??= setInterval(() => this.look(), LOOK_INTERVAL_MS).unref();
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  /** Asks the kernel, and tells every device of a change. */
  look(): void {
    let everyone = this.#looks++ % EVERYONE_LOOKS === 0;
    for (const [ibDevice, netDevice] of this.#netDevices) {
      const former = this.#states.get(ibDevice);
      const state = this.#read(netDevice);
      this.#states.set(ibDevice, state);
      everyone ||= former?.up !== state.up || former.speedMbps !== state.speedMbps;
    }
    if (!everyone) return;
    for (const follower of this.#followers()) this.#tell(follower);
  }

  /** Tells a device that is new, when uplinks are followed already. */
  joined(follower: UplinkFollower): void {
    if (this.#timer !== undefined) this.#tell(follower);
  }

  #tell(follower: UplinkFollower): void {
    follower.followUplink(this.#states.get(follower.plan.ibDevice) ?? UPLINK_UNKNOWN);
  }
}
