/**
 * shelf.ts: what the state keeper keeps: named entries, each a blob and at most one handle.
 *
 * Theory
 *   A transaction is a list of puts and deletes that is applied as a whole or refused as a whole. The shelf does not
 *   know what a handle is (the keeper's are descriptors): it tells which entries left it, and the owner lets their
 *   handles go. An upload marks every entry as old, puts what is still true, and sweeps what stayed old.
 *
 * Invariants
 *   I1  a refused transaction changes nothing.
 *   I2  every entry that ever entered is either in the shelf or was returned as `left` exactly once.
 *   I3  entries, blob bytes and names stay within ShelfLimits.
 *
 * Limits  ShelfLimits; the defaults carry 1,008 devices of about 100 handles each.
 */
import { Errno, SHELF_NAME_BYTES_MAX } from '@virtnet/wire';

export interface ShelfEntry<H> {
  readonly name: string;
  readonly blob: Uint8Array;
  readonly handle: H | null;
  /** How long the entry may stay while the keeper has no client at all, in milliseconds; 0 = for ever. */
  readonly ttlWithoutHolderMs: number;
}

export type ShelfOperation<H> =
  | ({ readonly kind: 'put' } & ShelfEntry<H>)
  | { readonly kind: 'delete'; readonly name: string }
  | { readonly kind: 'delete-prefix'; readonly prefix: string };

export interface ShelfLimits {
  readonly entriesMax: number;
  readonly blobBytesMax: number;
}
export const SHELF_LIMITS: ShelfLimits = { entriesMax: 262_144, blobBytesMax: 512 * 1024 * 1024 };

/** Why a transaction was refused; `errno` is positive. */
export interface ShelfRefusal {
  readonly errno: number;
  readonly reason: string;
}

/** Names are printable ASCII without blanks, so that a list of them can be read and logged as it is. */
const NAME = /^[\x21-\x7e]+$/;

/** Null when `name` may be used, else what is wrong with it. */
export function badShelfName(name: string): string | null {
  if (name.length > SHELF_NAME_BYTES_MAX) return `name of ${name.length} bytes`;
  return NAME.test(name) ? null : 'name is empty or not printable ASCII';
}

export class Shelf<H> {
  readonly #limits: ShelfLimits;
  readonly #entries = new Map<string, ShelfEntry<H>>(); // at most entriesMax
  /** Names not put again since beginUpload; null outside an upload. */
  #old: Set<string> | null = null;
  #blobBytes = 0;
  #handles = 0;

  constructor(limits: ShelfLimits = SHELF_LIMITS) {
    this.#limits = limits;
  }

  get size(): number {
    return this.#entries.size;
  }
  get blobBytes(): number {
    return this.#blobBytes;
  }
  /** Entries that have a handle. */
  get handles(): number {
    return this.#handles;
  }

  entries(): IterableIterator<ShelfEntry<H>> {
    return this.#entries.values();
  }

  get(name: string): ShelfEntry<H> | undefined {
    return this.#entries.get(name);
  }

  /** Applies all of `operations` or none. `left` are the entries that are no longer in the shelf. */
  apply(operations: readonly ShelfOperation<H>[]): { readonly left: ShelfEntry<H>[] } | ShelfRefusal {
    const refusal = this.#judge(operations);
    if (refusal !== null) return refusal;
    const left: ShelfEntry<H>[] = [];
    for (const operation of operations) {
      if (operation.kind === 'put') this.#put(operation, left);
      else if (operation.kind === 'delete') this.#remove(operation.name, left);
      else
        for (const name of [...this.#entries.keys()])
          if (name.startsWith(operation.prefix)) this.#remove(name, left);
    }
    return { left };
  }

  /** From now on entries count as old until they are put again. A second call begins anew. */
  beginUpload(): void {
    this.#old = new Set(this.#entries.keys());
  }

  /** Ends an upload: returns the names that were not put again, for the caller to delete by a transaction. */
  endUpload(): string[] {
    const names = [...(this.#old ?? [])];
    this.#old = null;
    return names;
  }

  /** Ends an upload that its writer did not finish: what is old stays. */
  abandonUpload(): void {
    this.#old = null;
  }

  /** Names whose time is over when there has been no client for `withoutClientsMs`. */
  expired(withoutClientsMs: number): string[] {
    return [...this.#entries.values()]
      .filter(({ ttlWithoutHolderMs: ttl }) => ttl > 0 && ttl <= withoutClientsMs)
      .map((entry) => entry.name);
  }

  /** The shortest time to live that is longer than `thanMs`; null when there is none. */
  nextTtl(thanMs: number): number | null {
    let next: number | null = null;
    for (const { ttlWithoutHolderMs: ttl } of this.#entries.values())
      if (ttl > thanMs && (next === null || ttl < next)) next = ttl;
    return next;
  }

  /** Entries whose name begins with `prefix`, in the order of their names. */
  list(prefix: string): ShelfEntry<H>[] {
    return [...this.#entries.values()]
      .filter((entry) => entry.name.startsWith(prefix))
      .sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  /** Upper bounds suffice: deletes of the same transaction are not credited, which errs on the safe side. */
  #judge(operations: readonly ShelfOperation<H>[]): ShelfRefusal | null {
    let added = 0;
    let addedBytes = 0;
    for (const operation of operations) {
      const bad = badShelfName(operation.kind === 'delete-prefix' ? operation.prefix : operation.name);
      if (bad !== null) return { errno: Errno.EINVAL, reason: bad };
      if (operation.kind !== 'put') continue;
      const present = this.#entries.get(operation.name);
      if (present === undefined) added += 1;
      addedBytes += Math.max(0, operation.blob.byteLength - (present?.blob.byteLength ?? 0));
    }
    if (added > 0 && this.#entries.size + added > this.#limits.entriesMax)
      return { errno: Errno.ENOSPC, reason: `more than ${this.#limits.entriesMax} entries` };
    if (addedBytes > 0 && this.#blobBytes + addedBytes > this.#limits.blobBytesMax)
      return { errno: Errno.ENOSPC, reason: `more than ${this.#limits.blobBytesMax} bytes of blobs` };
    return null;
  }

  #put(operation: ShelfEntry<H>, left: ShelfEntry<H>[]): void {
    const { name, blob, handle, ttlWithoutHolderMs } = operation;
    this.#remove(name, left);
    this.#entries.set(name, { name, blob, handle, ttlWithoutHolderMs });
    this.#blobBytes += blob.byteLength;
    if (handle !== null) this.#handles += 1;
  }

  #remove(name: string, left: ShelfEntry<H>[]): void {
    const entry = this.#entries.get(name);
    if (entry === undefined) return;
    this.#entries.delete(name);
    this.#old?.delete(name);
    this.#blobBytes -= entry.blob.byteLength;
    if (entry.handle !== null) this.#handles -= 1;
    left.push(entry);
  }
}
