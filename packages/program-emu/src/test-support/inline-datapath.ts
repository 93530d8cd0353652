/**
 * inline-datapath.ts: the datapath of a test: the loops of two workers, real ones, in this thread, turned by hand.
 *
 * What is posted is carried out by settle(), later than the call, as with a worker on a thread of its own. Every pair
 * begins on worker 0.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { MessageChannel } from 'node:worker_threads';
import type { Arena } from '@virtnet/host-linux';
import { createControl, MailboxReceiver } from '@virtnet/host-workers';
import type { DatapathPort, Place, SlotOwner } from '../datapath.js';
import type { WorkerMessage, WorkerReport } from '../datapath-protocol.js';
import { WorkerLoop } from '../worker-loop.js';

const WORKERS = 2;

interface InlineWorker {
  readonly loop: WorkerLoop;
  /** Posted and not yet carried out. */
  readonly waiting: WorkerMessage[];
  readonly slots: ({ readonly owner: SlotOwner; readonly queue: number } | null)[];
  readonly channel: MessageChannel;
}

export class InlineDatapath implements DatapathPort {
  readonly #workers: InlineWorker[];
  /** Calls of settle that have not resolved. */
  settling = 0;
  /** Nobody answers. */
  silent = false;
  /** What the workers wait for before they answer. */
  hold: Promise<void> = Promise.resolve();
  /** Places of queues that are told ahead and not worked yet. */
  readonly #aheads = new Set<string>();
  /** Of those, how many were worked at last. */
  begun = 0;

  constructor(arena: Arena) {
    this.#workers = Array.from({ length: WORKERS }, () => {
      const channel = new MessageChannel();
      const mailbox = new MailboxReceiver<WorkerMessage>(channel.port1, createControl());
      const slots: InlineWorker['slots'] = [];
      const loop = new WorkerLoop(arena, mailbox, -1, (report) => this.#report(slots, report));
      return { loop, waiting: [], slots, channel };
    });
  }

  /** Of worker 0. */
  get loop(): WorkerLoop {
    return this.#workers[0]!.loop;
  }

  get aheads(): number {
    return this.#aheads.size;
  }

  choosePairWorker(_domain: number | null, beside = 0): number {
    return beside;
  }

  releasePairWorker(): void {}

  place(worker: number, owner: SlotOwner, queue: number): Place {
    const { slots } = this.#workers[worker]!;
    const free = slots.indexOf(null);
    const slot = free < 0 ? slots.length : free;
    slots[slot] = { owner, queue };
    return { worker, slot };
  }

  vacate({ worker, slot }: Place): void {
    this.#workers[worker]!.slots[slot] = null;
  }

  configure(...[device, place, config, ahead]: Parameters<DatapathPort['configure']>): void {
    if (ahead === true && config !== null) this.#aheads.add(keyOf(place));
    else this.#aheads.delete(keyOf(place));
    const { worker, slot } = place;
    this.#workers[worker]!.waiting.push({ kind: 'queue', device, slot, config, ahead: ahead === true });
  }

  begin(place: Place): void {
    if (this.#aheads.delete(keyOf(place))) this.begun++;
    this.#workers[place.worker]!.waiting.push({ kind: 'begin', slots: [place.slot] });
  }

  memory(...[worker, device, regions]: Parameters<DatapathPort['memory']>): void {
    this.#workers[worker]!.waiting.push({ kind: 'memory', device, regions });
  }

  kick({ worker, slot }: Place): void {
    this.#workers[worker]!.loop.wake(slot);
  }

  getsOn(): boolean {
    return true;
  }

  async ask(): Promise<number | null> {
    if (this.silent) return null;
    await this.settle();
    return 0.25;
  }

  async settle(): Promise<void> {
    this.settling++;
    await this.hold;
    await nextTurn();
    this.hear();
    while (this.#workers.some(({ loop }) => loop.turn() > 0)) {
      // until every queue is empty
    }
    this.settling--;
  }

  /** The workers hear what they were told, and work nothing. */
  hear(): void {
    for (const { loop, waiting } of this.#workers)
      for (const message of waiting.splice(0)) loop.handle(message);
  }

  close(): void {
    for (const { loop, channel } of this.#workers) {
      loop.close();
      channel.port1.close();
    }
  }

  #report(slots: InlineWorker['slots'], report: WorkerReport): void {
    const slot = 'slot' in report ? slots[report.slot] : null;
    if (slot === null || slot === undefined) return;
    if (report.kind === 'fault') slot.owner.onFault(slot.queue, report);
    else if (report.kind === 'interrupt') slot.owner.onInterrupt(slot.queue);
  }
}

const keyOf = ({ worker, slot }: Place): string => `${worker}/${slot}`;
