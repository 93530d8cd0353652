/**
 * config-space.ts: the bytes of configuration space and which of their bits software may change.
 *
 * Theory
 *   Three arrays of the same length: values, values after reset, and a mask of writable bits. A write of any width at
 *   any offset changes exactly the writable bits of the bytes it covers; so BAR sizing, partial writes and writes
 *   across register edges need no code of their own. What a register does besides is the function's business.
 *
 * Invariants
 *   I1  a bit outside the mask always has its reset value.
 *
 * Saved   the bytes that differ from reset, as [offset, value].
 * Limits  PCI_CONFIG_BYTES.
 */
import { PCI_CONFIG_BYTES, type PlainReader } from '@virtnet/wire';
import { CONFIG_DIFFERENCES_MAX } from './limits.js';

const WORD_BYTES = 4;

export type ConfigDifference = readonly [offset: number, value: number];

export class ConfigSpace {
  readonly #values = new Uint8Array(PCI_CONFIG_BYTES);
  readonly #reset = new Uint8Array(PCI_CONFIG_BYTES);
  readonly #writable = new Uint8Array(PCI_CONFIG_BYTES);
  readonly #valueWords = new Uint32Array(this.#values.buffer);
  readonly #resetWords = new Uint32Array(this.#reset.buffer);
  readonly #view = new DataView(this.#values.buffer);

  /** Declares bytes from `offset` on with their reset value and writable bits. Used while the space is built. */
  place(offset: number, reset: Uint8Array, writable: Uint8Array): void {
    this.#reset.set(reset, offset);
    this.#values.set(reset, offset);
    this.#writable.set(writable, offset);
  }

  reset(): void {
    this.#values.set(this.#reset);
  }

  u8(offset: number): number {
    return this.#values[offset]!;
  }

  u16(offset: number): number {
    return this.#view.getUint16(offset, true);
  }

  u32(offset: number): number {
    return this.#view.getUint32(offset, true);
  }

  /** A copy; the caller has checked the range. */
  read(offset: number, count: number): Uint8Array {
    return this.#values.slice(offset, offset + count);
  }

  /** Software writes; the caller has checked the range. */
  write(offset: number, bytes: Uint8Array): void {
    for (let i = 0; i < bytes.length; i++) {
      const at = offset + i;
      const mask = this.#writable[at]!;
      this.#values[at] = (this.#values[at]! & ~mask) | (bytes[i]! & mask);
    }
  }

  /** The function itself stores bytes software may write as well. */
  store(offset: number, bytes: Uint8Array): void {
    this.#values.set(bytes, offset);
  }

  save(): ConfigDifference[] {
    const differences: ConfigDifference[] = [];
    for (let word = 0; word < this.#valueWords.length; word++) {
      if (this.#valueWords[word] === this.#resetWords[word]) continue; // nearly all of them are
      for (let at = word * WORD_BYTES; at < (word + 1) * WORD_BYTES; at++)
        if (this.#values[at] !== this.#reset[at]) differences.push([at, this.#values[at]!]);
    }
    return differences;
  }

  /** Reads what `save` wrote; problems are noted in `reader`. */
  parse(state: unknown, reader: PlainReader): readonly ConfigDifference[] {
    return reader.list(state, 'config', CONFIG_DIFFERENCES_MAX).map((entry, i) => {
      const path = `config[${i}]`;
      const pair = reader.list(entry, path, 2);
      const offset = reader.integer(pair[0], `${path}.offset`, 0, PCI_CONFIG_BYTES - 1);
      const value = reader.integer(pair[1], `${path}.value`, 0, 0xff);
      if (((value ^ this.#reset[offset]!) & ~this.#writable[offset]!) !== 0)
        reader.problem(path, 'changes bits that cannot be written');
      return [offset, value] as const;
    });
  }

  /** Takes over parsed differences. */
  load(differences: readonly ConfigDifference[]): void {
    this.reset();
    for (const [offset, value] of differences) this.#values[offset] = value;
  }
}
