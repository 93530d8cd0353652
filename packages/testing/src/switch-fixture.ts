/** switch-fixture.ts: functions on a switch, each with its driver's ends of the rings, for tests. */
import { SwitchDomain, SwitchedReceiveQueue, SwitchPort } from '@virtnet/engine-eswitch';
import {
  type FramePort,
  type HashSettings,
  ReceiveFilter,
  type ReceiveFilterState,
  type RssSettings,
  TransmitQueue,
} from '@virtnet/engine-virtio-net';
import {
  ChainRoom,
  type DeviceRing,
  GuestMemory,
  isRing,
  type MemoryRegion,
  openRing,
  PlainRoom,
  type RingRooms,
  resumePosition,
} from '@virtnet/engine-virtqueue';
import {
  featureMask,
  initialRingPosition,
  type QueueBlock,
  type QueueCounter,
  QueueWord,
  queueBlock,
  statePageSize,
  VirtioFeature,
} from '@virtnet/wire';
import { DriverMemory } from './driver-memory.js';
import { filterState, netHeader } from './net-fixture.js';
import { PackedDriver } from './packed-driver.js';
import type { AddOptions, UsedChain } from './ring-driver.js';
import { SplitDriver } from './split-driver.js';

const MEMORY_BYTES = 1 << 20;
export const CHAIN_SEGMENTS_MAX = 64;

/** As a worker has them: all rings that are sent from share a room, and all that are received into. */
const TRANSMIT_ROOMS: RingRooms = {
  chainRoom: new ChainRoom(CHAIN_SEGMENTS_MAX, true),
  plainRoom: new PlainRoom(),
};
const RECEIVE_ROOMS: RingRooms = { chainRoom: new ChainRoom(CHAIN_SEGMENTS_MAX, true) };

export interface FunctionOptions {
  readonly features?: readonly number[];
  readonly legacy?: boolean;
  readonly linkUp?: boolean;
  readonly active?: boolean;
  readonly filter?: Partial<ReceiveFilterState>;
  readonly mtu?: number;
  readonly queueSize?: number;
  /** The function's rings are packed ones. */
  readonly packed?: boolean;
  /** Where both rings begin; default where new ones do. */
  readonly start?: number;
  readonly memoryBytes?: number;
  /** Hashes that received frames carry. */
  readonly hash?: HashSettings;
  /** How the driver steers. */
  readonly rss?: RssSettings;
  readonly follows?: boolean;
  /** The queue pair; functions of one port with different pairs share nothing but the port. */
  readonly pair?: number;
  /** Shared with others, as guests' memory is in one arena; absent: memory of its own. */
  readonly arena?: ArrayBuffer;
  readonly arenaOffset?: number;
  /** Guest address of its first byte. */
  readonly iova?: bigint;
}

/** What stands for a ring, a block and memory. */
export interface Wrap {
  ring(ring: DeviceRing): DeviceRing;
  block(block: QueueBlock): QueueBlock;
  memory(regions: readonly MemoryRegion[]): GuestMemory;
}
/** Everything as it is. */
export const PLAIN_WRAP: Wrap = {
  ring: (ring) => ring,
  block: (block) => block,
  memory: (regions) => new GuestMemory(regions),
};

/** One queue pair of a function: its drivers, its state page, and the queues that work it now. */
export class SwitchedPair {
  readonly memory: DriverMemory;
  readonly receiver: SplitDriver | PackedDriver;
  readonly transmitter: SplitDriver | PackedDriver;
  readonly blocks: readonly [QueueBlock, QueueBlock];
  readonly options: FunctionOptions;
  readonly port: number;
  receive!: SwitchedReceiveQueue;
  transmit!: TransmitQueue;

  constructor(port: number, options: FunctionOptions) {
    const { arena, arenaOffset = 0, queueSize = 64, packed = false } = options;
    const start = options.start ?? initialRingPosition(packed);
    this.port = port;
    this.options = options;
    this.memory = new DriverMemory({
      sizeBytes: options.memoryBytes ?? MEMORY_BYTES,
      ...(arena === undefined ? {} : { buffer: arena, byteOffset: arenaOffset }),
      ...(options.iova === undefined ? {} : { iova: options.iova }),
    });
    const { memory } = this;
    const driver = () =>
      packed
        ? new PackedDriver({ memory, queueSize, startPosition: start })
        : new SplitDriver({ memory, queueSize, startIndex: start });
    this.receiver = driver();
    this.transmitter = driver();
    const page = new ArrayBuffer(statePageSize(2));
    this.blocks = [queueBlock(page, 0), queueBlock(page, 1)];
    for (const { words } of this.blocks) words.set([start, start], QueueWord.POSITION);
  }

