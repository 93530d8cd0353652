import {
  Errno,
  featureMask,
  NetFeature,
  VhostFeature,
  VhostUserFlags,
  VhostUserProtocolFeature,
  VhostUserRequest,
  VhostUserU64,
  VirtioFeature,
  viewOf,
} from '@virtnet/wire';
import { beforeEach, describe, expect, test } from 'vitest';
import { frontendPayload as payload } from './frontend.js';
import { requestTable, ruleOf } from './requests.js';
import {
  faultOf,
  HEADER,
  MIB,
  region,
  replyOf,
  SessionFixture,
  u64Of,
} from './test-support/session-fixture.js';

const R = VhostUserRequest;
const P = VhostUserProtocolFeature;

let t: SessionFixture;
beforeEach(() => {
  t = new SessionFixture();
});

describe('vhost-user session: messages', () => {
  test('every request of the table > with one byte more than it can have is a fault, and its descriptors are closed', async () => {
    for (const request of Object.keys(requestTable).map(Number)) {
      t = new SessionFixture();
      await t.agree();
      expect(faultOf(await t.say(request, new Uint8Array(500), [t.fd()])), `request ${request}`).toBe(
        'PAYLOAD_SIZE',
      );
      expect(t.open.size).toBe(0);
    }
  });

  test('every request of the table > with eight descriptors too many is a fault, and all are closed (A1)', async () => {
    for (const request of Object.keys(requestTable).map(Number)) {
      const { payload: kind, fds: rule } = ruleOf(request)!;
      if (kind === 'memoryTable') continue;
      t = new SessionFixture();
      await t.agree();
      const bytes =
        kind === 'none'
          ? new Uint8Array()
          : new Uint8Array(kind.startsWith('vringAddress') || kind === 'singleRegion' ? 40 : 8);
      const fds = Array.from({ length: 8 }, () => t.fd());
      expect(faultOf(await t.say(request, bytes, fds)), `request ${request} (${rule})`).toBe(
        'DESCRIPTOR_COUNT',
      );
      expect(t.open.size).toBe(0);
    }
  });

  test('10,000 SET_VRING_NUM with eight descriptors each > every one refused, none left open (A1)', async () => {
    for (let i = 0; i < 10_000; i++) {
      const fds = Array.from({ length: 8 }, () => t.fd());
      expect(faultOf(await t.say(R.SET_VRING_NUM, payload.vringState(0, 256), fds))).toBe('DESCRIPTOR_COUNT');
    }
    expect(t.open.size).toBe(0);
  });

  test('requests of features never offered > are unknown: log (A7), in-flight (A9), configuration, IOTLB', async () => {
    for (const request of [
      R.SET_LOG_BASE,
      R.SET_LOG_FD,
      R.GET_INFLIGHT_FD,
      R.SET_INFLIGHT_FD,
      R.GET_CONFIG,
      R.IOTLB_MSG,
      0,
      41,
      999,
    ])
      expect(faultOf(await t.say(request, payload.u64(0), [t.fd()]))).toBe('UNKNOWN_REQUEST');
    expect(t.open.size).toBe(0);
  });

  test('a wrong version, a reply out of the blue, a request of a feature not agreed on > faults', async () => {
    const message = { request: R.GET_FEATURES, payload: new Uint8Array(), fds: [] };
    expect(faultOf(await t.session.handle({ ...message, flags: 2 }))).toBe('BAD_VERSION');
    expect(faultOf(await t.session.handle({ ...message, flags: 0 }))).toBe('BAD_VERSION');
    expect(faultOf(await t.say(R.GET_FEATURES, undefined, [], VhostUserFlags.REPLY))).toBe(
      'UNEXPECTED_REPLY',
    );
    for (const [request, bytes] of [
      [R.GET_QUEUE_NUM],
      [R.GET_MAX_MEM_SLOTS],
      [R.GET_STATUS],
      [R.RESET_DEVICE],
      [R.NET_SET_MTU, 8],
    ] as const)
      expect(faultOf(await t.say(request, new Uint8Array(bytes ?? 0)))).toBe('NOT_NEGOTIATED');
  });

  test('VU-1 (A11) > one acknowledgement when asked for, none when not, one reply to a question either way', async () => {
    await t.agree();
    expect(await t.say(R.SET_OWNER)).toEqual({ reply: null });
    expect(replyOf(await t.say(R.SET_OWNER, undefined, [], VhostUserFlags.NEED_REPLY)).length).toBe(
      HEADER + 8,
    );
    for (const flags of [0, VhostUserFlags.NEED_REPLY]) {
      const reply = replyOf(await t.say(R.GET_MAX_MEM_SLOTS, undefined, [], flags));
      expect(reply.length).toBe(HEADER + 8);
      expect(VhostUserU64.decode(viewOf(reply), HEADER).value).toBe(509n);
    }
    expect(await t.say(R.ADD_MEM_REG, payload.singleRegion(region(4n * MIB)), [t.fd()])).toEqual({
      reply: null,
    });
    expect(await t.acknowledged(R.ADD_MEM_REG, payload.singleRegion(region(8n * MIB)), [t.fd()])).toBe(0);
  });

  test('VU-1 > NEED_REPLY before REPLY_ACK was agreed on is not answered', async () => {
    expect(await t.say(R.SET_OWNER, undefined, [], VhostUserFlags.NEED_REPLY)).toEqual({ reply: null });
  });

  test('VU-2 > protocol features hold although SET_FEATURES left PROTOCOL_FEATURES out', async () => {
    await t.say(R.SET_PROTOCOL_FEATURES, payload.u64(featureMask([P.REPLY_ACK])));
    expect(await t.acknowledged(R.SET_FEATURES, payload.u64(featureMask([VirtioFeature.VERSION_1])))).toBe(0);
  });

  test('bits that were not offered > are refused, for features and protocol features', async () => {
    await t.agree();
    expect(await t.acknowledged(R.SET_FEATURES, payload.u64(featureMask([NetFeature.CTRL_VQ])))).toBe(
      Errno.EINVAL,
    );
    expect(await t.acknowledged(R.SET_FEATURES, payload.u64(featureMask([VhostFeature.LOG_ALL])))).toBe(
      Errno.EINVAL,
    );
    expect(await t.acknowledged(R.SET_PROTOCOL_FEATURES, payload.u64(featureMask([P.INFLIGHT_SHMFD])))).toBe(
      Errno.EINVAL,
    );
  });

  test('a refusal > is a negative acknowledgement when one was asked for, else the end, and counts', async () => {
    await t.agree();
    expect(await t.acknowledged(R.SET_VRING_NUM, payload.vringState(0, 3))).toBe(Errno.EINVAL);
    expect(faultOf(await t.say(R.SET_VRING_NUM, payload.vringState(0, 3)))).toBe('REFUSED');
    expect(t.session.counters.refused).toBe(2);
  });

  test('NET_SET_MTU > what the function can carry is granted, anything else is not', async () => {
    await t.agree();
    for (const [mtu, expected] of [
      [67, Errno.EINVAL],
      [68, 0],
      [1500, 0],
      [1501, Errno.EINVAL],
      [1n << 40n, Errno.EINVAL],
    ] as const)
      expect(await t.acknowledged(R.NET_SET_MTU, payload.u64(mtu))).toBe(expected);
  });

  test('GET_QUEUE_NUM > the data queues of the function', async () => {
    await t.agree();
    expect(u64Of(await t.say(R.GET_QUEUE_NUM))).toBe(4n);
  });
});

