import { spawnSync } from 'node:child_process';
import { DEFAULT_CONF } from '@virtnet/engine-control';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { EmulatorService, eventually, type Hotplugged } from './emulator-service.fixture.js';
import { Guest } from './guest.fixture.js';
import { namespaceObstacle } from './network.fixture.js';

const obstacle = namespaceObstacle();
/** On a kernel without bonds an ordinary device has the name of one, which is all that is seen of it. */
const realBond = spawnSync('unshare', ['-n', 'ip', 'link', 'add', 'bond0', 'type', 'bond']).status === 0;
const bond = realBond
  ? 'a bond of the kernel'
  : 'a device in place of a bond, which this kernel does not have';

describe.skipIf(obstacle !== null)(`LAG: mlx5_bond_0 is ${obstacle ?? bond}`, () => {
  let service: EmulatorService;
  let device: Hotplugged;
  let guest: Guest;
  /** Takes the cable out of the bond's only port, or puts it in. */
  const setBond = (up: boolean) => service.network.ip(`link set p0-other ${up ? 'up' : 'down'}`);

  beforeAll(async () => {
    service = await EmulatorService.start({ conf: { ...DEFAULT_CONF, is_lag: 1 } });
    const { network } = service;
    network.ip('link add p0 type veth peer name p0-other');
    network.ip('link set p0-other up');
    if (realBond) {
      network.ip('link add bond0 type bond mode active-backup miimon 20');
      network.ip('link set p0 master bond0');
    } else {
      network.ip('link set p0 name bond0');
    }
    network.ip('link set bond0 up');
    await eventually('a speed of the bond', async () => {
      device ??= await service.hotplug({ ibDevice: 'mlx5_bond_0' });
      const [shown] = (await service.list()).devices;
      return shown?.link_status === '1' && Number(shown.speed) > 0;
    });
    network.ip(`link set ${device.representor} up`);
    guest = await Guest.start(service, device, { events: 4 });
  }, 90_000);
  afterAll(async () => {
    guest?.close();
    await service.end();
  });

  it('the bond manages the emulation; the device is on it, with a representor of port 0', async () => {
    const { controller, devices } = await service.list();
    expect(controller.emulation_manager).toBe('mlx5_bond_0');
    expect(devices).toMatchObject([
      {
        sf_parent_device: 'mlx5_bond_0',
        sf_parent_device_pci_addr: '0000:03:00.0',
        sf_rep_net_device: 'en3f0pf0sf2000',
      },
    ]);
  });

  it('the ports behind the bond are no uplinks', async () => {
    for (const ibDevice of ['mlx5_0', 'mlx5_1'])
      expect(await service.tryHotplug({ ibDevice })).toMatchObject({
        errstr: expect.stringMatching(/port/i),
      });
  });

  it('no device may have a larger MTU than the bond', async () => {
    service.network.ip('link set bond0 mtu 1400');
    const refused = await service.tryHotplug({ ibDevice: 'mlx5_bond_0', mtu: 1401 });
    expect(refused).not.toMatchObject({ errno: 0 });
    const other = await service.hotplug({ ibDevice: 'mlx5_bond_0', mtu: 1400 });
    await service.unplug(other.id);
  });

  it('the driver is told when the bond goes down and comes back, also by a successor', async () => {
    const told = (linkUp: boolean) =>
      eventually(`the configuration interrupt, link ${linkUp ? 'up' : 'down'}`, async () => {
        if (guest.interrupts(0) === 0) return false;
        expect((await guest.driver.config()).status & 1).toBe(linkUp ? 1 : 0);
        return true;
      });
    await eventually('carrier', () => service.network.hasCarrier(device.representor));
    guest.interrupts(0);
    setBond(false);
    await told(false);
    await eventually('no carrier', () => !service.network.hasCarrier(device.representor));
    await service.killActive();
    expect((await guest.driver.config()).status & 1).toBe(0);
    guest.interrupts(0); // a takeover signals every vector once
    setBond(true);
    await told(true);
    await eventually('carrier', () => service.network.hasCarrier(device.representor));
  });
});
