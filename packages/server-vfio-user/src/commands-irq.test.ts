import { Errno, VfioPciIrq, VfioUserCommand, VfioUserIrqSet } from '@virtnet/wire';
import { describe, expect, it } from 'vitest';
import { negotiatedSession, verdict } from './ask.fixture.js';
import { request, setIrqs } from './messages.fixture.js';
import { MSIX_VECTORS } from './recording-device.fixture.js';

const bytes = (length: number, value = 0) => new Uint8Array(length).fill(value);

describe('SET_IRQS', () => {
  const judge = async (
    what: Parameters<typeof setIrqs>[1],
    values?: Uint8Array<ArrayBuffer>,
    fds: number[] = [],
  ) => {
    const { session, device } = negotiatedSession();
    const result = await verdict(session.handle(setIrqs(1, what, values), fds));
    return [result, ...device.calls].join(' ');
  };

  it('B1 start + count past 2^32 › EINVAL', async () => {
    expect(await judge({ start: 0xffffffff, count: 2 }, undefined, [])).toBe('EINVAL');
    expect(await judge({ flags: 0x21, start: 0xffffffff, count: 2 })).toBe('EINVAL');
    expect(await judge({ flags: 0x21, start: 0xffffffff, count: 0xffffffff })).toBe('EINVAL');
  });

  it.each([
    ['start past the last vector', { flags: 0x21, start: MSIX_VECTORS, count: 1 }],
    ['count one too many', { flags: 0x21, start: MSIX_VECTORS - 1, count: 2 }],
    ['an unknown type', { flags: 0x21, index: 5, count: 0 }],
    ['a type the device does not have', { flags: 0x21, index: VfioPciIrq.MSI, count: 1 }],
    ['two actions', { flags: 0x31, count: 1 }],
    ['no action', { flags: 0x01, count: 1 }],
    ['two kinds of data', { flags: 0x23, count: 1 }],
    ['no kind of data', { flags: 0x20, count: 1 }],
    ['an unknown flag', { flags: 0x61, count: 1 }],
    ['count 0 with start 1', { flags: 0x21, start: 1, count: 0 }],
    ['count 0 with mask', { flags: 0x09, count: 0 }],
    ['count 0 with eventfds', { flags: 0x24, count: 0 }],
    ['mask of ERR', { flags: 0x09, index: VfioPciIrq.ERR, count: 1 }],
    ['unmask of REQ', { flags: 0x11, index: VfioPciIrq.REQ, count: 1 }],
    ['two of ERR', { flags: 0x21, index: VfioPciIrq.ERR, count: 2 }],
    ['an eventfd for unmask', { flags: 0x14, index: VfioPciIrq.INTX, count: 1 }],
  ])('%s › EINVAL, the device is not called', async (_, what) => {
    expect(await judge(what)).toBe('EINVAL');
  });

  it('argsz below 20 › EINVAL', async () => {
    const body = VfioUserIrqSet.bytes({ argsz: 19, flags: 0x21, index: 2, start: 0, count: 0 });
    const { session } = negotiatedSession();
    expect(await verdict(session.handle(request(1, VfioUserCommand.DEVICE_SET_IRQS, body)))).toBe('EINVAL');
  });

  it.each([
    ['fewer descriptors than count', { count: 2 }, undefined, [7]],
    ['more descriptors than count', { count: 1 }, undefined, [7, 8]],
    ['descriptors without eventfd data', { flags: 0x21, count: 1 }, undefined, [7]],
    ['descriptors with booleans', { flags: 0x22, count: 1 }, bytes(1), [7]],
    ['17 descriptors', { count: 17 }, undefined, Array.from({ length: 17 }, (_, i) => 100 + i)],
    ['fewer booleans than count', { flags: 0x22, count: 2 }, bytes(1), []],
    ['more booleans than count', { flags: 0x22, count: 2 }, bytes(3), []],
  ])('%s › EINVAL, none taken', async (_, what, values, fds) => {
    expect(await judge(what, values, fds)).toBe('EINVAL');
  });

  it.each([
    ['give 16', { start: 48, count: 16 }, undefined, 16, 'setIrqs(2, 48, 16, trigger, eventfd, 16 fds)'],
    ['take one away', { start: 3, count: 1 }, undefined, 0, 'setIrqs(2, 3, 1, trigger, eventfd, 0 fds)'],
    ['disable all', { flags: 0x21, count: 0 }, undefined, 0, 'setIrqs(2, 0, 0, trigger, none)'],
    [
      'disable a type without vectors',
      { flags: 0x21, index: 1, count: 0 },
      undefined,
      0,
      'setIrqs(1, 0, 0, trigger, none)',
    ],
    ['unmask INTx', { flags: 0x11, index: 0, count: 1 }, undefined, 0, 'setIrqs(0, 0, 1, unmask, none)'],
    [
      'trigger some',
      { flags: 0x22, start: 1, count: 3 },
      Uint8Array.of(1, 0, 1),
      0,
      'setIrqs(2, 1, 3, trigger, bool, 101)',
    ],
  ])('%s › the device is told exactly that', async (_, what, values, fdCount, call) => {
    const fds = Array.from({ length: fdCount }, (_unused, i) => 100 + i);
    expect(await judge(what, values, fds)).toBe(`ok ${call}`);
  });

  it('B12 eventfds for ERR, INTx and MSI-X › each under its own type', async () => {
    const { session, device } = negotiatedSession();
    await session.handle(setIrqs(1, { index: VfioPciIrq.MSIX, count: 1 }), [100]);
    await session.handle(setIrqs(2, { index: VfioPciIrq.INTX, count: 1 }), [101]);
    await session.handle(setIrqs(3, { index: VfioPciIrq.ERR, count: 1 }), [102]);
    expect([...device.held]).toEqual([
      ['irq/2/0', 100],
      ['irq/0/0', 101],
      ['irq/3/0', 102],
    ]);
  });

  it('a device that refuses › its errno, no descriptor taken', async () => {
    const { session, device } = negotiatedSession();
    device.refuseWith = Errno.EBUSY;
    expect(await session.handle(setIrqs(1, {}), [7])).toMatchObject({ errno: Errno.EBUSY, takenFds: [] });
  });
});