describe('vhost-user session: reset', () => {
  test('RESET_OWNER during traffic > rings stop where they are; features and memory stay (A15, VU-11)', async () => {
    await t.agree();
    await t.shareMemory();
    await t.startRing(0);
    t.device.positions.set(0, 50);
    expect(await t.acknowledged(R.RESET_OWNER)).toBe(0);
    expect(t.device.running.size).toBe(0);
    expect(t.device.regions.size).toBe(1);
    await t.acknowledged(R.SET_VRING_KICK, payload.vringFd(0, true), [t.fd()]);
    expect(t.device.running.get(0)!.base).toBe(50);
  });

  test('RESET_DEVICE > the device is reset, memory and protocol features stay, the rest has to be said again (VU-11)', async () => {
    await t.agree();
    await t.shareMemory();
    await t.startRing(0);
    expect(await t.acknowledged(R.RESET_DEVICE)).toBe(0);
    expect(t.device.calls.at(-1)).toBe('reset');
    expect(t.open.size, 'the memory').toBe(1);
    await t.acknowledged(R.SET_VRING_KICK, payload.vringFd(0, true), [t.fd()]);
    expect(t.device.running.size).toBe(0);
    await t.stopRing(0);
    await t.acknowledged(R.SET_FEATURES, payload.u64(featureMask([VirtioFeature.VERSION_1])));
    await t.startRing(0);
    expect(t.device.running.size).toBe(1);
  });

  test('SET_STATUS > is read back; 0 stops every ring', async () => {
    await t.agree();
    await t.shareMemory();
    await t.startRing(0);
    await t.say(R.SET_STATUS, payload.u64(0xf));
    expect(u64Of(await t.say(R.GET_STATUS))).toBe(0xfn);
    expect(t.device.running.size).toBe(1);
    await t.say(R.SET_STATUS, payload.u64(0));
    expect(t.device.running.size).toBe(0);
    expect(await t.acknowledged(R.SET_STATUS, payload.u64(256))).toBe(Errno.EINVAL);
  });

  test('the end of the connection > the device releases, then every descriptor is closed', async () => {
    await t.agree();
    await t.shareMemory();
    for (const index of [0, 1]) {
      await t.acknowledged(R.SET_VRING_CALL, payload.vringFd(index, true), [t.fd()]);
      await t.acknowledged(R.SET_VRING_ERR, payload.vringFd(index, true), [t.fd()]);
      await t.startRing(index);
    }
    expect(t.open.size).toBe(7);
    let openAtRelease = -1;
    t.device.gate = Promise.resolve().then(() => {
      openAtRelease = t.open.size;
    });
    await t.session.close();
    expect(t.device.calls.at(-1)).toBe('release');
    expect(openAtRelease).toBe(7);
    expect(t.open.size).toBe(0);
  });
});
