/** VFs that cannot all be made, and recovery files that cannot be written or removed, as commands tell of them. */
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { confSchema, DEFAULT_CONF, type FirmwareStore } from '@virtnet/engine-control';
import { readFirmwareStore } from '@virtnet/host-ipc';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { Commands } from './commands.js';
import { Emulator } from './emulator.js';
import { Provision } from './provision.js';
import { hostRequest } from './test-support/command-model.js';
import { TestService, type TestServiceOptions } from './test-support/test-service.js';

const VFS = 3;
const FIRMWARE = [
  ...['VIRTIO_NET_EMULATION_ENABLE=1', 'PCI_SWITCH_EMULATION_ENABLE=1', 'SRIOV_EN=1'],
  ...['VIRTIO_NET_EMULATION_NUM_PF=2', `VIRTIO_NET_EMULATION_NUM_VF=${VFS}`],
  ...['PCI_SWITCH_EMULATION_NUM_PORT=3', 'PF_BAR2_ENABLE=0', 'PER_PF_NUM_SF=1', 'PF_TOTAL_SF=64'],
  ...['VIRTIO_NET_EMULATION_NUM_MSIX=64', 'VIRTIO_NET_EMULATION_NUM_VF_MSIX=16'],
];
const PF0 = '14:00.2';
const PF1 = '14:00.3';
const HOTPLUG = 'MT2151X03152VNETS1D0F0';
const FIRST_PF = 'MT2151X03152VNETS0D0F2';
const VF = (number: number) => `MT2151X03152VNETS0D0F2VF${number}`;
const SUCCESS = { errno: 0, errstr: 'Success' };
const NOT_CREATED = { errno: -1015, errstr: 'Failed to create recovery file' };
const NOT_REMOVED = { errno: -1016, errstr: 'Failed to delete MAC in recovery file' };

interface Row {
  readonly vuid: string;
  readonly mac: string;
  readonly enabled_vfs: string;
  readonly sf_parent_device: string;
}
interface Listed {
  readonly devices: readonly Row[];
}

async function started(options: TestServiceOptions = { firmware: FIRMWARE }): Promise<TestService> {
  const service = new TestService(options);
  await service.start();
  onTestFinished(() => service.close());
  return service;
}

const sriov = ({ commands }: TestService, bdf: string, value: number) =>
  commands.host(hostRequest('sriov', { bdf, value }));
const listed = ({ commands }: TestService) => (commands.list() as unknown as Listed).devices;
const vuids = (service: TestService) => listed(service).map(({ vuid }) => vuid);
const vfs = (service: TestService) => vuids(service).filter((vuid) => vuid.includes('VF'));
const files = ({ paths }: TestService) => readdirSync(paths.recovery).sort();
const sockets = ({ paths }: TestService) => readdirSync(paths.pci);

let requests = 0;
const hotplug = ({ commands }: TestService, ibDevice = 'mlx5_0') =>
  commands.hotplug({
    requestId: `h${requests++}`,
    ...{ ibDevice, mac: '0C:C4:7A:FF:22:93', mtu: 1500, queues: 3, queuePairs: null },
    ...{ queueSize: 256, sfNum: null, features: null, legacy: false },
  });
const unplug = ({ commands }: TestService) =>
  commands.unplug({ requestId: `u${requests++}`, pf: null, vuid: HOTPLUG });
const restart = async (service: TestService) => {
  await service.stop();
  await service.start();
};

/** Until it is mended, nothing can be written into the directory of recovery files, nor removed from it. */
function broken({ paths: { recovery } }: TestService): () => void {
  renameSync(recovery, `${recovery}-away`);
  writeFileSync(recovery, '');
  return () => {
    rmSync(recovery);
    renameSync(`${recovery}-away`, recovery);
  };
}

/** Until it is mended, a file that is replaced as a whole cannot be. */
function notReplaced(path: string): () => void {
  const draft = `${path}.${process.pid}.tmp`;
  mkdirSync(draft);
  return () => rmSync(draft, { recursive: true });
}

/** Until it is mended, what recovery files have no keys for cannot be written; the files themselves can. */
const brokenDocument = ({ paths: { devices } }: TestService) => notReplaced(devices);

