/** Functions as network interfaces of the host: the virtio-net driver of virtnet-host, without any virtual machine. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { pinnedNode } from '../scripts/lib/paths.ts';
import { NetworkNamespace } from './lib/netns.ts';
import { isRunning, signalPid } from './lib/processes.ts';
import { TRANSFER_CLIENT_PROGRAM, TRANSFER_PROGRAM } from './lib/programs.ts';
import { Service } from './lib/service.ts';
import { endsCleanly, useScene } from './lib/use-scene.ts';
import { sleep, until } from './lib/waiting.ts';

const PATIENCE_MS = 60_000;
const SUCCESS = { errno: 0, errstr: 'Success' };
const FIRMWARE = [
  ...['VIRTIO_NET_EMULATION_ENABLE=1', 'VIRTIO_NET_EMULATION_NUM_PF=1', 'VIRTIO_NET_EMULATION_NUM_VF=4'],
  ...['VIRTIO_NET_EMULATION_NUM_MSIX=10', 'VIRTIO_NET_EMULATION_NUM_VF_MSIX=12', 'SRIOV_EN=1'],
  ...['PCI_SWITCH_EMULATION_ENABLE=1', 'PCI_SWITCH_EMULATION_NUM_PORT=4'],
  ...['PER_PF_NUM_SF=1', 'PF_TOTAL_SF=64', 'PF_BAR2_ENABLE=0', 'PF_SF_BAR_SIZE=8'],
];
const PF = '14:00.2';
const CARD = 'vnet14s00f2';
const HERE = '10.79.0.1';
const THERE = '10.79.0.2';
/** Longer than the driver waits for an answer. */
const SILENCE_MS = 8_000;
const TRANSFER_BYTES = 96 * 1024 * 1024;

const used = useScene(async (scene) => {
  const service = await Service.start(scene);
  await service.bootWith(FIRMWARE);
  const container = await NetworkNamespace.create(scene.processes);
  scene.atEnd(() => container.end());
  return { scene, service, container };
});

interface Listed {
  readonly vuid: string;
  readonly pci_bdf: string;
  readonly sf_rep_net_device: string;
}

async function host(...words: string[]): Promise<unknown> {
  const { stdout, stderr } = await used.value.service.host(...words);
  if (stdout === '') throw new Error(`virtnet-host ${words.join(' ')}: ${stderr}`);
  return JSON.parse(stdout);
}

/** Names of the host's interfaces that are functions. */
async function cards(): Promise<string[]> {
  const links = await used.scene.net.links();
  return links
    .map(({ ifname }) => ifname)
    .filter((name) => name.startsWith('vnet'))
    .sort();
}

function driverPid(): number | null {
  try {
    const pid = Number(readFileSync(join(used.value.service.root, 'run/vfe/driver.pid'), 'utf8'));
    return isRunning(pid) ? pid : null;
  } catch {
    return null;
  }
}

async function driverOf(bdf: string): Promise<string> {
  const { stdout } = await used.value.service.host('lspci', '-k', '-s', bdf);
  return /Kernel driver in use: (\S+)/.exec(stdout)?.[1] ?? '';
}

async function carrier(): Promise<string> {
  return used.value.container.run([
    'cat',
    `/sys/class/net/${CARD}/carrier`,
    `/sys/class/net/${CARD}/carrier_changes`,
  ]);
}

function driverLog(): string {
  return readFileSync(join(used.value.service.root, 'run/vfe/driver.log'), 'utf8');
}

async function reachesBridge(): Promise<boolean> {
  return (await used.value.container.output(['ping', '-c1', '-W1', HERE])).code === 0;
}

