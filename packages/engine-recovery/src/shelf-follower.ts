/**
 * shelf-follower.ts: what a subscriber knows of the keeper's shelf, over connections that come and go.
 *
 * Theory
 *   Each connection tells the whole shelf anew, and then every change. Names that a new connection does not tell again
 *   count as deleted when the whole shelf is there, not before, so that a keeper that lost its memory takes nothing away
 *   from a subscriber until somebody has uploaded to it.
 *
 * Invariants
 *   I1  a name is told as deleted only if it was told before, and once.
 *
 * Limits  the shelf's.
 */
import { ShelfMessageKind } from '@virtnet/wire';
import type { ShelfOperation } from './shelf.js';
import type { ShelfMessage } from './shelf-message.js';

/** What a subscriber hears. The calls for one transaction come without a break between them. */
export interface FollowerEvents<H> {
  /** A new or replaced entry; its handle, if it has one, is now the callee's. */
  onEntry(name: string, blob: Uint8Array, handle: H | null): void;
  onDelete(name: string): void;
  /** Everything was told; `holderPid` holds the lease, null when nobody does. */
  onSynced(holderPid: number | null): void;
  /** The lease has a new holder. */
  onLeaseHeld(holderPid: number): void;
  /** The connection of the holder, or of a borrower, ended, and everything it sent was told. It may be alive. */
  onLeaseLost(holderPid: number): void;
  /** Names that begin with `prefix` are process `pid`'s to write from now on. */
  onLent(prefix: string, pid: number, note: Uint8Array): void;
}

export class ShelfFollower<H> {
  readonly #events: FollowerEvents<H>;
  /** Names told. */
  readonly #known = new Set<string>();
  /** Of these, names not told again on this connection; null once synced. */
  #stale: Set<string> | null = null;
  #synced = false;

  constructor(events: FollowerEvents<H>) {
    this.#events = events;
  }

  /** The whole shelf was told on this connection, so what is known is the shelf. */
  get synced(): boolean {
    return this.#synced;
  }

  /** A new connection, on which everything is told again. */
  connected(): void {
    this.#stale = new Set(this.#known);
    this.#synced = false;
  }

  disconnected(): void {
    this.#synced = false;
  }

  /** A message of the keeper; other kinds than a subscriber's are passed over. */
  take({ kind, argument, operations }: ShelfMessage<H>): void {
    switch (kind) {
      case ShelfMessageKind.TRANSACTION:
        for (const operation of operations) this.#tell(operation);
        break;
      case ShelfMessageKind.LEND:
        for (const operation of operations)
          if (operation.kind === 'put') this.#events.onLent(operation.name, argument, operation.blob);
        break;
      case ShelfMessageKind.SYNCED:
        this.#wholeShelf(argument);
        break;
      case ShelfMessageKind.LEASE_HELD:
        this.#events.onLeaseHeld(argument);
        break;
      case ShelfMessageKind.LEASE_LOST:
        this.#events.onLeaseLost(argument);
        break;
      default:
    }
  }

  #tell(operation: ShelfOperation<H>): void {
    switch (operation.kind) {
      case 'put':
        this.#known.add(operation.name);
        this.#stale?.delete(operation.name);
        this.#events.onEntry(operation.name, operation.blob, operation.handle);
        return;
      case 'delete':
        this.#forget(operation.name);
        return;
      case 'delete-prefix':
        for (const name of [...this.#known]) if (name.startsWith(operation.prefix)) this.#forget(name);
    }
  }

  #forget(name: string): void {
    this.#stale?.delete(name);
    if (this.#known.delete(name)) this.#events.onDelete(name);
  }

  #wholeShelf(holderPid: number): void {
    for (const name of [...(this.#stale ?? [])]) this.#forget(name);
    this.#stale = null;
    this.#synced = true;
    this.#events.onSynced(holderPid === 0 ? null : holderPid);
  }
}
