/**
 * device-store.ts: what goes to the state keeper, as atomic messages.
 *
 * Theory
 *   While a request is worked on, the descriptors it brings and removes are staged; `commit` sends them together with
 *   the new record as one message. The kernel keeps a sent message even if this process dies before its next
 *   instruction, so nothing is waited for. While the keeper is away, messages are dropped: when it is back it gets
 *   everything anew. So long what was committed would end with this process, and whoever was about to be answered
 *   waits (`kept`): nothing that was promised is forgotten when this process dies before the keeper is back.
 *
 * Invariants
 *   I1  operations of one device arrive in the order they were staged.
 *   I2  a message never carries more descriptors than one message may. What has to be split ends with the record: a
 *       request of which a part only arrived is not in it, and a successor works it again.
 *
 * Limits  OPERATIONS_MAX operations a message.
 */
import type { ShelfOperation } from '@virtnet/host-ipc';
import { keepWithoutClientsMs } from './shelf-names.js';

/** One message carries at most 253 descriptors (SCM_MAX_FD); the record needs none. */
const OPERATIONS_MAX = 200;

export interface ShelfWriter {
  /** 0 or -errno. */
  transaction(operations: readonly ShelfOperation[]): number;
  /** Null when everything said survives this process, else resolves when it does or nobody is to wait any longer. */
  kept(): Promise<void> | null;
}

export class DeviceStore {
  readonly #writer: ShelfWriter;
  readonly #staged = new WeakMap<object, ShelfOperation[]>();
  readonly #onError: (errno: number) => void;

  constructor(writer: ShelfWriter, onError: (errno: number) => void) {
    this.#writer = writer;
    this.#onError = onError;
  }

  put(owner: object, name: string, blob: Uint8Array, fd: number): void {
    const ttlWithoutHolderMs = keepWithoutClientsMs(name);
    const limited = ttlWithoutHolderMs === 0 ? {} : { ttlWithoutHolderMs };
    this.#stage(owner, { put: name, blob, ...(fd < 0 ? {} : { fd }), ...limited });
  }

  delete(owner: object, name: string): void {
    this.#stage(owner, { delete: name });
  }

  deletePrefix(owner: object, prefix: string): void {
    this.#stage(owner, { deletePrefix: prefix });
  }

  /** Sends what was staged for `owner` together with its record. */
  commit(owner: object, recordName: string, record: Uint8Array): void {
    const operations = this.#staged.get(owner) ?? [];
    this.#staged.delete(owner);
    operations.push({ put: recordName, blob: record });
    this.#send(operations);
  }

  /** Sends what was staged for `owner`, which has no record. */
  flush(owner: object): void {
    const operations = this.#staged.get(owner) ?? [];
    this.#staged.delete(owner);
    this.#send(operations);
  }

  /** Removes everything of a device, and puts `names` in the same message. */
  forget(owner: object, prefix: string, names: readonly string[] = []): void {
    this.#staged.delete(owner);
    this.#send([{ deletePrefix: prefix }, ...names.map((put) => ({ put }))]);
  }

  /** Null when what was committed survives this process, else resolves when it does or nobody is to wait any longer. */
  kept(): Promise<void> | null {
    return this.#writer.kept();
  }

  /** Puts a name of no device that says everything. */
  note(name: string): void {
    this.#send([{ put: name }]);
  }

  erase(name: string): void {
    this.#send([{ delete: name }]);
  }

  #stage(owner: object, operation: ShelfOperation): void {
    const operations = this.#staged.get(owner);
    if (operations === undefined) this.#staged.set(owner, [operation]);
    else operations.push(operation);
  }

  #send(operations: readonly ShelfOperation[]): void {
    for (let from = 0; from < operations.length; from += OPERATIONS_MAX) {
      const result = this.#writer.transaction(operations.slice(from, from + OPERATIONS_MAX));
      if (result < 0) this.#onError(-result);
    }
  }
}
