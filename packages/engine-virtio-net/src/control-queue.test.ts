import {
  ControlAck,
  ControlAnnounce,
  ControlClass,
  ControlGuestOffloads,
  ControlMac,
  ControlMq,
  ControlNotfCoal,
  ControlRx,
  ControlVlan,
  featureMask,
  HASH_KEY_BYTES_MAX,
  HASH_TYPES,
  NetConfig,
  NetFeature,
  viewOf,
} from '@virtnet/wire';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { executeControl } from './control-queue.js';
import { CONTROL_REQUEST_BYTES_MAX, MAC_TABLE_ENTRIES_MAX } from './limits.js';
import type { NetDevice } from './net-device.js';
import { ReceiveFilter, UNTAGGED } from './receive-filter.js';
import { agreedDevice, PROFILE, request, u16, u32, u64 } from './test-profile.fixture.js';

const OK = ControlAck.OK;
const ERR = ControlAck.ERR;

const OWN = [0x0c, 0xc4, 0x7a, 0xff, 0x22, 0x93];
const OTHER = [0x02, 0, 0, 0, 0, 0x77];
const GROUP = [0x01, 0, 0x5e, 0, 0, 0x01];
const OTHER_GROUP = [0x33, 0x33, 0, 0, 0, 0x05];
const BROADCAST = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff];

const ack = (device: NetDevice, controlClass: number, command: number, ...data: number[]): number =>
  executeControl(device, request(controlClass, command, ...data)).ack;

const macTable = (unicast: readonly number[][], multicast: readonly number[][]): number[] => [
  ...u32(unicast.length),
  ...unicast.flat(),
  ...u32(multicast.length),
  ...multicast.flat(),
];

/** Whether a frame to `destination` gets through. */
function accepts(device: NetDevice, destination: readonly number[], vlan: number = UNTAGGED): boolean {
  const state = device.filterState();
  return state === null || new ReceiveFilter(state).accepts(Uint8Array.from(destination), vlan) === 0;
}

/** Runs `use` and expects that a refused command left everything as it was. */
function expectUnchanged(device: NetDevice, use: () => void): void {
  const before = device.save();
  use();
  expect(device.save()).toEqual(before);
}

describe('control queue: receive modes', () => {
  it('CVQ-1 all 64 combinations of modes do with 5 kinds of frames what the specification says', () => {
    const modes = Object.values(ControlRx);
    for (let bits = 0; bits < 64; bits++) {
      const device = agreedDevice();
      const on = (mode: number): boolean => ((bits >> mode) & 1) === 1;
      expect(ack(device, ControlClass.MAC, ControlMac.TABLE_SET, ...macTable([], [GROUP]))).toBe(OK);
      for (const mode of modes) expect(ack(device, ControlClass.RX, mode, on(mode) ? 1 : 0)).toBe(OK);
      const promiscuous = on(ControlRx.PROMISC);
      const unicast = !on(ControlRx.NOUNI);
      const multicast = !on(ControlRx.NOMULTI);
      expect({
        bits,
        own: accepts(device, OWN),
        other: accepts(device, OTHER),
        listed: accepts(device, GROUP),
        unlisted: accepts(device, OTHER_GROUP),
        broadcast: accepts(device, BROADCAST),
      }).toEqual({
        bits,
        own: promiscuous || unicast,
        other: promiscuous || (unicast && on(ControlRx.ALLUNI)),
        listed: promiscuous || multicast,
        unlisted: promiscuous || (multicast && on(ControlRx.ALLMULTI)),
        broadcast: promiscuous || !on(ControlRx.NOBCAST),
      });
    }
  });

  it('without their features the modes are refused', () => {
    const device = agreedDevice([NetFeature.CTRL_RX, NetFeature.CTRL_RX_EXTRA]);
    expectUnchanged(device, () => {
      for (const mode of Object.values(ControlRx)) expect(ack(device, ControlClass.RX, mode, 1)).toBe(ERR);
    });
    const basic = agreedDevice([NetFeature.CTRL_RX_EXTRA]);
    expect(ack(basic, ControlClass.RX, ControlRx.ALLMULTI, 1)).toBe(OK);
    expect(ack(basic, ControlClass.RX, ControlRx.NOBCAST, 1)).toBe(ERR);
  });
});

