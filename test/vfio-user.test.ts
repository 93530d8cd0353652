/** A Linux guest whose device is its own PCI function: a QEMU that connects to the function over vfio-user. */
import { NetFeature } from '@virtnet/wire';
import { describe, expect, test } from 'vitest';
import { qemuWithVfioUser } from '../scripts/lib/qemu-vfio-user.ts';
import { killDuring } from './lib/kills.ts';
import { randomNumbers, seed } from './lib/random.ts';
import { streamFromGuest, streamToGuest } from './lib/streams.ts';
import { isIntact, TransferHost } from './lib/transfer.ts';
import { endsCleanly, useScene } from './lib/use-scene.ts';
import { sleep, until } from './lib/waiting.ts';
import { GUEST_ADDRESS, HOST_ADDRESS, MAC, World } from './lib/world.ts';

const TRANSFER_BYTES = 8 * 1024 * 1024;
const DRIVER_READY = '0xf';
const FETCH_TIMEOUT_MS = 600_000;

describe('Linux guest over vfio-user', () => {
  const used = useScene(async (scene) => {
    qemuWithVfioUser((line) => process.stderr.write(`setup: ${line}\n`));
    const world = await World.open(scene, {
      vfioUser: true,
      queuePairs: 2,
      guest: { cpus: 2, reboots: true },
    });
    await world.bootGuest();
    return world;
  }, FETCH_TIMEOUT_MS);

  test('probe > the guest finds the function on its PCI bus, and its own driver makes it ready with MSI-X', async () => {
    const { guest, service } = used.value;
    const device = await guest.run('basename $(readlink -f /sys/class/net/eth0/device/..)');
    expect(await guest.run(`cd /sys/bus/pci/devices/${device} && cat vendor device revision`)).toBe(
      '0x1af4\n0x1041\n0x01',
    );
    expect(await guest.run('cat /sys/class/net/eth0/address')).toBe(MAC.toLowerCase());
    expect(await guest.run('grep input /proc/interrupts')).toMatch(/MSI.*virtio\d+-input/);
    expect((await service.query()).status.value).toBe(DRIVER_READY);
  });

  test('control queue > what the guest sets is what the device says it has', async () => {
    const { guest, service } = used.value;
    await guest.run('/usr/bin/ethtool -L eth0 combined 2');
    expect((await service.query()).ctrl_mq).toBe('2');
    await guest.run('/usr/bin/ethtool -L eth0 combined 1');
    expect((await service.query()).ctrl_mq).toBe('1');
  });

  test('TCP > both directions at once arrive as they were sent', async () => {
    const { ends } = used.value;
    const host = await TransferHost.start(ends, HOST_ADDRESS, TRANSFER_BYTES);
    const results = await Promise.all([host.toGuest(), host.fromGuest()]);
    for (const result of results) expect(isIntact(result, TRANSFER_BYTES), JSON.stringify(result)).toBe(true);
    await host.end();
  }, 300_000);

  test('kill -9 of the emulator, five times under traffic > no reset, no link event, one frame per queue at most', async () => {
    const { ends, guest, service, bridgeMac } = used.value;
    const events = await guest.watchLink();
    const toGuest = await streamToGuest(ends, GUEST_ADDRESS, 7101);
    const fromGuest = await streamFromGuest(ends, HOST_ADDRESS, bridgeMac, 7102);
    const kills = await killDuring(service, { count: 5, random: randomNumbers(seed) }, async (going) => {
      while (going()) await sleep(20);
    });
    const [down, up] = [await toGuest(), await fromGuest()];
    expect(kills).toHaveLength(5);
    for (const { report } of [down, up]) {
      expect(report.lost.length + report.duplicated.length).toBeLessThanOrEqual(2 * kills.length);
    }
    expect(await events()).toEqual({ carrierChanges: 0, monitored: [], resets: [] });
  }, 240_000);

  test('reboot of the guest > the function is reset and comes up again', async () => {
    const world = used.value;
    const { guest, service } = world;
    await guest.result('echo b >/proc/sysrq-trigger', 2_000).catch(() => undefined);
    await guest.booted(2);
    await guest.address(`${GUEST_ADDRESS}/24`);
    await world.reachable();
    expect((await service.query()).status.value).toBe(DRIVER_READY);
  });

  test('QEMU ends > the function goes back to what it was before a driver', async () => {
    const { guest, service } = used.value;
    await guest.end();
    await until(
      'a device without driver',
      30_000,
      async () => (await service.query()).enabled_queues === '0',
    );
  });

  endsCleanly(used);
});

