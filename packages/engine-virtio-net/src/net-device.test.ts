import {
  ControlClass,
  ControlMac,
  ControlMq,
  ControlRx,
  ControlVlan,
  Duplex,
  featureMask,
  NetConfig,
  NetFeature,
  viewOf,
} from '@virtnet/wire';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { executeControl } from './control-queue.js';
import { hotplugFeatures, withoutOrphans } from './features.js';
import { NetDevice, type NetDeviceState } from './net-device.js';
import { profileProblems } from './net-profile.js';
import { agreedDevice, PROFILE, request, u16, u32, u64 } from './test-profile.fixture.js';

const config = (device: NetDevice) => NetConfig.decode(viewOf(device.readConfig(0, NetConfig.sizeBytes)));
const MAC = [0x0c, 0xc4, 0x7a, 0xff, 0x22, 0x93];

const NO_VLANS = new Uint16Array(0);

describe('network device: profile', () => {
  it('NET-1 refuses an MTU outside 68..65535 and queue pairs outside 1..32767, but for none at all', () => {
    for (const mtu of [68, 1280, 65_535]) expect(profileProblems({ ...PROFILE, mtu })).toEqual([]);
    for (const mtu of [0, 67, 65_536, 1500.5, Number.NaN])
      expect(profileProblems({ ...PROFILE, mtu })).toHaveLength(1);
    for (const maxQueuePairs of [-1, 32_768, 1.5])
      expect(profileProblems({ ...PROFILE, maxQueuePairs })).toHaveLength(1);
    for (const maxQueuePairs of [0, 32_767])
      expect(profileProblems({ ...PROFILE, maxQueuePairs })).toEqual([]);
  });

  it('refuses addresses no interface has, sizes that are no power of two, impossible speeds', () => {
    for (const mac of [
      '',
      'x',
      '0C:C4:7A:FF:22',
      '00:00:00:00:00:00',
      '01:00:5E:00:00:01',
      '0c-c4-7a-ff-22-93',
    ])
      expect(profileProblems({ ...PROFILE, mac })).toHaveLength(1);
    for (const maxQueueSize of [0, 3, 65_536])
      expect(profileProblems({ ...PROFILE, maxQueueSize })).toHaveLength(1);
    for (const speedMbps of [-1, 0x8000_0000])
      expect(profileProblems({ ...PROFILE, speedMbps })).toHaveLength(1);
    expect(() => new NetDevice({ ...PROFILE, mtu: 1 })).toThrow(RangeError);
  });
});

describe('network device: uplink', () => {
  const FAST = { up: true, speedMbps: 100_000 };
  const DOWN = { up: false, speedMbps: null };

  it('the link is up while operator and uplink both have it up', () => {
    const device = new NetDevice(PROFILE);
    expect([device.setUplink(DOWN), device.linkUp, config(device).status]).toEqual([true, false, 0]);
    expect([device.setUplink(DOWN), device.setLinkUp(false)]).toEqual([false, false]);
    expect([device.setUplink(FAST), device.linkUp]).toEqual([false, false]); // set down by the operator, it stays
    expect(device.linkWanted).toBe(false);
    expect([device.setLinkUp(true), device.linkUp]).toEqual([true, true]);
  });

  it('the speed is that of the uplink where the operator has set none', () => {
    const device = new NetDevice({ ...PROFILE, speedMbps: null });
    expect([device.setUplink(FAST), device.speedMbps]).toEqual([true, 100_000]);
    expect(config(device)).toMatchObject({ speed: 100_000, duplex: 1 });
    const fixed = new NetDevice(PROFILE);
    expect([fixed.setUplink(FAST), fixed.speedMbps]).toEqual([false, 25_000]);
  });

  it('a device that shows neither is not told', () => {
    const device = new NetDevice({ ...PROFILE, speedMbps: null, offeredFeatures: featureMask([32]) });
    expect([device.setUplink(DOWN), device.linkUp]).toEqual([false, false]);
  });

  it('is saved with the device, apart from the operator’s word; an older state knows of no uplink', () => {
    const device = new NetDevice({ ...PROFILE, speedMbps: null });
    device.setUplink({ up: false, speedMbps: 1000 });
    const saved = device.save();
    expect(saved).toMatchObject({ linkUp: true, uplink: { up: false, speedMbps: 1000 } });
    const heir = new NetDevice({ ...PROFILE, speedMbps: null });
    expect([heir.restore(saved), heir.uplink]).toEqual([[], { up: false, speedMbps: 1000 }]);
    const { uplink, ...older } = saved;
    expect([heir.restore(older), heir.uplink]).toEqual([[], { up: true, speedMbps: null }]);
    expect(heir.restore({ ...saved, shownSpeedMbps: -1 })).not.toEqual([]);
    for (const wrong of [null, 1, {}, { up: 1, speedMbps: null }, { up: true, speedMbps: -1 }])
      expect(heir.restore({ ...saved, uplink: wrong })).not.toEqual([]);
  });
});

