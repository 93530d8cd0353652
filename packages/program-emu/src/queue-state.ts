/**
 * queue-state.ts: what the queues of one function should be, worked out from what its driver and client said.
 *
 * Theory
 *   The registers say which queues the driver enabled; a vhost-user frontend adds where a ring begins and which rings
 *   may receive; faults take queues out until a reset. `wanted` puts all of it together into the configuration a
 *   worker is given. It is worked out anew each time: nothing here has to be kept in step.
 *
 * Invariants
 *   I1  `wanted` has no side effect but the memory of an unchanged filter.
 *   I2  a queue that faulted is not wanted before its reset.
 *
 * Limits  the queues of the function.
 */
import type { VirtioPciFunction } from '@virtnet/engine-pci';
import {
  type Moderation,
  type NetDevice,
  RECEIVE_OFFLOADS,
  type ReceiveFilterState,
} from '@virtnet/engine-virtio-net';
import { prepareBlock, type RingExtent, ringExtents, unprepareBlock } from '@virtnet/engine-virtqueue';
import {
  DeviceStatus,
  hasFeature,
  initialRingPosition,
  type QueueBlock,
  QueueWord,
  queueBlock,
  queueWords,
  StatePageHeader,
  VirtioFeature,
} from '@virtnet/wire';
import type { ControlQueueConfig } from './control-queue.js';
import { type QueueConfig, REPORT_INTERRUPT, type SwitchedConfig } from './datapath-protocol.js';
import { type DeviceInterrupts, IrqIndex } from './device-interrupts.js';
import type { DeviceRecord } from './device-record.js';
import type { DeviceSettings } from './device-settings.js';
import type { DeviceTaps } from './device-taps.js';
import type { PageMapping } from './page-mapping.js';

export interface QueueStateParts {
  readonly fn: VirtioPciFunction;
  readonly net: NetDevice;
  readonly page: PageMapping;
  readonly taps: DeviceTaps;
  /** What the function has instead of TAPs, or null. */
  readonly switched: SwitchedConfig | null;
  readonly interrupts: DeviceInterrupts;
  readonly kicks: Map<number, number>;
  readonly mtu: number;
  /** What the operator has set, now. */
  readonly settings: () => DeviceSettings;
}

/** Moderations remembered; forgetting one costs no more than configuring a queue anew. */
const MODERATIONS_KEPT = 512;

export class QueueState {
  /** Events the driver kicks queues with, by queue. */
  readonly kicks: Map<number, number>;
  /** Position set for a queue that is not enabled yet. */
  readonly bases = new Map<number, number>();
  /** Rings a vhost-user frontend switched on or off. */
  readonly ringEnables = new Map<number, boolean>();
  readonly broken = new Set<number>();
  /** Queues continue where their blocks say, and are signalled once: a predecessor's are being taken over. */
  continuing = false;
  readonly #parts: QueueStateParts;
  /** Of queues that somebody asked for: most functions have many that no driver uses. */
  readonly #blocks: (QueueBlock | undefined)[];
  #filter: ReceiveFilterState | null = null;
  #filterKey = '';
  /** The driver's settings that #filter was worked out from. */
  #filteredBy: NetDevice['control'] | null = null;
  /** Moderations in use, one object each, so that an unchanged queue is not configured anew. */
  readonly #moderations = new Map<string, Moderation>();

  constructor(parts: QueueStateParts) {
    this.#parts = parts;
    this.kicks = parts.kicks;
    this.#blocks = parts.fn.queues.map(() => undefined);
  }

