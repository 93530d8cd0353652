import { closeAll, eventfd } from '@virtnet/host-linux';
import { VfioUserCommand } from '@virtnet/wire';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  MemoryJournal,
  openDescriptors,
  type Serving,
  serve,
  serveNegotiated,
  until,
} from './harness.fixture.js';
import { DATA_TRANSFER_BYTES_MAX } from './limits.js';
import {
  concat,
  dmaMap,
  getInfo,
  parseReply,
  regionRead,
  regionWrite,
  setIrqs,
  version,
} from './messages.fixture.js';
import { RecordingDevice } from './recording-device.fixture.js';
import { ServerSession } from './session.js';

let device: RecordingDevice;
let serving: Serving;
const devices: RecordingDevice[] = [];

beforeEach(async () => {
  device = new RecordingDevice();
  devices.push(device);
  serving = await serveNegotiated(device);
  serving.keep();
});

afterEach(async () => {
  await serving.stop();
  for (const each of devices.splice(0)) each.release();
});

/** The successor: a device of its own, the session as it was saved, the same socket. */
function takeOver(): { device: RecordingDevice; connection: ReturnType<Serving['adopt']> } {
  const successor = new RecordingDevice();
  devices.push(successor);
  const { session } = serving.connection;
  const restored = ServerSession.restore(successor, session.save(), []);
  if (!(restored instanceof ServerSession)) throw new Error(restored.error);
  return { device: successor, connection: serving.adopt(restored) };
}

/** Every reply that comes until the answer to a last question does. */
async function repliesUntil(lastId: number): Promise<number[]> {
  await serving.client.send(getInfo(lastId));
  const ids: number[] = [];
  while (ids.at(-1) !== lastId) {
    const reply = await serving.client.receive();
    if (reply === null) throw new Error('connection ended');
    ids.push(parseReply(reply.bytes).messageId);
  }
  return ids;
}

const wholeWrite = regionWrite(11, 0, 4n, Uint8Array.of(0x5a));
const messages: [string, Uint8Array, number][] = [
  ['a write', wholeWrite, 0],
  ['a read', regionRead(11, 0, 4n, 4), 0],
  ['a map with a descriptor', dmaMap(11, 0n, 4096n), 1],
  ['16 eventfds', setIrqs(11, { count: 16 }), 16],
];

describe.each(messages)('a server killed over %s', (_, message, fdCount) => {
  const fds: number[] = [];
  beforeEach(() => {
    fds.push(...Array.from({ length: fdCount }, () => eventfd()));
  });
  afterEach(() => closeAll(fds.splice(0)));

  it('while the device works › the successor works it from the start and answers once', async () => {
    device.gate = new Promise(() => {}); // never opens: its process is dead
    const reads = message[2] === VfioUserCommand.REGION_READ;
    if (reads) device.read = () => new Promise(() => {});
    const before = openDescriptors();
    await serving.client.send(message, fds);
    await until(() => serving.connection.busy, 'begun');
    serving.connection.abandon();
    const successor = takeOver();
    expect(await repliesUntil(99)).toEqual([11, 99]);
    expect(successor.device.calls).toHaveLength(1);
    expect(successor.device.held.size).toBe(fdCount);
    expect(successor.connection.counters.replayed).toBe(0);
    // The dead handler's descriptors would have died with its process; here they stay open, beside its socket.
    expect(openDescriptors()).toBe(before + 1 + 2 * fdCount);
  });

  it('after the record, before the reply › the successor sends the recorded answer and does not call its device', async () => {
    serving.journal.onRecord = () => serving.connection.abandon();
    await serving.client.send(message, fds);
    await until(() => device.calls.length === 1, 'worked');
    const successor = takeOver();
    expect(await repliesUntil(99)).toEqual([11, 99]);
    expect(successor.device.calls).toEqual([]);
    expect(successor.connection.counters.replayed).toBe(1);
    expect(device.held.size).toBe(fdCount);
  });

  it('while the record is not safe yet › nothing was answered, and the successor, which lacks it, works the request again', async () => {
    const { journal, connection, client } = serving;
    const safe = Promise.withResolvers<void>();
    journal.safe = safe.promise;
    await client.send(message, fds);
    await until(() => device.calls.length === 1, 'worked');
    expect(connection.busy).toBe(true);
    connection.abandon();
    journal.records.length = 0; // it ended with its process
    journal.safe = null;
    const successor = takeOver();
    safe.resolve();
    expect(await repliesUntil(99)).toEqual([11, 99]);
    expect(successor.device.calls).toHaveLength(1);
    expect(successor.connection.counters.replayed).toBe(0);
  });

  it('no kill, a record that is safe late › the reply goes out then, and what stands behind it is worked after it', async () => {
    const { journal, client } = serving;
    const safe = Promise.withResolvers<void>();
    journal.safe = safe.promise;
    await client.send(message, fds);
    await until(() => device.calls.length === 1, 'worked');
    await client.send(message, fds);
    for (let turns = 0; turns < 10; turns++) await new Promise((resolve) => setImmediate(resolve));
    client.poll();
    expect([device.calls.length, client.pending]).toEqual([1, 0]);
    journal.safe = null;
    safe.resolve();
    expect(await repliesUntil(99)).toEqual([11, 11, 99]);
  });

  it('after the reply, before it is counted as finished › the successor answers only what comes next', async () => {
    const { journal } = serving;
    const finished = journal.finished;
    await serving.client.send(message, fds);
    await until(() => journal.finished > finished, 'finished');
    serving.connection.abandon();
    journal.finished = finished; // the store that the kill prevented
    const successor = takeOver();
    expect(await repliesUntil(99)).toEqual([11, 99]);
    expect(successor.device.calls).toEqual([]);
    expect(successor.connection.counters.replayed).toBe(0);
  });

  it('having read k bytes of it, for every k › the successor reads all of it', async () => {
    for (let length = 1; length < message.length; length++) {
      const { connection, client } = serving;
      const partials = connection.counters.partialWaits;
      await client.send(message.subarray(0, length), fds);
      await until(() => connection.counters.partialWaits > partials, 'read in part');
      connection.abandon();
      const successor = takeOver();
      await client.send(message.subarray(length));
      expect(await repliesUntil(99)).toEqual([11, 99]);
      expect(successor.device.calls).toHaveLength(1);
      expect(successor.device.held.size).toBe(fdCount);
      successor.connection.close();
      await serving.stop();
      device = new RecordingDevice();
      devices.push(device);
      serving = await serveNegotiated(device);
      serving.keep();
    }
  }, 30_000);
});