describe('the host’s side while its files cannot be written', () => {
  /** With a hotplug PF, a VF, and other firmware values for the next boot. */
  async function furnished(): Promise<TestService> {
    const service = await started();
    expect(await hotplug(service)).toMatchObject(SUCCESS);
    expect(await sriov(service, PF0, 1)).toEqual(SUCCESS);
    service.configure(['VIRTIO_NET_EMULATION_NUM_PF=1']);
    return service;
  }
  const saved = ({ paths: { fwconfig, hostState } }: TestService) =>
    [fwconfig, hostState].map((path) => readFileSync(path, 'utf8'));
  const refused = (path: string) => ({ errno: -5, errstr: expect.stringContaining(path) });

  it.each(['hostState', 'fwconfig'] as const)(
    'a power cycle without %s is refused with the file’s name, changes nothing, and can be asked for again',
    async (name) => {
      const service = await furnished();
      const before = [listed(service), files(service), saved(service)];
      const mend = notReplaced(service.paths[name]);
      expect(await service.commands.host(hostRequest('power-cycle'))).toEqual(refused(service.paths[name]));
      expect([listed(service), files(service), saved(service)]).toEqual(before);
      mend();
      expect(await service.commands.host(hostRequest('power-cycle'))).toEqual(SUCCESS);
      expect(vuids(service)).toEqual([FIRST_PF]);
    },
  );

  it('a power cycle that loses its store in the middle is finished by the next one', async () => {
    const service = await furnished();
    const { fwconfig } = service.paths;
    let mend = () => {};
    onTestFinished(() => void vi.restoreAllMocks());
    vi.spyOn(Emulator.prototype, 'removeAll').mockImplementationOnce(async function (this: Emulator) {
      mend = notReplaced(fwconfig);
      return this.removeAll();
    });
    expect(await service.commands.host(hostRequest('power-cycle'))).toEqual(refused(fwconfig));
    expect(vuids(service)).toEqual([]);
    mend();
    expect(await service.commands.host(hostRequest('power-cycle'))).toEqual(SUCCESS);
    expect([vuids(service), files(service)]).toEqual([[FIRST_PF], [FIRST_PF]]);
    expect(readFirmwareStore(fwconfig)).not.toHaveProperty('store.recoveryObsolete');
  });

  it('a warm reboot, VFs and a binding are refused likewise', async () => {
    const service = await furnished();
    const before = [listed(service), files(service), saved(service)];
    const { hostState } = service.paths;
    const mend = notReplaced(hostState);
    expect(await service.commands.host(hostRequest('warm-reboot'))).toEqual(refused(hostState));
    expect(await sriov(service, PF0, 0)).toEqual(refused(hostState));
    expect(await sriov(service, PF1, 1)).toEqual(refused(hostState));
    const binding = hostRequest('bind', { bdf: PF0, driver: 'vfio-pci' });
    expect(await service.commands.host(binding)).toEqual(refused(hostState));
    expect([listed(service), files(service), saved(service)]).toEqual(before);
    mend();
    expect(await service.commands.host(hostRequest('warm-reboot'))).toEqual(SUCCESS);
    expect(vfs(service)).toEqual([]);
  });

  it('what happens to a function without the host’s doing is done, and reported', async () => {
    const service = await furnished();
    const mend = notReplaced(service.paths.hostState);
    expect(await unplug(service)).toEqual(SUCCESS);
    expect(vuids(service)).not.toContain(HOTPLUG);
    expect(service.said).toContainEqual({
      level: 'error',
      msg: 'the state of the host cannot be written',
      reason: expect.stringContaining(service.paths.hostState),
    });
    mend();
    await restart(service);
    expect(vuids(service)).not.toContain(HOTPLUG);
  });
});