describe('a static PF', () => {
  test('bind virtio-pci > an interface with the function’s MAC and MTU; lspci and ethtool know it', async () => {
    const { service, scene } = used.value;
    expect(await host('bind', '17:00.0', 'virtio-pci')).toMatchObject({ errno: -19 });
    expect(driverPid()).toBeNull();
    expect(await host('bind', PF, 'virtio-pci')).toEqual(SUCCESS);
    expect(await host('bind', PF, 'vfio-pci')).toMatchObject({ errno: -16 });
    const { mac, mtu, status } = await service.query();
    expect(status.value).toBe('0xf');
    expect(await scene.net.link(CARD)).toMatchObject({ address: mac.toLowerCase(), mtu: Number(mtu) });
    expect(await driverOf(PF)).toBe('virtio-pci');
    expect((await service.host('lspci', '-vvv', '-s', PF)).stdout).toContain(
      'Kernel driver in use: virtio-pci',
    );
    const { stdout } = await service.host('ethtool', '-i', CARD);
    expect(stdout).toMatch(/^driver: virtio_net\n/);
    expect(stdout).toContain(`bus-info: 0000:${PF}\n`);
    expect((await service.host('ethtool', '-l', PF)).stdout).toMatch(/maximums:[^C]*Combined: +4\n/);
  });

  test('ethtool -L > the function uses as many queue pairs', async () => {
    const { service } = used.value;
    for (const pairs of [4, 1, 2]) {
      expect(await service.host('ethtool', '-L', CARD, 'combined', `${pairs}`)).toMatchObject({
        code: 0,
        stdout: '',
      });
      expect((await service.query()).ctrl_mq).toBe(`${pairs}`);
      expect((await service.host('ethtool', '-l', CARD)).stdout).toMatch(
        new RegExp(`Combined: +${pairs}\n$`),
      );
    }
    expect(await host('ethtool', '-L', CARD, 'combined', '5')).toEqual({
      errno: -22,
      errstr: 'Invalid argument: combined is 1 to 4',
    });
  });

  test('in a namespace of its own it reaches the bridge of its representor, and TCP survives kill -9 of the emulator', async () => {
    const { service, scene, container } = used.value;
    const { net } = scene;
    const list = await service.answer<{ devices: Listed[] }>('list');
    await net.bridge('br0', `${HERE}/24`);
    await net.enslave(list.devices.find(({ pci_bdf }) => pci_bdf === PF)!.sf_rep_net_device, 'br0');
    await net.ip(`link set ${CARD} netns ${container.holderPid}`);
    await container.quiet(CARD);
    await container.ip(`addr add ${THERE}/24 dev ${CARD}`);
    await container.ip(`link set ${CARD} up`);
    await until('the bridge', PATIENCE_MS, reachesBridge);
    const before = await carrier();
    expect(before).toMatch(/^1\n/);
    const server = scene.processes.start(
      net.inside([pinnedNode, TRANSFER_PROGRAM, `${TRANSFER_BYTES}`, '6001', '6002']),
      { name: 'transfer', stdin: 'pipe' },
    );
    await server.printed(/^ready$/m, PATIENCE_MS);
    const moved = container.output(
      [pinnedNode, TRANSFER_CLIENT_PROGRAM, HERE, `${TRANSFER_BYTES}`, '6001', '6002'],
      { timeoutMs: 4 * PATIENCE_MS },
    );
    moved.catch(() => {}); // awaited below
    await sleep(300);
    const { pid } = service.killEmu();
    const { stdout, stderr, code } = await moved;
    expect([code, stderr]).toEqual([0, '']);
    const sent = await server.printed(/^sent (\d+) ([0-9a-f]+)$/m, PATIENCE_MS);
    const received = await server.printed(/^received (\d+) ([0-9a-f]+)$/m, PATIENCE_MS);
    expect(stdout).toContain(`received ${TRANSFER_BYTES} ${sent[2]}\n`);
    expect(stdout).toContain(`sent ${TRANSFER_BYTES} ${received[2]}\n`);
    server.endInput();
    await service.recovered(pid);
    expect(await carrier()).toBe(before);
  }, 300_000);

  test('its link follows the function’s', async () => {
    const { service } = used.value;
    for (const [link, up] of [
      ['0', '0'],
      ['1', '1'],
    ] as const) {
      await service.answer('modify', '-p', '0', 'device', '-l', link);
      await until('the carrier', PATIENCE_MS, async () => (await carrier()).startsWith(up));
    }
  });

  test('a change of which it asks when nobody answers for eight seconds > it asks again, and keeps the function', async () => {
    const { service } = used.value;
    const before = driverLog();
    const driver = driverPid()!;
    signalPid(driver, 'SIGSTOP');
    await service.answer('modify', '-p', '0', 'device', '-l', '0');
    const silent = (['controller', 'emu-standby', 'emu'] as const).map((role) => service.runningPid(role));
    for (const pid of silent) signalPid(pid, 'SIGSTOP');
    signalPid(driver, 'SIGCONT');
    await sleep(SILENCE_MS);
    for (const pid of silent.reverse()) signalPid(pid, 'SIGCONT');
    await until('no carrier', PATIENCE_MS, async () => (await carrier()).startsWith('0'));
    await service.recovered(-1);
    await service.answer('modify', '-p', '0', 'device', '-l', '1');
    await until('the bridge', PATIENCE_MS, reachesBridge);
    expect(driverLog().slice(before.length)).not.toContain('not driven any more');
  }, 180_000);

  test('restart of the whole service > the interface stays, and carries on', async () => {
    const { service } = used.value;
    expect((await service.controller!.end('SIGTERM', PATIENCE_MS)).code).toBe(0);
    await until('no carrier', PATIENCE_MS, async () => (await carrier()).startsWith('0'));
    await service.startAgain();
    await until('the carrier', PATIENCE_MS, async () => (await carrier()).startsWith('1'));
    const { sf_rep_net_device: representor } = (await service.answer<{ devices: Listed[] }>('list'))
      .devices[0]!;
    await used.scene.net.enslave(representor, 'br0');
    await until('the bridge', PATIENCE_MS, reachesBridge);
  });

  test('the end of its namespace > the interface is back on the host', async () => {
    await used.value.container.end();
    await used.scene.net.waitForLink(CARD, PATIENCE_MS);
  });

  test('unbind > the interface is gone, the function reset, and no driver is left', async () => {
    expect(await host('unbind', PF, 'virtio-pci')).toEqual(SUCCESS);
    expect(await cards()).toEqual([]);
    expect(driverPid()).toBeNull();
    expect((await used.value.service.query()).status.value).toBe('0x0');
    expect(await driverOf(PF)).toBe('');
  });
});

