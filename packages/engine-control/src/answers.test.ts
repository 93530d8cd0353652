import { describe, expect, it } from 'vitest';
import {
  healthAnswer,
  hotplugAnswer,
  type Json,
  type JsonObject,
  listAnswer,
  type QueryOptions,
  queryAnswer,
  selectDevices,
  versionAnswer,
} from './answers.js';
import type { DevicePlan } from './device-plan.js';
import { DEVICE_MISSING, failure } from './errors.js';
import {
  CONTROL_PLANE_ERRORS,
  type ControllerFacts,
  DATA_PLANE_ERRORS,
  type DeviceFacts,
  FunctionKind,
  type HealthFacts,
  NO_VECTOR,
  type QueueFacts,
} from './facts.js';
import * as guide from './guide-answers.fixture.js';

const KINDS: Readonly<Record<string, (value: unknown) => boolean>> = {
  N: (value) => typeof value === 'number',
  D: (value) => typeof value === 'string' && /^\d+$/.test(value),
  x: (value) => typeof value === 'string' && /^0x[0-9a-f]+$/.test(value),
  X: (value) => typeof value === 'string' && /^0x[0-9A-F]+$/.test(value),
  M: (value) => typeof value === 'string' && /^([0-9A-F]{2}:){5}[0-9A-F]{2}$/.test(value),
  T: (value) => typeof value === 'string',
  O: (value) => typeof value === 'object' && !Array.isArray(value),
  A: Array.isArray,
};

/** Keys, their order, the kind of every value and, where the guide shows one, the value itself. */
function expectShape(answer: unknown, shape: string): void {
  const rows = guide.shapeRows(shape);
  const object = answer as JsonObject;
  expect(Object.keys(object)).toEqual(rows.map(({ key }) => key));
  for (const { key, kind, value } of rows) {
    expect(KINDS[kind]!(object[key]), `${key} is of kind ${kind}`).toBe(true);
    if (value !== '') expect(String(object[key]), key).toBe(value);
  }
}

const noCounters = {
  receivedDesc: 0,
  completedDesc: 0,
  badDescErrors: 0,
  errorCqes: 0,
  exceedMaxChain: 0,
  invalidBuffer: 0,
  maxPostDescNumber: 0,
  totalBytes: 0,
  rqCqMaxCount: 0,
  rqCqPeriod: 0,
};
/** The queue of the guide's query example. */
const queue: QueueFacts = {
  ...noCounters,
  index: 0,
  size: 256,
  msixVector: 1,
  enabled: true,
  notifyOffset: 0,
  descriptorAddress: 0x10cece000n,
  driverAddress: 0x10cecf000n,
  deviceAddress: 0x10cecf240n,
  receivedDesc: 256,
  batchNumber: 64,
  dmaQUsedNumber: 6,
  handlerSchdNumber: 4,
  auxHandlerSchdNumber: 3,
  rqCqPeriodMode: 1,
};
/** What the guide's two example devices share. */
const common = {
  kind: FunctionKind.STATIC_PF,
  pfId: 0,
  vfId: null,
  transitional: false,
  pciMaxVfs: 0,
  enabledVfs: 0,
  queueSizeMax: 256,
  linkUp: true,
  mtu: 1500,
  rssKeySizeMax: 0,
  supportedHashTypes: 0,
  sfNum: 1000,
  ibDevice: 'mlx5_0',
  ibDevicePciAddress: '0000:03:00.0',
  representor: 'en3f0pf0sf1000',
  aarfs: false,
  dim: false,
  pciDeviceId: 0x1041,
  pciVendorId: 0x1af4,
  pciClassCode: 0x20000,
  pciSubsystemId: 0x1041,
  pciSubsystemVendorId: 0x1af4,
  pciRevisionId: 1,
  resetting: false,
  enabled: true,
};
const listed: DeviceFacts = {
  ...common,
  vuid: 'MT2306XZ00BNVNETS0D0F2',
  bdf: 'e2:00.2',
  pciVhcaId: 2,
  vfPool: { msixFree: 0, msixMin: 0, msixMax: 256, queuePairsMin: 0, queuePairsMax: 127, queuePairsFree: 0 },
  msixVectors: 256,
  queueCount: 255,
  enabledQueueCount: 0,
  msixConfigVector: NO_VECTOR,
  mac: '16:b0:e0:41:b8:0d',
  queuePairsMax: 127,
  speedMbps: 100_000,
  driverMac: null,
  driverQueuePairs: 0,
  representorIfindex: 10,
  sfRdmaDevice: 'mlx5_3',
  sfCrossMkey: 0x12642,
  sfVhcaId: 0x124,
  deviceFeatures: 0x8930_0323_00ef_182fn,
  driverFeatures: 0n,
  status: 0,
  droppedFrames: null,
  queues: [],
};
const queried: DeviceFacts = {
  ...listed,
  vuid: 'MT2349X00018VNETS0D0F1',
  bdf: '23:00.1',
  pciVhcaId: 1,
  msixVectors: 64,
  queueCount: 63,
  enabledQueueCount: 63,
  msixConfigVector: 0,
  mac: '4E:6A:E1:41:D8:BE',
  queuePairsMax: 31,
  speedMbps: 200_000,
  driverMac: '4e:6a:e1:41:d8:be',
  driverQueuePairs: 31,
  representorIfindex: 12,
  sfRdmaDevice: 'mlx5_2',
  sfCrossMkey: 0xc042,
  sfVhcaId: 0x7e8,
  driverFeatures: 0x8000_0023_00ef_182fn,
  status: 0xf,
  queues: [queue, { ...queue, index: 1 }, { ...queue, index: 2, enabled: false }],
};
const controller: ControllerFacts = {
  emulationManager: 'mlx5_0',
  hotplugDevicesMax: 0,
  devicesMax: 1,
  virtQueuesMax: 256,
  tunnelDescriptorsMax: 6,
  supportedFeatures: 0x8b00_0377_00ef_982fn,
  queueTypes: 1,
  eventModes: 5,
};
const vf: DeviceFacts = { ...listed, kind: FunctionKind.VF, vfId: 3, pfId: 1, vfPool: null };