  /** Opens the queues where the state page says, as a worker does. `makePort`: where frames go instead of the switch. */
  open(domain: SwitchDomain, wrap = PLAIN_WRAP, makePort?: (domain: SwitchDomain) => FramePort): void {
    const { options, port } = this;
    const { pair = 0 } = options;
    const memory = wrap.memory([this.memory.region]);
    const blocks = this.blocks.map((block) => wrap.block(block));
    const ring = (driver: SplitDriver | PackedDriver, block: QueueBlock): DeviceRing => {
      const opened = openRing({
        packed: options.packed === true,
        queueSize: driver.queueSize,
        memory,
        descriptorAddress: driver.descriptorAddress,
        driverAddress: driver.driverAddress,
        deviceAddress: driver.deviceAddress,
        indirect: true,
        eventIdx: driver.eventIdx,
        position: resumePosition(block),
        chainSegmentsMax: CHAIN_SEGMENTS_MAX,
        journal: block.journal,
        ...(driver === this.transmitter ? TRANSMIT_ROOMS : RECEIVE_ROOMS),
      });
      if (!isRing(opened)) throw new Error(opened.code);
      return wrap.ring(opened);
    };
    const shared = {
      features: featureMask([
        ...(options.legacy === true ? [] : [VirtioFeature.VERSION_1]),
        ...(options.features ?? []),
      ]),
      mtu: options.mtu ?? 1500,
      linkUp: options.linkUp ?? true,
    };
    this.receive = new SwitchedReceiveQueue({
      ...shared,
      ring: ring(this.receiver, blocks[0]!),
      block: blocks[0]!,
      active: options.active ?? true,
      filter: options.filter === undefined ? null : new ReceiveFilter(filterState(options.filter)),
      hash: options.hash ?? null,
      rss: options.rss ?? null,
      follows: options.follows ?? false,
      slot: port,
    });
    this.receive.resume();
    domain.attach(port, pair, this.receive);
    this.transmit = new TransmitQueue({
      ...shared,
      ring: ring(this.transmitter, blocks[1]!),
      block: blocks[1]!,
      port: makePort?.(domain) ?? new SwitchPort(domain, port, pair, blocks[1]!),
    });
    this.transmit.resume();
  }

  /**
   * Makes a frame under a header available, framed as its parts, with what `options` say in a table; without any parts all
   * of it is one buffer.
   */
  send(
    frame: Uint8Array,
    header = netHeader({}),
    parts: readonly number[] = [],
    options: AddOptions = {},
  ): number {
    if (parts.length === 0) {
      const id = this.transmitter.add({ readable: [Uint8Array.of(...header, ...frame)] }, options);
      this.transmitter.publish();
      return id;
    }
    const readable = [header];
    let at = 0;
    for (const part of parts) {
      if (at >= frame.length) break;
      readable.push(frame.subarray(at, at + part));
      at += part;
    }
    if (at < frame.length) readable.push(frame.subarray(at));
    const id = this.transmitter.add({ readable }, options);
    this.transmitter.publish();
    return id;
  }

  post(count: number, ...sizes: readonly number[]): void {
    for (let i = 0; i < count; i++) this.receiver.add({ writable: sizes });
    this.receiver.publish();
  }

  /** Frames received, each with its header in front. */
  collect(): UsedChain[] {
    return this.receiver.collect();
  }

  countReceive(counter: QueueCounter): number {
    return this.blocks[0].counters[counter]!;
  }

  countTransmit(counter: QueueCounter): number {
    return this.blocks[1].counters[counter]!;
  }
}

export interface SwitchFixture {
  readonly domain: SwitchDomain;
  readonly pairs: readonly SwitchedPair[];
  /** Queues reported to the owner, since the last turn. */
  readonly settled: SwitchedReceiveQueue[];
  /** Polls one pair's transmit queue as a worker does. */
  turn(pair: SwitchedPair, budget?: number): number;
}

/** One function for each of `options`, at ports 0, 1, ... */
export function switchFixture(...options: readonly FunctionOptions[]): SwitchFixture {
  const settled: SwitchedReceiveQueue[] = [];
  const domain = new SwitchDomain({ seed: 1, settled: (queue) => settled.push(queue) });
  const pairs = options.map((each, port) => new SwitchedPair(port, each));
  for (const pair of pairs) pair.open(domain);
  const turn = (pair: SwitchedPair, budget = 64): number => {
    settled.length = 0;
    domain.begin();
    const worked = pair.transmit.poll(budget);
    domain.flush();
    return worked;
  };
  return { domain, pairs, settled, turn };
}
