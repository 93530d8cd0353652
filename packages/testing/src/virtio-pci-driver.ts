/**
 * virtio-pci-driver.ts: the driver's side of a modern virtio PCI function.
 *
 * Theory
 *   Works over FunctionAccess, hence against a function in this process and against one behind vfio-user alike. It
 *   does what Linux's virtio_pci_modern does, in that order, and checks what that only assumes: read-backs, resets
 *   that end, features that stick.
 *
 * Parties
 *   device   the object under test, possibly in another process.
 *
 * Invariants
 *   I1  every register is accessed in its own width, 64-bit addresses as two halves (4.1.3.1).
 *
 * Limits  DEADLINE_MS for the device to finish a reset.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import {
  DeviceStatus,
  featureMask,
  hasFeature,
  MSIX_ENTRY_MASKED,
  MsixControl,
  MsixEntry,
  NO_VECTOR,
  PciCommand,
  PciHeader,
  PciMsix,
  VIRTIO_PCI_CAP_EXTRA_AT,
  VirtioFeature,
  VirtioPciCap,
  VirtioPciCommon,
  viewOf,
} from '@virtnet/wire';
import type { FunctionAccess } from './function-access.js';
import { check, DriverError, enumerate, type FoundFunction, littleEndian } from './pci-enumeration.js';

/** Where a queue's parts are, and how it interrupts. */
export interface QueueSetup {
  readonly size: number;
  readonly descriptorAddress: bigint;
  readonly driverAddress: bigint;
  readonly deviceAddress: bigint;
  /** Default NO_VECTOR. */
  readonly vector?: number;
}

type CommonRegister = keyof typeof VirtioPciCommon.at;

/** What `next` is multiplied with beside the queue's number (4.1.5.2). */
const NOTIFICATION_NEXT = 0x1_0000;
const DEADLINE_MS = 5000;
const WORD_MASK = 0xffff_ffffn;
/** Bytes of each register of the common configuration; addresses count as two halves. */
const HALF_BYTES = 4;
const FEATURE_WORDS = 2;
/** Times a configuration that keeps changing is read again. */
const CONFIG_READS_MAX = 64;

function widthOf(register: CommonRegister): number {
  const offsets = [...Object.values(VirtioPciCommon.at), VirtioPciCommon.sizeBytes];
  return offsets[offsets.indexOf(VirtioPciCommon.at[register]) + 1]! - VirtioPciCommon.at[register];
}

const toNumber = (bytes: Uint8Array): number => bytes.reduceRight((value, byte) => value * 256 + byte, 0);

export class VirtioPciDriver {
  readonly access: FunctionAccess;
  readonly found: FoundFunction;
  /** Features agreed on; 0n before. */
  features = 0n;
  /** Offset in the notify structure of each enabled queue. */
  readonly #notifyAt = new Map<number, number>();

  private constructor(access: FunctionAccess, found: FoundFunction) {
    this.access = access;
    this.found = found;
  }

  /** Enumerates the function, switches memory and bus mastering on, and resets the device. */
  static async probe(access: FunctionAccess): Promise<VirtioPciDriver> {
    const driver = new VirtioPciDriver(access, await enumerate(access));
    await driver.setCommand(PciCommand.MEMORY | PciCommand.BUS_MASTER, true);
    await driver.reset();
    return driver;
  }

  /** Sets or clears bits of the PCI command register. */
  async setCommand(bits: number, on: boolean): Promise<void> {
    const at = PciHeader.at.command;
    const command = toNumber(await this.access.readConfig(at, 2));
    await this.access.writeConfig(at, littleEndian(on ? command | bits : command & ~bits, 2));
  }

  /** Reads a register of at most 32 bits of the common configuration. */
  async read(register: CommonRegister): Promise<number> {
    const { bar, offset } = this.found.common;
    const at = offset + VirtioPciCommon.at[register];
    return toNumber(await this.access.readRegion(bar, at, widthOf(register)));
  }

  async write(register: CommonRegister, value: number): Promise<void> {
    const { bar, offset } = this.found.common;
    const at = offset + VirtioPciCommon.at[register];
    await this.access.writeRegion(bar, at, littleEndian(value, widthOf(register)));
  }

