/**
 * device-queues.ts: brings the workers in line with what a function's queues should be.
 *
 * Theory
 *   The device says for each queue what its configuration should be now, or that it should not run. `reconcile`
 *   compares with what the workers were told last and posts the differences, at once unless a former call is not
 *   finished; calls are carried out one after the other. What a successor will want can be told ahead. So a reset, a
 *   changed vector, other memory or a takeover all take the same road.
 *   `move` has another worker work a pair: the one that has it lets go of its queues, and only when that is confirmed the
 *   other one goes on where the state page says, as a successor would. It looks at each ring, for a kick that came between
 *   the two, and interrupts once. Whatever is not wanted any more by then is not worked again.
 *
 * Invariants
 *   I1  when `reconcile` resolves, every worker works exactly the wanted queues with exactly the current memory.
 *   I2  both queues of a pair live on one worker; so do all of a function with a TAP whose driver may steer (RSS): a
 *       frame of any queue of the TAP may be for any receive queue. So they only move together.
 *   I3  no queue is worked by two workers.
 *
 * Limits  see datapath.ts.
 */

import { hasFeature, NetFeature } from '@virtnet/wire';
import type { DatapathPort, Place, SlotOwner } from './datapath.js';
import type { QueueConfig } from './datapath-protocol.js';
import type { DeviceMemory } from './device-memory.js';

/** What a queue should be, or null: it should not run. */
export type WantedQueue = (queue: number) => QueueConfig | null;

/** Pairs of a function that can only move together. */
export interface PairsTogether {
  readonly pairs: readonly number[];
  readonly worker: number;
  /** They have to be where they are, for the sake of others. */
  readonly stay: boolean;
}

interface Home {
  worker: number;
  /** Attached queues of the pair. */
  queues: number;
  /** It has to be where the function's other pairs are. */
  readonly together: boolean;
}

interface AttachedQueue {
  place: Place;
  config: QueueConfig;
  /** Its worker knows it and does not work it yet. */
  ahead: boolean;
}

function sameConfig(a: QueueConfig, b: QueueConfig): boolean {
  for (const key of Object.keys(a) as (keyof QueueConfig)[]) {
    if (key !== 'signalAtOnce' && a[key] !== b[key]) return false;
  }
  return true;
}

export class DeviceQueues {
  readonly #device: number;
  readonly #domain: () => number | null;
  readonly #datapath: DatapathPort;
  readonly #memory: DeviceMemory;
  readonly #owner: SlotOwner;
  readonly #attached = new Map<number, AttachedQueue>();
  /** Of each pair in use. */
  readonly #pairs = new Map<number, Home>();
  readonly #memoryAt = new Set<number>();
  #chain: Promise<unknown> = Promise.resolve();
  /** Calls of `reconcile` not finished: a queue that is leaving is held by its worker until the end. */
  #turns = 0;

  /** `domain`: whose pairs have to be worked by one worker with the function's, or null; asked when a pair is first used. */
  constructor(
    device: number,
    domain: () => number | null,
    datapath: DatapathPort,
    memory: DeviceMemory,
    owner: SlotOwner,
  ) {
    this.#device = device;
    this.#domain = domain;
    this.#datapath = datapath;
    this.#memory = memory;
    this.#owner = owner;
  }

  /** Whether any worker holds this device's memory, so that a change of memory has to be told. */
  get busy(): boolean {
    return this.#attached.size > 0 || this.#turns > 0;
  }

  attached(queue: number): boolean {
    return this.#attached.has(queue);
  }

  /** A worker works `queue`, or was told to. */
  works(queue: number): boolean {
    return this.#attached.get(queue)?.ahead === false;
  }

  /** Workers that have queues of the function. */
  get workers(): ReadonlySet<number> {
    return this.#memoryAt;
  }

  /** The driver kicked `queue`; false when it is not attached. */
  kick(queue: number): boolean {
    const entry = this.#attached.get(queue);
    if (entry === undefined) return false;
    this.#datapath.kick(entry.place);
    return true;
  }

