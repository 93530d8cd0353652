/**
 * warm-up.ts: lets the just-in-time compiler see the datapath before a guest does.
 *
 * Theory
 *   A cold process needs 50 to 90 ms before its loops run at speed, which alone would break the promise of a short
 *   pause. So every worker first moves frames from a synthetic transmit ring through a socket pair into a synthetic
 *   receive ring, by the very code and classes that guests' queues use.
 *
 * Limits  FRAMES frames for each of FEATURES, about 50 ms of work, at most ROUNDS_MAX rounds whatever happens.
 */

import { MessageChannel } from 'node:worker_threads';
import {
  type ArenaPlace,
  close,
  eventfd,
  eventfdSignal,
  memfdCreate,
  sharedMapping,
  socketPair,
} from '@virtnet/host-linux';
import { createControl, MailboxReceiver, MailboxSender } from '@virtnet/host-workers';
import {
  burstPageAt,
  featureMask,
  NetFeature,
  NetHeader,
  statePageFileSize,
  statePageSize,
  VirtioFeature,
} from '@virtnet/wire';
import { type QueueConfig, REPORT_INTERRUPT, type WorkerMessage } from './datapath-protocol.js';
import { SCRATCH_BYTES } from './scratch.js';
import { WorkerLoop } from './worker-loop.js';

/** What DPDK's driver negotiates, and Linux's: the loops for the two are not the same. */
const FEATURES: readonly bigint[] = [
  [VirtioFeature.VERSION_1, VirtioFeature.INDIRECT_DESC],
  [VirtioFeature.VERSION_1, VirtioFeature.INDIRECT_DESC, VirtioFeature.EVENT_IDX, NetFeature.MRG_RXBUF],
].map(featureMask);

const FRAMES = 16_000;
const BURST = 64;
/** Rounds until the queues are let go to sleep once. */
const ROUNDS_AWAKE = 8;
/** Turns they get for that. */
const TURNS_MAX = 1000;
const ROUNDS_MAX = 4 * (FRAMES / BURST);
const QUEUE_SIZE = 256;
const FRAME_BYTES = NetHeader.sizeBytes + 64;
const BUFFER_BYTES = 512;
/** Room for one ring with its three parts, page by page. */
const RING_BYTES = 3 * 8192;
const WARM_UP_BYTES = 2 * (RING_BYTES + QUEUE_SIZE * BUFFER_BYTES);

const RECEIVE_SLOT = 0;
const TRANSMIT_SLOT = 1;
const DESCRIPTOR_BYTES = 16;
const WRITE_FLAG = 2;

/** The driver's side of one split ring whose buffers never change: it only moves the available index. */
class SyntheticDriver {
  readonly descriptorAddress: number;
  readonly #view: DataView;

  constructor(region: DataView, at: number, bufferBytes: number, flags: number) {
    this.descriptorAddress = at;
    this.#view = region;
    for (let i = 0; i < QUEUE_SIZE; i++) {
      const descriptor = at + i * DESCRIPTOR_BYTES;
      region.setBigUint64(descriptor, BigInt(at + RING_BYTES + i * BUFFER_BYTES), true);
      region.setUint32(descriptor + 8, bufferBytes, true);
      region.setUint16(descriptor + 12, flags, true);
      region.setUint16(this.driverAddress + 4 + i * 2, i, true);
    }
  }

  get driverAddress(): number {
    return this.descriptorAddress + 8192;
  }

  get deviceAddress(): number {
    return this.descriptorAddress + 16384;
  }

  get #usedEventAddress(): number {
    return this.driverAddress + 4 + QUEUE_SIZE * 2;
  }

  /** Makes all but the buffers not yet returned available again, at most `count` of them. */
  offer(count: number): void {
    const used = this.#view.getUint16(this.deviceAddress + 2, true);
    const available = this.#view.getUint16(this.driverAddress + 2, true);
    const free = QUEUE_SIZE - ((available - used) & 0xffff);
    this.#view.setUint16(this.#usedEventAddress, used, true);
    this.#view.setUint16(this.driverAddress + 2, (available + Math.min(free, count)) & 0xffff, true);
  }

  get used(): number {
    return this.#view.getUint16(this.deviceAddress + 2, true);
  }
}

/**
 * Runs the warm-up in SCRATCH_BYTES of memory, in this thread's window if it has one, as guests' memory is; what it used of
 * it is zeros then, and nothing else is left behind.
 */
