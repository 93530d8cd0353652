import {
  Errno,
  VfioUserCommand,
  VfioUserDeviceInfo,
  VfioUserFlags,
  VfioUserIrqInfo,
  VfioUserQueue,
  VfioUserQueueBase,
  VfioUserQueueEnable,
  VfioUserQueueKick,
  VfioUserRegionInfo,
  VfioUserRegionIoFds,
  VfioUserWriteMulti,
  vfioUserCommandName,
} from '@virtnet/wire';
import { describe, expect, it } from 'vitest';
import { bodyOf, negotiatedSession, verdict } from './ask.fixture.js';
import { DATA_TRANSFER_BYTES_MAX } from './limits.js';
import {
  concat,
  dmaMapBody,
  dmaUnmap,
  getInfo,
  qemuCapabilities,
  regionRead,
  regionWrite,
  request,
  setIrqs,
} from './messages.fixture.js';

const bytes = (length: number, value = 0) => new Uint8Array(length).fill(value);

describe('header', () => {
  it('a reply nobody asked for › EINVAL, the connection stays', async () => {
    const { session } = negotiatedSession();
    const message = request(3, VfioUserCommand.DEVICE_SET_IRQS, undefined, {
      flags: VfioUserFlags.TYPE_REPLY,
    });
    expect(await session.handle(message)).toMatchObject({ errno: Errno.EINVAL, close: null });
  });

  it.each([
    ['shorter than a header', bytes(15)],
    ['a size that is not its length', request(0, VfioUserCommand.DEVICE_RESET, undefined, { sizeBytes: 17 })],
  ])('a message that is %s › the connection ends', async (_, message) => {
    const { session } = negotiatedSession();
    expect(await session.handle(message)).toMatchObject({ errno: Errno.EINVAL, close: 'header-malformed' });
  });

  it('a reply › carries id and command of its request', async () => {
    const { session } = negotiatedSession();
    const reply = await bodyOf(session.handle(getInfo(0xbeef)));
    expect(reply).toMatchObject({
      messageId: 0xbeef,
      command: VfioUserCommand.DEVICE_GET_INFO,
      flags: 1,
      errno: 0,
    });
  });

  it('an error reply › is a bare header with the error flag', async () => {
    const { session } = negotiatedSession();
    const { reply } = await session.handle(request(9, 0x4242, bytes(4)));
    expect(reply && Array.from(reply)).toEqual([
      9,
      0,
      0x42,
      0x42,
      16,
      0,
      0,
      0,
      0x21,
      0,
      0,
      0,
      Errno.EINVAL,
      0,
      0,
      0,
    ]);
  });
});

/** Every command a client may send, with a body the recording device accepts. */
const exactBodies: [command: VfioUserCommand, body: Uint8Array][] = [
  [VfioUserCommand.DMA_MAP, dmaMapBody(0n, 4096n)],
  [VfioUserCommand.DMA_UNMAP, dmaUnmap(0, 0n, 0n, 2).subarray(16)],
  [VfioUserCommand.DEVICE_GET_INFO, getInfo(0).subarray(16)],
  [
    VfioUserCommand.DEVICE_GET_REGION_INFO,
    VfioUserRegionInfo.bytes({
      argsz: 32,
      flags: 0,
      index: 0,
      capabilityOffset: 0,
      sizeBytes: 0n,
      mmapOffset: 0n,
    }),
  ],
  [
    VfioUserCommand.DEVICE_GET_REGION_IO_FDS,
    VfioUserRegionIoFds.bytes({ argsz: 512, flags: 0, index: 0, count: 0 }),
  ],
  [VfioUserCommand.DEVICE_GET_IRQ_INFO, VfioUserIrqInfo.bytes({ argsz: 16, flags: 0, index: 2, count: 0 })],
  [VfioUserCommand.DEVICE_SET_IRQS, setIrqs(0, { flags: 0x21, count: 0 }).subarray(16)],
  [VfioUserCommand.REGION_READ, regionRead(0, 0, 0n, 4).subarray(16)],
  [VfioUserCommand.REGION_WRITE, regionWrite(0, 0, 0n, bytes(4)).subarray(16)],
  [VfioUserCommand.DEVICE_RESET, bytes(0)],
  [VfioUserCommand.REGION_WRITE_MULTI, VfioUserWriteMulti.bytes({ writeCount: 0n })],
  [VfioUserCommand.QUEUE_KICK, VfioUserQueueKick.bytes({ queue: 0, flags: 0 })],
  [VfioUserCommand.QUEUE_BASE_SET, VfioUserQueueBase.bytes({ queue: 0, base: 0 })],
  [VfioUserCommand.QUEUE_BASE_GET, VfioUserQueue.bytes({ queue: 0, reserved: 0 })],
  [VfioUserCommand.QUEUE_ENABLE, VfioUserQueueEnable.bytes({ queue: 0, enabled: 1 })],
];
/** Commands whose body must have exactly its length; others ignore what follows. */
const exactOnly: number[] = [
  VfioUserCommand.DEVICE_RESET,
  VfioUserCommand.REGION_WRITE,
  VfioUserCommand.REGION_WRITE_MULTI,
];

