/**
 * device.ts: one function in an emulator: the real engines of PCI function, network device, queues and journal over
 * memory and sockets that outlive it. What program-emu does around them, DeviceHost and DeviceEndpoint, is done here in
 * the same order, one step after the other.
 */
import { type DevicePlan, restorePlan } from '@virtnet/engine-control';
import { type Effect, VirtioPciFunction } from '@virtnet/engine-pci';
import { decodeRecord, encodeRecord, isQuarantined, own, pardon } from '@virtnet/engine-recovery';
import { NetDevice, ReceiveQueue, TransmitQueue } from '@virtnet/engine-virtio-net';
import {
  GuestMemory,
  isRing,
  openRing,
  prepareBlock,
  resumePosition,
  unprepareBlock,
  type WorkedQueue,
} from '@virtnet/engine-virtqueue';
import { type AnsweredRequest, RequestJournal } from '@virtnet/server-vfio-user';
import {
  DeviceStatus,
  HASH_TYPES,
  hasFeature,
  initialRingPosition,
  QueueWord,
  queueBlock,
  StatePageHeader,
  VirtioFeature,
} from '@virtnet/wire';
import {
  ConnectionObject,
  EventObject,
  ListenerObject,
  MemoryObject,
  PageObject,
  TapObject,
} from './objects.js';
import { nameOf, OFFERED } from './plans.js';
import type { Operation } from './shelf-link.js';
import { Poison, SimHandle, type SimProcess, type SimWorld } from './world.js';

export const QUEUES = [0, 1] as const;
const NETWORK_CLASS = 0x020000;
const SCHEMA = 1;
const BUDGET = 4;
const NOTHING = new Uint8Array(0);
const MTU = 1500;
const VECTORS = 3;

/** What the record of a device says. */
export interface SimRecord {
  readonly plan: unknown;
  /** Command that made it. */
  readonly requestId: string;
  /** It was made from its recovery file: what was counted before nobody knows. */
  readonly anew: boolean;
  readonly pci: unknown;
  readonly net: unknown;
  /** How often its client asked for it to be raised. */
  readonly raised: number;
  /** How often the operator did, and the commands remembered. */
  readonly modified: number;
  readonly changes: readonly string[];
  readonly broken: readonly number[];
  readonly applied: { readonly sequence: number; readonly digest: number; readonly reply: string } | null;
}

/** What a client may ask. */
export type ClientRequest =
  | { readonly id: number; readonly op: 'give' }
  | { readonly id: number; readonly op: 'config'; readonly at: number; readonly bytes: readonly number[] }
  | { readonly id: number; readonly op: 'write'; readonly at: number; readonly bytes: readonly number[] }
  | { readonly id: number; readonly op: 'read'; readonly at: number; readonly count: number }
  /** Not the same when it is done twice. */
  | { readonly id: number; readonly op: 'raise' };

export interface ClientReply {
  readonly id: number;
  readonly value: number;
}

/** What a device needs of its emulator. */
export interface DeviceWorld {
  readonly world: SimWorld;
  readonly process: SimProcess;
  readonly flaws: Flaws;
  transaction(operations: readonly Operation[]): void;
  /** Whether what was said survives this process. */
  readonly kept: boolean;
  /** Calls back when it does. */
  whenKept(action: () => void): void;
  /** Nobody else may work the rings of `vuid`. */
  claim(vuid: string): void;
  unclaim(vuid: string): void;
  /** Whether code that works this device fails now, by what its guest did. */
  poisoned(vuid: string): boolean;
}

/** Deliberate mistakes, by which the invariants are tested. */
export interface Flaws {
  /** A standby takes over when it loses sight of the active one, dead or not. */
  readonly noFencing?: boolean;
  /** A request that was worked already is worked again. */
  readonly noReplay?: boolean;
  /** The answer goes out before the record. */
  readonly answerFirst?: boolean;
  /** The answer goes out although nobody else knows of the record. */
  readonly answerUnkept?: boolean;
  /** What a dead keeper has left is nobody's. */
  readonly noInheritance?: boolean;
  /** A command that was carried out already is carried out again. */
  readonly noMemory?: boolean;
  /** A function that only its recovery file knows is not made. */
  readonly noFiles?: boolean;
  /** A function is removed before its recovery file. */
  readonly fileLast?: boolean;
  /** What is modified is not written down. */
  readonly staleFiles?: boolean;
  /** Rings go on at their beginning. */
  readonly restartRings?: boolean;
  /** A request that is worked again sets the positions of its rings again. */
  readonly prepareTwice?: boolean;
}