export function warmUp(memory: ArenaPlace): void {
  const sockets = socketPair('seqpacket');
  const pageBytes = statePageSize(2);
  const pageFd = memfdCreate('virtnet-warm-up', statePageFileSize(2));
  const page = sharedMapping(pageFd, statePageFileSize(2), pageBytes);
  const doorbell = eventfd();
  const interrupt = eventfd();
  if (typeof sockets === 'number' || typeof page === 'number') return;
  if (WARM_UP_BYTES > SCRATCH_BYTES) throw new Error('the warm-up needs more than there is');
  const region = new Uint8Array(memory.buffer, memory.byteOffset, WARM_UP_BYTES);
  for (const features of FEATURES) {
    new Uint8Array(page.buffer).fill(0);
    region.fill(0);
    const pages = { pageAddress: page.address, pageBytes };
    move({ features, sockets, doorbell, interrupt, ...pages, memory });
  }
  page.close();
  region.fill(0);
  for (const fd of [pageFd, doorbell, interrupt, ...sockets]) close(fd);
}

interface Course {
  readonly features: bigint;
  readonly sockets: readonly [number, number];
  readonly doorbell: number;
  readonly interrupt: number;
  readonly pageAddress: bigint;
  readonly pageBytes: number;
  readonly memory: ArenaPlace;
}

/** Moves FRAMES frames with the features; now and then the queues fall asleep. */
function move(course: Course): void {
  const { features, sockets, doorbell, interrupt, pageAddress, pageBytes, memory } = course;
  const region = new DataView(memory.buffer, memory.byteOffset, WARM_UP_BYTES);
  const transmit = new SyntheticDriver(region, 0, FRAME_BYTES, 0);
  const receive = new SyntheticDriver(region, WARM_UP_BYTES / 2, BUFFER_BYTES, WRITE_FLAG);
  const channel = new MessageChannel();
  const control = createControl();
  const sender = new MailboxSender<WorkerMessage>(channel.port2, control, () => {});
  const loop = new WorkerLoop(
    { locate: () => memory },
    new MailboxReceiver(channel.port1, control),
    -1,
    () => {},
  );
  const config = (
    driver: SyntheticDriver,
    direction: 'receive' | 'transmit',
    tapFd: number,
  ): QueueConfig => ({
    direction,
    queueSize: QUEUE_SIZE,
    descriptorAddress: BigInt(driver.descriptorAddress),
    driverAddress: BigInt(driver.driverAddress),
    deviceAddress: BigInt(driver.deviceAddress),
    features,
    mtu: 1500,
    linkUp: true,
    queue: direction === 'receive' ? RECEIVE_SLOT : TRANSMIT_SLOT,
    pageAddress,
    pageBytes,
    burstAddress:
      Number(pageAddress) + burstPageAt(2, direction === 'receive' ? RECEIVE_SLOT : TRANSMIT_SLOT),
    tapFd,
    switched: null,
    kickFd: direction === 'receive' ? -1 : doorbell,
    interruptFd: direction === 'receive' ? REPORT_INTERRUPT : interrupt,
    active: true,
    filter: null,
    countSizes: false,
    hash: null,
    rss: null,
    follows: false,
    moderation: null,
    signalAtOnce: false,
  });
  loop.handle({
    kind: 'memory',
    device: 0,
    regions: [{ iova: 0n, sizeBytes: WARM_UP_BYTES, arenaOffset: 0, writable: true }],
  });
  const queue = (slot: number, config: QueueConfig | null) =>
    loop.handle({ kind: 'queue', device: 0, slot, config });
  queue(RECEIVE_SLOT, config(receive, 'receive', sockets[0]));
  queue(TRANSMIT_SLOT, config(transmit, 'transmit', sockets[1]));
  let frames = 0;
  for (let round = 0; round < ROUNDS_MAX && frames < FRAMES; round++) {
    const before = receive.used;
    receive.offer(BURST);
    transmit.offer(BURST);
    sender.ring(RECEIVE_SLOT);
    eventfdSignal(doorbell);
    loop.drainMailbox();
    loop.turn();
    loop.takeEvents(0);
    frames += (receive.used - before) & 0xffff;
    if (round % ROUNDS_AWAKE === 0) for (let i = 0; loop.awake && i < TURNS_MAX; i++) loop.turn();
  }
  queue(RECEIVE_SLOT, null);
  queue(TRANSMIT_SLOT, null);
  loop.close();
  channel.port1.close();
}