describe('B14 body of every length', () => {
  const everything = { ...qemuCapabilities, virtnet: 1 };

  describe.each(exactBodies.map(([command, body]) => [vfioUserCommandName[command], command, body] as const))(
    '%s',
    (_, command, body) => {
      const judge = (sent: Uint8Array) =>
        verdict(negotiatedSession(everything).session.handle(request(1, command, sent)));

      it('exact › ok', async () => expect(await judge(body)).toBe('ok'));

      const hasBody = body.length > 0;
      if (hasBody) it('header only › EINVAL', async () => expect(await judge(bytes(0))).toBe('EINVAL'));

      if (hasBody)
        it('every shorter length › EINVAL, the device is not called', async () => {
          for (let length = 1; length < body.length; length++) {
            const { session, device } = negotiatedSession(everything);
            expect(await verdict(session.handle(request(1, command, body.subarray(0, length))))).toBe(
              'EINVAL',
            );
            expect(device.calls).toEqual([]);
          }
        });

      it.each([1, 3, 8, 1000, DATA_TRANSFER_BYTES_MAX - 64])(
        '%i bytes too long › as it says',
        async (extra) => {
          const expected = exactOnly.includes(command) ? 'EINVAL' : 'ok';
          expect(await judge(concat(body, bytes(extra, 0xff)))).toBe(expected);
        },
      );

      it('filled with ones › an answer, no exception', async () => {
        expect(await judge(bytes(body.length, 0xff))).toMatch(/^(EINVAL|ok)$/);
      });

      it('with an unexpected descriptor › EINVAL, it is not taken', async () => {
        const takesOne: number[] = [VfioUserCommand.DMA_MAP, VfioUserCommand.QUEUE_KICK];
        const fds = takesOne.includes(command) ? [901, 902] : [901];
        const { session, device } = negotiatedSession(everything);
        const outcome = await session.handle(request(1, command, body), fds);
        expect(outcome).toMatchObject({ errno: Errno.EINVAL, takenFds: [] });
        expect(device.calls).toEqual([]);
      });

      it('posted › no reply', async () => {
        const { session } = negotiatedSession(everything);
        const outcome = await session.handle(request(1, command, body, { flags: VfioUserFlags.NO_REPLY }));
        expect(outcome).toMatchObject({ reply: null, replyFds: [], errno: 0 });
      });
    },
  );
});