describe('modprobe', () => {
  test('virtio_net binds what is free, and what appears; autoprobe 0 leaves VFs alone', async () => {
    const { service } = used.value;
    expect(await host('modprobe', 'virtio_net')).toEqual(SUCCESS);
    expect(await cards()).toEqual([CARD]);
    expect(await host('sriov', PF, '2')).toEqual(SUCCESS);
    expect(await cards()).toHaveLength(3);
    expect(await host('sriov', PF, '0')).toEqual(SUCCESS);
    expect(await cards()).toEqual([CARD]);
    expect(await host('autoprobe', PF, '0')).toEqual(SUCCESS);
    expect(await host('sriov', PF, '2')).toEqual(SUCCESS);
    expect(await cards()).toEqual([CARD]);
    await service.hotplug({ mac: '0C:C4:7A:FF:22:93', queues: 3 });
    await until('the new function', PATIENCE_MS, async () => (await cards()).length === 2);
  });

  test('VFs as interfaces of two namespaces reach each other, also after kill -9 of the emulator', async () => {
    const { service, scene } = used.value;
    await scene.net.ip('link add br1 type bridge forward_delay 0 stp_state 0 mcast_snooping 0');
    await scene.net.ip('link set br1 up');
    const { devices } = await service.answer<{ devices: Listed[] }>('list');
    const vfs = devices.filter(({ vuid }) => vuid.includes('VF'));
    expect(vfs).toHaveLength(2);
    const ends = await Promise.all(
      vfs.map(async ({ pci_bdf: bdf, sf_rep_net_device: representor }, index) => {
        const card = `vnet${bdf.replace(':', 's').replace('.', 'f')}`;
        await scene.net.enslave(representor, 'br1');
        expect(await host('bind', bdf, 'virtio-pci')).toEqual(SUCCESS);
        const namespace = await NetworkNamespace.create(scene.processes);
        scene.atEnd(() => namespace.end());
        await scene.net.ip(`link set ${card} netns ${namespace.holderPid}`);
        await namespace.quiet(card);
        await namespace.ip(`addr add 10.80.0.${index + 1}/24 dev ${card}`);
        await namespace.ip(`link set ${card} up`);
        return namespace;
      }),
    );
    const reached = async () => (await ends[0]!.output(['ping', '-c1', '-W1', '10.80.0.2'])).code === 0;
    await until('the other VF', PATIENCE_MS, reached);
    const { pid } = service.killEmu();
    await until('the other VF again', PATIENCE_MS, reached);
    await service.recovered(pid);
    for (const namespace of ends) await namespace.end();
    for (const { pci_bdf: bdf } of vfs) expect(await host('unbind', bdf, 'virtio-pci')).toEqual(SUCCESS);
  }, 180_000);

  test('kill -9 of the driver > the next command brings its interfaces back, also bind of one that is bound', async () => {
    const before = await cards();
    for (const command of [
      ['modprobe', 'virtio_net'],
      ['bind', PF, 'virtio-pci'],
    ]) {
      signalPid(driverPid()!, 'SIGKILL');
      await until('no interfaces', PATIENCE_MS, async () => (await cards()).length === 0);
      expect(await host(...command)).toEqual(SUCCESS);
      expect(await cards()).toEqual(before);
    }
    expect(await host('bind', PF, 'virtio-pci')).toMatchObject({ errno: -16 });
  });

  test('-r > no interface, no VF, no driver', async () => {
    expect(await host('modprobe', '-r', 'virtio_net')).toEqual(SUCCESS);
    expect(await cards()).toEqual([]);
    expect(driverPid()).toBeNull();
    const { stdout } = await used.value.service.host('lspci', '-k');
    expect(stdout.trim().split('\n')).toHaveLength(2);
    expect(stdout).not.toContain('Kernel driver');
  });
});

