import { statSync } from 'node:fs';
import { Errno } from '@virtnet/wire';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { Dealer, Router } from 'zeromq';
import { catalogue } from './catalogue.js';
import { REQUESTS_OPEN_MAX } from './rpc-caller.js';
import { RpcClient } from './rpc-client.js';
import { ENVELOPE_BYTES_MAX, RpcError } from './rpc-envelope.js';
import { type Handlers, REQUESTS_IN_PROGRESS_MAX, RpcServer } from './rpc-server.js';
import { eventually, type TemporaryRoot, temporaryRoot } from './temporary-root.fixture.js';

let root: TemporaryRoot;
const ends: (() => void | Promise<void>)[] = [];
beforeEach(() => {
  root = temporaryRoot();
});
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
  root.remove();
});

const status = catalogue['ha.status'].sample.result as Awaited<ReturnType<Handlers<'ha'>['ha.status']>>;
async function bind(handlers: Partial<Handlers<'ha'>> = {}): Promise<RpcServer> {
  const server = await RpcServer.bind('ha', root.file('ha.ipc'), {
    'ha.status': () => status,
    'ha.list': () => ({ total: 0, entries: [] }),
    'ha.shutdown': () => ({}),
    'log.level': () => ({}),
    ...handlers,
  });
  ends.push(() => server.close());
  return server;
}
function client(): RpcClient {
  const made = new RpcClient(root.file('ha.ipc'));
  ends.push(() => made.close());
  return made;
}
const errnoOf = (promise: Promise<unknown>) =>
  promise.then(
    () => 0,
    (error: unknown) => (error instanceof RpcError ? error.errno : String(error)),
  );

/** A peer that says what it likes and hears what comes back. */
async function rawRequest(...payloads: (string | Buffer)[]): Promise<unknown[]> {
  const socket = new Dealer({ linger: 0, receiveTimeout: 300 });
  socket.connect(`ipc://${root.file('ha.ipc')}`);
  const replies: unknown[] = [];
  try {
    for (const payload of payloads) await socket.send(payload);
    for (;;) {
      const [reply] = await socket.receive();
      replies.push(JSON.parse(String(reply)));
    }
  } catch {
    return replies; // nothing more came
  } finally {
    socket.close();
  }
}
const envelope = (rest: object) => JSON.stringify({ v: 1, id: 5, name: 'ha.status', params: {}, ...rest });

