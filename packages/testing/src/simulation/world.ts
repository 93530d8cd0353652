/**
 * world.ts: time, processes and what outlives them, in one thread and repeatable from a seed.
 *
 * Theory
 *   Everything that happens is an event with a time; latencies are drawn from the seed, so that every order that the
 *   transports permit comes up. An event belongs to a process or to nobody (kernel, guests, operator); events of a dead
 *   process do not happen. Code of a process calls `point` between any two steps that others can see, and may end there
 *   like a killed process: an exception that nobody catches but the loop, after which all of its objects are abandoned.
 *   What the kernel keeps for processes (sockets, memory, events) is an object with holders; whoever dies lets go of it.
 *
 * Invariants
 *   I1  the same seed gives the same events in the same order: nothing here looks at a clock, or at an order that is
 *       not its own.
 *   I2  events of equal time happen in the order in which they were planned.
 */
import { crc32 } from '@virtnet/engine-recovery';
import { Crash, CrashPoints } from '../crash-points.js';
import { FuzzRandom } from '../fuzz/fuzz-random.js';

/** What must never happen has happened. */
export class SimViolation extends Error {
  override readonly name = 'SimViolation';
}

/** A guest made the code that works it fail. */
export class Poison extends Error {
  override readonly name = 'Poison';
}

export type ProcessKind = 'controller' | 'keeper' | 'emulator';
export type SimCause = 'killed' | 'exception' | 'exit' | 'silent';

export class SimProcess {
  readonly pid: number;
  readonly kind: ProcessKind;
  alive = true;
  cause: SimCause | null = null;
  readonly handles = new Set<SimHandle>();
  /** Called when it is dead, by whom the kernel tells. */
  readonly mourners = new Set<() => void>();

  constructor(pid: number, kind: ProcessKind) {
    this.pid = pid;
    this.kind = kind;
  }
}

/** What the kernel keeps as long as somebody holds it. */
export class SimObject {
  readonly name: string;
  holders = 0;
  /** Nobody holds it any more. */
  onGone: () => void = () => {};

  constructor(name: string) {
    this.name = name;
  }
}

/** One process's descriptor of an object; `owner` null: it is in a message or a guest's. */
export class SimHandle {
  readonly object: SimObject;
  #owner: SimProcess | null;
  #open = true;

  constructor(object: SimObject, owner: SimProcess | null) {
    this.object = object;
    this.#owner = owner;
    object.holders++;
    owner?.handles.add(this);
  }

  /** It came out of a message. */
  give(owner: SimProcess): this {
    this.#owner = owner;
    owner.handles.add(this);
    return this;
  }

  release(): void {
    if (!this.#open) throw new SimViolation(`a descriptor of ${this.object.name} was closed twice`);
    this.#open = false;
    this.#owner?.handles.delete(this);
    if (--this.object.holders === 0) this.object.onGone();
  }
}

interface SimEvent {
  readonly due: number;
  readonly order: number;
  readonly owner: SimProcess | null;
  readonly label: string;
  readonly run: () => void;
  cancelled: boolean;
}

/** Of a thousand events of a process, how many it begins and does not survive. */
const CRASH_PERMILLE = 3;
/** Where steps follow one another that others see: requests and frames. */
const DELICATE = /^(poll|request|hotplug|unplug|modify)/;
const DELICATE_PERMILLE = 16;
const HASH_EVERY = 64;
const TRACE_KEPT = 400;

export class SimWorld {
  readonly random: FuzzRandom;
  /** Milliseconds. */
  now = 0;
  events = 0;
  readonly crashes = new CrashPoints();
  readonly processes = new Map<number, SimProcess>();
  /** Faults happen. */
  faults = true;
  /** Whether a process may die now, or in the middle of its next event, without the loss of what only it knows. */
  mayDie: (process: SimProcess, within: boolean) => boolean = () => true;
  /** Looked at after each event. */
  check: () => void = () => {};
  onDeath: (process: SimProcess) => void = () => {};
  readonly counters: Record<string, number> = {};
  readonly #recent: { readonly at: number; readonly text: string }[] = [];
  #notes = 0;
  #current: SimProcess | null = null;
  #heap: SimEvent[] = [];
  #order = 0;
  #nextPid = 100;
  #hash = 0;
  #unhashed: string[] = [];

  constructor(seed: number) {
    // Neighbouring seeds begin far from each other.
    this.random = new FuzzRandom(Math.imul(seed + 1, 0x9e37_79b1) ^ (seed >>> 7));
    for (let i = 0; i < 4; i++) this.random.next();
  }

