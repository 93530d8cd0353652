import { DeviceStatus, featureMask, NetFeature, VirtioFeature } from '@virtnet/wire';
import { describe, expect, it } from 'vitest';
import { CONTROL_ERRORS, type ControlErrorName, isFailure } from './errors.js';
import { FunctionKind } from './facts.js';
import { hexLower, pythonDict } from './format.js';
import {
  LINK_SPEEDS,
  type ModifiableDevice,
  type ModifySite,
  planModify,
  planModifyQueues,
} from './modify.js';
import type { DeviceOptions, ModifyRequest } from './modify-request.js';
import { echoOf, requestFailure } from './requests.js';
import { vfPool } from './vf-pool.js';

const N = NetFeature;
const OFFERED = featureMask([VirtioFeature.VERSION_1, N.MAC, N.MTU, N.STATUS, N.CTRL_VQ, N.CTRL_RX]);
const SUPPORTED = OFFERED | featureMask([N.CSUM, N.HOST_TSO4, N.CTRL_VLAN]);
const RUNNING = 0xf;
const share = { msixVectors: 32, queuePairs: 15 };

/** A PF that nobody drives. */
const idle: ModifiableDevice = {
  kind: FunctionKind.HOTPLUG_PF,
  status: DeviceStatus.ACKNOWLEDGE,
  driverFeatures: 0n,
  deviceFeatures: OFFERED,
  connected: true,
  share,
};
const running: ModifiableDevice = { ...idle, status: RUNNING, driverFeatures: OFFERED };
const site: ModifySite = { uplinkMtu: 9000, supportedFeatures: SUPPORTED, virtQueuesMax: 64, pool: null };
const pool = vfPool({ initial: share, most: { msixVectors: 64, queuePairs: 31 } }, [
  share,
  { msixVectors: 4, queuePairs: 1 },
]);
const vf: ModifiableDevice = { ...idle, kind: FunctionKind.VF, connected: false };
const vfSite: ModifySite = { ...site, pool };

function refused(options: DeviceOptions, device = idle, at = site): string {
  const plan = planModify(options, device, at);
  if (!isFailure(plan)) return 'carried out';
  return CONTROL_ERRORS.find(({ errno }) => errno === plan.errno)?.name ?? String(plan.errno);
}

