/**
 * dma-table.ts: which ranges of its memory a client has mapped.
 *
 * Theory
 *   Ranges sorted by address. The protocol wants a range refused when it overlaps another and taken away only as
 *   a whole, so neighbours in the order decide everything and a binary search finds them.
 *
 * Invariants
 *   I1  ranges are sorted by iova, not empty, end at or below 2^64, and do not overlap.
 *
 * Limits  DMA_REGIONS_MAX ranges.
 */
import { Errno } from '@virtnet/wire';
import type { DmaRange } from './device.js';
import { DMA_REGIONS_MAX } from './limits.js';

const ADDRESS_SPACE_BYTES = 1n << 64n;

export class DmaTable {
  #ranges: DmaRange[] = [];

  get ranges(): readonly DmaRange[] {
    return this.#ranges;
  }

  /** 0 when the range may be added; -EINVAL (empty, or past 2^64), -EEXIST (overlaps), -ENOSPC (too many). */
  admits(range: DmaRange): number {
    if (range.sizeBytes <= 0 || range.iova + BigInt(range.sizeBytes) > ADDRESS_SPACE_BYTES)
      return -Errno.EINVAL;
    if (this.#overlaps(range)) return -Errno.EEXIST;
    return this.#ranges.length >= DMA_REGIONS_MAX ? -Errno.ENOSPC : 0;
  }

  /** Adds a range that is admitted; answers as `admits`. */
  add(range: DmaRange): number {
    const answer = this.admits(range);
    if (answer === 0) {
      this.#ranges.splice(this.#firstEndingAfter(range.iova), 0, {
        iova: range.iova,
        sizeBytes: range.sizeBytes,
      });
    }
    return answer;
  }

  /** 0 when exactly this range is there; -EINVAL when it is only part of what is there, -ENOENT when nothing is. */
  holds(range: DmaRange): number {
    const found = this.#ranges[this.#firstEndingAfter(range.iova)];
    if (found?.iova === range.iova && found.sizeBytes === range.sizeBytes) return 0;
    if (range.sizeBytes <= 0 || this.#overlaps(range)) return -Errno.EINVAL;
    return -Errno.ENOENT;
  }

  /** Removes exactly this range; answers as `holds`. */
  remove(range: DmaRange): number {
    const answer = this.holds(range);
    if (answer === 0) this.#ranges.splice(this.#firstEndingAfter(range.iova), 1);
    return answer;
  }

  clear(): void {
    this.#ranges = [];
  }

  #overlaps(range: DmaRange): boolean {
    const next = this.#ranges[this.#firstEndingAfter(range.iova)];
    return next !== undefined && next.iova < range.iova + BigInt(range.sizeBytes);
  }

  /** Index of the first range with a byte at or above `iova`. */
  #firstEndingAfter(iova: bigint): number {
    let low = 0;
    let high = this.#ranges.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const range = this.#ranges[middle];
      if (range !== undefined && range.iova + BigInt(range.sizeBytes) <= iova) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
