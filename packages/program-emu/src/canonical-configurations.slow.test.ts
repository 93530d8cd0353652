/** The guide's configurations with VFs, and the largest one, as a power cycle and the host bring them about. */
import { readdirSync } from 'node:fs';
import { FunctionKind, firmwareLimits, VFS_MAX } from '@virtnet/engine-control';
import { readFirmwareStore } from '@virtnet/host-ipc';
import { describe, expect, it, onTestFinished } from 'vitest';
import { hostRequest } from './test-support/command-model.js';
import { TestService } from './test-support/test-service.js';

/** A thousand functions with a file and a socket each; a busy machine may have little of a processor and of a disk. */
const TEST_MS = 300_000;
const SUCCESS = { errno: 0, errstr: 'Success' };
const COMMON = [
  ...['VIRTIO_NET_EMULATION_ENABLE=1', 'PER_PF_NUM_SF=1', 'PF_BAR2_ENABLE=0', 'PF_SF_BAR_SIZE=8'],
  ...['NUM_VF_MSIX=0', 'SRIOV_EN=1'],
];

interface Configuration {
  readonly staticPfs: number;
  readonly vfsPerPf: number;
  readonly hotplugPfs: number;
  /** Of the first hotplug PF: behind the buses of the adapter's own functions. */
  readonly hotplugBdf?: string;
  readonly assignments: readonly string[];
}

const CONFIGURATIONS: Readonly<Record<string, Configuration>> = {
  'four static PFs with 126 VFs each (guide, line 116)': {
    ...{ staticPfs: 4, vfsPerPf: 126, hotplugPfs: 0 },
    assignments: [
      ...['VIRTIO_NET_EMULATION_NUM_PF=4', 'VIRTIO_NET_EMULATION_NUM_VF=126'],
      ...['VIRTIO_NET_EMULATION_NUM_MSIX=64', 'VIRTIO_NET_EMULATION_NUM_VF_MSIX=64'],
      ...['PCI_SWITCH_EMULATION_ENABLE=0', 'PCI_SWITCH_EMULATION_NUM_PORT=0', 'PF_TOTAL_SF=512'],
    ],
  },
  '15 hotplug PFs, two static PFs and 200 VFs (guide, line 142)': {
    ...{ staticPfs: 2, vfsPerPf: 100, hotplugPfs: 15, hotplugBdf: '15:00.0' },
    assignments: [
      ...['VIRTIO_NET_EMULATION_NUM_PF=2', 'VIRTIO_NET_EMULATION_NUM_VF=100'],
      ...['VIRTIO_NET_EMULATION_NUM_MSIX=10', 'VIRTIO_NET_EMULATION_NUM_VF_MSIX=64'],
      ...['PCI_SWITCH_EMULATION_ENABLE=1', 'PCI_SWITCH_EMULATION_NUM_PORT=15', 'PF_TOTAL_SF=256'],
    ],
  },
  '1008 VFs and 31 PFs, the most of both together': {
    ...{ staticPfs: 16, vfsPerPf: 63, hotplugPfs: 15, hotplugBdf: '19:00.0' },
    assignments: [
      ...['VIRTIO_NET_EMULATION_NUM_PF=16', 'VIRTIO_NET_EMULATION_NUM_VF=63'],
      ...['VIRTIO_NET_EMULATION_NUM_MSIX=10', 'VIRTIO_NET_EMULATION_NUM_VF_MSIX=10'],
      ...['PCI_SWITCH_EMULATION_ENABLE=1', 'PCI_SWITCH_EMULATION_NUM_PORT=15', 'PF_TOTAL_SF=1039'],
    ],
  },
};

interface Listed {
  readonly vuid: string;
  readonly pci_bdf: string;
  readonly function_type: FunctionKind;
  readonly sf_num: number;
  readonly mac: string;
  readonly enabled_vfs: string;
}

const listed = ({ commands }: TestService) =>
  (commands.list() as unknown as { devices: readonly Listed[] }).devices;

function counted(devices: readonly Listed[]): readonly number[] {
  const kinds = [FunctionKind.STATIC_PF, FunctionKind.HOTPLUG_PF, FunctionKind.VF];
  return kinds.map((kind) => devices.filter(({ function_type }) => function_type === kind).length);
}

describe('canonical configurations', { timeout: TEST_MS }, () => {
  it.each(Object.entries(CONFIGURATIONS))('%s', async (_, configuration) => {
    const { staticPfs, vfsPerPf, hotplugPfs, hotplugBdf, assignments } = configuration;
    const service = new TestService({ firmware: [] });
    await service.start();
    onTestFinished(() => service.close());
    const { commands, paths } = service;
    service.configure([...COMMON, ...assignments]);
    expect(await commands.host(hostRequest('power-cycle'))).toEqual(SUCCESS);
    expect(counted(listed(service))).toEqual([staticPfs, 0, 0]);

    for (let i = 0; i < hotplugPfs; i++) {
      const mac = `0C:C4:7A:FF:22:${i.toString(16).toUpperCase().padStart(2, '0')}`;
      const request = { ibDevice: 'mlx5_0', mac, mtu: 1500, queues: 3, queuePairs: null, queueSize: 256 };
      const others = { requestId: `${i}`, sfNum: null, features: null, legacy: false };
      expect(await commands.hotplug({ ...request, ...others })).toMatchObject(SUCCESS);
    }
    for (const { pci_bdf: bdf } of listed(service).filter(
      ({ function_type }) => function_type === 'static PF',
    ))
      expect(await commands.host(hostRequest('sriov', { bdf, value: vfsPerPf }))).toEqual(SUCCESS);

    const devices = listed(service);
    expect(counted(devices)).toEqual([staticPfs, hotplugPfs, staticPfs * vfsPerPf]);
    expect(devices.find(({ function_type }) => function_type === 'hotplug PF')?.pci_bdf).toBe(hotplugBdf);
    for (const { function_type, enabled_vfs } of devices)
      expect(enabled_vfs).toBe(function_type === 'static PF' ? `${vfsPerPf}` : '0');
    for (const key of ['vuid', 'pci_bdf', 'sf_num', 'mac'] as const)
      expect(new Set(devices.map((device) => device[key])).size, key).toBe(devices.length);
    expect(readdirSync(paths.recovery).sort()).toEqual(devices.map(({ vuid }) => vuid).sort());
    expect(readdirSync(paths.pci)).toHaveLength(devices.length);

    const read = readFirmwareStore(paths.fwconfig);
    if ('problem' in read) throw new Error(read.problem);
    expect(firmwareLimits(read.store.current).devicesMax).toBe(devices.length); // nothing more could be made
    const [first] = devices;
    expect(await commands.host(hostRequest('sriov', { bdf: first!.pci_bdf, value: 0 }))).toEqual(SUCCESS);
    expect(counted(listed(service))).toEqual([staticPfs, hotplugPfs, (staticPfs - 1) * vfsPerPf]);
  });

  it('the largest has as many VFs as there can be at all', () => {
    const { staticPfs, vfsPerPf } = Object.values(CONFIGURATIONS).at(-1)!;
    expect(staticPfs * vfsPerPf).toBe(VFS_MAX);
  });
});