describe('commands that are not built', () => {
  it.each([
    VfioUserCommand.DEVICE_FEATURE,
    VfioUserCommand.MIG_DATA_READ,
    VfioUserCommand.MIG_DATA_WRITE,
    VfioUserCommand.DIRTY_PAGES,
  ])('%i › EOPNOTSUPP', async (command) => {
    expect(await verdict(negotiatedSession().session.handle(request(1, command, bytes(16))))).toBe(
      'EOPNOTSUPP',
    );
  });

  it.each([0, VfioUserCommand.DMA_READ, VfioUserCommand.DMA_WRITE, 19, 0x7eff, 0x7f04, 0xffff])(
    '%i, not a request of a client › EINVAL',
    async (command) => {
      const { session } = negotiatedSession({ virtnet: 1 });
      expect(await verdict(session.handle(request(1, command, bytes(32))))).toBe('EINVAL');
    },
  );
});

describe('private commands', () => {
  const privates = exactBodies.filter(([command]) => command >= VfioUserCommand.QUEUE_KICK);

  it.each(privates)(
    '%i from a client that did not announce them › as any unknown command',
    async (command, body) => {
      const { session, device } = negotiatedSession();
      const refused = await session.handle(request(1, command, body));
      const unknown = await session.handle(request(1, 0x7eff, body));
      expect({ ...refused, reply: refused.reply?.with(2, 0).with(3, 0) }).toEqual({
        ...unknown,
        reply: unknown.reply?.with(2, 0).with(3, 0),
      });
      expect(device.calls).toEqual([]);
    },
  );

  it('from a client that announced them › reach the device', async () => {
    const { session, device } = negotiatedSession({ virtnet: 1 });
    const kick = (fds: number[]) => {
      const body = VfioUserQueueKick.bytes({ queue: 3, flags: 0 });
      return session.handle(request(1, VfioUserCommand.QUEUE_KICK, body), fds);
    };
    expect(await kick([77])).toMatchObject({ errno: 0, takenFds: [77] });
    device.held.clear();
    await kick([]);
    const base = VfioUserQueueBase.bytes({ queue: 3, base: 0xfffe });
    await session.handle(request(2, VfioUserCommand.QUEUE_BASE_SET, base));
    const disable = VfioUserQueueEnable.bytes({ queue: 3, enabled: 0 });
    await session.handle(request(3, VfioUserCommand.QUEUE_ENABLE, disable));
    const queue = VfioUserQueue.bytes({ queue: 3, reserved: 0 });
    const { view } = await bodyOf(session.handle(request(4, VfioUserCommand.QUEUE_BASE_GET, queue)));
    expect(VfioUserQueueBase.decode(view)).toEqual({ queue: 3, base: 0x1234 });
    expect(device.calls).toEqual([
      'queueKick(3, fd, 0)',
      'queueKick(3, no fd, 0)',
      'queueBaseSet(3, 65534)',
      'queueEnable(3, false)',
      'queueBaseGet(3)',
    ]);
  });

  it('QUEUE_ENABLE with 2 › EINVAL', async () => {
    const body = VfioUserQueueEnable.bytes({ queue: 0, enabled: 2 });
    const { session } = negotiatedSession({ virtnet: 1 });
    expect(await verdict(session.handle(request(1, VfioUserCommand.QUEUE_ENABLE, body)))).toBe('EINVAL');
  });
});

describe('DEVICE_RESET', () => {
  it('a device that can be reset › is', async () => {
    const { session, device } = negotiatedSession();
    expect(await verdict(session.handle(request(1, VfioUserCommand.DEVICE_RESET)))).toBe('ok');
    expect(device.calls).toEqual(['reset()']);
  });

  it('a device that cannot › EOPNOTSUPP, and DEVICE_GET_INFO does not offer it', async () => {
    const { session, device } = negotiatedSession();
    device.deviceInfo = { ...device.deviceInfo, resettable: false };
    expect(await verdict(session.handle(request(1, VfioUserCommand.DEVICE_RESET)))).toBe('EOPNOTSUPP');
    expect(VfioUserDeviceInfo.decode((await bodyOf(session.handle(getInfo(2)))).view).flags).toBe(2);
  });
});