describe('NET-3 §5.1.4.1 speed and duplex', () => {
  const SPEED_BOTH = [NetFeature.SPEED_DUPLEX, NetFeature.STATUS];
  const shown = (device: NetDevice) => {
    const { speed, duplex } = config(device);
    return [speed, duplex];
  };

  it('stay as they are while the link is up; the new ones are there before it comes up again', () => {
    const device = agreedDevice();
    expect([device.setSpeed(100_000), ...shown(device)]).toEqual([false, 25_000, Duplex.FULL]);
    expect(device.speedMbps).toBe(100_000);
    expect([device.setLinkUp(true), ...shown(device)]).toEqual([false, 25_000, Duplex.FULL]);
    expect([device.setLinkUp(false), ...shown(device)]).toEqual([true, 100_000, Duplex.FULL]);
    expect([device.setSpeed(40_000), ...shown(device)]).toEqual([true, 40_000, Duplex.FULL]);
    expect([device.setLinkUp(true), ...shown(device)]).toEqual([true, 40_000, Duplex.FULL]);
  });

  it('an uplink that is up with another speed changes neither, one that comes up brings its own', () => {
    const device = agreedDevice([], { speedMbps: null });
    expect(shown(device)).toEqual([0xffff_ffff, Duplex.UNKNOWN]);
    expect(device.setUplink({ up: true, speedMbps: 10_000 })).toBe(false);
    expect(shown(device)).toEqual([0xffff_ffff, Duplex.UNKNOWN]);
    device.setUplink({ up: false, speedMbps: null });
    expect(device.setUplink({ up: true, speedMbps: 10_000 })).toBe(true);
    expect(shown(device)).toEqual([10_000, Duplex.FULL]);
  });

  it.each(SPEED_BOTH)('change at once for a driver that did not agree on feature %i', (bit) => {
    const device = agreedDevice([bit]);
    expect([device.setSpeed(100_000), ...shown(device)]).toEqual([true, 100_000, Duplex.FULL]);
  });

  it('are the device’s again after a reset, and before there is a driver', () => {
    const device = new NetDevice(PROFILE);
    expect([device.setSpeed(1000), ...shown(device)]).toEqual([true, 1000, Duplex.FULL]);
    device.acceptFeatures(device.offeredFeatures);
    device.setSpeed(2500);
    expect(shown(device)).toEqual([1000, Duplex.FULL]);
    device.reset();
    expect(shown(device)).toEqual([2500, Duplex.FULL]);
  });

  it('a successor shows what its predecessor showed, or the speed when that did not say', () => {
    const device = agreedDevice();
    device.setSpeed(100_000);
    const saved = device.save();
    const heir = () => new NetDevice({ ...PROFILE, speedMbps: 100_000 });
    const [next, other] = [heir(), heir()];
    expect([next.restore(saved), ...shown(next)]).toEqual([[], 25_000, Duplex.FULL]);
    expect(next.setLinkUp(false)).toBe(true);
    expect(shown(next)).toEqual([100_000, Duplex.FULL]);
    const { shownSpeedMbps, ...older } = saved;
    expect([other.restore(older), ...shown(other)]).toEqual([[], 100_000, Duplex.FULL]);
  });

  it('whatever is set in whatever order, no reading changes between two readings of a link that is up', () => {
    const speeds = fc.constantFrom(1000, 25_000, 100_000);
    const step = fc.oneof(
      fc.record({ speed: speeds }),
      fc.record({ link: fc.boolean() }),
      fc.record({ uplink: fc.record({ up: fc.boolean(), speedMbps: fc.option(speeds) }) }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 20 }), fc.boolean(), (steps, known) => {
        const device = agreedDevice([], known ? {} : { speedMbps: null });
        for (const each of steps) {
          const before = [device.linkUp, ...shown(device)];
          const told =
            'speed' in each
              ? device.setSpeed(each.speed)
              : 'link' in each
                ? device.setLinkUp(each.link)
                : device.setUplink(each.uplink);
          const after = [device.linkUp, ...shown(device)];
          if (before[0] === true && after[0] === true) expect(after).toEqual(before);
          else expect(after[1]).toBe(device.speedMbps ?? 0xffff_ffff);
          expect(told).toBe(before.join() !== after.join());
        }
      }),
    );
  });
});

