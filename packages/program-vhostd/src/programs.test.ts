import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { virtnetPaths } from '@virtnet/host-ipc';
import { Poller } from '@virtnet/host-linux';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { TestFunction } from './test-support/test-function.js';
import { TestFunctionServer } from './test-support/test-function-server.js';
import { TestMachine } from './test-support/test-machine.js';

const bin = (name: string) => fileURLToPath(new URL(`../bin/${name}`, import.meta.url));
const BDF = '0000:15:00.0';

let root: string;
let daemon: ChildProcess;
let poller: Poller;
let server: TestFunctionServer;
let fn: TestFunction;
let errors = '';
let paths: ReturnType<typeof virtnetPaths>;

function start(): ChildProcess {
  return spawn(bin('vfe-vhostd'), { env: { ...process.env, VIRTNET_ROOT: root } });
}

function ready(child: ChildProcess): Promise<void> {
  return new Promise((resolve, reject) => {
    child.stdout!.on('data', (text) => String(text).includes('ready\n') && resolve());
    child.on('exit', (code) => reject(new Error(`exit ${code}`)));
  });
}

/** Runs the CLI without blocking this process, which serves the function. */
function cli(words: string[], input = ''): Promise<{ code: number | null; out: string; err: string }> {
  return new Promise((resolve) => {
    const child = spawn(bin('vfe-vhost-cli'), words, { env: { ...process.env, VIRTNET_ROOT: root } });
    let out = '';
    let err = '';
    child.stdout.on('data', (text) => {
      out += text;
    });
    child.stderr.on('data', (text) => {
      err += text;
    });
    child.on('close', (code) => resolve({ code, out, err }));
    child.stdin.end(input);
  });
}

beforeAll(async () => {
  root = mkdtempSync('/tmp/vfe-');
  paths = virtnetPaths(root);
  poller = new Poller();
  poller.start();
  fn = new TestFunction();
  server = new TestFunctionServer(paths.pciSocket(BDF), poller, fn);
});
afterAll(async () => {
  daemon?.kill('SIGKILL');
  server.end();
  await poller.stop();
  rmSync(root, { recursive: true });
});

describe('vfe-vhostd and vfe-vhost-cli', () => {
  test('no daemon > the CLI says so, exit code 1', async () => {
    const { code, out, err } = await cli(['version']);
    expect({ code, out }).toEqual({ code: 1, out: '' });
    expect(err).toMatch(/^ERR: Can't connect to vhostd: .*\n {5}VDPA is not ready to accept commands\n$/);
  });

  test('started > says ready, has its pid in a file and its own name', async () => {
    daemon = start();
    daemon.stderr!.on('data', (text) => {
      errors += text;
    });
    await ready(daemon);
    expect(Number(readFileSync(paths.vfePidFile('vhostd'), 'utf8'))).toBe(daemon.pid);
    expect(readFileSync(`/proc/${daemon.pid}/comm`, 'utf8')).toBe('vfe-vhostd\n');
  });

  test('a second one under the same root > refuses to start and leaves the first alone', async () => {
    const second = spawnSync(bin('vfe-vhostd'), { env: { ...process.env, VIRTNET_ROOT: root } });
    expect(second.status).toBe(1);
    expect(String(second.stderr)).toContain('another vfe-vhostd is running');
    expect((await cli(['version'])).code).toBe(0);
  });

  test('vf -a, a machine, vf -i, vf -r > as an operator does it', async () => {
    const socket = join(root, 'vm.sock');
    expect(await cli(['vf', '-a', '15:00.0', '-v', socket])).toEqual({
      code: 0,
      out: '{\n  "errno": 0,\n  "errstr": "Success"\n}\n',
      err: '',
    });
    const machine = TestMachine.connect(socket, poller);
    await machine.boot(4);
    expect(fn.queues.slice(0, 4).every((queue) => queue.enabled)).toBe(true);
    const info = await cli(['vf', '-i', BDF]);
    expect(JSON.parse(info.out).device).toMatchObject({ vf: BDF, configured: true, socket_file: socket });
    expect((await cli(['vf', '-r', BDF])).code).toBe(0);
    await machine.frontend.ended;
    machine.kill();
    await expect.poll(() => fn.heldFds).toBe(0);
    expect((await cli(['vf', '-i', BDF])).code).toBe(1);
  });

  test('several lines on standard input > one command each; one that fails makes the exit code 1', async () => {
    const { code, out } = await cli([], `mgmtpf -a 15:00.0\n\nmgmtpf -l\nvf -i ${BDF}\nmgmtpf -r 15:00.0\n`);
    expect(code).toBe(1);
    expect(out.match(/"errno": -?\d+/g)).toEqual([
      '"errno": 0',
      '"errno": 0',
      '"errno": -1003',
      '"errno": 0',
    ]);
  });

  test('SIGTERM with a machine connected > ends with 0, the function let go, no socket or pid file left', async () => {
    const socket = join(root, 'vm.sock');
    await cli(['vf', '-a', BDF, '-v', socket]);
    const machine = TestMachine.connect(socket, poller);
    await machine.boot(2);
    const exited = new Promise((resolve) => daemon.on('exit', resolve));
    daemon.kill('SIGTERM');
    expect(await exited).toBe(0);
    machine.kill();
    for (const path of [socket, paths.vfeIpc, paths.vfePidFile('vhostd'), join(paths.vfeRun, 'vhostd.lock')])
      expect(existsSync(path), path).toBe(false);
    await expect.poll(() => fn.heldFds).toBe(0);
  });

  test('its log > is JSON, a line each', () => {
    const lines = errors
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as { msg: string; program: string });
    expect(lines.every(({ program }) => program === 'vfe-vhostd')).toBe(true);
    expect(lines.map(({ msg }) => msg)).toContain('frontend connected');
  });

  test('killed, then started again > serves at once', async () => {
    daemon = start();
    await ready(daemon);
    daemon.kill('SIGKILL');
    await new Promise((resolve) => daemon.on('exit', resolve));
    daemon = start();
    await ready(daemon);
    expect((await cli(['vf', '-a', BDF])).code).toBe(0);
  });
});