  /**
   * Makes queues 0..count-1 what `wanted` says. With `memoryChanged` every attached queue is given the new memory.
   * `beforeAttach` runs right before a queue is posted that was not attached.
   */
  reconcile(
    count: number,
    wanted: WantedQueue,
    memoryChanged: boolean,
    beforeAttach: (queue: number) => void,
  ): Promise<void> {
    return this.#inTurn(() => this.#apply(count, wanted, memoryChanged, beforeAttach));
  }

  /** Tells the workers what `reconcile` will want, so that it has less to say then. No queue is worked yet. */
  goAhead(count: number, wanted: WantedQueue): Promise<void> {
    return this.#inTurn(() => this.#apply(count, wanted, false, null));
  }

  /** Says that what was told ahead holds now; null where that is not all there is to say, which `reconcile` finds out. */
  begin(): Promise<void> | null {
    const entries = [...this.#attached.values()];
    if (this.#turns > 0 || entries.length === 0 || entries.some(({ ahead }) => !ahead)) return null;
    return this.#inTurn(() => {
      for (const entry of entries) {
        entry.ahead = false;
        this.#datapath.begin(entry.place);
      }
      return this.#datapath.settle();
    });
  }

  /** The pairs in use. */
  get groups(): readonly PairsTogether[] {
    const stay = this.#domain() !== null;
    const groups: PairsTogether[] = [];
    const together: number[] = [];
    for (const [pair, home] of this.#pairs) {
      if (home.together) together.push(pair);
      else groups.push({ pairs: [pair], worker: home.worker, stay });
    }
    if (together.length > 0)
      groups.push({ pairs: together, worker: this.#pairs.get(together[0]!)!.worker, stay });
    return groups;
  }

  /**
   * Has `worker` work a pair, and those that have to be where it is. False: they are where they were, or not in use any
   * more; it has no room, they have to stay, or nobody works them yet.
   */
  move(pair: number, worker: number, wanted: WantedQueue): Promise<boolean> {
    return this.#inTurn(() => this.#move(pair, worker, wanted));
  }

  /** The events by which workers interrupt the driver for queues that they have been told of. */
  get interruptFds(): ReadonlySet<number> {
    return new Set([...this.#attached.values()].map(({ config }) => config.interruptFd));
  }

  #inTurn<T>(apply: () => Promise<T>): Promise<T> {
    const alone = this.#turns++ === 0;
    const turn = (alone ? apply() : this.#chain.then(apply)).finally(() => {
      this.#turns--;
    });
    this.#chain = turn.catch(() => undefined);
    return turn;
  }

  async #apply(
    count: number,
    wanted: WantedQueue,
    memoryChanged: boolean,
    beforeAttach: ((queue: number) => void) | null,
  ): Promise<void> {
    const ahead = beforeAttach === null;
    if (memoryChanged) {
      for (const worker of this.#memoryAt)
        this.#datapath.memory(worker, this.#device, this.#memory.messages());
    }
    const leaving: [number, AttachedQueue][] = [];
    for (let queue = 0; queue < count; queue++) {
      const config = wanted(queue);
      const entry = this.#attached.get(queue);
      if (config === null) {
        if (entry === undefined) continue;
        this.#datapath.configure(this.#device, entry.place, null);
        this.#attached.delete(queue);
        leaving.push([queue, entry]);
      } else if (entry === undefined) {
        const place = this.#enter(queue, config);
        if (place === null) continue;
        beforeAttach?.(queue);
        this.#attached.set(queue, { place, config, ahead });
        this.#datapath.configure(this.#device, place, config, ahead);
      } else if (entry.ahead || memoryChanged || !sameConfig(entry.config, config)) {
        const known = entry.ahead && !memoryChanged && sameConfig(entry.config, config);
        if (entry.ahead) beforeAttach?.(queue);
        entry.config = config;
        entry.ahead = ahead;
        if (!known) this.#datapath.configure(this.#device, entry.place, config, ahead);
        else if (!ahead) this.#datapath.begin(entry.place);
      }
    }
    await this.#datapath.settle();
    for (const [queue, entry] of leaving) this.#leave(queue, entry);
    await this.#datapath.settle();
  }

  #enter(queue: number, { features, tapFd }: QueueConfig): Place | null {
    const pair = queue >> 1;
    let home = this.#pairs.get(pair);
    if (home === undefined) {
      const together = tapFd >= 0 && hasFeature(features, NetFeature.RSS);
      const [other] = together ? this.#pairs.values() : [];
      const worker = this.#datapath.choosePairWorker(this.#domain(), other?.worker);
      home = { worker, queues: 0, together };
      this.#pairs.set(pair, home);
    }
    const place = this.#datapath.place(home.worker, this.#owner, queue);
    if (place === null) {
      if (home.queues === 0) this.#leaveWorker(pair, home.worker);
      return null;
    }
    home.queues++;
    this.#tellMemory(home.worker);
    return place;
  }

  async #move(pair: number, worker: number, wanted: WantedQueue): Promise<boolean> {
    const group = this.groups.find(({ pairs }) => pairs.includes(pair));
    if (group === undefined || group.stay || group.worker === worker) return false;
    const moving = [...this.#attached].filter(([queue]) => group.pairs.includes(queue >> 1));
    if (moving.some(([, { ahead }]) => ahead)) return false;
    const places = this.#placeAll(
      worker,
      moving.map(([queue]) => queue),
    );
    if (places === null) return false;
    for (const [, { place }] of moving) this.#datapath.configure(this.#device, place, null);
    await this.#datapath.settle();
    for (const each of group.pairs) {
      this.#datapath.choosePairWorker(null, worker);
      this.#datapath.releasePairWorker(group.worker);
      this.#pairs.get(each)!.worker = worker;
    }
    this.#tellMemory(worker);
    for (const [i, [queue, entry]] of moving.entries()) {
      this.#datapath.vacate(entry.place);
      entry.place = places[i]!;
      const config = wanted(queue);
      if (config === null) {
        this.#attached.delete(queue);
        this.#leave(queue, entry);
        continue;
      }
      entry.config = config;
      this.#datapath.configure(this.#device, entry.place, { ...config, signalAtOnce: true });
    }
    this.#forgetMemory(group.worker);
    await this.#datapath.settle();
    return true;
  }

