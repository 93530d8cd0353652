import {
  Errno,
  VfioPciRegion,
  VfioUserCommand,
  VfioUserRegionAccess,
  VfioUserWriteMulti,
  VfioUserWriteOne,
} from '@virtnet/wire';
import { describe, expect, it } from 'vitest';
import { bodyOf, negotiatedSession, verdict } from './ask.fixture.js';
import { DATA_TRANSFER_BYTES_MAX } from './limits.js';
import { concat, regionRead, regionWrite, request } from './messages.fixture.js';
import { BAR0_BYTES } from './recording-device.fixture.js';

const U64_MAX = (1n << 64n) - 1n;
const bytes = (length: number, value = 0) => new Uint8Array(length).fill(value);

describe('region access', () => {
  it('REGION_READ › what the device has, with offset, region and count', async () => {
    const { session, device } = negotiatedSession();
    device.regions.get(VfioPciRegion.CONFIG)?.set([0xf4, 0x1a, 0x41, 0x10]);
    const { view, body } = await bodyOf(session.handle(regionRead(1, VfioPciRegion.CONFIG, 0n, 256)));
    expect(VfioUserRegionAccess.decode(view)).toEqual({ offset: 0n, region: 7, count: 256 });
    expect(body).toHaveLength(16 + 256);
    expect(Array.from(body.subarray(16, 20))).toEqual([0xf4, 0x1a, 0x41, 0x10]);
  });

  it('REGION_WRITE › reaches the device; the reply repeats the access', async () => {
    const { session, device } = negotiatedSession();
    const { view, body } = await bodyOf(session.handle(regionWrite(1, 0, 0x14n, Uint8Array.of(0x0f))));
    expect(body).toHaveLength(16);
    expect(VfioUserRegionAccess.decode(view)).toEqual({ offset: 0x14n, region: 0, count: 1 });
    expect(device.calls).toEqual(['write(0, 20, 0f)']);
  });

  it.each([
    ['B2 offset + count past 2^64', 0, U64_MAX - 3n, 8],
    ['offset at 2^64 - 1', 0, U64_MAX, 1],
    ['offset past 2^53', 0, 1n << 60n, 4],
    ['one byte past the end', 0, BigInt(BAR0_BYTES) - 3n, 4],
    ['at the end', 0, BigInt(BAR0_BYTES), 1],
    ['a region of size 0', 5, 0n, 1],
    ['an unknown region', 9, 0n, 1],
    ['region 2^32 - 1', 0xffffffff, 0n, 1],
  ])('%s › EINVAL for read and write, the device is not called', async (_, region, offset, count) => {
    const { session, device } = negotiatedSession();
    expect(await verdict(session.handle(regionRead(1, region, offset, count)))).toBe('EINVAL');
    expect(await verdict(session.handle(regionWrite(2, region, offset, bytes(count))))).toBe('EINVAL');
    expect(device.calls).toEqual([]);
  });

  it('more data than announced at VERSION › EINVAL, even inside the region', async () => {
    const { session, device } = negotiatedSession();
    device.regions.set(0, bytes(DATA_TRANSFER_BYTES_MAX + 1));
    expect(await verdict(session.handle(regionRead(1, 0, 0n, DATA_TRANSFER_BYTES_MAX)))).toBe('ok');
    expect(await verdict(session.handle(regionRead(2, 0, 0n, DATA_TRANSFER_BYTES_MAX + 1)))).toBe('EINVAL');
  });

  it('a count that is not the length of the data › EINVAL', async () => {
    const { session } = negotiatedSession();
    expect(await verdict(session.handle(regionWrite(1, 0, 0n, bytes(4), { count: 3 })))).toBe('EINVAL');
    expect(await verdict(session.handle(regionWrite(1, 0, 0n, bytes(4), { count: 5 })))).toBe('EINVAL');
  });

  it('a posted write that the device refuses › no reply, but counted as an error', async () => {
    const { session, device } = negotiatedSession();
    device.refuseWith = Errno.EIO;
    const outcome = await session.handle(regionWrite(1, 0, 0n, bytes(4), { posted: true }));
    expect(outcome).toMatchObject({ reply: null, errno: Errno.EIO });
  });
});

describe('REGION_WRITE_MULTI', () => {
  const entry = (offset: bigint, count: number, data: bigint, region = 0) =>
    VfioUserWriteOne.bytes({ offset, region, count, data });
  const multi = (writeCount: bigint, ...entries: Uint8Array[]) =>
    request(
      1,
      VfioUserCommand.REGION_WRITE_MULTI,
      concat(VfioUserWriteMulti.bytes({ writeCount }), ...entries),
    );

  it('several writes › made in order, all counted', async () => {
    const { session, device } = negotiatedSession();
    const message = multi(3n, entry(0n, 1, 0xffn), entry(8n, 2, 0x1234n), entry(16n, 8, 0x1122334455667788n));
    const { view } = await bodyOf(session.handle(message));
    expect(VfioUserWriteMulti.decode(view).writeCount).toBe(3n);
    expect(device.calls).toEqual(['write(0, 0, ff)', 'write(0, 8, 3412)', 'write(0, 16, 8877665544332211)']);
  });

  it('a device that answers later › still in order', async () => {
    const { session, device } = negotiatedSession();
    device.gate = Promise.resolve();
    await session.handle(multi(2n, entry(0n, 1, 1n), entry(1n, 1, 2n)));
    expect(device.calls).toEqual(['write(0, 0, 01)', 'write(0, 1, 02)']);
  });

  it.each([
    ['fewer entries than counted', multi(2n, entry(0n, 1, 0n))],
    ['more entries than counted', multi(0n, entry(0n, 1, 0n))],
    ['half an entry', multi(1n, entry(0n, 1, 0n).subarray(0, 12))],
    ['a count of 2^64 - 1', multi(U64_MAX, entry(0n, 1, 0n))],
    ['nine bytes in one write', multi(1n, entry(0n, 9, 0n))],
    ['a bad second entry', multi(2n, entry(0n, 1, 0n), entry(BigInt(BAR0_BYTES), 1, 0n))],
  ])('%s › EINVAL, nothing written', async (_, message) => {
    const { session, device } = negotiatedSession();
    expect(await verdict(session.handle(message))).toBe('EINVAL');
    expect(device.calls).toEqual([]);
  });

  it('not agreed on in VERSION › EINVAL', async () => {
    const { session, device } = negotiatedSession({});
    expect(await verdict(session.handle(multi(1n, entry(0n, 1, 0n))))).toBe('EINVAL');
    expect(device.calls).toEqual([]);
  });

  it('the first write refused › its errno', async () => {
    const { session, device } = negotiatedSession();
    device.refuseWith = Errno.EIO;
    expect(await verdict(session.handle(multi(2n, entry(0n, 1, 0n), entry(1n, 1, 0n))))).toBe('EIO');
    expect(device.calls).toHaveLength(1);
  });
});