describe('control queue: MAC addresses', () => {
  it('CVQ-2 the table is empty after reset, set as a whole, and replaced as a whole', () => {
    const device = agreedDevice();
    ack(device, ControlClass.RX, ControlRx.PROMISC, 0);
    expect([accepts(device, OTHER), accepts(device, GROUP)]).toEqual([false, false]);
    ack(device, ControlClass.MAC, ControlMac.TABLE_SET, ...macTable([OTHER], [GROUP]));
    expect([accepts(device, OTHER), accepts(device, GROUP), accepts(device, OTHER_GROUP)]).toEqual([
      true,
      true,
      false,
    ]);
    ack(device, ControlClass.MAC, ControlMac.TABLE_SET, ...macTable([], [OTHER_GROUP]));
    expect([accepts(device, OTHER), accepts(device, GROUP), accepts(device, OTHER_GROUP)]).toEqual([
      false,
      false,
      true,
    ]);
    device.acceptFeatures(device.features);
    ack(device, ControlClass.RX, ControlRx.PROMISC, 0);
    expect(accepts(device, OTHER_GROUP)).toBe(false);
  });

  it('CVQ-2 G11 a new address is in the configuration and in the filter when the command returns', () => {
    const device = agreedDevice();
    ack(device, ControlClass.RX, ControlRx.PROMISC, 0);
    const result = executeControl(device, request(ControlClass.MAC, ControlMac.ADDR_SET, ...OTHER));
    expect(result).toEqual({ ack: OK, changed: [{ kind: 'filter' }, { kind: 'config' }] });
    expect([...device.readConfig(0, 6)]).toEqual(OTHER);
    expect([accepts(device, OTHER), accepts(device, OWN)]).toEqual([true, false]);
    device.reset();
    expect([...device.readConfig(0, 6)]).toEqual(OWN);
  });

  it('an address no interface can have is refused', () => {
    const device = agreedDevice();
    expectUnchanged(device, () => {
      for (const mac of [GROUP, BROADCAST, [0, 0, 0, 0, 0, 0], OTHER.slice(1), [...OTHER, 0]])
        expect(ack(device, ControlClass.MAC, ControlMac.ADDR_SET, ...mac)).toBe(ERR);
    });
  });

  it('E1 a table whose count promises more than there is, is refused and changes nothing', () => {
    const device = agreedDevice();
    ack(device, ControlClass.MAC, ControlMac.TABLE_SET, ...macTable([OTHER], [GROUP]));
    const bad: number[][] = [
      [],
      [0, 0, 0],
      u32(0),
      [...u32(0), 0, 0, 0],
      u32(0xffff_ffff),
      [...u32(0xffff_ffff), ...OTHER],
      // Counts whose product with 6 wraps in 32 bits to something small.
      [...u32(0x2aaa_aaab), ...OTHER, ...u32(0)],
      [...u32(0x8000_0001), ...OTHER, ...u32(0)],
      [...u32(1), ...OTHER, ...u32(0xffff_ffff)],
      [...u32(1), ...OTHER, ...u32(1), 1, 2, 3],
      [...macTable([OTHER], [GROUP]), 0],
    ];
    expectUnchanged(device, () => {
      for (const data of bad) expect(ack(device, ControlClass.MAC, ControlMac.TABLE_SET, ...data)).toBe(ERR);
    });
  });

  it('a longer table than is kept takes all frames of its kind, and the other table still counts', () => {
    const device = agreedDevice();
    ack(device, ControlClass.RX, ControlRx.PROMISC, 0);
    const many = (count: number) => Array.from({ length: count }, (_, i) => [2, 0, 0, 0, 1, i & 0xff]);
    ack(device, ControlClass.MAC, ControlMac.TABLE_SET, ...macTable(many(MAC_TABLE_ENTRIES_MAX), []));
    expect([accepts(device, OTHER), accepts(device, [2, 0, 0, 0, 1, 63])]).toEqual([false, true]);
    ack(device, ControlClass.MAC, ControlMac.TABLE_SET, ...macTable(many(MAC_TABLE_ENTRIES_MAX + 1), []));
    expect([accepts(device, OTHER), accepts(device, GROUP)]).toEqual([true, false]);
    ack(device, ControlClass.RX, ControlRx.NOUNI, 1);
    expect(accepts(device, OTHER)).toBe(false);
  });
});

