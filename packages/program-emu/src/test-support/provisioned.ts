/** A service with two static PFs, VFs and hotplug PFs, and what commands say of it; files that cannot be written. */
import { mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { onTestFinished } from 'vitest';
import { hostRequest } from './command-model.js';
import { TestService, type TestServiceOptions } from './test-service.js';

export const VFS = 3;
export const FIRMWARE = [
  ...['VIRTIO_NET_EMULATION_ENABLE=1', 'PCI_SWITCH_EMULATION_ENABLE=1', 'SRIOV_EN=1'],
  ...['VIRTIO_NET_EMULATION_NUM_PF=2', `VIRTIO_NET_EMULATION_NUM_VF=${VFS}`],
  ...['PCI_SWITCH_EMULATION_NUM_PORT=3', 'PF_BAR2_ENABLE=0', 'PER_PF_NUM_SF=1', 'PF_TOTAL_SF=64'],
  ...['VIRTIO_NET_EMULATION_NUM_MSIX=64', 'VIRTIO_NET_EMULATION_NUM_VF_MSIX=16'],
];
export const PF0 = '14:00.2';
export const PF1 = '14:00.3';
export const HOTPLUG = 'MT2151X03152VNETS1D0F0';
export const FIRST_PF = 'MT2151X03152VNETS0D0F2';
export const VF = (number: number) => `MT2151X03152VNETS0D0F2VF${number}`;
export const SUCCESS = { errno: 0, errstr: 'Success' };
export const NOT_CREATED = { errno: -1015, errstr: 'Failed to create recovery file' };
export const NOT_REMOVED = { errno: -1016, errstr: 'Failed to delete MAC in recovery file' };

export interface Row {
  readonly vuid: string;
  readonly mac: string;
  readonly enabled_vfs: string;
  readonly sf_parent_device: string;
}
export interface Listed {
  readonly devices: readonly Row[];
}

export async function started(options: TestServiceOptions = { firmware: FIRMWARE }): Promise<TestService> {
  const service = new TestService(options);
  await service.start();
  onTestFinished(() => service.close());
  return service;
}

export const sriov = ({ commands }: TestService, bdf: string, value: number) =>
  commands.host(hostRequest('sriov', { bdf, value }));
export const listed = ({ commands }: TestService) => (commands.list() as unknown as Listed).devices;
export const vuids = (service: TestService) => listed(service).map(({ vuid }) => vuid);
export const vfs = (service: TestService) => vuids(service).filter((vuid) => vuid.includes('VF'));
export const files = ({ paths }: TestService) => readdirSync(paths.recovery).sort();
export const sockets = ({ paths }: TestService) => readdirSync(paths.pci);

let requests = 0;
export const nextRequest = () => requests++;
export const hotplug = ({ commands }: TestService, ibDevice = 'mlx5_0') =>
  commands.hotplug({
    requestId: `h${requests++}`,
    ...{ ibDevice, mac: '0C:C4:7A:FF:22:93', mtu: 1500, queues: 3, queuePairs: null },
    ...{ queueSize: 256, sfNum: null, features: null, legacy: false },
  });
export const unplug = ({ commands }: TestService) =>
  commands.unplug({ requestId: `u${requests++}`, pf: null, vuid: HOTPLUG });
export const restart = async (service: TestService) => {
  await service.stop();
  await service.start();
};

/** Until it is mended, nothing can be written into the directory of recovery files, nor removed from it. */
export function broken({ paths: { recovery } }: TestService): () => void {
  renameSync(recovery, `${recovery}-away`);
  writeFileSync(recovery, '');
  return () => {
    rmSync(recovery);
    renameSync(`${recovery}-away`, recovery);
  };
}

/** Until it is mended, a file that is replaced as a whole cannot be. */
export function notReplaced(path: string): () => void {
  const draft = `${path}.${process.pid}.tmp`;
  mkdirSync(draft, { recursive: true });
  return () => rmSync(draft, { recursive: true });
}

/** Until it is mended, what recovery files have no keys for cannot be written; the files themselves can. */
export const brokenDocument = ({ paths: { devices } }: TestService) => notReplaced(devices);
