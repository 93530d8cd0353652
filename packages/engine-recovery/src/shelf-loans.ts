/** shelf-loans.ts: which names of the shelf the writer lent to whom, by prefix. */
import { ShelfMessageKind } from '@virtnet/wire';
import type { ShelfMessage } from './shelf-message.js';

export interface Loan {
  /** Ends with a slash, so that no name belongs to it by accident. */
  readonly prefix: string;
  /** The lender's words to the borrower; nobody else reads them. */
  readonly note: Uint8Array;
}

/** A device each; more than one instance may have. */
export const LOANS_MAX = 4096;

export class Loans {
  readonly #loans = new Map<string, { pid: number; note: Uint8Array }>(); // at most LOANS_MAX

  get size(): number {
    return this.#loans.size;
  }

  /** Lends, or lends to somebody else. False when there are too many, or the prefix is none. */
  add(prefix: string, pid: number, note: Uint8Array): boolean {
    if (!prefix.endsWith('/') || (this.#loans.size >= LOANS_MAX && !this.#loans.has(prefix))) return false;
    this.#loans.set(prefix, { pid, note });
    return true;
  }

  clear(): void {
    this.#loans.clear();
  }

  has(pid: number): boolean {
    for (const loan of this.#loans.values()) if (loan.pid === pid) return true;
    return false;
  }

  /** Who writes `name`; null when it is not lent. */
  borrowerOf(name: string): number | null {
    for (let end = name.indexOf('/'); end >= 0; end = name.indexOf('/', end + 1)) {
      const loan = this.#loans.get(name.slice(0, end + 1));
      if (loan !== undefined) return loan.pid;
    }
    return null;
  }

  *all(): IterableIterator<Loan & { readonly pid: number }> {
    for (const [prefix, { pid, note }] of this.#loans) yield { prefix, pid, note };
  }
}

/** Tells, or asks, that names are lent to process `pid`. */
export function lendMessage(pid: number, loans: readonly Loan[]): ShelfMessage<never> {
  return {
    kind: ShelfMessageKind.LEND,
    argument: pid,
    operations: loans.map(({ prefix, note }) => ({
      kind: 'put',
      name: prefix,
      blob: note,
      handle: null,
      ttlWithoutHolderMs: 0,
    })),
  };
}
