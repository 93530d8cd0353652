/**
 * common-config.ts: the common configuration structure: features, status, queues.
 *
 * Theory
 *   A table of registers of at most 32 bits. An access is cut into the bytes that fall into each register, lowest
 *   first; a register that is only partly written is merged with what it holds. Registers that accept only some values
 *   (sizes, vectors) remember the half they were given (`halves`), so that two narrow writes act as one wide write.
 *
 * States of a queue   off -> enabled -> resetting -> off; any -> off by device reset
 *   addresses and size of an enabled queue    Prohibited to change; writes are ignored.
 *   enabling before FEATURES_OK               Prohibited; the rings' format is not known yet.
 *
 * A device without any queue cannot be used: it agrees to no features, so that every driver lets go of it.
 *
 * Invariants
 *   I1  driverFeatures changes only between DRIVER and FEATURES_OK, and after FEATURES_OK it was accepted by the device.
 *   I2  a queue is enabled only with a valid size and three addresses.
 *   I3  a vector register holds a vector the function has, or NO_VECTOR.
 *
 * Limits  QUEUE_COUNT_MAX queues; features 0..63.
 * Spec    virtio 1.3, 4.1.4.3.
 */
import {
  DeviceStatus,
  hasFeature,
  NO_VECTOR,
  VirtioPciCommon as Registers,
  VirtioFeature,
} from '@virtnet/wire';
import { extractBytes, mergeBytes, overlap } from './byte-lanes.js';
import { judgeStatusWrite, STATUS_STEPS } from './device-status.js';
import type { Effect } from './effects.js';
import { AddressWord, isQueueSize, QueueRegisters, queueAddresses } from './queue-registers.js';
import type { CellPort, VirtioDevice } from './virtio-device.js';

interface Register {
  readonly at: number;
  readonly sizeBytes: number;
  readonly read: (common: CommonConfig) => number;
  readonly write?: (common: CommonConfig, value: number, effects: Effect[]) => void;
  /** Accepts only some values: halves are kept until they make one. */
  readonly checked?: boolean;
}

/** The value a checked register was left at by a narrow write, and the queue selected then. */
export interface HalfWritten {
  readonly queue: number;
  readonly value: number;
}

/** Device feature words the selectors reach. */
const FEATURE_WORDS = 2;
const WORD_MASK = 0xffff_ffffn;

const wordOf = (features: bigint, select: number): number =>
  select < FEATURE_WORDS ? Number((features >> BigInt(32 * select)) & WORD_MASK) : 0;

export class CommonConfig {
  readonly queues: readonly QueueRegisters[];
  status = 0;
  deviceFeatureSelect = 0;
  driverFeatureSelect = 0;
  driverFeatures = 0n;
  configVector: number = NO_VECTOR;
  queueSelect = 0;
  /** By offset of a checked register. */
  readonly halves = new Map<number, HalfWritten>();

  readonly #device: VirtioDevice;
  readonly #vectors: number;
  readonly #generation: CellPort;
  readonly #onReset: () => void;
  /** The same for every function: there may be a thousand. */
  static readonly #registers: readonly Register[] = CommonConfig.#table();

  /** `onReset` runs after the registers were reset by the driver. */
  constructor(device: VirtioDevice, vectors: number, generation: CellPort, onReset: () => void) {
    this.#device = device;
    this.#vectors = vectors;
    this.#generation = generation;
    this.#onReset = onReset;
    const addresses = queueAddresses(device.queueCount);
    this.queues = Array.from(
      { length: device.queueCount },
      (_, index) => new QueueRegisters(index, device.queueSizeMax, addresses),
    );
  }

  /** Features the driver has accepted; 0 before FEATURES_OK. */
  get agreedFeatures(): bigint {
    return (this.status & DeviceStatus.FEATURES_OK) === 0 ? 0n : this.driverFeatures;
  }

  /** Why these features cannot be agreed on; empty when they can. */
  featureProblems(features: bigint): readonly string[] {
    if (this.queues.length === 0) return ['the device has no queues'];
    const notOffered = features & ~this.#device.offeredFeatures;
    if (notOffered !== 0n) return [`not offered: 0x${notOffered.toString(16)}`];
    if (!hasFeature(features, VirtioFeature.VERSION_1)) return ['VERSION_1 is missing'];
    return this.#device.featureProblems(features);
  }

