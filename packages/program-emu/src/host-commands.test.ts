/** What commands of the host's side leave of its state when they fail. */
import { mkdirSync, readFileSync, rmSync } from 'node:fs';
import { type HostState, type HostVerb, restoreHost, UNDOES_BIND } from '@virtnet/engine-control';
import { describe, expect, it, onTestFinished } from 'vitest';
import { hostRequest } from './test-support/command-model.js';
import { TestService } from './test-support/test-service.js';

const FIRMWARE = [
  ...['VIRTIO_NET_EMULATION_ENABLE=1', 'PCI_SWITCH_EMULATION_ENABLE=1', 'SRIOV_EN=1'],
  ...['VIRTIO_NET_EMULATION_NUM_PF=2', 'VIRTIO_NET_EMULATION_NUM_VF=3'],
  ...['PCI_SWITCH_EMULATION_NUM_PORT=3', 'PF_BAR2_ENABLE=0', 'PER_PF_NUM_SF=1', 'PF_TOTAL_SF=64'],
  ...['VIRTIO_NET_EMULATION_NUM_MSIX=64', 'VIRTIO_NET_EMULATION_NUM_VF_MSIX=16'],
];
const PF = '14:00.2';
const LAST_VF = '14:00.7'; // behind the PFs and the RShim: VF 2
const SUCCESS = { errno: 0, errstr: 'Success' };

async function started(): Promise<TestService> {
  const service = new TestService({ firmware: FIRMWARE });
  await service.start();
  onTestFinished(() => service.close());
  return service;
}

const ask = ({ commands }: TestService, verb: HostVerb, more: Parameters<typeof hostRequest>[1] = {}) =>
  commands.host(hostRequest(verb, more));

/** What the host's state says of functions. */
function bindings(service: TestService): Pick<HostState, 'drivers' | 'numVfs' | 'noAutoprobe'> {
  const { drivers, numVfs, noAutoprobe } = stateOf(service);
  return { drivers, numVfs, noAutoprobe };
}

function stateOf({ paths }: TestService): HostState {
  const state = restoreHost(readFileSync(paths.hostState, 'utf8'));
  if (typeof state === 'string') throw new Error(state);
  return state;
}

/** Lets the last of three VFs be impossible to make. */
function obstructed({ paths }: TestService): () => void {
  const last = paths.pciSocket(`0000:${LAST_VF}`);
  mkdirSync(last);
  return () => rmSync(last, { recursive: true });
}

describe('VFs that cannot be made', () => {
  it('their PF keeps its driver and its autoprobe, and the log says that there are none', async () => {
    const service = await started();
    expect(await ask(service, 'bind', { bdf: PF, driver: 'virtio-pci' })).toEqual(SUCCESS);
    expect(await ask(service, 'autoprobe', { bdf: PF, value: 0 })).toEqual(SUCCESS);
    const clear = obstructed(service);
    expect(await ask(service, 'sriov', { bdf: PF, value: 3 })).toMatchObject({ errno: -1032 });
    const kept = { drivers: { [PF]: 'virtio-pci' }, noAutoprobe: { [PF]: true }, numVfs: {} };
    expect(bindings(service)).toEqual(kept);
    expect(stateOf(service).log.at(-1)!.text).toBe(`virtio-pci 0000:${PF}: 3 VFs disabled`);
    clear();
    expect(await ask(service, 'sriov', { bdf: PF, value: 3 })).toEqual(SUCCESS);
    await service.stop();
    obstructed(service);
    await service.start();
    expect(bindings(service)).toEqual(kept);
  });
});

describe('a binding that is taken back', () => {
  it('leaves the VFs of its PF, which needed no driver to have them', async () => {
    const service = await started();
    expect(await ask(service, 'sriov', { bdf: PF, value: 3 })).toEqual(SUCCESS);
    const before = service.commands.list();
    const bound = { bdf: PF, driver: 'virtio-pci' };
    expect(await ask(service, 'bind', bound)).toEqual(SUCCESS);
    expect(await ask(service, 'unbind', { ...bound, value: UNDOES_BIND })).toEqual(SUCCESS);
    expect(bindings(service)).toEqual({ drivers: {}, noAutoprobe: {}, numVfs: { [PF]: 3 } });
    expect(service.commands.list()).toEqual(before);
    expect(await ask(service, 'unbind', { ...bound, value: UNDOES_BIND })).toMatchObject({ errno: -19 });
  });
});
