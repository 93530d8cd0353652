/** VFs that cannot all be made, and recovery files that cannot be written or removed, as commands tell of them. */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { confSchema, DEFAULT_CONF, type FirmwareStore } from '@virtnet/engine-control';
import { readFirmwareStore } from '@virtnet/host-ipc';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { Emulator } from './emulator.js';
import { Provision } from './provision.js';
import { hostRequest } from './test-support/command-model.js';
import {
  broken,
  brokenDocument,
  FIRMWARE,
  FIRST_PF,
  files,
  HOTPLUG,
  hotplug,
  listed,
  NOT_CREATED,
  NOT_REMOVED,
  notReplaced,
  PF0,
  PF1,
  restart,
  SUCCESS,
  sockets,
  sriov,
  started,
  unplug,
  VF,
  VFS,
  vfs,
  vuids,
} from './test-support/provisioned.js';
import type { TestService } from './test-support/test-service.js';

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
      msg: 'the state of the host cannot be written; it is tried again',
      path: service.paths.hostState,
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
  it('a function that was plugged or unplugged all the same: that is the answer', async () => {
    const service = await started();
    expect(await service.commands.host(hostRequest('modprobe', { value: 1 }))).toEqual(SUCCESS);
    const mend = notReplaced(service.paths.hostState);
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
    const mend = notReplaced(service.paths.hostState);
    expect(await sriov(service, PF0, VFS)).toEqual({
      errno: -5,
      errstr: expect.stringContaining(service.paths.hostState),
    });
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

describe('a hotplug that is sent again to a successor that knows nothing but the files', () => {
  const request = {
    ...{ requestId: 'sent-again', ibDevice: 'mlx5_0', mac: '0C:C4:7A:FF:22:93', mtu: 1400 },
    ...{ queues: 3, queuePairs: null, queueSize: 256, sfNum: null, features: null, legacy: false },
  };

  it('is answered with the function that it made, however often everything is started anew', async () => {
    const service = await started();
    const answer = await service.commands.hotplug(request);
    expect(answer).toMatchObject({ ...SUCCESS, vuid: HOTPLUG });
    for (let start = 0; start < 2; start++) {
      await restart(service);
      expect(await service.commands.hotplug(request)).toEqual(answer);
      expect(vuids(service).filter((vuid) => vuid.includes('VNETS1'))).toEqual([HOTPLUG]);
    }
    expect(await hotplug(service), 'another command makes another function').toMatchObject(SUCCESS);
    expect(vuids(service)).toHaveLength(4);
  });

  it('that was unplugged meanwhile, makes another one in its place', async () => {
    const service = await started();
    expect(await service.commands.hotplug(request)).toMatchObject(SUCCESS);
    expect(await unplug(service)).toEqual(SUCCESS);
    expect(await hotplug(service)).toMatchObject({ ...SUCCESS, vuid: HOTPLUG });
    await restart(service);
    expect(await service.commands.hotplug(request)).toMatchObject({
      ...SUCCESS,
      vuid: 'MT2151X03152VNETS1D1F0',
    });
  });
});
