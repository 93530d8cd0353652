/** worker-fixture.ts: what a worker needs to work one queue pair: memory, rings, page, representor, events. */
import { VIRT_QUEUES_MAX } from '@virtnet/engine-control';
import { Arena, close, eventfd, memfdCreate, Receiver, send } from '@virtnet/host-linux';
import {
  featureMask,
  NetHeader,
  type QueueBlock,
  queueBlock,
  statePageFileSize,
  VirtioFeature,
} from '@virtnet/wire';
import type { QueueConfig, WorkerMessage } from '../datapath-protocol.js';
import { mapPage, type PageMapping } from '../page-mapping.js';
import { pairOfSockets } from './test-device.js';
import { TestMemory, TestRing } from './test-ring.js';

export const RECEIVE = 0;
export const TRANSMIT = 1;
export const HEADER_BYTES = NetHeader.sizeBytes;
const BUFFER_BYTES = 2048;
const RING_SIZE = 128;
const NUMBER_AT = 14;
const HEADER = new Uint8Array(HEADER_BYTES);

/** A frame that carries a number. */
export function frame(number: number, lengthBytes = 60): Uint8Array {
  const bytes = new Uint8Array(lengthBytes).fill(number & 0xff);
  new DataView(bytes.buffer).setUint32(NUMBER_AT, number);
  return bytes;
}

/** The number of a frame behind its header. */
export function numberOf(bytes: Uint8Array): number {
  return new DataView(bytes.buffer, bytes.byteOffset).getUint32(HEADER_BYTES + NUMBER_AT);
}

function newPage(queueCount: number): PageMapping {
  const page = mapPage(memfdCreate('worker-test-page', statePageFileSize(VIRT_QUEUES_MAX)))!;
  page.view(queueCount);
  return page;
}

export class WorkerFixture {
  readonly arena: Arena;
  readonly memory: TestMemory;
  readonly receive: TestRing;
  readonly transmit: TestRing;
  /** Number of the device. */
  readonly device: number;
  readonly page: PageMapping = newPage(4);
  readonly kickFds = [eventfd(), eventfd()] as const;
  readonly interruptFds = [eventfd(), eventfd()] as const;
  readonly tap: number;
  /** The other end of the representor. */
  readonly network: number;
  readonly #receiver = new Receiver(4096, 1);

  constructor(arena = Arena.reserve(2 ** 26), device = 0, iova = 0x10_0000n) {
    this.arena = arena;
    this.device = device;
    this.memory = new TestMemory(4 << 20, { arena, iova });
    this.receive = new TestRing(this.memory, RING_SIZE, BUFFER_BYTES);
    this.transmit = new TestRing(this.memory, RING_SIZE, BUFFER_BYTES);
    [this.tap, this.network] = pairOfSockets();
  }

  ring(queue: number): TestRing {
    return queue === RECEIVE ? this.receive : this.transmit;
  }

  block(queue: number): QueueBlock {
    return queueBlock(this.page.buffer, queue);
  }

  config(queue: number, change: Partial<QueueConfig> = {}): QueueConfig {
    return {
      direction: queue === RECEIVE ? 'receive' : 'transmit',
      ...this.ring(queue).addresses,
      features: featureMask([VirtioFeature.VERSION_1]),
      mtu: 1500,
      linkUp: true,
      queue,
      pageAddress: this.page.address,
      pageBytes: this.page.buffer.byteLength,
      burstAddress: this.page.burstAddress(queue),
      tapFd: this.tap,
      switched: null,
      kickFd: this.kickFds[queue]!,
      interruptFd: this.interruptFds[queue]!,
      active: true,
      filter: null,
      countSizes: false,
      hash: null,
      rss: null,
      follows: false,
      moderation: null,
      signalAtOnce: false,
      ...change,
    };
  }

  get memoryMessage(): WorkerMessage {
    const { iova, sizeBytes, arenaOffset } = this.memory;
    return {
      kind: 'memory',
      device: this.device,
      regions: [{ iova, sizeBytes, arenaOffset, writable: true }],
    };
  }

  /** Whether the device asked to be kicked for them. */
  offerFrames(...numbers: number[]): boolean {
    return this.offer(...numbers.map((number) => frame(number)));
  }

  /** The same with frames that are given. */
  offer(...frames: Uint8Array[]): boolean {
    for (const each of frames) this.transmit.add([HEADER, each]);
    return this.transmit.publish();
  }

  offerBuffers(count: number): boolean {
    for (let i = 0; i < count; i++) this.receive.add([], [BUFFER_BYTES]);
    return this.receive.publish();
  }

  /** Sends a frame from the network's side. */
  sendFrame(number: number, lengthBytes = 60): number {
    return send(this.network, Uint8Array.from([...HEADER, ...frame(number, lengthBytes)]));
  }

  /** What left through the representor since the last call, headers included. */
  arrived(): Uint8Array[] {
    const frames: Uint8Array[] = [];
    for (;;) {
      const got = this.#receiver.receive(this.network);
      if (typeof got === 'number') return frames;
      frames.push(got.bytes.slice());
    }
  }

  close(): void {
    this.memory.close();
    this.page.close();
    const fds = [this.page.fd, this.tap, this.network, ...this.kickFds, ...this.interruptFds];
    for (const fd of fds) close(fd);
  }
}
