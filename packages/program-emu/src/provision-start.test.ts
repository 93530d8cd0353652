/** What a start makes of files that do not go with each other, with the configuration, or with this build. */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DEFAULT_CONF } from '@virtnet/engine-control';
import { describe, expect, it } from 'vitest';
import { Commands } from './commands.js';
import { hostRequest } from './test-support/command-model.js';
import {
  FIRMWARE,
  files,
  HOTPLUG,
  hotplug,
  listed,
  nextRequest,
  PF0,
  PF1,
  type Row,
  restart,
  SUCCESS,
  sriov,
  started,
  vfs,
  vuids,
} from './test-support/provisioned.js';
import type { TestService } from './test-support/test-service.js';

describe('a start with another configuration of uplinks', () => {
  const HOTPLUG_2 = 'MT2151X03152VNETS1D1F0';
  const uplinks = (service: TestService) =>
    Object.fromEntries(listed(service).map(({ vuid, sf_parent_device }) => [vuid, sf_parent_device]));
  const everywhere = (service: TestService, uplink: string) =>
    Object.fromEntries(listed(service).map(({ vuid }) => [vuid, uplink]));
  const rest = (rows: readonly Row[]) =>
    rows.map(({ sf_parent_device: _, ...row }) => ({
      ...row,
      sf_parent_device_pci_addr: null,
      sf_rep_net_device: null,
    }));
  const startWith = async (service: TestService, change: Parameters<TestService['reconfigure']>[0]) => {
    await service.stop();
    service.reconfigure(change);
    await service.start();
  };
  const modify = (service: TestService, vuid: string) => {
    const request = { requestId: `m${nextRequest()}`, all: false, pf: null, vf: null, vuid };
    return service.commands.modify({ ...request, device: { mtu: 1400, features: '0x100030020' } });
  };
  /** Static PFs, VFs, and a hotplug PF on either port, which was modified. */
  const furnished = async () => {
    const service = await started();
    expect(await sriov(service, PF1, 2)).toEqual(SUCCESS);
    for (const port of ['mlx5_0', 'mlx5_1']) expect(await hotplug(service, port)).toMatchObject(SUCCESS);
    for (const vuid of [HOTPLUG, HOTPLUG_2]) expect(await modify(service, vuid)).toEqual(SUCCESS);
    return service;
  };
  const leftOut = (vuid: string, ibDevice: string) =>
    expect.objectContaining({
      level: 'error',
      msg: 'a hotplug PF could not be made again',
      ...{ errno: -1012, errstr: 'Failed to find port contex', vuid },
      reason: `virtnet.conf has no ${ibDevice}`,
    });

  it('a hotplug that is sent again, of a function that was left out > has its answer, and the function does not come back', async () => {
    const service = await started();
    const request = {
      ...{ requestId: 'sent-again', ibDevice: 'mlx5_1', mac: '0C:C4:7A:FF:22:93', mtu: 1400 },
      ...{ queues: 3, queuePairs: null, queueSize: 256, sfNum: null, features: null, legacy: false },
    };
    const made = await service.commands.hotplug(request);
    expect(made).toMatchObject(SUCCESS);
    const { vuid } = made as { readonly vuid: string };
    await startWith(service, { single_port: 1 });
    expect(service.said).toContainEqual(leftOut(vuid, 'mlx5_1'));
    expect(await service.commands.hotplug(request)).toMatchObject({ errno: -1012 });
    await startWith(service, { single_port: 0 });
    expect(vuids(service)).not.toContain(vuid);
  });

  it('with LAG > all of them are on the bond, and else as they were', async () => {
    const service = await furnished();
    const before = listed(service);
    await startWith(service, { is_lag: 1 });
    expect(uplinks(service)).toEqual(everywhere(service, 'mlx5_bond_0'));
    expect(rest(listed(service))).toEqual(rest(before));
    const file = JSON.parse(readFileSync(join(service.paths.recovery, HOTPLUG_2), 'utf8')) as object;
    expect(file).toMatchObject({ port_ib_dev: 'mlx5_bond_0' });
    expect(service.said.filter(({ level }) => level === 'error')).toEqual([]);
  });

  it('without LAG again > static PFs and VFs are on a port; hotplug PFs of the bond wait for it, whatever is made meanwhile', async () => {
    const service = await furnished();
    await startWith(service, { is_lag: 1 });
    const bonded = listed(service);
    await startWith(service, { is_lag: 0 });
    expect(uplinks(service)).toEqual(everywhere(service, 'mlx5_0'));
    expect(vuids(service)).not.toContain(HOTPLUG);
    for (const vuid of [HOTPLUG, HOTPLUG_2])
      expect(service.said).toContainEqual(leftOut(vuid, 'mlx5_bond_0'));
    expect(await hotplug(service)).toMatchObject({ ...SUCCESS, vuid: 'MT2151X03152VNETS1D2F0' });
    expect(await hotplug(service), 'no port is free').toMatchObject({ errno: -1032 });
    await startWith(service, { is_lag: 1 });
    expect(listed(service).filter(({ vuid }) => !vuid.includes('D2F0'))).toEqual(bonded);
  });

  it('with a single port > a hotplug PF of the other is left out, and is back with it, but not after a power cycle', async () => {
    const service = await furnished();
    const before = listed(service);
    await startWith(service, { single_port: 1 });
    expect(listed(service)).toEqual(before.filter(({ vuid }) => vuid !== HOTPLUG_2));
    expect(service.said).toContainEqual(leftOut(HOTPLUG_2, 'mlx5_1'));
    await new Commands(service.emulator).provision('crash'); // a successor says so, too, and changes nothing
    expect(listed(service)).toHaveLength(before.length - 1);
    await startWith(service, { single_port: 0 });
    expect(listed(service)).toEqual(before);
    await startWith(service, { single_port: 1 });
    expect(await service.commands.host(hostRequest('power-cycle'))).toEqual(SUCCESS);
    expect(files(service)).toHaveLength(2);
    await startWith(service, { single_port: 0 });
    expect(listed(service)).toHaveLength(2);
  });

  it('with another uplink of static PFs > they and their VFs are there, and not the hotplug PFs', async () => {
    const service = await furnished();
    await startWith(service, { ib_dev_for_static_pf: 'mlx5_1' });
    expect(uplinks(service)).toEqual({ ...everywhere(service, 'mlx5_1'), [HOTPLUG]: 'mlx5_0' });
  });

  it('a successor leaves what exists as it is, whatever the files say by then', async () => {
    const service = await furnished();
    const { devices, recovery } = service.paths;
    const hosts = () => [...service.emulator.devices.values()].map(({ host }) => host);
    const before = hosts();
    const plans = before.map(({ plan }) => plan);
    const text = readFileSync(devices, 'utf8');
    writeFileSync(devices, text.replaceAll(/"features":"\w+"/g, '"features":"0x100000000"'));
    for (const name of files(service)) {
      const path = join(recovery, name);
      writeFileSync(path, readFileSync(path, 'utf8').replace(/mlx5_\d/, 'mlx5_bond_0'));
    }
    await new Commands(service.emulator).provision('crash');
    expect(hosts()).toEqual(before);
    expect(hosts().map(({ plan }) => plan)).toEqual(plans);
    expect(readFileSync(devices, 'utf8'), 'the files follow').toBe(text);
  });
});

