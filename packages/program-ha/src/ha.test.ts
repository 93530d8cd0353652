import { type ChildProcess, spawn } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, watch } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { RpcClient, ShelfClient, virtnetPaths } from '@virtnet/host-ipc';
import { close, memfdCreate, Poller } from '@virtnet/host-linux';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

const main = fileURLToPath(new URL('../dist/main.cjs', import.meta.url));
const NOBODY = 65_534;
const isRoot = process.getuid?.() === 0;

let root: string;
let poller: Poller;
const ends: (() => void)[] = [];

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'virtnet-ha-'));
  poller = new Poller();
  poller.start();
});
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) end();
  await poller.stop();
  rmSync(root, { recursive: true, force: true });
});

function start(...options: string[]): ChildProcess {
  const child = spawn(process.execPath, [main, '--log-level', 'err', ...options], {
    env: { ...process.env, VIRTNET_ROOT: root },
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  ends.push(() => child.kill('SIGKILL'));
  return child;
}
function exitOf(child: ChildProcess): Promise<number | NodeJS.Signals | null> {
  return new Promise((resolve) => child.on('exit', (code, signal) => resolve(signal ?? code)));
}
function rpc(): RpcClient {
  const client = new RpcClient(virtnetPaths(root).haIpc);
  ends.push(() => client.close());
  return client;
}
function shelf(): ShelfClient {
  const client = new ShelfClient({ path: virtnetPaths(root).haSocket, poller });
  ends.push(() => client.close());
  client.start();
  return client;
}
async function writer(upload: (client: ShelfClient) => void): Promise<ShelfClient> {
  const client = shelf();
  while (!client.connected)
    await new Promise((resolve) => client.once('connected', () => resolve(undefined)));
  expect(await client.lease(() => upload(client))).toBe(0);
  return client;
}
/** Starting may take long on a busy machine. */
const firstStatus = (client = rpc()) => client.call('ha.status', {}, { deadlineMs: 10_000 });
const after = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
const rehearsal = () => `${virtnetPaths(root).haSocket}.rehearsal`;
/** Resolves when a keeper's rehearsal begins. To be asked before it is started: the rehearsal is soon over. */
function rehearsing(): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  mkdirSync(dirname(rehearsal()), { recursive: true, mode: 0o700 });
  const watcher = watch(dirname(rehearsal()), (_, name) => {
    if (name === basename(rehearsal())) resolve();
  });
  ends.push(() => watcher.close());
  return promise;
}
const openFiles = (child: ChildProcess) => readdirSync(`/proc/${child.pid}/fd`).length;

describe('virtio_net_ha', () => {
  it('ends in the middle of its rehearsal, and nothing is left of that either', async () => {
    const begun = rehearsing();
    const child = start();
    const exit = exitOf(child);
    await begun;
    child.kill('SIGTERM');
    expect(await exit).toBe(0);
    expect(existsSync(rehearsal())).toBe(false);
  });

  it('SIGTERM and ha.shutdown: exit 0, nothing left in the run directory', async () => {
    for (const ask of [(child: ChildProcess) => child.kill('SIGTERM'), () => rpc().call('ha.shutdown', {})]) {
      const child = start();
      const exit = exitOf(child);
      expect(await firstStatus()).toMatchObject({ ready: true, pid: child.pid, settled: true });
      await ask(child);
      expect(await exit).toBe(0);
      expect(readdirSync(virtnetPaths(root).run)).toEqual(['pci']);
    }
  });

  it('lists what it holds under names a person can read, page by page', async () => {
    start();
    await writer((client) => {
      for (let index = 0; index < 5; index++)
        client.transaction([{ put: `dev/x/irq/2/${index}`, ttlWithoutHolderMs: index }]);
      client.transaction([{ put: 'dev/x/record', blob: new Uint8Array(900) }]);
    });
    const client = rpc();
    expect(await client.call('ha.list', { prefix: 'dev/x/irq/', offset: 3, limit: 10 })).toEqual({
      total: 5,
      entries: [3, 4].map((index) => ({
        name: `dev/x/irq/2/${index}`,
        blobBytes: 0,
        descriptor: false,
        ttlWithoutHolderMs: index,
      })),
    });
  });

  it('all its clients die: guest memory is let go after the time it may stay, and not a descriptor more', async () => {
    const begun = rehearsing();
    const child = start();
    const client = rpc();
    await firstStatus(client);
    await begun;
    await vi.waitFor(() => expect(existsSync(rehearsal())).toBe(false), { timeout: 20_000 });
    const idle = openFiles(child);
    const fd = memfdCreate('guest memory', 1 << 20);
    ends.push(() => close(fd));
    const w = await writer((self) => {
      for (let index = 0; index < 20; index++)
        self.transaction([{ put: `dev/x/dma/${index}`, fd, ttlWithoutHolderMs: 300 }]);
      self.transaction([{ put: 'dev/x/tap/0', fd }]);
    });
    while ((await client.call('ha.status', {})).descriptors < 21) await after(2);
    expect(openFiles(child)).toBe(idle + 21 + 1); // and the connection
    w.close();
    const diedMs = performance.now();
    while ((await client.call('ha.status', {})).descriptors > 1) await after(5);
    const heldMs = performance.now() - diedMs;
    expect(heldMs).toBeGreaterThan(250);
    expect(heldMs).toBeLessThan(3_000);
    expect(openFiles(child)).toBe(idle + 1);
  });

  it('killed and replaced twice: the writer uploads again each time, and finds every descriptor on its shelf', async () => {
    const fd = memfdCreate('page', 4096);
    ends.push(() => close(fd));
    let child = start();
    await writer((self) => {
      for (let index = 0; index < 300; index++) self.transaction([{ put: `dev/${index}/page`, fd }]);
    });
    for (let round = 0; round < 2; round++) {
      const exit = exitOf(child);
      child.kill('SIGKILL');
      expect(await exit).toBe('SIGKILL');
      child = start('--expect-upload');
      const client = rpc();
      let status = await firstStatus(client);
      while (!status.settled) {
        await after(5);
        status = await client.call('ha.status', {});
      }
      expect(status).toMatchObject({
        pid: child.pid,
        entries: 300,
        descriptors: 300,
        leaseHolderPid: process.pid,
      });
    }
  });

  it.skipIf(!isRoot)(
    'another user: the directory keeps it out, and its credentials do where the directory would not',
    async () => {
      start();
      const client = rpc();
      await firstStatus(client);
      const { run, haSocket } = virtnetPaths(root);
      expect([statSync(run).mode & 0o777, statSync(haSocket).mode & 0o777]).toEqual([0o700, 0o600]);
      const hostLinux = import.meta.resolve('@virtnet/host-linux');
      const probe = `
      import { connect, Receiver } from ${JSON.stringify(hostLinux)};
      process.setgid(${NOBODY});
      process.setuid(${NOBODY});
      const fd = connect(${JSON.stringify(haSocket)}, 'seqpacket');
      if (fd < 0) process.exit(-fd);
      const receiver = new Receiver(64);
      const look = () => {
        const got = receiver.receive(fd);
        if (typeof got === 'object') process.exit(got.bytes.byteLength === 0 ? 200 : 201);
        setTimeout(look, 2);
      };
      look();`;
      const asNobody = () =>
        exitOf(spawn(process.execPath, ['--input-type=module', '-e', probe], { stdio: 'inherit' }));
      expect(await asNobody()).toBe(13); // EACCES
      for (const directory of [root, join(root, 'run'), run]) chmodSync(directory, 0o755);
      chmodSync(haSocket, 0o666);
      expect(await asNobody()).toBe(200); // connected, and shown the door
      expect(await client.call('ha.status', {})).toMatchObject({ clients: 0 });
    },
  );

  it('the socket is taken: it says so and exits with 1, and the one that serves goes on', async () => {
    start();
    const client = rpc();
    const { pid } = await firstStatus(client);
    const second = spawn(process.execPath, [main], { env: { ...process.env, VIRTNET_ROOT: root } });
    ends.push(() => second.kill('SIGKILL'));
    let stderr = '';
    second.stderr.on('data', (chunk) => {
      stderr += chunk;
    });
    expect(await exitOf(second)).toBe(1);
    await vi.waitFor(() => expect(stderr).toContain('cannot listen'), { timeout: 10_000 });
    expect(await client.call('ha.status', {})).toMatchObject({ pid });
    expect(existsSync(virtnetPaths(root).haSocket)).toBe(true);
  });
});
