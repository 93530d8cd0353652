/** What commands of the host's side leave of its state when they fail, and when the emulator dies during them. */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import {
  type HostState,
  type HostVerb,
  restoreHost,
  serialiseHost,
  UNDOES_BIND,
} from '@virtnet/engine-control';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { HostStore } from './host-store.js';
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

const hotplug = ({ commands }: TestService) =>
  commands.hotplug({
    ...{ requestId: 'h', ibDevice: 'mlx5_0', mac: '0C:C4:7A:FF:22:93', mtu: 1500, queues: 3 },
    ...{ queuePairs: null, queueSize: 256, sfNum: null, features: null, legacy: false },
  });

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

describe('a power cycle after which a static PF cannot be made', () => {
  it('says which, and has happened for everything else; the next one makes it', async () => {
    const service = await started();
    expect(await hotplug(service)).toMatchObject({ errno: 0 });
    const obstacle = service.paths.pciSocket('0000:14:00.3');
    expect(await ask(service, 'warm-reboot')).toEqual(SUCCESS);
    rmSync(obstacle, { force: true });
    mkdirSync(obstacle);
    const answer = await ask(service, 'power-cycle');
    expect(answer).toMatchObject({ errno: -1032 });
    expect((answer as { errstr: string }).errstr).toBe(
      'Failed to hotplug SNAP PF: power-cycled, but without static PF 1; the log says why',
    );
    const bdfs = () =>
      (service.commands.list() as unknown as { devices: { pci_bdf: string }[] }).devices.map(
        ({ pci_bdf }) => pci_bdf,
      );
    expect(bdfs()).toEqual([PF]);
    rmSync(obstacle, { recursive: true });
    expect(await ask(service, 'power-cycle')).toEqual(SUCCESS);
    expect(bdfs()).toEqual([PF, '14:00.3']);
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

describe('an emulator that dies during a command', () => {
  const VFS = ['14:00.5', '14:00.6', '14:00.7'];
  const HOTPLUG = '15:00.0';
  const driven = (...bdfs: string[]) => Object.fromEntries(bdfs.map((bdf) => [bdf, 'virtio-pci']));

  /** Everything that can be seen of functions. */
  const seen = (service: TestService) => ({
    ...bindings(service),
    list: (service.commands.list() as unknown as { devices: { vuid: string }[] }).devices.map(
      ({ vuid }) => vuid,
    ),
    log: stateOf(service).log.map(({ text }) => text),
  });

  /**
   * Carries `send` out, and again after a start that finds the host's state as each of its writes left it: it is answered
   * as at first, and all is as it was.
   */
  async function dies(
    service: TestService,
    send: () => Promise<unknown>,
    look: (service: TestService) => unknown = seen,
  ): Promise<void> {
    const saving = vi.spyOn(HostStore.prototype, 'save');
    const answer = await send();
    const states = saving.mock.calls.map(([state]) => state);
    saving.mockRestore();
    const after = look(service);
    expect(states.length).toBeGreaterThan(0);
    for (const [number, state] of states.entries()) {
      await service.stop();
      writeFileSync(service.paths.hostState, serialiseHost(state));
      await service.start();
      expect(await send(), `${number}`).toEqual(answer);
      expect(look(service), `${number}`).toEqual(after);
    }
  }

  const again = (service: TestService, verb: HostVerb, more: Parameters<typeof hostRequest>[1] = {}) => {
    const request = hostRequest(verb, more);
    return dies(service, () => service.commands.host(request));
  };

  it('sriov: the VFs are announced, and the driver takes them', async () => {
    const service = await started();
    expect(await ask(service, 'modprobe', { value: 1 })).toEqual(SUCCESS);
    await again(service, 'sriov', { bdf: PF, value: 3 });
    const { drivers, log } = seen(service);
    expect(drivers).toEqual(driven(PF, '14:00.3', ...VFS));
    expect(log).toContain(`pci 0000:${LAST_VF}: [1af4:1041] type 00 class 0x020000`);
    await again(service, 'sriov', { bdf: PF, value: 0 });
    expect(seen(service).drivers).toEqual(driven(PF, '14:00.3'));
  });

  it('sriov without autoprobe: the VFs are announced', async () => {
    const service = await started();
    expect(await ask(service, 'modprobe', { value: 1 })).toEqual(SUCCESS);
    expect(await ask(service, 'autoprobe', { bdf: PF, value: 0 })).toEqual(SUCCESS);
    await again(service, 'sriov', { bdf: PF, value: 3 });
    const { drivers, log } = seen(service);
    expect(drivers).toEqual(driven(PF, '14:00.3'));
    expect(log).toContain(`pci 0000:${LAST_VF}: [1af4:1041] type 00 class 0x020000`);
  });

  it('sriov that fails: answered with the error', async () => {
    const service = await started();
    obstructed(service);
    const request = hostRequest('sriov', { bdf: PF, value: 3 });
    await dies(service, () => service.commands.host(request), bindings); // tried, and told in the log, again
    expect(bindings(service).numVfs).toEqual({});
    expect(await service.commands.host(request)).toMatchObject({ errno: -1032 });
  });

  it('hotplug: the driver takes the function, before or after', async () => {
    const service = await started();
    expect(await ask(service, 'modprobe', { value: 1 })).toEqual(SUCCESS);
    let asked = false;
    await dies(service, async () => {
      // A record of the device would answer the second time; here there is none but the recovery file.
      if (!asked) expect(await hotplug(service)).toMatchObject(SUCCESS);
      asked = true;
    });
    expect(seen(service).drivers).toEqual(driven(PF, '14:00.3', HOTPLUG));
  });

  it.each([
    ['bind', 'unbind'],
    ['bind', 'unbind', 'bind'],
  ] as const)('%s, %s: carried out once', async (...verbs) => {
    const service = await started();
    expect(await ask(service, 'sriov', { bdf: PF, value: 3 })).toEqual(SUCCESS);
    for (const verb of verbs) {
      await again(service, verb, { bdf: PF, driver: 'virtio-pci' });
      expect(seen(service).drivers).toEqual(verb === 'bind' ? driven(PF) : {});
    }
    expect(seen(service).numVfs).toEqual({});
  });

  it('modprobe, autoprobe, flr, warm-reboot and power-cycle', async () => {
    const service = await started();
    await again(service, 'autoprobe', { bdf: PF, value: 0 });
    expect(await ask(service, 'sriov', { bdf: PF, value: 3 })).toEqual(SUCCESS);
    for (const value of [1, 0, 1]) {
      await again(service, 'modprobe', { value });
      await again(service, 'flr', { bdf: PF });
    }
    await again(service, 'warm-reboot');
    expect(bindings(service)).toEqual({ drivers: {}, numVfs: {}, noAutoprobe: {} });
    await again(service, 'power-cycle');
  });

  it('what was unbound from the driver before stays so', async () => {
    const service = await started();
    expect(await ask(service, 'modprobe', { value: 1 })).toEqual(SUCCESS);
    expect(await ask(service, 'sriov', { bdf: PF, value: 3 })).toEqual(SUCCESS);
    expect(await hotplug(service)).toMatchObject(SUCCESS);
    for (const bdf of [LAST_VF, HOTPLUG])
      expect(await ask(service, 'unbind', { bdf, driver: 'virtio-pci' })).toEqual(SUCCESS);
    const before = seen(service);
    await service.stop();
    await service.start();
    expect(seen(service)).toEqual(before);
  });
});
