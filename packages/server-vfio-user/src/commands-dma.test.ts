import { Errno, VfioUserCommand } from '@virtnet/wire';
import { describe, expect, it } from 'vitest';
import { bodyOf, negotiatedSession, verdict } from './ask.fixture.js';
import { concat, dmaMap, dmaMapBody, dmaUnmap, request } from './messages.fixture.js';

const U64_MAX = (1n << 64n) - 1n;

describe('DMA', () => {
  it('B5 a region larger than its file: the device says EINVAL › so does the reply; the range stays free', async () => {
    const { session, device } = negotiatedSession();
    device.refuseWith = Errno.EINVAL;
    expect(await session.handle(dmaMap(1, 0n, 4096n), [7])).toMatchObject({
      errno: Errno.EINVAL,
      takenFds: [],
    });
    device.refuseWith = 0;
    expect(await session.handle(dmaMap(2, 0n, 4096n), [8])).toMatchObject({ errno: 0, takenFds: [8] });
  });

  it('B6 the same range twice › EEXIST, the second descriptor is not taken, the first stays mapped', async () => {
    const { session, device } = negotiatedSession();
    await session.handle(dmaMap(1, 0x1000n, 0x2000n), [7]);
    expect(await session.handle(dmaMap(2, 0x2000n, 0x1000n), [8])).toMatchObject({
      errno: Errno.EEXIST,
      takenFds: [],
    });
    expect(device.calls).toEqual(['dmaMap(0x1000, 8192, fd+0, rw)']);
    expect(session.dmaRanges).toHaveLength(1);
  });

  it('B6 unmap of a part › EINVAL; of nothing › ENOENT; of all of it › ok, the entry comes back', async () => {
    const { session, device } = negotiatedSession();
    await session.handle(dmaMap(1, 0x1000n, 0x2000n));
    expect(await verdict(session.handle(dmaUnmap(2, 0x1000n, 0x1000n)))).toBe('EINVAL');
    expect(await verdict(session.handle(dmaUnmap(3, 0x8000n, 0x1000n)))).toBe('ENOENT');
    const message = dmaUnmap(4, 0x1000n, 0x2000n);
    const { body } = await bodyOf(session.handle(message));
    expect(body).toEqual(message.subarray(16));
    expect(device.calls).toEqual(['dmaMap(0x1000, 8192, no fd, rw)', 'dmaUnmap(0x1000, 8192)']);
  });

  it('B6 unmap while the device still uses the range › the reply and the free range come only when it lets go', async () => {
    const { session, device } = negotiatedSession();
    await session.handle(dmaMap(1, 0n, 4096n));
    let letGo = () => {};
    device.gate = new Promise((resolve) => {
      letGo = resolve;
    });
    let replied = false;
    const answer = Promise.resolve(session.handle(dmaUnmap(2, 0n, 4096n))).then((outcome) => {
      replied = true;
      return outcome;
    });
    await new Promise(setImmediate);
    expect([replied, session.dmaRanges.length]).toEqual([false, 1]);
    letGo();
    expect(await verdict(answer)).toBe('ok');
    expect(session.dmaRanges).toEqual([]);
  });

  it('an unmap the device refuses › the range stays mapped', async () => {
    const { session, device } = negotiatedSession();
    await session.handle(dmaMap(1, 0n, 4096n));
    device.refuseWith = Errno.EBUSY;
    expect(await verdict(session.handle(dmaUnmap(2, 0n, 4096n)))).toBe('EBUSY');
    expect(session.dmaRanges).toHaveLength(1);
  });

  it('unmap all › everything; with an address or a size › EINVAL', async () => {
    const { session, device } = negotiatedSession();
    for (let i = 0; i < 3; i++) await session.handle(dmaMap(i, BigInt(i) * 4096n, 4096n));
    expect(await verdict(session.handle(dmaUnmap(4, 0n, 4096n, 2)))).toBe('EINVAL');
    expect(await verdict(session.handle(dmaUnmap(5, 4096n, 0n, 2)))).toBe('EINVAL');
    expect(await verdict(session.handle(dmaUnmap(6, 0n, 0n, 2)))).toBe('ok');
    expect(device.calls.at(-1)).toBe('dmaUnmap(all)');
    expect(session.dmaRanges).toEqual([]);
  });

  it.each([
    ['the dirty bitmap', 1, 'EOPNOTSUPP'],
    ['all and the dirty bitmap', 3, 'EINVAL'],
    ['an unknown flag', 4, 'EINVAL'],
  ])('unmap with %s › refused', async (_, flags, expected) => {
    const { session } = negotiatedSession();
    expect(await verdict(session.handle(dmaUnmap(1, 0n, 4096n, flags)))).toBe(expected);
  });

  it.each([
    ['an unknown flag', dmaMapBody(0n, 4096n, 0n, 0x13)],
    ['a hint about a descriptor that is not there', dmaMapBody(0n, 4096n, 0n, 7)],
    ['size 0', dmaMapBody(0n, 0n)],
    ['a size past 2^53', dmaMapBody(0n, 1n << 60n)],
    ['an end past 2^64', dmaMapBody(U64_MAX - 4095n, 8192n)],
    ['a file offset past 2^53', dmaMapBody(0n, 4096n, U64_MAX)],
    ['argsz below 32', concat(Uint8Array.of(31, 0, 0, 0), dmaMapBody(0n, 4096n).subarray(4))],
  ])('map with %s › EINVAL, the device is not called', async (_, body) => {
    const { session, device } = negotiatedSession();
    expect(await verdict(session.handle(request(1, VfioUserCommand.DMA_MAP, body)))).toBe('EINVAL');
    expect(device.calls).toEqual([]);
  });

  it('B11 memory without a descriptor › handed to the device as such, read-only when it is', async () => {
    const { session, device } = negotiatedSession();
    const rom = request(1, VfioUserCommand.DMA_MAP, dmaMapBody(0xfffc0000n, 0x40000n, 0n, 1));
    expect(await session.handle(rom)).toMatchObject({ errno: 0, takenFds: [] });
    expect(device.calls).toEqual(['dmaMap(0xfffc0000, 262144, no fd, r)']);
  });
});