describe('control queue: VLANs', () => {
  it('CVQ-4 without the feature all tagged frames pass; with it only the ids added, and untagged ones', () => {
    const open = agreedDevice([NetFeature.CTRL_VLAN]);
    ack(open, ControlClass.RX, ControlRx.PROMISC, 0);
    expect(ack(open, ControlClass.VLAN, ControlVlan.ADD, ...u16(5))).toBe(ERR);
    expect([accepts(open, OWN, 5), accepts(open, OWN, 4094)]).toEqual([true, true]);

    const device = agreedDevice();
    ack(device, ControlClass.RX, ControlRx.PROMISC, 0);
    expect([accepts(device, OWN, 5), accepts(device, OWN)]).toEqual([false, true]);
    expect(ack(device, ControlClass.VLAN, ControlVlan.ADD, ...u16(5))).toBe(OK);
    expect(ack(device, ControlClass.VLAN, ControlVlan.ADD, ...u16(5))).toBe(OK);
    expect([accepts(device, OWN, 5), accepts(device, OWN, 6)]).toEqual([true, false]);
    expect(ack(device, ControlClass.VLAN, ControlVlan.DEL, ...u16(5))).toBe(OK);
    expect(ack(device, ControlClass.VLAN, ControlVlan.DEL, ...u16(5))).toBe(OK);
    expect(accepts(device, OWN, 5)).toBe(false);
  });

  it('ids beyond 4095 and data of another length are refused', () => {
    const device = agreedDevice();
    expectUnchanged(device, () => {
      for (const data of [u16(4096), u16(0xffff), [], [5], [5, 0, 0]])
        expect(ack(device, ControlClass.VLAN, ControlVlan.ADD, ...data)).toBe(ERR);
    });
  });
});

describe('control queue: announcement', () => {
  it('CVQ-5 the request is gone from status when the command returns; acknowledging twice is no error', () => {
    const device = agreedDevice();
    device.announce();
    const acknowledge = request(ControlClass.ANNOUNCE, ControlAnnounce.ACK);
    expect(executeControl(device, acknowledge)).toEqual({ ack: OK, changed: [{ kind: 'config' }] });
    expect(NetConfig.decode(viewOf(device.readConfig(0, 28))).status).toBe(1);
    expect(executeControl(device, acknowledge)).toEqual({ ack: OK, changed: [] });
    const silent = agreedDevice([NetFeature.GUEST_ANNOUNCE]);
    expect(executeControl(silent, acknowledge).ack).toBe(ERR);
  });
});

describe('control queue: queue pairs', () => {
  const setPairs = (pairs: number): Uint8Array =>
    request(ControlClass.MQ, ControlMq.VQ_PAIRS_SET, ...u16(pairs));

  it('CVQ-6 E6 sets the pairs in use, up and down', () => {
    const device = agreedDevice();
    for (const pairs of [3, 1, 2]) {
      expect(executeControl(device, setPairs(pairs))).toEqual({
        ack: OK,
        changed: [{ kind: 'queue-pairs', pairs }],
      });
      expect(device.activePairs).toBe(pairs);
    }
  });

  it('E5 0, more than there are, and pairs whose queues are not enabled are refused', () => {
    const device = agreedDevice();
    expectUnchanged(device, () => {
      for (const pairs of [0, 4, 0x8000, 0xffff])
        expect(executeControl(device, setPairs(pairs)).ack).toBe(ERR);
      const enabled = new Set([0, 1, 2, 3, 4, 6]);
      const context = { isQueueEnabled: (queue: number) => enabled.has(queue) };
      expect(executeControl(device, setPairs(3), context).ack).toBe(ERR);
    });
    const context = { isQueueEnabled: (queue: number) => queue < 4 };
    expect(executeControl(device, setPairs(2), context).ack).toBe(OK);
    expect(executeControl(agreedDevice([NetFeature.MQ]), setPairs(1)).ack).toBe(ERR);
  });
});