describe('network device: configuration', () => {
  it('BF-9 every field can be read before features are agreed on', () => {
    expect(config(new NetDevice(PROFILE))).toMatchObject({
      mac0: MAC[0],
      mac5: MAC[5],
      status: 1,
      maxVirtqueuePairs: 3,
      mtu: 1500,
      speed: 25_000,
      duplex: 1,
      rssMaxKeySize: 40,
    });
  });

  it('fields of features that are not offered read 0; an unknown speed is all ones', () => {
    const offeredFeatures = featureMask([32]);
    expect(new NetDevice({ ...PROFILE, offeredFeatures }).readConfig(0, 28)).toEqual(new Uint8Array(28));
    expect(config(new NetDevice({ ...PROFILE, speedMbps: null }))).toMatchObject({
      speed: 0xffff_ffff,
      duplex: 0xff,
    });
  });

  it('G13 reading in any width at any offset gives the same bytes, and 0 behind the end', () => {
    const device = new NetDevice(PROFILE);
    const whole = [...device.readConfig(0, 28), ...new Array(16).fill(0)];
    for (let at = 0; at < 32; at++)
      for (let width = 1; width <= 8; width++)
        expect([...device.readConfig(at, width)]).toEqual(whole.slice(at, at + width));
  });

  it('G11 writes of a modern driver change nothing', () => {
    const device = agreedDevice();
    for (let at = 0; at < 28; at++) expect(device.writeConfig(at, Uint8Array.of(0x55))).toBe(false);
    expect([...device.currentMac]).toEqual(MAC);
  });

  it('NET-14 the link shows in status; only a change is reported', () => {
    const device = agreedDevice();
    expect(device.setLinkUp(false)).toBe(true);
    expect(device.setLinkUp(false)).toBe(false);
    expect(config(device).status).toBe(0);
    device.reset();
    expect(device.linkUp).toBe(false);
    expect(device.setLinkUp(true)).toBe(true);
    const blind = new NetDevice({ ...PROFILE, offeredFeatures: featureMask([32]) });
    expect(blind.setLinkUp(false)).toBe(false);
  });

  it('H11 an announcement is asked for in status, only of a driver that agreed to it', () => {
    const device = agreedDevice();
    expect(device.announce()).toBe(true);
    expect(device.announce()).toBe(false);
    expect(config(device).status).toBe(3);
    device.reset();
    expect(config(device).status).toBe(1);
    expect(device.announce()).toBe(false);
  });
});

describe('network device: queues', () => {
  it('E15 with MQ or RSS the control queue is behind all pairs, without both it is queue 2', () => {
    const several = [
      'receive',
      'transmit',
      'receive',
      'transmit',
      'receive',
      'transmit',
      'control',
      'unused',
    ];
    const cases: [number[], number | null, string[]][] = [
      [[], 6, several],
      [[NetFeature.RSS], 6, several],
      [[NetFeature.MQ], 6, several],
      [
        [NetFeature.MQ, NetFeature.RSS],
        2,
        ['receive', 'transmit', 'control', 'unused', 'unused', 'unused', 'unused', 'unused'],
      ],
    ];
    for (const [without, index, roles] of cases) {
      const device = agreedDevice(without);
      expect(device.controlQueueIndex).toBe(index);
      expect(roles.map((_, queue) => device.roleOf(queue))).toEqual(roles);
    }
    const alone = new NetDevice(PROFILE);
    alone.acceptFeatures(featureMask([32]));
    expect(alone.controlQueueIndex).toBeNull();
    expect(alone.roleOf(2)).toBe('unused');
    expect(alone.roleOf(-1)).toBe('unused');
  });

  it('there are two queues a pair, and one more when a control queue is offered', () => {
    expect(new NetDevice(PROFILE).queueCount).toBe(7);
    const offeredFeatures = withoutOrphans(PROFILE.offeredFeatures & ~featureMask([NetFeature.CTRL_VQ]));
    expect(new NetDevice({ ...PROFILE, offeredFeatures }).queueCount).toBe(6);
  });

  it('without any pair there is no queue, and the state is saved and restored', () => {
    const none = new NetDevice({ ...PROFILE, maxQueuePairs: 0 });
    expect(none.queueCount).toBe(0);
    expect(none.restore(none.save())).toEqual([]);
  });

  it('CVQ-6 after agreement and after reset one pair is in use', () => {
    const device = agreedDevice();
    expect(device.activePairs).toBe(1);
    executeControl(device, request(ControlClass.MQ, ControlMq.VQ_PAIRS_SET, ...u16(3)));
    expect(device.activePairs).toBe(3);
    device.reset();
    expect(device.activePairs).toBe(1);
  });
});

