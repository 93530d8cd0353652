/**
 * config-window.ts: the configuration access window, a way to the BARs through configuration space (4.1.4.9).
 *
 * Theory
 *   Software stores a BAR, an offset and a length (1, 2 or 4) in the capability. A read of the data bytes behind them
 *   then reads that register and stores what it read there first; a write of them writes the register. Only accesses
 *   as narrow as an instruction makes them count: a client that copies configuration space triggers nothing.
 *
 * Invariants
 *   I1  an address outside the function's BARs, or another length, does nothing.
 *
 * Limits  DRIVER_ACCESS_BYTES_MAX.
 */
import { VIRTIO_PCI_CAP_EXTRA_AT, VIRTIO_PCI_CFG_DATA_BYTES, VirtioPciCap } from '@virtnet/wire';
import { overlap } from './byte-lanes.js';
import type { ConfigSpace } from './config-space.js';
import { DRIVER_ACCESS_BYTES_MAX } from './limits.js';

/** Where the window looks now. */
export interface WindowTarget {
  readonly bar: number;
  readonly offset: number;
  readonly lengthBytes: number;
}

const LENGTHS: readonly number[] = [1, 2, 4];

export class ConfigWindow {
  readonly #space: ConfigSpace;
  readonly #at: number;
  readonly #sizeOf: (bar: number) => number;

  /** `at`: offset of the capability; `sizeOf`: bytes of a BAR, 0 when there is none. */
  constructor(space: ConfigSpace, at: number, sizeOf: (bar: number) => number) {
    this.#space = space;
    this.#at = at;
    this.#sizeOf = sizeOf;
  }

  /** The register an access to configuration space reaches through the window, or null. */
  target(offset: number, count: number): WindowTarget | null {
    const dataAt = this.#at + VIRTIO_PCI_CAP_EXTRA_AT;
    if (count > DRIVER_ACCESS_BYTES_MAX) return null;
    if (overlap(offset, count, dataAt, VIRTIO_PCI_CFG_DATA_BYTES) === null) return null;
    const bar = this.#space.u8(this.#at + VirtioPciCap.at.bar);
    const at = this.#space.u32(this.#at + VirtioPciCap.at.offset);
    const lengthBytes = this.#space.u32(this.#at + VirtioPciCap.at.length);
    if (!LENGTHS.includes(lengthBytes) || at + lengthBytes > this.#sizeOf(bar)) return null;
    return { bar, offset: at, lengthBytes };
  }

  /** The data bytes software wrote, as many as the register has. */
  data(lengthBytes: number): Uint8Array {
    return this.#space.read(this.#at + VIRTIO_PCI_CAP_EXTRA_AT, lengthBytes);
  }

  /** Stores what the register held. */
  setData(bytes: Uint8Array): void {
    this.#space.store(this.#at + VIRTIO_PCI_CAP_EXTRA_AT, bytes);
  }
}
