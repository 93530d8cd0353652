/**
 * inline-datapath.ts: the datapath of a test: the real worker loop, in this thread, turned by hand.
 *
 * What is posted is carried out by settle(), later than the call, as with a worker on a thread of its own.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { MessageChannel } from 'node:worker_threads';
import type { Arena } from '@virtnet/host-linux';
import { createControl, MailboxReceiver } from '@virtnet/host-workers';
import type { DatapathPort, Place, SlotOwner } from '../datapath.js';
import type { WorkerMessage, WorkerReport } from '../datapath-protocol.js';
import { WorkerLoop } from '../worker-loop.js';

export class InlineDatapath implements DatapathPort {
  readonly loop: WorkerLoop;
  /** Posted and not yet carried out. */
  readonly waiting: WorkerMessage[] = [];
  /** Calls of settle that have not resolved. */
  settling = 0;
  /** Nobody answers. */
  silent = false;
  /** What the workers wait for before they answer. */
  hold: Promise<void> = Promise.resolve();
  /** Queues that are told ahead and not worked yet. */
  readonly #aheads = new Set<number>();
  /** Of those, how many were worked at last. */
  begun = 0;
  readonly #slots: ({ readonly owner: SlotOwner; readonly queue: number } | null)[] = [];
  readonly #channel = new MessageChannel();

  constructor(arena: Arena) {
    const mailbox = new MailboxReceiver<WorkerMessage>(this.#channel.port1, createControl());
    this.loop = new WorkerLoop(arena, mailbox, -1, (report) => this.#report(report));
  }

  get aheads(): number {
    return this.#aheads.size;
  }

  choosePairWorker(): number {
    return 0;
  }

  releasePairWorker(): void {}

  place(worker: number, owner: SlotOwner, queue: number): Place {
    const free = this.#slots.indexOf(null);
    const slot = free < 0 ? this.#slots.length : free;
    this.#slots[slot] = { owner, queue };
    return { worker, slot };
  }

  vacate({ slot }: Place): void {
    this.#slots[slot] = null;
  }

  configure(...[device, { slot }, config, ahead]: Parameters<DatapathPort['configure']>): void {
    if (ahead === true && config !== null) this.#aheads.add(slot);
    else this.#aheads.delete(slot);
    this.waiting.push({ kind: 'queue', device, slot, config, ahead: ahead === true });
  }

  begin({ slot }: Place): void {
    if (this.#aheads.delete(slot)) this.begun++;
    this.waiting.push({ kind: 'begin', slots: [slot] });
  }

  memory(...[, device, regions]: Parameters<DatapathPort['memory']>): void {
    this.waiting.push({ kind: 'memory', device, regions });
  }

  kick({ slot }: Place): void {
    this.loop.wake(slot);
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
    while (this.loop.turn() > 0) {
      // until every queue is empty
    }
    this.settling--;
  }

  /** The worker hears what it was told, and works nothing. */
  hear(): void {
    for (const message of this.waiting.splice(0)) this.loop.handle(message);
  }

  close(): void {
    this.loop.close();
    this.#channel.port1.close();
  }

  #report(report: WorkerReport): void {
    const slot = 'slot' in report ? this.#slots[report.slot] : null;
    if (slot === null || slot === undefined) return;
    if (report.kind === 'fault') slot.owner.onFault(slot.queue, report);
    else if (report.kind === 'interrupt') slot.owner.onInterrupt(slot.queue);
  }
}
