/** Randomness that can be repeated: a seed is printed, and given back through VIRTNET_TEST_SEED. */

/** The seed of this run. */
export const seed = Number(process.env.VIRTNET_TEST_SEED ?? Date.now() % 0x1_0000_0000) >>> 0;

/** Numbers in [0, 1), the same ones for the same seed (mulberry32). */
export function randomNumbers(from: number): () => number {
  let state = from >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 0x1_0000_0000;
  };
}
