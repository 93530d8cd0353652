import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createLogger, RpcServer, virtnetPaths } from '@virtnet/host-ipc';
import { Poller } from '@virtnet/host-linux';
import { expect, it, onTestFinished, vi } from 'vitest';
import { readRunningBuild } from './builds.js';
import { Child } from './child.js';
import { READY_DEADLINE_MS } from './limits.js';

vi.mock('./limits.js', async (original) => ({
  ...(await original<object>()),
  ...{ READY_DEADLINE_MS: 500, HEALTH_DEADLINE_MS: 100, HEALTH_INTERVAL_MS: 10 },
}));
/** Whatever else this machine does. */
let processorWait = () => 0;
vi.mock('@virtnet/host-linux', async (original) => ({
  ...(await original<object>()),
  processorWaitMs: () => processorWait(),
}));

it('we stood still over the time for getting ready: it is asked once more before it is killed', async () => {
  const root = mkdtempSync(join(tmpdir(), 'virtnet-child-'));
  const { haIpc } = virtnetPaths(root);
  const poller = new Poller();
  poller.start();
  const build = readRunningBuild();
  const spec = { kind: 'ha', instance: 0, ipcPath: haIpc, build, command: [build.mains.ha], root } as const;
  const hooks = { moved: () => {}, died: () => {} };
  const child = new Child({ ...spec, prepares: false }, poller, createLogger('test', 'err'), hooks);
  onTestFinished(async () => {
    child.fence('the test is over');
    await vi.waitFor(() => expect(child.state).toBe('gone'), { timeout: 10_000 });
    await poller.stop();
    rmSync(root, { recursive: true, force: true });
  });
  child.spawn();
  const still = new Int32Array(new SharedArrayBuffer(4));
  for (let waited = 0; waited < 3 || !existsSync(haIpc); waited++)
    Atomics.wait(still, 0, 0, READY_DEADLINE_MS);
  await vi.waitFor(() => expect(child.state).not.toBe('starting'), { timeout: 10_000 });
  expect(child.state).toBe('ready');
});

it('it leaves questions unanswered: killed, but not as long as it waits for a processor', async () => {
  const root = mkdtempSync(join(tmpdir(), 'virtnet-child-'));
  const { haIpc } = virtnetPaths(root);
  let asked = 0;
  const silent = () => {
    asked += 1;
    return new Promise<never>(() => {});
  };
  const others = { 'ha.list': silent, 'ha.shutdown': silent, 'log.level': silent };
  const server = await RpcServer.bind('ha', haIpc, { 'ha.status': silent, ...others });
  const poller = new Poller();
  poller.start();
  const process = spawn('sleep', ['60']);
  const build = readRunningBuild();
  const spec = { kind: 'ha', instance: 0, ipcPath: haIpc, build, command: [], root } as const;
  const hooks = { moved: () => {}, died: () => {} };
  const child = new Child({ ...spec, prepares: false }, poller, createLogger('test', 'err'), hooks);
  onTestFinished(async () => {
    process.kill('SIGKILL');
    await vi.waitFor(() => expect(child.state).toBe('gone'), { timeout: 10_000 });
    await server.close();
    await poller.stop();
    rmSync(root, { recursive: true, force: true });
  });
  let waitedMs = 0;
  processorWait = () => {
    waitedMs += 1_000;
    return waitedMs;
  };
  child.adopt(process.pid ?? 0, 'ready');
  await vi.waitFor(() => expect(asked).toBeGreaterThan(5), { timeout: 20_000 });
  expect(child.state).toBe('ready');
  processorWait = () => waitedMs;
  await vi.waitFor(() => expect(child.state).toBe('gone'), { timeout: 20_000 });
});