const deviceOf = (answer: unknown, index = 0): JsonObject =>
  ((answer as { devices: JsonObject[] }).devices as JsonObject[])[index]!;

describe('list answer', () => {
  const answer = listAnswer(controller, [listed, vf]);

  it('has the controller and then the devices', () => {
    expect(Object.keys(answer)).toEqual(['controller', 'devices']);
    expectShape(answer.controller, guide.LIST_CONTROLLER);
  });

  it('a PF has the keys, order, types and values of the guide', () => {
    expectShape(deviceOf(answer), guide.LIST_PF);
  });

  it('a VF has other first keys and no pool', () => {
    const keys = guide.shapeRows(guide.LIST_PF).map(({ key }) => key);
    const expected = [
      ...guide.VF_FIRST_KEYS,
      ...keys.slice(1).filter((key) => !guide.POOL_KEYS.includes(key)),
    ];
    expect(Object.keys(deviceOf(answer, 1))).toEqual(expected);
    expect(deviceOf(answer, 1)).toMatchObject({ vf_id: 3, parent_pf_id: 1, function_type: 'VF' });
  });

  it('queue types and event modes are explained bit by bit', () => {
    expect((answer.controller as JsonObject).supported_virt_queue_types).toEqual({
      value: '0x1',
      '    0': 'SPLIT',
    });
    expect((answer.controller as JsonObject).supported_event_modes).toEqual({
      value: '0x5',
      '    0': 'NO_MSIX_MODE',
      '    2': 'MSIX_MODE',
    });
    const packed = listAnswer({ ...controller, queueTypes: 3 }, []).controller as JsonObject;
    expect(packed.supported_virt_queue_types).toEqual({ value: '0x3', '    0': 'SPLIT', '    1': 'PACKED' });
  });

  // The guide greps with -A from "pf_id": these are the distances its recipes rely on.
  it.each([
    ['msix_num_pool_size', 8],
    ['max_msix_num', 10],
    ['max_num_of_qp', 12],
    ['qp_pool_size', 13],
  ])('%s stands %i lines below pf_id', (key, distance) => {
    const lines = JSON.stringify(answer, null, 2).split('\n');
    const start = lines.findIndex((line) => line.includes('"pf_id": 0'));
    expect(lines[start + distance]).toContain(`"${key}"`);
  });
});