describe('Linux guest that steers (RSS)', () => {
  const PAIRS = 2;
  const used = useScene(async (scene) => {
    qemuWithVfioUser((line) => process.stderr.write(`setup: ${line}\n`));
    const world = await World.open(scene, {
      vfioUser: true,
      queuePairs: PAIRS,
      features: [NetFeature.RSS, NetFeature.HASH_REPORT],
      guest: { cpus: PAIRS },
    });
    await world.bootGuest();
    await world.guest.run(`/usr/bin/ethtool -L eth0 combined ${PAIRS}`);
    return world;
  }, FETCH_TIMEOUT_MS);

  test('probe > the driver finds a table of 128 entries and a key of 40 bytes', async () => {
    const table = await used.value.guest.run('/usr/bin/ethtool -x eth0');
    expect(table).toMatch(/flow hash indirection table for eth0 with 2 RX ring/);
    expect(table).toMatch(/^ *120: /m);
    expect(table).not.toMatch(/^ *128: /m);
    expect(table).toMatch(/(?:[0-9a-f]{2}:){39}[0-9a-f]{2}/);
  });

  test.each([1, 0])(
    'ethtool -X > everything arrives in queue %i, before and after a kill',
    async (pair) => {
      const { ends, guest, service } = used.value;
      const weights = Array.from({ length: PAIRS }, (_, each) => (each === pair ? 1 : 0));
      await guest.run(`/usr/bin/ethtool -X eth0 weight ${weights.join(' ')}`);
      const arrived = async () => {
        const queues = (await service.query())['enabled-queues-info'];
        return Array.from({ length: PAIRS }, (_, each) =>
          Number(queues.find(({ index }) => index === `${2 * each}`)?.completed_desc ?? 0),
        );
      };
      for (const killed of [false, true]) {
        if (killed) await service.recovered(service.killEmu().pid);
        const before = await arrived();
        const host = await TransferHost.start(ends, HOST_ADDRESS, TRANSFER_BYTES);
        const results = await Promise.all([host.toGuest(), host.fromGuest()]);
        for (const result of results)
          expect(isIntact(result, TRANSFER_BYTES), JSON.stringify(result)).toBe(true);
        await host.end();
        const frames = (await arrived()).map((count, each) => count - before[each]!);
        expect(frames[pair]).toBeGreaterThan(100);
        // What is not IP (ARP) has no hash: Linux wants it in its first queue.
        if (pair !== 0) expect(frames[0]).toBeLessThan(20);
        else expect(frames[1]).toBe(0);
      }
    },
    300_000,
  );

  test('kill -9 of the emulator, three times under traffic > one frame per queue at most', async () => {
    const { ends, guest, service, bridgeMac } = used.value;
    await guest.run('/usr/bin/ethtool -X eth0 weight 1 1');
    const toGuest = await streamToGuest(ends, GUEST_ADDRESS, 7111);
    const fromGuest = await streamFromGuest(ends, HOST_ADDRESS, bridgeMac, 7112);
    const kills = await killDuring(service, { count: 3, random: randomNumbers(seed) }, async (going) => {
      while (going()) await sleep(20);
    });
    const [down, up] = [await toGuest(), await fromGuest()];
    expect(kills).toHaveLength(3);
    for (const { report } of [down, up])
      expect(report.lost.length + report.duplicated.length).toBeLessThanOrEqual(PAIRS * kills.length);
  }, 240_000);

  endsCleanly(used);
});
