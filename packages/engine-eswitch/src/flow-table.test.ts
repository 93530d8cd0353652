import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FlowTable } from './flow-table.js';
import { FLOW_AGEING_SECONDS, FLOWS_MAX } from './limits.js';

describe('flow table', () => {
  it('finds the pair that was noted last, and nothing that was not', () => {
    const table = new FlowTable();
    expect(table.find(7, 0)).toBe(-1);
    expect(table.find(0, 0), 'a place that was never used is not flow 0').toBe(-1);
    table.note(7, 3, 0);
    table.note(-7, 65_535, 0);
    expect([table.find(7, 0), table.find(-7, 0), table.find(8, 0)]).toEqual([3, 65_535, -1]);
    table.note(7, 1, 5);
    expect(table.find(7, 5)).toBe(1);
  });

  it('a flow ages from when it was noted last', () => {
    const table = new FlowTable();
    table.note(9, 2, 100);
    expect(table.find(9, 100 + FLOW_AGEING_SECONDS)).toBe(2);
    expect(table.find(9, 101 + FLOW_AGEING_SECONDS)).toBe(-1);
    table.note(9, 2, 110);
    expect(table.find(9, 110 + FLOW_AGEING_SECONDS)).toBe(2);
  });

  it('as many flows as it is for, well spread, are all found', () => {
    const table = new FlowTable();
    for (let flow = 0; flow < FLOWS_MAX; flow++) table.note(flow, flow % 31, 1);
    for (let flow = 0; flow < FLOWS_MAX; flow++) expect(table.find(flow, 1)).toBe(flow % 31);
  });

  it('of too many the one that was silent for longest is given up', () => {
    const table = new FlowTable();
    const flows = [0, 1, 2, 3, 4].map((n) => n * FLOWS_MAX + 5);
    flows.slice(0, 4).forEach((flow, i) => {
      table.note(flow, i, i);
    });
    table.note(flows[0]!, 9, 4);
    table.note(flows[4]!, 4, 5);
    expect(flows.map((flow) => table.find(flow, 5))).toEqual([9, -1, 2, 3, 4]);
  });

  it('whatever is noted, a flow is not known or with the pair it was noted with last', () => {
    const flow = fc.oneof(
      fc.integer({ min: 0, max: 9 }).map((n) => n * FLOWS_MAX),
      fc.integer(),
    );
    const notes = fc.array(fc.tuple(flow, fc.integer({ min: 0, max: 30 }), fc.nat(10)), { maxLength: 80 });
    fc.assert(
      fc.property(notes, (list) => {
        const table = new FlowTable();
        const last = new Map<number, number>();
        let now = 0;
        for (const [noted, pair, seconds] of list) {
          now += seconds;
          table.note(noted, pair, now);
          last.set(noted, pair);
          expect(table.find(noted, now)).toBe(pair);
        }
        for (const [known, pair] of last) expect([pair, -1]).toContain(table.find(known, now));
      }),
    );
  });
});