describe('control queue: receive offloads', () => {
  const set = (device: NetDevice, mask: bigint) =>
    executeControl(device, request(ControlClass.GUEST_OFFLOADS, ControlGuestOffloads.SET, ...u64(mask)));
  const ALL = featureMask([1, 7, 8, 9, 54, 55]);

  it('CVQ-8 all that were agreed on are on at first; SET takes effect at once', () => {
    const device = agreedDevice();
    expect(device.receiveOffloads()).toBe(ALL);
    expect(set(device, featureMask([1, 7]))).toEqual({
      ack: OK,
      changed: [{ kind: 'offloads', offloads: featureMask([1, 7]) }],
    });
    expect(set(device, featureMask([1, 55])).ack).toBe(OK);
    expect(device.receiveOffloads()).toBe(featureMask([1, 55]));
    expect(set(device, 0n).ack).toBe(OK);
    expect(device.receiveOffloads()).toBe(0n);
    expect(set(device, ALL).ack).toBe(OK);
    expect(device.receiveOffloads()).toBe(ALL);
  });

  it('what is switched on without what it needs is not used', () => {
    const device = agreedDevice();
    expect(set(device, featureMask([7, 9, 54])).ack).toBe(OK);
    expect(device.receiveOffloads()).toBe(0n);
  });

  it('E9 bits that were not agreed on, and bits that are no offloads, are refused', () => {
    const device = agreedDevice([NetFeature.GUEST_TSO6, NetFeature.GUEST_USO4]);
    expectUnchanged(device, () => {
      for (const bit of [8, 10, 54, 0, 17, 32, 63]) expect(set(device, 1n << BigInt(bit)).ack).toBe(ERR);
    });
    expect(set(agreedDevice([NetFeature.CTRL_GUEST_OFFLOADS]), 0n).ack).toBe(ERR);
  });
});

describe('control queue: anything else', () => {
  it('E3 E13 short requests, unknown classes and commands are refused, and the next command works', () => {
    const device = agreedDevice();
    expectUnchanged(device, () => {
      expect(executeControl(device, new Uint8Array(0)).ack).toBe(ERR);
      expect(executeControl(device, Uint8Array.of(0)).ack).toBe(ERR);
      for (let controlClass = 0; controlClass < 256; controlClass++)
        for (const command of [6, 7, 100, 255]) expect(ack(device, controlClass, command, 1)).toBe(ERR);
    });
    expect(ack(device, ControlClass.RX, ControlRx.PROMISC, 0)).toBe(OK);
  });

  it('E7 E8 E10 E11 RSS is refused, which is not offered, and so is what the driver did not agree to', () => {
    const device = agreedDevice([NetFeature.NOTF_COAL, NetFeature.VQ_NOTF_COAL, NetFeature.HASH_REPORT]);
    expectUnchanged(device, () => {
      expect(ack(device, ControlClass.MQ, ControlMq.RSS_CONFIG, ...new Array(60).fill(0xff))).toBe(ERR);
      expect(ack(device, ControlClass.MQ, ControlMq.HASH_CONFIG, ...new Array(13).fill(0))).toBe(ERR);
      for (const command of [0, 1, 2, 3])
        for (const bytes of [4, 8, 12])
          expect(ack(device, ControlClass.NOTF_COAL, command, ...new Array(bytes).fill(0))).toBe(ERR);
    });
  });

  it('data of a wrong length is refused by every command', () => {
    const device = agreedDevice();
    const right: [number, number, number][] = [
      [ControlClass.RX, ControlRx.PROMISC, 1],
      [ControlClass.MAC, ControlMac.ADDR_SET, 6],
      [ControlClass.VLAN, ControlVlan.ADD, 2],
      [ControlClass.ANNOUNCE, ControlAnnounce.ACK, 0],
      [ControlClass.MQ, ControlMq.VQ_PAIRS_SET, 2],
      [ControlClass.GUEST_OFFLOADS, ControlGuestOffloads.SET, 8],
      [ControlClass.NOTF_COAL, ControlNotfCoal.TX_SET, 8],
      [ControlClass.NOTF_COAL, ControlNotfCoal.RX_SET, 8],
      [ControlClass.NOTF_COAL, ControlNotfCoal.VQ_SET, 12],
      [ControlClass.NOTF_COAL, ControlNotfCoal.VQ_GET, 4],
    ];
    expectUnchanged(device, () => {
      for (const [controlClass, command, length] of right)
        for (let size = 0; size < 20; size++)
          if (size !== length)
            expect(ack(device, controlClass, command, ...new Array(size).fill(0))).toBe(ERR);
    });
  });

  it('a request beyond the limit is refused, one at the limit is looked at', () => {
    const device = agreedDevice();
    const entries = Math.floor((CONTROL_REQUEST_BYTES_MAX - 10) / 6);
    const tableOf = (count: number): Uint8Array => {
      const bytes = new Uint8Array(10 + count * 6).fill(2);
      bytes.set([ControlClass.MAC, ControlMac.TABLE_SET, ...u32(count)]);
      bytes.fill(0, bytes.length - 4);
      return bytes;
    };
    expect(executeControl(device, tableOf(entries)).ack).toBe(OK);
    expect(executeControl(device, tableOf(entries + 1)).ack).toBe(ERR);
  });

  it('no bytes at all make it throw or leave a state that cannot be saved and restored', () => {
    const device = agreedDevice();
    const head = fc.tuple(fc.integer({ min: 0, max: 8 }), fc.integer({ min: 0, max: 6 }));
    fc.assert(
      fc.property(head, fc.uint8Array({ maxLength: 64 }), ([controlClass, command], data) => {
        executeControl(device, request(controlClass, command, ...data));
        expect(agreedDevice([], PROFILE).restore(JSON.parse(JSON.stringify(device.save())))).toEqual([]);
      }),
      { numRuns: 1000 },
    );
  });
});