const encode = (value: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(value));
export const decode = <T>(bytes: Uint8Array): T => JSON.parse(new TextDecoder().decode(bytes)) as T;

export class SimDevice {
  /** Its name. */
  readonly vuid: string;
  readonly requestId: string;
  plan: DevicePlan;
  anew = false;
  readonly fn: VirtioPciFunction;
  readonly net: NetDevice;
  raised = 0;
  modified = 0;
  changes: string[] = [];
  broken = new Set<number>();
  applied: SimRecord['applied'] = null;
  readonly #site: DeviceWorld;
  readonly #handles: Map<string, SimHandle>;
  readonly #queues: (WorkedQueue | null)[] = [null, null];
  readonly #busy = [false, false];
  readonly #unwatch: (() => void)[][] = [[], []];
  readonly #words: readonly Uint32Array[];
  #journal: RequestJournal | null = null;
  #unwatchConnection: () => void = () => {};
  #staged: Operation[] = [];
  #ended = false;
  #continuing = false;

  /** Over what `handles` name, by part: page, listener, tap/0, and what a client gave. They are this object's. */
  constructor(site: DeviceWorld, plan: DevicePlan, requestId: string, handles: Map<string, SimHandle>) {
    this.#site = site;
    this.vuid = nameOf(plan);
    this.plan = plan;
    this.requestId = requestId;
    this.#handles = handles;
    this.net = new NetDevice({
      mac: plan.mac,
      mtu: MTU,
      maxQueuePairs: plan.queuePairs,
      maxQueueSize: plan.queueSize,
      speedMbps: null,
      offeredFeatures: OFFERED,
      hashTypes: HASH_TYPES,
    });
    const header = this.#header;
    const cell = (at: number) => ({
      get: () => header[at / 4]! & 0xff,
      set: (value: number) => {
        header[at / 4] = value;
      },
    });
    this.fn = new VirtioPciFunction({
      device: this.net,
      classCode: NETWORK_CLASS,
      msixVectors: VECTORS,
      isr: cell(StatePageHeader.at.isr),
      generation: cell(StatePageHeader.at.configGeneration),
    });
    this.#words = QUEUES.map((queue) => queueBlock(this.page, queue).words);
    own(this.page, site.process.pid);
  }

  /** A device as `record` says; what is wrong with it when that cannot be. */
  static restore(site: DeviceWorld, record: Uint8Array, handles: Map<string, SimHandle>): SimDevice | string {
    const decoded = decodeRecord(record);
    if ('code' in decoded) return decoded.code;
    const saved = decoded.payload as SimRecord;
    const plan = restorePlan(saved.plan);
    if (typeof plan === 'string') return plan;
    const device = new SimDevice(site, plan, saved.requestId, handles);
    device.anew = saved.anew;
    const problems = [...device.net.restore(saved.net), ...device.fn.restore(saved.pci)];
    device.raised = saved.raised;
    device.modified = saved.modified;
    device.changes = [...saved.changes];
    device.broken = new Set(saved.broken);
    device.applied = saved.applied;
    return problems.length === 0 ? device : problems.join('; ');
  }

  get page(): ArrayBuffer {
    return this.#object('page', PageObject)!.page;
  }

  get connection(): ConnectionObject | null {
    return this.#object('connection', ConnectionObject);
  }

  get quarantined(): boolean {
    return this.broken.size > 0 && isQuarantined(this.page);
  }

