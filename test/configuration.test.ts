/** Keys of virtnet.conf, and commands about everything at once, by what they do to a service that runs. */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { BoundFunction } from './lib/bound-function.ts';
import { Service } from './lib/service.ts';
import { endsCleanly, useScene } from './lib/use-scene.ts';
import { until } from './lib/waiting.ts';

const PATIENCE_MS = 60_000;
const SUCCESS = { errno: 0, errstr: 'Success' };
const FIRMWARE = [
  ...['VIRTIO_NET_EMULATION_ENABLE=1', 'VIRTIO_NET_EMULATION_NUM_PF=2', 'VIRTIO_NET_EMULATION_NUM_VF=4'],
  ...['VIRTIO_NET_EMULATION_NUM_MSIX=10', 'VIRTIO_NET_EMULATION_NUM_VF_MSIX=12', 'SRIOV_EN=1'],
  ...['PCI_SWITCH_EMULATION_ENABLE=1', 'PCI_SWITCH_EMULATION_NUM_PORT=4'],
  ...['PER_PF_NUM_SF=1', 'PF_TOTAL_SF=60', 'PF_BAR2_ENABLE=0', 'PF_SF_BAR_SIZE=8'],
];
const PF0 = '14:00.2';
const PF1 = '14:00.3';
/** The guide's example of features for VFs. */
const VF_FEATURES = 0x230047082bn;
const CONF = {
  single_port: 1,
  recovery: 0,
  sf_pool_percent: 10,
  sf_pool_force_destroy: 0,
  static_pf: { mac_base: '08:11:22:33:44:54' },
  vf: {
    mac_base: '06:11:22:33:44:54',
    features: `0x${VF_FEATURES.toString(16)}`,
    vfs_per_pf: 4,
    max_queue_pairs: 2,
    max_queue_size: 128,
  },
};
const HOTPLUG = ['-m', '0C:C4:7A:FF:22:93', '-t', '1500', '-qp', '1', '-s', '256'];

interface Listed {
  readonly function_type: string;
  readonly vuid: string;
  readonly pci_bdf: string;
  readonly mac: string;
  readonly mtu: string;
  readonly link_status: string;
  readonly speed: string;
  readonly max_queue_pairs: string;
  readonly max_queue_size: string;
  readonly sf_rep_net_device: string;
}

const used = useScene(async (scene) => {
  const service = await Service.start(scene, { conf: CONF });
  await service.bootWith(FIRMWARE);
  return { service };
});

async function host(...words: string[]): Promise<void> {
  const { stdout } = await used.value.service.host(...words);
  expect(JSON.parse(stdout), words.join(' ')).toEqual(SUCCESS);
}

async function asked(...words: string[]): Promise<unknown> {
  return JSON.parse((await used.value.service.virtnet('--json', ...words)).stdout);
}

async function listed(): Promise<readonly Listed[]> {
  return (await used.value.service.answer<{ devices: Listed[] }>('list')).devices;
}
const vfsOf = async (pf: 0 | 1) =>
  (await listed()).filter(({ vuid }) => vuid.includes(pf === 0 ? 'F2VF' : 'F3VF'));

const ours = () => join(used.value.service.root, 'opt/mellanox/mlnx_virtnet');

