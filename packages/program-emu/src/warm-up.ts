/**
 * warm-up.ts: lets the just-in-time compiler see the datapath before a guest does.
 *
 * Theory
 *   A cold process needs 50 to 90 ms before its loops run at speed, which alone would break the promise of a short
 *   pause. So every worker first moves frames from a synthetic transmit ring through a socket pair into a synthetic
 *   receive ring, by the very code and classes that guests' queues use.
 *
 * Limits  FRAMES frames, about 50 ms of work, at most ROUNDS_MAX rounds whatever happens.
 */

import { MessageChannel } from 'node:worker_threads';
import { close, memfdCreate, sharedMapping, socketPair } from '@virtnet/host-linux';
import { createControl, MailboxReceiver } from '@virtnet/host-workers';
import { featureMask, NetHeader, statePageSize, VirtioFeature } from '@virtnet/wire';
import type { QueueConfig } from './datapath-protocol.js';
import { WorkerLoop } from './worker-loop.js';

const FRAMES = 24_000;
const BURST = 64;
const ROUNDS_MAX = 4 * (FRAMES / BURST);
const QUEUE_SIZE = 256;
const FRAME_BYTES = NetHeader.sizeBytes + 64;
const BUFFER_BYTES = 2048;
/** Room for one ring with its three parts, page by page. */
const RING_BYTES = 3 * 8192;
const REGION_BYTES = 2 * (RING_BYTES + QUEUE_SIZE * BUFFER_BYTES);

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

  /** Makes all but the buffers not yet returned available again, at most `count` of them. */
  offer(count: number): void {
    const used = this.#view.getUint16(this.deviceAddress + 2, true);
    const available = this.#view.getUint16(this.driverAddress + 2, true);
    const free = QUEUE_SIZE - ((available - used) & 0xffff);
    this.#view.setUint16(this.driverAddress + 2, (available + Math.min(free, count)) & 0xffff, true);
  }

  get used(): number {
    return this.#view.getUint16(this.deviceAddress + 2, true);
  }
}

/** Runs the warm-up in memory of its own; leaves nothing behind. */
export function warmUp(): void {
  const sockets = socketPair('seqpacket');
  const pageBytes = statePageSize(2);
  const pageFd = memfdCreate('virtnet-warm-up', pageBytes);
  const memoryFd = memfdCreate('virtnet-warm-up', REGION_BYTES);
  const page = sharedMapping(pageFd, pageBytes);
  const memory = sharedMapping(memoryFd, REGION_BYTES);
  if (typeof sockets === 'number' || typeof page === 'number' || typeof memory === 'number') return;
  const region = new DataView(memory.buffer);
  const transmit = new SyntheticDriver(region, 0, FRAME_BYTES, 0);
  const receive = new SyntheticDriver(region, REGION_BYTES / 2, BUFFER_BYTES, WRITE_FLAG);
  const channel = new MessageChannel();
  const loop = new WorkerLoop(
    { base: memory.address, buffer: memory.buffer },
    new MailboxReceiver(channel.port1, createControl()),
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
    features: featureMask([VirtioFeature.VERSION_1, VirtioFeature.INDIRECT_DESC, VirtioFeature.EVENT_IDX]),
    mtu: 1500,
    linkUp: true,
    queue: direction === 'receive' ? 0 : 1,
    pageAddress: page.address,
    pageBytes,
    tapFd,
    switched: null,
    kickFd: -1,
    interruptFd: -1,
    active: true,
    filter: null,
    countSizes: false,
    moderation: null,
    signalAtOnce: false,
  });
  loop.handle({
    kind: 'memory',
    device: 0,
    regions: [{ iova: 0n, sizeBytes: REGION_BYTES, arenaOffset: 0, writable: true }],
  });
  loop.handle({ kind: 'queue', device: 0, slot: 0, config: config(receive, 'receive', sockets[0]) });
  loop.handle({ kind: 'queue', device: 0, slot: 1, config: config(transmit, 'transmit', sockets[1]) });
  let frames = 0;
  for (let round = 0; round < ROUNDS_MAX && frames < FRAMES; round++) {
    const before = receive.used;
    receive.offer(BURST);
    transmit.offer(BURST);
    loop.wake(0);
    loop.wake(1);
    loop.turn();
    frames += (receive.used - before) & 0xffff;
  }
  for (const slot of [0, 1]) loop.handle({ kind: 'queue', device: 0, slot, config: null });
  loop.close();
  channel.port1.close();
  page.close();
  memory.close();
  for (const fd of [pageFd, memoryFd, ...sockets]) close(fd);
}
