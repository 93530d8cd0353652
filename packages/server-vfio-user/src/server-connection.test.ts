import { setImmediate as turn } from 'node:timers/promises';
import { closeAll, dup, eventfd, plainReplies } from '@virtnet/host-linux';
import { Errno, VfioPciIrq, VfioPciRegion, VfioUserCommand } from '@virtnet/wire';
import { afterEach, describe, expect, it } from 'vitest';
import { openDescriptors, type Serving, serve, serveNegotiated, until } from './harness.fixture.js';
import { DATA_TRANSFER_BYTES_MAX, MESSAGE_BYTES_MAX, MESSAGE_FDS_MAX } from './limits.js';
import {
  concat,
  dmaMap,
  dmaUnmap,
  getInfo,
  parseReply,
  regionRead,
  regionWrite,
  request,
  setIrqs,
} from './messages.fixture.js';
import { RecordingDevice } from './recording-device.fixture.js';

let device = new RecordingDevice();
let serving: Serving | null = null;
const MSIX = VfioPciIrq.MSIX;

/** A new served connection that agreed on the version. */
async function negotiated(capabilities?: object, options?: Parameters<typeof serve>[1]): Promise<Serving> {
  device = new RecordingDevice();
  serving = await serveNegotiated(device, capabilities, options);
  return serving;
}

/** A new served connection before VERSION. */
function connected(): Serving {
  device = new RecordingDevice();
  serving = serve(device);
  return serving;
}

afterEach(async () => {
  await serving?.stop();
  serving = null;
  device.release();
});