describe('virtnet.conf', () => {
  test('single_port > there is no mlx5_1', async () => {
    expect(await asked('hotplug', '-i', 'mlx5_1', ...HOTPLUG)).toMatchObject({ errno: -1012 });
    expect(await asked('hotplug', '-i', 'mlx5_0', ...HOTPLUG)).toMatchObject(SUCCESS);
  });

  test('vf > VFs have its addresses, features, queue pairs and queue size, and a driver finds them', async () => {
    const { service } = used.value;
    await host('sriov', PF0, '2');
    await host('sriov', PF1, '2');
    const vfs = [...(await vfsOf(0)), ...(await vfsOf(1))];
    expect(vfs.map(({ mac }) => mac.slice(-2))).toEqual(['54', '55', '58', '59']);
    for (const { mac, ...vf } of vfs) {
      expect(mac).toMatch(/^06:11:22:33:44:/);
      expect(vf).toMatchObject({ max_queue_pairs: '2', max_queue_size: '128' });
    }
    const fn = await BoundFunction.open(service.socket(vfs[0]!.pci_bdf));
    const driver = await fn.start();
    const { offered } = await featuresOf(0);
    expect(offered).toBe(VF_FEATURES & (await supported()));
    expect(driver.features & ~offered).toBe(0n);
    const config = await driver.config();
    expect([config.maxVirtqueuePairs, config.mac5, driver.ring(0).queueSize]).toEqual([2, 0x54, 128]);
    await driver.stop();
    await fn.close();
  });

  async function supported(): Promise<bigint> {
    const { controller } = await used.value.service.answer<{
      controller: { supported_features: { value: string } };
    }>('list');
    return BigInt(controller.supported_features.value);
  }

  async function featuresOf(vf: number): Promise<{ offered: bigint }> {
    const { devices } = await used.value.service.answer<{ devices: { device_feature: { value: string } }[] }>(
      ...['query', '-p', '0', '-v', `${vf}`, '-b'],
    );
    return { offered: BigInt(devices[0]!.device_feature.value) };
  }

  test('sf_pool_force_destroy: 0 > the pool outlives virtnet restart', async () => {
    const { service } = used.value;
    const { net } = used.scene;
    const pooled = async () => {
      const links = (await net.links()).filter(({ ifname }) => /sf3\d{3}$/.test(ifname));
      return links.map(({ ifname, ifindex }) => `${ifname} ${ifindex}`).sort();
    };
    const before = await pooled();
    expect(before).toHaveLength(6);
    await service.virtnet('restart'); // gives up waiting for the new controller on a machine that is very busy
    await until('the restart', PATIENCE_MS, async () => {
      const { stdout } = await service.virtnet('update', '-t');
      return stdout.includes('"status": "inactive"') && stdout.includes('"success"');
    });
    await host('autoprobe', PF0, '1'); // waits for its turn behind a pool that is filled
    expect(await listed()).toHaveLength(7);
    expect(await pooled()).toEqual(before);
  });

  test('modify -a > every device at once, or none of them', async () => {
    const { service } = used.value;
    const shown = async () =>
      (await listed()).map(({ mtu, link_status, speed }) => ({ mtu, link_status, speed }));
    expect(await asked('modify', '-a', 'device', '-l', '0', '-e', '40000')).toEqual(SUCCESS);
    const down = Array.from({ length: 7 }, () => ({ mtu: '1500', link_status: '0', speed: '40000' }));
    expect(await shown()).toEqual(down);
    const links = await used.scene.net.links();
    for (const { sf_rep_net_device: name } of await listed())
      expect(links.find(({ ifname }) => ifname === name)?.flags, name).not.toContain('LOWER_UP');
    const last = (await vfsOf(1)).at(-1)!;
    const fn = await BoundFunction.open(service.socket(last.pci_bdf));
    const driver = await fn.start();
    expect(await asked('modify', '-a', 'device', '-t', '1400')).toMatchObject({ errno: -1005 });
    expect(await shown()).toEqual(down);
    await driver.stop();
    expect(await asked('modify', '-a', 'device', '-t', '1400', '-l', '1')).toEqual(SUCCESS);
    expect(await shown()).toEqual(down.map((row) => ({ ...row, mtu: '1400', link_status: '1' })));
    expect((await driver.config()).mtu).toBe(1400);
    await fn.close();
    expect(await asked('modify', '-a', 'device', '-n', '8')).toMatchObject({ errno: -1010 }); // PFs among them
    expect(await asked('modify', '-a', 'queue', '-e', 'cqe', '-n', '8', '-c', '32')).toEqual(SUCCESS);
  });

  test('recovery: 0 > no file is written, and a start makes only what the firmware says', async () => {
    const { service } = used.value;
    expect(await asked('modify', '-p', '0', 'device', '-m', '02:00:00:00:12:34')).toEqual(SUCCESS);
    const files = () => (existsSync(join(ours(), 'recovery')) ? readdirSync(join(ours(), 'recovery')) : []);
    expect(files()).toEqual([]);
    await service.stop();
    writeFileSync(join(ours(), 'virtnet.conf'), JSON.stringify({ ...CONF, single_port: 0 }));
    await service.startAgain();
    const after = (await listed()).map(({ pci_bdf, mac, mtu }) => `${pci_bdf} ${mac} ${mtu}`);
    expect(after).toEqual([`${PF0} 08:11:22:33:44:54 1500`, `${PF1} 08:11:22:33:44:55 1500`]);
    expect(files()).toEqual([]);
  });

  test('without single_port > mlx5_1 is there, and its representors are of the second port', async () => {
    const answer = await asked('hotplug', '-i', 'mlx5_1', ...HOTPLUG);
    expect(answer).toMatchObject({
      ...SUCCESS,
      sf_rep_net_device: expect.stringMatching(/^en3f1pf1sf2\d{3}$/),
    });
  });
});

describe('virtnet log', () => {
  /** Lines of the emulator and of the state keeper, which are of level info. */
  const LINES = { emulator: /Unload \(1\) VFs finished/g, keeper: /lease granted/g };
  const count = () => {
    const log = readFileSync(used.scene.path('controller.log'), 'utf8');
    return Object.values(LINES).map((line) => [...log.matchAll(line)].length);
  };

  test('-l reaches the emulators and the state keeper, also those that start later', async () => {
    const { service } = used.value;
    const act = async () => {
      await service.recovered(service.killEmu().pid); // by another emulator than was told
      await host('sriov', PF0, '1');
      await host('sriov', PF0, '0');
    };
    await act();
    await until('lines of both', PATIENCE_MS, () => count().every((lines) => lines > 0));
    expect((await service.virtnet('log', '-l', 'err')).code).toBe(0);
    const before = count();
    await act();
    await act();
    expect((await service.virtnet('log', '-l', 'info')).code).toBe(0);
    await host('sriov', PF0, '1');
    await host('sriov', PF0, '0');
    await until('the emulator’s line', PATIENCE_MS, () => count()[0]! > before[0]!);
    expect(count()).toEqual([before[0]! + 1, before[1]]);
    await service.recovered(service.killEmu().pid);
    await until('the keeper’s line', PATIENCE_MS, () => count()[1]! > before[1]!);
  });
});

endsCleanly(used);
