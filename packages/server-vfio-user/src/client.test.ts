import { mkdtempSync, rmSync } from 'node:fs';
import { setImmediate as turn } from 'node:timers/promises';
import { accept, close, closeAll, eventfd, listen, Poller, socketPair } from '@virtnet/host-linux';
import {
  Errno,
  VFIO_USER_CAP_SPARSE_MMAP,
  VfioPciIrq,
  VfioPciRegion,
  VfioUserCommand,
  VfioUserRegionInfo,
  VfioUserSparseMmap,
} from '@virtnet/wire';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { VfioUserClient, type VfioUserClientOptions } from './client.js';
import { VfioUserError } from './client-channel.js';
import { MemoryJournal, openDescriptors, RawClient, until } from './harness.fixture.js';
import { RequestJournal } from './journal.js';
import { CLIENT_REQUESTS_MAX, DATA_TRANSFER_BYTES_MAX } from './limits.js';
import { concat, parseReply, request } from './messages.fixture.js';
import { replyBytes } from './outcome.js';
import { MSIX_VECTORS, RecordingDevice } from './recording-device.fixture.js';
import { ServerConnection } from './server-connection.js';
import { ServerSession } from './session.js';
import { encodeVersion } from './version.js';

let poller: Poller;
let device: RecordingDevice;
const cleanups: (() => void)[] = [];

beforeEach(() => {
  poller = new Poller();
  poller.start();
  device = new RecordingDevice();
});

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) cleanup();
  device.release();
  await poller.stop();
});

function pair(): readonly [number, number] {
  const fds = socketPair('stream');
  if (typeof fds === 'number') throw new Error(`socketpair: errno ${-fds}`);
  return fds;
}

function serveOn(fd: number): ServerConnection {
  const connection = ServerConnection.open({
    fd,
    poller,
    session: new ServerSession(device),
    replyRing: null,
    journal: new RequestJournal(new MemoryJournal()),
    onClose: () => {},
  });
  if (typeof connection === 'number') throw new Error(`open: errno ${-connection}`);
  cleanups.push(() => connection.close());
  return connection;
}

/** A client of a ServerConnection. */
async function connected(options: Partial<VfioUserClientOptions> = {}) {
  const [serverFd, clientFd] = pair();
  const connection = serveOn(serverFd);
  const client = await VfioUserClient.over(clientFd, { poller, ...options });
  cleanups.push(() => client.close());
  return { client, connection };
}

/** A client of a server that the test plays, byte by byte. */
async function strange(capabilities: object = {}, options: Partial<VfioUserClientOptions> = {}) {
  const [serverFd, clientFd] = pair();
  const server = new RawClient(serverFd);
  cleanups.push(() => server.close());
  const connecting = VfioUserClient.over(clientFd, { poller, ...options });
  const first = await nextRequest(server);
  await server.send(replyBytes(first, 0, encodeVersion({ ...capabilities })));
  const client = await connecting;
  cleanups.push(() => client.close());
  return { client, server };
}

async function nextRequest(server: RawClient) {
  const message = await server.receive();
  if (message === null) throw new Error('the client closed');
  return { ...parseReply(message.bytes), fds: message.fds };
}

const rejectsWith = (errno: number) => ({ name: 'VfioUserError', errno });

