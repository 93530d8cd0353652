import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { EmulatorService, eventually } from './emulator-service.fixture.js';
import { Guest } from './guest.fixture.js';
import { namespaceObstacle } from './network.fixture.js';

const obstacle = namespaceObstacle();

describe.skipIf(obstacle !== null)(`life of a function${obstacle ? `: ${obstacle}` : ''}`, () => {
  let service: EmulatorService;
  beforeAll(async () => {
    service = await EmulatorService.start();
  }, 60_000);
  afterAll(() => service.end());

  const mirrored = (count: number) =>
    eventually(`${count} mirrored`, async () => (await service.standby.status())?.devices === count);
  /** When everybody holds what belongs to `devices` functions. */
  const settled = async (devices: number) => {
    await mirrored(devices);
    await eventually('shelf', async () => (devices === 0) === ((await service.shelved('dev/')).length === 0));
    return service.holdings();
  };

  it('hotplug, then unplug: there and gone for the host, the keeper and the standby, without a trace', async () => {
    const before = await settled(0);
    for (let round = 0; round < 3; round++) {
      const device = await service.hotplug({ queuePairs: 3 });
      expect(device.representor).toMatch(/^en3f0pf0sf2\d{3}$/);
      expect([service.network.exists(device.representor), existsSync(device.socket)]).toEqual([true, true]);
      expect(service.network.hasCarrier(device.representor)).toBe(false);
      await mirrored(1);
      const names = (await service.shelved('dev/')).map((name) => name.split('/').slice(2).join('/'));
      expect(names.sort()).toEqual(['listener', 'page', 'record', 'tap/0']);
      expect(await service.unplug(device.id)).toMatchObject({ errno: 0 });
      expect([service.network.exists(device.representor), existsSync(device.socket)]).toEqual([false, false]);
    }
    expect(await settled(0)).toEqual(before);
  });

  it('unplugged with a driver at work: its client is told by the end of the connection, and nothing stays', async () => {
    const before = await settled(0);
    const device = await service.hotplug({ queuePairs: 2 });
    const guest = await Guest.start(service, device, { events: 4 });
    await guest.post();
    await mirrored(1);
    expect(await service.unplug(device.id)).toMatchObject({ errno: 0 });
    await eventually('end of the connection', () => guest.ends.length > 0);
    guest.close();
    expect(await settled(0)).toEqual(before);
    expect(readdirSync(service.paths.pci)).toEqual([]);
  });

  it('a hotplug that is refused because the representor’s name is taken leaves nothing', async () => {
    service.network.ip('tuntap add dev en3f0pf0sf2500 mode tap');
    const before = await settled(0);
    expect(await service.tryHotplug({ sfNum: 2500 })).not.toMatchObject({ errno: 0 });
    expect([await settled(0), readdirSync(service.paths.pci)]).toEqual([before, []]);
    service.network.ip('link del en3f0pf0sf2500');
  });

  it('a hotplug that runs out of descriptors anywhere leaves nothing, and the next succeeds', async () => {
    const before = await settled(0);
    const { pid } = service.active;
    const soft = (...value: string[]) =>
      execFileSync(
        'prlimit',
        ['--pid', String(pid), `--nofile${value.join()}`, '--noheadings', '-o', 'SOFT'],
        {
          encoding: 'utf8',
        },
      ).trim();
    const usual = soft();
    // The limit is one of numbers, and numbers below the highest may be free.
    const numbers = new Set(readdirSync(`/proc/${pid}/fd`).map(Number));
    let lowest = 0;
    while (numbers.has(lowest)) lowest++;
    // Each descriptor it needs is once the first that cannot be had: socket, queue, page, and whatever is in between.
    let refused = 0;
    for (let limit = lowest; ; limit++) {
      soft(`=${limit}:`);
      const answer = await service.tryHotplug({ queuePairs: 5 });
      soft(`=${usual}:`);
      if (answer.errno === 0) {
        expect(await service.unplug(Number(answer.id))).toMatchObject({ errno: 0 });
        break;
      }
      refused++;
      expect([limit, await settled(0), readdirSync(service.paths.pci)]).toEqual([limit, before, []]);
      expect(service.network.ip('-o link show')).not.toMatch('en3f0pf0sf');
    }
    expect(refused).toBeGreaterThanOrEqual(2);
    expect(await settled(0)).toEqual(before);
  });

  it('the same request again: the same answer, and one function', async () => {
    const params = {
      ...{ requestId: 'again', ibDevice: 'mlx5_0', mac: '0C:C4:7A:FF:22:93', mtu: 1500, queues: 3 },
      ...{ queuePairs: null, queueSize: 64, sfNum: null, features: null, legacy: false },
    };
    const first = await service.active.rpc.call('device.hotplug', params);
    expect(await service.active.rpc.call('device.hotplug', params)).toEqual(first);
    const list = (await service.active.rpc.call('device.list', {})) as { devices: unknown[] };
    expect(list.devices).toHaveLength(1);
    await service.unplug((first as unknown as { id: number }).id);
  });
});
