import { Errno, VhostUserRequest, viewOf } from '@virtnet/wire';
import { beforeEach, describe, expect, test } from 'vitest';
import { frontendPayload as payload } from './frontend.js';
import { faultOf, MIB, region, SessionFixture, USER } from './test-support/session-fixture.js';

const R = VhostUserRequest;

let t: SessionFixture;
beforeEach(() => {
  t = new SessionFixture();
});

describe('vhost-user session: memory', () => {
  const slot = (i: number) => ({
    guestAddress: 16n * MIB + BigInt(i) * MIB,
    sizeBytes: MIB,
    userAddress: USER + 1024n * MIB + BigInt(i) * MIB,
    mmapOffset: 0n,
  });

  test('a table sent again with one region more while rings run > only that one is mapped, nothing else stirs (A16)', async () => {
    await t.agree();
    await t.shareMemory();
    await t.startRing(0);
    const before = t.device.calls.length;
    const [again, more] = [t.fd(), t.fd()];
    t.files.set(again, 'ram');
    t.files.set(more, 'dimm');
    expect(
      await t.acknowledged(R.SET_MEM_TABLE, payload.memoryTable([region(0n), slot(0)]), [again, more]),
    ).toBe(0);
    expect(t.device.calls.slice(before)).toEqual([`mapRegion 0x${slot(0).guestAddress.toString(16)}`]);
    expect(t.open.has(again), 'the descriptor sent again').toBe(false);
    expect(t.open.has(more)).toBe(true);
  });

  test('the region a ring lives in gets another file > the ring stops, and starts again where it was', async () => {
    await t.agree();
    await t.shareMemory();
    await t.startRing(0);
    t.device.positions.set(0, 31);
    const other = t.fd();
    t.files.set(other, 'other ram');
    const before = t.device.calls.length;
    expect(await t.acknowledged(R.SET_MEM_TABLE, payload.memoryTable([region(0n)]), [other])).toBe(0);
    expect(t.device.calls.slice(before)).toEqual([
      'stopRing 0',
      'unmapRegion 0x0',
      'mapRegion 0x0',
      'startRing 0',
    ]);
    expect(t.device.running.get(0)!.base).toBe(31);
  });

  test('the region a ring lives in goes > the ring stops; when the region is back, it goes on', async () => {
    await t.agree();
    await t.acknowledged(R.ADD_MEM_REG, payload.singleRegion(region(0n)), [t.fd()]);
    await t.acknowledged(R.ADD_MEM_REG, payload.singleRegion(slot(0)), [t.fd()]);
    await t.startRing(0);
    t.device.positions.set(0, 8);
    expect(await t.acknowledged(R.REM_MEM_REG, payload.singleRegion(region(0n)))).toBe(0);
    expect(t.device.running.size).toBe(0);
    expect(await t.acknowledged(R.ADD_MEM_REG, payload.singleRegion(region(0n)), [t.fd()])).toBe(0);
    expect(t.device.running.get(0)!.base).toBe(8);
  });

  test('a region added once for each of three queue pairs > is mapped once, and unmapped with the third removal', async () => {
    await t.agree();
    const fds = [t.fd(), t.fd(), t.fd()];
    for (const fd of fds)
      expect(await t.acknowledged(R.ADD_MEM_REG, payload.singleRegion(region(0n)), [fd])).toBe(0);
    expect(t.device.calls).toEqual(['mapRegion 0x0']);
    expect(fds.filter((fd) => t.open.has(fd))).toEqual([fds[0]]);
    await t.startRing(0);
    const remove = () => t.acknowledged(R.REM_MEM_REG, payload.singleRegion(region(0n)));
    expect([await remove(), await remove()]).toEqual([0, 0]);
    expect(t.device.running.size).toBe(1);
    expect(await remove()).toBe(0);
    expect([t.device.running.size, t.device.regions.size]).toEqual([0, 0]);
    expect(await remove()).toBe(Errno.ENOENT);
  });

  test('a region over another, or the same range of another file > is refused, told and counted', async () => {
    await t.agree();
    await t.acknowledged(R.ADD_MEM_REG, payload.singleRegion(region(0n)), [t.fd()]);
    const other = t.fd();
    t.files.set(other, 'elsewhere');
    expect(await t.acknowledged(R.ADD_MEM_REG, payload.singleRegion(region(0n)), [other])).toBe(Errno.EEXIST);
    expect(t.declined).toEqual([[R.ADD_MEM_REG, Errno.EEXIST]]);
    expect(t.session.counters.refused).toBe(1);
    expect(t.open.has(other)).toBe(false);
  });

  test('a ring that cannot start again after memory changed > its error eventfd is signalled and the loss is told', async () => {
    await t.agree();
    await t.acknowledged(R.ADD_MEM_REG, payload.singleRegion(region(0n)), [t.fd()]);
    const errorFd = t.fd();
    await t.acknowledged(R.SET_VRING_ERR, payload.vringFd(0, true), [errorFd]);
    await t.startRing(0);
    t.signalled.length = 0;
    const other = t.fd();
    t.files.set(other, 'elsewhere');
    expect(await t.acknowledged(R.SET_MEM_TABLE, payload.memoryTable([slot(3)]), [other])).toBe(0);
    expect(t.lost).toEqual([0]);
    expect(t.signalled).toEqual([errorFd]);
  });

  test('ADD_MEM_REG with two descriptors or a short payload, REM_MEM_REG with one > refused, refused, closed (A12)', async () => {
    await t.agree();
    expect(faultOf(await t.say(R.ADD_MEM_REG, payload.singleRegion(slot(0)), [t.fd(), t.fd()]))).toBe(
      'DESCRIPTOR_COUNT',
    );
    expect(faultOf(await t.say(R.ADD_MEM_REG, new Uint8Array(8), [t.fd()]))).toBe('PAYLOAD_SIZE');
    expect(faultOf(await t.say(R.ADD_MEM_REG, payload.singleRegion(slot(0)), []))).toBe('DESCRIPTOR_COUNT');
    expect(t.open.size).toBe(0);
    for (let i = 0; i < 1000; i++) {
      expect(await t.acknowledged(R.ADD_MEM_REG, payload.singleRegion(slot(0)), [t.fd()])).toBe(0);
      expect(await t.acknowledged(R.REM_MEM_REG, payload.singleRegion(slot(0)), [t.fd()])).toBe(0);
    }
    expect(t.open.size).toBe(0);
    expect(await t.acknowledged(R.REM_MEM_REG, payload.singleRegion(slot(0)))).toBe(Errno.ENOENT);
  });

  test('ADD_MEM_REG > 40 bytes are right, 36 are not; the offset is read from the last eight (A13)', async () => {
    await t.agree();
    expect(faultOf(await t.say(R.ADD_MEM_REG, new Uint8Array(36), [t.fd()]))).toBe('PAYLOAD_SIZE');
    await t.acknowledged(R.ADD_MEM_REG, payload.singleRegion({ ...slot(0), mmapOffset: 0x1_2345_6000n }), [
      t.fd(),
    ]);
    expect([...t.device.regions][0]!.mmapOffset).toBe(0x1_2345_6000n);
  });

  test('SET_MEM_TABLE with fewer descriptors than regions, more regions than bytes, or overlaps > refused, all closed', async () => {
    await t.agree();
    const table = payload.memoryTable([region(0n), slot(0)]);
    expect(faultOf(await t.say(R.SET_MEM_TABLE, table, [t.fd()]))).toBe('DESCRIPTOR_COUNT');
    const lying = payload.memoryTable([region(0n)]);
    viewOf(lying).setUint32(0, 0xffff_ffff, true);
    expect(faultOf(await t.say(R.SET_MEM_TABLE, lying, [t.fd()]))).toBe('PAYLOAD_SIZE');
    expect(
      await t.acknowledged(R.SET_MEM_TABLE, payload.memoryTable([region(0n), region(0n)]), [t.fd(), t.fd()]),
    ).toBe(Errno.EEXIST);
    expect(t.open.size).toBe(0);
  });

  test('the device refuses a region > the frontend is told, and nothing stays open', async () => {
    await t.agree();
    t.device.failing.add('mapRegion');
    expect(await t.acknowledged(R.SET_MEM_TABLE, payload.memoryTable([region(0n)]), [t.fd()])).toBe(
      Errno.EIO,
    );
    expect(await t.acknowledged(R.ADD_MEM_REG, payload.singleRegion(slot(0)), [t.fd()])).toBe(Errno.EIO);
    expect(t.open.size).toBe(0);
  });

  test('509 slots > all fit, one more is refused with its descriptor closed (VU-12)', async () => {
    await t.agree();
    for (let i = 0; i < 509; i++)
      expect(await t.acknowledged(R.ADD_MEM_REG, payload.singleRegion(slot(i)), [t.fd()])).toBe(0);
    expect(await t.acknowledged(R.ADD_MEM_REG, payload.singleRegion(slot(509)), [t.fd()])).toBe(Errno.ENOSPC);
    expect(t.open.size).toBe(509);
  });
});
