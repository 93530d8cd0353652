/**
 * balancer.ts: has queue pairs go to another worker when theirs has too much to do and another one little.
 *
 * Theory
 *   A pair begins on the worker with the fewest pairs (datapath.ts). Once a second the active emulator reads from the state
 *   pages what the pairs have moved since, and asks pair-balance.ts. What it names is moved by its device in the device's
 *   own turn (device-queues.ts), so never while a reset, a change of memory or a handover of the device is under way. A
 *   death in the middle leaves nothing behind: a successor gives pairs to workers anew.
 *   What a pair costs its worker is estimated. A frame into a TAP or out of it takes 0.8 to 1.2 us with nobody behind it, and
 *   3 to 4.5 with a bridge; one between guests 0.1; the copy of a kilobyte 0.1. Times would be exact, but workers would have
 *   to take them.
 *
 * Limits  one move at a time. Without a second worker it does nothing.
 */
import type { RepresentorKind } from '@virtnet/engine-control';
import { QUEUE_COUNTERS_AT, QueueCounter, queueBlockAt } from '@virtnet/wire';
import type { PairsTogether } from './device-queues.js';
import { type LoadedGroup, PairBalance } from './pair-balance.js';

const PERIOD_MS = 1000;
/** Microseconds of a worker. */
const KERNEL_FRAME_US = 3;
const FRAME_US = 0.1;
const BYTE_US = 0.1 / 1024;

/** A device as far as it is balanced. */
export interface BalancedDevice {
  readonly vuid: string;
  readonly representor: RepresentorKind;
  readonly page: { readonly buffer: ArrayBuffer };
  readonly pairGroups: readonly PairsTogether[];
  movePair(pair: number, worker: number): Promise<boolean>;
}

export interface BalancerPorts {
  /** Devices that are served. */
  devices(): Iterable<BalancedDevice>;
  /** A group of pairs is about to move. */
  onMove(move: {
    readonly vuid: string;
    readonly pairs: readonly number[];
    readonly from: number;
    readonly to: number;
  }): void;
  /** Tells whoever watches that the main thread gets on. */
  beat(): void;
}

interface DeviceGroup extends LoadedGroup {
  readonly device: BalancedDevice;
  readonly pairs: readonly number[];
}

export class Balancer {
  readonly #workers: number;
  readonly #ports: BalancerPorts;
  readonly #balance: PairBalance;
  /** Microseconds that each pair of a device had cost when it was looked at. */
  readonly #costs = new WeakMap<BalancedDevice, Map<number, number>>();
  #lookedMs: number | null = null;
  #moving = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(workers: number, ports: BalancerPorts) {
    this.#workers = workers;
    this.#ports = ports;
    this.#balance = new PairBalance(workers);
  }

  start(): void {
    if (this.#workers < 2) return;
    this.#timer ??= setInterval(() => void this.look(performance.now()), PERIOD_MS).unref();
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  /** A period is over; resolves when what should move has moved. */
  async look(nowMs: number): Promise<void> {
    const seconds = (nowMs - (this.#lookedMs ?? nowMs)) / 1000;
    this.#lookedMs = nowMs;
    const groups = this.#loads(seconds);
    if (this.#moving || seconds === 0) return;
    const move = this.#balance.next(groups);
    if (move === null) return;
    const { device, pairs, worker: from } = move.group;
    this.#moving = true;
    this.#ports.onMove({ vuid: device.vuid, pairs, from, to: move.to });
    try {
      await device.movePair(pairs[0]!, move.to);
    } finally {
      this.#moving = false;
    }
  }

  /** Groups that have cost anything in the last `seconds`. */
  #loads(seconds: number): DeviceGroup[] {
    const loaded: DeviceGroup[] = [];
    for (const device of this.#ports.devices()) {
      this.#ports.beat();
      const groups = device.pairGroups;
      if (groups.length === 0) continue;
      const costs = this.#costsOf(device);
      const page = new Float64Array(device.page.buffer);
      const frameUs = device.representor === 'tap' ? KERNEL_FRAME_US : FRAME_US;
      for (const { pairs, worker, stay } of groups) {
        let costUs = 0;
        for (const pair of pairs) {
          const before = costs.get(pair);
          const now = queueCost(page, 2 * pair, frameUs) + queueCost(page, 2 * pair + 1, frameUs);
          costs.set(pair, now);
          costUs += now - (before ?? now);
        }
        if (costUs === 0) continue;
        const id = `${device.vuid}/${Math.min(...pairs)}`;
        loaded.push({ device, pairs, id, worker, stay, load: costUs / seconds });
      }
    }
    return loaded;
  }

  #costsOf(device: BalancedDevice): Map<number, number> {
    let costs = this.#costs.get(device);
    if (costs === undefined) {
      costs = new Map();
      this.#costs.set(device, costs);
    }
    return costs;
  }
}

/** Microseconds that a queue has cost in all, from its block of a state page. */
function queueCost(page: Float64Array, queue: number, frameUs: number): number {
  const at = queueBlockAt(queue) / Float64Array.BYTES_PER_ELEMENT + QUEUE_COUNTERS_AT;
  return page[at + QueueCounter.FRAMES]! * frameUs + page[at + QueueCounter.BYTES]! * BYTE_US;
}
