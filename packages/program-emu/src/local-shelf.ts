/** local-shelf.ts: a state keeper inside this process, for rehearsals: remembers what it is told. */
import type { ShelfOperation } from '@virtnet/host-ipc';
import { close, dup } from '@virtnet/host-linux';
import type { ShelfWriter } from './device-store.js';
import type { Mirror } from './mirror.js';

export interface LocalEntry {
  readonly blob: Uint8Array;
  /** A duplicate of what was put, or -1. */
  readonly fd: number;
}

export class LocalShelf implements ShelfWriter {
  readonly entries = new Map<string, LocalEntry>();

  transaction(operations: readonly ShelfOperation[]): number {
    for (const operation of operations) {
      if ('put' in operation) {
        this.#drop(operation.put);
        const fd = operation.fd === undefined ? -1 : dup(operation.fd);
        this.entries.set(operation.put, { blob: operation.blob ?? new Uint8Array(0), fd });
      } else if ('delete' in operation) this.#drop(operation.delete);
      else {
        for (const name of [...this.entries.keys()])
          if (name.startsWith(operation.deletePrefix)) this.#drop(name);
      }
    }
    return 0;
  }

  kept(): null {
    return null;
  }

  /** Hands everything to a mirror, which owns the descriptors from then on. */
  tell(mirror: Mirror): void {
    for (const [name, { blob, fd }] of this.entries) mirror.put(name, blob, fd);
    this.entries.clear();
  }

  clear(): void {
    for (const name of [...this.entries.keys()]) this.#drop(name);
  }

  #drop(name: string): void {
    const entry = this.entries.get(name);
    if (entry !== undefined && entry.fd >= 0) close(entry.fd);
    this.entries.delete(name);
  }
}