describe('framing', () => {
  it('a message in single bytes, its descriptor with the first › is worked once it is whole', async () => {
    const { client, connection } = await negotiated();
    const fd = eventfd();
    const message = setIrqs(1, { start: 5 });
    for (let i = 0; i < message.length; i++) {
      await client.send(message.subarray(i, i + 1), i === 0 ? [fd] : []);
      await turn();
    }
    const reply = await client.receive();
    expect(reply && parseReply(reply.bytes).errno).toBe(0);
    expect(device.calls).toEqual([`setIrqs(${MSIX}, 5, 1, trigger, eventfd, 1 fds)`]);
    expect([...device.held.keys()]).toEqual([`irq/${MSIX}/5`]);
    expect(connection.counters.partialWaits).toBeGreaterThan(0);
    closeAll([fd]);
  });

  it('header with the descriptor, body later › worked; half a header for long costs no loop turns', async () => {
    const { client, connection } = await negotiated();
    const fd = eventfd();
    const message = dmaMap(1, 0n, 4096n);
    await client.send(message.subarray(0, 16), [fd]);
    await new Promise((resolve) => setTimeout(resolve, 150));
    expect(device.calls).toEqual([]);
    expect(connection.counters.partialWaits).toBeLessThan(20);
    await client.send(message.subarray(16));
    expect((await client.receive())?.bytes).toHaveLength(16);
    expect(device.calls).toEqual(['dmaMap(0x0, 4096, fd+0, rw)']);
    closeAll([fd]);
  });

  it("QEMU's burst: 26 maps, each with a descriptor, and 19 unmaps without a pause › each answered, in order", async () => {
    const { client } = await negotiated();
    const fd = eventfd();
    const before = openDescriptors();
    for (let i = 0; i < 26; i++)
      await client.send(dmaMap(i, BigInt(i) << 20n, 4096n, BigInt(i) * 4096n), [fd]);
    for (let i = 0; i < 19; i++) await client.send(dmaUnmap(100 + i, BigInt(i) << 20n, 4096n));
    const ids: number[] = [];
    for (let i = 0; i < 45; i++) {
      const reply = await client.receive();
      const parsed = reply && parseReply(reply.bytes);
      expect(parsed).toMatchObject({ errno: 0, sizeBytes: i < 26 ? 16 : 40 });
      ids.push(parsed?.messageId ?? -1);
    }
    expect(ids).toEqual([...Array(26).keys(), ...Array.from({ length: 19 }, (_, i) => 100 + i)]);
    expect(device.calls[25]).toBe(`dmaMap(0x${(25 << 20).toString(16)}, 4096, fd+${25 * 4096}, rw)`);
    expect(device.held.size).toBe(7);
    expect(openDescriptors()).toBe(before + 7);
    closeAll([fd]);
  });

  it.each([
    ['behind one message', 1],
    ['behind five', 5],
  ])(
    "a message with a descriptor %s without › the others do not get it (Linux's peek hands it out early)",
    async (_, plain) => {
      const { client } = await negotiated();
      const fd = eventfd();
      const before = openDescriptors();
      for (let i = 0; i < plain; i++) await client.send(dmaMap(i, BigInt(i + 1) << 20n, 4096n));
      const last = dmaMap(plain, 0n, 4096n);
      await client.send(last.subarray(0, 16), [fd]);
      await client.send(last.subarray(16));
      await client.send(getInfo(99));
      for (let i = 0; i <= plain + 1; i++) expect((await client.receive())?.bytes[12]).toBe(0);
      expect([...device.held.keys()]).toEqual(['dma/0']);
      expect(device.calls.filter((call) => call.includes('no fd'))).toHaveLength(plain);
      expect(openDescriptors()).toBe(before + 1);
      closeAll([fd]);
    },
  );

  it('header and body of a reply › arrive in one segment', async () => {
    const { client } = await negotiated();
    await client.send(regionRead(1, VfioPciRegion.CONFIG, 0n, 256));
    let first = 0;
    await until(() => {
      first = client.poll();
      return first > 0;
    }, 'reply');
    expect(first).toBe(16 + 16 + 256);
  });

  it('the longest reply › arrives whole', async () => {
    const { client } = await negotiated();
    device.regions.set(0, new Uint8Array(DATA_TRANSFER_BYTES_MAX).fill(0xa5));
    const { body } = await client.ask(regionRead(1, 0, 0n, DATA_TRANSFER_BYTES_MAX));
    expect(body.subarray(16).every((byte) => byte === 0xa5)).toBe(true);
  });

  it('the longest request › fits into the default socket buffer of its sender and is answered', async () => {
    const { client } = await negotiated();
    device.regions.set(0, new Uint8Array(DATA_TRANSFER_BYTES_MAX));
    const { errno } = await client.ask(
      regionWrite(1, 0, 0n, new Uint8Array(DATA_TRANSFER_BYTES_MAX).fill(1)),
    );
    expect(errno).toBe(0);
  });

  it.each([
    ['below a header', 15, 'header-malformed'],
    ['0', 0, 'header-malformed'],
    ['one past the limit', MESSAGE_BYTES_MAX + 1, 'message-too-long'],
    ['4 GiB', 0xffffffff, 'message-too-long'],
  ])(
    'a size of %s, with a descriptor › EINVAL, then the end; nothing is left open',
    async (_, sizeBytes, reason) => {
      const { client, ends } = await negotiated();
      const fd = eventfd();
      const before = openDescriptors();
      await client.send(request(7, VfioUserCommand.DMA_MAP, new Uint8Array(32), { sizeBytes }), [fd]);
      const reply = await client.receive();
      expect(reply && parseReply(reply.bytes)).toMatchObject({
        messageId: 7,
        errno: Errno.EINVAL,
        sizeBytes: 16,
      });
      expect(await client.receive()).toBeNull();
      expect(ends).toEqual([{ reason, errno: 0 }]);
      expect(openDescriptors()).toBe(before - 1);
      closeAll([fd]);
    },
  );

  it('a refused VERSION › its errno, then the end', async () => {
    const { client, ends } = connected();
    const { errno } = await client.ask(request(1, VfioUserCommand.VERSION, Uint8Array.of(9, 0, 0, 0)));
    expect(errno).toBe(Errno.EINVAL);
    expect(await client.receive()).toBeNull();
    expect(ends).toEqual([{ reason: 'version-refused', errno: 0 }]);
  });
});