describe('query answer', () => {
  const full = { brief: false, queue: null };

  it('a device has the keys, order, types and values of the guide', () => {
    const device = deviceOf(queryAnswer([queried], full));
    expectShape(device, guide.QUERY_DEVICE);
    expect((device.device_feature as JsonObject).value).toBe('0x8930032300ef182f');
    expect((device.driver_feature as JsonObject).value).toBe('0x8000002300ef182f');
  });

  it('the status is explained bit by bit', () => {
    expect(deviceOf(queryAnswer([queried], full)).status).toEqual({
      value: '0xf',
      '    0': 'ACK',
      '    1': 'DRIVER',
      '    2': 'DRIVER_OK',
      '    3': 'FEATURES_OK',
    });
    const broken = { ...queried, status: 0xc0 };
    expect(deviceOf(queryAnswer([broken], full)).status).toEqual({
      value: '0xc0',
      '    6': 'DEVICE_NEEDS_RESET',
      '    7': 'FAILED',
    });
  });

  it('enabled queues alone are shown, each with the keys, order, types and values of the guide', () => {
    const queues = deviceOf(queryAnswer([queried], full))['enabled-queues-info'] as JsonObject[];
    expect(queues.map(({ index }) => index)).toEqual(['0', '1']);
    expectShape(queues[0], guide.QUERY_QUEUE);
  });

  it('-q shows one queue, also when it is not enabled: then none', () => {
    const shown = (index: number) =>
      (
        deviceOf(queryAnswer([queried], { brief: false, queue: index }))[
          'enabled-queues-info'
        ] as JsonObject[]
      ).map((entry) => entry.index);
    expect(shown(1)).toEqual(['1']);
    expect(shown(2)).toEqual([]);
  });

  it.each([63, -1, 0.5])('-q %d of a device with 63 queues fails', (index) => {
    expect(queryAnswer([queried], { brief: false, queue: index })).toEqual(failure('QUEUE_IDX_INVALID'));
  });

  it('--dbg_stats tells of the uplinks behind the devices, too, where all queues are shown', () => {
    const uplink = { ibDevice: 'mlx5_0', tap: 'up0', debug: { frames: 3, drop_same_port: 1 } };
    const keys = (options: QueryOptions, uplinks = [uplink]) =>
      Object.keys(queryAnswer([queried], options, uplinks));
    expect(queryAnswer([queried], { ...full, dbgStats: true }, [uplink])).toMatchObject({
      uplinks: [{ sf_parent_device: 'mlx5_0', uplink_tap: 'up0', frames: 3, drop_same_port: 1 }],
    });
    expect(keys({ ...full, dbgStats: true })).toEqual(['devices', 'uplinks']);
    for (const options of [
      full,
      { brief: true, queue: null, dbgStats: true },
      { ...full, queue: 1, dbgStats: true },
    ])
      expect(keys(options)).toEqual(['devices']);
    expect(keys({ ...full, dbgStats: true }, [])).toEqual(['devices']);
  });

  it('-b leaves the queues out', () => {
    const device = deviceOf(queryAnswer([queried], { brief: true, queue: null }));
    expect(Object.keys(device).at(-1)).toBe('dim');
  });

  it('--dbg_stats adds debug counters behind the others', () => {
    const facts = { ...queried, queues: [{ ...queue, debug: { jumbo_mtu: 1 } }] };
    const shown = (dbgStats: boolean) =>
      (deviceOf(queryAnswer([facts], { ...full, dbgStats }))['enabled-queues-info'] as JsonObject[])[0]!;
    expect(Object.keys(shown(true)).at(-1)).toBe('jumbo_mtu');
    expect(shown(false)).not.toHaveProperty('jumbo_mtu');
  });

  it('no device of that name is the original error; none of all is an empty list', () => {
    expect(queryAnswer([], full)).toEqual(DEVICE_MISSING);
    expect(queryAnswer([], { ...full, all: true })).toEqual({ devices: [] });
  });

  it('a driver that is not there shows no vector, no address and no pairs', () => {
    expect(deviceOf(queryAnswer([listed], full))).toMatchObject({
      msix_config_vector: '0xFFFF',
      ctrl_mac: '00:00:00:00:00:00',
      ctrl_mq: '0',
      enabled_queues: '0',
    });
  });
});