describe('rpc server', () => {
  it('its socket is 0600, and its file is gone after close', async () => {
    const server = await bind();
    expect(statSync(root.file('ha.ipc')).mode & 0o777).toBe(0o600);
    await server.close();
    expect(() => statSync(root.file('ha.ipc'))).toThrow('ENOENT');
  });

  it('malformed, unknown, unanswered and mistyped requests get an error or nothing, and the next one its answer', async () => {
    const server = await bind();
    const replies = await rawRequest(
      'not json',
      '[]',
      'null',
      envelope({ v: 2 }),
      envelope({ id: -1 }),
      envelope({ name: '__proto__', id: 1 }),
      envelope({ name: 'emu.status', id: 2 }),
      envelope({ params: { surprise: 1 }, id: 3 }),
      Buffer.of(0xff, 0xfe, 0x00),
      envelope({ id: 9 }),
    );
    expect(replies).toEqual([
      { v: 1, id: 5, error: { errno: -Errno.EINVAL, message: expect.any(String) } },
      { v: 1, id: 1, error: { errno: -Errno.ENOSYS, message: expect.any(String) } },
      { v: 1, id: 2, error: { errno: -Errno.ENOSYS, message: expect.any(String) } },
      {
        v: 1,
        id: 3,
        error: { errno: -Errno.EINVAL, message: expect.stringContaining('additional properties') },
      },
      { v: 1, id: 9, result: status },
    ]);
    expect(server.counters).toMatchObject({ requests: 10, malformed: 9 });
  });

  it('a request larger than its message may be is refused; one larger than any costs the connection', async () => {
    const server = await bind();
    const cap = catalogue['ha.status'].requestBytesMax;
    const over = envelope({ padding: 'x'.repeat(cap + ENVELOPE_BYTES_MAX) });
    expect(await rawRequest(over)).toEqual([]);
    expect(server.counters.requests).toBe(0);
    expect(await errnoOf(client().call('ha.status', {}))).toBe(0);
  });

  it('a request of several frames is counted and not answered', async () => {
    const server = await bind();
    const socket = new Dealer({ linger: 0 });
    socket.connect(`ipc://${root.file('ha.ipc')}`);
    await socket.send([envelope({}), 'more']);
    await eventually('the request is counted', () => server.counters.malformed === 1);
    socket.close();
  });

  it('a handler that fails answers its errno, or EIO and no detail', async () => {
    const server = await bind({
      'ha.list': () => {
        throw new RpcError(-Errno.ENOENT, 'no such prefix');
      },
      'ha.shutdown': () => Promise.reject(new TypeError('secret detail')),
    });
    const c = client();
    await expect(c.call('ha.list', { prefix: '', offset: 0, limit: 1 })).rejects.toMatchObject({
      errno: -Errno.ENOENT,
      message: 'no such prefix',
    });
    await expect(c.call('ha.shutdown', {})).rejects.toMatchObject({
      errno: -Errno.EIO,
      message: expect.not.stringContaining('secret'),
    });
    expect(server.counters.failed).toBe(2);
  });

  it('a reply larger than its message may be becomes EMSGSIZE', async () => {
    const entry = { name: 'n'.repeat(200), blobBytes: 0, descriptor: false, ttlWithoutHolderMs: 0 };
    await bind({ 'ha.list': () => ({ total: 1, entries: Array.from({ length: 10_000 }, () => entry) }) });
    expect(await errnoOf(client().call('ha.list', { prefix: '', offset: 0, limit: 1 }))).toBe(
      -Errno.EMSGSIZE,
    );
  });

  it('drained: what it works on is answered, who comes meanwhile is served when it takes connections again', async () => {
    const done = Promise.withResolvers<void>();
    let begun = 0;
    const server = await bind({
      'ha.status': async () => {
        begun += 1;
        await done.promise;
        return status;
      },
    });
    const early = client().call('ha.status', {});
    await eventually('it works', () => begun === 1);
    let drained = false;
    const draining = server.drain().then(() => {
      drained = true;
    });
    const late = client().call('ha.status', {});
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect([begun, drained]).toEqual([1, false]);
    done.resolve();
    expect(await early).toEqual(status);
    await draining;
    expect(begun).toBe(1);
    server.undrain();
    expect(await late).toEqual(status);
  });

  it('past its limit of requests in progress it says EBUSY, and goes on when they are done', async () => {
    const gate = Promise.withResolvers<void>();
    const server = await bind({
      'ha.shutdown': async () => {
        await gate.promise;
        return {};
      },
    });
    const a = client();
    const b = client();
    const held = Array.from({ length: REQUESTS_IN_PROGRESS_MAX }, () => errnoOf(a.call('ha.shutdown', {})));
    await eventually('all are in progress', () => server.counters.requests === REQUESTS_IN_PROGRESS_MAX);
    expect(await errnoOf(b.call('ha.status', {}))).toBe(-Errno.EBUSY);
    gate.resolve();
    expect(new Set(await Promise.all(held))).toEqual(new Set([0]));
    expect(await errnoOf(b.call('ha.status', {}))).toBe(0);
  });
});