  async #writeAddress(register: CommonRegister, address: bigint): Promise<void> {
    const { bar, offset } = this.found.common;
    const at = offset + VirtioPciCommon.at[register];
    for (const [half, word] of [address & WORD_MASK, address >> 32n].entries())
      await this.access.writeRegion(bar, at + half * HALF_BYTES, littleEndian(Number(word), HALF_BYTES));
  }

  async status(): Promise<number> {
    return this.read('deviceStatus');
  }

  async addStatus(bits: number): Promise<void> {
    await this.write('deviceStatus', (await this.status()) | bits);
  }

  async #until(done: () => Promise<boolean>, what: string): Promise<void> {
    const deadline = performance.now() + DEADLINE_MS;
    while (!(await done())) {
      check(performance.now() < deadline, `${what} does not end`);
      await sleep(1);
    }
  }

  /** Resets the device and waits until it says so. */
  async reset(): Promise<void> {
    await this.write('deviceStatus', 0);
    await this.#until(async () => (await this.status()) === 0, 'reset');
    this.features = 0n;
  }

  async offeredFeatures(): Promise<bigint> {
    let features = 0n;
    for (let word = 0; word < FEATURE_WORDS; word++) {
      await this.write('deviceFeatureSelect', word);
      features |= BigInt(await this.read('deviceFeature')) << BigInt(32 * word);
    }
    return features;
  }

  /** Writes the driver's features without asking for agreement. */
  async writeFeatures(features: bigint): Promise<void> {
    for (let word = 0; word < FEATURE_WORDS; word++) {
      await this.write('driverFeatureSelect', word);
      await this.write('driverFeature', Number((features >> BigInt(32 * word)) & WORD_MASK));
    }
  }

  /** Goes up to FEATURES_OK with exactly `features`; false when the device refuses them. */
  async tryFeatures(features: bigint): Promise<boolean> {
    await this.reset();
    await this.addStatus(DeviceStatus.ACKNOWLEDGE);
    await this.addStatus(DeviceStatus.DRIVER);
    await this.writeFeatures(features);
    await this.addStatus(DeviceStatus.FEATURES_OK);
    const accepted = ((await this.status()) & DeviceStatus.FEATURES_OK) !== 0;
    this.features = accepted ? features : 0n;
    return accepted;
  }

  /** Resets, and agrees on what is both wanted and offered (default: everything). DriverError when refused. */
  async negotiate(wanted: bigint = ~0n): Promise<bigint> {
    const offered = await this.offeredFeatures();
    const features = offered & (wanted | featureMask([VirtioFeature.VERSION_1]));
    if (!(await this.tryFeatures(features)))
      throw new DriverError(`features 0x${features.toString(16)} were refused`);
    return features;
  }

  async driverOk(): Promise<void> {
    await this.addStatus(DeviceStatus.DRIVER_OK);
    check(((await this.status()) & DeviceStatus.DRIVER_OK) !== 0, 'DRIVER_OK does not stick');
  }

  /** Largest size of a queue; 0 when there is no such queue. */
  async queueSizeMax(queue: number): Promise<number> {
    await this.write('queueSelect', queue);
    return this.read('queueSize');
  }

  /** Sets a queue up and enables it; DriverError when a register does not take its value. */
  async enableQueue(queue: number, setup: QueueSetup): Promise<void> {
    const sizeMax = await this.queueSizeMax(queue);
    check(setup.size <= sizeMax, `queue ${queue} has at most ${sizeMax} entries`);
    check((await this.read('queueEnable')) === 0, `queue ${queue} is enabled already`);
    await this.write('queueSize', setup.size);
    await this.#writeAddress('queueDescriptor', setup.descriptorAddress);
    await this.#writeAddress('queueDriver', setup.driverAddress);
    await this.#writeAddress('queueDevice', setup.deviceAddress);
    await this.mapQueueVector(queue, setup.vector ?? NO_VECTOR);
    const notifyAt = (await this.read('queueNotifyOffset')) * this.found.notifyMultiplier;
    check(notifyAt + 2 <= this.found.notify.lengthBytes, `notify register of queue ${queue} is outside`);
    this.#notifyAt.set(queue, notifyAt);
    await this.write('queueEnable', 1);
    check((await this.read('queueEnable')) === 1, `queue ${queue} was not enabled`);
  }

  async mapQueueVector(queue: number, vector: number): Promise<void> {
    await this.write('queueSelect', queue);
    await this.write('queueVector', vector);
    check((await this.read('queueVector')) === vector, `vector ${vector} of queue ${queue} was refused`);
  }

  async mapConfigVector(vector: number): Promise<void> {
    await this.write('configVector', vector);
    check((await this.read('configVector')) === vector, `vector ${vector} was refused`);
  }

  /** Resets one queue and waits until it has stopped. */
  async resetQueue(queue: number): Promise<void> {
    await this.write('queueSelect', queue);
    await this.write('queueReset', 1);
    await this.#until(async () => (await this.read('queueReset')) === 0, `reset of queue ${queue}`);
    check((await this.read('queueEnable')) === 0, `queue ${queue} is enabled after its reset`);
  }

  /**
   * Tells the device that a queue, which was enabled once, has available buffers; with NOTIFICATION_DATA also `next`,
   * where the next one will be: a free-running index (split), or offset and wrap counter (packed, in bit 15).
   */
  async notify(queue: number, next = 0): Promise<void> {
    const at = this.#notifyAt.get(queue);
    check(at !== undefined, `queue ${queue} was never enabled`);
    const { bar, offset } = this.found.notify;
    const data = hasFeature(this.features, VirtioFeature.NOTIFICATION_DATA)
      ? littleEndian(next * NOTIFICATION_NEXT + queue, 4)
      : littleEndian(queue, 2);
    await this.access.writeRegion(bar, offset + at, data);
  }

  /** Reads the device configuration; again when it changed meanwhile. */
  async readDeviceConfig(offset: number, count: number): Promise<Uint8Array> {
    const { device } = this.found;
    for (let attempt = 0; attempt < CONFIG_READS_MAX; attempt++) {
      const before = await this.read('configGeneration');
      const bytes = await this.access.readRegion(device.bar, device.offset + offset, count);
      if ((await this.read('configGeneration')) === before) return bytes;
    }
    throw new DriverError('the configuration never stays the same');
  }

  /** Reads, and thereby clears, the ISR status. */
  async readIsr(): Promise<number> {
    const { isr } = this.found;
    return toNumber(await this.access.readRegion(isr.bar, isr.offset, 1));
  }

  /** Switches MSI-X and the mask of all vectors. */
  async setMsix(enabled: boolean, masked = false): Promise<void> {
    const { msix } = this.found;
    check(msix !== null, 'there is no MSI-X capability');
    const at = msix.capabilityAt + PciMsix.at.control;
    const keep = toNumber(await this.access.readConfig(at, 2)) & MsixControl.TABLE_SIZE_MASK;
    const bits = (enabled ? MsixControl.ENABLE : 0) | (masked ? MsixControl.FUNCTION_MASK : 0);
    await this.access.writeConfig(at, littleEndian(keep | bits, 2));
  }

  /** Writes an entry of the MSI-X table. */
  async writeMsixEntry(
    vector: number,
    entry: { readonly address: bigint; readonly data: number; readonly masked: boolean },
  ): Promise<void> {
    const { msix } = this.found;
    check(msix !== null && vector < msix.vectors, `there is no vector ${vector}`);
    const words = MsixEntry.bytes({
      addressLow: Number(entry.address & WORD_MASK),
      addressHigh: Number(entry.address >> 32n),
      data: entry.data,
      control: entry.masked ? MSIX_ENTRY_MASKED : 0,
    });
    const at = msix.table.offset + vector * MsixEntry.sizeBytes;
    for (let i = 0; i < words.length; i += HALF_BYTES)
      await this.access.writeRegion(msix.table.bar, at + i, words.subarray(i, i + HALF_BYTES));
  }

  /** Whether a vector's pending bit is set. */
  async isPending(vector: number): Promise<boolean> {
    const { msix } = this.found;
    check(msix !== null && vector < msix.vectors, `there is no vector ${vector}`);
    const at = msix.pending.offset + Math.floor(vector / 32) * HALF_BYTES;
    const word = viewOf(await this.access.readRegion(msix.pending.bar, at, HALF_BYTES)).getUint32(0, true);
    return ((word >>> (vector % 32)) & 1) === 1;
  }

  /** Reads a register of 1, 2 or 4 bytes through the configuration access window. */
  async readThroughWindow(bar: number, offset: number, lengthBytes: number): Promise<Uint8Array> {
    return this.access.readConfig(await this.#aim(bar, offset, lengthBytes), lengthBytes);
  }

  async writeThroughWindow(bar: number, offset: number, bytes: Uint8Array): Promise<void> {
    await this.access.writeConfig(await this.#aim(bar, offset, bytes.length), bytes);
  }

  /** Points the window; returns where its data is in configuration space. */
  async #aim(bar: number, offset: number, lengthBytes: number): Promise<number> {
    const at = this.found.window.capabilityAt;
    await this.access.writeConfig(at + VirtioPciCap.at.bar, littleEndian(bar, 1));
    await this.access.writeConfig(at + VirtioPciCap.at.offset, littleEndian(offset, 4));
    await this.access.writeConfig(at + VirtioPciCap.at.length, littleEndian(lengthBytes, 4));
    return at + VIRTIO_PCI_CAP_EXTRA_AT;
  }
}
