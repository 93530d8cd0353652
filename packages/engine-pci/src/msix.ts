/**
 * msix.ts: the MSI-X table and the pending bits of one function.
 *
 * Theory
 *   A message goes out when MSI-X is enabled and neither the function mask nor the vector's own mask is set; otherwise
 *   its pending bit is set, and the message goes out once when the last mask in the way is cleared.
 *   A vector's own mask is set after reset. Clients that keep the table to themselves (QEMU) never write it here, so a
 *   vector's own mask counts only once its entry has been written.
 *
 * Invariants
 *   I1  a pending bit is set only while its vector is masked or MSI-X is disabled.
 *   I2  an access of any width at any offset inside the structures changes the bytes it covers and nothing else.
 *
 * Saved   entries that were written, and pending vectors.
 * Limits  VECTORS_MAX vectors.
 * Spec    PCI Local Bus 3.0, 6.8.2.
 */
import { MSIX_ENTRY_MASKED, MsixControl, MsixEntry, type PlainReader } from '@virtnet/wire';
import { pendingBytes } from './bar-layout.js';

const CONTROL_AT = MsixEntry.at.control;

/** A table entry software has written, and its number. */
export interface MsixEntryState {
  readonly vector: number;
  readonly addressLow: number;
  readonly addressHigh: number;
  readonly data: number;
  readonly masked: boolean;
}

export interface MsixState {
  readonly entries: readonly MsixEntryState[];
  readonly pending: readonly number[];
}

export class Msix {
  readonly vectors: number;
  readonly #table: Uint8Array;
  readonly #view: DataView;
  readonly #written: Uint8Array;
  readonly #pending: Uint8Array;
  #control = 0;

  constructor(vectors: number) {
    this.vectors = vectors;
    this.#table = new Uint8Array(vectors * MsixEntry.sizeBytes);
    this.#view = new DataView(this.#table.buffer);
    this.#written = new Uint8Array(vectors);
    this.#pending = new Uint8Array(pendingBytes(vectors));
    this.reset();
  }

  get enabled(): boolean {
    return (this.#control & MsixControl.ENABLE) !== 0;
  }

  /** All entries as after power on, nothing pending, disabled. */
  reset(): void {
    this.#control = 0;
    this.#table.fill(0);
    for (let vector = 0; vector < this.vectors; vector++)
      this.#table[vector * MsixEntry.sizeBytes + CONTROL_AT] = MSIX_ENTRY_MASKED;
    this.#written.fill(0);
    this.clearPending();
  }

  /** The device was reset: what was pending is void. */
  clearPending(): void {
    this.#pending.fill(0);
  }

  /** Takes over the control register; returns the vectors to send now. */
  setControl(control: number): number[] {
    this.#control = control;
    return this.#release(0, this.vectors);
  }

  /** Whether a message of this vector has to wait. */
  masked(vector: number): boolean {
    if ((this.#control & MsixControl.FUNCTION_MASK) !== 0) return true;
    const control = this.#table[vector * MsixEntry.sizeBytes + CONTROL_AT]!;
    return this.#written[vector] === 1 && (control & MSIX_ENTRY_MASKED) !== 0;
  }

  /** Raises a vector: true when its message is to be sent now, false when it became pending. */
  raise(vector: number): boolean {
    if (!this.masked(vector)) return true;
    this.#pending[vector >> 3]! |= 1 << (vector & 7);
    return false;
  }

  pending(vector: number): boolean {
    return ((this.#pending[vector >> 3]! >> (vector & 7)) & 1) === 1;
  }

  /** Copies table bytes; the caller has checked the range. */
  readTable(offset: number, target: Uint8Array, targetAt: number, count: number): void {
    target.set(this.#table.subarray(offset, offset + count), targetAt);
  }

  readPending(offset: number, target: Uint8Array, targetAt: number, count: number): void {
    target.set(this.#pending.subarray(offset, offset + count), targetAt);
  }

  /** Software writes the table; returns the vectors to send now. The caller has checked the range. */
  writeTable(offset: number, bytes: Uint8Array): number[] {
    for (let i = 0; i < bytes.length; i++) {
      const at = offset + i;
      const inEntry = at % MsixEntry.sizeBytes;
      // Of the control word only the mask bit exists.
      if (inEntry < CONTROL_AT) this.#table[at] = bytes[i]!;
      else if (inEntry === CONTROL_AT) this.#table[at] = bytes[i]! & MSIX_ENTRY_MASKED;
      this.#written[Math.floor(at / MsixEntry.sizeBytes)] = 1;
    }
    const first = Math.floor(offset / MsixEntry.sizeBytes);
    const end = Math.ceil((offset + bytes.length) / MsixEntry.sizeBytes);
    return this.#release(first, end);
  }

  /** Takes pending bits of vectors that may be sent. */
  #release(first: number, end: number): number[] {
    const fire: number[] = [];
    if (!this.enabled) return fire;
    for (let vector = first; vector < end; vector++) {
      if (!this.pending(vector) || this.masked(vector)) continue;
      this.#pending[vector >> 3]! &= ~(1 << (vector & 7));
      fire.push(vector);
    }
    return fire;
  }

  save(): MsixState {
    const entries: MsixEntryState[] = [];
    const pending: number[] = [];
    for (let vector = 0; vector < this.vectors; vector++) {
      if (this.pending(vector)) pending.push(vector);
      if (this.#written[vector] === 0) continue;
      const { control, ...message } = MsixEntry.decode(this.#view, vector * MsixEntry.sizeBytes);
      entries.push({ vector, ...message, masked: (control & MSIX_ENTRY_MASKED) !== 0 });
    }
    return { entries, pending };
  }

  /** Reads what `save` wrote; problems are noted in `reader`. */
  static parse(state: unknown, vectors: number, reader: PlainReader): MsixState {
    const fields = reader.object(state, 'msix');
    const u32 = 0xffff_ffff;
    const entries = reader.list(fields.entries, 'msix.entries', vectors).map((value, i) => {
      const path = `msix.entries[${i}]`;
      const entry = reader.object(value, path);
      return {
        vector: reader.integer(entry.vector, `${path}.vector`, 0, vectors - 1),
        addressLow: reader.integer(entry.addressLow, `${path}.addressLow`, 0, u32),
        addressHigh: reader.integer(entry.addressHigh, `${path}.addressHigh`, 0, u32),
        data: reader.integer(entry.data, `${path}.data`, 0, u32),
        masked: reader.boolean(entry.masked, `${path}.masked`),
      };
    });
    const pending = reader
      .list(fields.pending, 'msix.pending', vectors)
      .map((value, i) => reader.integer(value, `msix.pending[${i}]`, 0, vectors - 1));
    return { entries, pending };
  }

  /** Takes over a parsed state and the control register that belongs to it. */
  load(state: MsixState, control: number): void {
    this.reset();
    this.#control = control;
    for (const { vector, masked, ...message } of state.entries) {
      const entry = { ...message, control: masked ? MSIX_ENTRY_MASKED : 0 };
      MsixEntry.encode(this.#view, vector * MsixEntry.sizeBytes, entry);
      this.#written[vector] = 1;
    }
    for (const vector of state.pending) this.#pending[vector >> 3]! |= 1 << (vector & 7);
  }
}
