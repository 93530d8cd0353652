import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  accept,
  close,
  closeAll,
  connect,
  DESCRIPTORS_RESERVED,
  descriptorsAreScarce,
  eventfd,
  listen,
  Poller,
} from '@virtnet/host-linux';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { connectEndpoint, type Endpoint, listenEndpoint, retryDelayMs } from './endpoint.js';

let directory: string;
let path: string;
let poller: Poller;
let endpoint: Endpoint | null;
let connections: number[];

beforeEach(() => {
  directory = mkdtempSync('/tmp/vhost-endpoint-');
  path = join(directory, 'vhost.sock');
  poller = new Poller();
  poller.start();
  endpoint = null;
  connections = [];
});
afterEach(async () => {
  endpoint?.close();
  for (const fd of connections) close(fd);
  await poller.stop();
  rmSync(directory, { recursive: true });
});

const options = () => ({ path, poller, onConnection: (fd: number) => void connections.push(fd) });

function listening(): Endpoint {
  const result = listenEndpoint(options());
  if (typeof result === 'number') throw new Error(`listen: ${result}`);
  endpoint = result;
  return result;
}

describe('endpoint', () => {
  test('retry delay > 100 ms for the first attempts, then longer, never more than a second', () => {
    expect([1, 5, 10].map(retryDelayMs)).toEqual([100, 100, 100]);
    expect([11, 12, 13, 14, 100_000].map(retryDelayMs)).toEqual([200, 400, 800, 1000, 1000]);
  });

  test('listening > a second frontend waits until the first has ended', async () => {
    const e = listening();
    const [first, second] = [connect(path, 'stream'), connect(path, 'stream')];
    await expect.poll(() => connections.length).toBe(1);
    await new Promise((resolve) => setTimeout(resolve, 30));
    expect(connections.length).toBe(1);
    e.next();
    await expect.poll(() => connections.length).toBe(2);
    close(first);
    close(second);
  });

  test('listening while descriptors are scarce > a frontend waits in the backlog, nobody asks all the time', async () => {
    const before = /^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))![1];
    const limit = (most: number | string) =>
      execFileSync('prlimit', ['--pid', `${process.pid}`, `--nofile=${most}:`]);
    let events = 0;
    vi.spyOn(poller, 'watch').mockImplementationOnce((fd, interest, ready) =>
      Poller.prototype.watch.call(poller, fd, interest, (event) => {
        events += 1;
        ready(event);
      }),
    );
    listening();
    limit(readdirSync('/proc/self/fd').length + 2 * DESCRIPTORS_RESERVED);
    const taken: number[] = [];
    while (!descriptorsAreScarce()) taken.push(eventfd()); // also numbers that others left free
    try {
      const frontend = connect(path, 'stream');
      await expect.poll(() => events).toBeGreaterThan(0);
      await new Promise((resolve) => setTimeout(resolve, 100));
      expect(connections).toEqual([]);
      expect(events).toBe(1);
      limit(before!);
      await expect.poll(() => connections.length, { timeout: 10_000 }).toBe(1);
      close(frontend);
    } finally {
      closeAll(taken);
      limit(before!);
    }
  });

  test('listening > a stale socket file is replaced, a living one or another file is not, and close removes ours', () => {
    const stale = listen(path, 'stream');
    close(stale);
    expect(existsSync(path)).toBe(true);
    listening();
    expect(listenEndpoint(options())).toBeLessThan(0);
    endpoint!.close();
    expect(existsSync(path)).toBe(false);
    writeFileSync(path, 'precious');
    expect(listenEndpoint(options())).toBeLessThan(0);
    expect(existsSync(path)).toBe(true);
  });

  test('connecting > finds a frontend that starts late, and again after a loss, but not before 100 ms (U2, U4)', async () => {
    endpoint = connectEndpoint(options());
    await new Promise((resolve) => setTimeout(resolve, 150));
    expect(connections).toEqual([]);
    const listener = listen(path, 'stream');
    await expect.poll(() => connections.length).toBe(1);
    close(accept(listener)); // a frontend that dies in the middle of things
    const lostAt = performance.now();
    endpoint.next();
    await expect.poll(() => connections.length).toBe(2);
    expect(performance.now() - lostAt).toBeGreaterThanOrEqual(95);
    close(listener);
  });

  test('closed while retrying > no attempt follows', async () => {
    endpoint = connectEndpoint(options());
    await new Promise((resolve) => setTimeout(resolve, 20));
    endpoint.close();
    const listener = listen(path, 'stream');
    await new Promise((resolve) => setTimeout(resolve, 250));
    expect(connections).toEqual([]);
    close(listener);
  });
});