describe('order', () => {
  it('posted writes before a read › are applied before it is answered, and get no reply', async () => {
    const { client } = await negotiated();
    for (let i = 0; i < 200; i++) {
      await client.send(regionWrite(i, 0, 0n, Uint8Array.of(i), { posted: true }));
    }
    const { messageId, body } = await client.ask(regionRead(777, 0, 0n, 1));
    expect([messageId, body[16]]).toEqual([777, 199]);
    expect(device.calls).toHaveLength(201);
  });

  it('a handler that takes its time › nothing behind it is begun before it is answered', async () => {
    const { client } = await negotiated();
    let open = () => {};
    device.gate = new Promise((resolve) => {
      open = resolve;
    });
    await client.send(dmaMap(1, 0n, 4096n));
    await client.send(regionRead(2, 0, 0n, 4));
    for (let i = 0; i < 50; i++) await turn();
    expect(device.calls).toEqual([]);
    open();
    const replies = [await client.receive(), await client.receive()];
    expect(replies.map((reply) => reply && parseReply(reply.bytes).messageId)).toEqual([1, 2]);
    expect(device.calls).toEqual(['dmaMap(0x0, 4096, no fd, rw)', 'read(0, 0, 4)']);
  });

  it('10,000 messages at once › other work of the process goes on between them', async () => {
    const { client } = await negotiated();
    let turns = 0;
    const counting = setInterval(() => turns++, 0);
    const writes = concat(
      ...Array.from({ length: 100 }, (_, i) => regionWrite(i, 0, 0n, Uint8Array.of(1), { posted: true })),
    );
    for (let i = 0; i < 100; i++) await client.send(writes);
    await client.ask(getInfo(1));
    clearInterval(counting);
    expect(device.calls).toHaveLength(10_000);
    expect(turns).toBeGreaterThan(10);
  });
});

describe('a client that does not read its replies', () => {
  it.each([
    ['with io_uring', {}],
    ['without', { replyRing: plainReplies }],
  ])('%s › is not worked for until it does; nothing is lost and memory stays', async (_, options) => {
    const { client, connection } = await negotiated(undefined, options);
    device.regions.set(0, new Uint8Array(DATA_TRANSFER_BYTES_MAX));
    const requests = 64;
    for (let i = 0; i < requests; i++) {
      device.regions.get(0)?.fill(i);
      await client.send(regionRead(i, 0, 0n, DATA_TRANSFER_BYTES_MAX));
      await turn();
    }
    await until(() => connection.counters.sendWaits === 1, 'backpressure');
    const worked = device.calls.length;
    for (let i = 0; i < 20; i++) await turn();
    expect(worked).toBeLessThan(requests);
    expect(device.calls).toHaveLength(worked);
    for (let i = 0; i < requests; i++) {
      const reply = await client.receive();
      expect(reply && parseReply(reply.bytes)).toMatchObject({ messageId: i, errno: 0 });
    }
    expect(device.calls).toHaveLength(requests);
    expect(connection.busy).toBe(false);
  });

  it('gone meanwhile › the connection ends', async () => {
    const { client, connection, ends } = await negotiated();
    device.regions.set(0, new Uint8Array(DATA_TRANSFER_BYTES_MAX));
    for (let i = 0; i < 32; i++) await client.send(regionRead(i, 0, 0n, DATA_TRANSFER_BYTES_MAX));
    await until(() => connection.counters.sendWaits === 1, 'backpressure');
    client.close();
    await until(() => ends.length > 0, 'end');
    expect(ends).toMatchObject([{ reason: 'peer-closed' }]);
  });
});