  count(name: string): void {
    this.counters[name] = (this.counters[name] ?? 0) + 1;
  }

  chance(permille: number): boolean {
    return this.random.below(1000) < permille;
  }

  /** From `least` to below `most`, in steps of a thousandth. */
  between(least: number, most: number): number {
    return least + (this.random.below(1000) * (most - least)) / 1000;
  }

  pick<T>(items: readonly T[]): T {
    return items[this.random.below(items.length)]!;
  }

  spawn(kind: ProcessKind): SimProcess {
    const process = new SimProcess(this.#nextPid++, kind);
    this.processes.set(process.pid, process);
    this.note(`start ${kind} ${process.pid}`);
    return process;
  }

  /** Plans an event; returns how to prevent it. */
  after(owner: SimProcess | null, delayMs: number, label: string, run: () => void): () => void {
    const event = { due: this.now + delayMs, order: this.#order++, owner, label, run, cancelled: false };
    this.#push(event);
    return () => {
      event.cancelled = true;
    };
  }

  /** Between two steps that others can see. */
  readonly point = (): void => this.crashes.step();

  kill(process: SimProcess, cause: SimCause): void {
    if (!process.alive) return;
    process.alive = false;
    process.cause = cause;
    this.note(`dead ${process.kind} ${process.pid} ${cause}`);
    this.count(`deaths.${process.kind}`);
    this.processes.delete(process.pid);
    for (const handle of [...process.handles]) handle.release();
    this.onDeath(process);
    for (const mourner of process.mourners) mourner();
  }

  note(text: string): void {
    this.#unhashed.push(text);
    if (this.#unhashed.length >= HASH_EVERY) this.#fold();
    this.#recent[this.#notes++ % TRACE_KEPT] = { at: this.now, text };
  }

  fail(text: string): never {
    throw new SimViolation(text);
  }

  /** The next event happens; false when there is none. */
  step(): boolean {
    const event = this.#pop();
    if (event === undefined) return false;
    this.now = event.due;
    const { owner } = event;
    if (event.cancelled || (owner !== null && !owner.alive)) return true;
    this.events++;
    this.note(owner === null ? event.label : `${owner.pid} ${event.label}`);
    if (owner === null) event.run();
    else this.#runIn(owner, event.label, event.run);
    this.check();
    return true;
  }

  /** What happened last, oldest first. */
  get trace(): string[] {
    const first = Math.max(0, this.#notes - TRACE_KEPT);
    return Array.from({ length: this.#notes - first }, (_, index) => {
      const { at, text } = this.#recent[(first + index) % TRACE_KEPT]!;
      return `${at.toFixed(3)} ${text}`;
    });
  }

  get hash(): string {
    this.#fold();
    return this.#hash.toString(16).padStart(8, '0');
  }

  #runIn(owner: SimProcess, label: string, run: () => void): void {
    const permille = DELICATE.test(label) ? DELICATE_PERMILLE : CRASH_PERMILLE;
    const dies = this.faults && this.chance(permille) && this.mayDie(owner, true);
    // Somewhere in it, or behind it.
    if (dies) this.crashes.arm(this.random.below(this.random.below(2) === 0 ? 60 : 8));
    this.#current = owner;
    try {
      run();
      if (dies && owner.alive && this.mayDie(owner, false)) this.kill(owner, 'killed');
    } catch (error) {
      if (error instanceof Crash) this.kill(owner, 'killed');
      else if (error instanceof Poison) this.kill(owner, 'exception');
      else throw error;
    } finally {
      this.#current = null;
      this.crashes.disarm();
    }
  }

  /** Whose code runs. */
  get current(): SimProcess | null {
    return this.#current;
  }

  #fold(): void {
    if (this.#unhashed.length === 0) return;
    const text = `${this.#hash.toString(16)}\n${this.#unhashed.join('\n')}`;
    this.#unhashed = [];
    this.#hash = crc32(new TextEncoder().encode(text));
  }

  #push(event: SimEvent): void {
    const heap = this.#heap;
    let at = heap.length;
    heap.push(event);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!before(event, heap[parent]!)) break;
      heap[at] = heap[parent]!;
      at = parent;
    }
    heap[at] = event;
  }

  #pop(): SimEvent | undefined {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (first === undefined || last === undefined || heap.length === 0) return first;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && before(heap[child + 1]!, heap[child]!)) child++;
      if (!before(heap[child]!, last)) break;
      heap[at] = heap[child]!;
      at = child;
    }
    heap[at] = last;
    return first;
  }
}

const before = (a: SimEvent, b: SimEvent): boolean => a.due < b.due || (a.due === b.due && a.order < b.order);