describe('health answer', () => {
  const zeros = <K extends string>(names: readonly K[]) =>
    Object.fromEntries(names.map((name) => [name, 0])) as Record<K, number>;
  const facts: HealthFacts = {
    kind: FunctionKind.STATIC_PF,
    pfId: 0,
    vfId: null,
    vuid: 'MT2306XZ00BPVNETS0D0F1',
    status: 0xf,
    fatal: false,
    recoverCount: 0,
    recovery: { lastCause: null, lastPauseMs: 0, maxPauseMs: 0, error: null, datapath: 'idle' },
    controlPlaneErrors: zeros(CONTROL_PLANE_ERRORS),
    dataPlaneErrors: zeros(DATA_PLANE_ERRORS),
  };

  it('has the keys, order, types and values of the guide', () => {
    const { recovery, ...answer } = healthAnswer(facts);
    expect(recovery).toEqual({
      last_cause: 'none',
      last_pause_ms: 0,
      max_pause_ms: 0,
      error: 'none',
      datapath: 'idle',
    });
    expectShape(answer, guide.HEALTH);
    const details = answer.dev_health_details as JsonObject;
    expect(Object.keys(details)).toEqual(['control_plane_errors', 'data_plane_errors']);
    expectShape(details.control_plane_errors, guide.HEALTH_CONTROL_PLANE);
    expectShape(details.data_plane_errors, guide.HEALTH_DATA_PLANE);
  });

  it('a VF shows its number behind that of its PF', () => {
    const answer = healthAnswer({ ...facts, kind: FunctionKind.VF, vfId: 4 });
    expect(Object.keys(answer).slice(0, 3)).toEqual(['pf_id', 'vf_id', 'type']);
  });

  it('ends with what is known of recoveries, behind everything the guide has', () => {
    const datapath = 'answers in 0.25 ms';
    const recovery = { lastCause: 'hang', lastPauseMs: 4.25, maxPauseMs: 11, error: 'QUARANTINED', datapath };
    const answer = healthAnswer({ ...facts, recovery });
    expect(Object.keys(answer).at(-1)).toBe('recovery');
    expect(answer.recovery).toEqual({
      last_cause: 'hang',
      last_pause_ms: 4.25,
      max_pause_ms: 11,
      error: 'QUARANTINED',
      datapath,
    });
  });

  it('shows recoveries and a fatal device', () => {
    expect(healthAnswer({ ...facts, fatal: true, recoverCount: 3 })).toMatchObject({
      health_status: 'Fatal',
      health_recover_counter: 3,
    });
  });
});

describe('hotplug answer', () => {
  const plan = {
    bdf: '15:00.0',
    vuid: 'MT2151X03152VNETS1D0F0',
    pfId: 0,
    representor: 'en3f0pf0sf2000',
    mac: '0C:C4:7A:FF:22:93',
  } as DevicePlan;

  it('has the keys, order, types and values of the guide', () => {
    expectShape(hotplugAnswer(plan), guide.HOTPLUG);
  });

  it('of a failure has errno and errstr alone', () => {
    expect(Object.entries(hotplugAnswer(failure('MAC_INVALID')))).toEqual([
      ['errno', -1009],
      ['errstr', 'Failed - MAC is invalid'],
    ]);
  });
});

describe('version answer', () => {
  it('is an array of two objects with a leading v', () => {
    expect(versionAnswer('0.1.0', '0.2.0') satisfies Json).toEqual([
      { 'Original Controller': 'v0.1.0' },
      { 'Destination Controller': 'v0.2.0' },
    ]);
  });
});

describe('device selection', () => {
  const none = { all: false, pf: null, vf: null, vuid: null };
  const devices = [listed, { ...vf, pfId: 0, vfId: 0, vuid: 'B' }, { ...listed, pfId: 1, vuid: 'C' }];
  it.each([
    ['all', { ...none, all: true }, [0, 1, 2]],
    ['a PF, not its VFs', { ...none, pf: 0 }, [0]],
    ['a VF', { ...none, pf: 0, vf: 0 }, [1]],
    ['a VUID', { ...none, vuid: 'C' }, [2]],
    ['one that does not exist', { ...none, pf: 0, vf: 1 }, []],
    ['nothing', none, []],
  ])('%s', (_, selector, expected) => {
    expect(selectDevices(devices, selector)).toEqual(expected.map((index) => devices[index]));
  });
});
