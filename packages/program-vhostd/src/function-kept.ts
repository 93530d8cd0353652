/**
 * function-kept.ts: what of one function is kept for a successor, and when.
 *
 * Theory
 *   The frontend's part is that from behind its last message that is over, never one from the middle of a message: that
 *   message stands in the socket, and the successor handles it as if it were new. The function's part is what is so
 *   now. Both go to the keeper as one record with the descriptors beside it.
 *
 * Invariants
 *   I1  a message that changed something is kept before its answer goes out (see journal.ts of server-vfio-user).
 *
 * Limits  a record that does not fit a message is not kept; that is logged, and the function served without.
 */
import type { FunctionProfile, SavedFunction } from '@virtnet/driver-virtio-net';
import type { Logger } from '@virtnet/host-ipc';
import type { AnsweredRequest } from '@virtnet/server-vfio-user';
import type { SessionSnapshot } from '@virtnet/server-vhost-user';
import { type FunctionPage, Phase } from './function-page.js';
import { encodeFunctionRecord } from './function-record.js';
import type { Keeper, Kept } from './keeper.js';

export interface FunctionKeptOptions {
  readonly bdf: string;
  readonly vhostSocket: string;
  readonly uuid: string;
  readonly client: boolean;
  readonly page: FunctionPage;
  readonly keeper: Pick<Keeper, 'put' | 'drop'>;
  readonly log: Logger;
}

/** Everything but the frontend's words. Descriptors stay whose they are. */
export interface KeptParts {
  /** null: the function was not seen yet. */
  readonly profile: FunctionProfile | null;
  readonly link: { readonly fd: number; readonly function: SavedFunction } | null;
  readonly adrift: readonly number[];
  readonly connection: number | null;
  readonly listener: number | null;
}

export class FunctionKept {
  readonly #options: FunctionKeptOptions;
  #snapshot: SessionSnapshot | null = null;
  #answered: AnsweredRequest | null = null;
  #number = 0;

  constructor(options: FunctionKeptOptions) {
    this.#options = options;
  }

  connected(snapshot: SessionSnapshot): void {
    this.resumed(snapshot, null);
  }

  resumed(snapshot: SessionSnapshot, answered: AnsweredRequest | null): void {
    this.#snapshot = snapshot;
    this.#answered = answered;
  }

  disconnected(): void {
    this.#snapshot = null;
    this.#answered = null;
  }

  /** A message is over; one that changed nothing may be handled twice and is not kept: then this is false. */
  answered(snapshot: SessionSnapshot, answered: AnsweredRequest, parts: KeptParts): boolean {
    const settled = this.#options.page.phase === Phase.SETTLED;
    if (settled && this.#snapshot !== null && same(snapshot, this.#snapshot)) return false;
    this.#snapshot = snapshot;
    this.#answered = answered;
    this.keep(parts);
    return true;
  }

  keep(parts: KeptParts): void {
    const { bdf, keeper, log } = this.#options;
    const kept = this.now(parts);
    if (kept !== null) this.#number = keeper.put(bdf, kept);
    else if (parts.profile !== null) {
      log.error({ vf: bdf }, 'too much to be kept');
      keeper.drop(bdf);
    }
  }

  /** Everything said so far is about to be promised to the frontend: its answer goes out. */
  promise(): void {
    this.#options.page.promised = this.#number;
  }

  /** Also where nobody hears it: the keeper may be away. */
  drop(): void {
    this.#options.page.setLetGo();
    this.#options.keeper.drop(this.#options.bdf);
  }

  /** Null while there is nothing to keep, or when it is too much. */
  now({ profile, link, adrift, connection, listener }: KeptParts): Kept | null {
    if (profile === null) return null;
    const { vhostSocket, uuid, client, page } = this.#options;
    const snapshot = connection === null ? null : this.#snapshot;
    const record = encodeFunctionRecord({
      vhostSocket,
      uuid,
      client,
      profile,
      function: link?.function ?? null,
      adrift,
      session: snapshot?.session ?? null,
      answered: this.#answered,
    });
    if (record === null) return null;
    const fds = new Map(snapshot?.fds ?? []);
    fds.set('page', page.fd);
    if (link !== null) fds.set('function', link.fd);
    if (snapshot !== null && connection !== null) fds.set('connection', connection);
    if (listener !== null) fds.set('listener', listener);
    return { record, promised: page.promised, fds };
  }
}

function same(a: SessionSnapshot, b: SessionSnapshot): boolean {
  if (a.fds.size !== b.fds.size || JSON.stringify(a.session) !== JSON.stringify(b.session)) return false;
  for (const [name, fd] of a.fds) if (b.fds.get(name) !== fd) return false;
  return true;
}