describe('control queue: notification coalescing', () => {
  const { TX_SET, RX_SET, VQ_SET, VQ_GET } = ControlNotfCoal;
  const set = (device: NetDevice, command: number, packets: number, usecs: number) =>
    ack(device, ControlClass.NOTF_COAL, command, ...u32(packets), ...u32(usecs));
  const setQueue = (device: NetDevice, queue: number, packets: number, usecs: number, reserved = 0) =>
    ack(
      device,
      ControlClass.NOTF_COAL,
      VQ_SET,
      ...u16(queue),
      ...u16(reserved),
      ...u32(packets),
      ...u32(usecs),
    );
  const get = (device: NetDevice, queue: number) =>
    executeControl(device, request(ControlClass.NOTF_COAL, VQ_GET, ...u16(queue), ...u16(0)));
  /** Packets and microseconds of every data queue. */
  const inForce = (device: NetDevice) =>
    Array.from({ length: 6 }, (_, queue) => {
      const { packets, usecs } = device.coalescing(queue);
      return [packets, usecs];
    });

  it('COAL-1 COAL-2 a class sets all its queues, a queue overrules its class until the class is set again', () => {
    const device = agreedDevice();
    expect(inForce(device)).toEqual(new Array(6).fill([0, 0]));
    expect(set(device, RX_SET, 15, 10)).toBe(OK);
    expect(setQueue(device, 2, 4, 7, 0xffff)).toBe(OK);
    expect(setQueue(device, 3, 9, 8)).toBe(OK);
    expect(inForce(device)).toEqual([
      [15, 10],
      [0, 0],
      [4, 7],
      [9, 8],
      [15, 10],
      [0, 0],
    ]);
    expect(set(device, TX_SET, 3, 2)).toBe(OK);
    expect(inForce(device)).toEqual([
      [15, 10],
      [3, 2],
      [4, 7],
      [3, 2],
      [15, 10],
      [3, 2],
    ]);
    expect(set(device, RX_SET, 1, 1)).toBe(OK);
    expect(device.coalescing(2)).toEqual({ packets: 1, usecs: 1 });
  });

  it('COAL-2 a queue that is reset has what its class has; all of it is gone with the device’s reset', () => {
    const device = agreedDevice();
    set(device, RX_SET, 15, 10);
    setQueue(device, 0, 4, 7);
    device.queueReset(0);
    expect(device.coalescing(0)).toEqual({ packets: 15, usecs: 10 });
    device.reset();
    device.acceptFeatures(device.offeredFeatures);
    expect(inForce(device)).toEqual(new Array(6).fill([0, 0]));
  });

  it('a queue is asked: packets, then microseconds, as its result', () => {
    const device = agreedDevice();
    setQueue(device, 4, 0x01020304, 0xffff_ffff);
    expect(get(device, 4)).toEqual({
      ack: OK,
      extra: Uint8Array.of(4, 3, 2, 1, 0xff, 0xff, 0xff, 0xff),
      changed: [],
    });
    expect(get(device, 0).extra).toEqual(new Uint8Array(8));
  });

  it('COAL-1 E10 the control queue, a queue that is not there, and one that is not enabled are refused', () => {
    const device = agreedDevice();
    expectUnchanged(device, () => {
      for (const queue of [6, 7, 0xffff]) {
        expect(setQueue(device, queue, 1, 1)).toBe(ERR);
        expect(get(device, queue)).toEqual({ ack: ERR, changed: [] });
      }
      const context = { isQueueEnabled: (queue: number) => queue !== 2 };
      const bytes = request(ControlClass.NOTF_COAL, VQ_SET, ...u16(2), ...u16(0), ...u32(1), ...u32(1));
      expect(executeControl(device, bytes, context).ack).toBe(ERR);
    });
  });

  it('each command needs its own feature', () => {
    const device = agreedDevice([NetFeature.NOTF_COAL]);
    expect([set(device, RX_SET, 1, 1), setQueue(device, 0, 1, 1)]).toEqual([ERR, OK]);
    const other = agreedDevice([NetFeature.VQ_NOTF_COAL]);
    expect([set(other, RX_SET, 1, 1), setQueue(other, 0, 1, 1)]).toEqual([OK, ERR]);
  });

  it('survives saving and restoring; a state of before there was any is taken', () => {
    const device = agreedDevice();
    set(device, TX_SET, 15, 10);
    setQueue(device, 4, 4, 0xffff_ffff);
    const saved = JSON.parse(JSON.stringify(device.save()));
    const other = agreedDevice();
    expect(other.restore(saved)).toEqual([]);
    expect(inForce(other)).toEqual(inForce(device));
    delete saved.control.coalescing;
    expect(other.restore(saved)).toEqual([]);
    expect(inForce(other)).toEqual(new Array(6).fill([0, 0]));
  });
});

