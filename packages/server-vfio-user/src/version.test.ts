import { Errno, VfioUserCommand, VfioUserVersion, viewOf } from '@virtnet/wire';
import { describe, expect, it } from 'vitest';
import { bodyOf, verdict } from './ask.fixture.js';
import { MESSAGE_FDS_MAX, VERSION_BYTES_MAX, VERSION_REPLY_BYTES_MAX } from './limits.js';
import { concat, getInfo, qemuCapabilities, request, version } from './messages.fixture.js';
import { RecordingDevice } from './recording-device.fixture.js';
import { ServerSession } from './session.js';

const encode = (text: string) => new TextEncoder().encode(text);
const versionHead = (major = 0, minor = 0) => VfioUserVersion.bytes({ major, minor });
const versionText = (text: string) =>
  request(0, VfioUserCommand.VERSION, concat(versionHead(), encode(text)));
const fresh = () => new ServerSession(new RecordingDevice());

async function capabilitiesOf(message: Uint8Array, session = fresh()): Promise<Record<string, unknown>> {
  const { body } = await bodyOf(session.handle(message));
  const text = new TextDecoder().decode(body.subarray(VfioUserVersion.sizeBytes, -1));
  return JSON.parse(text).capabilities;
}

describe('VERSION', () => {
  it("QEMU 10.2's request › the reply fits its buffer, ends in NUL, says 0.0 and at most 16 descriptors", async () => {
    const message = version(0);
    const { body, sizeBytes, view } = await bodyOf(fresh().handle(message));
    expect(sizeBytes).toBeLessThanOrEqual(VERSION_REPLY_BYTES_MAX);
    expect(body.at(-1)).toBe(0);
    expect(VfioUserVersion.decode(view)).toEqual({ major: 0, minor: 0 });
    const capabilities = await capabilitiesOf(message);
    expect(capabilities.max_msg_fds).toBeLessThanOrEqual(MESSAGE_FDS_MAX);
    expect(Object.keys(capabilities).filter((name) => !(name in qemuCapabilities))).toEqual([]);
  });

  it('a client that announces everything › the longest reply still fits', async () => {
    const { sizeBytes } = await bodyOf(fresh().handle(version(0, { ...qemuCapabilities, virtnet: 1 })));
    expect(sizeBytes).toBeLessThanOrEqual(VERSION_REPLY_BYTES_MAX);
  });

  it.each([
    ['no JSON', request(0, VfioUserCommand.VERSION, versionHead())],
    ['an empty object', versionText('{}\0')],
    ['empty capabilities', versionText('{"capabilities":{}}\0')],
    ['capabilities nobody knows', versionText('{"capabilities":{"twin_socket":{"supported":true},"x":1}}\0')],
  ])('%s › accepted with the defaults: one descriptor, 1 MiB', async (_, message) => {
    const session = fresh();
    expect(await verdict(session.handle(message))).toBe('ok');
    expect(session.negotiated).toEqual({
      peerMessageFdsMax: 1,
      peerDataTransferBytesMax: 1048576,
      writeMultiple: false,
      privateCommands: false,
    });
  });

  it('a client that does not mention the private commands › never sees them, nor write_multiple', async () => {
    expect(Object.keys(await capabilitiesOf(versionText('{}\0')))).toEqual([
      'max_msg_fds',
      'max_data_xfer_size',
    ]);
  });

  it('a client that announces the private commands › hears of them', async () => {
    expect((await capabilitiesOf(version(0, { virtnet: 1 }))).virtnet).toBe(1);
    expect(await capabilitiesOf(version(0, { virtnet: 2 }))).not.toHaveProperty('virtnet');
  });

  it('a newer minor version › answered with 0', async () => {
    const { view } = await bodyOf(fresh().handle(request(0, VfioUserCommand.VERSION, versionHead(0, 7))));
    expect(VfioUserVersion.decode(view).minor).toBe(0);
  });

  it.each([
    ['another major version', request(0, VfioUserCommand.VERSION, versionHead(1, 0))],
    ['a body of three bytes', request(0, VfioUserCommand.VERSION, new Uint8Array(3))],
    ['no NUL at the end', versionText('{}')],
    ['text that is not JSON', versionText('{"capabilities"\0')],
    ['JSON that is not an object', versionText('[]\0')],
    ['capabilities that are not an object', versionText('{"capabilities":"x"}\0')],
    ['max_msg_fds as a string', versionText('{"capabilities":{"max_msg_fds":"16"}}\0')],
    ['max_msg_fds below zero', versionText('{"capabilities":{"max_msg_fds":-1}}\0')],
    ['max_data_xfer_size as a fraction', versionText('{"capabilities":{"max_data_xfer_size":0.5}}\0')],
    ['write_multiple as a number', versionText('{"capabilities":{"write_multiple":1}}\0')],
    ['JSON nested 2000 deep', versionText(`${'['.repeat(2000)}\0`)],
    ['a body past the limit', versionText(`{}${' '.repeat(VERSION_BYTES_MAX)}\0`)],
  ])('%s › EINVAL and the connection ends', async (_, message) => {
    const outcome = await fresh().handle(message);
    expect(await verdict(outcome)).toBe('EINVAL');
    expect(outcome.close).toBe('version-refused');
  });

  it('descriptors with VERSION › EINVAL, none taken', async () => {
    const outcome = await fresh().handle(version(0), [7]);
    expect(outcome).toMatchObject({ errno: Errno.EINVAL, takenFds: [], close: 'version-refused' });
  });

  it('a second VERSION › EINVAL, and what was agreed stays', async () => {
    const session = fresh();
    await session.handle(version(0));
    const outcome = await session.handle(version(1, {}));
    expect(outcome).toMatchObject({ errno: Errno.EINVAL, close: null });
    expect(session.negotiated?.peerMessageFdsMax).toBe(16);
  });

  it('another command first › EINVAL and the connection ends', async () => {
    expect(await fresh().handle(getInfo(0))).toMatchObject({ errno: Errno.EINVAL, close: 'version-missing' });
  });
});

