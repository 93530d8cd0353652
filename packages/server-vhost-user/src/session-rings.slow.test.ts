import { Errno, featureMask, NetFeature, VhostUserRequest, VirtioFeature } from '@virtnet/wire';
import { beforeEach, describe, expect, test } from 'vitest';
import { frontendPayload as payload } from './frontend.js';
import {
  faultOf,
  MIB,
  NO_EVENTFD,
  ringAddresses,
  SessionFixture,
  USER,
} from './test-support/session-fixture.js';

const R = VhostUserRequest;

let t: SessionFixture;
beforeEach(() => {
  t = new SessionFixture();
});

describe('vhost-user session: rings', () => {
  test('VU-3 > a ring starts with its kick and stops with GET_VRING_BASE, which tells where', async () => {
    await t.agree();
    await t.shareMemory();
    await t.describeRing(0, 7);
    expect(t.device.running.has(0)).toBe(false);
    await t.acknowledged(R.SET_VRING_KICK, payload.vringFd(0, true), [t.fd()]);
    expect(t.device.running.get(0)).toMatchObject({
      size: 256,
      base: 7,
      descriptorAddress: 0n,
      driverAddress: 0x2000n,
      deviceAddress: 0x4000n,
    });
    t.device.positions.set(0, 1234);
    expect(await t.stopRing(0)).toBe(1234);
    expect(t.device.running.size).toBe(0);
    expect(await t.stopRing(0), 'asked again').toBe(1234);
  });

  test('a start > is followed by a signal on the kick eventfd, for a kick older than the start', async () => {
    await t.agree();
    await t.shareMemory();
    await t.startRing(0);
    expect(t.signalled).toEqual([t.device.running.get(0)!.kickFd]);
  });

  test('after GET_VRING_BASE > the ring waits for a new kick, then goes on from its base', async () => {
    await t.agree();
    await t.shareMemory();
    await t.startRing(0);
    t.device.positions.set(0, 99);
    await t.stopRing(0);
    await t.describeRing(0, 99);
    expect(t.device.running.has(0)).toBe(false);
    await t.acknowledged(R.SET_VRING_KICK, payload.vringFd(0, true), [t.fd()]);
    expect(t.device.running.get(0)!.base).toBe(99);
  });

  test('VU-4 > with PROTOCOL_FEATURES a ring starts disabled, without it enabled', async () => {
    await t.agree();
    await t.shareMemory();
    await t.startRing(0);
    expect(t.device.running.get(0)!.enabled).toBe(false);
    t = new SessionFixture();
    await t.agree(featureMask([VirtioFeature.VERSION_1]));
    await t.shareMemory();
    await t.startRing(0);
    expect(t.device.running.get(0)!.enabled).toBe(true);
  });

  test('VU-5 > ENABLE before the start is remembered, during the run it is passed on, and never stops the ring', async () => {
    await t.say(R.SET_VRING_ENABLE, payload.vringState(0, 1)); // QEMU sends it before SET_FEATURES
    await t.agree();
    await t.shareMemory();
    await t.startRing(0);
    expect(t.device.running.get(0)!.enabled).toBe(true);
    expect(await t.acknowledged(R.SET_VRING_ENABLE, payload.vringState(0, 0))).toBe(0);
    expect(t.device.calls.at(-1)).toBe('setRingEnabled 0 false');
    expect(t.device.running.has(0)).toBe(true);
    expect(await t.acknowledged(R.SET_VRING_ENABLE, payload.vringState(0, 2))).toBe(Errno.EINVAL);
  });

  test('SET_VRING_ENABLE(0) before GET_VRING_BASE > the base is where the ring stopped (A14)', async () => {
    await t.agree();
    await t.shareMemory();
    await t.startRing(0);
    await t.say(R.SET_VRING_ENABLE, payload.vringState(0, 0));
    t.device.positions.set(0, 4711);
    expect(await t.stopRing(0)).toBe(4711);
  });

  test('VU-6 > the base of a packed ring is 32 bits, both positions and wraps', async () => {
    await t.agree(t.device.profile.features);
    await t.shareMemory();
    await t.startRing(0, 0x8005_8003 | 0);
    expect(t.device.running.get(0)).toMatchObject({ packed: true, base: 0x8005_8003 });
    t.device.positions.set(0, 0xffff_8000);
    expect(await t.stopRing(0)).toBe(0xffff_8000);
  });

  test('a base beyond 16 bits of a split ring > is refused', async () => {
    await t.agree();
    expect(await t.acknowledged(R.SET_VRING_BASE, payload.vringState(0, 0x10000))).toBe(Errno.EINVAL);
  });

  test('queue sizes > 0, 3, 65536 and more than the function has are refused; 3 is right when packed (A5)', async () => {
    await t.agree();
    for (const size of [0, 3, 65536, 2048, 0xffff_ffff])
      expect(await t.acknowledged(R.SET_VRING_NUM, payload.vringState(0, size)), `${size}`).toBe(
        Errno.EINVAL,
      );
    expect(await t.acknowledged(R.SET_VRING_NUM, payload.vringState(0, 1024))).toBe(0);
    t = new SessionFixture();
    await t.agree(t.device.profile.features);
    expect(await t.acknowledged(R.SET_VRING_NUM, payload.vringState(0, 3))).toBe(0);
  });

  test('ring indices beyond the queues, also by 65536 > are refused and rings 0 and 1 are untouched (A6)', async () => {
    await t.agree();
    await t.shareMemory();
    await t.startRing(0);
    await t.startRing(1);
    const before = [...t.device.calls];
    for (const index of [4, 255, 0x10000, 0x10001, 0xffff_ffff]) {
      expect(
        await t.acknowledged(R.SET_VRING_ADDR, payload.vringAddress({ ...ringAddresses(0), index })),
      ).toBe(Errno.EINVAL);
      for (const request of [R.SET_VRING_NUM, R.SET_VRING_BASE, R.SET_VRING_ENABLE])
        expect(await t.acknowledged(request, payload.vringState(index, 1))).toBe(Errno.EINVAL);
      expect(faultOf(await t.say(R.GET_VRING_BASE, payload.vringState(index, 0)))).toBe('REFUSED');
    }
    expect(await t.acknowledged(R.SET_VRING_KICK, payload.vringFd(4, true), [t.fd()])).toBe(Errno.EINVAL);
    expect(t.device.calls).toEqual(before);
    expect(t.open.size).toBe(3);
  });

  test('a million sizes for one ring > nothing is kept of them (A4)', async () => {
    await t.agree();
    const [a, b] = [payload.vringState(0, 256), payload.vringState(0, 512)];
    for (let i = 0; i < 50_000; i++) await t.say(R.SET_VRING_NUM, i % 2 === 0 ? a : b);
    globalThis.gc?.();
    const before = process.memoryUsage().heapUsed;
    for (let i = 0; i < 950_000; i++) await t.say(R.SET_VRING_NUM, i % 2 === 0 ? a : b);
    globalThis.gc?.();
    expect(process.memoryUsage().heapUsed - before).toBeLessThan(32 * 1024 * 1024);
  });

  test('parts that are unaligned, outside memory, or run past its end > the ring does not start', async () => {
    await t.agree();
    await t.shareMemory();
    const good = ringAddresses(0);
    const end = USER + MIB;
    for (const [bad, errno] of [
      [{ ...good, descriptor: good.descriptor + 8n }, Errno.EINVAL],
      [{ ...good, available: good.available + 1n }, Errno.EINVAL],
      [{ ...good, used: good.used + 2n }, Errno.EINVAL],
      [{ ...good, descriptor: 0n }, Errno.EFAULT],
      [{ ...good, used: end - 8n }, Errno.EFAULT],
      [{ ...good, available: (1n << 64n) - 2n }, Errno.EFAULT],
    ] as const) {
      await t.acknowledged(R.SET_VRING_NUM, payload.vringState(0, 256));
      await t.acknowledged(R.SET_VRING_ADDR, payload.vringAddress(bad));
      expect(await t.acknowledged(R.SET_VRING_KICK, payload.vringFd(0, true), [t.fd()])).toBe(errno);
      await t.stopRing(0);
    }
    expect(t.device.running.size).toBe(0);
  });

  test('a running ring > its size, base and place stay; saying the same again is no change', async () => {
    await t.agree();
    await t.shareMemory();
    await t.startRing(0);
    expect(await t.acknowledged(R.SET_VRING_NUM, payload.vringState(0, 512))).toBe(Errno.EBUSY);
    expect(await t.acknowledged(R.SET_VRING_NUM, payload.vringState(0, 256))).toBe(0);
    expect(await t.acknowledged(R.SET_VRING_BASE, payload.vringState(0, 5))).toBe(Errno.EBUSY);
    expect(await t.acknowledged(R.SET_VRING_ADDR, payload.vringAddress(ringAddresses(1)))).toBe(0);
    expect(
      await t.acknowledged(R.SET_VRING_ADDR, payload.vringAddress({ ...ringAddresses(1), index: 0 })),
    ).toBe(Errno.EBUSY);
    expect(await t.acknowledged(R.SET_VRING_ADDR, payload.vringAddress(ringAddresses(0)))).toBe(0);
    expect(await t.acknowledged(R.SET_FEATURES, payload.u64(featureMask([VirtioFeature.VERSION_1])))).toBe(
      Errno.EBUSY,
    );
  });

  test('a ring address with the log flag > is refused, logging is not offered', async () => {
    await t.agree();
    expect(
      await t.acknowledged(R.SET_VRING_ADDR, payload.vringAddress({ ...ringAddresses(0), flags: 1 })),
    ).toBe(Errno.EINVAL);
  });

  test('SET_VRING_CALL on a running ring > the device is told, the new eventfd signalled once, the old one closed', async () => {
    await t.agree();
    await t.shareMemory();
    const first = t.fd();
    await t.acknowledged(R.SET_VRING_CALL, payload.vringFd(0, true), [first]);
    await t.startRing(0);
    expect(t.device.running.get(0)!.callFd).toBe(first);
    t.signalled.length = 0;
    const second = t.fd();
    await t.acknowledged(R.SET_VRING_CALL, payload.vringFd(0, true), [second]);
    expect(t.device.calls.at(-1)).toBe('setRingCall 0 fd');
    expect(t.signalled).toEqual([second]);
    expect(t.open.has(first)).toBe(false);
  });

  test('SET_VRING_CALL without a descriptor > the device signals nobody (A18)', async () => {
    await t.agree();
    await t.shareMemory();
    await t.acknowledged(R.SET_VRING_CALL, payload.vringFd(0, false), []);
    await t.startRing(0);
    expect(t.device.running.get(0)!.callFd).toBeNull();
    await t.acknowledged(R.SET_VRING_CALL, payload.vringFd(0, true), [t.fd()]);
    await t.acknowledged(R.SET_VRING_CALL, payload.vringFd(0, false), []);
    expect(t.device.calls.at(-1)).toBe('setRingCall 0 none');
  });

  test('SET_VRING_KICK without a descriptor > the ring starts and is to be polled', async () => {
    await t.agree();
    await t.shareMemory();
    await t.describeRing(0);
    await t.acknowledged(R.SET_VRING_KICK, payload.vringFd(0, false), []);
    expect(t.device.running.get(0)!.kickFd).toBeNull();
  });

  test('a descriptor announced and not sent, sent and not announced, or no eventfd > refused and closed', async () => {
    await t.agree();
    expect(faultOf(await t.say(R.SET_VRING_KICK, payload.vringFd(0, true), []))).toBe('DESCRIPTOR_COUNT');
    expect(faultOf(await t.say(R.SET_VRING_CALL, payload.vringFd(0, false), [t.fd()]))).toBe(
      'DESCRIPTOR_COUNT',
    );
    for (const request of [R.SET_VRING_KICK, R.SET_VRING_CALL, R.SET_VRING_ERR]) {
      t.open.add(NO_EVENTFD);
      expect(await t.acknowledged(request, payload.vringFd(0, true), [NO_EVENTFD])).toBe(Errno.EINVAL);
    }
    expect(t.open.size).toBe(0);
  });

  test('the device fails to start the ring > the refusal reaches the frontend, and a later kick tries again', async () => {
    await t.agree();
    await t.shareMemory();
    await t.describeRing(0);
    t.device.failing.add('startRing');
    expect(await t.acknowledged(R.SET_VRING_KICK, payload.vringFd(0, true), [t.fd()])).toBe(Errno.EIO);
    t.device.failing.clear();
    expect(await t.acknowledged(R.SET_VRING_KICK, payload.vringFd(0, true), [t.fd()])).toBe(0);
    expect(t.device.running.has(0)).toBe(true);
  });

  test('features without what the function requires > no ring starts', async () => {
    t = new SessionFixture({ requiredFeatures: featureMask([VirtioFeature.VERSION_1]) });
    await t.agree(featureMask([NetFeature.MRG_RXBUF]));
    await t.shareMemory();
    await t.describeRing(0);
    expect(await t.acknowledged(R.SET_VRING_KICK, payload.vringFd(0, true), [t.fd()])).toBe(Errno.EOPNOTSUPP);
  });
});