describe('modify device, for the next driver', () => {
  const SHAPES: readonly (readonly [DeviceOptions, object])[] = [
    [{ mac: '0c:c4:7a:ff:22:93' }, { mac: '0C:C4:7A:FF:22:93' }],
    [{ mtu: 9000 }, { mtu: 9000 }],
    [{ features: hexLower(SUPPORTED) }, { features: hexLower(SUPPORTED) }],
    [{ maxQueueSize: 32_768 }, { queueSize: 32_768 }],
    [{ maxQueuePairs: 31 }, { queuePairs: 31 }],
  ];

  it.each(SHAPES)('%o', (options, shape) => {
    expect(planModify(options, idle, site)).toEqual({ shape });
    expect(refused(options, { ...idle, status: DeviceStatus.DRIVER })).toBe('DRV_SHOULD_NOT_LOAD');
    expect(refused(options, running)).toBe('DRV_SHOULD_NOT_LOAD');
  });

  const REFUSALS: readonly (readonly [DeviceOptions, ControlErrorName])[] = [
    [{ mac: '01:00:5e:00:00:01' }, 'MAC_INVALID'],
    [{ mac: '0c:c4:7a' }, 'MAC_INVALID'],
    [{ mtu: 67 }, 'MTU_INVALID'],
    [{ mtu: 9001 }, 'MTU_INVALID'],
    [{ features: hexLower(OFFERED | (1n << 57n)) }, 'DEV_FEATURE_VALIDATE'],
    [{ features: hexLower(OFFERED | (1n << 11n)) }, 'DEV_FEATURE_VALIDATE'],
    [{ features: '0x20' }, 'DEV_FEATURE_VALIDATE'],
    [{ maxQueueSize: 3 }, 'QUEUE_SIZE_RULE'],
    [{ maxQueueSize: 48 }, 'QUEUE_SIZE_RULE'],
    [{ maxQueueSize: 0x1_0000 }, 'QUEUE_SIZE_INVALID'],
    [{ maxQueuePairs: 0 }, 'QUEUES_INVALID'],
    [{ maxQueuePairs: 32 }, 'QUEUES_INVALID'],
    [{ msixNum: 8 }, 'MSIX_INVALID'],
    [{ msixNum: 6, maxQueuePairs: 2 }, 'QUEUES_INVALID'],
  ];

  it.each(REFUSALS)('%o is refused', (options, name) => {
    expect(refused(options)).toBe(name);
  });

  it('vectors and queue pairs of a VF come out of the pool of its PF', () => {
    expect(planModify({ msixNum: 60 }, vf, vfSite)).toEqual({ shape: { msixVectors: 60, queuePairs: 29 } });
    expect(planModify({ maxQueuePairs: 29 }, vf, vfSite)).toEqual({ shape: { queuePairs: 29 } });
    expect(refused({ msixNum: 62 }, vf, vfSite)).toBe('MSIX_INVALID');
    expect(refused({ maxQueuePairs: 30 }, vf, vfSite)).toBe('QUEUES_INVALID');
  });

  it('vectors are not changed under somebody who has read their number', () => {
    expect(refused({ msixNum: 8 }, { ...vf, connected: true }, vfSite)).toBe('DRV_SHOULD_NOT_LOAD');
  });

  it.each([{ msixNum: 0 }, { maxQueuePairs: 0 }])('%o is carried out, with a warning', (options) => {
    expect(planModify(options, vf, vfSite)).toMatchObject({ warning: 'DEV_NOT_FUNCTIONAL' });
  });

  it('a VF without a share is warned of when its share changes, until it has both again', () => {
    const none = { ...vf, share: { msixVectors: 0, queuePairs: 0 } };
    expect(planModify({ mtu: 1400 }, none, vfSite)).toEqual({ shape: { mtu: 1400 } });
    expect(planModify({ maxQueuePairs: 2 }, none, vfSite)).toMatchObject({ warning: 'DEV_NOT_FUNCTIONAL' });
    expect(planModify({ msixNum: 6 }, none, vfSite)).toEqual({ shape: { msixVectors: 6, queuePairs: 2 } });
  });
});