describe('a function that the driver cannot take', () => {
  const vfs = async () => (await used.value.service.host('lspci')).stdout.match(/^14:00\.[^2]/gm);

  test('its PF keeps the VFs that it had without a driver; bind and modprobe say what failed', async () => {
    const { net } = used.scene;
    expect(await host('sriov', PF, '2')).toEqual(SUCCESS);
    const before = await vfs();
    expect(before).toHaveLength(2);
    await net.ip(`link add ${CARD} type bridge`);
    expect(await host('bind', PF, 'virtio-pci')).toMatchObject({ errno: expect.any(Number) });
    const { code, stdout } = await used.value.service.host('modprobe', 'virtio_net');
    expect(code).toBe(1);
    expect((JSON.parse(stdout) as { errstr: string }).errstr).toContain(`0000:${PF}: `);
    expect(await driverOf(PF)).toBe('');
    expect(await vfs()).toEqual(before);
    expect(await cards()).toHaveLength(4); // the two, the hotplug PF, and who took the name
    await net.ip(`link del ${CARD}`);
    expect(await host('bind', PF, 'virtio-pci')).toEqual(SUCCESS);
    expect(await host('modprobe', '-r', 'virtio_net')).toEqual(SUCCESS);
    expect(await vfs()).toBeNull();
  });
});

test('several functions are bound at once while no driver runs > each is an interface, and every command says so', async () => {
  const { devices } = await used.value.service.answer<{ devices: { pci_bdf: string }[] }>('list');
  const bdfs = devices.map(({ pci_bdf }) => pci_bdf);
  expect(bdfs).toHaveLength(2);
  for (const verb of ['bind', 'unbind', 'bind', 'unbind']) {
    if (verb === 'bind') await until('no driver', PATIENCE_MS, () => driverPid() === null);
    const answers = await Promise.all(bdfs.map((bdf) => host(verb, bdf, 'virtio-pci')));
    expect(answers, verb).toEqual([SUCCESS, SUCCESS]);
    expect(await cards()).toHaveLength(verb === 'bind' ? 2 : 0);
  }
});

endsCleanly(used);
