/**
 * attached-function.ts: one life of the driver on a function: from its negotiation to the end of the connection.
 *
 * Theory
 *   Memory, rings and eventfds are made anew for every life; the TAP outlives them. All queue pairs are set up at the
 *   beginning, with buffers, so that using more or fewer of them later is one command to the function.
 *   The function is asked for every frame: which frames are the interface's is the kernel's to know, whatever address
 *   it was given meanwhile.
 *
 * Ownership
 *   Everything made here is given back by close(), which does not speak to the function.
 *
 * Limits  PAIRS_MAX, RING_ENTRIES_MAX.
 */
import {
  addSeals,
  close,
  eventfd,
  memfdCreate,
  type Poller,
  type SharedMapping,
  sharedMapping,
} from '@virtnet/host-linux';
import {
  ControlClass,
  ControlMq,
  ControlRx,
  Errno,
  hasFeature,
  NetFeature,
  NetHeader,
  Seal,
  VirtioFeature,
} from '@virtnet/wire';
import { COMMAND_BYTES_MAX, CONTROL_ENTRIES, ControlChannel, word } from './control-channel.js';
import { driverFeatures, takesSegments, tapOffloads } from './driver-features.js';
import { DriverRing, planRing, type RingPlan } from './driver-ring.js';
import { ReceivePath, TransmitPath } from './frame-paths.js';
import { PAIRS_MAX, RING_ENTRIES_MAX } from './limits.js';
import type { TapInterface } from './tap-interface.js';
import type { VirtioFunction } from './virtio-function.js';

/** Where the function finds our memory: above what anybody takes for a small number. */
const IOVA = 0x1_0000_0000n;
/** Ethernet header and two VLAN tags in front of the MTU. */
const LINK_HEADER_BYTES = 22;
const SEGMENT_BYTES = 65_535;
const QUEUES_PER_PAIR = 2;
const ETHERNET_MTU = 1500;

export interface AttachOptions {
  readonly fn: VirtioFunction;
  readonly tap: TapInterface;
  /** Queue pairs to use at the beginning. */
  readonly pairs: number;
  /** Signalled when the configuration changes. */
  readonly configFd: number;
  readonly poller: Poller;
  onTapLost(): void;
  onFault(reason: string): void;
}

interface Pair {
  readonly receive: ReceivePath;
  readonly transmitRing: DriverRing;
  transmit: TransmitPath | null;
}

/** Queue pairs that a function gives an interface. */
export function pairsOf({ profile }: VirtioFunction): number {
  const agreed = driverFeatures(profile.features) ?? 0n;
  if (!hasFeature(agreed, NetFeature.MQ)) return 1;
  return Math.min(profile.dataQueues >> 1, PAIRS_MAX);
}

/** MTU of the interface. */
export function mtuOf({ profile }: VirtioFunction): number {
  return hasFeature(profile.features, NetFeature.MTU) ? profile.mtuBytes : ETHERNET_MTU;
}

export class AttachedFunction {
  readonly #options: AttachOptions;
  readonly #features: bigint;
  readonly #mapping: SharedMapping;
  readonly #memory: number;
  readonly #sizeBytes: number;
  readonly #plans: readonly RingPlan[];
  readonly #controlPlan: RingPlan;
  /** Kick and call of each data queue, and the kick of the control queue. */
  readonly #eventfds: readonly number[];
  readonly #pairs: Pair[] = [];
  #control: ControlChannel | null = null;
  #used = 0;
  #open = true;

  private constructor(
    options: AttachOptions,
    features: bigint,
    plans: readonly RingPlan[],
    controlPlan: RingPlan,
  ) {
    this.#options = options;
    this.#features = features;
    this.#plans = plans;
    this.#controlPlan = controlPlan;
    this.#sizeBytes = controlPlan.end;
    this.#memory = memfdCreate('virtio-net', this.#sizeBytes);
    const mapping = this.#memory < 0 ? this.#memory : sharedMapping(this.#memory, this.#sizeBytes);
    if (typeof mapping === 'number') throw new Error(`no memory for the rings: errno ${-mapping}`);
    addSeals(this.#memory, Seal.SHRINK); // a standby looks ahead only at memory that stays
    this.#mapping = mapping;
    this.#eventfds = Array.from({ length: plans.length * 2 + 1 }, () => eventfd());
  }

  /** Brings the function to life. Its driver, or the negative errno of a refusal; rejects when the connection failed. */
  static async attach(options: AttachOptions): Promise<AttachedFunction | number> {
    const { profile } = options.fn;
    const features = driverFeatures(profile.features);
    if (features === null) return -Errno.EOPNOTSUPP;
    const size = Math.min(2 ** Math.floor(Math.log2(profile.queueSizeMax)), RING_ENTRIES_MAX);
    if (size < CONTROL_ENTRIES) return -Errno.EOPNOTSUPP;
    const plans: RingPlan[] = [];
    let at = 0;
    for (let queue = 0; queue < options.tap.fds.length * QUEUES_PER_PAIR; queue++) {
      const direction = queue % QUEUES_PER_PAIR === 0 ? 'receive' : 'transmit';
      const frame = takesSegments(features, direction) ? SEGMENT_BYTES : mtuOf(options.fn);
      const plan = planRing(size, NetHeader.sizeBytes + LINK_HEADER_BYTES + frame, at);
      plans.push(plan);
      at = plan.end;
    }
    const control = planRing(CONTROL_ENTRIES, COMMAND_BYTES_MAX, at);
    const attached = new AttachedFunction(options, features, plans, control);
    try {
      const errno = await attached.#start();
      if (errno === 0) return attached;
      attached.close();
      return errno;
    } catch (error) {
      attached.close();
      throw error;
    }
  }

  /** Queue pairs in use. */
  get pairs(): number {
    return this.#used;
  }

  get dropped(): number {
    return this.#pairs.reduce(
      (sum, { receive, transmit }) => sum + receive.counters.dropped + (transmit?.counters.dropped ?? 0),
      0,
    );
  }

