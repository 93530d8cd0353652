/**
 * driver-rings.ts: how a driver in another process lays its frames out, read from the descriptors in its memory.
 *
 * Theory
 *   What was negotiated says what a driver may do, its descriptors what it does: NEXT says that a chain goes on in the
 *   ring, INDIRECT that a descriptor is a table. In a split ring a descriptor stays as it is until it is written anew.
 *   In a packed ring the device writes over the first one of each chain when it gives that back, so a table is seen
 *   only while it waits for the device, and the rest of a chain for longer. So one looks again and again, and what was
 *   seen adds up.
 *
 * Limits  Needs to be allowed to trace the process.
 */
import { closeSync, openSync, readSync } from 'node:fs';
import { DescriptorFlag, PackedDescriptor, VirtqDescriptor } from '@virtnet/wire';

/** A ring: where its descriptors begin in the address space of the driver, and how many there are. */
export interface DriverRing {
  readonly address: number;
  readonly entries: number;
  readonly packed: boolean;
}

/** Descriptors seen with each flag, those seen repeatedly counted repeatedly. */
export interface SeenFlags {
  next: number;
  indirect: number;
}

/** Looks at the rings of one process. */
export class DriverRings {
  readonly #memory: number;
  readonly #rings: readonly DriverRing[];
  /** By ring. */
  readonly seen: readonly SeenFlags[];

  constructor(pid: number, rings: readonly DriverRing[]) {
    this.#memory = openSync(`/proc/${pid}/mem`, 'r');
    this.#rings = rings;
    this.seen = rings.map(() => ({ next: 0, indirect: 0 }));
  }

  look(): void {
    for (const [index, { address, entries, packed }] of this.#rings.entries()) {
      const layout = packed ? PackedDescriptor : VirtqDescriptor;
      const bytes = Buffer.alloc(entries * layout.sizeBytes);
      const read = readSync(this.#memory, bytes, 0, bytes.length, address);
      if (read !== bytes.length) throw new Error(`read ${read} of ${bytes.length} bytes of a ring`);
      const seen = this.seen[index]!;
      for (let at: number = layout.at.flags; at < bytes.length; at += layout.sizeBytes) {
        const flags = bytes.readUInt16LE(at);
        if ((flags & DescriptorFlag.NEXT) !== 0) seen.next += 1;
        if ((flags & DescriptorFlag.INDIRECT) !== 0) seen.indirect += 1;
      }
    }
  }

  close(): void {
    closeSync(this.#memory);
  }
}
