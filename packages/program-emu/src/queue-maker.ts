/**
 * queue-maker.ts: makes what works a queue of its configuration.
 *
 * Theory
 *   Opening a ring and making the queue around it, and its port, only makes views and objects: nothing of the client's
 *   memory or of the state page is read or written. So a standby does it ahead, for a queue that its owner still works;
 *   where the ring goes on is known when the queue holds.
 *   A queue of a switch, or one whose driver steers, becomes part of what others see: it is made when it holds, around
 *   a ring that was opened ahead.
 *
 * Limits  those of the ring.
 */
import {
  type QueueOptions,
  ReceiveFilter,
  ReceiveQueue,
  SpreadReceiveQueue,
  TransmitQueue,
} from '@virtnet/engine-virtio-net';
import {
  ChainRoom,
  type DeviceRing,
  type GuestMemory,
  isRing,
  openRing,
  PlainRoom,
  type RingFault,
  type RingRooms,
  type WorkedQueue,
} from '@virtnet/engine-virtqueue';
import { ReadTable, WriteTable } from '@virtnet/host-linux';
import { hasFeature, NetFeature, type QueueBlock, VirtioFeature } from '@virtnet/wire';
import type { QueueConfig } from './datapath-protocol.js';
import { CHAIN_SEGMENTS_MAX, FRAME_SEGMENTS_MAX } from './limits.js';
import { TapReceiver } from './tap-receiver.js';
import { TapSender } from './tap-sender.js';

/** What works a queue of a configuration, once its ring was told where to go on. */
export interface MadeQueue {
  readonly ring: DeviceRing;
  /** For a queue that is made when it holds. */
  readonly options: Omit<QueueOptions, 'port'>;
  /** null: it is made when it holds. */
  readonly queue: WorkedQueue | null;
  /** A port that has something to close; null: none. */
  readonly closing: TapSender | TapReceiver | null;
}

export const isMade = (made: MadeQueue | RingFault): made is MadeQueue => 'ring' in made;

/** Where the rings of this thread lay chains out: a poll sends from one ring, and receives into one at a time. */
interface ThreadRooms {
  readonly transmit: Required<RingRooms>;
  readonly receive: Required<RingRooms>;
}

let threadRooms: ThreadRooms | null = null;

/** Made when the thread has its window. */
function roomsOfThread(): ThreadRooms {
  threadRooms ??= {
    transmit: { chainRoom: new ChainRoom(CHAIN_SEGMENTS_MAX, true), plainRoom: new PlainRoom() },
    receive: { chainRoom: new ChainRoom(FRAME_SEGMENTS_MAX, true), plainRoom: new PlainRoom() },
  };
  return threadRooms;
}

export class QueueMaker {
  /** Null: there can be none; undefined: nobody needed it yet. */
  #writes: WriteTable | null | undefined;
  #reads: ReadTable | null | undefined;
  readonly #rooms = roomsOfThread();
  /**
   * By slot, for rings that are given frames: what they have laid out stays until the next one comes. A slot's next ring has
   * its room, because only an event loop would give it back.
   */
  readonly #given: PlainRoom[] = [];

  /** What works the queue of a slot that has none, or what is wrong with its ring. */
  make(slot: number, config: QueueConfig, block: QueueBlock, memory: GuestMemory): MadeQueue | RingFault {
    const { features, direction, active } = config;
    const spread = direction === 'receive' && hasFeature(features, NetFeature.MRG_RXBUF);
    const ring = openRing({
      packed: hasFeature(features, VirtioFeature.RING_PACKED),
      queueSize: config.queueSize,
      memory,
      descriptorAddress: config.descriptorAddress,
      driverAddress: config.driverAddress,
      deviceAddress: config.deviceAddress,
      indirect: hasFeature(features, VirtioFeature.INDIRECT_DESC),
      readsOnly: direction === 'transmit',
      eventIdx: hasFeature(features, VirtioFeature.EVENT_IDX),
      position: null,
      chainSegmentsMax: spread ? FRAME_SEGMENTS_MAX : CHAIN_SEGMENTS_MAX,
      journal: block.journal,
      ...this.#roomsOf(slot, config),
    });
    if (!isRing(ring)) return ring;
    const linkUp = config.linkUp && (direction === 'receive' || active);
    const options = { ring, block, features, mtu: config.mtu, linkUp };
    if (config.switched !== null || (direction === 'receive' && config.rss !== null))
      return { ring, options, queue: null, closing: null };
    if (direction === 'receive') {
      const port = new TapReceiver(config.tapFd, this.#readTable(), config.burstAddress);
      return { ring, options, queue: receiveQueue(config, options, spread, port), closing: port };
    }
    const sender = new TapSender(config.tapFd, this.#writeTable(), config.burstAddress);
    return { ring, options, queue: new TransmitQueue({ ...options, port: sender }), closing: sender };
  }

  close(): void {
    this.#writes?.close();
    this.#reads?.close();
  }

  #roomsOf(slot: number, { direction, switched, rss }: QueueConfig): RingRooms {
    const { transmit, receive } = this.#rooms;
    if (direction === 'transmit') return transmit;
    if (switched === null && rss === null) return receive;
    this.#given[slot] ??= new PlainRoom();
    return { chainRoom: receive.chainRoom, plainRoom: this.#given[slot] };
  }

  /** Of this thread, made when the first queue needs it. */
  #writeTable(): WriteTable | null {
    if (this.#writes === undefined) this.#writes = WriteTable.create();
    return this.#writes;
  }

  #readTable(): ReadTable | null {
    if (this.#reads === undefined) this.#reads = ReadTable.create();
    return this.#reads;
  }
}

function receiveQueue(
  { filter, active, countSizes, hash }: QueueConfig,
  options: Omit<QueueOptions, 'port'>,
  spread: boolean,
  port: TapReceiver,
): WorkedQueue {
  const Receive = spread ? SpreadReceiveQueue : ReceiveQueue;
  return new Receive({
    ...options,
    port,
    active,
    filter: filter === null ? null : new ReceiveFilter(filter),
    countSizes,
    hash,
  });
}