describe('rpc client', () => {
  it('a signal that interrupts it while it connects, or connects again, costs nothing', async () => {
    const connect = vi.spyOn(Dealer.prototype, 'connect');
    ends.push(() => connect.mockRestore());
    const interrupt = () =>
      connect.mockImplementationOnce(() => {
        throw Object.assign(new Error('Interrupted system call'), { code: 'EINTR' });
      });
    interrupt();
    interrupt();
    const first = await bind();
    const c = client();
    expect(await c.call('ha.status', {})).toEqual(status);
    expect(connect).toHaveBeenCalledTimes(3);
    interrupt();
    await first.close();
    await eventually('the loss is noticed', () => connect.mock.calls.length === 5);
    await bind();
    expect(await c.call('ha.status', {})).toEqual(status);
  });

  it('a call made before the server exists is answered when it does', async () => {
    const answer = client().call('ha.status', {});
    await bind();
    expect(await answer).toEqual(status);
  });

  it('no server: the call ends at its deadline with ETIMEDOUT', async () => {
    const startedMs = performance.now();
    expect(await errnoOf(client().call('ha.status', {}, { deadlineMs: 80 }))).toBe(-Errno.ETIMEDOUT);
    expect(performance.now() - startedMs).toBeLessThan(1_000);
  });

  it('the caller stood still until after the deadline: what was answered meanwhile counts', async () => {
    await bind();
    const c = client();
    await c.call('ha.status', {});
    const call = c.call('ha.status', {}, { deadlineMs: 100 });
    await new Promise((resolve) => setImmediate(resolve)); // sent
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 500);
    expect(await call).toEqual(status);
  });

  it('a request that reached its deadline before it was sent is never sent', async () => {
    const c = client();
    expect(await errnoOf(c.call('ha.shutdown', {}, { deadlineMs: 30 }))).toBe(-Errno.ETIMEDOUT);
    const server = await bind();
    expect(await errnoOf(c.call('ha.status', {}))).toBe(0);
    expect(server.counters.requests).toBe(1);
  });

  it('the server goes away over a request: ECONNRESET at once, and the next server is found', async () => {
    const first = await bind({ 'ha.shutdown': () => new Promise(() => {}) });
    const c = client();
    const lost = errnoOf(c.call('ha.shutdown', {}));
    await eventually('it has the request', () => first.counters.requests === 1);
    const startedMs = performance.now();
    await first.close();
    expect(await lost).toBe(-Errno.ECONNRESET);
    expect(performance.now() - startedMs).toBeLessThan(1_000);
    await bind();
    expect(await c.call('ha.status', {})).toEqual(status);
  });

  it('the server answers and closes in the same breath: the answer arrives, every time', async () => {
    for (let round = 0; round < 50; round++) {
      const closed = Promise.withResolvers<void>();
      const server = await bind({
        'ha.shutdown': () => {
          setImmediate(() => void server.close().then(closed.resolve));
          return {};
        },
      });
      expect(await client().call('ha.shutdown', {})).toEqual({});
      await closed.promise;
    }
  });

  it('what was sent to a server that went away is not carried out by the next one', async () => {
    const c = client();
    const first = await bind({ 'ha.shutdown': () => new Promise(() => {}) });
    const lost = Array.from({ length: 20 }, () => errnoOf(c.call('ha.shutdown', {})));
    await eventually('one arrived', () => first.counters.requests > 0);
    await first.close();
    const into = errnoOf(c.call('ha.shutdown', {})); // nobody is there
    expect(new Set(await Promise.all(lost))).toEqual(new Set([-Errno.ECONNRESET]));
    let carriedOut = 0;
    await bind({
      'ha.shutdown': () => {
        carriedOut++;
        return {};
      },
    });
    const answered = (await into) === 0 ? 1 : 0; // sent into the end, or queued for the next
    expect(await errnoOf(c.call('ha.status', {}))).toBe(0);
    expect(carriedOut).toBe(answered);
  });

  it('params that do not fit are refused before anything is sent', async () => {
    const server = await bind();
    const c = client();
    expect(await errnoOf(c.call('ha.list', { prefix: 'x'.repeat(201), offset: 0, limit: 1 }))).toBe(
      -Errno.EINVAL,
    );
    expect(server.counters.requests).toBe(0);
  });

  it('a server that answers nonsense: EPROTO for what does not fit, and unknown ids are counted', async () => {
    const router = new Router({ linger: 0 });
    await router.bind(`ipc://${root.file('ha.ipc')}`);
    ends.push(() => router.close());
    const c = client();
    const answer = errnoOf(c.call('ha.status', {}));
    const [identity, request] = await router.receive();
    const { id } = JSON.parse(String(request)) as { id: number };
    const say = (payload: string) => router.send([identity!, payload]);
    await say('garbage');
    await say(JSON.stringify({ v: 1, id: id + 7, result: {} }));
    await say(JSON.stringify({ v: 1, id, error: { errno: 5, message: 'positive' } }));
    await say(JSON.stringify({ v: 1, id, result: { ready: 'yes' } }));
    expect(await answer).toBe(-Errno.EPROTO);
    expect(c.counters).toEqual({ late: 1, malformed: 3 });
  });

  it('more open calls than its limit are refused with ENOBUFS', async () => {
    const c = client();
    const held = Array.from({ length: REQUESTS_OPEN_MAX }, () => errnoOf(c.call('ha.status', {})));
    expect(await errnoOf(c.call('ha.status', {}))).toBe(-Errno.ENOBUFS);
    c.close();
    expect(new Set(await Promise.all(held))).toEqual(new Set([-Errno.ECONNRESET]));
  });
});