  /** A place for each of the queues, or null and none. */
  #placeAll(worker: number, queues: readonly number[]): Place[] | null {
    const places: Place[] = [];
    for (const queue of queues) {
      const place = this.#datapath.place(worker, this.#owner, queue);
      if (place !== null) places.push(place);
    }
    if (places.length === queues.length) return places;
    for (const place of places) this.#datapath.vacate(place);
    return null;
  }

  #tellMemory(worker: number): void {
    if (this.#memoryAt.has(worker)) return;
    this.#memoryAt.add(worker);
    this.#datapath.memory(worker, this.#device, this.#memory.messages());
  }

  #leave(queue: number, entry: AttachedQueue): void {
    this.#datapath.vacate(entry.place);
    const pair = queue >> 1;
    const home = this.#pairs.get(pair)!;
    if (--home.queues === 0) this.#leaveWorker(pair, home.worker);
  }

  /** The last queue of a pair has left its worker. */
  #leaveWorker(pair: number, worker: number): void {
    this.#pairs.delete(pair);
    this.#datapath.releasePairWorker(worker);
    this.#forgetMemory(worker);
  }

  /** Unless the worker has a pair of the function. */
  #forgetMemory(worker: number): void {
    for (const other of this.#pairs.values()) if (other.worker === worker) return;
    if (this.#memoryAt.delete(worker)) this.#datapath.memory(worker, this.#device, null);
  }
}
