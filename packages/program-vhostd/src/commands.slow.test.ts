import { existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { virtnetPaths } from '@virtnet/host-ipc';
import { Poller, plainReplies } from '@virtnet/host-linux';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { busOf, canonicalBdf } from './bdf.js';
import { VfeCommands } from './commands.js';
import { Registry } from './registry.js';
import { openFds } from './test-support/served-function-fixture.js';
import { TestFunction } from './test-support/test-function.js';
import { TestFunctionServer } from './test-support/test-function-server.js';
import { TestMachine } from './test-support/test-machine.js';

const BDF = '0000:15:00.0';
const success = { errno: 0, errstr: 'Success' };

let root: string;
let poller: Poller;
let servers: TestFunctionServer[];
let registry: Registry;
let commands: VfeCommands;
let paths: ReturnType<typeof virtnetPaths>;

beforeEach(() => {
  root = mkdtempSync('/tmp/vfe-');
  paths = virtnetPaths(root);
  poller = new Poller();
  poller.start();
  servers = [];
  const keeper = { put: () => 0, drop() {}, putPf() {}, dropPf() {}, kept: () => null };
  const log = pino({ level: 'silent' });
  registry = new Registry({ paths, poller, log, client: false, keeper, replies: plainReplies });
  commands = new VfeCommands(registry, { version: '1.2.3', buildTime: 'today' }, () => null);
});
afterEach(async () => {
  await registry.close();
  for (const server of servers) server.end();
  await poller.stop();
  rmSync(root, { recursive: true });
});

function provide(bdf = BDF): TestFunction {
  const fn = new TestFunction();
  servers.push(new TestFunctionServer(paths.pciSocket(bdf), poller, fn));
  return fn;
}

const vf = (params: object) => commands.run('vf', params);
const mgmtpf = (params: object) => commands.run('mgmtpf', params);
const failing = (errno: number, errstr: string) => ({ answer: { errno, errstr }, exitCode: 1 });

describe('PCI addresses', () => {
  test('both forms > become one, in lower case', () => {
    expect(['0000:15:00.0', '15:00.0', '0000:1A:1F.7'].map(canonicalBdf)).toEqual([
      '0000:15:00.0',
      '0000:15:00.0',
      '0000:1a:1f.7',
    ]);
    expect(busOf('0000:15:00.0')).toBe('0000:15');
  });

  test('anything else, paths above all > is no address', () => {
    for (const text of [
      '',
      '15:00',
      '15:00.8',
      '15:20.0',
      '../15:00.0',
      '0000:15:00.0/..',
      '00000:15:00.0',
      '15:00.0\n',
    ])
      expect(canonicalBdf(text), JSON.stringify(text)).toBeNull();
  });
});

describe('vf', () => {
  test('added, shown, listed, removed > with the keys and texts of the original', async () => {
    provide();
    const socket = join(root, 'vm.sock');
    expect(await vf({ add: true, vfdev: '15:00.0', socket_file: socket, uuid: 'u-1' })).toEqual({
      answer: success,
      exitCode: 0,
    });
    const device = {
      vf: BDF,
      probed: true,
      msix_num: '6',
      queue_num: '5',
      queue_size: '256',
      device_feature: expect.objectContaining({
        value: expect.stringMatching(/^0x/),
        '    0': 'VIRTIO_NET_F_CSUM',
        '   32': 'VIRTIO_F_VERSION_1',
      }),
      mtu: '1500',
      mac: '0C:C4:7A:FF:22:93',
      vm_uuid: 'u-1',
      socket_file: socket,
      configured: false,
    };
    const { answer } = await vf({ info: true, vfdev: BDF });
    expect(answer).toEqual({ device, ...success });
    expect(Object.keys(answer)).toEqual(['device', 'errno', 'errstr']);
    expect(Object.keys(answer.device as object)).toEqual(Object.keys(device));
    expect((await vf({ list: true, mgmtpf: BDF })).answer).toEqual({ devices: [device], ...success });
    expect((await vf({ remove: true, vfdev: BDF })).answer).toEqual(success);
    expect(existsSync(socket)).toBe(false);
    expect(await vf({ info: true, vfdev: BDF })).toEqual(failing(-1003, 'VF device not found'));
  });

  test('a running machine > the function is shown as configured', async () => {
    provide();
    const socket = join(root, 'vm.sock');
    await vf({ add: true, vfdev: BDF, socket_file: socket });
    const machine = TestMachine.connect(socket, poller);
    await machine.boot(2);
    expect((await vf({ info: true, vfdev: BDF })).answer.device).toMatchObject({ configured: true });
    machine.kill();
  });

  test('the function is away > only what is known is shown', async () => {
    provide();
    await vf({ add: true, vfdev: BDF, uuid: 'u-2' });
    servers.pop()!.end();
    const device = { vf: BDF, probed: false, vm_uuid: 'u-2', socket_file: join(paths.vfeRun, `vf-${BDF}`) };
    await expect
      .poll(async () => (await vf({ info: true, vfdev: BDF })).answer)
      .toEqual({ device, ...success });
  });

  test('no function, no address, added twice, a socket used twice, a path that cannot be > each its error', async () => {
    expect(await vf({ add: true, vfdev: BDF })).toEqual(failing(-1003, 'VF device not found'));
    expect(await vf({ add: true })).toEqual(failing(-1002, 'Please provide VF name'));
    expect(await vf({ add: true, vfdev: 'eth0' })).toEqual(failing(-1003, 'VF device not found'));
    provide();
    provide('0000:16:00.0');
    const socket = join(root, 'vm.sock');
    await vf({ add: true, vfdev: BDF, socket_file: socket });
    expect(await vf({ add: true, vfdev: BDF })).toEqual(failing(-1014, 'VF device already add'));
    expect(await vf({ add: true, vfdev: '16:00.0', socket_file: socket })).toEqual(
      failing(-1038, 'Vhost socket file already exists'),
    );
    const long = join(root, 'x'.repeat(200));
    expect(await vf({ add: true, vfdev: '16:00.0', socket_file: long })).toEqual(
      failing(-1030, "Can't access vhost socket path"),
    );
    mkdirSync(join(root, 'directory'));
    expect((await vf({ add: true, vfdev: '16:00.0', socket_file: join(root, 'directory') })).exitCode).toBe(
      1,
    );
  });

  test('removed twice, or while it does not answer > is gone each time (U2)', async () => {
    const fn = provide();
    await vf({ add: true, vfdev: BDF, socket_file: join(root, 'vm.sock') });
    const machine = TestMachine.connect(join(root, 'vm.sock'), poller);
    await machine.boot(1);
    fn.gate = new Promise(() => undefined);
    expect((await vf({ remove: true, vfdev: BDF })).answer).toEqual(success);
    expect(await vf({ remove: true, vfdev: BDF })).toEqual(failing(-1003, 'VF device not found'));
    await machine.frontend.ended;
    machine.kill();
  });

  test('fifty times added and removed > no descriptor is left', async () => {
    provide();
    await vf({ add: true, vfdev: BDF });
    await vf({ remove: true, vfdev: BDF });
    await expect.poll(() => servers[0]!.connected).toBe(false);
    const before = openFds();
    for (let i = 0; i < 50; i++) {
      expect((await vf({ add: true, vfdev: BDF })).exitCode).toBe(0);
      expect((await vf({ remove: true, vfdev: BDF })).exitCode).toBe(0);
    }
    await expect.poll(openFds).toBe(before);
  });

  test("no action, two actions, a parameter that is none > the original's words", async () => {
    for (const params of [
      {},
      { vfdev: BDF },
      { add: true, remove: true, vfdev: BDF },
      { debug: true, vfdev: BDF },
      { add: 'yes' },
    ])
      expect(await vf(params)).toEqual({
        answer: { Error: 'Invalid vf parameters in RPC message' },
        exitCode: 1,
      });
    expect((await commands.run('nothing', {})).exitCode).toBe(1);
  });
});

describe('mgmtpf', () => {
  test('added, listed, removed > with the errors of the original', async () => {
    expect(await mgmtpf({ list: true })).toEqual(failing(-1001, 'PF device not found'));
    expect(await mgmtpf({ add: true, dev: BDF })).toEqual(failing(-1001, 'PF device not found'));
    expect(await mgmtpf({ add: true })).toEqual(failing(-1000, 'Please provide PF name'));
    provide();
    expect((await mgmtpf({ add: true, dev: '15:00.0' })).answer).toEqual(success);
    expect(await mgmtpf({ add: true, dev: BDF })).toEqual(failing(-1008, 'PF device already add'));
    expect((await mgmtpf({ list: true })).answer).toEqual({ devices: [{ pf: BDF }], ...success });
    expect((await vf({ list: true, mgmtpf: BDF })).answer).toEqual({ devices: [], ...success });
    await vf({ add: true, vfdev: BDF });
    expect(await mgmtpf({ remove: true, dev: BDF })).toEqual(
      failing(-1013, 'Please remove all VF devices before remove PF'),
    );
    await vf({ remove: true, vfdev: BDF });
    expect((await mgmtpf({ remove: true, dev: BDF })).answer).toEqual(success);
    expect(await mgmtpf({ remove: true, dev: BDF })).toEqual(failing(-1001, 'PF device not found'));
    expect(await vf({ list: true, mgmtpf: BDF })).toEqual(failing(-1001, 'PF device not found'));
  });
});

describe('version', () => {
  test('asked > the daemon tells its own, and that it has no state keeper', async () => {
    const { answer } = await commands.run('version', {});
    expect(answer).toEqual({
      'vfe-vhostd version': '1.2.3',
      'vfe-vhostd build time': 'today',
      'vfe-vhostd-ha version': 'Not Known Due to HA Disconnected',
      'vfe-vhostd-ha build time': 'Not Known Due to HA Disconnected',
      ...success,
    });
  });
});