describe('modify device, at once', () => {
  it.each([
    [{ link: 0 }, { linkUp: false }],
    [{ link: 1 }, { linkUp: true }],
    [{ speed: 100_000 }, { speedMbps: 100_000 }],
    [{ state: 0 }, { status: 'reset' }],
    [{ state: 0x4f }, { status: 'needs-reset' }],
    [{ state: 0x40 }, { status: 'needs-reset' }],
    [{ state: RUNNING }, {}],
    [{ rxMode: 0x20 }, { rxMode: 0x20 }],
    [{ packetCounter: 'enable' as const }, { countSizes: true }],
    [{ dropCounter: 'disable' as const }, { countDrops: false }],
  ])('%o, with a driver', (options, live) => {
    expect(planModify(options, running, site)).toEqual({ shape: {}, ...live });
  });

  it.each([{ link: 0 }, { speed: 25_000 }, { state: 0 }])('%o, without a driver as well', (options) => {
    expect(isFailure(planModify(options, idle, site))).toBe(false);
  });

  it.each([
    { rxMode: 1 },
    { packetCounter: 'enable' as const },
    { dropCounter: 'enable' as const },
    { state: 0x40 },
  ])('%o needs a driver', (options) => {
    expect(refused(options)).toBe('DEV_NOT_START');
  });

  it.each([
    [{ link: 2 }, '-22'],
    [{ speed: 123 }, 'SPEED_INVALID'],
    [{ state: 0x100 }, '-22'],
    [{ state: 0x10 }, '-22'],
    [{ state: 0x1 }, 'OPT_NOT_SUPPORTED'],
    [{ rxMode: 0x40 }, '-22'],
    [{ supportedHashTypes: 0x200 }, 'HASH_TYPES_INVALID'],
    [{ supportedHashTypes: 0x1ff }, 'OPT_NOT_SUPPORTED'],
    [{ rssMaxKeySize: 41 }, 'RSS_KEY_SIZE_INVALID'],
    [{ rssMaxKeySize: 40 }, 'OPT_NOT_SUPPORTED'],
    [{ dstPort: 80 }, 'OPT_NOT_SUPPORTED'],
    [{ rxDmaQNum: 1 }, 'OPT_NOT_SUPPORTED'],
    [{ dim: 'enable' as const, netDim: 'disable' as const }, '-22'],
    [{}, '-22'],
  ])('%o is refused', (options, name) => {
    expect(refused(options, running)).toBe(name);
  });

  it.each([
    [{ link: 2 }, 'link is 0 (down) or 1 (up)'],
    [{ state: 0x10 }, 'state has bits that no device status has (those are 0xcf)'],
    [{ rxMode: 0x40 }, 'rx_mode is 0x0 to 0x3f'],
    [
      { dim: 'enable' as const, netDim: 'disable' as const },
      'dim_config and net_dim_config are one setting and differ',
    ],
    [{}, 'no option says what to modify'],
  ])('%o: the argument that is invalid is told, and why', (options, why) => {
    const errstr = `Invalid argument: ${why}`;
    expect(planModify(options, running, site)).toEqual({ errno: -22, errstr });
  });

  it.each(['enable', 'disable'] as const)(
    'aarfs %s: at once, with a driver or without, of a PF only',
    (state) => {
      const change = { shape: {}, aarfs: state === 'enable' };
      for (const device of [idle, running]) {
        for (const kind of [FunctionKind.STATIC_PF, FunctionKind.HOTPLUG_PF])
          expect(planModify({ aarfs: state }, { ...device, kind }, site)).toEqual(change);
        expect(refused({ aarfs: state }, { ...device, kind: FunctionKind.VF })).toBe('OPT_NOT_SUPPORTED');
      }
    },
  );

  it('receive modes need a driver that agreed to set them', () => {
    const driverFeatures = OFFERED & ~featureMask([N.CTRL_RX]);
    expect(refused({ rxMode: 1 }, { ...running, driverFeatures })).toBe('SF_RX_MODE_SET');
  });

  it('every speed of the help is taken', () => {
    for (const speed of LINK_SPEEDS) expect(refused({ speed }, running)).toBe('carried out');
  });
});

describe('hashes', () => {
  const deviceFeatures = OFFERED | featureMask([N.HASH_REPORT]);
  const hashing = { ...idle, deviceFeatures };

  it('types wait for the next driver of a device that offers to report hashes, or to steer by them, or shall from now on', () => {
    expect(planModify({ supportedHashTypes: 0x3f }, hashing, site)).toEqual({ shape: {}, hashTypes: 0x3f });
    expect(refused({ supportedHashTypes: 0x3f }, { ...hashing, status: RUNNING })).toBe(
      'DRV_SHOULD_NOT_LOAD',
    );
    const steering = { ...idle, deviceFeatures: OFFERED | featureMask([N.RSS]) };
    expect(planModify({ supportedHashTypes: 1 }, steering, site)).toEqual({ shape: {}, hashTypes: 1 });
    expect(refused({ supportedHashTypes: 0x3f })).toBe('OPT_NOT_SUPPORTED');
    const features = hexLower(deviceFeatures);
    const able = { ...site, supportedFeatures: SUPPORTED | deviceFeatures };
    expect(planModify({ features, supportedHashTypes: 1 }, idle, able)).toEqual({
      shape: { features },
      hashTypes: 1,
    });
    expect(refused({ features: hexLower(OFFERED), supportedHashTypes: 1 }, hashing)).toBe(
      'OPT_NOT_SUPPORTED',
    );
  });

  it('the length of a key is the one there is', () => {
    expect(planModify({ rssMaxKeySize: 40 }, hashing, site)).toEqual({ shape: {} });
    expect(refused({ rssMaxKeySize: 39 }, hashing)).toBe('RSS_KEY_SIZE_INVALID');
  });
});