describe('control queue: hashes', () => {
  const configure = (device: NetDevice, types: number, key: readonly number[], keyBytes = key.length) =>
    ack(
      device,
      ControlClass.MQ,
      ControlMq.HASH_CONFIG,
      ...u32(types),
      ...new Array(8).fill(0xff),
      keyBytes,
      ...key,
    );
  const KEY = Array.from({ length: HASH_KEY_BYTES_MAX }, (_, i) => i);

  it('CVQ-9 none is enabled at first; those that are set, and their key, are saved and restored', () => {
    const device = agreedDevice();
    expect(device.hashSettings()).toEqual({ types: 0, key: [] });
    expect(configure(device, HASH_TYPES, KEY)).toBe(OK);
    expect(device.hashSettings()).toEqual({ types: HASH_TYPES, key: KEY });
    const other = agreedDevice();
    expect(other.restore(JSON.parse(JSON.stringify(device.save())))).toEqual([]);
    expect(other.hashSettings()).toEqual(device.hashSettings());
    expect(configure(device, 0, [])).toBe(OK);
    expect(device.hashSettings()).toEqual({ types: 0, key: [] });
  });

  it('E7 types that are not supported, and keys that are too long or not as long as they say, are refused', () => {
    const device = agreedDevice([], { hashTypes: 3 });
    expectUnchanged(device, () => {
      expect(configure(device, 4, KEY)).toBe(ERR);
      expect(configure(device, 3, [...KEY, 1])).toBe(ERR);
      expect(configure(device, 3, KEY, 39)).toBe(ERR);
      expect(configure(device, 3, KEY.slice(1), 40)).toBe(ERR);
      for (let bytes = 0; bytes < 13; bytes++)
        expect(ack(device, ControlClass.MQ, ControlMq.HASH_CONFIG, ...new Array(bytes).fill(0))).toBe(ERR);
    });
    expect(configure(device, 3, KEY)).toBe(OK);
  });

  it('the configuration says what is supported; without the feature it says nothing', () => {
    const read = (device: NetDevice) => {
      const { rssMaxKeySize, supportedHashTypes } = NetConfig.decode(
        viewOf(device.readConfig(0, NetConfig.sizeBytes)),
      );
      return [rssMaxKeySize, supportedHashTypes];
    };
    expect(read(agreedDevice([], { hashTypes: 0x3f }))).toEqual([40, 0x3f]);
    const offered = (...without: number[]) => PROFILE.offeredFeatures & ~featureMask(without);
    const { HASH_REPORT, RSS } = NetFeature;
    for (const one of [HASH_REPORT, RSS])
      expect(read(agreedDevice([], { offeredFeatures: offered(one) }))).toEqual([40, HASH_TYPES]);
    const neither = { offeredFeatures: offered(HASH_REPORT, RSS) };
    expect(read(agreedDevice([], neither))).toEqual([0, 0]);
    expect(agreedDevice([NetFeature.HASH_REPORT]).hashSettings()).toBeNull();
  });
});
