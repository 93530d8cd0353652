/** What both kinds of ring do alike about tables of descriptors (virtio 1.3, 2.7.5.3 and 2.8.8). */
import { VirtqDescriptor } from '@virtnet/wire';
import type { IndirectDefect } from './fault.js';
import type { GuestMemory } from './guest-memory.js';
import { INDIRECT_ENTRIES_MAX } from './limits.js';

const ENTRY_BYTES = VirtqDescriptor.sizeBytes;

/** Why a table of `lengthBytes` is not looked at, or null. `linked`: the referring descriptor has NEXT, or follows one. */
export function tableDefect(
  negotiated: boolean,
  lengthBytes: number,
  linked: boolean,
): IndirectDefect | null {
  if (!negotiated) return 'not-negotiated';
  if (linked) return 'next-flag-set';
  if (lengthBytes === 0) return 'empty';
  if (lengthBytes % ENTRY_BYTES !== 0) return 'length-not-multiple-of-16';
  if (lengthBytes > INDIRECT_ENTRIES_MAX * ENTRY_BYTES) return 'too-many-entries';
  return null;
}

/** One entry of a table that does not lie in one piece of memory, in private memory (failure A20). */
export class SeamEntry {
  readonly view: DataView;
  readonly #bytes = new Uint8Array(ENTRY_BYTES);

  constructor() {
    this.view = new DataView(this.#bytes.buffer);
  }

  /** Reads the entry `offset` bytes into the table, by as many reads as it takes; false when a byte is outside. */
  fetch(memory: GuestMemory, high: number, low: number, offset: number): boolean {
    for (let done = 0; done < ENTRY_BYTES; ) {
      const next = (low >>> 0) + offset + done;
      const carry = next > 0xffff_ffff ? 1 : 0;
      if (carry === 1 && high >>> 0 === 0xffff_ffff) return false;
      const contiguous = memory.translate((high + carry) | 0, next | 0, ENTRY_BYTES - done);
      if (contiguous === 0) return false;
      for (let i = 0; i < contiguous; i++) this.#bytes[done + i] = memory.piece.u8[memory.offset + i]!;
      done += contiguous;
    }
    return true;
  }
}