  /** Registers and device as after power on. */
  reset(): void {
    this.status = 0;
    this.deviceFeatureSelect = 0;
    this.driverFeatureSelect = 0;
    this.driverFeatures = 0n;
    this.configVector = NO_VECTOR;
    this.queueSelect = 0;
    this.halves.clear();
    for (const queue of this.queues) queue.reset();
    this.#device.reset();
  }

  /** Copies registers; what lies outside reads 0. */
  read(offset: number, target: Uint8Array, targetAt: number, count: number): void {
    for (const register of CommonConfig.#registers) {
      const part = overlap(offset, count, register.at, register.sizeBytes);
      if (part !== null)
        extractBytes(register.read(this), part.inRange, target, targetAt + part.inAccess, part.count);
    }
  }

  /** Writes registers; effects are added to `effects` in the order of the registers. */
  write(offset: number, bytes: Uint8Array, effects: Effect[]): void {
    for (const register of CommonConfig.#registers) {
      const part = overlap(offset, bytes.length, register.at, register.sizeBytes);
      if (part === null) continue;
      const value = mergeBytes(this.#base(register), part.inRange, bytes, part.inAccess, part.count);
      if (register.checked) {
        if (part.count < register.sizeBytes) this.halves.set(register.at, { queue: this.queueSelect, value });
        else this.halves.delete(register.at);
      }
      register.write?.(this, value, effects);
    }
  }

  /** What a narrow write is merged with. */
  #base(register: Register): number {
    const half = this.halves.get(register.at);
    return half !== undefined && half.queue === this.queueSelect ? half.value : register.read(this);
  }

