import { DEFAULT_CONF } from '@virtnet/engine-control';
import { UPLINK_UNKNOWN, type UplinkState } from '@virtnet/engine-virtio-net';
import { describe, expect, it } from 'vitest';
import { readUplink, type UplinkFollower, UplinkMonitor } from './uplink-monitor.js';

class Follower implements UplinkFollower {
  readonly plan: { ibDevice: string };
  readonly told: UplinkState[] = [];
  constructor(ibDevice: string) {
    this.plan = { ibDevice };
  }
  followUplink(uplink: UplinkState): void {
    this.told.push(uplink);
  }
}

const DOWN: UplinkState = { up: false, speedMbps: null };
const FAST: UplinkState = { up: true, speedMbps: 25_000 };

describe('uplink monitor', () => {
  it('tells each device the state of the network device behind its own uplink', () => {
    const devices = [new Follower('mlx5_0'), new Follower('mlx5_1')];
    const conf = {
      ...DEFAULT_CONF,
      software: { ...DEFAULT_CONF.software, uplinks: { mlx5_0: 'eth7', mlx5_1: 'p1', mlx5_bond_0: 'bond0' } },
    };
    const monitor = new UplinkMonitor(
      conf,
      () => devices,
      (name) => (name === 'eth7' ? DOWN : FAST),
    );
    monitor.look();
    expect(devices.map(({ told }) => told)).toEqual([[DOWN], [FAST]]);
  });

  it('with LAG looks at the bond alone; a device on an uplink that is no more is told nothing is known', () => {
    const devices = [new Follower('mlx5_bond_0'), new Follower('mlx5_0')];
    const asked: string[] = [];
    const monitor = new UplinkMonitor(
      { ...DEFAULT_CONF, is_lag: 1 },
      () => devices,
      (name) => {
        asked.push(name);
        return DOWN;
      },
    );
    monitor.look();
    expect(asked).toEqual(['bond0']);
    expect(devices.map(({ told }) => told)).toEqual([[DOWN], [UPLINK_UNKNOWN]]);
  });

  it('a new device is told at once while uplinks are followed, and not before or after', () => {
    const monitor = new UplinkMonitor(
      DEFAULT_CONF,
      () => [],
      () => DOWN,
    );
    const device = new Follower('mlx5_0');
    monitor.joined(device);
    expect(device.told).toEqual([]);
    monitor.start();
    monitor.joined(device);
    expect(device.told).toEqual([DOWN]);
    monitor.stop();
    monitor.joined(device);
    expect(device.told).toEqual([DOWN]);
  });

  it('tells everyone of a change of state or speed at once, and else at every eighth look only', () => {
    const device = new Follower('mlx5_0');
    let state = DOWN;
    const monitor = new UplinkMonitor(
      DEFAULT_CONF,
      () => [device],
      () => state,
    );
    const slow: UplinkState = { up: true, speedMbps: 10_000 };
    const toldAfter = (looks: number): readonly UplinkState[] => {
      device.told.length = 0;
      for (let i = 0; i < looks; i++) monitor.look();
      return [...device.told];
    };
    expect(toldAfter(8)).toEqual([DOWN]);
    state = FAST;
    expect(toldAfter(2)).toEqual([FAST]); // the ninth look
    state = slow;
    expect(toldAfter(7)).toEqual([slow, slow]); // because it changed, and the seventeenth look
    state = { ...slow };
    expect(toldAfter(7)).toEqual([]);
    expect(toldAfter(1)).toEqual([slow]);
  });

  it('a network device that does not exist is up, without a speed', () => {
    expect(readUplink('no-such-device')).toEqual(UPLINK_UNKNOWN);
    expect(readUplink('a name no device can have')).toEqual(UPLINK_UNKNOWN);
  });
});