  /** Uses the first `count` queue pairs. 0 or a negative errno: then nothing has changed. */
  async setPairs(count: number): Promise<number> {
    if (count === this.#used) return 0;
    if (hasFeature(this.#features, NetFeature.MQ)) {
      const errno = await this.#command(ControlClass.MQ, ControlMq.VQ_PAIRS_SET, word(count));
      if (errno < 0) return errno;
    } else if (count !== 1) return -Errno.EINVAL;
    if (!this.#open) return -Errno.ENOTCONN;
    for (const pair of this.#pairs.slice(count)) {
      pair.transmit?.close();
      pair.transmit = null;
    }
    const errno = this.#options.tap.use(count);
    if (errno < 0) return errno;
    for (const [index, pair] of this.#pairs.slice(0, count).entries())
      pair.transmit ??= new TransmitPath(this.#path(index * QUEUES_PER_PAIR + 1, pair.transmitRing));
    this.#used = count;
    return 0;
  }

  /** Stops moving frames and lets go of everything. */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    for (const { receive, transmit } of this.#pairs) {
      receive.close();
      transmit?.close();
    }
    for (const fd of this.#eventfds) close(fd);
    this.#mapping.close();
    close(this.#memory);
  }

  async #start(): Promise<number> {
    const { fn, tap, configFd, pairs } = this.#options;
    let errno = await fn.map(IOVA, this.#sizeBytes, this.#memory, 0);
    if (errno === 0) errno = await fn.initialise(this.#features, configFd);
    if (errno === 0 && hasFeature(this.#features, NetFeature.CTRL_VQ)) errno = await this.#startControl();
    for (const queue of this.#plans.keys()) if (errno === 0) errno = await this.#startQueue(queue);
    if (errno < 0) return errno;
    tap.setOffloads(tapOffloads(this.#features));
    for (let pair = 0; pair * QUEUES_PER_PAIR < this.#plans.length; pair++) {
      const receive = new ReceivePath(this.#path(pair * QUEUES_PER_PAIR, this.#ring(pair * QUEUES_PER_PAIR)));
      this.#pairs.push({ receive, transmitRing: this.#ring(pair * QUEUES_PER_PAIR + 1), transmit: null });
      receive.fill();
    }
    if (hasFeature(this.#features, NetFeature.CTRL_RX)) {
      errno = await this.#command(ControlClass.RX, ControlRx.PROMISC, Uint8Array.of(1));
      if (errno < 0) return errno;
    }
    return this.setPairs(Math.min(pairs, this.#pairs.length));
  }

  async #startControl(): Promise<number> {
    const { fn } = this.#options;
    const pairs = hasFeature(this.#features, NetFeature.MQ) ? fn.pairs : 1;
    const kickFd = this.#kickFd(this.#plans.length);
    this.#control = new ControlChannel(this.#mapping.buffer, IOVA, this.#controlPlan, kickFd);
    return this.#startRing(pairs * QUEUES_PER_PAIR, this.#controlPlan, kickFd, null);
  }

  #startQueue(queue: number): Promise<number> {
    return this.#startRing(queue, this.#plans[queue]!, this.#kickFd(queue), this.#callFd(queue));
  }

  #startRing(index: number, plan: RingPlan, kickFd: number, callFd: number | null): Promise<number> {
    const setup = {
      index,
      size: plan.size,
      base: 0,
      kickFd,
      callFd,
      enabled: null,
      features: this.#features,
      packed: false,
      descriptorAddress: IOVA + BigInt(plan.descriptorAt),
      driverAddress: IOVA + BigInt(plan.driverAt),
      deviceAddress: IOVA + BigInt(plan.deviceAt),
    };
    return this.#options.fn.startRing(setup, kickFd);
  }

  #ring(queue: number): DriverRing {
    return new DriverRing({
      buffer: this.#mapping.buffer,
      iova: IOVA,
      plan: this.#plans[queue]!,
      eventIdx: hasFeature(this.#features, VirtioFeature.EVENT_IDX),
      writable: queue % QUEUES_PER_PAIR === 0,
    });
  }

  #path(queue: number, ring: DriverRing) {
    const { poller, tap, onTapLost, onFault } = this.#options;
    return {
      ring,
      address: Number(this.#mapping.address),
      poller,
      tapFd: tap.fds[Math.floor(queue / QUEUES_PER_PAIR)]!,
      kickFd: this.#kickFd(queue),
      callFd: this.#callFd(queue),
      onTapLost,
      onFault,
    };
  }

  #kickFd(queue: number): number {
    return this.#eventfds[queue * 2]!;
  }

  #callFd(queue: number): number {
    return this.#eventfds[queue * 2 + 1]!;
  }

  #command(controlClass: number, command: number, data: Uint8Array): Promise<number> {
    return this.#control?.command(controlClass, command, data) ?? Promise.resolve(-Errno.EOPNOTSUPP);
  }
}