  get #selected(): QueueRegisters | undefined {
    return this.queues[this.queueSelect];
  }

  #writeDriverFeatures(value: number): void {
    const open = DeviceStatus.DRIVER | DeviceStatus.FEATURES_OK;
    if ((this.status & open) !== DeviceStatus.DRIVER || this.driverFeatureSelect >= FEATURE_WORDS) return;
    const shift = BigInt(32 * this.driverFeatureSelect);
    this.driverFeatures = (this.driverFeatures & ~(WORD_MASK << shift)) | (BigInt(value) << shift);
  }

  #writeStatus(value: number, effects: Effect[]): void {
    const verdict = judgeStatusWrite(this.status, value);
    if (verdict === 'ignored') return;
    if (verdict === 'reset') {
      this.reset();
      this.#onReset();
      effects.push({ kind: 'reset' });
      return;
    }
    const before = this.status;
    const added = value & ~before;
    for (const { bit, needs } of STATUS_STEPS) {
      if ((added & bit) === 0 || (this.status & needs) !== needs) continue;
      if (bit === DeviceStatus.FEATURES_OK && !this.#agree(effects)) continue;
      this.status |= bit;
    }
    if (this.status === before) return;
    effects.push({ kind: 'status', value: this.status });
    if ((this.status & ~before & DeviceStatus.DRIVER_OK) !== 0) effects.push({ kind: 'driver-ok' });
  }

  #agree(effects: Effect[]): boolean {
    const features = this.driverFeatures;
    const problems = this.featureProblems(features);
    if (problems.length > 0) {
      effects.push({ kind: 'features-refused', features, problems });
      return false;
    }
    this.#device.acceptFeatures(features);
    effects.push({ kind: 'features', features });
    return true;
  }

  #writeSize(size: number): void {
    const queue = this.#selected;
    if (queue === undefined || queue.enabled || queue.resetting) return;
    const packed = hasFeature(this.agreedFeatures, VirtioFeature.RING_PACKED);
    if (isQueueSize(size, queue.sizeMax, packed)) queue.size = size;
  }

  #vector(value: number): number {
    return value < this.#vectors ? value : NO_VECTOR;
  }

  #writeEnable(value: number, effects: Effect[]): void {
    const queue = this.#selected;
    if (queue === undefined || queue.enabled || value !== 1) return;
    const agreed = (this.status & DeviceStatus.FEATURES_OK) !== 0;
    const packed = hasFeature(this.agreedFeatures, VirtioFeature.RING_PACKED);
    const reason = queue.refusal(agreed, packed);
    if (reason !== null) {
      effects.push({ kind: 'queue-refused', queue: queue.index, reason });
      return;
    }
    queue.enabled = true;
    effects.push({ kind: 'queue-enable', queue: queue.index });
  }

  #writeQueueReset(value: number, effects: Effect[]): void {
    const queue = this.#selected;
    if (queue === undefined || value !== 1 || queue.resetting) return;
    if (!hasFeature(this.agreedFeatures, VirtioFeature.RING_RESET)) return;
    if (!queue.enabled) {
      queue.reset();
      return;
    }
    queue.enabled = false;
    queue.resetting = true;
    effects.push({ kind: 'queue-reset', queue: queue.index });
  }

  static #table(): Register[] {
    const at = Registers.at;
    const u32 = (where: number, read: Register['read'], write?: Register['write']): Register =>
      write === undefined ? { at: where, sizeBytes: 4, read } : { at: where, sizeBytes: 4, read, write };
    const u16 = (
      where: number,
      read: Register['read'],
      write?: Register['write'],
      checked = false,
    ): Register =>
      write === undefined
        ? { at: where, sizeBytes: 2, read }
        : { at: where, sizeBytes: 2, read, write, checked };
    const address = (where: number, word: AddressWord): Register[] =>
      [0, 1].map((half) =>
        u32(
          where + 4 * half,
          (common) => common.#selected?.word(word + half) ?? 0,
          (common, value) => {
            const queue = common.#selected;
            if (queue !== undefined && !queue.enabled && !queue.resetting) queue.setWord(word + half, value);
          },
        ),
      );
    return [
      u32(
        at.deviceFeatureSelect,
        (common) => common.deviceFeatureSelect,
        (common, value) => {
          common.deviceFeatureSelect = value;
        },
      ),
      u32(at.deviceFeature, (common) => wordOf(common.#device.offeredFeatures, common.deviceFeatureSelect)),
      u32(
        at.driverFeatureSelect,
        (common) => common.driverFeatureSelect,
        (common, value) => {
          common.driverFeatureSelect = value;
        },
      ),
      u32(
        at.driverFeature,
        (common) => wordOf(common.driverFeatures, common.driverFeatureSelect),
        (common, value) => common.#writeDriverFeatures(value),
      ),
      u16(
        at.configVector,
        (common) => common.configVector,
        (common, value, effects) => {
          common.configVector = common.#vector(value);
          effects.push({ kind: 'vectors-changed' });
        },
        true,
      ),
      u16(at.queueCount, (common) => common.queues.length),
      {
        at: at.deviceStatus,
        sizeBytes: 1,
        read: (common) => common.status,
        write: (common, value, effects) => common.#writeStatus(value, effects),
      },
      { at: at.configGeneration, sizeBytes: 1, read: (common) => common.#generation.get() },
      u16(
        at.queueSelect,
        (common) => common.queueSelect,
        (common, value) => {
          common.queueSelect = value;
        },
      ),
      u16(
        at.queueSize,
        (common) => common.#selected?.size ?? 0,
        (common, value) => common.#writeSize(value),
        true,
      ),
      u16(
        at.queueVector,
        (common) => common.#selected?.vector ?? NO_VECTOR,
        (common, value, effects) => {
          const queue = common.#selected;
          if (queue === undefined) return;
          queue.vector = common.#vector(value);
          effects.push({ kind: 'vectors-changed' });
        },
        true,
      ),
      u16(
        at.queueEnable,
        (common) => (common.#selected?.enabled ? 1 : 0),
        (common, value, effects) => common.#writeEnable(value, effects),
      ),
      u16(at.queueNotifyOffset, (common) => common.#selected?.notifyOffset ?? 0),
      ...address(at.queueDescriptor, AddressWord.DESCRIPTOR),
      ...address(at.queueDriver, AddressWord.DRIVER),
      ...address(at.queueDevice, AddressWord.DEVICE),
      u16(
        at.queueReset,
        (common) => (common.#selected?.resetting ? 1 : 0),
        (common, value, effects) => common.#writeQueueReset(value, effects),
      ),
    ];
  }
}