describe('VFs exist all or not at all', () => {
  it('more than there are SFs for: none is made, and the guide’s error says so', async () => {
    const firmware = [...FIRMWARE.filter((text) => !text.startsWith('PF_TOTAL_SF')), 'PF_TOTAL_SF=4'];
    const service = await started({ firmware });
    expect(await sriov(service, PF0, 3)).toEqual({ errno: -1048, errstr: 'Failed to create SF' });
    expect([vfs(service), sockets(service).length, files(service).length]).toEqual([[], 2, 2]);
    expect(listed(service).map(({ enabled_vfs }) => enabled_vfs)).toEqual(['0', '0']);
    expect(await sriov(service, PF0, 2)).toEqual(SUCCESS); // nothing is left of the first number
    expect(vfs(service)).toEqual([VF(1), VF(2)]);
    expect(await sriov(service, PF1, 1)).toMatchObject({ errno: -1048 });
  });

  it('the most queue pairs that the configuration takes are as many as VFs can have, whatever their vectors', async () => {
    const { vf } = confSchema().properties as { vf: { properties: Record<string, { maximum: number }> } };
    const most = vf.properties.max_queue_pairs!.maximum;
    const conf = { vf: { ...DEFAULT_CONF.vf, max_queue_pairs: most } };
    const service = await started({ firmware: FIRMWARE, conf });
    expect(await sriov(service, PF0, 1)).toEqual(SUCCESS);
    expect(listed(service).find(({ vuid }) => vuid === VF(1))).toMatchObject({
      max_queue_pairs: '127',
      num_queues: '255',
      num_msix: '16',
    });
  });

  it('one of them cannot be made: those that were made before it are removed again', async () => {
    const service = await started();
    const last = service.paths.pciSocket('0000:14:00.7'); // behind the PFs and the RShim: VF 2
    mkdirSync(last);
    expect(await sriov(service, PF0, 3)).toMatchObject({ errno: -1032 });
    expect([vfs(service), files(service).length]).toEqual([[], 2]);
    rmSync(last, { recursive: true });
    expect(await sriov(service, PF0, 3)).toEqual(SUCCESS);
    expect([vfs(service), files(service).length]).toEqual([[VF(1), VF(2), VF(3)], 5]);
  });

  it('one of them cannot be made again by a start: none comes back, then or later', async () => {
    const service = await started();
    expect(await sriov(service, PF0, 3)).toEqual(SUCCESS);
    await service.stop();
    const last = service.paths.pciSocket('0000:14:00.7');
    mkdirSync(last);
    await service.start();
    expect([vfs(service), files(service).length]).toEqual([[], 2]);
    rmSync(last, { recursive: true });
    await restart(service);
    expect(vfs(service)).toEqual([]);
  });
});

describe('a recovery file that is lost', () => {
  it.each<readonly [string, (path: string) => void]>([
    ['torn', (path) => writeFileSync(path, '')],
    ['removed', (path) => rmSync(path)],
  ])('%s > its VF is made anew, and those of other PFs come back as they were', async (_, lose) => {
    const service = await started();
    expect(await sriov(service, PF1, 3)).toEqual(SUCCESS);
    expect(await sriov(service, PF0, 2)).toEqual(SUCCESS);
    const before = listed(service);
    await service.stop();
    lose(join(service.paths.recovery, VF(1)));
    await service.start();
    const own = (rows: typeof before) => rows.filter(({ vuid }) => vuid === VF(1));
    const others = (rows: typeof before) => rows.filter(({ vuid }) => vuid !== VF(1));
    expect(others(listed(service))).toEqual(others(before));
    expect(own(listed(service))).toHaveLength(1);
    const after = listed(service);
    await restart(service);
    expect(listed(service)).toEqual(after);
  });
});

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
    const request = { requestId: `m${requests++}`, all: false, pf: null, vf: null, vuid };
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
    writeFileSync(fwconfig, text);
    await restart(service);
    expect(listed(service)).toEqual(before);
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