  get #header(): Uint32Array {
    return new Uint32Array(this.page, 0, StatePageHeader.sizeBytes / 4);
  }

  #object<T>(part: string, kind: new (...values: never[]) => T): T | null {
    const object = this.#handles.get(part)?.object;
    return object instanceof kind ? object : null;
  }

  // ---- record ------------------------------------------------------------------------------------------------

  record(): Uint8Array {
    const { plan, requestId, anew, raised, modified, changes, applied } = this;
    const broken = [...this.broken];
    const parts = { pci: this.fn.save(), net: this.net.save() };
    const saved: SimRecord = {
      ...{ plan, requestId, anew, ...parts },
      ...{ raised, modified, changes, broken, applied },
    };
    const record = encodeRecord(saved, SCHEMA);
    if (record instanceof Uint8Array) return record;
    return this.#site.world.fail(`record: ${record.code}`);
  }

  /** Sends what is staged and the record as one message. */
  commit(): void {
    if (this.#ended) return;
    const operations = [...this.#staged, this.#put('record', this.record(), null)];
    this.#staged = [];
    this.#site.transaction(operations);
  }

  /** Everything, for a keeper that knows nothing. */
  upload(): void {
    for (const [part, handle] of this.#handles) this.#staged.push(this.#put(part, NOTHING, handle));
    this.commit();
  }

  #put(part: string, blob: Uint8Array, handle: SimHandle | null): Operation {
    return { kind: 'put', name: `dev/${this.vuid}/${part}`, blob, handle, ttlWithoutHolderMs: 0 };
  }

  // ---- life --------------------------------------------------------------------------------------------------

  /** Goes on where a predecessor stopped; held back, no ring is worked before `goOn` or `quarantine`. */
  adopt(held: boolean): void {
    for (const { index, resetting } of this.fn.queues) if (resetting) this.fn.completeQueueReset(index);
    if (!held) this.goOn();
  }

  goOn(): void {
    this.#continuing = true;
    this.reconcile();
    for (let vector = 0; vector < VECTORS; vector++) this.#fire(vector);
    this.#continuing = false;
  }

  quarantine(): void {
    this.#site.world.count('quarantines');
    for (const queue of QUEUES) this.broken.add(queue);
    const tell = this.fn.needsReset();
    this.commit();
    if (tell) this.#interrupt('config');
    this.reconcile();
  }

  /** Takes its sockets over, or begins to listen. */
  open(adopted: boolean): void {
    if (this.connection !== null) this.#serve(adopted);
    this.#listen();
    this.commit();
  }

  /** Ends everything of it in this process. */
  end(): void {
    this.#ended = true;
    for (const queue of QUEUES) this.#close(queue);
    this.#unwatchConnection();
    for (const handle of this.#handles.values()) handle.release();
    this.#handles.clear();
  }

  /** Its client's connection ends, and with it everything that the client set. */
  disconnected(): void {
    if (this.connection !== null) this.connection.refused = true;
    this.#unwatchConnection();
    this.#journal?.forget();
    this.#journal = null;
    this.carryOut(this.fn.reset());
    for (const [part, handle] of [...this.#handles]) {
      if (!/^(connection|memory|irq|kick)/.test(part)) continue;
      this.#handles.delete(part);
      this.#staged.push({ kind: 'delete', name: `dev/${this.vuid}/${part}` });
      handle.release();
    }
    this.applied = null;
    this.commit();
    this.#listen();
  }

  // ---- client ------------------------------------------------------------------------------------------------

  #listen(): void {
    const listener = this.#object('listener', ListenerObject);
    if (listener === null || this.connection !== null) return;
    const stop = listener.watch(this.#site.process, () => {
      if (this.#ended || this.connection !== null) return;
      const accepted = listener.accept(this.#site.process);
      if (accepted === null) return;
      stop();
      this.#handles.set('connection', accepted);
      this.#site.world.point(); // the one instant without a witness
      this.#staged.push(this.#put('connection', NOTHING, accepted));
      this.commit();
      this.#serve(false);
    });
  }

  #serve(adopted: boolean): void {
    const { connection } = this;
    if (connection === null) return;
    const header = this.#header;
    const finished = StatePageHeader.at.requestSequence / 4;
    const underWay = StatePageHeader.at.requestUnderWay / 4;
    const { applied } = this;
    const recorded =
      adopted && applied !== null && this.#site.flaws.noReplay !== true
        ? { ...applied, reply: encode(JSON.parse(applied.reply)) }
        : null;
    const journal = new RequestJournal(
      {
        readFinished: () => header[finished]!,
        writeFinished: (sequence) => {
          header[finished] = sequence;
          header[underWay] = 0;
        },
        begun: () => {
          header[underWay] = 1;
        },
        record: (answered) => this.#record(answered),
      },
      recorded,
    );
    this.#journal = journal;
    this.#watchConnection(connection, journal);
  }

  #watchConnection(connection: ConnectionObject, journal: RequestJournal): void {
    this.#unwatchConnection = connection.watch(this.#site.process, () => {
      if (this.#ended || this.connection !== connection) return;
      if (connection.requests.length > 0) this.#work(connection, journal);
      else if (!connection.open) this.disconnected();
    });
  }

  #record({ sequence, digest, reply }: AnsweredRequest): void {
    this.applied = { sequence, digest, reply: new TextDecoder().decode(reply ?? NOTHING) };
    this.commit();
  }

  #work(connection: ConnectionObject, journal: RequestJournal): void {
    const { world, flaws } = this.#site;
    const request = connection.requests[0]!;
    const beginning = journal.begin(request.bytes);
    world.point();
    if (beginning !== 'fresh') {
      world.count('replays');
      return this.#reply(connection, journal, beginning.replay ?? NOTHING);
    }
    const reply = encode(this.#answer(request));
    world.point();
    if (flaws.answerFirst === true) {
      connection.answer(reply);
      world.point();
      journal.commit(request.bytes, reply);
      return journal.finish();
    }
    journal.commit(request.bytes, reply);
    world.point();
    if (this.#site.kept || flaws.answerUnkept === true) return this.#reply(connection, journal, reply);
    world.count('answers held back');
    this.#unwatchConnection();
    this.#site.whenKept(() => {
      if (this.#ended || this.connection !== connection) return;
      this.#reply(connection, journal, reply);
      this.#watchConnection(connection, journal);
    });
  }

  #reply(connection: ConnectionObject, journal: RequestJournal, reply: Uint8Array): void {
    connection.answer(reply);
    this.#site.world.point();
    journal.finish();
  }

  #answer(request: ConnectionObject['requests'][number]): ClientReply {
    const asked = decode<ClientRequest>(request.bytes);
    const { id } = asked;
    switch (asked.op) {
      case 'give':
        for (const [part, object] of request.objects) {
          this.#handles.get(part)?.release();
          const handle = new SimHandle(object, this.#site.process);
          this.#handles.set(part, handle);
          this.#staged.push(this.#put(part, NOTHING, handle));
        }
        this.reconcile();
        return { id, value: 0 };
      case 'config':
        this.carryOut(this.fn.writeConfig(asked.at, Uint8Array.from(asked.bytes)));
        return { id, value: 0 };
      case 'write':
        this.carryOut(this.fn.writeRegion(0, asked.at, Uint8Array.from(asked.bytes)));
        return { id, value: 0 };
      case 'read':
        return {
          id,
          value: this.fn.readRegion(0, asked.at, asked.count).reduceRight((v, b) => v * 256 + b, 0),
        };
      case 'raise':
        this.raised++;
        this.#site.world.note(`${this.vuid} raised to ${this.raised}`);
        return { id, value: this.raised };
    }
  }

  carryOut(effects: readonly Effect[]): void {
    for (const effect of effects) {
      if (effect.kind === 'reset' || effect.kind === 'flr') {
        if (this.quarantined) pardon(this.page);
        this.broken.clear();
        for (const queue of QUEUES) unprepareBlock(queueBlock(this.page, queue));
      }
      if (effect.kind === 'queue-notify') this.#wake(effect.queue);
      if (effect.kind === 'fire') this.#fire(effect.vector);
    }
    if (effects.length > 0) this.reconcile();
  }

  // ---- rings -------------------------------------------------------------------------------------------------

  /** Opens the queues that should be worked, and lets go of the others. */
  reconcile(): void {
    const ready = (this.fn.status & DeviceStatus.DRIVER_OK) !== 0;
    for (const queue of QUEUES) {
      const wanted = ready && this.fn.queues[queue]!.enabled && !this.broken.has(queue) && !this.#ended;
      if (wanted && this.#queues[queue] === null) this.#open(queue);
      else if (!wanted) this.#close(queue);
    }
  }

  #open(queue: number): void {
    const { world, flaws, process } = this.#site;
    const { crashes } = world;
    const memory = this.#object('memory', MemoryObject);
    const tap = this.#object('tap/0', TapObject);
    if (memory === null || tap === null) return;
    this.#site.claim(this.vuid);
    const features = this.fn.driverFeatures;
    const packed = hasFeature(features, VirtioFeature.RING_PACKED);
    const plain = queueBlock(this.page, queue);
    if (!this.#continuing || flaws.restartRings === true) {
      const header = this.#header;
      const underWay = header[StatePageHeader.at.requestUnderWay / 4] === 1 && flaws.prepareTwice !== true;
      const request = underWay ? (header[StatePageHeader.at.requestSequence / 4]! + 1) >>> 0 : 0;
      prepareBlock(plain, initialRingPosition(packed), request);
    }
    const block = crashes.block(plain);
    const entry = this.fn.queues[queue]!;
    const opened = openRing({
      packed,
      queueSize: entry.size,
      memory: new GuestMemory([memory.memory.region]),
      descriptorAddress: entry.descriptorAddress,
      driverAddress: entry.driverAddress,
      deviceAddress: entry.deviceAddress,
      indirect: false,
      readsOnly: queue === 1,
      eventIdx: hasFeature(features, VirtioFeature.EVENT_IDX),
      position: resumePosition(block),
      chainSegmentsMax: 16,
      journal: block.journal,
    });
    if (!isRing(opened)) return world.fail(`${this.vuid} queue ${queue}: ${opened.code}`);
    const options = {
      ring: crashes.ring(opened),
      port: crashes.port(tap),
      block,
      features,
      mtu: MTU,
      linkUp: true,
    };
    const worked =
      queue === 1 ? new TransmitQueue(options) : new ReceiveQueue({ ...options, active: true, filter: null });
    this.#queues[queue] = worked;
    worked.resume();
    if (this.#continuing) worked.interrupt = true;
    const kick = this.#object(`kick/${queue}`, EventObject);
    if (kick !== null)
      this.#unwatch[queue]!.push(
        kick.watch(process, () => {
          if (kick.drain()) this.#wake(queue);
        }),
      );
    this.#unwatch[queue]!.push(tap.watch(process, () => this.#wake(queue)));
    this.#wake(queue);
  }

  #close(queue: number): void {
    if (this.#queues[queue] === null) return;
    this.#queues[queue] = null;
    this.#busy[queue] = false;
    for (const unwatch of this.#unwatch[queue]!.splice(0)) unwatch();
    if (this.#queues.every((other) => other === null)) this.#site.unclaim(this.vuid);
  }

  #wake(queue: number): void {
    const worked = this.#queues[queue];
    if (worked === null || worked === undefined || this.#busy[queue] === true) return;
    this.#busy[queue] = true;
    worked.disarm();
    this.#pollLater(queue, worked);
  }

  #pollLater(queue: number, worked: WorkedQueue): void {
    const { world, process } = this.#site;
    world.after(process, world.between(0.01, 0.4), `poll ${this.vuid} ${queue}`, () => {
      if (this.#queues[queue] === worked) this.#poll(queue, worked);
    });
  }

  #poll(queue: number, worked: WorkedQueue): void {
    const words = this.#words[queue]!;
    words[QueueWord.UNDER_WORK] = 1;
    if (this.#site.poisoned(this.vuid)) throw new Poison(this.vuid);
    const frames = worked.poll(BUDGET);
    words[QueueWord.UNDER_WORK] = 0;
    if (worked.fault !== null)
      this.#site.world.fail(`${this.vuid} queue ${queue} broke: ${JSON.stringify(worked.fault)}`);
    if (worked.interrupt) {
      worked.interrupt = false;
      this.#interrupt(queue);
    }
    if (frames > 0 || worked.arm()) this.#pollLater(queue, worked);
    else this.#busy[queue] = false;
  }

  #interrupt(source: number | 'config'): void {
    const target = this.fn.interruptFor(source);
    if (target.kind === 'msix') this.#fire(target.vector);
  }

  #fire(vector: number): void {
    this.#object(`irq/${vector}`, EventObject)?.signal();
  }
}
