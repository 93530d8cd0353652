/**
 * device-taps.ts: the representor of one function, a TAP device with one queue per queue pair.
 *
 * Theory
 *   The TAP is made once, at hotplug, with its final name, and lives as long as somebody holds one of its
 *   descriptors: this process, the standby and the state keeper. It never leaves its bridge when a process dies.
 *   Its carrier says whether a driver is there to receive and the link is up. Queues of pairs that the driver has
 *   not enabled are detached, so that the kernel steers no flow to them.
 *
 * Invariants
 *   I1  TUNSETOFFLOAD follows what the driver accepted, never what was offered; it is applied again on adoption.
 *   I2  queue 0 stays attached always: a TAP without an attached queue would lose its place in the steering.
 *   I3  after `close` no setting is made any more: the numbers may mean other files.
 */
import { close, openTap, setCarrier, setOffload, setQueueAttached } from '@virtnet/host-linux';
import { Errno, hasFeature, NetFeature, TunOffload } from '@virtnet/wire';

const NO_TAP = -1;

/** Offloads of a TAP that suit the driver's features: what the driver can receive. */
export function tapOffloads(features: bigint): number {
  if (!hasFeature(features, NetFeature.GUEST_CSUM)) return 0;
  let flags: number = TunOffload.CSUM;
  if (hasFeature(features, NetFeature.GUEST_TSO4)) flags |= TunOffload.TSO4;
  if (hasFeature(features, NetFeature.GUEST_TSO6)) flags |= TunOffload.TSO6;
  if (flags !== TunOffload.CSUM && hasFeature(features, NetFeature.GUEST_ECN)) flags |= TunOffload.TSO_ECN;
  return flags;
}

export class DeviceTaps {
  readonly name: string;
  /** One descriptor per queue pair. */
  fds: readonly number[];
  /** null: a predecessor knew. */
  #attached: (boolean | null)[];
  #carrier: boolean | null = null;
  #offloads: number | null = null;
  #closed = false;
  /** Settings the kernel refused. */
  errors = 0;

  /** Over queues that exist; `attached`: all of them are, as after their making. Absent: not known. */
  constructor(name: string, fds: readonly number[], { attached }: { attached?: true } = {}) {
    this.name = name;
    this.fds = fds;
    this.#attached = fds.map(() => attached ?? null);
  }

  /** Creates the TAP with one queue per pair; -errno when the kernel refuses. */
  static create(name: string, pairs: number): DeviceTaps | number {
    const fds = openTap(name, { queues: pairs });
    if (typeof fds === 'number') return fds;
    const taps = new DeviceTaps(name, fds, { attached: true });
    taps.setCarrier(false);
    return taps;
  }

  /** The representor of a function that has no TAP: nothing to set. */
  static none(name: string, pairs: number): DeviceTaps {
    const taps = new DeviceTaps(
      name,
      Array.from({ length: pairs }, () => NO_TAP),
    );
    taps.#closed = true;
    return taps;
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
   * Gives the TAP another number of queues. Returns the descriptors of queues that it has too many, detached and the
   * caller's to close; -errno when the kernel refuses, and then nothing has changed.
   */
  resize(pairs: number): readonly number[] | number {
    const more = pairs - this.fds.length;
    if (more <= 0) {
      const leaving = this.fds.slice(pairs);
      this.steer((pair) => pair < pairs && this.#attached[pair] !== false);
      this.fds = this.fds.slice(0, pairs);
      this.#attached = this.#attached.slice(0, pairs);
      return leaving;
    }
    const fds = openTap(this.name, { queues: more });
    if (typeof fds === 'number') return fds;
    this.#offloads = 0; // new queues begin without, and offloads are the device's
    this.fds = [...this.fds, ...fds];
    this.#attached = [...this.#attached, ...fds.map(() => true)];
    return [];
  }

  setCarrier(on: boolean): void {
    if (this.#closed || on === this.#carrier) return;
    if (setCarrier(this.fds[0]!, on) >= 0) this.#carrier = on;
    else this.errors++;
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const fd of this.fds) close(fd);
  }
}
