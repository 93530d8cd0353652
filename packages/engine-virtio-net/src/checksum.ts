/**
 * checksum.ts: the Internet checksum (RFC 1071) over private memory.
 *
 * Theory
 *   The one's complement sum does not care about byte order, save that its result comes in the order the words were
 *   read in. So words are read four bytes at a time in the machine's order, and the result is turned around once.
 *
 * Limits  SUM_BYTES_MAX bytes a call: what two 32-bit accumulators hold.
 */

/** Twice 2^15 words of 16 bits, each below 2^16: the accumulators stay below 2^31. */
export const SUM_BYTES_MAX = 2 ** 17;

/** Folds a sum of 16-bit words to 16 bits, end-around. */
export function foldSum(sum: number): number {
  const once = (sum & 0xffff) + (sum >>> 16);
  return (once & 0xffff) + (once >>> 16);
}

/** One's complement sum of `view[from..to)` as big-endian words, folded; an odd last byte counts as a word's first. */
export function sumWords(view: DataView, from: number, to: number): number {
  let even = 0;
  let odd = 0;
  let at = from;
  for (const end = to - 3; at < end; at += 4) {
    const word = view.getInt32(at, true);
    even += word & 0xffff;
    odd += word >>> 16;
  }
  if (to - at >= 2) {
    even += view.getUint16(at, true);
    at += 2;
  }
  if (at < to) odd += view.getUint8(at);
  const sum = foldSum(foldSum(even) + foldSum(odd));
  return ((sum & 0xff) << 8) | (sum >>> 8);
}
