/**
 * switching.ts: what a worker has instead of TAPs: its switch domains, and the ends of the line for measuring.
 *
 * Theory
 *   A function whose representor is the eswitch has a port of its domain. The port belongs to the function, not to its
 *   queues: it is opened with the first of them and closed when the function leaves the worker, so that a queue that is
 *   configured anew loses nothing the switch has learned. All queues of a domain are on one worker (datapath.ts), so
 *   everything here is plain memory of this thread.
 *
 * Parties
 *   loop   attaches and detaches queues, calls begin() and flush() of an entry's domain around its poll.
 *   main   says which functions are in which domain, and which TAP is a domain's uplink.
 *
 * Invariants
 *   I1  a port number belongs to one function of its domain at a time.
 *
 * Limits  UPLINK_PORT functions a domain; scratch.ts for the memory.
 */
import { getRandomValues } from 'node:crypto';
import {
  LoopPort,
  SinkPort,
  SourcePort,
  SwitchDomain,
  SwitchedReceiveQueue,
  SwitchPort,
  UPLINK_PORT,
} from '@virtnet/engine-eswitch';
import {
  type FramePort,
  type QueueOptions,
  ReceiveFilter,
  ReceiveQueue,
  SpreadReceiveQueue,
  TransmitQueue,
} from '@virtnet/engine-virtio-net';
import { PrivateBuffers, type WorkedQueue } from '@virtnet/engine-virtqueue';
import { hasFeature, NetFeature, type QueueBlock } from '@virtnet/wire';
import type { QueueConfig, SwitchedConfig } from './datapath-protocol.js';
import type { Scratch } from './scratch.js';
import { SteeredTap, Uplink } from './tap-reader.js';

/** Functions in loop mode share a domain of their own; no frame is switched there. */
const LOOP_DOMAIN = -1;
/** A function with a TAP whose driver steers has one for itself; that of device n is this minus n. */
const STEERED_DOMAIN = -2;
const MS_PER_SECOND = 1000;
const secondsNow = (): number => Math.floor(performance.now() / MS_PER_SECOND);

interface Domain {
  readonly switch: SwitchDomain;
  readonly ports: (number | null)[];
  uplink: Uplink | null;
}

/** A queue as the loop works it. */
export interface SwitchedQueue {
  readonly queue: WorkedQueue;
  /** Domain to flush after the queue was polled; null: none. */
  readonly domain: SwitchDomain | null;
}

export class Switching {
  readonly #scratch: Scratch;
  readonly #settled: (slot: number) => void;
  readonly #mark: number;
  readonly #domains = new Map<number, Domain>();
  /** Domain and port of each function, by the device's number. */
  readonly #ports = new Map<number, { readonly domain: Domain; readonly port: number }>();
  #sink: SinkPort | null = null;
  /** Of all sources. */
  #sources: PrivateBuffers | null = null;

  /** `settled`: the receive queue in this slot was given frames. `mark`: with what queues are marked meanwhile. */
  constructor(scratch: Scratch, settled: (slot: number) => void, mark: number) {
    this.#scratch = scratch;
    this.#settled = settled;
    this.#mark = mark;
  }