describe('recovery files that cannot be written', () => {
  it('sriov is answered with the error, there are no VFs, and the next try finds nothing of them', async () => {
    const service = await started();
    const mend = broken(service);
    expect(await sriov(service, PF0, VFS)).toEqual(NOT_CREATED);
    expect([vfs(service), sockets(service).length]).toEqual([[], 2]);
    mend();
    await restart(service);
    expect(vfs(service)).toEqual([]);
    expect(await sriov(service, PF0, VFS)).toEqual(SUCCESS);
    const before = listed(service);
    await restart(service);
    expect(listed(service)).toEqual(before); // the same addresses
  });

  it('one of the VFs’ files cannot be written: those of the others are gone as well', async () => {
    const service = await started();
    mkdirSync(join(service.paths.recovery, VF(2)));
    expect(await sriov(service, PF0, VFS)).toEqual(NOT_CREATED);
    expect(vfs(service)).toEqual([]);
    expect(files(service).filter((name) => name.includes('VF'))).toEqual([VF(2)]);
    expect(service.said).toContainEqual(
      expect.objectContaining({
        level: 'error',
        msg: 'a recovery file could not be written',
        ...NOT_CREATED,
      }),
    );
  });

  it('hotplug is answered with the error, and a file that was written all the same is gone', async () => {
    const service = await started();
    const mend = brokenDocument(service);
    expect(await hotplug(service)).toEqual(NOT_CREATED);
    expect([vuids(service).length, files(service).length]).toEqual([2, 2]);
    mend();
    await restart(service);
    expect(vuids(service)).toHaveLength(2);
  });

  it('VFs that come back are not taken from whoever uses them', async () => {
    const service = await started();
    expect(await sriov(service, PF0, VFS)).toEqual(SUCCESS);
    await service.stop();
    rmSync(join(service.paths.recovery, VF(1)));
    brokenDocument(service);
    await service.start();
    expect(vfs(service)).toEqual([VF(1), VF(2), VF(3)]);
    expect(service.said).toContainEqual(expect.objectContaining(NOT_CREATED));
  });
});

describe('what stands in the way of a start', () => {
  it('recovery files that cannot be read or written: what the firmware says is there, and commands are answered', async () => {
    const service = await started();
    expect(await sriov(service, PF0, 1)).toEqual(SUCCESS);
    await service.stop();
    const mend = broken(service);
    await service.start();
    expect(vuids(service)).toHaveLength(3);
    expect(await sriov(service, PF1, 1)).toEqual(NOT_CREATED);
    mend();
    await restart(service);
    expect(vuids(service)).toHaveLength(3);
    expect(files(service)).toHaveLength(3);
  });

  it('a fault of our own: it is logged, and what there is answers commands', async () => {
    const service = await started();
    expect(await sriov(service, PF0, VFS)).toEqual(SUCCESS);
    await service.stop();
    const fault = vi.spyOn(Provision.prototype, 'makeVfs').mockRejectedValueOnce(new Error('a fault'));
    await service.start();
    expect(fault).toHaveBeenCalled();
    expect(service.said).toContainEqual(
      expect.objectContaining({ level: 'error', msg: 'not every function could be made' }),
    );
    expect(vuids(service)).toHaveLength(2);
    expect(await hotplug(service)).toMatchObject(SUCCESS);
    await restart(service);
    expect(vfs(service)).toEqual([VF(1), VF(2), VF(3)]); // the host's number was not forgotten over it
  });
});

describe('the state of the host cannot be written', () => {
  /** Until it is mended. */
  const brokenState = ({ paths: { hostState } }: TestService): (() => void) => {
    const draft = `${hostState}.${process.pid}.tmp`;
    mkdirSync(draft, { recursive: true });
    return () => rmSync(draft, { recursive: true, force: true });
  };

  it('a function that was plugged or unplugged all the same: that is the answer', async () => {
    const service = await started();
    expect(await service.commands.host(hostRequest('modprobe', { value: 1 }))).toEqual(SUCCESS);
    const mend = brokenState(service);
    expect(await hotplug(service)).toMatchObject(SUCCESS);
    expect(vuids(service)).toContain(HOTPLUG);
    expect(await unplug(service)).toEqual(SUCCESS);
    expect(vuids(service)).toHaveLength(2);
    expect(service.said).toContainEqual(
      expect.objectContaining({ msg: 'the state of the host cannot be written; it is tried again' }),
    );
    mend();
  });

  it('VFs that were asked for: nothing happens', async () => {
    const service = await started();
    const mend = brokenState(service);
    await expect(sriov(service, PF0, VFS)).rejects.toThrow();
    expect(vfs(service)).toEqual([]);
    mend();
    expect(await sriov(service, PF0, VFS)).toEqual(SUCCESS);
  });
});

