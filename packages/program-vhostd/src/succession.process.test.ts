/** vfe-vhostd killed with SIGKILL, under vfe-vhostd-ha: what the machine and the function see of it. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { FUNCTION_TIMEOUT_MS } from '@virtnet/driver-virtio-net';
import { virtnetPaths } from '@virtnet/host-ipc';
import { eventfdDrain, eventfdSignal, Poller } from '@virtnet/host-linux';
import { encodeMessage, frontendPayload as payload, u64Of } from '@virtnet/server-vhost-user';
import { featureMask, VhostUserFlags, VhostUserRequest, VirtioFeature } from '@virtnet/wire';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { TEST_FEATURES, TestFunction } from './test-support/test-function.js';
import { TestFunctionServer } from './test-support/test-function-server.js';
import { MIB, TestMachine } from './test-support/test-machine.js';

const R = VhostUserRequest;
const BDF = '0000:15:00.0';
/** Every step and every byte, and not only some of them. */
const EVERY_POINT = process.env.VIRTNET_TEST_ALL_KILL_POINTS !== undefined;
const PATIENCE_MS = 30_000;
const patiently = { timeout: PATIENCE_MS, interval: 5 };
const bin = (path: string) => fileURLToPath(new URL(`../../${path}`, import.meta.url));

/** Calls `onWrite` with the number of each write or reset that it is asked for, before it answers. */
class CountingFunction extends TestFunction {
  writes = 0;
  onWrite: (count: number) => void = () => {};

  override async write(region: number, offset: number, bytes: Uint8Array): Promise<number> {
    this.onWrite(++this.writes);
    return super.write(region, offset, bytes);
  }

  override async reset(): Promise<number> {
    this.onWrite(++this.writes);
    return super.reset();
  }
}

let root: string;
let paths: ReturnType<typeof virtnetPaths>;
let poller: Poller;
let fn: CountingFunction;
let server: TestFunctionServer;
let keeper: ChildProcess;
let log = '';

const pidOf = (name: string) => {
  try {
    return Number(readFileSync(paths.vfePidFile(name), 'utf8'));
  } catch {
    return 0;
  }
};
const socket = () => join(root, 'vm.sock');

function startKeeper(): Promise<void> {
  keeper = spawn(bin('program-ha/bin/vfe-vhostd-ha'), ['--supervise'], {
    env: { ...process.env, VIRTNET_ROOT: root },
  });
  keeper.stderr!.on('data', (text) => {
    log += text;
  });
  return new Promise((resolve, reject) => {
    keeper.stdout!.on('data', (text) => String(text).includes('ready\n') && resolve());
    keeper.on('exit', (code) => reject(new Error(`exit ${code}: ${log}`)));
  });
}

/** Runs the CLI without blocking this process, which serves the function; waits for a daemon that is being started. */
async function cli(...words: string[]): Promise<{ code: number | null; out: string }> {
  for (const until = performance.now() + PATIENCE_MS; ; ) {
    const child = spawn(bin('program-vhostd/bin/vfe-vhost-cli'), words, {
      env: { ...process.env, VIRTNET_ROOT: root },
    });
    let out = '';
    child.stdout.on('data', (text) => {
      out += text;
    });
    const code = await new Promise<number | null>((resolve) => child.on('close', resolve));
    if (out !== '' || performance.now() > until) return { code, out };
  }
}

function killVhostd(): void {
  process.kill(pidOf('vhostd'), 'SIGKILL');
}

async function successorOf(pid: number): Promise<void> {
  await expect.poll(() => pidOf('vhostd'), patiently).not.toBe(pid);
}

beforeAll(async () => {
  root = mkdtempSync('/tmp/vfe-ha-');
  paths = virtnetPaths(root);
  poller = new Poller();
  poller.start();
  fn = new CountingFunction({ features: TEST_FEATURES | featureMask([VirtioFeature.RING_PACKED]) });
  server = new TestFunctionServer(paths.pciSocket(BDF), poller, fn);
  await startKeeper();
  expect((await cli('vf', '-a', BDF, '-v', socket())).code).toBe(0);
}, PATIENCE_MS);
afterAll(async () => {
  for (const name of ['vhostd', 'vhostd-ha']) {
    const pid = pidOf(name);
    try {
      if (pid > 0) process.kill(pid, 'SIGKILL');
    } catch {
      // ended already
    }
  }
  keeper?.kill('SIGKILL');
  server.end();
  await poller.stop();
  rmSync(root, { recursive: true });
});

