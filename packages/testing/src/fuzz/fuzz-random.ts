/** Pseudo-random numbers that a seed repeats, and the ways an input is changed with them. */

/** Longest input. */
export const INPUT_BYTES_MAX = 1_024;

export class FuzzRandom {
  #state: number;

  constructor(seed: number) {
    this.#state = seed | 0 || 0x9e37_79b9;
  }

  /** 32 bits, unsigned; xorshift. */
  next(): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x;
    return x >>> 0;
  }

  /** From 0 to below `limit`. */
  below(limit: number): number {
    return limit <= 1 ? 0 : this.next() % limit;
  }

  bytes(length: number): Uint8Array {
    return Uint8Array.from({ length }, () => this.next() >>> 24);
  }
}

/** Values at which code takes another way. */
const EDGES = [0, 1, 2, 4, 7, 8, 15, 16, 31, 32, 63, 64, 127, 128, 191, 254, 255];

type Mutation = (input: Uint8Array, random: FuzzRandom, other: Uint8Array) => Uint8Array;

const joined = (...parts: readonly Uint8Array[]): Uint8Array => {
  const result = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    result.set(part, at);
    at += part.length;
  }
  return result.length > INPUT_BYTES_MAX ? result.subarray(0, INPUT_BYTES_MAX) : result;
};

const MUTATIONS: readonly Mutation[] = [
  (input, random) => {
    if (input.length > 0) input[random.below(input.length)]! ^= 1 << random.below(8);
    return input;
  },
  (input, random) => {
    if (input.length > 0) input[random.below(input.length)] = EDGES[random.below(EDGES.length)]!;
    return input;
  },
  (input, random) => {
    if (input.length > 0) input[random.below(input.length)]! += random.below(33) - 16;
    return input;
  },
  (input, random) => {
    const at = random.below(input.length + 1);
    return joined(input.subarray(0, at), random.bytes(1 + random.below(12)), input.subarray(at));
  },
  (input, random) => {
    const at = random.below(input.length);
    return joined(input.subarray(0, at), input.subarray(at + 1 + random.below(12)));
  },
  (input, random) => {
    const from = random.below(input.length);
    const part = input.slice(from, from + 1 + random.below(40));
    const at = random.below(input.length + 1);
    return joined(input.subarray(0, at), part, input.subarray(at));
  },
  (input, random, other) =>
    joined(input.subarray(0, random.below(input.length + 1)), other.subarray(random.below(other.length))),
  (input, random, other) => {
    const from = random.below(other.length);
    const at = random.below(input.length + 1);
    return joined(
      input.subarray(0, at),
      other.subarray(from, from + 1 + random.below(40)),
      input.subarray(at),
    );
  },
];

/** A changed copy of `input`; `other` is an input to borrow from. */
export function mutate(input: Uint8Array, other: Uint8Array, random: FuzzRandom): Uint8Array {
  let result = input.slice();
  for (let times = 1 + random.below(6); times > 0; times--) {
    result = MUTATIONS[random.below(MUTATIONS.length)]!(result, random, other).slice();
  }
  return result;
}