describe('features that no device can offer', () => {
  const OFFLOADS_ALONE = '0x100000004';
  const NOT_VALID = { errno: -1001, errstr: 'Failed to validate device feature' };
  const UNUSABLE = { errno: -1013, errstr: 'Failed to load config from recovery file' };

  it('modify refuses them, and the device stays', async () => {
    const service = await started();
    const before = listed(service);
    const request = { requestId: 'm', all: false, pf: 0, vf: null, vuid: null };
    const answer = service.commands.modify({ ...request, device: { features: OFFLOADS_ALONE } });
    expect(await answer).toEqual(NOT_VALID);
    expect(listed(service)).toEqual(before);
  });

  it('of VFs, by a configuration that nobody judged: sriov is refused, and the next start has the PFs', async () => {
    const conf = { vf: { ...DEFAULT_CONF.vf, features: OFFLOADS_ALONE } };
    const service = await started({ firmware: FIRMWARE, conf });
    expect(await sriov(service, PF0, 1)).toEqual(NOT_VALID);
    await restart(service);
    expect(vuids(service)).toHaveLength(2);
    expect(await sriov(service, PF0, 0)).toEqual(SUCCESS);
  });

  it.each(['0x0', '0x4', '0x4000100000020'])(
    '%s in devices.json: said, and the functions come back',
    async (mask) => {
      const service = await started();
      expect(await hotplug(service)).toMatchObject(SUCCESS);
      expect(await sriov(service, PF0, 2)).toEqual(SUCCESS);
      const before = listed(service).map(({ vuid, mac }) => [vuid, mac]);
      await service.stop();
      const { devices } = service.paths;
      writeFileSync(
        devices,
        readFileSync(devices, 'utf8').replaceAll(/"features":"\w+"/g, `"features":"${mask}"`),
      );
      await service.start();
      expect(listed(service).map(({ vuid, mac }) => [vuid, mac])).toEqual(before);
      expect(service.said.filter(({ errno }) => errno === UNUSABLE.errno)).toHaveLength(before.length);
      for (const [vuid] of before)
        expect(service.said).toContainEqual(
          expect.objectContaining({ level: 'error', ...UNUSABLE, vuid, saved: mask }),
        );
      const lines = service.said.length;
      await restart(service); // what was saved is what the functions offer now
      expect(service.said.slice(lines).filter(({ level }) => level === 'error')).toEqual([]);
    },
  );
});

