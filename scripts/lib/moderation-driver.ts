/**
 * moderation-driver.ts: a driver of two functions, on a thread and a processor of its own: what it sends through one it
 * receives through the other.
 *
 * Theory
 *   The functions are probed and started over their vfio-user sockets as virtio_net_driver does it, and their queues are worked
 *   with the same ring. moderation-driver-thread.ts does what a processor does that has interrupts: it sends frames as they
 *   are due by the clock, and whenever an interrupt has come, receives until there are no more frames, asks for the next
 *   interrupt and looks once more. It looks at the receive ring at no other time. An interrupt is an eventfd, which it
 *   looks at instead of sleeping: on a busy machine the end of a sleep comes late, and few interrupts would be left.
 *
 * Limits  The transmit queue of one function, the receive queue of the other.
 */
import { Worker } from 'node:worker_threads';
import { FUNCTION_TIMEOUT_MS, planRing, type RingPlan, VirtioFunction } from '@virtnet/driver-virtio-net';
import { addSeals, close, eventfd, memfdCreate, type Poller } from '@virtnet/host-linux';
import { VfioUserClient } from '@virtnet/server-vfio-user';
import { Ethernet, featureMask, NetHeader, Seal, VirtioFeature } from '@virtnet/wire';

export const DriverWord = { GOES: 0, COUNT: 1 } as const;
export const DriverCount = { INTERRUPTS: 0, RECEIVED: 1, BYTES: 2, SENT: 3, COUNT: 4 } as const;

/** A queue as the thread works it. */
export interface DrivenQueue {
  readonly memory: { readonly fd: number; readonly iova: bigint };
  readonly plan: RingPlan;
  readonly kickFd: number;
  readonly callFd: number;
}

/** What the thread is started with. */
export interface DriverStart {
  /** GOES: 1 while it is to work, 0 to rest, -1 to end. */
  readonly words: Int32Array<SharedArrayBuffer>;
  /** The thread's, since it began. */
  readonly counts: Float64Array<SharedArrayBuffer>;
  readonly transmit: DrivenQueue;
  readonly receive: DrivenQueue;
  readonly processor: number;
  /** What is sent, again and again. */
  readonly frame: Uint8Array;
  readonly framesPerMs: number;
}

export interface DriverOptions {
  /** Of the functions that send and receive. */
  readonly sockets: { readonly transmit: string; readonly receive: string };
  readonly poller: Poller;
  readonly queueSize: number;
  readonly processor: number;
  readonly frame: Uint8Array;
  readonly framesPerMs: number;
}

const IOVA = 0x1_0000_0000n;
const FEATURES = featureMask([VirtioFeature.VERSION_1, VirtioFeature.EVENT_IDX]);

/** One queue of a function: its memory and eventfds, and the connection that keeps it alive. */
class FunctionQueue {
  readonly driven: DrivenQueue;
  readonly #configFd = eventfd();
  #client: VfioUserClient | null = null;

  constructor(queueSize: number, frameBytes: number) {
    const plan = planRing(queueSize, NetHeader.sizeBytes + frameBytes, 0);
    const fd = memfdCreate('driver', plan.end);
    addSeals(fd, Seal.SHRINK); // a standby looks ahead only at memory that stays
    this.driven = { memory: { fd, iova: IOVA }, plan, kickFd: eventfd(), callFd: eventfd() };
  }

  async start(socket: string, index: number, poller: Poller): Promise<void> {
    const { memory, plan, kickFd, callFd } = this.driven;
    this.#client = await VfioUserClient.connect(socket, { poller, timeoutMs: FUNCTION_TIMEOUT_MS });
    const fn = await VirtioFunction.probe(this.#client);
    const setup = {
      index,
      size: plan.size,
      base: 0,
      kickFd,
      callFd,
      enabled: null,
      features: FEATURES,
      packed: false,
      descriptorAddress: IOVA + BigInt(plan.descriptorAt),
      driverAddress: IOVA + BigInt(plan.driverAt),
      deviceAddress: IOVA + BigInt(plan.deviceAt),
    };
    let errno = await fn.map(IOVA, plan.end, memory.fd, 0);
    if (errno === 0) errno = await fn.initialise(FEATURES, this.#configFd);
    if (errno === 0) errno = await fn.startRing(setup, kickFd);
    if (errno < 0) throw new Error(`no driver of ${socket}: errno ${-errno}`);
  }

  end(): void {
    this.#client?.close();
    const { memory, kickFd, callFd } = this.driven;
    for (const fd of [memory.fd, kickFd, callFd, this.#configFd]) close(fd);
  }
}

export class StreamDriver {
  readonly #words = new Int32Array(new SharedArrayBuffer(DriverWord.COUNT * 4));
  readonly #counts = new Float64Array(new SharedArrayBuffer(DriverCount.COUNT * 8));
  readonly #queues: readonly FunctionQueue[];
  #thread: Worker | null = null;
  #failure: unknown = null;

  private constructor(queues: readonly FunctionQueue[]) {
    this.#queues = queues;
  }

  /** Starts a driver, which rests. */
  static async start(options: DriverOptions): Promise<StreamDriver> {
    const { sockets, poller, queueSize, frame, framesPerMs, processor } = options;
    const [receive, transmit] = [
      new FunctionQueue(queueSize, frame.length),
      new FunctionQueue(queueSize, frame.length),
    ];
    const driver = new StreamDriver([receive, transmit]);
    try {
      await receive.start(sockets.receive, 0, poller);
      await transmit.start(sockets.transmit, 1, poller);
      const parts = { receive: receive.driven, transmit: transmit.driven };
      driver.#run({
        words: driver.#words,
        counts: driver.#counts,
        ...parts,
        processor,
        frame,
        framesPerMs,
      });
      return driver;
    } catch (error) {
      await driver.end();
      throw error;
    }
  }

  /** Lets it work, or rest. */
  go(on: boolean): void {
    this.#tell(on ? 1 : 0);
  }

  /** What it did since it was started. Throws when its thread has failed. */
  get counts(): Readonly<Record<'interrupts' | 'received' | 'bytes' | 'sent', number>> {
    if (this.#failure !== null) throw this.#failure;
    const [interrupts = 0, received = 0, bytes = 0, sent = 0] = this.#counts;
    return { interrupts, received, bytes, sent };
  }

  async end(): Promise<void> {
    this.#tell(-1);
    await this.#thread?.terminate();
    for (const queue of this.#queues) queue.end();
  }

  #run(workerData: DriverStart): void {
    this.#thread = new Worker(new URL('./moderation-driver-thread.ts', import.meta.url), { workerData });
    this.#thread.once('error', (error) => {
      this.#failure = error;
    });
  }

  #tell(word: number): void {
    Atomics.store(this.#words, DriverWord.GOES, word);
    Atomics.notify(this.#words, DriverWord.GOES);
  }
}

/** A frame of `bytes` from one MAC to another, of the EtherType for local experiments. */
export function frameBetween(from: string, to: string, bytes: number): Uint8Array {
  const frame = new Uint8Array(bytes);
  const octets = (mac: string): number[] => mac.split(':').map((octet) => Number.parseInt(octet, 16));
  frame.set([...octets(to), ...octets(from), 0x88, 0xb5]);
  for (let i = Ethernet.HEADER_BYTES; i < bytes; i++) frame[i] = i & 0xff;
  return frame;
}
