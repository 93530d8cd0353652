/**
 * receive-steering.ts: which receive queue a frame goes to when the driver decides it (RSS; virtio 1.3, 5.1.6.5.7).
 *
 * Theory
 *   The driver gives hash types, a key and a table of receive queues. A frame's hash, cut to the table's length, is the
 *   place of its queue in the table; a frame without any of the hashes goes to the queue for unclassified ones.
 *
 * Invariants
 *   I1  a queue named here was judged when the driver set it; whether it is worked now is the caller's to know.
 *   I2  nothing is allocated for a frame.
 */
import { HashReport } from '@virtnet/wire';
import { FlowHash, type HashSettings } from './flow-hash.js';

/** What the driver has set with RSS_CONFIG. Plain data. */
export interface RssSettings extends HashSettings {
  /** Queue pairs whose receive queue takes the frames; as many as a power of two. */
  readonly table: readonly number[];
  /** The pair for frames without a hash. */
  readonly unclassified: number;
}

/** Whether the driver has named the receive queue of a pair. */
export function namesPair({ table, unclassified }: RssSettings, pair: number): boolean {
  return pair === unclassified || table.includes(pair);
}

export class ReceiveSteering {
  readonly #hash: FlowHash;
  readonly #table: Uint16Array;
  readonly #unclassified: number;

  constructor(settings: RssSettings) {
    this.#hash = new FlowHash(settings);
    this.#table = Uint16Array.from(settings.table);
    this.#unclassified = settings.unclassified;
  }

  /** The pair for a frame whose first `length` bytes (HASHED_BYTES_MAX are enough) are in `frame`. */
  pairOf(frame: Uint8Array, length: number): number {
    const hash = this.#hash;
    hash.calculate(frame, length);
    if (hash.report === HashReport.NONE) return this.#unclassified;
    return this.#table[hash.value & (this.#table.length - 1)]!;
  }
}
