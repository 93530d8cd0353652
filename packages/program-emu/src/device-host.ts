/**
 * device-host.ts: one PCI function with everything that belongs to it.
 *
 * Theory
 *   The engines (PCI function, net device) decide; this object carries their effects out in the outside world: queues
 *   on workers, interrupts, TAP, the state keeper. Every change passes three points in this order: the engine
 *   changes, the change is recorded with the keeper (`commit`, one atomic message), the answer becomes visible. A
 *   successor therefore finds either nothing of a request or all of it.
 *
 * Parties
 *   access    what the client asks for (device-access.ts), one request at a time.
 *   workers   report faults and interrupts.
 *   emulator  creates, restores, unplugs; asks for facts.
 *
 * Invariants
 *   I1  the workers hold exactly the queues that QueueState wants whenever no change is under way.
 *   I2  memory leaves the arena only after every worker was told.
 *   I3  whatever the driver can see happened was recorded before.
 *   I4  after `destroy` began nothing is told to the keeper any more: a late record would outlive its device.
 *
 * Limits  limits.ts; the function's own vector and queue counts.
 */
import type { DevicePlan, RepresentorKind } from '@virtnet/engine-control';
import type { Effect, VirtioPciFunction } from '@virtnet/engine-pci';
import {
  describeRecordFault,
  isQuarantined,
  pardon,
  SUSPECTS_DOMAIN,
  suspicionsOf,
} from '@virtnet/engine-recovery';
import type { ControlChange, NetDevice, UplinkState } from '@virtnet/engine-virtio-net';
import { describeFault, GuestMemory, type RingFault } from '@virtnet/engine-virtqueue';
import { close, eventfdDrain, type Watch } from '@virtnet/host-linux';
import { QueueCounter } from '@virtnet/wire';
import { ControlQueue } from './control-queue.js';
import type { SwitchedConfig } from './datapath-protocol.js';
import { type DeviceInterrupts, IrqIndex } from './device-interrupts.js';
import { type DeviceMemory, dmaRangeRecord } from './device-memory.js';
import { type DeviceParts, type DeviceShape, type HostServices, switchedConfig } from './device-parts.js';
import { DeviceQueues, type PairsTogether, type WantedQueue } from './device-queues.js';
import {
  type AppliedRequest,
  type DeviceHealth,
  type DeviceRecord,
  encodeDeviceRecord,
  RECORD_SCHEMA,
} from './device-record.js';
import type { DeviceSettings } from './device-settings.js';
import { type DeviceTaps, refusalOf } from './device-taps.js';
import type { PageMapping } from './page-mapping.js';
import { QueueState } from './queue-state.js';
import { shelfNames } from './shelf-names.js';

const textEncoder = new TextEncoder();
const EMPTY = new Uint8Array(0);
let nextDeviceNumber = 1;

export class DeviceHost {
  readonly requestId: string;
  readonly page: PageMapping;
  readonly representor: RepresentorKind;
  readonly taps: DeviceTaps;
  readonly memory: DeviceMemory;
  readonly health: DeviceHealth;
  settings: DeviceSettings;
  /** Saved session of the connected client, as the connection keeps it. */
  session: () => unknown = () => null;
  applied: AppliedRequest | null = null;

  readonly #services: HostServices;
  readonly #queues: DeviceQueues;
  readonly #switched: SwitchedConfig | null;
  #shape: DeviceShape;
  #state: QueueState;
  #control: ControlQueue;
  #controlWatch: { readonly fd: number; readonly watch: Watch } | null = null;
  #changed = false;
  #ended = false;
  #paused = false;