describe('session state', () => {
  it('restore(save()) › goes on with what was agreed and what is mapped', async () => {
    const device = new RecordingDevice();
    const session = new ServerSession(device);
    await session.handle(version(0, { virtnet: 1, max_msg_fds: 4 }));
    const saved = JSON.parse(JSON.stringify(session.save()));
    const restored = ServerSession.restore(device, saved, [{ iova: 4096n, sizeBytes: 4096 }]);
    if (!(restored instanceof ServerSession)) throw new Error(restored.error);
    expect(restored.negotiated).toEqual(session.negotiated);
    expect(restored.dmaRanges).toEqual([{ iova: 4096n, sizeBytes: 4096 }]);
    expect(await verdict(restored.handle(getInfo(1)))).toBe('ok');
  });

  it('a session saved before VERSION › wants VERSION', async () => {
    const restored = ServerSession.restore(new RecordingDevice(), { negotiated: null }, []);
    if (!(restored instanceof ServerSession)) throw new Error(restored.error);
    expect(await verdict(restored.handle(version(0)))).toBe('ok');
  });

  it.each([
    ['null', null, []],
    ['an empty object', {}, []],
    ['a field of the wrong type', { negotiated: { peerMessageFdsMax: '4' } }, []],
    [
      'ranges that overlap',
      { negotiated: null },
      [
        { iova: 0n, sizeBytes: 8192 },
        { iova: 4096n, sizeBytes: 1 },
      ],
    ],
  ])('%s › refused with a reason', (_, state, ranges) => {
    expect(ServerSession.restore(new RecordingDevice(), state, ranges)).toHaveProperty('error');
  });

  it('viewOf › a reply is a message of its own, not a view into something larger', async () => {
    const { reply } = await fresh().handle(version(0));
    expect(reply?.byteOffset).toBe(0);
    expect(reply && viewOf(reply).byteLength).toBe(reply?.buffer.byteLength);
  });
});
