import {
  VfioPciIrq,
  VfioPciRegion,
  VfioUserCommand,
  VfioUserDeviceInfo,
  VfioUserIoEventFd,
  VfioUserIrqInfo,
  VfioUserRegionInfo,
  VfioUserRegionIoFds,
  VfioUserSparseArea,
  VfioUserSparseMmap,
} from '@virtnet/wire';
import { describe, expect, it } from 'vitest';
import { bodyOf, negotiatedSession, verdict } from './ask.fixture.js';
import { getInfo, request } from './messages.fixture.js';
import { CONFIG_BYTES, MSIX_VECTORS } from './recording-device.fixture.js';

describe('what the device is made of', () => {
  const regionInfo = (index: number, argsz = 32) =>
    request(
      1,
      VfioUserCommand.DEVICE_GET_REGION_INFO,
      VfioUserRegionInfo.bytes({
        argsz,
        flags: 0,
        index,
        capabilityOffset: 0,
        sizeBytes: 0n,
        mmapOffset: 0n,
      }),
    );

  it('DEVICE_GET_INFO › PCI, resettable, its counts; argsz below 16 is EINVAL', async () => {
    const { session } = negotiatedSession();
    const { view } = await bodyOf(session.handle(getInfo(1)));
    expect(VfioUserDeviceInfo.decode(view)).toEqual({ argsz: 16, flags: 3, regionCount: 9, irqTypeCount: 5 });
    const short = VfioUserDeviceInfo.bytes({ argsz: 15, flags: 0, regionCount: 0, irqTypeCount: 0 });
    expect(await verdict(session.handle(request(1, VfioUserCommand.DEVICE_GET_INFO, short)))).toBe('EINVAL');
  });

  it('a region without mapping › 32 bytes, no capabilities, no descriptor', async () => {
    const { session } = negotiatedSession();
    const outcome = await session.handle(regionInfo(VfioPciRegion.CONFIG, 1000));
    expect(outcome.replyFds).toEqual([]);
    const { view, body } = await bodyOf(outcome);
    expect(body).toHaveLength(32);
    expect(VfioUserRegionInfo.decode(view)).toEqual({
      argsz: 32,
      flags: 3,
      index: VfioPciRegion.CONFIG,
      capabilityOffset: 0,
      sizeBytes: BigInt(CONFIG_BYTES),
      mmapOffset: 0n,
    });
  });

  it('a region that does not exist › size 0; an index past the last, or argsz below 32 › EINVAL', async () => {
    const { session } = negotiatedSession();
    const { view } = await bodyOf(session.handle(regionInfo(VfioPciRegion.BAR5)));
    expect(VfioUserRegionInfo.decode(view)).toMatchObject({ flags: 0, sizeBytes: 0n });
    expect(await verdict(session.handle(regionInfo(9)))).toBe('EINVAL');
    expect(await verdict(session.handle(regionInfo(0xffffffff)))).toBe('EINVAL');
    expect(await verdict(session.handle(regionInfo(0, 31)))).toBe('EINVAL');
  });

  it('a mappable region › the short first reply tells size and offset of its capabilities, the second has them', async () => {
    const { session, device } = negotiatedSession();
    device.mmap = { fd: 55, fdOffset: 0x10000, areas: [{ offset: 0x1000, sizeBytes: 0x2000 }] };
    const short = await session.handle(regionInfo(0));
    const { view, body } = await bodyOf(short);
    const info = VfioUserRegionInfo.decode(view);
    expect(body).toHaveLength(32);
    expect(info).toMatchObject({ argsz: 64, flags: 0xf, capabilityOffset: 32, mmapOffset: 0x10000n });
    const full = await session.handle(regionInfo(0, info.argsz));
    const answer = await bodyOf(full);
    expect(answer.body).toHaveLength(64);
    expect(VfioUserSparseMmap.decode(answer.view, 32)).toEqual({
      id: 1,
      version: 1,
      next: 0,
      areaCount: 1,
      reserved: 0,
    });
    expect(VfioUserSparseArea.decode(answer.view, 48)).toEqual({ offset: 0x1000n, sizeBytes: 0x2000n });
    expect([short.replyFds, full.replyFds]).toEqual([[55], [55]]);
    expect(full.takenFds).toEqual([]);
  });

  it('GET_REGION_IO_FDS › entries share descriptors; without room only the size is told', async () => {
    const { session, device } = negotiatedSession();
    device.ioFds = [
      { offset: 0x3000, sizeBytes: 2, fd: 60, dataMatch: null },
      { offset: 0x3004, sizeBytes: 0, fd: 61, dataMatch: 1n },
      { offset: 0x3008, sizeBytes: 4, fd: 60, dataMatch: null },
    ];
    const ask = (argsz: number, flags = 0, count = 0, index = 0) =>
      session.handle(
        request(
          1,
          VfioUserCommand.DEVICE_GET_REGION_IO_FDS,
          VfioUserRegionIoFds.bytes({ argsz, flags, index, count }),
        ),
      );
    const short = await ask(16 + 3 * 40 - 1);
    const shortBody = await bodyOf(short);
    expect(VfioUserRegionIoFds.decode(shortBody.view)).toEqual({ argsz: 136, flags: 0, index: 0, count: 3 });
    expect([shortBody.body.length, short.replyFds]).toEqual([16, []]);
    const full = await ask(136);
    const { view } = await bodyOf(full);
    expect(full.replyFds).toEqual([60, 61]);
    expect([0, 1, 2].map((i) => VfioUserIoEventFd.decode(view, 16 + i * 40))).toMatchObject([
      { offset: 0x3000n, sizeBytes: 2n, fdIndex: 0, type: 0, flags: 0 },
      { offset: 0x3004n, sizeBytes: 0n, fdIndex: 1, flags: 1, dataMatch: 1n },
      { offset: 0x3008n, sizeBytes: 4n, fdIndex: 0 },
    ]);
    for (const refused of [ask(15), ask(136, 1), ask(136, 0, 1), ask(136, 0, 0, 5), ask(136, 0, 0, 512)]) {
      expect(await verdict(refused)).toBe('EINVAL');
    }
  });

  it('a client that takes one descriptor › is offered entries of one only', async () => {
    const { session, device } = negotiatedSession({ max_msg_fds: 1 });
    device.ioFds = [60, 60, 61].map((fd, i) => ({ offset: i * 4, sizeBytes: 4, fd, dataMatch: null }));
    const body = VfioUserRegionIoFds.bytes({ argsz: 512, flags: 0, index: 0, count: 0 });
    const outcome = await session.handle(request(1, VfioUserCommand.DEVICE_GET_REGION_IO_FDS, body));
    expect(outcome.replyFds).toEqual([60]);
    expect(VfioUserRegionIoFds.decode((await bodyOf(outcome)).view).count).toBe(2);
  });

  it('GET_IRQ_INFO › flags and count; argsz below 16 and unknown types are EINVAL', async () => {
    const { session } = negotiatedSession();
    const ask = (index: number, argsz = 16) =>
      session.handle(
        request(
          1,
          VfioUserCommand.DEVICE_GET_IRQ_INFO,
          VfioUserIrqInfo.bytes({ argsz, flags: 0, index, count: 0 }),
        ),
      );
    const msix = await bodyOf(ask(VfioPciIrq.MSIX));
    expect(VfioUserIrqInfo.decode(msix.view)).toEqual({ argsz: 16, flags: 9, index: 2, count: MSIX_VECTORS });
    const intx = await bodyOf(ask(VfioPciIrq.INTX, 32));
    expect(VfioUserIrqInfo.decode(intx.view)).toEqual({ argsz: 16, flags: 7, index: 0, count: 1 });
    expect(await verdict(ask(5))).toBe('EINVAL');
    expect(await verdict(ask(2, 15))).toBe('EINVAL');
  });
});