describe('vfe-vhostd under vfe-vhostd-ha', () => {
  test('killed while nothing is asked > nobody is disconnected, nothing reset, and its successor answers', async () => {
    const machine = TestMachine.connect(socket(), poller);
    await machine.boot(3);
    const { resets } = fn;
    const logged = fn.log.length;
    const former = pidOf('vhostd');
    killVhostd();
    const asked = machine.frontend.getVringBase(1); // sent to nobody
    fn.positions.set(1, 0x8123);
    expect(await asked).toBe(0x8123);
    fn.positions.clear();
    expect(pidOf('vhostd')).not.toBe(former);
    expect(fn.resets).toBe(resets);
    expect(fn.log.slice(logged)).toEqual(['irq 4 fd', 'stop 1', 'irq 1 none', 'kick 1 none']);
    eventfdSignal(fn.irqFds.get(0)!);
    expect(eventfdDrain(machine.calls.get(0)!)).toBeGreaterThan(0);
    expect(JSON.parse((await cli('vf', '-i', BDF)).out).device).toMatchObject({
      probed: true,
      configured: true,
    });
    machine.kill();
    await expect.poll(() => fn.heldFds, patiently).toBe(0);
    expect(server.connections).toBe(1);
  }, 60_000);

  test('killed while the function does not answer for long, as when its service is restarted > asked again, nothing reset', async () => {
    const machine = TestMachine.connect(socket(), poller);
    await machine.boot(2);
    const { connections } = server;
    const { resets } = fn;
    const answers = Promise.withResolvers<void>();
    fn.gate = answers.promise;
    fn.readGate = answers.promise;
    const former = pidOf('vhostd');
    killVhostd();
    await successorOf(former);
    await new Promise((resolve) => setTimeout(resolve, FUNCTION_TIMEOUT_MS + 1_000));
    fn.gate = Promise.resolve();
    fn.readGate = Promise.resolve();
    answers.resolve();
    fn.positions.set(1, 0x8123);
    expect(await machine.frontend.getVringBase(1)).toBe(0x8123);
    fn.positions.clear();
    expect([server.connections, fn.resets]).toEqual([connections, resets]);
    machine.kill();
    await expect.poll(() => fn.heldFds, patiently).toBe(0);
  }, 60_000);

  test('killed after k bytes of a message > the successor takes the rest, once', async () => {
    const machine = TestMachine.connect(socket(), poller);
    await machine.boot(1);
    const flags = VhostUserFlags.VERSION | VhostUserFlags.NEED_REPLY;
    const message = encodeMessage(R.ADD_MEM_REG, flags, payload.singleRegion(machine.region(16n * MIB)));
    const all = Array.from({ length: message.length - 1 }, (_, index) => index + 1);
    for (const bytes of EVERY_POINT ? all : [1, 11, 12, 20, message.length - 1]) {
      const former = pidOf('vhostd');
      const answer = machine.frontend.expect(R.ADD_MEM_REG);
      machine.frontend.raw(message.subarray(0, bytes), [machine.memory]);
      await new Promise((resolve) => setTimeout(resolve, 5));
      killVhostd();
      await successorOf(former);
      machine.frontend.raw(message.subarray(bytes));
      expect(u64Of(await answer)).toBe(0n);
      expect(fn.dma.size).toBe(2);
      expect(
        await machine.frontend.acknowledged(R.REM_MEM_REG, payload.singleRegion(machine.region(16n * MIB))),
      ).toBe(0);
      expect(fn.dma.size).toBe(1);
    }
    expect(machine.frontend.unexpected).toBe(0);
    machine.kill();
    await expect.poll(() => fn.heldFds, patiently).toBe(0);
  }, 300_000);

  test('killed at any step of what a machine asks for > every request is answered once, as if nothing had happened', async () => {
    let kills = 0;
    let steps = 0;
    for (let at = EVERY_POINT ? 1 : 2, killed = true; killed; at += EVERY_POINT ? 1 : 6) {
      killed = false;
      fn.positions.clear();
      const first = fn.writes;
      fn.onWrite = (count) => {
        if (killed || count !== first + at) return;
        killed = true;
        killVhostd();
      };
      const machine = TestMachine.connect(socket(), poller);
      const { frontend } = machine;
      const features = await machine.greet();
      await machine.setFeatures(features);
      expect(await machine.shareMemory(), `killed at ${at}`).toBe(0);
      for (const [index, base] of [0x8005, 0x8006].entries())
        expect(await machine.startRing(index, { base }), `killed at ${at}`).toBe(0);
      expect(fn.queues.slice(0, 3).map(({ enabled, base }) => [enabled, enabled && base])).toEqual([
        [true, 0x8005],
        [true, 0x8006],
        [false, false],
      ]);
      fn.positions.set(0, 0x17);
      expect(
        await frontend.acknowledged(R.ADD_MEM_REG, payload.singleRegion(machine.region(16n * MIB)), [
          machine.memory,
        ]),
      ).toBe(0);
      expect(await frontend.getVringBase(0), `killed at ${at}`).toBe(0x17);
      expect(fn.dma.size).toBe(2);
      expect(fn.queues.map(({ enabled }) => enabled)).toEqual([false, true, false, false, false]);
      expect(await frontend.acknowledged(R.RESET_DEVICE)).toBe(0);
      expect(fn.queues.some(({ enabled }) => enabled)).toBe(false);
      expect(await frontend.getU64(R.GET_QUEUE_NUM)).toBe(4n);
      expect(frontend.unexpected).toBe(0);
      if (killed) kills += 1;
      else steps = fn.writes - first;
      machine.kill();
      await expect.poll(() => fn.heldFds, patiently).toBe(0);
    }
    process.stdout.write(`killed at ${kills} of ${steps} steps\n`);
    fn.onWrite = () => {};
    fn.positions.clear();
    expect(server.connections, log).toBe(1);
  }, 600_000);

  test('the keeper is killed, and then vfe-vhostd > the next keeper was told everything', async () => {
    const machine = TestMachine.connect(socket(), poller);
    await machine.boot(2);
    const former = pidOf('vhostd');
    process.kill(pidOf('vhostd-ha'), 'SIGKILL');
    await new Promise((resolve) => keeper.once('exit', resolve));
    expect(await machine.frontend.getU64(R.GET_STATUS)).toBe(0n);
    expect((await cli('version')).out).toContain('Not Known Due to HA Disconnected');
    await startKeeper();
    await expect.poll(async () => (await cli('version')).out, patiently).not.toContain('HA Disconnected');
    expect(pidOf('vhostd')).toBe(former);
    killVhostd();
    expect(await machine.frontend.getVringBase(0)).toBe(0);
    expect(pidOf('vhostd')).not.toBe(former);
    expect(server.connections).toBe(1);
    machine.kill();
    await expect.poll(() => fn.heldFds, patiently).toBe(0);
  }, 60_000);

  test('the keeper is killed > what is asked is done at once, and answered when the next keeper knows of it', async () => {
    const machine = TestMachine.connect(socket(), poller);
    await machine.boot(1);
    process.kill(pidOf('vhostd-ha'), 'SIGKILL');
    await new Promise((resolve) => keeper.once('exit', resolve));
    const answers: string[] = [];
    const region = payload.singleRegion(machine.region(16n * MIB));
    const added = machine.frontend
      .acknowledged(R.ADD_MEM_REG, region, [machine.memory])
      .then((result) => answers.push(`machine ${result}`));
    const registered = cli('mgmtpf', '-a', BDF).then(({ code }) => answers.push(`operator ${code}`));
    await expect.poll(() => fn.dma.size, patiently).toBe(2);
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(answers).toEqual([]);
    // Whoever changes nothing does not wait.
    expect((await cli('vf', '-i', BDF)).code).toBe(0);
    await startKeeper();
    await Promise.all([added, registered]);
    expect(answers.sort()).toEqual(['machine 0', 'operator 0']);
    const former = pidOf('vhostd');
    killVhostd();
    expect(await machine.frontend.acknowledged(R.REM_MEM_REG, region)).toBe(0);
    expect(pidOf('vhostd')).not.toBe(former);
    expect(fn.dma.size).toBe(1);
    expect((await cli('mgmtpf', '-l')).out).toContain(BDF);
    expect((await cli('mgmtpf', '-r', BDF)).out).toContain('-1013');
    expect(server.connections).toBe(1);
    machine.kill();
    await expect.poll(() => fn.heldFds, patiently).toBe(0);
  }, 60_000);

  test('no keeper comes > after three seconds what is asked is answered all the same', async () => {
    const machine = TestMachine.connect(socket(), poller);
    await machine.boot(1);
    process.kill(pidOf('vhostd-ha'), 'SIGKILL');
    await new Promise((resolve) => keeper.once('exit', resolve));
    const killedMs = performance.now();
    expect(await machine.startRing(1)).toBe(0);
    expect(performance.now() - killedMs).toBeGreaterThan(2_000);
    const answeredMs = performance.now();
    expect(await machine.startRing(2)).toBe(0);
    expect(performance.now() - answeredMs).toBeLessThan(1_000);
    await startKeeper();
    await expect.poll(async () => (await cli('version')).out, patiently).not.toContain('HA Disconnected');
    machine.kill();
    await expect.poll(() => fn.heldFds, patiently).toBe(0);
  }, 60_000);

  test('SIGTERM, again and again > nobody is disconnected, nothing reset, each request answered by who comes next', async () => {
    const machine = TestMachine.connect(socket(), poller);
    await machine.boot(2);
    const { resets } = fn;
    for (let round = 0; round < 3; round++) {
      const former = pidOf('vhostd');
      process.kill(former, 'SIGTERM');
      // Under way, before it has ended, and while nobody is there.
      for (const index of [2, 3, 2]) {
        expect(await machine.startRing(index)).toBe(0);
        expect(await machine.frontend.getVringBase(index)).toBe(0);
      }
      await successorOf(former);
      expect(JSON.parse((await cli('vf', '-i', BDF)).out).device).toMatchObject({ configured: true });
    }
    expect(fn.resets).toBe(resets);
    expect(server.connections).toBe(1);
    expect(machine.frontend.unexpected).toBe(0);
    machine.kill();
    await expect.poll(() => fn.heldFds, patiently).toBe(0);
  }, 60_000);

  test('SIGTERM without a keeper, or SIGINT > everything is let go', async () => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) {
      const machine = TestMachine.connect(socket(), poller);
      await machine.boot(2);
      if (signal === 'SIGTERM') {
        process.kill(pidOf('vhostd-ha'), 'SIGKILL');
        await new Promise((resolve) => keeper.once('exit', resolve));
      }
      process.kill(pidOf('vhostd'), signal);
      await machine.frontend.ended;
      await expect.poll(() => fn.heldFds, patiently).toBe(0);
      expect(existsSync(socket())).toBe(false);
      machine.kill();
      if (signal === 'SIGTERM') await startKeeper();
      expect((await cli('vf', '-i', BDF)).out).toContain('-1003');
      expect((await cli('vf', '-a', BDF, '-v', socket())).code).toBe(0);
    }
  }, 60_000);

  test('both killed at once > the machine is disconnected and the function let go, as without a keeper', async () => {
    const machine = TestMachine.connect(socket(), poller);
    await machine.boot(2);
    process.kill(pidOf('vhostd-ha'), 'SIGKILL');
    killVhostd();
    await machine.frontend.ended;
    await expect.poll(() => fn.heldFds, patiently).toBe(0);
    machine.kill();
    await startKeeper();
    expect((await cli('vf', '-i', BDF)).out).toContain('-1003');
    expect((await cli('vf', '-a', BDF, '-v', socket())).code).toBe(0);
  }, 60_000);

  test('SIGTERM for the keeper that supervises > ends both, and lets everything go', async () => {
    const machine = TestMachine.connect(socket(), poller);
    await machine.boot(2);
    const ended = new Promise((resolve) => keeper.once('exit', resolve));
    keeper.kill('SIGTERM');
    expect(await ended).toBe(0);
    await machine.frontend.ended;
    machine.kill();
    await expect.poll(() => fn.heldFds, patiently).toBe(0);
    expect(existsSync(socket())).toBe(false);
    expect(pidOf('vhostd')).toBe(0);
    expect(pidOf('vhostd-ha')).toBe(0);
  }, 60_000);
});
