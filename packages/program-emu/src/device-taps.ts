/**
 * device-taps.ts: the representor of one function, a TAP device with up to one queue per queue pair.
 *
 * Theory
 *   The TAP is made once, at hotplug, with its final name, and lives as long as somebody holds one of its
 *   descriptors: this process, the standby and the state keeper. It never leaves its bridge when a process dies.
 *   Its carrier says whether a driver is there to receive and the link is up. Queue 0 is made with the TAP, the others
 *   when the driver first enables their pair: a thousand functions nobody uses hold a descriptor each and not sixty.
 *   Queues of pairs that are not enabled any more are detached, so that the kernel steers no flow to them.
 *   Whoever operates the host may rename the TAP, and move it to another network namespace. Its queues go with it. A later one
 *   is added under the name it has by then; in another namespace there can be none, and its pair is not worked.
 *
 * Invariants
 *   I1  TUNSETOFFLOAD follows what the driver accepted, never what was offered; it is applied again on adoption.
 *   I2  queue 0 stays attached always: a TAP without an attached queue would lose its place in the steering. It is
 *       there for a function without queue pairs as well.
 *   I3  after `close` no setting is made any more: the numbers may mean other files.
 */
import {
  addTapQueue,
  close,
  descriptorsAreScarce,
  openTap,
  setCarrier,
  setOffload,
  setQueueAttached,
} from '@virtnet/host-linux';
import { Errno, hasFeature, NetFeature, TunOffload } from '@virtnet/wire';

const NO_TAP = -1;

/** Queues the representor of a function with `pairs` queue pairs may have (I2). */
export function tapQueueCount(pairs: number): number {
  return Math.max(1, pairs);
}

/**
 * Offloads of a TAP that suit the driver's features: what the driver can receive. The kernel knows USO for both IP
 * versions together only, and refuses one alone: a driver that takes one is given segments of both.
 */
export function tapOffloads(features: bigint): number {
  const has = (feature: number) => hasFeature(features, feature);
  if (!has(NetFeature.GUEST_CSUM)) return 0;
  const { CSUM, TSO4, TSO6, TSO_ECN, USO4, USO6 } = TunOffload;
  const tso = (has(NetFeature.GUEST_TSO4) ? TSO4 : 0) | (has(NetFeature.GUEST_TSO6) ? TSO6 : 0);
  const ecn = tso !== 0 && has(NetFeature.GUEST_ECN) ? TSO_ECN : 0;
  const uso = has(NetFeature.GUEST_USO4) && has(NetFeature.GUEST_USO6) ? USO4 | USO6 : 0;
  return CSUM | tso | ecn | uso;
}

/** What is said when open() comes back with `-errno`. */
export const refusalOf = (error: number): string =>
  error === -Errno.ENODEV
    ? 'a queue pair is not worked: its representor is in another network namespace, where it gets no more queues'
    : 'a queue pair is not worked: its representor gets no more queues';

export class DeviceTaps {
  readonly name: string;
  /** One descriptor per queue pair; -1 where the queue was not needed yet. */
  fds: number[];
  /** null: a predecessor knew. */
  #attached: (boolean | null)[];
  #carrier: boolean | null = null;
  #offloads: number | null = null;
  #closed = false;
  /** Settings the kernel refused. */
  errors = 0;
  /** Why it refused a queue, by pair. */
  readonly #refused = new Map<number, number>();

  /** Over queues that exist; `attached`: all of them are, as after their making. Absent: not known. */
  constructor(name: string, fds: readonly number[], { attached }: { attached?: true } = {}) {
    this.name = name;
    this.fds = [...fds];
    this.#attached = fds.map(() => attached ?? null);
  }

  /** Creates the TAP with its first queue and room for one per pair; -errno when the kernel refuses. */
  static create(name: string, pairs: number): DeviceTaps | number {
    const fds = openTap(name, { queues: 1 });
    if (typeof fds === 'number') return fds;
    const taps = new DeviceTaps(name, filled(fds, pairs), { attached: true });
    taps.setCarrier(false);
    return taps;
  }

