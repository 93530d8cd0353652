import { DEFAULT_CONF } from '@virtnet/engine-control';
import { describe, expect, it } from 'vitest';
import { datapathThreads } from './datapath-threads.js';

const EIGHT = [0, 1, 2, 3, 4, 5, 6, 7];
const cores = (start: number, end: number) => ({
  ...DEFAULT_CONF,
  dpa_core_start: start,
  dpa_core_end: end,
});

describe('datapath threads', () => {
  it('by the machine: one processor is left to others, and more than eight threads gain little', () => {
    const counts = [1, 2, 8, 64].map(
      (processors) => datapathThreads(DEFAULT_CONF, null, [...Array(processors).keys()]).count,
    );
    expect(counts).toEqual([1, 1, 7, 8]);
    expect(datapathThreads(DEFAULT_CONF, null, EIGHT)).toMatchObject({ processors: null, missing: [] });
  });

  it('dpa_core_start to dpa_core_end: these processors and no other, a thread on each', () => {
    expect(datapathThreads(cores(3, 6), null, EIGHT)).toEqual({
      count: 4,
      processors: [3, 4, 5, 6],
      missing: [],
    });
  });

  it('processors that this machine, or this process, does not have are left out', () => {
    expect(datapathThreads(cores(6, 9), null, EIGHT)).toEqual({
      count: 2,
      processors: [6, 7],
      missing: [8, 9],
    });
    expect(datapathThreads(cores(9, 10), null, EIGHT)).toEqual({
      count: 7,
      processors: null,
      missing: [9, 10],
    });
  });

  it('eth_vq_workers says how many, and whoever starts the program by hand has the last word', () => {
    const conf = { ...cores(3, 6), eth_vq_workers: 24 };
    expect(datapathThreads(conf, null, EIGHT)).toMatchObject({ count: 24, processors: [3, 4, 5, 6] });
    expect(datapathThreads(conf, 2, EIGHT).count).toBe(2);
  });
});
