/** What virtnet.conf says, seen from outside: on the devices, and on the threads that work them. */
import { readdirSync, readFileSync } from 'node:fs';
import { DEFAULT_CONF } from '@virtnet/engine-control';
import { getThreadAffinity } from '@virtnet/host-linux';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { EmulatorService } from './emulator-service.fixture.js';
import { namespaceObstacle } from './network.fixture.js';

const obstacle = namespaceObstacle();
/** Processors of this machine that dpa_core_start and dpa_core_end can name, at most three. */
const usable = getThreadAffinity();
const processors = (typeof usable === 'number' ? [] : usable).filter((cpu) => cpu >= 1 && cpu <= 3);

describe.skipIf(obstacle !== null)(`virtnet.conf in effect${obstacle ? `: ${obstacle}` : ''}`, () => {
  let service: EmulatorService;

  beforeAll(async () => {
    service = await EmulatorService.start({
      standby: false,
      workers: null,
      firmware: { VIRTIO_NET_EMULATION_NUM_PF: 2, VIRTIO_NET_EMULATION_NUM_MSIX: 4 },
      conf: {
        ...DEFAULT_CONF,
        ib_dev_for_static_pf: 'mlx5_1',
        static_pf: { mac_base: '08:11:22:33:44:FF', features: '0x10023' },
        eth_vq_workers: 3,
        dpa_core_start: 1,
        dpa_core_end: 3,
      },
    });
  }, 90_000);
  afterAll(() => service.end());

  it('static PFs are on ib_dev_for_static_pf, count up from static_pf.mac_base, and offer static_pf.features', async () => {
    const devices = await service.queryAll();
    const expected = { sf_parent_device: 'mlx5_1', sf_parent_device_pci_addr: '0000:03:00.1' };
    const offered = { device_feature: { value: '0x100010023' } }; // and VIRTIO_F_VERSION_1, as every function
    expect(devices).toMatchObject([
      { ...expected, ...offered, mac: '08:11:22:33:44:FF' },
      { ...expected, ...offered, mac: '08:11:22:33:45:00' },
    ]);
  });

  it('eth_vq_workers threads work the virtqueues, on the processors dpa_core_start to dpa_core_end', () => {
    const directory = `/proc/${service.active.pid}/task`;
    const threads = readdirSync(directory).filter((thread) =>
      readFileSync(`${directory}/${thread}/comm`, 'utf8').startsWith('datapath-'),
    );
    expect(threads).toHaveLength(3);
    if (processors.length === 0) return; // a machine with one processor
    for (const thread of threads) {
      const status = readFileSync(`${directory}/${thread}/status`, 'utf8');
      const list = /^Cpus_allowed_list:\s*(.*)$/m.exec(status)?.[1] ?? '';
      expect(numbersOf(list)).toEqual(processors);
    }
  });
});

/** `1-3,5` */
function numbersOf(list: string): number[] {
  return list.split(',').flatMap((part) => {
    const [first, last = first] = part.split('-').map(Number);
    return Array.from({ length: last! - first! + 1 }, (_, i) => first! + i);
  });
}
