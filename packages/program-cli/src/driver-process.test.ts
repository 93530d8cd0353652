import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { RpcClient, RpcError } from '@virtnet/host-ipc';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { whileThere } from './driver-process.js';

const OVER = -104;
const LOOK_MS = 10;

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
