/**
 * virtio-function.ts: one modern virtio PCI function.
 *
 * Theory
 *   The function turns accesses to configuration space and BARs into register values and into effects. Reads answer at
 *   once. A write changes the registers and returns what the program has to do; the program does it before it answers
 *   the access, so that a driver that reads back status 0 finds the device really stopped.
 *   Interrupts go the other way: the program asks `interruptFor` when something happened, and sends what it is told.
 *
 * Parties
 *   client   (VMM or its guest) reads and writes; may be hostile, any width, any offset, any order.
 *   program  carries effects out, reports faults (`needsReset`), configuration changes and used buffers.
 *   device   (VirtioDevice) features and device configuration; knows nothing of PCI.
 *
 * Invariants
 *   I1  no access throws, whatever its offset, width and bytes; an access outside reads nothing and changes nothing.
 *   I2  no queue interrupt before DRIVER_OK; none at all for an event without a vector while MSI-X is enabled.
 *   I3  the generation differs after a change from what a driver read before it (4.1.4.3.1).
 *   I4  restore changes either everything or nothing.
 *
 * Saved     configuration space, common configuration, MSI-X; ISR and generation unless the program keeps them.
 * Limits    limits.ts.
 * Not here  MSI, the I/O BAR of transitional functions; whether bus mastering is on is reported only.
 * Spec      virtio 1.3, 4.1.
 */
import {
  DeviceStatus,
  EXPRESS_INITIATE_FLR,
  IsrBit,
  MsixControl,
  NO_VECTOR,
  PCI_CONFIG_BYTES,
  PciCommand,
  PciExpress,
  PciHeader,
  PciMsix,
  PciStatus,
} from '@virtnet/wire';
import { type Bar, type BarLayout, layOutBars, type Structure } from './bar-layout.js';
import { isAccess, overlap } from './byte-lanes.js';
import { buildConfigSpace, type CapabilityOffsets } from './capabilities.js';
import { CommonConfig } from './common-config.js';
import type { ConfigSpace } from './config-space.js';
import { ConfigWindow } from './config-window.js';
import type { Effect, Interrupt, InterruptSource, Route } from './effects.js';
import { placeExtended, type SriovRole } from './extended.js';
import { checkOptions, type FunctionOptions, identityOf, privateCell } from './function-options.js';
import { type FunctionState, loadCommon, parseFunction, saveCommon } from './function-state.js';
import { NOTIFY_MULTIPLIER } from './limits.js';
import { Msix } from './msix.js';
import type { QueueView } from './queue-registers.js';
import type { CellPort, VirtioDevice } from './virtio-device.js';

const BYTE_MASK = 0xff;
const NOTHING = new Uint8Array(0);
const NO_INTERRUPT = { kind: 'none' } as const;
const INTX = { kind: 'intx' } as const;

export class VirtioPciFunction {
  /** The BARs a client sees as regions. */
  readonly bars: readonly Bar[];
  /** Where the structures are; for clients' memory maps and for tests. */
  readonly layout: BarLayout;
  readonly capabilities: CapabilityOffsets;

  readonly #device: VirtioDevice;
  readonly #space: ConfigSpace;
  readonly #sriov: SriovRole | null;
  readonly #deviceId: number;
  readonly #window: ConfigWindow;
  readonly #common: CommonConfig;
  readonly #msix: Msix;
  readonly #isr: CellPort;
  readonly #generation: CellPort;
  readonly #ownsIsr: boolean;
  readonly #ownsGeneration: boolean;
  #vfs = 0;
  /** The driver has looked at the configuration since the generation last changed (I3). */
  #configSeen = true;

