/** scale-stage.ts: a service with as many functions as the firmware's configuration can ask for. */
import type { Hotplugged, HotplugOptions, Service } from '../../test/lib/service.ts';

/** VFs of one controller, and hotplug ports beside VFs: the guide's limits. */
export const VFS_MAX = 1008;
const PFS_MAX = 31;
const PORTS_MAX = 15;
/** What the adapter has ahead of the static PFs and the VFs: two native PFs, and the RShim. */
const FIRST_PF = 2;
const FUNCTIONS_PER_DEVICE = 8;
const PF_BUS = '14';

export interface Shape {
  readonly staticPfs: number;
  readonly vfsPerPf: number;
  readonly hotplugPfs: number;
}

/** As many VFs as there can be on that many static PFs, and as many hotplug PFs as there can be beside them. */
export function fullShape(staticPfs: number): Shape {
  return {
    staticPfs,
    vfsPerPf: Math.floor(VFS_MAX / staticPfs),
    hotplugPfs: Math.min(PORTS_MAX, PFS_MAX - staticPfs),
  };
}

export function functionsOf({ staticPfs, vfsPerPf, hotplugPfs }: Shape): number {
  return staticPfs * (1 + vfsPerPf) + hotplugPfs;
}

/** The guide's configuration for PFs and VFs together, in these numbers; static PFs exist when it resolves. */
export async function configure(service: Service, shape: Shape): Promise<void> {
  const { staticPfs, vfsPerPf, hotplugPfs } = shape;
  const values = [
    ...['VIRTIO_NET_EMULATION_ENABLE=1', `VIRTIO_NET_EMULATION_NUM_PF=${staticPfs}`],
    ...[`VIRTIO_NET_EMULATION_NUM_VF=${vfsPerPf}`, 'VIRTIO_NET_EMULATION_NUM_MSIX=10'],
    ...['VIRTIO_NET_EMULATION_NUM_VF_MSIX=64', `PCI_SWITCH_EMULATION_ENABLE=${hotplugPfs > 0 ? 1 : 0}`],
    ...[`PCI_SWITCH_EMULATION_NUM_PORT=${hotplugPfs}`, 'PER_PF_NUM_SF=1'],
    ...[`PF_TOTAL_SF=${functionsOf(shape) + 10}`, 'PF_BAR2_ENABLE=0', 'PF_SF_BAR_SIZE=8', 'NUM_VF_MSIX=0'],
    'SRIOV_EN=1',
  ];
  await service.bootWith(values);
}

/** `virtnet-host <words>`, which has to succeed. */
export async function host(service: Service, ...words: string[]): Promise<void> {
  const { code, stdout, stderr } = await service.host(...words);
  if (code !== 0) throw new Error(`virtnet-host ${words.join(' ')} failed (${code}): ${stdout}${stderr}`);
}

/** Address of a static PF. */
export function staticPf(pf: number): string {
  const at = FIRST_PF + pf;
  const device = Math.floor(at / FUNCTIONS_PER_DEVICE);
  return `${PF_BUS}:${device.toString(16).padStart(2, '0')}.${at % FUNCTIONS_PER_DEVICE}`;
}

/** Gives every static PF `count` VFs, one PF after the other, as a host does. */
export async function setVfs(service: Service, { staticPfs }: Shape, count: number): Promise<void> {
  for (let pf = 0; pf < staticPfs; pf++) await host(service, 'sriov', staticPf(pf), `${count}`);
}

/** Plugs all hotplug PFs in; `first` is the first one's. */
export async function plugAll(
  service: Service,
  { hotplugPfs }: Shape,
  first: HotplugOptions,
): Promise<Hotplugged[]> {
  const plugged: Hotplugged[] = [];
  for (let port = 0; port < hotplugPfs; port++) {
    const mac = `0C:C4:7A:FF:24:${port.toString(16).padStart(2, '0').toUpperCase()}`;
    plugged.push(await service.hotplug(port === 0 ? first : { mac, queueSize: 256 }));
  }
  return plugged;
}