describe('network device: filter', () => {
  it('without CTRL_RX and CTRL_VLAN nothing is filtered', () => {
    expect(
      agreedDevice([NetFeature.CTRL_RX, NetFeature.CTRL_RX_EXTRA, NetFeature.CTRL_VLAN]).filterState(),
    ).toBeNull();
    expect(new NetDevice(PROFILE).filterState()).toBeNull();
  });

  it('with CTRL_RX the device is promiscuous until the driver says otherwise', () => {
    expect(agreedDevice().filterState()).toMatchObject({
      promiscuous: true,
      allMulticast: false,
      vlans: NO_VLANS,
    });
    expect(agreedDevice([NetFeature.CTRL_VLAN]).filterState()?.vlans).toBeNull();
  });

  it('with CTRL_VLAN alone only VLANs are filtered', () => {
    expect(agreedDevice([NetFeature.CTRL_RX]).filterState()).toMatchObject({
      promiscuous: false,
      allUnicast: true,
      allMulticast: true,
      vlans: NO_VLANS,
    });
  });

  it('crosses to another thread as it is', () => {
    const device = agreedDevice();
    device.control = { ...device.control, vlans: new Set([4095, 7, 77]) };
    const state = device.filterState();
    expect(structuredClone(state)).toEqual(state);
    expect(state?.vlans).toEqual(Uint16Array.of(7, 77, 4095)); // no list: of all 4096 that takes far longer
  });
});

/** Commands that leave the device in any state a driver can bring it to. */
const commands = fc.array(
  fc.oneof(
    fc
      .tuple(fc.constantFrom(...Object.values(ControlRx)), fc.boolean())
      .map(([command, on]) => request(ControlClass.RX, command, on ? 1 : 0)),
    fc
      .tuple(fc.integer({ min: 0, max: 70 }), fc.integer({ min: 0, max: 70 }))
      .map(([unicast, multicast]) =>
        request(
          ControlClass.MAC,
          ControlMac.TABLE_SET,
          ...u32(unicast),
          ...Array.from({ length: unicast * 6 }, (_, i) => i & 0xfe),
          ...u32(multicast),
          ...Array.from({ length: multicast * 6 }, (_, i) => i | 1),
        ),
      ),
    fc
      .uint8Array({ minLength: 6, maxLength: 6 })
      .map((mac) => request(ControlClass.MAC, ControlMac.ADDR_SET, ...mac)),
    fc.integer({ min: 0, max: 5000 }).map((id) => request(ControlClass.VLAN, ControlVlan.ADD, ...u16(id))),
    fc
      .integer({ min: 0, max: 5 })
      .map((pairs) => request(ControlClass.MQ, ControlMq.VQ_PAIRS_SET, ...u16(pairs))),
    fc.bigInt({ min: 0n, max: 0x3ffn }).map((bits) => request(ControlClass.GUEST_OFFLOADS, 0, ...u64(bits))),
    fc.uint8Array({ maxLength: 40 }),
  ),
  { maxLength: 12 },
);

const json = (value: unknown): unknown => JSON.parse(JSON.stringify(value));