describe('client and server', () => {
  it('what the device is made of › arrives as the device says it', async () => {
    const { client } = await connected();
    expect(await client.deviceInfo()).toEqual({ ...device.deviceInfo, pci: true });
    expect(await client.regionInfo(VfioPciRegion.CONFIG)).toEqual(device.regionInfo(VfioPciRegion.CONFIG));
    expect(await client.irqInfo(VfioPciIrq.MSIX)).toEqual(device.irqInfo(VfioPciIrq.MSIX));
  });

  it('a mappable region › its areas and a descriptor of its own, none left over from the first, short answer', async () => {
    const { client } = await connected();
    const fd = eventfd();
    const areas = [
      { offset: 0, sizeBytes: 4096 },
      { offset: 8192, sizeBytes: 4096 },
    ];
    device.mmap = { fd, fdOffset: 65536, areas };
    const before = openDescriptors();
    const { mmap } = await client.regionInfo(0);
    expect(mmap).toMatchObject({ fdOffset: 65536, areas });
    expect(openDescriptors()).toBe(before + 1);
    closeAll([fd, mmap?.fd ?? -1]);
  });

  it('region eventfds › shared ones arrive once, and signal the device’s', async () => {
    const { client } = await connected();
    const [one, two] = [eventfd(), eventfd()];
    device.ioFds = [one, two, one].map((fd, i) => ({
      offset: 4 * i,
      sizeBytes: 4,
      fd,
      dataMatch: i === 2 ? 7n : null,
    }));
    const before = openDescriptors();
    const entries = await client.regionIoFds(0);
    expect(entries).toMatchObject(device.ioFds.map(({ fd: _, ...rest }) => rest));
    expect(entries[0]?.fd).toBe(entries[2]?.fd);
    expect(openDescriptors()).toBe(before + 2);
    closeAll([one, two, ...new Set(entries.map(({ fd }) => fd))]);
  });

  it('reads and writes › reach the region; posted ones in order with the others', async () => {
    const { client } = await connected();
    await client.write(0, 16, Uint8Array.of(1, 2, 3, 4));
    await client.write(0, 17, Uint8Array.of(9), { posted: true });
    expect(Array.from(await client.read(0, 16, 4))).toEqual([1, 9, 3, 4]);
  });

  it('several writes in one message › are counted', async () => {
    const { client } = await connected();
    const write = (offset: number) => ({ region: 0, offset, bytes: Uint8Array.of(offset) });
    expect(await client.writeMulti([write(1), write(2), write(3)])).toBe(3);
    expect(device.calls).toHaveLength(3);
    await expect(
      client.writeMulti([{ region: 0, offset: 0, bytes: new Uint8Array(9) }]),
    ).rejects.toMatchObject(rejectsWith(Errno.EINVAL));
  });

  it('memory › mapped with its descriptor, unmapped exactly and all at once', async () => {
    const { client, connection } = await connected();
    const fd = eventfd();
    const region = { iova: 1n << 40n, sizeBytes: 8192, fdOffset: 4096, readable: true, writable: true };
    await client.dmaMap({ ...region, fd });
    await client.dmaMap({ ...region, iova: 0n, fd: null, fdOffset: 0, writable: false });
    await expect(client.dmaMap({ ...region, fd })).rejects.toMatchObject(rejectsWith(Errno.EEXIST));
    expect(connection.session.dmaRanges).toHaveLength(2);
    await client.dmaUnmap({ iova: 1n << 40n, sizeBytes: 8192 });
    await client.dmaUnmapAll();
    expect(device.calls).toEqual([
      'dmaMap(0x10000000000, 8192, fd+4096, rw)',
      'dmaMap(0x0, 8192, no fd, r)',
      'dmaUnmap(0x10000000000, 8192)',
      'dmaUnmap(all)',
    ]);
    closeAll([fd]);
  });

  it('64 eventfds › go in messages of 16', async () => {
    const { client } = await connected();
    const fds = Array.from({ length: MSIX_VECTORS }, () => eventfd());
    const request = { index: VfioPciIrq.MSIX, start: 0, action: 'trigger' } as const;
    await client.setIrqs({ ...request, count: MSIX_VECTORS, data: 'eventfd', fds });
    expect(device.calls).toEqual(
      [0, 16, 32, 48].map((at) => `setIrqs(2, ${at}, 16, trigger, eventfd, 16 fds)`),
    );
    expect(device.held.size).toBe(MSIX_VECTORS);
    await client.setIrqs({ ...request, count: 3, data: 'bool', values: [true, false, true] });
    await client.setIrqs({ ...request, count: 1, data: 'eventfd' });
    await client.setIrqs({ ...request, count: 0, data: 'none' });
    expect(device.calls.slice(4)).toEqual([
      'setIrqs(2, 0, 3, trigger, bool, 101)',
      'setIrqs(2, 0, 1, trigger, eventfd, 0 fds)',
      'setIrqs(2, 0, 0, trigger, none)',
    ]);
    closeAll(fds);
  });

  it('private commands › kick, base and enable reach the device', async () => {
    const { client } = await connected();
    const fd = eventfd();
    expect(client.server.privateCommands).toBe(true);
    await client.queueKick(2, fd);
    await client.queueKick(2, null);
    await client.queueBaseSet(2, 77);
    await client.queueEnable(2, true);
    expect(await client.queueBaseGet(2)).toBe(0x1234);
    await client.reset();
    expect(device.calls).toEqual([
      'queueKick(2, fd, 0)',
      'queueKick(2, no fd, 0)',
      'queueBaseSet(2, 77)',
      'queueEnable(2, true)',
      'queueBaseGet(2)',
      'reset()',
    ]);
    closeAll([fd]);
  });

  it('a client that does not announce them › has no private commands', async () => {
    const { client } = await connected({ announcePrivate: false });
    expect(client.server.privateCommands).toBe(false);
    await expect(client.queueBaseGet(0)).rejects.toMatchObject(rejectsWith(Errno.EOPNOTSUPP));
    expect(device.calls).toEqual([]);
  });

  it('more data than the server takes › EINVAL, nothing is sent', async () => {
    const { client } = await connected();
    const tooMuch = DATA_TRANSFER_BYTES_MAX + 1;
    await expect(client.write(0, 0, new Uint8Array(tooMuch))).rejects.toMatchObject(
      rejectsWith(Errno.EINVAL),
    );
    await expect(client.read(0, 0, tooMuch)).rejects.toMatchObject(rejectsWith(Errno.EINVAL));
    expect(device.calls).toEqual([]);
  });

  it(`${CLIENT_REQUESTS_MAX} requests at once › all answered; one more is refused with ENOBUFS`, async () => {
    const { client } = await connected();
    const reads = Array.from({ length: CLIENT_REQUESTS_MAX }, () => client.read(0, 0, 4));
    await expect(client.read(0, 0, 4)).rejects.toMatchObject(rejectsWith(Errno.ENOBUFS));
    expect(await Promise.all(reads)).toHaveLength(CLIENT_REQUESTS_MAX);
  });

  it('the server ends › requests under way reject with ENOTCONN, later ones too, onClose is told once', async () => {
    const closes: number[] = [];
    const { client, connection } = await connected({ onClose: (errno) => closes.push(errno) });
    device.gate = new Promise(() => {});
    const waiting = client.reset();
    await until(() => connection.busy, 'begun');
    connection.close();
    await expect(waiting).rejects.toMatchObject(rejectsWith(Errno.ENOTCONN));
    await expect(client.reset()).rejects.toBeInstanceOf(VfioUserError);
    expect([closes, client.isOpen]).toEqual([[0], false]);
  });

  it('by path › connects; where nobody listens › ENOENT', async () => {
    const directory = mkdtempSync('/dev/shm/virtnet-client-');
    cleanups.push(() => rmSync(directory, { recursive: true }));
    const path = `${directory}/function.sock`;
    await expect(VfioUserClient.connect(path, { poller })).rejects.toMatchObject(rejectsWith(Errno.ENOENT));
    const listener = listen(path, 'stream');
    const connecting = VfioUserClient.connect(path, { poller });
    serveOn(accept(listener));
    const client = await connecting;
    expect((await client.deviceInfo()).regionCount).toBe(9);
    client.close();
    close(listener);
  });
});

