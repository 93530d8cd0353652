/**
 * datapath.ts: the main thread's side of the workers.
 *
 * Theory
 *   A queue pair belongs to one worker, chosen by the fewest pairs when the device first uses the pair, so that the
 *   TAP descriptor of a pair has one reader and one writer; later it may follow its load to another one (balancer.ts).
 *   Functions that reach each other through the eswitch are of one domain, and all its pairs belong to the worker that got
 *   the first. Who needs a pair beside another says so. Every change to a queue (attach, other memory, other interrupt,
 *   other filter, detach) is the same message: its whole configuration, or none. `settle()` resolves when every worker
 *   has carried out everything posted before; only then may memory be unmapped or a reply be sent.
 *
 * Invariants
 *   I1  messages to one worker are carried out in order.
 *   I2  a slot number is not given to another queue before its worker confirmed the former one's detachment.
 *
 * Limits  DOORBELLS_MAX slots per worker; WORKER_ANSWER_MS to answer, after which it is watched for as long again: if it
 *         takes no turn, although it could, the process is no longer believed and ends (a successor takes its devices).
 */
import type { WindowMemory } from '@virtnet/engine-virtqueue';
import type { Arena } from '@virtnet/host-linux';
import { closeAll, eventfd, eventfdSignal, processorWaitMs } from '@virtnet/host-linux';
import { DOORBELLS_MAX, LongRuns, MailboxSender } from '@virtnet/host-workers';
import { MAIN_LANE } from '@virtnet/wire';
import type {
  QueueConfig,
  RegionMessage,
  UplinkConfig,
  WorkerMessage,
  WorkerReport,
  WorkerStart,
} from './datapath-protocol.js';
import type { DatapathThreads } from './datapath-threads.js';
import { WORKER_ANSWER_MS } from './limits.js';
import { SCRATCH_BYTES } from './scratch.js';

/** Whom a worker's reports about a slot concern. */
export interface SlotOwner {
  onFault(queue: number, report: Extract<WorkerReport, { kind: 'fault' }>): void;
  onInterrupt(queue: number): void;
}

/** A program in one file has its threads' in one file beside it; as modules, one beside this one. */
const WORKER = new URL(import.meta.url.endsWith('.cjs') ? './worker.cjs' : './worker.js', import.meta.url)
  .href;

/** Starts the threads of a datapath, which take about as long as what else it needs. */
export function startThreads(count: number): LongRuns<WorkerStart> {
  return new LongRuns(WORKER, count);
}

type WorkersWanted = Pick<DatapathThreads, 'count' | 'processors'> & {
  /** Guests wait: workers begin before their loops are compiled. */
  readonly cold?: boolean;
  /** Threads that were started already, `count` of them. */
  readonly runs?: LongRuns<WorkerStart>;
};

interface Slot {
  readonly owner: SlotOwner;
  readonly queue: number;
}

/** Where a queue lives. */
export interface Place {
  readonly worker: number;
  readonly slot: number;
}

/** More can be said to begin with the last of them. */
type Unsent =
  | Exclude<WorkerMessage, { kind: 'begin' }>
  | { readonly kind: 'begin'; readonly slots: number[] };

interface WorkerState {
  readonly mailbox: MailboxSender<WorkerMessage>;
  /** Not sent yet: what belongs together is one message, which is much cheaper. */
  readonly outbox: Unsent[];
  readonly slots: (Slot | null)[];
  readonly free: number[];
  pairs: number;
  ready: boolean;
}

/** What tells a worker that stands still from one that is not let run. */
export interface WorkerAccount {
  readonly heartbeat: number;
  /** Of all threads of the process. */
  readonly processorWaitMs: number;
}

/** Whether a worker did nothing in WORKER_ANSWER_MS that nobody kept it from. */
export function isStuck(before: WorkerAccount, now: WorkerAccount): boolean {
  const keptMs = now.processorWaitMs - before.processorWaitMs;
  return now.heartbeat === before.heartbeat && keptMs < WORKER_ANSWER_MS / 2;
}

/** A worker failed: the process cannot go on. */
export class WorkerFault extends Error {
  override readonly name = 'WorkerFault';
  /** Its progress lane; null: nobody knows which. */
  readonly lane: number | null;

  constructor(message: string, lane: number | null) {
    super(message);
    this.lane = lane;
  }
}

/** What a device needs of the datapath. */
export type DatapathPort = Pick<
  Datapath,
  | 'choosePairWorker'
  | 'releasePairWorker'
  | 'place'
  | 'vacate'
  | 'configure'
  | 'begin'
  | 'memory'
  | 'kick'
  | 'settle'
  | 'ask'
>;

/** So many messages are not kept waiting for more. */
const TOLD_AT_ONCE = 16;

