/**
 * pair-streams.fixture.ts: numbered frames over many queues at once, both ways.
 *
 * Theory
 *   A stream is what one transmit queue sends, or one port of the host. Its numbers say which stream they are of, so each
 *   is judged for itself. Senders keep few frames under way, far below what sockets and representors hold: only what a
 *   test does can lose any. Who sends, or receives, through a queue can be told to let go of it for a while.
 *
 * Limits  STREAM_FRAMES_MAX frames a stream.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { NetRing } from '../virtio-net-driver.js';
import { eventually } from './emulator-service.fixture.js';
import type { Guest } from './guest.fixture.js';
import type { Network } from './network.fixture.js';

const STREAM_FRAMES_MAX = 2 ** 20;
const UNDER_WAY_MAX = 16;
/** Frames in one order to the host. */
const BURST = 4;
/** What did not come for so long is not waited for any more: whoever had it was killed. */
const HELD_MS_MAX = 300;
/** When nothing came for so long nothing will. */
const QUIET_MS = 1_000;

export interface Judgement {
  readonly lost: readonly number[];
  readonly repeated: readonly number[];
  /** Behind one with a higher number. */
  readonly disordered: number;
}

export class Stream {
  readonly #first: number;
  sent = 0;
  /** In the order of arrival, without what says which stream it is. */
  readonly arrived: number[] = [];

  #givenUp = 0;
  #sinceMs = performance.now();

  constructor(index: number) {
    this.#first = index * STREAM_FRAMES_MAX;
  }

  /** Whether `count` more may be sent. */
  mayGoOn(count: number): boolean {
    if (this.missing - this.#givenUp + count > UNDER_WAY_MAX) {
      if (performance.now() - this.#sinceMs > HELD_MS_MAX) this.#givenUp = this.missing;
      return false;
    }
    this.#sinceMs = performance.now();
    return true;
  }

  next(): number {
    return this.#first + this.sent++;
  }

  get missing(): number {
    return this.sent - this.arrived.length;
  }

  judge(): Judgement {
    const seen = new Set<number>();
    const repeated = this.arrived.filter((number) => seen.size === seen.add(number).size);
    const lost = Array.from({ length: this.sent }, (_, number) => number).filter(
      (number) => !seen.has(number),
    );
    const disordered = this.arrived.filter((number, i) => number < (this.arrived[i - 1] ?? -1)).length;
    return { lost, repeated, disordered };
  }
}

/** Where a loop waits while somebody else does what it does otherwise. */
class Gate {
  #closed: PromiseWithResolvers<void> | null = null;
  #reached: () => void = () => undefined;

  /** Resolves when the loop waits. */
  close(): Promise<void> {
    this.#closed = Promise.withResolvers();
    return new Promise((resolve) => {
      this.#reached = resolve;
    });
  }

  open(): void {
    this.#closed?.resolve();
    this.#closed = null;
  }

  async pass(): Promise<void> {
    if (this.#closed === null) return;
    this.#reached();
    await this.#closed.promise;
  }
}

/** Sends a stream through the transmit queue of a pair. */
export class Transmitter {
  readonly stream: Stream;
  readonly gate = new Gate();
  readonly #guest: Guest<NetRing>;
  readonly #pair: number;
  /** Numbers that the device has, by what the ring calls them. */
  readonly #held = new Map<number, number>();

  constructor(guest: Guest<NetRing>, pair: number, stream: Stream) {
    this.#guest = guest;
    this.#pair = pair;
    this.stream = stream;
  }

  get #ring(): NetRing {
    return this.#guest.driver.ring(2 * this.#pair + 1);
  }

