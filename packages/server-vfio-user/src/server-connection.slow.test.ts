/** A served connection that is asked ten thousand times. */
import { closeAll, eventfd } from '@virtnet/host-linux';
import { Errno, VfioUserFlags } from '@virtnet/wire';
import { afterEach, describe, expect, it } from 'vitest';
import { openDescriptors, type Serving, serveNegotiated } from './harness.fixture.js';
import { MESSAGE_FDS_MAX } from './limits.js';
import { dmaMap, getInfo, regionRead, regionWrite, request, setIrqs, version } from './messages.fixture.js';
import { RecordingDevice } from './recording-device.fixture.js';

let device = new RecordingDevice();
let serving: Serving | null = null;

/** A new served connection that agreed on the version. */
async function negotiated(capabilities?: object): Promise<Serving> {
  device = new RecordingDevice();
  serving = await serveNegotiated(device, capabilities);
  return serving;
}

afterEach(async () => {
  await serving?.stop();
  serving = null;
  device.release();
});

describe('descriptors', () => {
  it.each([
    ['DEVICE_GET_INFO', getInfo(1)],
    ['REGION_READ', regionRead(1, 0, 0n, 4)],
    ['a posted write', regionWrite(1, 0, 0n, new Uint8Array(4), { posted: true })],
    ['SET_IRQS with too many', setIrqs(1, { count: 2 })],
    ['DMA_MAP with too many', dmaMap(1, 0n, 4096n)],
    ['an unknown command', request(1, 0x4000, new Uint8Array(4))],
  ])('A1 10,000 messages with unexpected ones: %s › error each, the count stays flat', async (_, message) => {
    const { client, connection } = await negotiated();
    const fds = Array.from({ length: 8 }, () => eventfd());
    const posted = (message[8] ?? 0) & VfioUserFlags.NO_REPLY;
    const before = openDescriptors();
    for (let i = 0; i < 10_000; i++) {
      await client.send(message, fds);
      if (!posted) expect((await client.receive())?.bytes[12]).toBe(Errno.EINVAL);
    }
    await client.ask(getInfo(2));
    expect(openDescriptors()).toBe(before);
    expect(connection.counters).toMatchObject({ errors: 10_000, fdsClosed: 80_000 });
    expect(device.calls).toEqual([]);
    closeAll(fds);
  });

  it('B15 10,000 times 16 eventfds given, replaced and disabled › the count stays flat', async () => {
    const { client } = await negotiated();
    const fds = Array.from({ length: MESSAGE_FDS_MAX }, () => eventfd());
    const before = openDescriptors();
    for (let i = 0; i < 5000; i++) {
      const start = (i % 4) * MESSAGE_FDS_MAX;
      expect((await client.ask(setIrqs(i, { start, count: MESSAGE_FDS_MAX }), fds)).errno).toBe(0);
      if (i % 7 === 6) await client.ask(setIrqs(i, { flags: 0x21, count: 0 }));
    }
    await client.ask(setIrqs(1, { flags: 0x21, count: 0 }));
    expect(openDescriptors()).toBe(before);
    closeAll(fds);
  }, 60_000);
});

describe('a message of a stranger', () => {
  it('10,000 of random bytes behind a plausible header › an answer each or the end, never more', async () => {
    let seed = 0x2545f491;
    const random = (below: number) => {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
      return Math.floor((seed / 2 ** 32) * below);
    };
    const { client } = await negotiated({ virtnet: 1, write_multiple: true });
    const commands = [...Array(20).keys(), 0x7f00, 0x7f01, 0x7f02, 0x7f03, 0x7f04].filter((n) => n !== 1);
    for (let i = 0; i < 10_000; i++) {
      const body = Uint8Array.from({ length: random(64) }, () => (random(3) === 0 ? random(256) : random(4)));
      const message = request(i & 0xffff, commands[random(commands.length)] ?? 0, body);
      const { messageId, errno } = await client.ask(message);
      expect(messageId).toBe(i & 0xffff);
      expect([0, Errno.EINVAL, Errno.EOPNOTSUPP, Errno.EEXIST, Errno.ENOENT]).toContain(errno);
    }
    expect((await client.ask(version(9))).errno).toBe(Errno.EINVAL);
    expect((await client.ask(getInfo(10))).errno).toBe(0);
  }, 60_000);
});