export class Datapath {
  readonly #workers: WorkerState[] = [];
  readonly #runs: LongRuns<WorkerStart>;
  readonly #wakeFds: readonly number[];
  readonly #pending = new Map<number, { readonly resolve: () => void; timer: NodeJS.Timeout }>();
  /** What workers were asked and have not answered, by the number of the question. */
  readonly #questions = new Map<number, () => void>();
  /** Workers that are being asked: one question at a time. */
  readonly #asked = new Map<number, Promise<number | null>>();
  /** Turns each worker had taken when it was last looked at. */
  readonly #turns = new Map<number, number>();
  readonly #dirty = new Set<number>();
  /** Worker of each switch domain, for good. */
  readonly #domains = new Map<number, number>();
  readonly #ready: Promise<void>;
  /** Messages not sent yet. */
  #told = 0;
  /** Those who wait for what is not sent yet. */
  #batch: PromiseWithResolvers<void> | null = null;
  #nextSync = 1;
  #stopping = false;

  /** `onFatal` is told of anything after which the process must not go on. */
  constructor(
    arena: Arena,
    { count, processors, cold = false, runs = startThreads(count) }: WorkersWanted,
    onFatal: (reason: Error) => void,
    progressAddress = 0n,
    window: WindowMemory | null = null,
  ) {
    const wakeFds = Array.from({ length: count }, () => eventfd());
    const scratches = wakeFds.map(() => arena.mapAnonymous(SCRATCH_BYTES));
    if (scratches.some((at) => at < 0)) throw new Error(`no memory for ${count} workers`);
    this.#wakeFds = wakeFds;
    this.#runs = runs;
    const begun = runs.begin(
      (index) => ({
        arenaBase: arena.base,
        arenaBytes: arena.buffer.byteLength,
        window,
        scratchAt: scratches[index]!,
        wakeFd: wakeFds[index]!,
        processors,
        progressAddress,
        progressLane: MAIN_LANE + 1 + index,
        cold,
      }),
      (index, error) => {
        if (!this.#stopping)
          onFatal(
            new WorkerFault(
              `datapath worker ${index} ended: ${error?.stack ?? 'by itself'}`,
              MAIN_LANE + 1 + index,
            ),
          );
      },
    );
    const readies: Promise<void>[] = [];
    for (const run of begun) {
      const state: WorkerState = {
        mailbox: new MailboxSender<WorkerMessage>(run.port, run.control, () =>
          eventfdSignal(wakeFds[run.index]!),
        ),
        outbox: [],
        slots: [],
        free: [],
        pairs: 0,
        ready: false,
      };
      this.#workers.push(state);
      readies.push(
        new Promise((resolve) => {
          run.port.on('message', (report: WorkerReport) => {
            if (report.kind === 'ready') resolve();
            else this.#onReport(state, report);
          });
        }),
      );
    }
    this.#ready = Promise.all(readies).then(() => undefined);
    this.#onTimeout = () =>
      onFatal(new WorkerFault(`a datapath worker did not answer within ${WORKER_ANSWER_MS} ms`, null));
  }

  readonly #onTimeout: () => void;

  /** Resolves when every worker has compiled its loops, or runs without. */
  get ready(): Promise<void> {
    return this.#ready;
  }

  /**
   * The worker with the fewest pairs, or the one of the switch domain the pair belongs to, or `beside`, which is one of
   * these; the caller keeps the answer for both queues of the pair.
   */
  choosePairWorker(domain: number | null, beside?: number): number {
    const worker = beside ?? (domain === null ? this.#leastBusy() : this.#workerOf(domain));
    this.#workers[worker]!.pairs++;
    return worker;
  }

  releasePairWorker(worker: number): void {
    this.#workers[worker]!.pairs--;
  }

  /** Reserves a slot for a queue; null when the worker is full. */
  place(worker: number, owner: SlotOwner, queue: number): Place | null {
    const state = this.#workers[worker]!;
    const slot = state.free.pop() ?? state.slots.length;
    if (slot >= DOORBELLS_MAX) return null;
    state.slots[slot] = { owner, queue };
    return { worker, slot };
  }

  /** Gives a slot back; its queue must have been detached and settled (I2). */
  vacate(place: Place): void {
    const state = this.#workers[place.worker]!;
    state.slots[place.slot] = null;
    state.free.push(place.slot);
  }

  /** `ahead`: it holds only from `begin` on. */
  configure(device: number, place: Place, config: QueueConfig | null, ahead = false): void {
    this.#post(place.worker, { kind: 'queue', device, slot: place.slot, config, ahead });
  }

  /** What a queue's worker was told ahead holds now; much cheaper than to tell it. */
  begin({ worker, slot }: Place): void {
    const last = this.#workers[worker]!.outbox.at(-1);
    if (last?.kind === 'begin' && last.slots.length < TOLD_AT_ONCE) {
      last.slots.push(slot);
      this.#told++;
    } else this.#post(worker, { kind: 'begin', slots: [slot] });
  }

  /** Tells `worker` the memory of a device; null forgets it. */
  memory(worker: number, device: number, regions: readonly RegionMessage[] | null): void {
    this.#post(worker, { kind: 'memory', device, regions });
  }

  /** The driver kicked a queue through its notification register. */
  kick(place: Place): void {
    this.#workers[place.worker]!.mailbox.ring(place.slot);
  }

  /**
   * Resolves when everything told so far has been carried out. It is sent with what others tell in the same breath: of a
   * takeover each message costs more than what it says.
   */
  settle(): Promise<void> {
    if (this.#dirty.size === 0) return Promise.resolve();
    this.#batch ??= Promise.withResolvers<void>();
    const batch = this.#batch;
    if (this.#told >= TOLD_AT_ONCE) this.#send(batch);
    else
      queueMicrotask(() => {
        if (this.#batch === batch) this.#send(batch);
      });
    return batch.promise;
  }

  #send(batch: PromiseWithResolvers<void>): void {
    this.#batch = null;
    this.#told = 0;
    const waits: Promise<void>[] = [];
    for (const worker of this.#dirty) {
      const id = this.#nextSync++;
      waits.push(
        new Promise((resolve) => {
          const timer = setTimeout(() => this.#overdue(worker, id, null), WORKER_ANSWER_MS);
          this.#pending.set(id, { resolve, timer });
        }),
      );
      const { mailbox, outbox } = this.#workers[worker]!;
      mailbox.post({ kind: 'several', messages: [...outbox.splice(0), { kind: 'sync', id }] });
    }
    this.#dirty.clear();
    void Promise.all(waits).then(() => batch.resolve());
  }

  /** It is believed for as long as it takes turns, or as its process does not get the processors that it wants. */
  #overdue(worker: number, id: number, before: WorkerAccount | null): void {
    const waiting = this.#pending.get(id);
    if (waiting === undefined) return;
    const { heartbeat } = this.#workers[worker]!.mailbox;
    const now = { heartbeat, processorWaitMs: processorWaitMs(process.pid) };
    if (before !== null && isStuck(before, now)) this.#onTimeout();
    else waiting.timer = setTimeout(() => this.#overdue(worker, id, now), WORKER_ANSWER_MS);
  }

  /**
   * Asks a worker whether it turns: milliseconds until it has heard that and said so; null when it does not in `withinMs`,
   * which is nobody's end.
   */
  ask(worker: number, withinMs: number): Promise<number | null> {
    const known = this.#asked.get(worker);
    if (known !== undefined) return known;
    const id = this.#nextSync++;
    const askedAt = performance.now();
    const { promise, resolve } = Promise.withResolvers<number | null>();
    const end = (answer: number | null) => {
      clearTimeout(timer);
      this.#questions.delete(id);
      this.#asked.delete(worker);
      resolve(answer);
    };
    const timer = setTimeout(() => end(null), withinMs);
    this.#questions.set(id, () => end(performance.now() - askedAt));
    this.#asked.set(worker, promise);
    this.#workers[worker]!.mailbox.post({ kind: 'sync', id });
    return promise;
  }

  /** Whether every worker took a turn since this was last asked, or sleeps. */
  getsOn(): boolean {
    let all = true;
    for (const [worker, { mailbox }] of this.#workers.entries()) {
      const { heartbeat, sleeping } = mailbox;
      all &&= sleeping || this.#turns.get(worker) !== heartbeat;
      this.#turns.set(worker, heartbeat);
    }
    return all;
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    for (const worker of this.#workers) worker.mailbox.post({ kind: 'stop' });
    await this.#runs.finished();
    closeAll(this.#wakeFds);
  }

  /** Makes a TAP the uplink of a switch domain; null: none. */
  uplink(domain: number, uplink: UplinkConfig | null): void {
    const { mailbox, outbox } = this.#workers[this.#workerOf(domain)]!;
    mailbox.post({ kind: 'several', messages: [...outbox.splice(0), { kind: 'uplink', domain, uplink }] });
  }

  #workerOf(domain: number): number {
    let worker = this.#domains.get(domain);
    if (worker === undefined) {
      worker = this.#leastBusy();
      this.#domains.set(domain, worker);
    }
    return worker;
  }

  #leastBusy(): number {
    let best = 0;
    for (let i = 1; i < this.#workers.length; i++) {
      if (this.#workers[i]!.pairs < this.#workers[best]!.pairs) best = i;
    }
    return best;
  }

  #post(worker: number, message: Unsent): void {
    this.#workers[worker]!.outbox.push(message);
    this.#dirty.add(worker);
    this.#told++;
  }

  #onReport(state: WorkerState, report: Exclude<WorkerReport, { kind: 'ready' }>): void {
    if (report.kind === 'synced') {
      this.#questions.get(report.id)?.();
      const waiting = this.#pending.get(report.id);
      if (waiting === undefined) return;
      this.#pending.delete(report.id);
      clearTimeout(waiting.timer);
      waiting.resolve();
      return;
    }
    const slot = state.slots[report.slot];
    if (slot === null || slot === undefined) return; // a report that crossed the detachment
    if (report.kind === 'fault') slot.owner.onFault(slot.queue, report);
    else slot.owner.onInterrupt(slot.queue);
  }
}
