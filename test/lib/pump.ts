/**
 * pump.ts: numbered streams both ways through one function, driven by packages/testing's driver over vfio-user, for as
 * long as something else goes on.
 *
 * Theory
 *   host sender -> representor -> receive queue -> driver, and driver -> transmit queue -> representor -> host receiver,
 *   a frame a millisecond each way. The driver's end is this process, so it pauses when this process does; only what is
 *   lost, repeated or out of order is judged here. While the driver posts no buffers the representor keeps a queue of
 *   frames; what the kernel drops because that is full never reached the product.
 */
import { BoundFunction } from './bound-function.ts';
import { udpFrame } from './frames.ts';
import type { NetworkNamespace } from './netns.ts';
import type { Scene } from './scene.ts';
import type { Hotplugged, Service } from './service.ts';
import { type Arrival, analyseStream, type StreamReport } from './stream-analysis.ts';
import { readStreamPacket, STREAM_PACKET_BYTES, wallClockUs, writeStreamPacket } from './stream-packet.ts';
import { HostStream, parseArrivals, SPACING_US } from './streams.ts';
import { sleep } from './waiting.ts';

const ADDRESS = '10.78.0.1';
const PEER_ADDRESS = '10.78.0.2';
const SEND_PORT = 7801;
const RECEIVE_PORT = 7802;
const QUEUE_SIZE = 256;
const SETTLE_MS = 500;
const LAST_FRAME_MS = 10_000;
const UDP_PAYLOAD_AT = 42;

export interface PumpReport {
  readonly toDriver: StreamReport;
  readonly fromDriver: StreamReport;
  /** Frames to the driver that the kernel dropped in front of the representor. */
  readonly dropped: number;
}

interface Stats {
  readonly stats64: { readonly tx: { readonly dropped: number } };
}

export class Pump {
  readonly fn: BoundFunction;
  readonly #arrived: Arrival[] = [];
  #arrivedAtHost: readonly Arrival[] = [];
  readonly #receiver: HostStream;
  readonly #sender: HostStream;
  readonly #running: Promise<void>;
  readonly #frameTo: (sequence: number) => Buffer;
  readonly #net: NetworkNamespace;
  readonly #representor: string;
  readonly #droppedBefore: number;
  #going = true;
  #transmitted = 0;

  private constructor(
    fn: BoundFunction,
    receiver: HostStream,
    sender: HostStream,
    frameTo: (sequence: number) => Buffer,
    net: NetworkNamespace,
    representor: string,
    droppedBefore: number,
  ) {
    this.#droppedBefore = droppedBefore;
    this.#net = net;
    this.#representor = representor;
    this.fn = fn;
    this.#receiver = receiver;
    this.#sender = sender;
    this.#frameTo = frameTo;
    this.#running = this.#run();
    this.#running.catch(() => {}); // thrown by finish()
  }

  /** Binds `device`, gives its representor an address, and starts. `timeoutMs`: how long an answer may take. */
  static async start(scene: Scene, service: Service, device: Hotplugged, timeoutMs?: number): Promise<Pump> {
    const { net, processes } = scene;
    const representor = device.sf_rep_net_device;
    await net.quiet(representor);
    await net.ip(`addr add ${ADDRESS}/24 dev ${representor}`);
    await net.ip(`link set ${representor} up`);
    await net.ip(`neigh add ${PEER_ADDRESS} lladdr ${device.mac} dev ${representor} nud permanent`);
    const { address: destinationMac } = await net.waitForLink(representor);
    const fn = await BoundFunction.open(service.socket(device.bdf), timeoutMs);
    const driver = await fn.start({ queueSize: QUEUE_SIZE, pairs: 1 });
    await driver.postReceive(0, QUEUE_SIZE);
    const receiver = await HostStream.start(processes, net, ['receive', `${RECEIVE_PORT}`]);
    const droppedBefore = await drops(net, representor);
    const to = [PEER_ADDRESS, `${SEND_PORT}`, `${SPACING_US}`, '64'];
    const sender = await HostStream.start(processes, net, ['send', ...to]);
    const frameTo = (sequence: number): Buffer => {
      const payload = Buffer.alloc(STREAM_PACKET_BYTES + 20);
      writeStreamPacket(payload, sequence, wallClockUs());
      const addresses = { source: PEER_ADDRESS, destination: ADDRESS };
      return udpFrame({ ...addresses, sourceMac: device.mac, destinationMac, port: RECEIVE_PORT, payload });
    };
    return new Pump(fn, receiver, sender, frameTo, net, representor, droppedBefore);
  }

