/**
 * function-page.ts: the few words of one function that change with every message, in memory that outlives the process.
 *
 * Theory
 *   A memfd that the keeper holds too. A word is stored as plainly as a variable, and whoever goes on after a kill reads
 *   what the last instruction left. What it means is said with each word; records.ts has everything slow.
 *
 * Layout    PAGE_WORDS 32-bit words: HEADER_WORDS of them as below, then a position for each queue.
 *
 * Limits    POSITIONS_MAX queues.
 */
import { close, memfdCreate, type SharedMapping, sharedMapping } from '@virtnet/host-linux';
import type { LastRequest } from '@virtnet/server-vfio-user';
import { Errno } from '@virtnet/wire';

const MAGIC = 0x56_46_45_50; // "VFEP"
const PAGE_BYTES = 16_384;
const HEADER_WORDS = 16;
/** Queues a position can be kept for: more than there are MSI-X vectors. */
const POSITIONS_MAX = PAGE_BYTES / 4 - HEADER_WORDS;
const word = { MAGIC: 0, FINISHED: 1, PHASE: 2, REQUEST: 3, PROMISED: 4, LET_GO: 5 } as const;

/** How the function stands to its record. */
export const Phase = {
  /** It is as the record says. */
  SETTLED: 0,
  /** A message of the frontend's is being carried out, and how far is not known. */
  UNSETTLED: 1,
  /** The same, and where each ring stood is in the positions. */
  POSITIONS_KEPT: 2,
} as const;
export type Phase = (typeof Phase)[keyof typeof Phase];

export class FunctionPage implements LastRequest {
  readonly fd: number;
  readonly #mapping: SharedMapping;
  readonly #words: Uint32Array;

  private constructor(fd: number, mapping: SharedMapping) {
    this.fd = fd;
    this.#mapping = mapping;
    this.#words = new Uint32Array(mapping.buffer);
  }

  /** A new page, or -errno. */
  static create(): FunctionPage | number {
    const fd = memfdCreate('virtnet-vfe', PAGE_BYTES);
    if (fd < 0) return fd;
    const page = FunctionPage.#map(fd);
    if (typeof page !== 'number') page.#words[word.MAGIC] = MAGIC;
    return page;
  }

  /** The page behind a descriptor, which is the page's from now on; or -errno, and it is closed. */
  static open(fd: number): FunctionPage | number {
    const page = FunctionPage.#map(fd);
    if (typeof page === 'number' || page.#words[word.MAGIC] === MAGIC) return page;
    page.close();
    return -Errno.EINVAL;
  }

  static #map(fd: number): FunctionPage | number {
    const mapping = sharedMapping(fd, PAGE_BYTES);
    if (typeof mapping !== 'number') return new FunctionPage(fd, mapping);
    close(fd);
    return mapping;
  }

  /** Number of the frontend's last message that is over. */
  get finished(): number {
    return this.#words[word.FINISHED]!;
  }
  set finished(sequence: number) {
    this.#words[word.FINISHED] = sequence;
  }

  get phase(): Phase {
    const phase = this.#words[word.PHASE]!;
    return phase === Phase.SETTLED || phase === Phase.POSITIONS_KEPT ? phase : Phase.UNSETTLED;
  }
  set phase(phase: Phase) {
    this.#words[word.PHASE] = phase;
  }

  /** Number of the last request to the function. */
  get id(): number {
    return this.#words[word.REQUEST]!;
  }
  set id(id: number) {
    this.#words[word.REQUEST] = id;
  }

  /** Number of the last change that the frontend was answered on (see keeper.ts); 0 before the first. */
  get promised(): number {
    return this.#words[word.PROMISED]!;
  }
  set promised(number: number) {
    this.#words[word.PROMISED] = number;
  }

  /** The function is not served any more: what a keeper may still have of it is nobody's. */
  get letGo(): boolean {
    return this.#words[word.LET_GO] !== 0;
  }
  setLetGo(): void {
    this.#words[word.LET_GO] = 1;
  }

  position(queue: number): number {
    return this.#words[HEADER_WORDS + Math.min(queue, POSITIONS_MAX - 1)]!;
  }

  keepPosition(queue: number, position: number): void {
    this.#words[HEADER_WORDS + Math.min(queue, POSITIONS_MAX - 1)] = position;
  }

  /** Closing twice does nothing. */
  close(): void {
    if (this.#mapping.buffer.byteLength === 0) return;
    this.#mapping.close();
    close(this.fd);
  }
}