  /** Throws RangeError when the options describe no possible function. */
  constructor(options: FunctionOptions) {
    checkOptions(options);
    const { device, msixVectors } = options;
    this.#device = device;
    this.layout = layOutBars(device.queueCount, device.configBytes, msixVectors);
    this.bars = this.layout.bars;
    const identity = identityOf(options);
    const { space, at } = buildConfigSpace(identity, this.layout);
    this.#space = space;
    this.#sriov = options.sriov ?? null;
    this.#deviceId = identity.deviceId;
    this.setVfs(0);
    this.capabilities = at;
    this.#window = new ConfigWindow(space, at.window, (bar) => this.regionSize(bar));
    this.#msix = new Msix(msixVectors);
    this.#ownsIsr = options.isr === undefined;
    this.#ownsGeneration = options.generation === undefined;
    this.#isr = options.isr ?? privateCell();
    this.#generation = options.generation ?? privateCell();
    this.#common = new CommonConfig(device, msixVectors, this.#generation, () => this.#clearInterrupts());
  }

  /** VFs of this PF that the host has enabled. */
  get vfs(): number {
    return this.#vfs;
  }

  /** The host has enabled `count` VFs of this PF. */
  setVfs(count: number): void {
    this.#vfs = count;
    if (this.#sriov !== null) placeExtended(this.#space, this.#sriov, this.bars, this.#deviceId, count);
  }

  get status(): number {
    return this.#common.status;
  }

  /** Features agreed on; 0n before FEATURES_OK. */
  get driverFeatures(): bigint {
    return this.#common.agreedFeatures;
  }

  /** MSI-X vector of configuration changes, NO_VECTOR when none. */
  get configVector(): number {
    return this.#common.configVector;
  }

  get queues(): readonly QueueView[] {
    return this.#common.queues;
  }

  get msixVectors(): number {
    return this.#msix.vectors;
  }

  get msixEnabled(): boolean {
    return this.#msix.enabled;
  }

  get busMaster(): boolean {
    return (this.#command & PciCommand.BUS_MASTER) !== 0;
  }

  /** Whether INTx is asserted: a client that unmasks it has to be told again. */
  get intxAsserted(): boolean {
    return !this.#msix.enabled && this.#isr.get() !== 0 && (this.#command & PciCommand.INTX_DISABLE) === 0;
  }

  /** Bytes of a BAR; 0 when there is none. */
  regionSize(bar: number): number {
    return this.bars.find(({ index }) => index === bar)?.sizeBytes ?? 0;
  }

  get #command(): number {
    return this.#space.u16(PciHeader.at.command);
  }

  /** Reads configuration space; empty when the range is not inside. */
  readConfig(offset: number, count: number): Uint8Array {
    if (!isAccess(offset, count, PCI_CONFIG_BYTES)) return NOTHING;
    const target = this.#window.target(offset, count);
    if (target !== null) this.#window.setData(this.readRegion(target.bar, target.offset, target.lengthBytes));
    const bytes = this.#space.read(offset, count);
    const status = PciHeader.at.status - offset;
    if (status >= 0 && status < count && !this.#msix.enabled && this.#isr.get() !== 0)
      bytes[status]! |= PciStatus.INTERRUPT;
    return bytes;
  }

  /** Writes configuration space; a range that is not inside changes nothing. */
  writeConfig(offset: number, bytes: Uint8Array): Effect[] {
    if (!isAccess(offset, bytes.length, PCI_CONFIG_BYTES)) return [];
    const effects: Effect[] = [];
    const command = this.#command;
    const control = this.#msixControl;
    this.#space.write(offset, bytes);
    this.#commandChanged(command, effects);
    if (this.#msixControl !== control) this.#applyMsixControl(effects);
    const target = this.#window.target(offset, bytes.length);
    if (target !== null)
      effects.push(...this.writeRegion(target.bar, target.offset, this.#window.data(target.lengthBytes)));
    if (this.#initiatesFlr(offset, bytes)) effects.push(...this.reset());
    return effects;
  }

  /** Reads a BAR; bytes without a register are 0; empty when the range is not inside the BAR. */
  readRegion(bar: number, offset: number, count: number): Uint8Array {
    if (!isAccess(offset, count, this.regionSize(bar))) return NOTHING;
    const bytes = new Uint8Array(count);
    const { common, isr, device, msix } = this.layout;
    this.#within(common, bar, offset, count, (at, from, n) => {
      this.#common.read(at, bytes, from, n);
      this.#configSeen = true;
    });
    this.#within(isr, bar, offset, count, (_, from) => {
      bytes[from] = this.#isr.get();
      this.#isr.set(0);
    });
    this.#within(device, bar, offset, count, (at, from, n) => {
      bytes.set(this.#device.readConfig(at, n), from);
      this.#configSeen = true;
    });
    if (msix !== null) {
      this.#within(msix.table, bar, offset, count, (at, from, n) => this.#msix.readTable(at, bytes, from, n));
      this.#within(msix.pending, bar, offset, count, (at, from, n) =>
        this.#msix.readPending(at, bytes, from, n),
      );
    }
    return bytes;
  }