describe('a strange server', () => {
  it('a second answer to a request › is dropped and counted; the next request is not disturbed', async () => {
    const { client, server } = await strange();
    const reset = client.reset();
    const asked = await nextRequest(server);
    await server.send(concat(replyBytes(asked, 0), replyBytes(asked, 0)));
    await reset;
    const again = client.reset();
    await server.send(replyBytes(await nextRequest(server), 0));
    await again;
    expect(client.strayReplies).toBe(1);
  });

  it('no answer in time › ETIMEDOUT; the late one is dropped', async () => {
    const { client, server } = await strange({}, { timeoutMs: 30 });
    const reset = client.reset();
    const asked = await nextRequest(server);
    await expect(reset).rejects.toMatchObject(rejectsWith(Errno.ETIMEDOUT));
    await server.send(replyBytes(asked, 0));
    await until(() => client.strayReplies === 1, 'late reply');
    expect(client.isOpen).toBe(true);
  });

  it('stood still until after the time › an answer that was there by then counts', async () => {
    const { client, server } = await strange({}, { timeoutMs: 50 });
    const reset = client.reset();
    await server.send(replyBytes(await nextRequest(server), 0));
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 300);
    await reset;
  });

  it('an error without a number › EIO', async () => {
    const { client, server } = await strange();
    const reset = client.reset();
    const reply = replyBytes(await nextRequest(server), Errno.EPERM);
    reply[12] = 0;
    await server.send(reply);
    await expect(reset).rejects.toMatchObject(rejectsWith(Errno.EIO));
  });

  it('descriptors nobody asked for › are closed', async () => {
    const { client, server } = await strange();
    const fds = [eventfd(), eventfd()];
    const before = openDescriptors();
    const reset = client.reset();
    await server.send(replyBytes(await nextRequest(server), 0), fds);
    await reset;
    expect(openDescriptors()).toBe(before);
    closeAll(fds);
  });

  it.each([
    ['deviceInfo', (client: VfioUserClient) => client.deviceInfo()],
    ['regionInfo', (client: VfioUserClient) => client.regionInfo(0)],
    ['irqInfo', (client: VfioUserClient) => client.irqInfo(0)],
    ['regionIoFds', (client: VfioUserClient) => client.regionIoFds(0)],
    ['read', (client: VfioUserClient) => client.read(0, 0, 4)],
  ])('%s answered with too few bytes › EPROTO, its descriptors closed', async (_, ask) => {
    const { client, server } = await strange();
    const fd = eventfd();
    const before = openDescriptors();
    const asked = ask(client);
    await server.send(replyBytes(await nextRequest(server), 0, new Uint8Array(3)), [fd]);
    await expect(asked).rejects.toMatchObject(rejectsWith(Errno.EPROTO));
    expect(openDescriptors()).toBe(before);
    closeAll([fd]);
  });

  it.each([
    ['a capability that points to itself', 32, 32, 0],
    ['a capability past the end', 4000, 0, 0],
    ['more areas than bytes', 32, 0, 0xffffffff],
    ['areas past 2^53', 32, 0, 1],
  ])('a region with %s › an answer or EPROTO, never a hang', async (_, capabilityOffset, next, areaCount) => {
    const { client, server } = await strange();
    const fd = eventfd();
    const before = openDescriptors();
    const asked = client.regionInfo(0);
    const id = areaCount === 0 ? 99 : VFIO_USER_CAP_SPARSE_MMAP;
    const body = concat(
      VfioUserRegionInfo.bytes({
        argsz: 32,
        flags: 15,
        index: 0,
        capabilityOffset,
        sizeBytes: 4096n,
        mmapOffset: 0n,
      }),
      VfioUserSparseMmap.bytes({ id, version: 1, next, areaCount, reserved: 0 }),
      new Uint8Array(16).fill(0xff),
    );
    await server.send(replyBytes(await nextRequest(server), 0, body), [fd]);
    const result = await asked.catch((error: VfioUserError) => error.errno);
    const kept = typeof result === 'number' ? 0 : 1;
    expect(openDescriptors()).toBe(before + kept);
    if (typeof result === 'number') expect(result).toBe(Errno.EPROTO);
    else closeAll([result.mmap?.fd ?? -1]);
    closeAll([fd]);
  });

  it('a header that makes no sense › the connection ends with EPROTO', async () => {
    const closes: number[] = [];
    const { client, server } = await strange({}, { onClose: (errno) => closes.push(errno) });
    const reset = client.reset();
    await server.send(request(0, VfioUserCommand.DEVICE_RESET, undefined, { sizeBytes: 3, flags: 1 }));
    await expect(reset).rejects.toMatchObject(rejectsWith(Errno.ENOTCONN));
    expect(closes).toEqual([Errno.EPROTO]);
  });

  it('a request of its own › is answered with EOPNOTSUPP', async () => {
    const { server } = await strange();
    const { errno, messageId } = await server.ask(
      request(0x8001, VfioUserCommand.DMA_READ, new Uint8Array(16)),
    );
    expect([messageId, errno]).toEqual([0x8001, Errno.EOPNOTSUPP]);
  });

  it('a refused version › rejects, and nothing is left open', async () => {
    const [serverFd, clientFd] = pair();
    const server = new RawClient(serverFd);
    const before = openDescriptors();
    const connecting = VfioUserClient.over(clientFd, { poller });
    await server.send(replyBytes(await nextRequest(server), Errno.EINVAL));
    await expect(connecting).rejects.toMatchObject(rejectsWith(Errno.EINVAL));
    expect(openDescriptors()).toBe(before - 1);
    server.close();
  });

  it('one that reads nothing › requests wait and go out later, in order', async () => {
    const { client, server } = await strange({ max_data_xfer_size: 1 << 20 });
    const data = new Uint8Array(256 * 1024).fill(3);
    const writes = [client.write(0, 0, data), client.write(0, 1, data), client.write(0, 2, data)];
    for (let i = 0; i < 20; i++) await turn();
    for (let i = 0; i < 3; i++) {
      const { body, view, ...header } = await nextRequest(server);
      expect([view.getBigUint64(0, true), body.length]).toEqual([BigInt(i), 16 + data.length]);
      await server.send(replyBytes(header, 0, body.subarray(0, 16)));
    }
    await Promise.all(writes);
  });
});