  constructor(parts: DeviceParts, services: HostServices) {
    this.requestId = parts.requestId;
    this.page = parts.page;
    this.representor = parts.representor;
    this.taps = parts.taps;
    this.memory = parts.memory;
    this.health = parts.health;
    this.settings = parts.settings;
    this.#shape = parts;
    this.#services = services;
    this.#switched = switchedConfig(parts.representor, parts.plan, services.sourceFrameBytes);
    this.#state = this.#queueState(parts.kicks);
    this.#control = this.#controlQueue();
    const own = this.#switched?.mode === 'eswitch' ? this.#switched.domain : null;
    // Suspects that share a worker cannot be taken for one another.
    const domain = () => own ?? (suspicionsOf(this.page.buffer) > 0 ? SUSPECTS_DOMAIN : null);
    this.#queues = new DeviceQueues(nextDeviceNumber++, domain, services.datapath, this.memory, {
      onFault: (queue, report) => void this.#onFault(queue, report.fault),
      onInterrupt: (queue) => this.#interruptQueue(queue),
    });
  }

  #queueState(kicks: Map<number, number>): QueueState {
    const { fn, net, interrupts, plan } = this.#shape;
    return new QueueState({
      fn,
      net,
      interrupts,
      kicks,
      page: this.page,
      taps: this.taps,
      switched: this.#switched,
      mtu: plan.mtu,
      settings: () => this.settings,
    });
  }

  #controlQueue(): ControlQueue {
    const context = { isQueueEnabled: (queue: number) => this.fn.queues[queue]?.enabled === true };
    return new ControlQueue(this.net, context, {
      apply: (changes) => this.#applyControl(changes),
      interrupt: () => this.#interruptQueue(this.state.controlIndex),
      fault: (fault) => void this.#onFault(this.state.controlIndex, fault),
    });
  }

  get plan(): DevicePlan {
    return this.#shape.plan;
  }

  get fn(): VirtioPciFunction {
    return this.#shape.fn;
  }

  get net(): NetDevice {
    return this.#shape.net;
  }

  get interrupts(): DeviceInterrupts {
    return this.#shape.interrupts;
  }

  get state(): QueueState {
    return this.#state;
  }

  get vuid(): string {
    return this.plan.vuid;
  }

  /** What of it is worked: nothing while it is paused, else the queues that workers have, and the control queue. */
  get work(): { readonly paused: boolean; readonly queues: DeviceQueues; readonly control: boolean } {
    return { paused: this.#paused, queues: this.#queues, control: this.#control.open };
  }

  // ---- life cycle ------------------------------------------------------------------------------------------

  /** Tells the workers what they will be given by `adopt`, of a function that its owner still works: nothing is touched. */
  goAhead(record: DeviceRecord): void {
    const { state } = this;
    state.load(record);
    state.continuing = true;
    this.page.mapAhead();
    const wanted = this.fn.queues.map((_, queue) => state.wanted(queue));
    const rings = wanted.flatMap((config, queue) => (config === null ? [] : state.ringExtents(queue)));
    if (state.controlWanted) rings.push(...state.ringExtents(state.controlIndex));
    this.memory.mapAhead(rings);
    void this.#queues.goAhead(wanted.length, (queue) => wanted[queue]!);
  }

  /** Takes that back: somebody else will be made of newer records. What it was made of stays the caller's. */
  forsake(): void {
    this.#ended = true;
    void this.#queues.goAhead(this.fn.queues.length, () => null);
  }

  /**
   * Takes over what a predecessor left: continues every ring of frames at its position and signals every vector once. What
   * else there is waits for `settle`: of many functions the rings come first. With `heldBack` no ring is worked before
   * `goOn` or `quarantine`.
   */
  async adopt(record: DeviceRecord, heldBack = false): Promise<void> {
    this.#paused = heldBack;
    this.state.load(record);
    this.applied = record.applied;
    const truncated = this.memory.dropTruncated();
    if (truncated.length > 0) {
      this.#log('error', 'guest memory was taken away by its owner', { regions: truncated.length });
      for (const { iova } of truncated) this.drop(shelfNames.dma(this.vuid, iova));
      this.health.error ??= 'MEMORY_TRUNCATED';
      this.fn.needsReset();
    }
    for (const [queue, { resetting }] of this.fn.queues.entries()) {
      if (resetting) this.fn.completeQueueReset(queue); // nobody works it, and its reset is not asked for twice
    }
    await this.#continue(truncated.length > 0);
  }

  async #continue(memoryChanged = false): Promise<void> {
    this.state.continuing = true;
    const begun = this.#paused || memoryChanged ? null : this.#queues.begin();
    // A queue that begins is signalled by its worker.
    const signalled = begun === null ? null : this.#queues.interruptFds;
    let working = begun;
    if (working === null) {
      this.#reconcileTaps();
      working = this.#reconcileData(memoryChanged);
    }
    await null; // others' rings come first
    for (const { index, vector, fd } of this.interrupts.entries()) {
      if (signalled?.has(fd)) continue;
      if (index === IrqIndex.MSIX || index === IrqIndex.INTX) this.interrupts.fire(index, vector);
    }
    await working;
  }

  /** Brings in line what frames did not wait for, before a client is answered: representor and control queue. */
  async settle(): Promise<void> {
    await this.reconcile(false);
    this.state.continuing = false;
  }

  /** Works the rings of a function that was held back. */
  goOn(): Promise<void> {
    this.#paused = false;
    return this.#continue();
  }

  /** Works no ring before the driver has reset the function, which it is told to do. */
  async quarantine(): Promise<void> {
    this.#paused = false;
    for (let queue = 0; queue < this.fn.queues.length; queue++) this.state.broken.add(queue);
    this.health.error = 'QUARANTINED';
    const tell = this.fn.needsReset();
    this.#changed = true;
    this.commit(this.applied);
    if (tell) this.#fire(this.fn.interruptFor('config'));
    await this.settle();
  }

  /** Whether nothing of the function is worked before a reset, because emulators ended over it. */
  get quarantined(): boolean {
    return this.state.broken.size > 0 && isQuarantined(this.page.buffer);
  }

  /** The client is gone: the function goes back to its state after power-on and lets go of the client's memory. */
  async disconnected(): Promise<void> {
    await this.#letGo();
    if (this.#ended) return; // unplugged meanwhile
    const { store } = this.#services;
    store.deletePrefix(this, shelfNames.allDma(this.vuid));
    store.deletePrefix(this, shelfNames.allIrqs(this.vuid));
    store.deletePrefix(this, shelfNames.allKicks(this.vuid));
    store.delete(this, shelfNames.connection(this.vuid));
    this.session = () => null;
    this.#changed = true;
    this.commit(null);
  }

  /** A function-level reset that the host orders; recorded when it has happened. */
  async functionReset(): Promise<void> {
    await this.carryOut(this.fn.reset());
    this.#changed = true;
    this.commit(this.applied);
  }

  /**
   * Stops everything and closes what belongs to the function, but for the representor if it is kept: its descriptors
   * are the caller's then. The keeper is the caller's business.
   */
  async destroy({ keepTaps = false }: { keepTaps?: boolean } = {}): Promise<void> {
    this.#ended = true;
    await this.#letGo();
    this.#closeAll(keepTaps);
  }

  /**
   * Stops working the rings, for a successor that lives already; the outside sees nothing of it. When it resolves every
   * position is final, and the record says everything.
   */
  async pause(): Promise<void> {
    this.#paused = true;
    if (this.#control.open) await this.#control.stop();
    this.#watchControlKicks(-1);
    await this.#reconcileData(false);
    this.#changed = true;
    this.commit(this.applied);
  }

  /** Closes what this process holds of a paused function, which is another's now. */
  relinquish(): void {
    this.#ended = true;
    this.interrupts.clearAll();
    for (const fd of this.state.kicks.values()) close(fd);
    this.state.kicks.clear();
    for (const region of this.memory.removeAll()) this.memory.release(region);
    this.#closeAll();
  }

  #closeAll(keepTaps = false): void {
    if (!keepTaps) this.taps.close();
    this.page.close();
    close(this.page.fd);
  }

  async #letGo(): Promise<void> {
    await this.carryOut(this.fn.reset());
    this.interrupts.clearAll();
    for (const fd of this.state.kicks.values()) close(fd);
    this.state.kicks.clear();
    for (const region of this.memory.removeAll()) this.memory.release(region);
  }

  // ---- operator --------------------------------------------------------------------------------------------

  /**
   * Gives the function another shape, with the page, memory and descriptors it has. No driver holds it, and no queue
   * of it is worked. The caller commits before anything else can be asked of the function.
   */
  reshape(shape: DeviceShape): void {
    const { kicks } = this.state;
    this.#shape = shape;
    for (const queue of [...kicks.keys()]) {
      if (queue < this.fn.queues.length) continue;
      close(kicks.get(queue)!);
      kicks.delete(queue);
      this.drop(shelfNames.kick(this.vuid, queue));
    }
    this.#state = this.#queueState(kicks);
    this.#control = this.#controlQueue();
    this.fn.configChanged();
    this.touch();
  }

  /** Records a change of the configuration that the driver shall hear of; the answer tells it. */
  configChange(): () => void {
    this.fn.configChanged();
    const target = this.fn.interruptFor('config');
    this.touch();
    return () => this.#fire(target);
  }

  // ---- uplink ----------------------------------------------------------------------------------------------

  /** The uplink is like this now; whatever of it the driver sees is recorded before the driver is told. */
  followUplink(uplink: UplinkState): void {
    const { net } = this;
    if (this.#paused || this.#ended) return; // a successor follows it
    if (net.uplink.up === uplink.up && net.uplink.speedMbps === uplink.speedMbps) return;
    const { linkUp } = net;
    const seen = net.setUplink(uplink);
    if (seen) this.fn.configChanged();
    this.#changed = true;
    this.commit(this.applied);
    if (seen) this.#fire(this.fn.interruptFor('config'));
    if (net.linkUp !== linkUp) void this.reconcile(false);
  }

  // ---- record ----------------------------------------------------------------------------------------------

  /** Something changed that the record holds. */
  touch(): void {
    this.#changed = true;
  }

  /** Records every change since the last commit, with the request that made it. One atomic message. */
  commit(applied: AppliedRequest | null): void {
    if (!this.#changed || this.#ended) return;
    this.applied = applied;
    this.#changed = false;
    const record = encodeDeviceRecord(this.record());
    if (!(record instanceof Uint8Array)) {
      throw new Error(`record of ${this.vuid}: ${describeRecordFault(record)}`);
    }
    this.#services.store.commit(this, shelfNames.record(this.vuid), record);
  }

  record(): DeviceRecord {
    return {
      schema: RECORD_SCHEMA,
      requestId: this.requestId,
      plan: this.plan,
      settings: this.settings,
      representor: this.representor,
      linkUp: this.net.linkUp,
      pci: this.fn.save(),
      net: this.net.save(),
      session: this.session(),
      applied: this.applied,
      ...this.state.save(),
      health: this.health,
    };
  }

  /** Puts every descriptor and the record on an empty shelf again. */
  upload(): void {
    this.put(shelfNames.page(this.vuid), this.page.fd);
    for (const [pair, fd] of this.taps.fds.entries()) {
      if (fd >= 0) this.put(shelfNames.tap(this.vuid, pair), fd);
    }
    for (const region of this.memory.all()) {
      const blob = textEncoder.encode(JSON.stringify(dmaRangeRecord(region)));
      this.put(shelfNames.dma(this.vuid, region.iova), region.fd, blob);
    }
    for (const { index, vector, fd } of this.interrupts.entries()) {
      this.put(shelfNames.irq(this.vuid, index, vector), fd);
    }
    for (const [queue, fd] of this.state.kicks) this.put(shelfNames.kick(this.vuid, queue), fd);
    this.#changed = true;
    this.commit(this.applied);
  }

  /** Stages a descriptor for the keeper; -1 for none. */
  put(name: string, fd: number, blob: Uint8Array = EMPTY): void {
    if (this.#ended) return;
    this.#services.store.put(this, name, blob, fd);
    this.#changed = true;
  }

  /** Stages the removal of an entry. */
  drop(name: string): void {
    if (this.#ended) return;
    this.#services.store.delete(this, name);
    this.#changed = true;
  }

  // ---- effects ---------------------------------------------------------------------------------------------

  /** Queue pairs in use, by who works them. */
  get pairGroups(): readonly PairsTogether[] {
    return this.#queues.groups;
  }

  /** Has another worker work a pair, and those that have to be with it; false: they are where they were. */
  movePair(pair: number, worker: number): Promise<boolean> {
    return this.#queues.move(pair, worker, this.#wanted());
  }

  /** The driver notified `queue` through its register or an event. */
  kick(queue: number): void {
    if (queue === this.state.controlIndex && this.#control.open) this.#control.kick();
    else this.#queues.kick(queue);
  }

  /** Carries out what a register access asks for; resolves when it is in force. */
  async carryOut(effects: readonly Effect[]): Promise<void> {
    const resets: number[] = [];
    let settle = false;
    for (const effect of effects) {
      switch (effect.kind) {
        case 'queue-notify':
          this.kick(effect.queue);
          break;
        case 'fire':
          this.interrupts.fire(IrqIndex.MSIX, effect.vector);
          break;
        case 'fire-intx':
          this.interrupts.fire(IrqIndex.INTX, 0);
          break;
        case 'features-refused':
          this.#log('warn', 'features refused', {
            features: `0x${effect.features.toString(16)}`,
            problems: effect.problems,
          });
          break;
        case 'queue-refused':
          this.#log('warn', 'queue refused', { queue: effect.queue, reason: effect.reason });
          break;
        case 'queue-reset':
          resets.push(effect.queue);
          this.net.queueReset(effect.queue);
          break;
        case 'reset':
        case 'flr':
          if (this.quarantined) pardon(this.page.buffer);
          this.health.error = null;
          this.state.reset();
          settle = true;
          break;
        default:
          settle = true;
      }
    }
    if (settle || resets.length > 0) await this.reconcile(false);
    for (const queue of resets) {
      if (!this.quarantined) this.state.broken.delete(queue);
      this.fn.completeQueueReset(queue);
    }
  }

  /** The table of memory changed; resolves when nobody uses the former one. */
  async memoryChanged(): Promise<void> {
    if (this.#queues.busy || this.#control.open) await this.reconcile(true);
  }

  /** Brings TAP, control queue and workers in line with what is wanted now. */
  async reconcile(memoryChanged: boolean): Promise<void> {
    this.#reconcileTaps();
    const stopping = this.#reconcileControl(memoryChanged);
    if (stopping !== null) await stopping;
    await this.#reconcileData(memoryChanged);
  }

  #reconcileTaps(): void {
    const ready = this.state.driverReady;
    this.taps.applyOffloads(ready ? this.net.receiveOffloads() : 0n);
    this.taps.setCarrier(ready && this.net.linkUp);
  }

  async #reconcileData(memoryChanged: boolean): Promise<void> {
    const { state } = this;
    for (let pair = 1; pair < this.taps.fds.length; pair++) {
      if (!state.usesPair(pair)) continue;
      const fd = this.taps.open(pair);
      if (fd === null) continue;
      if (fd >= 0) this.put(shelfNames.tap(this.vuid, pair), fd);
      else this.#log('error', refusalOf(fd), { pair, errno: -fd });
    }
    this.taps.steer((pair) => state.usesTapQueue(pair));
    await this.#queues.reconcile(this.fn.queues.length, this.#wanted(), memoryChanged, (queue) =>
      state.prepare(queue),
    );
  }

  #wanted(): WantedQueue {
    const { state } = this;
    return (queue) => (this.#paused ? null : state.wanted(queue));
  }

  /** Null when there is nothing to wait for: what follows is then done at once. */
  #reconcileControl(memoryChanged: boolean): Promise<void> | null {
    const { state } = this;
    if (!state.controlWanted || this.#paused) {
      const stopping = this.#control.open ? this.#control.stop() : null;
      this.#watchControlKicks(-1);
      return stopping;
    }
    const index = state.controlIndex;
    this.#watchControlKicks(state.kicks.get(index) ?? -1);
    if (this.#control.open && !memoryChanged) return null;
    if (!this.#control.open) state.prepare(index);
    this.#control.start(state.controlRing, state.block(index), new GuestMemory(this.memory.views()));
    return null;
  }

  #watchControlKicks(fd: number): void {
    if ((this.#controlWatch?.fd ?? -1) === fd) return;
    this.#controlWatch?.watch.close();
    this.#controlWatch = null;
    if (fd < 0) return;
    const watch = this.#services.poller.watch(fd, { readable: true }, () => {
      eventfdDrain(fd);
      this.#control.kick();
    });
    if (typeof watch !== 'number') this.#controlWatch = { fd, watch };
  }

  #interruptQueue(queue: number): void {
    if (queue < 0) return;
    this.#fire(this.fn.interruptFor(queue));
    this.state.block(queue).counters[QueueCounter.INTERRUPTS]!++;
  }

  #fire(target: ReturnType<VirtioPciFunction['interruptFor']>): void {
    if (target.kind === 'msix') this.interrupts.fire(IrqIndex.MSIX, target.vector);
    else if (target.kind === 'intx') this.interrupts.fire(IrqIndex.INTX, 0);
  }

  async #applyControl(changes: readonly ControlChange[]): Promise<void> {
    if (changes.some((change) => change.kind === 'config')) this.fn.configChanged();
    this.#changed = true;
    this.commit(this.applied);
    this.taps.applyOffloads(this.net.receiveOffloads());
    await this.#reconcileData(false);
    this.commit(this.applied);
  }

  async #onFault(queue: number, fault: RingFault): Promise<void> {
    if (this.state.broken.has(queue)) return;
    this.state.broken.add(queue);
    this.health.error ??= 'RING_FAULT';
    this.#log('error', 'a queue cannot be believed any more and was stopped', {
      queue,
      fault: describeFault(fault),
    });
    const tell = this.fn.needsReset();
    this.#changed = true;
    this.commit(this.applied);
    if (tell) this.#fire(this.fn.interruptFor('config'));
    await this.reconcile(false);
  }

  #log(level: 'info' | 'warn' | 'error', message: string, facts: Record<string, unknown>): void {
    this.#services.log(level, message, { vuid: this.vuid, ...facts });
  }
}
