import { BurstWord, QueueCounter, SIZE_CLASSES } from '@virtnet/wire';
import { describe, expect, it } from 'vitest';
import { QueueLedger } from './queue-ledger.js';

const COUNTERS = 64;

describe('size classes', () => {
  it.each([
    [0, 64],
    [65, 127],
    [128, 255],
    [256, 511],
    [512, 1023],
    [1024, 1522],
    [1523, 2047],
    [2048, 4095],
    [4096, 8191],
    [8192, 65_550],
  ])('frames of %i to %i bytes are one class', (least, most) => {
    const counters = new Float64Array(COUNTERS);
    const block = {
      words: new Uint32Array(COUNTERS),
      counters,
      burst: new Uint32Array(BurstWord.COUNT),
      journal: new Uint32Array(0),
    };
    const ledger = new QueueLedger({} as ConstructorParameters<typeof QueueLedger>[0], block);
    ledger.countSize(least);
    ledger.countSize(most);
    const first = QueueCounter.SIZE_CLASS_FIRST;
    const classes = [...counters.subarray(first, first + SIZE_CLASSES)];
    expect(classes.filter((count) => count > 0)).toEqual([2]);
  });

  it('are ten, in the order of their sizes', () => {
    const counters = new Float64Array(COUNTERS);
    const block = {
      words: new Uint32Array(COUNTERS),
      counters,
      burst: new Uint32Array(BurstWord.COUNT),
      journal: new Uint32Array(0),
    };
    const ledger = new QueueLedger({} as ConstructorParameters<typeof QueueLedger>[0], block);
    const sizes = [64, 127, 255, 511, 1023, 1522, 2047, 4095, 8191, 9022];
    for (const [index, bytes] of sizes.entries()) for (let i = 0; i <= index; i++) ledger.countSize(bytes);
    const first = QueueCounter.SIZE_CLASS_FIRST;
    expect([...counters.subarray(first, first + SIZE_CLASSES)]).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
  });
});
