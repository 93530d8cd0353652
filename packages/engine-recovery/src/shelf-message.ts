/** shelf-message.ts: one message between the state keeper and a client, as both ends understand it. */
import type { ShelfMessageKind } from '@virtnet/wire';
import type { ShelfOperation } from './shelf.js';

export interface ShelfMessage<H> {
  readonly kind: ShelfMessageKind;
  /** A pid, a negative errno, or a member of LeaseMode: see the kind. */
  readonly argument: number;
  readonly operations: readonly ShelfOperation<H>[];
}