  async run(going: () => boolean): Promise<void> {
    while (going()) {
      await this.gate.pass();
      this.reap();
      while (this.#held.size < UNDER_WAY_MAX && this.stream.mayGoOn(1)) this.add(this.stream.next());
      await this.publish();
      await sleep(1);
    }
  }

  /** Puts a frame into the ring, not yet visible. */
  add(number: number): void {
    const id = this.#guest.add(number, this.#pair);
    if (id < 0) throw new Error('no room in the transmit ring');
    this.#held.set(id, number);
  }

  publish(): Promise<void> {
    return this.#guest.publish(2 * this.#pair + 1);
  }

  /** Takes note of what the device gave back. */
  reap(): void {
    for (const { id } of this.#ring.collect()) this.#held.delete(id);
  }

  /** Numbers that the device has had and will not give back, as its queue was reset. They are this one's again. */
  takeBack(): number[] {
    this.reap();
    const numbers = [...this.#held.values()];
    this.#held.clear();
    return numbers;
  }

  /** Waits until the device has given everything back. */
  async finish(): Promise<void> {
    await eventually('completions', () => {
      this.reap();
      return this.#held.size === 0;
    });
  }
}

/** Takes what comes through the receive queue of a pair. */
export class Receiver {
  readonly gate = new Gate();
  /** Frames that came through this queue. */
  frames = 0;
  readonly #guest: Guest<NetRing>;
  readonly #pair: number;
  readonly #arrive: (number: number) => void;

  constructor(guest: Guest<NetRing>, pair: number, arrive: (number: number) => void) {
    this.#guest = guest;
    this.#pair = pair;
    this.#arrive = arrive;
  }

  async run(going: () => boolean): Promise<void> {
    await this.#guest.post(this.#pair);
    while (going()) {
      await this.gate.pass();
      if (this.take() > 0) await this.#guest.post(this.#pair);
      await sleep(1);
    }
  }

  /** Takes what is there; how many frames. */
  take(): number {
    const numbers = this.#guest.received(this.#pair);
    for (const number of numbers) this.#arrive(number);
    this.frames += numbers.length;
    return numbers.length;
  }
}

export class PairStreams {
  readonly #network: Network;
  readonly #streams: Stream[] = [];
  readonly #transmitters: Transmitter[] = [];
  readonly #sends: Promise<void>[] = [];
  readonly #receives: Promise<void>[] = [];
  #sending = true;
  #receiving = true;

  constructor(network: Network) {
    this.#network = network;
    this.#receives.push(this.#listen());
  }

  /** The guest sends a stream from the transmit queue of `pair`. */
  transmit(guest: Guest<NetRing>, pair: number): Transmitter {
    const transmitter = new Transmitter(guest, pair, this.#open());
    this.#transmitters.push(transmitter);
    this.#sends.push(transmitter.run(() => this.#sending));
    return transmitter;
  }

  /** The guest takes whatever comes through the receive queue of `pair`. */
  receive(guest: Guest<NetRing>, pair: number): Receiver {
    const receiver = new Receiver(guest, pair, (number) => this.#arrive(number));
    this.#receives.push(receiver.run(() => this.#receiving));
    return receiver;
  }

  /** The host sends a stream from each of `ports` to the guest with address `to`. */
  feed(to: string, ports: readonly number[]): Stream[] {
    const streams = ports.map(() => this.#open());
    this.#sends.push(this.#feed(to, ports, streams));
    return streams;
  }

  /** Sends no more; resolves when everything has arrived, or nothing comes any more. */
  async finish(): Promise<void> {
    this.#sending = false;
    await Promise.all(this.#sends);
    for (const transmitter of this.#transmitters) await transmitter.finish();
    let [least, sinceMs] = [this.#missing(), performance.now()];
    while (least > 0 && performance.now() - sinceMs < QUIET_MS) {
      await sleep(1);
      if (this.#missing() >= least) continue;
      [least, sinceMs] = [this.#missing(), performance.now()];
    }
    this.#receiving = false;
    await Promise.all(this.#receives);
  }

  #missing(): number {
    return this.#streams.reduce((sum, { missing }) => sum + Math.max(0, missing), 0);
  }

  #open(): Stream {
    const stream = new Stream(this.#streams.length);
    this.#streams.push(stream);
    return stream;
  }

  #arrive(number: number): void {
    const stream = this.#streams[Math.floor(number / STREAM_FRAMES_MAX)];
    if (stream === undefined) throw new Error(`nobody sent ${number}`);
    stream.arrived.push(number % STREAM_FRAMES_MAX);
  }

  async #listen(): Promise<void> {
    const { seen } = this.#network;
    while (this.#receiving) {
      for (const number of seen.splice(0)) this.#arrive(number);
      await sleep(1);
    }
  }

  /** A stream of which too much is under way waits; the others go on. */
  async #feed(to: string, ports: readonly number[], streams: readonly Stream[]): Promise<void> {
    while (this.#sending) {
      for (const [i, stream] of streams.entries()) {
        if (!stream.mayGoOn(BURST)) continue;
        const numbers = Array.from({ length: BURST }, () => stream.next());
        await this.#network.send(numbers, { to, port: ports[i]! });
      }
      await sleep(1);
    }
  }
}