describe('descriptors', () => {
  it('more than 16 with one message › EINVAL, none kept', async () => {
    const { client } = await negotiated();
    const fds = Array.from({ length: MESSAGE_FDS_MAX + 1 }, () => eventfd());
    const before = openDescriptors();
    const { errno } = await client.ask(setIrqs(1, { count: MESSAGE_FDS_MAX }), fds);
    expect(errno).toBe(Errno.EINVAL);
    expect(openDescriptors()).toBe(before);
    expect(device.calls).toEqual([]);
    closeAll(fds);
  });

  it('B5 a map that the device refuses › its descriptor is closed', async () => {
    const { client } = await negotiated();
    const fd = eventfd();
    const before = openDescriptors();
    device.refuseWith = Errno.EINVAL;
    expect((await client.ask(dmaMap(1, 0n, 1n << 30n), [fd])).errno).toBe(Errno.EINVAL);
    expect(openDescriptors()).toBe(before);
    closeAll([fd]);
  });

  it('a mappable region › its descriptor comes with the reply and stays the device’s', async () => {
    const { client } = await negotiated();
    const fd = eventfd();
    device.mmap = { fd, fdOffset: 0, areas: [{ offset: 0, sizeBytes: 4096 }] };
    const body = new Uint8Array(32);
    body[0] = 32;
    const first = await client.ask(request(1, VfioUserCommand.DEVICE_GET_REGION_INFO, body));
    const second = await client.ask(request(2, VfioUserCommand.DEVICE_GET_REGION_INFO, body));
    expect([first.fds.length, second.fds.length]).toEqual([1, 1]);
    const copy = dup(fd);
    expect(copy).toBeGreaterThanOrEqual(0);
    closeAll([...first.fds, ...second.fds, copy, fd]);
  });
});

describe('B16 a client that dies', () => {
  const fdMessage = dmaMap(1, 0n, 4096n);

  it.each([
    ['with a descriptor', 1],
    ['without', 0],
  ])('after every byte of a message %s › the end is told once, nothing is left open', async (_, fdCount) => {
    const fds = Array.from({ length: fdCount }, () => eventfd());
    for (let length = 0; length <= fdMessage.length; length++) {
      const { client, ends, stop } = await negotiated();
      const before = openDescriptors();
      if (length > 0) await client.send(fdMessage.subarray(0, length), fds);
      if (length % 2 === 0) for (let i = 0; i < 3; i++) await turn();
      client.close();
      await until(() => ends.length > 0, 'end');
      expect(ends).toMatchObject([{ reason: 'peer-closed' }]);
      device.release();
      expect(openDescriptors()).toBe(before - 2);
      serving = null;
      await stop();
    }
    closeAll(fds);
  });

  it('while its request is worked › the end is told after the device has answered, and not before', async () => {
    const { client, ends } = await negotiated();
    let open = () => {};
    device.gate = new Promise((resolve) => {
      open = resolve;
    });
    await client.send(dmaMap(1, 0n, 4096n), []);
    await until(() => serving?.connection.busy === true, 'begun');
    client.close();
    for (let i = 0; i < 50; i++) await turn();
    expect(ends).toEqual([]);
    open();
    await until(() => ends.length > 0, 'end');
    expect(device.calls).toHaveLength(1);
    expect(ends).toMatchObject([{ reason: 'peer-closed' }]);
  });

  it('having posted writes before › they are applied', async () => {
    const { client, ends } = await negotiated();
    for (let i = 0; i < 10; i++) await client.send(regionWrite(i, 0, 0n, Uint8Array.of(i), { posted: true }));
    client.close();
    await until(() => ends.length > 0, 'end');
    expect(device.calls).toHaveLength(10);
  });

  it('close() while a request is worked › its late answer goes nowhere and nothing is left open', async () => {
    const { client, connection, ends } = await negotiated();
    const fd = eventfd();
    let open = () => {};
    device.gate = new Promise((resolve) => {
      open = resolve;
    });
    await client.send(dmaMap(1, 0n, 4096n), [fd]);
    await until(() => connection.busy, 'begun');
    connection.close();
    connection.close();
    expect(ends).toEqual([{ reason: 'closed-here', errno: 0 }]);
    open();
    await until(() => device.calls.length === 1, 'answered');
    await turn();
    expect(await client.receive()).toBeNull();
    expect([...device.held.keys()]).toEqual(['dma/0']); // the device took it, and the device will let it go
    closeAll([fd]);
  });
});
