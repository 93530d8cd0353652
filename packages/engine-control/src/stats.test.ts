import { describe, expect, it } from 'vitest';
import type { JsonObject } from './answers.js';
import { DEVICE_MISSING, failure } from './errors.js';
import * as guide from './guide-answers.fixture.js';
import { type QueueStatsFacts, type StatsFacts, statsAnswer } from './stats.js';

/** The queue of the guide's example. */
const queue: QueueStatsFacts = {
  index: 0,
  size: 4096,
  msixVector: 1,
  enabled: true,
  notifyOffset: 0,
  descriptorAddress: 0n,
  driverAddress: 0n,
  deviceAddress: 0n,
  receivedDesc: 4096,
  completedDesc: 0,
  badDescErrors: 0,
  errorCqes: 0,
  exceedMaxChain: 0,
  invalidBuffer: 0,
  batchNumber: 64,
  dmaQUsedNumber: 0,
  handlerSchdNumber: 44,
  auxHandlerSchdNumber: 43,
  maxPostDescNumber: 0,
  totalBytes: 0,
  rqCqMaxCount: 0,
  rqCqPeriod: 0,
  rqCqPeriodMode: 1,
  sizes: [0, 259, 0, 0, 0, 0, 0, 199, 0, 0],
  errHandlerSchdNum: 0,
};
const device: StatsFacts = {
  pfId: 0,
  vfId: null,
  vuid: 'MT2151X03152VNETS1D0F0',
  countingSizes: true,
  dataQueueCount: 4,
  queues: [0, 1, 2, 3].map((index) => ({ ...queue, index })),
};
const rows = guide.shapeRows(guide.STATS_QUEUE);

function shown(facts: StatsFacts, index: number | null): JsonObject {
  return (statsAnswer(facts, index) as { device: JsonObject }).device;
}

describe('stats answer', () => {
  it('has the keys, order, types and values of the guide', () => {
    const answer = shown(device, 0);
    expect(Object.keys(answer)).toEqual(['pf_id', 'packet_counters', 'queues-stats']);
    expect(answer).toMatchObject({ pf_id: 0, packet_counters: 'Enabled' });
    const [only, ...others] = answer['queues-stats'] as JsonObject[];
    expect(others).toEqual([]);
    const [first, ...rest] = Object.entries(only!);
    expect(first).toEqual(['VQ Index', 0]);
    expect(rest).toEqual(rows.map(({ key, kind, value }) => [key, kind === 'N' ? Number(value) : value]));
  });

  it('shows every data queue in use unless one is asked for', () => {
    const indices = (shown(device, null)['queues-stats'] as JsonObject[]).map((entry) => entry['VQ Index']);
    expect(indices).toEqual([0, 1, 2, 3]);
  });

  it('of a VF names both numbers; switched off says so', () => {
    const answer = shown({ ...device, vfId: 2, countingSizes: false }, null);
    expect(Object.keys(answer).slice(0, 2)).toEqual(['pf_id', 'vf_id']);
    expect(answer.packet_counters).toBe('Disabled');
  });

  it.for([-1, 4, 1.5])('queue %s is no data queue', (index) => {
    expect(statsAnswer(device, index)).toEqual(failure('QUEUE_IDX_INVALID'));
  });

  it('a device that does not exist', () => {
    expect(statsAnswer(undefined, null)).toEqual(DEVICE_MISSING);
  });

  it('a queue that is not in use is not shown', () => {
    expect(shown({ ...device, queues: [] }, 1)['queues-stats']).toEqual([]);
  });
});
