/** LAG: one RDMA device for both ports, and devices that follow the bond behind it. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { Service } from './lib/service.ts';
import { endsCleanly, useScene } from './lib/use-scene.ts';
import { until } from './lib/waiting.ts';

const PATIENCE_MS = 60_000;
const BOND = 'bond0';
const BOND_MTU = 2000;
const FIRMWARE = ['VIRTIO_NET_EMULATION_NUM_PF=1', 'PCI_SWITCH_EMULATION_NUM_PORT=2'];
/** The guide's file for LAG, and what is behind the bond. */
const CONF = {
  ib_dev_lag: 'mlx5_bond_0',
  ib_dev_for_static_pf: 'mlx5_bond_0',
  is_lag: 1,
  software: { uplinks: { mlx5_bond_0: BOND } },
};

/** A bond of Linux, or a bridge in its place where the kernel has no bonding: who follows it looks at its link and MTU. */
const used = useScene(async (scene) => {
  const { net } = scene;
  await net.ip(`link add ${BOND} type bond`).catch(() => net.ip(`link add ${BOND} type bridge`));
  await net.ip('link add port0 type veth peer name wire0');
  await net.ip(`link set port0 master ${BOND}`);
  await net.ip(`link set ${BOND} mtu ${BOND_MTU}`);
  for (const name of [BOND, 'port0', 'wire0']) await net.ip(`link set ${name} up`);
  const service = await Service.start(scene, { conf: CONF });
  await service.bootWith(FIRMWARE);
  return { service };
});

interface Listed {
  readonly link_status: string;
  readonly mac: string;
  readonly mtu: string;
  readonly sf_parent_device: string;
  readonly sf_rep_net_device: string;
}

async function listed(): Promise<readonly Listed[]> {
  return (await used.value.service.answer<{ devices: Listed[] }>('list')).devices;
}

describe('LAG', () => {
  test('the bond manages the emulation, has the static PF, and takes the place of both ports', async () => {
    const { service } = used.value;
    const { controller, devices } = await service.answer<{
      controller: { emulation_manager: string };
      devices: Listed[];
    }>('list');
    expect(controller.emulation_manager).toBe('mlx5_bond_0');
    expect(devices.map(({ sf_rep_net_device }) => sf_rep_net_device)).toEqual(['en3f0pf0sf1000']);
    const rest = ['-m', '0C:C4:7A:FF:22:93', '-n', '3', '-s', '256'];
    for (const port of ['mlx5_0', 'mlx5_1']) {
      const { stdout } = await service.virtnet('hotplug', '-i', port, '-t', '1500', ...rest);
      expect(JSON.parse(stdout)).toMatchObject({ errno: -1012 });
    }
    const { stdout } = await service.virtnet(
      'hotplug',
      '-i',
      'mlx5_bond_0',
      '-t',
      `${BOND_MTU + 1}`,
      ...rest,
    );
    expect(JSON.parse(stdout)).toMatchObject({ errno: -1011 });
    expect(await service.answer('hotplug', '-i', 'mlx5_bond_0', '-t', `${BOND_MTU}`, ...rest)).toMatchObject({
      errno: 0,
      sf_rep_net_device: 'en3f0pf0sf2000',
    });
  });

  test('the link of the devices follows the bond', async () => {
    const { net } = used.scene;
    const links = async () => (await listed()).map(({ link_status }) => link_status);
    await until('the link is up', PATIENCE_MS, async () => (await links()).every((link) => link === '1'));
    await net.ip('link set wire0 down'); // the bond has no port any more that has a link
    await until('the link is down', PATIENCE_MS, async () => (await links()).every((link) => link === '0'));
    await net.ip('link set wire0 up');
    await until('the link is up', PATIENCE_MS, async () => (await links()).every((link) => link === '1'));
    expect(await links()).toHaveLength(2);
  });

  test('ended, and begun again as the guide says > the functions follow it, and none is lost', async () => {
    const { service } = used.value;
    const shown = async () =>
      (await listed()).map(({ mac, mtu, sf_parent_device: on }) => ({ mac, mtu, on }));
    const before = await shown();
    const startWith = async (conf: object) => {
      await service.stop();
      writeFileSync(join(service.root, 'opt/mellanox/mlnx_virtnet/virtnet.conf'), JSON.stringify(conf));
      await service.startAgain();
    };
    await startWith({});
    expect(await shown()).toEqual([{ ...before[0]!, on: 'mlx5_0' }]);
    const log = readFileSync(used.scene.path('controller.log'), 'utf8');
    expect(log).toMatch(/"errno":-1012.*could not be made again/);
    await startWith(CONF);
    expect(await shown()).toEqual(before);
    expect(before.map(({ mtu, on }) => [mtu, on])).toContainEqual([`${BOND_MTU}`, 'mlx5_bond_0']);
  });
});

endsCleanly(used);