describe('network device: saved state', () => {
  it('E14 restore(save()) through JSON gives the same filters, offloads, pairs, link and configuration', () => {
    fc.assert(
      fc.property(commands, fc.boolean(), fc.boolean(), (list, up, announce) => {
        const one = agreedDevice();
        for (const bytes of list) executeControl(one, bytes);
        one.setLinkUp(up);
        if (announce) one.announce();
        const state = json(one.save());
        const two = new NetDevice(PROFILE);
        expect(two.restore(state)).toEqual([]);
        expect(json(two.save())).toEqual(state);
        expect(two.filterState()).toEqual(one.filterState());
        expect(two.readConfig(0, 28)).toEqual(one.readConfig(0, 28));
        expect([two.features, two.activePairs, two.receiveOffloads(), two.linkUp]).toEqual([
          one.features,
          one.activePairs,
          one.receiveOffloads(),
          one.linkUp,
        ]);
      }),
      { numRuns: 300 },
    );
  });

  it('a device no driver has touched round-trips as well', () => {
    const state = json(new NetDevice(PROFILE).save());
    const device = agreedDevice();
    expect(device.restore(state)).toEqual([]);
    expect(device.features).toBe(0n);
  });

  it('H7 anything at all is refused without a throw, and a refusal changes nothing', () => {
    const device = agreedDevice();
    const before = device.save();
    fc.assert(
      fc.property(fc.anything(), (state) => {
        expect(device.restore(state).length).toBeGreaterThan(0);
        expect(device.save()).toEqual(before);
      }),
      { numRuns: 500 },
    );
  });

  const RSS = { types: 1, key: [1], table: [0, 2], unclassified: 1 };

  it('RSS is restored where it is agreed on, and nowhere else; a state of before there was any is taken', () => {
    const state = json(agreedDevice().save()) as NetDeviceState;
    const steered = { ...state, control: { ...state.control, rss: RSS } };
    const device = agreedDevice();
    expect(device.restore(steered)).toEqual([]);
    expect(device.rssSettings()).toEqual(RSS);
    const without = `0x${(BigInt(state.features) & ~featureMask([NetFeature.RSS])).toString(16)}`;
    expect(device.restore({ ...steered, features: without })).toEqual(['rss: not agreed on']);
    const { rss: _, ...older } = state.control;
    expect(device.restore({ ...state, control: older })).toEqual([]);
    expect(device.rssSettings()).toBeNull();
  });

  it('H7 each field at a value it cannot have is refused with its name', () => {
    const good = json(agreedDevice().save()) as NetDeviceState;
    const control = (fields: object): object => ({ control: { ...good.control, ...fields } });
    const bad: readonly [string, object][] = [
      ['features', { features: '0xffffffffffffffff' }],
      ['features', { features: '0x100000080' }],
      ['linkUp', { linkUp: 1 }],
      [
        'announcing',
        { features: '0x100000000', announcing: true, ...control({ vlans: null, offloads: '0x0' }) },
      ],
      ['control', { control: [] }],
      ['mac', control({ mac: '01:00:00:00:00:00' })],
      ['mac', control({ mac: 5 })],
      ['modes.noUnicast', control({ modes: { ...good.control.modes, noUnicast: null } })],
      [
        'unicast.addresses',
        control({ unicast: { overflow: false, addresses: new Array(65).fill('02:00:00:00:00:01') } }),
      ],
      ['multicast.addresses[0]', control({ multicast: { overflow: false, addresses: ['zz'] } })],
      ['vlans', control({ vlans: null })],
      ['vlans[0]', control({ vlans: [4096] })],
      ['vlans', control({ vlans: new Array(5000).fill(1) })],
      ['activePairs', control({ activePairs: 4 })],
      ['activePairs', control({ activePairs: 0 })],
      ['offloads', control({ offloads: '0x400' })],
      ['coalescing', control({ coalescing: 1 })],
      ['rss', control({ rss: 1 })],
      ['rss.types', control({ rss: { ...RSS, types: 512 } })],
      ['rss.key', control({ rss: { ...RSS, key: new Array(41).fill(0) } })],
      ['rss.table', control({ rss: { ...RSS, table: [] } })],
      ['rss.table', control({ rss: { ...RSS, table: [0, 1, 2] } })],
      ['rss.table', control({ rss: { ...RSS, table: new Array(256).fill(0) } })],
      ['rss.table[1]', control({ rss: { ...RSS, table: [0, 3] } })],
      ['rss.unclassified', control({ rss: { ...RSS, unclassified: 3 } })],
      ['hash.types', control({ hash: { types: 512, key: [] } })],
      ['hash.key[0]', control({ hash: { types: 1, key: [256] } })],
      ['hash.key', control({ hash: { types: 1, key: new Array(41).fill(0) } })],
      ['coalescing.receive', control({ coalescing: { ...good.control.coalescing, receive: [1, -1] } })],
      ['coalescing.queues', control({ coalescing: { ...good.control.coalescing, queues: [[6, 1, 1]] } })],
    ];
    for (const [path, fields] of bad) {
      const device = new NetDevice(PROFILE);
      const problems = device.restore({ ...good, ...fields });
      expect([path, problems.some((problem) => problem.startsWith(path))]).toEqual([path, true]);
      expect(device.save()).toEqual(new NetDevice(PROFILE).save());
    }
    expect(new NetDevice(PROFILE).restore(good)).toEqual([]);
  });

  it('BF-6 U6 a state that needs more features than are offered now is refused', () => {
    const state = json(agreedDevice().save());
    const device = new NetDevice({ ...PROFILE, offeredFeatures: hotplugFeatures({ uso: false }) });
    expect(device.restore(state).join()).toContain('not offered');
  });
});
