/**
 * Property tests draw the same cases in each run, so that what passed once passes again: another day's cases find faults
 * that are as old as the code, not those of a change. VIRTNET_SEED=<number> draws others, VIRTNET_SEED=random new ones
 * each time; a failure prints its seed.
 */
import fc from 'fast-check';

const { VIRTNET_SEED: wanted } = process.env;
const seed = wanted === undefined ? 0x5eed : Number(wanted);
fc.configureGlobal(Number.isNaN(seed) ? {} : { seed });
