/**
 * toeplitz.ts: the hash of receive side scaling (virtio 1.3, 5.1.6.4.3): over addresses and ports, under a key.
 *
 * Theory
 *   Each set bit of the input contributes the 32 bits of the key that begin at its position, and contributions are
 *   added without carry. So what four bits contribute together is looked up: 16 values for each half byte of input.
 *
 * Limits  INPUT_BYTES_MAX bytes of input, so that HASH_KEY_BYTES_MAX bytes of key matter; those missing count as 0.
 */

/** Two IPv6 addresses and two ports. */
export const INPUT_BYTES_MAX = 36;

const VALUES = 16;

/** 32 bits of the key from bit `at` on. */
function window(key: ArrayLike<number>, at: number): number {
  let bits = 0;
  for (let i = 0; i < 32; i++) {
    const byte = key[(at + i) >> 3] ?? 0;
    bits = (bits << 1) | ((byte >> (7 - ((at + i) & 7))) & 1);
  }
  return bits;
}

export class Toeplitz {
  /** Of half byte `n` with value `v`: at `n * VALUES + v`. */
  readonly #table = new Int32Array(2 * INPUT_BYTES_MAX * VALUES);

  constructor(key: ArrayLike<number>) {
    for (let half = 0; half < 2 * INPUT_BYTES_MAX; half++) {
      for (let bit = 0; bit < 4; bit++) {
        const part = window(key, half * 4 + bit);
        const mask = 8 >> bit;
        for (let value = 0; value < VALUES; value++)
          if ((value & mask) !== 0) this.#table[half * VALUES + value]! ^= part;
      }
    }
  }

  /** Hash of the first `length` bytes of `input`, as a signed 32-bit number. */
  hash(input: Uint8Array, length: number): number {
    const table = this.#table;
    let sum = 0;
    for (let i = 0; i < length; i++) {
      const byte = input[i]!;
      const at = i * 2 * VALUES;
      sum ^= table[at + (byte >> 4)]! ^ table[at + VALUES + (byte & 15)]!;
    }
    return sum;
  }
}