describe('a server killed', () => {
  it('over a posted write, after the record › the successor does not apply it again', async () => {
    serving.journal.onRecord = () => serving.connection.abandon();
    await serving.client.send(regionWrite(5, 0, 0n, Uint8Array.of(1), { posted: true }));
    await until(() => device.calls.length === 1, 'worked');
    const successor = takeOver();
    expect(await repliesUntil(99)).toEqual([99]);
    expect(successor.device.calls).toEqual([]);
  });

  it('over a posted write, before the record › the successor applies it', async () => {
    device.gate = new Promise(() => {});
    await serving.client.send(regionWrite(5, 0, 0n, Uint8Array.of(1), { posted: true }));
    await until(() => serving.connection.busy, 'begun');
    serving.connection.abandon();
    const successor = takeOver();
    expect(await repliesUntil(99)).toEqual([99]);
    expect(successor.device.calls).toEqual(['write(0, 0, 01)']);
  });

  it('with the reply waiting for a client that does not read › the successor delivers it, once', async () => {
    device.regions.set(0, new Uint8Array(DATA_TRANSFER_BYTES_MAX));
    for (let i = 0; i < 32; i++)
      await serving.client.send(regionRead(100 + i, 0, 0n, DATA_TRANSFER_BYTES_MAX));
    await until(() => serving.connection.counters.sendWaits === 1, 'backpressure');
    const worked = device.calls.length;
    expect(await serving.connection.detach()).toBe(serving.connection.fd);
    const successor = takeOver();
    successor.device.regions.set(0, new Uint8Array(DATA_TRANSFER_BYTES_MAX));
    expect(await repliesUntil(99)).toEqual([...Array.from({ length: 32 }, (_, i) => 100 + i), 99]);
    expect(successor.connection.counters.replayed).toBe(1);
    expect(successor.device.calls).toHaveLength(32 - worked);
  });

  it('and its successor too, again and again over the same request › still one answer', async () => {
    serving.journal.onRecord = () => serving.connection.abandon();
    await serving.client.send(wholeWrite);
    await until(() => device.calls.length === 1, 'worked');
    for (let i = 0; i < 5; i++) takeOver().connection.abandon();
    const last = takeOver();
    expect(await repliesUntil(99)).toEqual([11, 99]);
    expect(last.device.calls).toEqual([]);
  });

  it('with requests waiting behind › the successor works them all, in order', async () => {
    serving.journal.onRecord = () => serving.connection.abandon();
    const pipelined = Array.from({ length: 20 }, (_, i) => regionWrite(20 + i, 0, 0n, Uint8Array.of(i)));
    await serving.client.send(concat(...pipelined));
    await until(() => device.calls.length === 1, 'worked');
    serving.journal.onRecord = () => {};
    const successor = takeOver();
    expect(await repliesUntil(99)).toEqual([...Array.from({ length: 20 }, (_, i) => 20 + i), 99]);
    expect(successor.device.calls).toHaveLength(19);
  });
});

describe('a connection handed over', () => {
  it('detach() while a request is worked › answers it first; the next owner goes on', async () => {
    let open = () => {};
    device.gate = new Promise((resolve) => {
      open = resolve;
    });
    await serving.client.send(wholeWrite);
    await until(() => serving.connection.busy, 'begun');
    const detached = serving.connection.detach();
    open();
    expect(await detached).toBe(serving.connection.fd);
    const reply = await serving.client.receive();
    expect(reply && parseReply(reply.bytes).messageId).toBe(11);
    const successor = takeOver();
    expect(await repliesUntil(99)).toEqual([99]);
    expect(successor.device.calls).toEqual([]);
    expect(serving.ends).toEqual([]);
  });

  it('detach() of one that has ended › -EBADF', async () => {
    serving.connection.close();
    expect(await serving.connection.detach()).toBe(-9);
  });

  it('a client that starts again after a death between record and count › its VERSION is not taken for answered', async () => {
    const journal = new MemoryJournal();
    const first = serve(device, { journal });
    journal.onRecord = () => first.connection.abandon();
    await first.client.send(version(0));
    await until(() => journal.records.length === 1, 'recorded');
    journal.onRecord = () => {};
    await first.stop();
    const second = serve(device, { journal });
    expect((await second.client.ask(version(0))).errno).toBe(0);
    expect((await second.client.ask(getInfo(1))).errno).toBe(0);
    expect(second.connection.counters.replayed).toBe(0);
    await second.stop();
  });
});