describe('moderation of interrupts', () => {
  it.each(['dim', 'netDim'] as const)('%s waits for the next driver, on and off', (option) => {
    expect(planModify({ [option]: 'enable' }, idle, site)).toEqual({ shape: {}, dim: true });
    expect(planModify({ [option]: 'disable' }, idle, site)).toEqual({ shape: {}, dim: false });
    expect(refused({ [option]: 'enable' }, running)).toBe('DRV_SHOULD_NOT_LOAD');
  });

  it('of queues is set at once, with a driver or without', () => {
    const options = { periodMode: 'cqe', period: 0xffff, maxCount: 0 } as const;
    expect(planModifyQueues(options)).toEqual({ shape: {}, moderation: options });
  });

  it.each([{ period: -1 }, { period: 0x1_0000 }, { maxCount: 0x1_0000 }, { maxCount: -1 }])(
    '%o is refused',
    (change) => {
      const plan = planModifyQueues({ periodMode: 'event', period: 8, maxCount: 32, ...change });
      expect(plan).toMatchObject({ errno: -1033 });
    },
  );
});

describe('modify device, several options', () => {
  it('are carried out together', () => {
    expect(planModify({ mtu: 2000, link: 0, maxQueueSize: 64 }, idle, site)).toEqual({
      shape: { mtu: 2000, queueSize: 64 },
      linkUp: false,
    });
  });

  it('none is carried out when one is refused', () => {
    expect(refused({ mtu: 2000, link: 0, speed: 1 })).toBe('SPEED_INVALID');
    expect(refused({ mtu: 2000, link: 0 }, running)).toBe('DRV_SHOULD_NOT_LOAD');
  });
});

describe('parameters line of modify and stats', () => {
  const all = { all: false, pf: 0, vf: null, vuid: null };
  const line = (params: ModifyRequest) => pythonDict(echoOf({ command: 'modify', params })!);

  it('is that of the guide', () => {
    expect(line({ ...all, device: { link: 0 } })).toBe(
      "{'pf': '0x0', 'all': '0x0', 'subcmd': '0x0', 'link': '0x0'}",
    );
    expect(line({ ...all, device: { features: '0x8900010300e7982f' } })).toBe(
      "{'pf': '0x0', 'all': '0x0', 'subcmd': '0x0', 'features': '0x8900010300e7982f'}",
    );
    expect(line({ ...all, device: { dim: 'enable' } })).toBe(
      "{'pf': '0x0', 'all': '0x0', 'subcmd': '0x0', 'dim_config': 'enable'}",
    );
    expect(line({ ...all, device: { netDim: 'enable' } })).toBe(
      "{'pf': '0x0', 'all': '0x0', 'subcmd': '0x0', 'net_dim_config': 'enable'}",
    );
    const stats = { pf: 0, vf: null, vuid: null, queue: 0 };
    expect(pythonDict(echoOf({ command: 'stats', params: stats })!)).toBe("{'pf': '0x0', 'queue_id': '0x0'}");
  });

  it('a VF stands before its PF; queue is sub-command 1', () => {
    const queueOptions = { periodMode: 'event', period: 10, maxCount: 32 } as const;
    expect(line({ ...all, vf: 1, queueOptions })).toBe(
      "{'vf': '0x1', 'pf': '0x0', 'all': '0x0', 'subcmd': '0x1', " +
        "'period_mode': 'event', 'period': '0xa', 'max_count': '0x20'}",
    );
  });

  it('numbers and texts that no device can have are refused before anybody is asked', () => {
    const errno = (params: ModifyRequest) => requestFailure({ command: 'modify', params })?.errno;
    expect(errno({ ...all, pf: -1 })).toBe(-1007);
    expect(errno({ ...all, pf: null, vuid: 'X'.repeat(65) })).toBe(-1008);
    expect(errno({ ...all, device: { mac: 'a'.repeat(65) } })).toBe(-1009);
    expect(errno({ ...all, device: { features: 'f'.repeat(65) } })).toBe(-1001);
    const stats = (queue: number) =>
      requestFailure({ command: 'stats', params: { pf: 0, vf: null, vuid: null, queue } })?.errno;
    expect([stats(-1), stats(0)]).toEqual([-1051, undefined]);
  });
});