  /** The representor of a function that has no TAP: nothing to set. */
  static none(name: string, pairs: number): DeviceTaps {
    const taps = new DeviceTaps(name, filled([], pairs));
    taps.#closed = true;
    return taps;
  }

  /** Over the queues of a TAP that a former function left. Those that are too many are closed. */
  static reuse(name: string, fds: readonly number[], pairs: number): DeviceTaps {
    const most = tapQueueCount(pairs);
    for (const fd of fds.slice(most)) if (fd >= 0) close(fd);
    const taps = new DeviceTaps(name, filled(fds, pairs));
    taps.setCarrier(false);
    return taps;
  }

  /**
   * Makes the queue of `pair` if there is none yet; returns its descriptor if it did, -errno (addTapQueue) if the kernel
   * refuses, and null when there is nothing to do, or it refuses that once more for the same reason.
   */
  open(pair: number): number | null {
    if (this.#closed || this.fds[pair] !== NO_TAP) return null;
    const fd = descriptorsAreScarce() ? -Errno.EMFILE : addTapQueue(this.fds[0]!);
    if (fd < 0) {
      this.errors++;
      if (this.#refused.get(pair) === fd) return null;
      this.#refused.set(pair, fd);
      return fd;
    }
    this.#refused.delete(pair);
    this.fds[pair] = fd;
    this.#attached[pair] = true;
    return fd;
  }

  /** Applies the offloads the driver's features allow; 0 or -errno. */
  applyOffloads(features: bigint): number {
    const flags = tapOffloads(features);
    if (this.#closed || flags === this.#offloads) return 0;
    const result = setOffload(this.fds[0]!, flags);
    if (result >= 0) this.#offloads = flags;
    else this.errors++;
    return result;
  }

  /** Attaches the queues of the pairs that may receive, detaches the others (I2). */
  steer(enabled: (pair: number) => boolean): void {
    if (this.#closed) return;
    for (let pair = 1; pair < this.fds.length; pair++) {
      if (this.fds[pair]! < 0) continue;
      const wanted = enabled(pair);
      const before = this.#attached[pair];
      if (wanted === before) continue;
      const result = setQueueAttached(this.fds[pair]!, wanted);
      // The kernel refuses what is so already, which somebody who does not know has to be able to ask for.
      if (result >= 0 || (before === null && result === -Errno.EINVAL)) this.#attached[pair] = wanted;
      else this.errors++;
    }
  }

  /**
   * Gives the TAP room for another number of queues, made when they are needed. Returns the descriptors of queues that
   * it has too many, detached and the caller's to close.
   */
  resize(pairs: number): readonly number[] {
    const most = tapQueueCount(pairs);
    const leaving = this.fds.slice(most).filter((fd) => fd >= 0);
    if (leaving.length > 0) this.steer((pair) => pair < most && this.#attached[pair] !== false);
    this.fds = filled(this.fds, pairs);
    this.#attached = this.fds.map((_, pair) => this.#attached[pair] ?? null);
    return leaving;
  }

  setCarrier(on: boolean): void {
    if (this.#closed || on === this.#carrier) return;
    if (setCarrier(this.fds[0]!, on) >= 0) this.#carrier = on;
    else this.errors++;
  }

  close(): void {
    for (const fd of this.release()) if (fd >= 0) close(fd);
  }

  /** Lets go of the descriptors without closing them; they are the caller's. */
  release(): readonly number[] {
    if (this.#closed) return [];
    this.#closed = true;
    return this.fds;
  }
}

function filled(fds: readonly number[], pairs: number): number[] {
  return Array.from({ length: tapQueueCount(pairs) }, (_, pair) => fds[pair] ?? NO_TAP);
}
