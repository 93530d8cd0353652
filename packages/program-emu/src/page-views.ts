/**
 * page-views.ts: a worker's views of state pages, one for each page and not one for each use.
 *
 * Theory
 *   A view of memory by address has a finaliser that runs on the thread's event loop. A worker never returns to its
 *   event loop, so every view it makes costs about 280 bytes for good (measured), and a guest decides how often a queue
 *   is configured. Pages live as long as their functions, so the views are kept and used again.
 *
 * Invariants
 *   I1  a view is handed out only while the main thread says that there is a page at its address; one that is kept
 *       while there is none is not touched.
 *
 * Limits  VIEWS_MAX views; then all are forgotten.
 */
import { viewAt } from '@virtnet/host-linux';
import { DEVICES_MAX } from './limits.js';

export const VIEWS_MAX = 2 * DEVICES_MAX;

export class PageViews {
  readonly #views = new Map<bigint, ArrayBuffer>();

  /** The `sizeBytes` at a process address. */
  at(address: bigint, sizeBytes: number): ArrayBuffer {
    const known = this.#views.get(address);
    if (known?.byteLength === sizeBytes) return known;
    if (this.#views.size >= VIEWS_MAX) this.#views.clear();
    const view = viewAt(address, sizeBytes);
    this.#views.set(address, view);
    return view;
  }

  get size(): number {
    return this.#views.size;
  }
}
