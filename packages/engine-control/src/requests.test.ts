import { describe, expect, it } from 'vitest';
import { failure } from './errors.js';
import { pythonDict } from './format.js';
import { type ControlRequest, echoOf, type QueryRequest, requestFailure } from './requests.js';

const none = { all: false, pf: null, vf: null, vuid: null };
const query = (fields: Partial<QueryRequest>): ControlRequest => ({
  command: 'query',
  params: { ...none, brief: false, queue: null, ...fields },
});

describe('parameters line', () => {
  it.each<[string, ControlRequest, string]>([
    [
      'query -p 0 -b',
      query({ pf: 0, brief: true }),
      "{'all': '0x0', 'pf': '0x0', 'dbg_stats': '0x0', 'brief': '0x1', 'latency_stats': '0x0', 'stats_clear': '0x0'}",
    ],
    [
      'query -p 0 -v 0 -b',
      query({ pf: 0, vf: 0, brief: true }),
      "{'all': '0x0', 'vf': '0x0', 'pf': '0x0', 'dbg_stats': '0x0', 'brief': '0x1', 'latency_stats': '0x0', 'stats_clear': '0x0'}",
    ],
    [
      'query -a -q 3 --dbg_stats',
      query({ all: true, queue: 3, dbgStats: true }),
      "{'all': '0x1', 'dbg_stats': '0x1', 'brief': '0x0', 'latency_stats': '0x0', 'queue_id': '0x3', 'stats_clear': '0x0'}",
    ],
    [
      'health -p 0 show',
      { command: 'health', params: { ...none, pf: 0 } },
      "{'pf': '0x0', 'all': '0x0', 'subcmd': '0x0'}",
    ],
    ['log -l info', { command: 'log', params: { level: 'info' } }, "{'level': 'info'}"],
    ['unplug -p 1', { command: 'unplug', params: { pf: 1, vuid: null } }, "{'id': '0x1'}"],
    ['unplug -u X', { command: 'unplug', params: { pf: null, vuid: 'X' } }, "{'vuid': 'X'}"],
  ])('%s', (_, request, line) => {
    expect(pythonDict(echoOf(request)!)).toBe(line);
  });

  it('shows display-only options of query', () => {
    expect(echoOf(query({ pf: 0 }), { latencyStats: true })).toMatchObject({
      latency_stats: 1,
      stats_clear: 0,
    });
  });

  it('is absent for hotplug, list and version', () => {
    const hotplug: ControlRequest = {
      command: 'hotplug',
      params: {
        ibDevice: 'mlx5_0',
        mac: '',
        mtu: 0,
        queues: 3,
        queuePairs: null,
        queueSize: 4,
        sfNum: null,
        features: null,
        legacy: false,
      },
    };
    for (const request of [
      hotplug,
      { command: 'list', params: {} },
      { command: 'version', params: {} },
    ] as const)
      expect(echoOf(request)).toBeNull();
  });
});

describe('request that names nothing that can exist', () => {
  it.each<[string, ControlRequest, ReturnType<typeof failure> | null]>([
    ['unplug -p -1', { command: 'unplug', params: { pf: -1, vuid: null } }, failure('ID_OUT_OF_RANGE')],
    ['query -p 65536', query({ pf: 65536 }), failure('ID_OUT_OF_RANGE')],
    ['query -p 0 -v -2', query({ pf: 0, vf: -2 }), failure('ID_OUT_OF_RANGE')],
    ['query -p 0 -q 70000', query({ pf: 0, queue: 70000 }), failure('QUEUE_IDX_INVALID')],
    [
      'health -u <65 letters>',
      { command: 'health', params: { ...none, vuid: 'A'.repeat(65) } },
      failure('VUID_INVALID'),
    ],
    ['query -p 65535', query({ pf: 65535 }), null],
    ['list', { command: 'list', params: {} }, null],
  ])('%s', (_, request, expected) => {
    expect(requestFailure(request)).toEqual(expected);
  });
});