  /** Writes a BAR; bytes without a register are ignored, as is a range that is not inside the BAR. */
  writeRegion(bar: number, offset: number, bytes: Uint8Array): Effect[] {
    const effects: Effect[] = [];
    const count = bytes.length;
    if (!isAccess(offset, count, this.regionSize(bar))) return effects;
    const { common, device, notify, msix } = this.layout;
    this.#within(common, bar, offset, count, (at, from, n) =>
      this.#common.write(at, bytes.subarray(from, from + n), effects),
    );
    this.#within(device, bar, offset, count, (at, from, n) => {
      if (this.#device.writeConfig(at, bytes.subarray(from, from + n))) this.configChanged();
    });
    this.#within(notify, bar, offset, count, (at, _, n) => this.#notify(at, n, effects));
    if (msix !== null)
      this.#within(msix.table, bar, offset, count, (at, from, n) => {
        this.#fire(this.#msix.writeTable(at, bytes.subarray(from, from + n)), effects);
        effects.push({ kind: 'vectors-changed' });
      });
    return effects;
  }

  /** Function level reset, also what a client's device reset means: everything as after power on. */
  reset(): Effect[] {
    this.#space.reset();
    this.#msix.reset();
    this.#common.reset();
    this.#clearInterrupts();
    return [{ kind: 'flr' }];
  }

  /**
   * Takes a queue out of service: queue_enable reads 0 again, its other registers stay. For rings that cannot be used,
   * and for a client that stops one queue.
   */
  disableQueue(queue: number): void {
    const registers = this.#common.queues[queue];
    if (registers !== undefined) registers.enabled = false;
  }

  /** The queue has stopped: its registers are as after reset. */
  completeQueueReset(queue: number): void {
    const registers = this.#common.queues[queue];
    if (registers?.resetting) registers.reset();
  }

  /** The device cannot go on. True when the driver is to be told by a configuration interrupt (2.1.2). */
  needsReset(): boolean {
    const { status } = this.#common;
    if (status === 0 || (status & DeviceStatus.NEEDS_RESET) !== 0) return false;
    this.#common.status = status | DeviceStatus.NEEDS_RESET;
    return (status & DeviceStatus.DRIVER_OK) !== 0;
  }

  /** A value of the device configuration has changed. */
  configChanged(): void {
    if (!this.#configSeen) return;
    this.#configSeen = false;
    this.#generation.set((this.#generation.get() + 1) & BYTE_MASK);
  }

  /** Where interrupts of a source go now; no side effect. */
  routeOf(source: InterruptSource): Route {
    if (!this.#listens(source)) return NO_INTERRUPT;
    if (!this.#msix.enabled) return (this.#command & PciCommand.INTX_DISABLE) === 0 ? INTX : NO_INTERRUPT;
    const vector = source === 'config' ? this.configVector : this.#common.queues[source]?.vector;
    if (vector === undefined || vector === NO_VECTOR) return NO_INTERRUPT;
    return { kind: this.#msix.masked(vector) ? 'masked' : 'msix', vector };
  }

  /** Something happened that the driver wants to know: sets ISR or pending bit, and says what to send. */
  interruptFor(source: InterruptSource): Interrupt {
    if (!this.#listens(source)) return NO_INTERRUPT;
    if (source === 'config') this.#isr.set(this.#isr.get() | IsrBit.CONFIG);
    else if (!this.#msix.enabled) this.#isr.set(this.#isr.get() | IsrBit.QUEUE);
    const route = this.routeOf(source);
    if (route.kind !== 'masked') return route;
    return this.#msix.raise(route.vector) ? { kind: 'msix', vector: route.vector } : NO_INTERRUPT;
  }

  save(): FunctionState {
    return {
      config: this.#space.save(),
      ...saveCommon(this.#common),
      msix: this.#msix.save(),
      ...(this.#ownsIsr ? { isr: this.#isr.get() } : {}),
      ...(this.#ownsGeneration ? { generation: this.#generation.get() } : {}),
    };
  }

  /**
   * Takes over a saved state; the device behind it is restored by its owner. Returns the problems of a state that
   * cannot be taken over; then nothing has changed. Never throws.
   */
  restore(value: unknown): readonly string[] {
    const { state, problems } = parseFunction(value, this.#space, this.#common, this.#msix.vectors);
    if (problems.length > 0) return problems;
    this.#space.load(state.config);
    this.#msix.load(state.msix, this.#msixControl);
    loadCommon(this.#common, state);
    if (this.#ownsIsr) this.#isr.set(state.isr ?? 0);
    if (this.#ownsGeneration) this.#generation.set(state.generation ?? 0);
    this.#configSeen = true;
    return [];
  }

  /** Whether the driver has come far enough to be told of such an event. */
  #listens(source: InterruptSource): boolean {
    const needed = source === 'config' ? DeviceStatus.DRIVER : DeviceStatus.DRIVER_OK;
    return (this.#common.status & needed) !== 0;
  }

  #within(
    structure: Structure,
    bar: number,
    offset: number,
    count: number,
    use: (atStructure: number, atAccess: number, count: number) => void,
  ): void {
    if (structure.bar !== bar) return;
    const part = overlap(offset, count, structure.offset, structure.lengthBytes);
    if (part !== null) use(part.inRange, part.inAccess, part.count);
  }

  #notify(offset: number, count: number, effects: Effect[]): void {
    const live = DeviceStatus.DRIVER_OK | DeviceStatus.NEEDS_RESET | DeviceStatus.FAILED;
    if ((this.#common.status & live) !== DeviceStatus.DRIVER_OK) return;
    const first = Math.floor(offset / NOTIFY_MULTIPLIER);
    const last = Math.floor((offset + count - 1) / NOTIFY_MULTIPLIER);
    for (let queue = first; queue <= last; queue++)
      if (this.#common.queues[queue]?.enabled) effects.push({ kind: 'queue-notify', queue });
  }

  #commandChanged(before: number, effects: Effect[]): void {
    const changed = before ^ this.#command;
    if ((changed & PciCommand.BUS_MASTER) !== 0)
      effects.push({ kind: 'bus-master', enabled: this.busMaster });
    if ((changed & PciCommand.INTX_DISABLE) === 0) return;
    effects.push({ kind: 'vectors-changed' });
    if (this.intxAsserted) effects.push({ kind: 'fire-intx' });
  }

  get #msixControl(): number {
    const { msix } = this.capabilities;
    if (msix === null) return 0;
    return this.#space.u16(msix + PciMsix.at.control) & (MsixControl.ENABLE | MsixControl.FUNCTION_MASK);
  }

  #applyMsixControl(effects: Effect[]): void {
    this.#fire(this.#msix.setControl(this.#msixControl), effects);
    effects.push({ kind: 'vectors-changed' });
  }

  #fire(vectors: readonly number[], effects: Effect[]): void {
    for (const vector of vectors) effects.push({ kind: 'fire', vector });
  }

  #initiatesFlr(offset: number, bytes: Uint8Array): boolean {
    const upper = this.capabilities.express + PciExpress.at.deviceControl + 1 - offset;
    return upper >= 0 && upper < bytes.length && (bytes[upper]! & (EXPRESS_INITIATE_FLR >> 8)) !== 0;
  }

  #clearInterrupts(): void {
    this.#isr.set(0);
    this.#msix.clearPending();
  }
}
