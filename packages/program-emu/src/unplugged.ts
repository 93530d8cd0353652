/**
 * unplugged.ts: which requests to unplug a device were carried out, so that one that is asked again is only answered.
 *
 * Theory
 *   A request that was carried out leaves no device that could remember it. So its id is put on the shelf by the very
 *   message that removes the device: a successor knows of both or of neither. Whoever asks gives up after a while, and
 *   then nobody needs the id any more.
 *
 * Limits  KEPT_MS an id; IDS_MAX ids, the oldest are forgotten first.
 */
import type { DeviceStore } from './device-store.js';
import { shelfNames } from './shelf-names.js';

/** Longer than a controller asks again. */
const KEPT_MS = 30_000;
const IDS_MAX = 64;
/** What may be part of a shelf name; the controller's ids are UUIDs. */
const SHELVABLE = /^[\w-]{1,64}$/;

export class Unplugged {
  readonly #store: Pick<DeviceStore, 'note' | 'erase'>;
  readonly #ids = new Map<string, NodeJS.Timeout>();

  constructor(store: Pick<DeviceStore, 'note' | 'erase'>) {
    this.#store = store;
  }

  has(requestId: string): boolean {
    return this.#ids.has(requestId);
  }

  /** From now on `requestId` was carried out; the names the keeper has to be told together with its effect. */
  remember(requestId: string): readonly string[] {
    const oldest = this.#ids.keys().next();
    if (this.#ids.size >= IDS_MAX && oldest.done !== true) this.#forget(oldest.value);
    this.#ids.set(requestId, setTimeout(() => this.#forget(requestId), KEPT_MS).unref());
    return SHELVABLE.test(requestId) ? [shelfNames.unplugged(requestId)] : [];
  }

  /** What a predecessor had carried out. */
  adopt(requestIds: Iterable<string>): void {
    for (const id of requestIds) if (!this.#ids.has(id)) this.remember(id);
  }

  /** Puts everything on an empty shelf again. */
  upload(): void {
    for (const id of this.#ids.keys()) if (SHELVABLE.test(id)) this.#store.note(shelfNames.unplugged(id));
  }

  close(): void {
    for (const timer of this.#ids.values()) clearTimeout(timer);
    this.#ids.clear();
  }

  #forget(requestId: string): void {
    clearTimeout(this.#ids.get(requestId));
    this.#ids.delete(requestId);
    if (SHELVABLE.test(requestId)) this.#store.erase(shelfNames.unplugged(requestId));
  }
}