  block(queue: number): QueueBlock {
    const known = this.#blocks[queue];
    if (known !== undefined) return known;
    const block = queueBlock(this.#parts.page.buffer, queue);
    this.#blocks[queue] = block;
    return block;
  }

  get driverReady(): boolean {
    return (this.#parts.fn.status & DeviceStatus.DRIVER_OK) !== 0;
  }

  /** Whether the driver agreed to packed rings. */
  get packed(): boolean {
    return hasFeature(this.#parts.fn.driverFeatures, VirtioFeature.RING_PACKED);
  }

  /** Index of the control queue, -1 without one. */
  get controlIndex(): number {
    return this.#parts.net.controlQueueIndex ?? -1;
  }

  /** Whether frames may go to the receive queue of a pair: by the frontend's word if there is one, else MQ's. */
  mayReceive(pair: number): boolean {
    if (this.ringEnables.size > 0) return this.ringEnables.get(pair * 2) === true;
    return this.#parts.net.mayReceive(pair);
  }

  /** Whether the representor's queue of the pair is in use: by the pair, or, where the driver steers, for all pairs. */
  usesTapQueue(pair: number): boolean {
    const { net } = this.#parts;
    if (net.rssSettings() === null) return this.driverReady && this.mayReceive(pair);
    return this.usesPair(pair) && (this.mayReceive(pair) || pair < net.activePairs);
  }

  /** Whether a queue of the pair is enabled, so that the representor needs one for it. */
  usesPair(pair: number): boolean {
    const { queues } = this.#parts.fn;
    return this.driverReady && (queues[2 * pair]?.enabled === true || queues[2 * pair + 1]?.enabled === true);
  }

  /** Whether the control queue should be worked now. */
  get controlWanted(): boolean {
    const index = this.controlIndex;
    return this.driverReady && this.#parts.fn.queues[index]?.enabled === true && !this.broken.has(index);
  }

  /** How the ring of the control queue, which there is, was set up. */
  get controlRing(): ControlQueueConfig {
    const { fn } = this.#parts;
    const {
      size: queueSize,
      descriptorAddress,
      driverAddress,
      deviceAddress,
    } = fn.queues[this.controlIndex]!;
    return {
      ...{ queueSize, descriptorAddress, driverAddress, deviceAddress },
      packed: this.packed,
      indirect: hasFeature(fn.driverFeatures, VirtioFeature.INDIRECT_DESC),
      eventIdx: hasFeature(fn.driverFeatures, VirtioFeature.EVENT_IDX),
    };
  }

  /** What a worker should make of a queue now; null: nothing. */
  wanted(queue: number): QueueConfig | null {
    const { fn, net, page, taps, switched, mtu } = this.#parts;
    const entry = fn.queues[queue]!;
    if (!entry.enabled || !this.driverReady || this.broken.has(queue)) return null;
    const role = net.roleOf(queue);
    if (role === 'control' || role === 'unused') return null;
    const pair = queue >> 1;
    const tapFd = taps.fds[pair]!;
    if (tapFd < 0 && switched === null) return null; // the kernel refused a queue of the representor
    const receive = role === 'receive';
    return {
      direction: role,
      queueSize: entry.size,
      descriptorAddress: entry.descriptorAddress,
      driverAddress: entry.driverAddress,
      deviceAddress: entry.deviceAddress,
      features: (fn.driverFeatures & ~RECEIVE_OFFLOADS) | net.receiveOffloads(),
      mtu,
      linkUp: net.linkUp,
      queue,
      pageAddress: page.address,
      pageBytes: page.buffer.byteLength,
      burstAddress: switched !== null ? 0 : page.burstAddress(queue),
      tapFd,
      switched,
      kickFd: this.kicks.get(queue) ?? -1,
      interruptFd: this.#interruptFd(queue),
      // A started ring that a frontend has switched off: nothing is received, and what is sent is discarded.
      active: receive ? this.mayReceive(pair) : this.ringEnables.get(queue) !== false,
      filter: receive ? this.#filterState() : null,
      countSizes: receive && this.#parts.settings().countSizes,
      hash: receive ? net.hashSettings() : null,
      rss: receive || switched === null ? net.rssSettings() : null,
      follows: receive && switched !== null && this.#parts.settings().aarfs,
      moderation: this.moderation(queue),
      signalAtOnce: this.continuing,
    };
  }

  /**
   * How interrupts of a data queue are moderated: as the driver asks for; if it does not, those of receive queues
   * dynamically or as the operator says.
   */
  moderation(queue: number): QueueConfig['moderation'] {
    const { net, settings } = this.#parts;
    const { usecs, packets } = net.coalescing(queue);
    if (usecs > 0 && packets > 0) return this.#moderation({ mode: 'first-frame', usecs, frames: packets });
    if (net.roleOf(queue) !== 'receive') return null;
    const { dim, moderation } = settings();
    if (dim) return 'dynamic';
    if (moderation === null || moderation.period === 0 || moderation.maxCount === 0) return null;
    const mode = moderation.periodMode === 'event' ? 'last-interrupt' : 'last-frame';
    return this.#moderation({ mode, usecs: moderation.period, frames: moderation.maxCount });
  }

  /**
   * Sets a queue's block to where the queue begins, unless a predecessor's position is continued: that of a queue that
   * runs, or of one that the request under way had started already when the predecessor died over it.
   */
  prepare(queue: number): void {
    if (this.continuing) return;
    const base = this.bases.get(queue) ?? initialRingPosition(this.packed);
    this.bases.delete(queue);
    prepareBlock(this.block(queue), base, requestUnderWay(this.#parts.page.buffer));
  }

  /** Where in the driver's memory the ring of a queue is said to be. */
  ringExtents(queue: number): readonly RingExtent[] {
    const {
      size: queueSize,
      descriptorAddress,
      driverAddress,
      deviceAddress,
    } = this.#parts.fn.queues[queue]!;
    return ringExtents({ queueSize, descriptorAddress, driverAddress, deviceAddress }, this.packed);
  }

  /** Position of a queue nobody works. */
  position(queue: number): number {
    const position = this.block(queue).words[QueueWord.POSITION]!;
    return this.packed ? position : position & 0xffff;
  }

  /** The device was reset. */
  reset(): void {
    for (let queue = 0; queue < this.#blocks.length; queue++) {
      unprepareBlock({ words: queueWords(this.#parts.page.buffer, queue) });
    }
    this.broken.clear();
    this.bases.clear();
    this.ringEnables.clear();
  }

  load(record: Pick<DeviceRecord, 'bases' | 'ringEnables' | 'broken'>): void {
    for (const [queue, base] of Object.entries(record.bases)) this.bases.set(Number(queue), base);
    for (const [queue, on] of Object.entries(record.ringEnables)) this.ringEnables.set(Number(queue), on);
    for (const queue of record.broken) this.broken.add(queue);
  }

  save(): Pick<DeviceRecord, 'bases' | 'ringEnables' | 'broken'> {
    return {
      bases: Object.fromEntries(this.bases),
      ringEnables: Object.fromEntries(this.ringEnables),
      broken: [...this.broken],
    };
  }

  /**
   * The same object as long as the filter is the same, so that an unchanged queue is not configured anew. Worked out once
   * for all queues: with every VLAN it takes half a millisecond, and a driver may add and remove one all day.
   */
  #filterState(): ReceiveFilterState | null {
    const { net } = this.#parts;
    if (this.#filteredBy === net.control) return this.#filter;
    this.#filteredBy = net.control;
    const state = net.filterState();
    const key = state === null ? '' : JSON.stringify(state);
    if (key !== this.#filterKey) {
      this.#filterKey = key;
      this.#filter = state;
    }
    return this.#filter;
  }

  #moderation(moderation: Moderation): Moderation {
    const key = `${moderation.mode} ${moderation.usecs} ${moderation.frames}`;
    const known = this.#moderations.get(key);
    if (known !== undefined) return known;
    if (this.#moderations.size >= MODERATIONS_KEPT) this.#moderations.clear();
    this.#moderations.set(key, moderation);
    return moderation;
  }

  #interruptFd(queue: number): number {
    const route = this.#parts.fn.routeOf(queue);
    if (route.kind === 'none') return -1;
    if (route.kind === 'msix') return this.#parts.interrupts.fd(IrqIndex.MSIX, route.vector);
    return REPORT_INTERRUPT;
  }
}

/** Number of the client's request that is being worked; 0 while none is. */
function requestUnderWay(page: ArrayBuffer): number {
  const words = new Uint32Array(page, 0, StatePageHeader.sizeBytes / 4);
  const { requestSequence, requestUnderWay: underWay } = StatePageHeader.at;
  return words[underWay / 4] === 1 ? (words[requestSequence / 4]! + 1) >>> 0 : 0;
}