  /** Ends both streams, lets the last frames arrive, and says what became of them. */
  async finish(): Promise<PumpReport> {
    const sent = Number((await this.#sender.finish()).split(' ')[0]);
    this.#going = false;
    await this.#running;
    const settle = async (ms: number, isOver: () => boolean): Promise<void> => {
      const deadline = performance.now() + ms;
      while (performance.now() < deadline && !isOver()) {
        await this.#take();
        await sleep(10);
      }
    };
    // The last frames may be on their way for as long as the machine lets nobody run who moves them.
    await settle(LAST_FRAME_MS, () => this.#arrived.at(-1)?.sequence === sent - 1);
    await settle(SETTLE_MS, () => false);
    const outstanding = this.fn.driver.ring(1).outstanding;
    if (outstanding > 0) throw new Error(`${outstanding} frames of the driver never came back`);
    this.#arrivedAtHost = parseArrivals(await this.#receiver.finish());
    return {
      dropped: (await drops(this.#net, this.#representor)) - this.#droppedBefore,
      toDriver: analyseStream(this.#arrived, 0, sent),
      fromDriver: analyseStream(this.#arrivedAtHost, 0, this.#transmitted),
    };
  }

  /** Frames that the driver has received by now. */
  get received(): number {
    return this.#arrived.length;
  }

  /** What arrived at each end, when it is finished. */
  get arrivals(): { readonly atDriver: readonly Arrival[]; readonly atHost: readonly Arrival[] } {
    return { atDriver: this.#arrived, atHost: this.#arrivedAtHost };
  }

  async close(): Promise<void> {
    await this.fn.driver.stop();
    await this.fn.close();
    await this.#net.ip(`addr flush dev ${this.#representor}`);
  }

  async #run(): Promise<void> {
    while (this.#going) {
      if (await this.fn.driver.transmit(0, this.#frameTo(this.#transmitted))) this.#transmitted += 1;
      await this.#take();
      await sleep(1);
    }
  }

  async #take(): Promise<void> {
    const { driver } = this.fn;
    const received = driver.received(0);
    for (const { frame } of received) {
      const packet = readStreamPacket(Buffer.from(frame.subarray(UDP_PAYLOAD_AT)));
      if (packet !== null) this.#arrived.push({ ...packet, arrivedUs: wallClockUs() });
    }
    if (received.length > 0) await driver.postReceive(0, received.length);
    driver.ring(1).collect();
  }
}

export interface Damage {
  readonly toDriver: number;
  readonly fromDriver: number;
  readonly reordered: number;
}

async function drops(net: NetworkNamespace, representor: string): Promise<number> {
  const [link] = JSON.parse(await net.ip(`-j -s link show dev ${representor}`)) as Stats[];
  return link?.stats64.tx.dropped ?? 0;
}

/** Frames lost or repeated, each way, and those out of order. */
export function damage({ toDriver, fromDriver, dropped }: PumpReport): Damage {
  const of = ({ lost, duplicated }: StreamReport) => lost.length + duplicated.length;
  const reordered = toDriver.reordered + fromDriver.reordered;
  return { toDriver: of(toDriver) - dropped, fromDriver: of(fromDriver), reordered };
}
