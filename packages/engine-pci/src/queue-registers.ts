/**
 * queue-registers.ts: the registers of one virtqueue in the common configuration (virtio 1.3, 4.1.4.3).
 *
 * Theory
 *   Addresses are kept as 32-bit words, because that is how a driver writes them; sizes and vectors have been judged
 *   before they get here. Whether the queue may be enabled is judged from all of it at once.
 *
 * Invariants
 *   I1  never enabled and resetting at once.
 *   I2  an address of 0 means that it was not written: such a queue is not enabled.
 *
 * Saved   everything, of queues that differ from reset.
 * Limits  QUEUE_SIZE_MAX entries.
 */
import { hex64, NO_VECTOR, type PlainReader, QUEUE_SIZE_MAX } from '@virtnet/wire';
import type { QueueRefusal } from './effects.js';

/** A virtqueue as its program sees it. Addresses are in the driver's space. */
export interface QueueView {
  readonly index: number;
  /** Entries. */
  readonly size: number;
  readonly descriptorAddress: bigint;
  readonly driverAddress: bigint;
  readonly deviceAddress: bigint;
  readonly enabled: boolean;
  /** A reset of this queue was asked for and is not complete. */
  readonly resetting: boolean;
  /** MSI-X vector, NO_VECTOR when none. */
  readonly vector: number;
  /** Times NOTIFY_MULTIPLIER: where in the notify structure this queue is notified. */
  readonly notifyOffset: number;
}

/** The three addresses, as indices of words of 32 bits: low half, then high half. */
export const AddressWord = { DESCRIPTOR: 0, DRIVER: 2, DEVICE: 4 } as const;
export type AddressWord = (typeof AddressWord)[keyof typeof AddressWord];
const ADDRESS_WORDS = 6;

/** The addresses of all queues of a function, one after the other: a view for each would be most of its memory. */
export const queueAddresses = (queueCount: number): Uint32Array =>
  new Uint32Array(queueCount * ADDRESS_WORDS);

export interface QueueState {
  readonly index: number;
  readonly size: number;
  readonly vector: number;
  readonly enabled: boolean;
  readonly resetting: boolean;
  readonly descriptor: string;
  readonly driver: string;
  readonly device: string;
}

export class QueueRegisters implements QueueView {
  readonly index: number;
  readonly sizeMax: number;
  size: number;
  vector: number = NO_VECTOR;
  enabled = false;
  resetting = false;
  readonly #addresses: Uint32Array;

  /** `addresses`: of all queues of the function. */
  constructor(index: number, sizeMax: number, addresses: Uint32Array) {
    this.index = index;
    this.sizeMax = sizeMax;
    this.size = sizeMax;
    this.#addresses = addresses;
  }

  /** A word of the addresses, by AddressWord. */
  word(word: number): number {
    return this.#addresses[this.index * ADDRESS_WORDS + word]!;
  }

  setWord(word: number, value: number): void {
    this.#addresses[this.index * ADDRESS_WORDS + word] = value;
  }

  get notifyOffset(): number {
    return this.index;
  }

  get descriptorAddress(): bigint {
    return this.#address(AddressWord.DESCRIPTOR);
  }

  get driverAddress(): bigint {
    return this.#address(AddressWord.DRIVER);
  }

  get deviceAddress(): bigint {
    return this.#address(AddressWord.DEVICE);
  }

  #address(word: AddressWord): bigint {
    return (BigInt(this.word(word + 1)) << 32n) | BigInt(this.word(word));
  }

  reset(): void {
    this.size = this.sizeMax;
    this.vector = NO_VECTOR;
    this.enabled = false;
    this.resetting = false;
    for (let word = 0; word < ADDRESS_WORDS; word++) this.setWord(word, 0);
  }

  get isDefault(): boolean {
    return (
      this.size === this.sizeMax &&
      this.vector === NO_VECTOR &&
      !this.enabled &&
      !this.resetting &&
      this.descriptorAddress === 0n &&
      this.driverAddress === 0n &&
      this.deviceAddress === 0n
    );
  }

  /** Why the queue cannot be enabled now, or null. `packed`: RING_PACKED is agreed. */
  refusal(featuresAgreed: boolean, packed: boolean): QueueRefusal | null {
    if (!featuresAgreed) return 'features-not-agreed';
    if (this.resetting) return 'resetting';
    if (!isQueueSize(this.size, this.sizeMax, packed)) return 'size-invalid';
    const { descriptorAddress, driverAddress, deviceAddress } = this;
    if (descriptorAddress === 0n || driverAddress === 0n || deviceAddress === 0n) return 'address-missing';
    return null;
  }

  /** Why a saved state of this queue cannot be, or null. */
  judge(state: ParsedQueue, featuresAgreed: boolean, packed: boolean): QueueRefusal | null {
    if (!isQueueSize(state.size, this.sizeMax, packed)) return 'size-invalid';
    if (!state.enabled && !state.resetting) return null;
    if (state.enabled && state.resetting) return 'resetting';
    if (!featuresAgreed) return 'features-not-agreed';
    const missing = state.descriptor === 0n || state.driver === 0n || state.device === 0n;
    return missing ? 'address-missing' : null;
  }

  save(): QueueState {
    return {
      index: this.index,
      size: this.size,
      vector: this.vector,
      enabled: this.enabled,
      resetting: this.resetting,
      descriptor: hex64(this.descriptorAddress),
      driver: hex64(this.driverAddress),
      device: hex64(this.deviceAddress),
    };
  }

  load(state: ParsedQueue): void {
    this.size = state.size;
    this.vector = state.vector;
    this.enabled = state.enabled;
    this.resetting = state.resetting;
    for (const [i, address] of [state.descriptor, state.driver, state.device].entries()) {
      this.setWord(2 * i, Number(address & 0xffff_ffffn));
      this.setWord(2 * i + 1, Number(address >> 32n));
    }
  }
}

/** Whether a driver may choose this size (2.7, 2.8: a power of two unless the ring is packed). */
export function isQueueSize(size: number, sizeMax: number, packed: boolean): boolean {
  return size > 0 && size <= sizeMax && (packed || (size & (size - 1)) === 0);
}

/** A queue's state once it has been read. */
export interface ParsedQueue extends Omit<QueueState, 'descriptor' | 'driver' | 'device'> {
  readonly descriptor: bigint;
  readonly driver: bigint;
  readonly device: bigint;
}

/** Reads what `save` wrote; problems are noted in `reader`. */
export function parseQueue(
  value: unknown,
  path: string,
  queueCount: number,
  reader: PlainReader,
): ParsedQueue {
  const fields = reader.object(value, path);
  return {
    index: reader.integer(fields.index, `${path}.index`, 0, queueCount - 1),
    size: reader.integer(fields.size, `${path}.size`, 1, QUEUE_SIZE_MAX),
    vector: reader.integer(fields.vector, `${path}.vector`, 0, NO_VECTOR),
    enabled: reader.boolean(fields.enabled, `${path}.enabled`),
    resetting: reader.boolean(fields.resetting, `${path}.resetting`),
    descriptor: reader.hex64(fields.descriptor, `${path}.descriptor`),
    driver: reader.hex64(fields.driver, `${path}.driver`),
    device: reader.hex64(fields.device, `${path}.device`),
  };
}
