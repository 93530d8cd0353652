/** The firmware's subsystem ids: stored by virtnet-mlxconfig, and after a power cycle what every function says it is. */
import { assign, type FirmwareStore, lspciLines } from '@virtnet/engine-control';
import { readFirmwareStore, writeFirmwareStore } from '@virtnet/host-ipc';
import { describe, expect, it } from 'vitest';
import { hostRequest } from './test-support/command-model.js';
import { TestService } from './test-support/test-service.js';

const FIRMWARE = [
  ...['VIRTIO_NET_EMULATION_ENABLE=1', 'PCI_SWITCH_EMULATION_ENABLE=1', 'SRIOV_EN=1'],
  ...['VIRTIO_NET_EMULATION_NUM_PF=1', 'VIRTIO_NET_EMULATION_NUM_VF=1', 'PCI_SWITCH_EMULATION_NUM_PORT=1'],
  ...['PF_BAR2_ENABLE=0', 'PER_PF_NUM_SF=1', 'PF_TOTAL_SF=64', 'VIRTIO_NET_EMULATION_NUM_MSIX=64'],
];
const IDS = ['VIRTIO_NET_EMULATION_SUBSYSTEM_ID=66', 'VIRTIO_NET_EMU_SUBSYSTEM_VENDOR_ID=5555'];
const PF = '14:00.2';

interface Queried {
  readonly devices: readonly { readonly pci_subsys_id: string; readonly pci_subsys_vendor_id: string }[];
}
interface Functions {
  readonly functions: readonly { readonly bdf: string; readonly config: string }[];
}

function store({ paths }: TestService): FirmwareStore {
  const read = readFirmwareStore(paths.fwconfig);
  if ('problem' in read) throw new Error(read.problem);
  return read.store;
}

describe('subsystem ids', () => {
  it('of every kind of function follow the firmware at a power cycle, and stay over a restart', async () => {
    const service = new TestService({ firmware: FIRMWARE });
    const host = (verb: 'sriov' | 'power-cycle' | 'functions', bdf: string | null, value: number | null) =>
      service.commands.host(hostRequest(verb, { bdf, value }));
    const furnish = async () => {
      await host('sriov', PF, 1);
      const plugged = await service.commands.hotplug({
        ...{ requestId: 'h', ibDevice: 'mlx5_0', mac: '0C:C4:7A:FF:22:93', mtu: 1500, queues: 3 },
        ...{ queuePairs: null, queueSize: 256, sfNum: null, features: null, legacy: false },
      });
      expect(plugged).toMatchObject({ errno: 0 });
    };
    /** What query and the PCI headers say of a static PF, its VF and a hotplug PF. */
    const seen = async () => {
      const query = { all: true, pf: null, vf: null, vuid: null, brief: true, queue: null };
      const { devices } = service.commands.query(query) as unknown as Queried;
      const { functions } = (await host('functions', null, 1)) as unknown as Functions;
      const ids = { classCode: 0x20000, vendorId: 0x1af4, deviceId: 0x1041, revisionId: 1 };
      const rows = functions.map(({ bdf, config }) => ({
        ...{ bdf, ...ids, config: Uint8Array.from(Buffer.from(config, 'base64')) },
      }));
      const lines = lspciLines(rows, { numeric: true, filter: null, verbose: true });
      return {
        query: devices.map((device) => `${device.pci_subsys_vendor_id} ${device.pci_subsys_id}`),
        lspci: lines.filter((line) => line.includes('Subsystem')).map((line) => line.trim()),
      };
    };
    const thrice = (text: string) => [text, text, text];
    const modern = { query: thrice('0x1af4 0x1041'), lspci: thrice('Subsystem: 1af4:1041') };
    const own = { query: thrice('0x15b3 0x42'), lspci: thrice('Subsystem: 15b3:0042') };
    try {
      await service.start();
      await furnish();
      expect(await seen()).toEqual(modern);
      const assigned = assign(store(service), IDS);
      if ('problem' in assigned) throw new Error(assigned.problem);
      writeFirmwareStore(service.paths.fwconfig, assigned.store);
      expect(await seen()).toEqual(modern);
      expect(await host('power-cycle', null, null)).toMatchObject({ errno: 0 });
      await furnish();
      expect(await seen()).toEqual(own);
      await service.stop();
      await service.start();
      expect(await seen()).toEqual(own);
    } finally {
      await service.close();
    }
  });
});
