/**
 * plain-chains.ts: a burst of chains that are one buffer each, as a ring's scan() lays them out.
 *
 * Theory
 *   Most frames lie in one buffer, in one piece of the guest's memory. A ring reads the descriptors of a whole burst of
 *   such chains in one short loop: what the driver wrote comes from another processor's cache, and loads that do not
 *   wait for each other arrive together. Whatever is not that simple ends the burst, and take() says what it is.
 *
 * Invariants
 *   I1  every chain here was judged: it lies inside piece `pieces[i]`, which may be written if that was asked for.
 *   I2  length is at least 1, and offset + length below 2^31.
 *
 * Limits  PLAIN_CHAINS_MAX chains.
 */
import { PLAIN_CHAINS_MAX } from './limits.js';

export class PlainChains {
  /** Index into memory.pieces, and offset in bytes inside that piece. */
  readonly pieces = new Int32Array(PLAIN_CHAINS_MAX);
  readonly offsets = new Int32Array(PLAIN_CHAINS_MAX);
  readonly lengths = new Int32Array(PLAIN_CHAINS_MAX);
  /** Descriptor index (split) or buffer id (packed). */
  readonly ids = new Uint16Array(PLAIN_CHAINS_MAX);
  /** For what is read ahead of its use: without one the compiler leaves the reads out. It means nothing. */
  touched = 0;
}