  /** Makes the queue of a function without a TAP. */
  open(
    device: number,
    slot: number,
    config: QueueConfig,
    switched: SwitchedConfig,
    options: Omit<QueueOptions, 'port'>,
  ): SwitchedQueue {
    const filter = config.filter === null ? null : new ReceiveFilter(config.filter);
    const { active, countSizes, hash, rss, follows } = config;
    const receive = { ...options, active, filter, countSizes, hash };
    const pair = config.queue >> 1;
    if (switched.mode === 'sink' || switched.mode === 'source') {
      const port = this.#diagnosticPort(switched);
      const Receive = hasFeature(config.features, NetFeature.MRG_RXBUF) ? SpreadReceiveQueue : ReceiveQueue;
      const queue =
        config.direction === 'transmit'
          ? new TransmitQueue({ ...options, port })
          : new Receive({ ...receive, port });
      return { queue, domain: null };
    }
    const loop = switched.mode === 'loop';
    const { domain, port } = this.#portOf(device, loop ? LOOP_DOMAIN : switched.domain);
    if (config.direction === 'transmit') {
      const sender = loop
        ? new LoopPort(domain.switch, port, pair)
        : new SwitchPort(domain.switch, port, pair, options.block);
      return { queue: new TransmitQueue({ ...options, port: sender }), domain: domain.switch };
    }
    const queue = new SwitchedReceiveQueue({ ...receive, rss, follows, slot, mark: this.#mark });
    domain.switch.attach(port, pair, queue);
    return { queue, domain: null };
  }

  /** Makes a receive queue of a function with a TAP whose driver steers: it is given frames, from any queue of the TAP. */
  openSteered(
    device: number,
    slot: number,
    config: QueueConfig,
    options: Omit<QueueOptions, 'port'>,
  ): WorkedQueue {
    const filter = config.filter === null ? null : new ReceiveFilter(config.filter);
    const { active, countSizes, hash, rss } = config;
    const mark = this.#mark;
    const queue = new SwitchedReceiveQueue({ ...options, active, filter, countSizes, hash, rss, slot, mark });
    const { domain, port } = this.#portOf(device, STEERED_DOMAIN - device);
    domain.switch.attach(port, config.queue >> 1, queue);
    return queue;
  }

  /** What reads one queue of its TAP. */
  steeredTap(device: number, fd: number, block: QueueBlock): SteeredTap {
    const { domain, port } = this.#portOf(device, STEERED_DOMAIN - device);
    return new SteeredTap(fd, domain.switch, this.#scratch, port, block);
  }

  /** A queue of a function is no longer worked. */
  close(device: number, config: QueueConfig): void {
    const place = this.#ports.get(device);
    if (place !== undefined && config.direction === 'receive') {
      place.domain.switch.detach(place.port, config.queue >> 1);
    }
  }

  /** The function has left this worker. */
  forget(device: number): void {
    const place = this.#ports.get(device);
    if (place === undefined) return;
    this.#ports.delete(device);
    place.domain.switch.remove(place.port);
    place.domain.ports[place.port] = null;
    this.#domains.delete(STEERED_DOMAIN - device);
  }

  /** Makes a TAP the uplink of a domain in place of the one it had; null: it has none. Returns both. */
  setUplink(
    number: number,
    uplink: { readonly fd: number; readonly block: QueueBlock } | null,
  ): { readonly before: Uplink | null; readonly now: Uplink | null } {
    const domain = this.#domainOf(number);
    const before = domain.uplink;
    domain.uplink =
      uplink === null ? null : new Uplink(uplink.fd, domain.switch, this.#scratch, uplink.block);
    domain.switch.setUplink(domain.uplink?.port ?? null);
    return { before, now: domain.uplink };
  }

  /** Lets silent stations age; called now and then. */
  tick(): void {
    if (this.#domains.size === 0) return;
    const seconds = secondsNow();
    for (const domain of this.#domains.values()) domain.switch.tick(seconds);
  }

  #diagnosticPort({ mode, frameBytes }: SwitchedConfig): FramePort {
    const { sink, source } = this.#scratch;
    this.#sink ??= new SinkPort(sink);
    if (mode === 'sink') return this.#sink;
    this.#sources ??= new PrivateBuffers(source);
    return new SourcePort(frameBytes, this.#sink, source, this.#sources);
  }

  #portOf(device: number, number: number): { readonly domain: Domain; readonly port: number } {
    const known = this.#ports.get(device);
    if (known !== undefined) return known;
    const domain = this.#domainOf(number);
    const free = domain.ports.indexOf(null);
    const port = free < 0 ? domain.ports.length : free;
    if (port >= UPLINK_PORT) throw new RangeError(`${port} functions in one switch domain`); // DEVICES_MAX is lower
    domain.ports[port] = device;
    const place = { domain, port };
    this.#ports.set(device, place);
    return place;
  }

  #domainOf(number: number): Domain {
    let domain = this.#domains.get(number);
    if (domain === undefined) {
      const made = new SwitchDomain({
        seed: getRandomValues(new Int32Array(1))[0]!,
        ...(number <= STEERED_DOMAIN ? { stations: 1, stationsPerPort: 1 } : {}), // nothing is switched there
        segment: this.#scratch.segment,
        settled: (queue) => this.#settled(queue.slot),
      });
      made.tick(secondsNow());
      domain = { switch: made, ports: [], uplink: null };
      this.#domains.set(number, domain);
    }
    return domain;
  }
}
