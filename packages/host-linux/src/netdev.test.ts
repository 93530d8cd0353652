import { Errno } from '@virtnet/wire';
import { describe, expect, it } from 'vitest';
import { namespaceObstacle, runInNetworkNamespace } from './child.fixture.js';
import {
  getMac,
  getMtu,
  getSpeed,
  hasCarrier,
  ifIndex,
  interfaceExists,
  interfaceFlags,
  isUp,
  setMac,
  setMtu,
  setUp,
} from './netdev.js';
import { openDescriptorCount } from './process.js';

const obstacle = namespaceObstacle();
const ABSENT = 'no-such-netdev';

describe('network interface', () => {
  it('the loopback is there, up, of a known MTU and without speed', () => {
    expect(ifIndex('lo')).toBe(1);
    expect(interfaceExists('lo')).toBe(true);
    expect(getMtu('lo')).toBeGreaterThanOrEqual(1280);
    expect(getMac('lo')).toEqual(new Uint8Array(6));
    expect(getSpeed('lo')).toBeNull();
  });

  it('that is absent is -ENODEV, and everything about it is no', () => {
    expect(ifIndex(ABSENT)).toBe(-Errno.ENODEV);
    expect(interfaceExists(ABSENT)).toBe(false);
    expect(interfaceFlags(ABSENT)).toBe(-Errno.ENODEV);
    expect(getMtu(ABSENT)).toBe(-Errno.ENODEV);
    expect(setMtu(ABSENT, 1500)).toBe(-Errno.ENODEV);
    expect(getMac(ABSENT)).toBe(-Errno.ENODEV);
    expect(setUp(ABSENT, true)).toBe(-Errno.ENODEV);
    expect([isUp(ABSENT), hasCarrier(ABSENT), getSpeed(ABSENT)]).toEqual([false, false, null]);
  });

  it('names and values that cannot be are -EINVAL', () => {
    expect(ifIndex('x'.repeat(16))).toBe(-Errno.EINVAL);
    expect(setMtu('lo', -1)).toBe(-Errno.EINVAL);
    expect(setMtu('lo', 2 ** 31)).toBe(-Errno.EINVAL);
    expect(setMac('lo', new Uint8Array(5))).toBe(-Errno.EINVAL);
  });

  it('asking many times leaves no descriptor', () => {
    const before = openDescriptorCount();
    for (let i = 0; i < 200; i++) getMtu('lo');
    expect(openDescriptorCount()).toBe(before);
  });
});

describe.skipIf(obstacle !== null)(`own network interface${obstacle ? `: ${obstacle}` : ''}`, () => {
  it('takes MTU, MAC and state, and shows them', async () => {
    const end = await runInNetworkNamespace(`
      import * as host from '@virtnet/host-linux';
      const fds = host.openTap('tap0', { queues: 1 });
      const mac = new Uint8Array([2, 0x25, 0x4b, 0, 0, 0xfe]);
      const seen = [];
      seen.push(host.isUp('tap0'), host.setMac('tap0', mac), [...host.getMac('tap0')]);
      seen.push(host.setMtu('tap0', 9000), host.getMtu('tap0'), host.setMtu('tap0', 1e6) < 0, host.getMtu('tap0'));
      seen.push(host.setUp('tap0', true), host.isUp('tap0'), host.hasCarrier('tap0'));
      seen.push(host.setUp('tap0', false), host.isUp('tap0'));
      seen.push(host.getSpeed('tap0') > 0);
      console.log(JSON.stringify(seen));`);
    expect(end).toMatchObject({ code: 0, errors: '' });
    expect(JSON.parse(end.output)).toEqual([
      ...[false, 0, [2, 0x25, 0x4b, 0, 0, 0xfe]],
      ...[0, 9000, true, 9000],
      ...[0, true, true],
      ...[0, false],
      true,
    ]);
  });
});
