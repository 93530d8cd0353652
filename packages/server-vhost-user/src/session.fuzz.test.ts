/** Any messages whatsoever: the session answers or ends, and never loses count of descriptors, regions or rings. */
import { VhostUserRequest } from '@virtnet/wire';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { frontendPayload as payload } from './frontend.js';
import { MIB, region, ringAddresses, SessionFixture } from './test-support/session-fixture.js';

const R = VhostUserRequest;
const requests = Object.values(R);

/** An index, mostly of a ring that exists. */
const index = fc.oneof({ weight: 8, arbitrary: fc.nat(3) }, fc.nat());
const address = fc.oneof(
  fc.nat(20).map((slot) => BigInt(slot) * MIB),
  fc.bigInt(0n, (1n << 64n) - 1n),
);
const description = address.map((guestAddress) => ({ ...region(0n), guestAddress }));

/** A payload that suits `request` more often than not. */
const payloadFor = (request: number): fc.Arbitrary<Uint8Array> => {
  switch (request) {
    case R.SET_MEM_TABLE:
      return fc.array(description, { maxLength: 8 }).map((regions) => payload.memoryTable(regions));
    case R.ADD_MEM_REG:
    case R.REM_MEM_REG:
      return description.map((one) => payload.singleRegion(one));
    case R.SET_VRING_ADDR:
      return fc
        .tuple(index, fc.nat(3))
        .map(([i, place]) => payload.vringAddress({ ...ringAddresses(place), index: i }));
    case R.SET_VRING_KICK:
    case R.SET_VRING_CALL:
    case R.SET_VRING_ERR:
      return fc.tuple(fc.nat(5), fc.boolean()).map(([i, hasFd]) => payload.vringFd(i, hasFd));
    case R.SET_FEATURES:
    case R.SET_PROTOCOL_FEATURES:
    case R.SET_STATUS:
    case R.NET_SET_MTU:
      return fc.bigInt(0n, (1n << 64n) - 1n).map((value) => payload.u64(value));
    case R.SET_VRING_NUM:
      return fc.tuple(index, fc.constantFrom(256, 16, 3, 0)).map(([i, size]) => payload.vringState(i, size));
    case R.SET_VRING_BASE:
    case R.GET_VRING_BASE:
    case R.SET_VRING_ENABLE:
      return fc.tuple(index, fc.nat(2)).map(([i, value]) => payload.vringState(i, value));
    default:
      return fc.constant(new Uint8Array());
  }
};

const message = fc.oneof({ weight: 20, arbitrary: fc.constantFrom(...requests) }, fc.nat()).chain((request) =>
  fc.record({
    request: fc.constant(request),
    flags: fc.oneof({ weight: 20, arbitrary: fc.constantFrom(1, 9) }, fc.nat(15)),
    payload: fc.oneof({ weight: 20, arbitrary: payloadFor(request) }, fc.uint8Array({ maxLength: 300 })),
    fds: fc.oneof({ weight: 3, arbitrary: fc.nat(1) }, fc.nat(8)),
  }),
);

describe('vhost-user session under any messages', () => {
  test('never throws, closes each descriptor once, and the device knows what the session knows', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(message, { maxLength: 60 }), async (messages) => {
        const t = new SessionFixture();
        await t.agree();
        await t.shareMemory();
        await t.startRing(0);
        for (const { request, flags, payload: bytes, fds } of messages) {
          const sent = Array.from({ length: fds }, () => t.fd());
          await t.session.handle({ request, flags, payload: bytes, fds: sent });
          for (const { fd } of t.device.regions) expect(t.open.has(fd)).toBe(true);
          for (const { kickFd, callFd } of t.device.running.values())
            for (const fd of [kickFd, callFd]) expect(fd === null || t.open.has(fd)).toBe(true);
        }
        await t.session.close();
        expect(t.open.size).toBe(0);
      }),
      { numRuns: 300 },
    );
  });
});
