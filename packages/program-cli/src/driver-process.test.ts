import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { RpcClient, RpcError } from '@virtnet/host-ipc';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type StartedDriver, startDriver, whileThere } from './driver-process.js';

const OVER = -104;
const LOOK_MS = 10;
const PATIENCE_MS = 20_000;

describe('a call of the host\u2019s driver', () => {
  let directory: string;
  let path: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'vn-driver-'));
    path = join(directory, 'driver.ipc');
  });
  afterEach(() => rmSync(directory, { recursive: true }));

  it('of one that ended after it was looked for: fails as when it ends meanwhile, and waits for no other', async () => {
    const client = new RpcClient(path);
    const error = await whileThere(path, client, client.call('driver.sync', {}), LOOK_MS).catch(
      (reason: unknown) => reason,
    );
    expect(error).toBeInstanceOf(RpcError);
    expect((error as RpcError).errno).toBe(OVER);
  });

  it('of one that lives: is given the time it needs', async () => {
    const server = createServer((socket) => void socket.on('error', () => {})).listen(path);
    let closed = false;
    const client = { close: () => (closed = true) };
    const answer = new Promise<string>((resolve) => setTimeout(() => resolve('done'), 10 * LOOK_MS));
    expect(await whileThere(path, client, answer, LOOK_MS)).toBe('done');
    expect(closed).toBe(false);
    server.close();
  });
});

describe('the start of the host\u2019s driver', () => {
  let vfeRun: string;
  let driverIpc: string;
  const servers: Server[] = [];
  beforeEach(() => {
    vfeRun = mkdtempSync(join(tmpdir(), 'vn-driver-'));
    driverIpc = join(vfeRun, 'driver.ipc');
  });
  afterEach(async () => {
    for (const server of servers.splice(0)) server.close();
    rmSync(vfeRun, { recursive: true });
  });

  const listening = async (path: string): Promise<Server> => {
    const server = createServer((socket) => socket.on('error', () => {})).listen(path);
    servers.push(server);
    await once(server, 'listening');
    return server;
  };
  const holding = () => listening(join(vfeRun, 'driver.lock'));
  const answering = () => listening(driverIpc);
  const startWith = (start: (number: number) => StartedDriver, patienceMs = PATIENCE_MS) => {
    let starts = 0;
    const begun = startDriver({ vfeRun, driverIpc }, performance.now() + patienceMs, () => start(++starts));
    return begun.then(() => starts);
  };
  const several = () => sleep(10 * LOOK_MS);

  it('while another one starts: waits until that one answers', async () => {
    await holding();
    const started = startWith(() => ({ ended: null }));
    await several();
    await answering();
    expect(await started).toBe(0);
  });

  it('at the same time as another one, which came first: waits until that one answers', async () => {
    const own: { ended: string | null } = { ended: null };
    const started = startWith(() => own);
    await several();
    await holding();
    own.ended = 'exit code 1';
    await several();
    await answering();
    expect(await started).toBe(1);
  });

  it('while another one ends: starts one when that is gone', async () => {
    const other = await holding();
    const started = startWith(() => {
      void answering();
      return { ended: null };
    });
    await several();
    other.close();
    expect(await started).toBe(1);
  });

  it('that fails, with nobody else there, is told at once', async () => {
    await expect(startWith(() => ({ ended: 'exit code 1' }))).rejects.toThrow(
      'does not start: exit code 1; see ',
    );
  });

  it('that takes too long is told, too', async () => {
    await expect(startWith(() => ({ ended: null }), LOOK_MS)).rejects.toThrow(
      'does not start: no answer; see ',
    );
    await holding();
    await expect(startWith(() => ({ ended: null }), LOOK_MS)).rejects.toThrow(
      'does not start: no answer; see ',
    );
  });
});
