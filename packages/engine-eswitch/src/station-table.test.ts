/** The table at its limits, where stations wrap around and holes are closed. */
import { describe, expect, it } from 'vitest';
import { Learned, StationTable } from './station-table.js';

describe('station table', () => {
  it('full to the last station, it refuses one more, still finds all, and is as good as new after they aged', () => {
    const table = new StationTable({ stations: 512, perPort: 512, ports: 2, seed: 0x1234_5678 });
    for (let round = 0; round < 20; round++) {
      for (let i = 0; i < 512; i++) expect(table.hear(i >> 4, i + round, i & 1, round)).toBe(Learned.NEW);
      expect(table.hear(-1, -1, 0, round)).toBe(Learned.TABLE_FULL);
      for (let i = 0; i < 512; i++) expect(table.find(i >> 4, i + round)).toBe(i & 1);
      expect(table.find(-1, -1)).toBe(-1);
      expect(table.expire(round)).toBe(0);
      table.forget(1);
      expect([table.size, table.sizeOf(0), table.sizeOf(1)]).toEqual([256, 256, 0]);
      for (let i = 0; i < 512; i++) expect(table.find(i >> 4, i + round)).toBe((i & 1) === 0 ? 0 : -1);
      expect(table.expire(round + 1)).toBe(256);
      expect(table.size).toBe(0);
    }
  });

  it('a station that moves to a full port is not remembered at either', () => {
    const table = new StationTable({ stations: 8, perPort: 1, ports: 2, seed: 0 });
    table.hear(1, 1, 0, 0);
    table.hear(2, 2, 1, 0);
    expect(table.hear(1, 1, 1, 0)).toBe(Learned.PORT_FULL);
    expect(table.find(1, 1)).toBe(-1);
    expect([table.sizeOf(0), table.sizeOf(1)]).toEqual([0, 1]);
  });
});