describe('a firmware store that cannot be read', () => {
  /** What a start or a successor needs of the store. */
  const furnished = async () => {
    const service = await started();
    expect(await hotplug(service)).toMatchObject(SUCCESS);
    expect(await sriov(service, PF0, 2)).toEqual(SUCCESS);
    expect(await sriov(service, PF1, 1)).toEqual(SUCCESS);
    return service;
  };
  const unreadable = (service: TestService) =>
    service.said.filter(({ level, path }) => level === 'error' && path === service.paths.fwconfig);

  it.each<readonly [string, (text: string) => string]>([
    ['torn', (text) => text.slice(0, text.length / 2)],
    ['with a typo', (text) => text.replace(',', ';')],
    ['of another version', (text) => text.replace('"SRIOV_EN"', '"SRIOV_MORE": 1, "SRIOV_EN"')],
  ])(
    '%s > nothing that was saved is removed, and everything comes back, then and later',
    async (_, damaged) => {
      const service = await furnished();
      const before = listed(service);
      const { fwconfig } = service.paths;
      const text = readFileSync(fwconfig, 'utf8');
      await service.stop();
      writeFileSync(fwconfig, damaged(text));
      await service.start();
      expect(listed(service)).toEqual(before);
      expect(unreadable(service).map(({ msg }) => msg)).toEqual([
        'the firmware store cannot be read',
        'the firmware store cannot be read: nothing that was saved is removed over that',
      ]);
      expect(await sriov(service, PF1, 0)).toEqual(SUCCESS); // something is saved meanwhile
      expect(await sriov(service, PF1, 1)).toEqual(SUCCESS);
      const meanwhile = listed(service);
      await restart(service);
      expect(listed(service)).toEqual(meanwhile);
      expect(readFileSync(fwconfig, 'utf8'), 'left to whoever mends it').toBe(damaged(text));
      writeFileSync(fwconfig, text);
      await restart(service);
      expect(listed(service)).toEqual(meanwhile);
    },
  );

  it('nor can what the functions were made under > what is made goes by the initial values, and the rest is kept', async () => {
    const service = await furnished();
    const before = listed(service);
    const { fwconfig, devices } = service.paths;
    const text = readFileSync(fwconfig, 'utf8');
    await service.stop();
    writeFileSync(fwconfig, '');
    writeFileSync(devices, '');
    await service.start();
    expect(vuids(service)).not.toContain(before[0]!.vuid);
    expect(JSON.parse(readFileSync(devices, 'utf8'))).toMatchObject({ firmware: '' });
    writeFileSync(fwconfig, text);
    await restart(service);
    expect(listed(service)).toEqual(before);
  });

  it('both are lost and then the store is mended > the values are written down, though no function misses anything', async () => {
    const service = await furnished();
    const { fwconfig, devices } = service.paths;
    const text = readFileSync(fwconfig, 'utf8');
    const { firmware } = JSON.parse(readFileSync(devices, 'utf8')) as { firmware: string };
    writeFileSync(fwconfig, '');
    rmSync(devices);
    await new Commands(service.emulator).provision('crash');
    expect(JSON.parse(readFileSync(devices, 'utf8'))).toMatchObject({ firmware: '' });
    writeFileSync(fwconfig, text);
    await new Commands(service.emulator).provision('crash');
    expect(JSON.parse(readFileSync(devices, 'utf8'))).toMatchObject({ firmware });
  });

  it('a successor takes no VF away of which there are more than by the initial values', async () => {
    const firmware = FIRMWARE.filter((each) => !/NUM_VF=|PF_TOTAL_SF/.test(each));
    const service = await started({
      firmware: [...firmware, 'VIRTIO_NET_EMULATION_NUM_VF=70', 'PF_TOTAL_SF=200'],
    });
    expect(await sriov(service, PF0, 70)).toEqual(SUCCESS);
    writeFileSync(service.paths.fwconfig, '');
    rmSync(service.paths.devices);
    for (let takeover = 0; takeover < 2; takeover++) {
      await new Commands(service.emulator).provision('crash');
      expect([vfs(service).length, files(service).length]).toEqual([70, 72]);
    }
  });
});