describe('recovery files that cannot be removed', () => {
  it('unplug is answered with the error, and the function stays, until it can be unplugged for good', async () => {
    const service = await started();
    expect(await hotplug(service)).toMatchObject(SUCCESS);
    const mend = broken(service);
    expect(await unplug(service)).toEqual(NOT_REMOVED);
    expect(vuids(service)).toContain(HOTPLUG);
    mend();
    expect(files(service)).toContain(HOTPLUG);
    expect(await unplug(service)).toEqual(SUCCESS);
    await restart(service);
    expect([vuids(service).length, files(service).length]).toEqual([2, 2]);
    expect(service.said).toContainEqual(
      expect.objectContaining({
        level: 'error',
        msg: 'a recovery file could not be removed',
        ...NOT_REMOVED,
      }),
    );
  });

  it('a power cycle is refused, changes nothing, and those that could be removed are written again', async () => {
    const service = await started();
    expect(await hotplug(service)).toMatchObject(SUCCESS);
    expect(await sriov(service, PF0, 1)).toEqual(SUCCESS);
    const before = listed(service);
    service.configure(['VIRTIO_NET_EMULATION_NUM_PF=1']);
    rmSync(join(service.paths.recovery, HOTPLUG));
    mkdirSync(join(service.paths.recovery, HOTPLUG));
    expect(await service.commands.host(hostRequest('power-cycle'))).toEqual(NOT_REMOVED);
    expect(listed(service)).toEqual(before);
    expect(files(service)).toEqual(before.map(({ vuid }) => vuid).sort());
    expect(await sriov(service, PF0, 2)).toMatchObject({ errno: -16 }); // the host has not booted
    rmSync(join(service.paths.recovery, HOTPLUG), { recursive: true });
    expect(await service.commands.host(hostRequest('power-cycle'))).toEqual(SUCCESS);
    expect(vuids(service)).toEqual([before[0]!.vuid]);
  });

  it('a power cycle loses no change of the firmware configuration that is made meanwhile', async () => {
    const service = await started();
    service.configure(['VIRTIO_NET_EMULATION_NUM_PF=1']);
    const { fwconfig } = service.paths;
    onTestFinished(() => void vi.restoreAllMocks());
    vi.spyOn(Provision.prototype, 'forget').mockImplementationOnce(async function (this: Provision, plans) {
      service.configure(['VIRTIO_NET_EMULATION_NUM_MSIX=32']);
      return this.forget(plans);
    });
    vi.spyOn(Emulator.prototype, 'removeAll').mockImplementationOnce(async function (this: Emulator) {
      expect(readFirmwareStore(fwconfig)).toMatchObject({ store: { recoveryObsolete: true } });
      service.configure(['PF_TOTAL_SF=32']);
      return this.removeAll();
    });
    expect(await service.commands.host(hostRequest('power-cycle'))).toEqual(SUCCESS);
    expect(listed(service)).toMatchObject([{ num_msix: '32' }]);
    const { store } = readFirmwareStore(fwconfig) as { store: FirmwareStore };
    expect(store.recoveryObsolete).toBeUndefined();
    expect([store.current.PF_TOTAL_SF, store.nextBoot.PF_TOTAL_SF]).toEqual([64, 32]);
  });

  it('VFs go with the host’s word, and their files do not bring them back', async () => {
    const service = await started();
    expect(await sriov(service, PF0, VFS)).toEqual(SUCCESS);
    const mend = broken(service);
    expect(await sriov(service, PF0, 0)).toEqual(SUCCESS);
    expect(vfs(service)).toEqual([]);
    mend();
    expect(files(service)).toHaveLength(2 + VFS);
    await restart(service);
    expect([vfs(service), files(service).length]).toEqual([[], 2]);
  });

  it('with recovery off nobody reads them, so nothing waits for them', async () => {
    const service = await started({ firmware: FIRMWARE, conf: { recovery: 0 } });
    expect(await hotplug(service)).toMatchObject(SUCCESS);
    broken(service);
    expect(await unplug(service)).toEqual(SUCCESS);
    expect(vuids(service)).toHaveLength(2);
  });
});
