/** A Linux guest in QEMU with its own virtio_net driver, over vhost-user. */
import { featureMask, NetFeature, VirtioFeature } from '@virtnet/wire';
import { describe, expect, test } from 'vitest';
import { pinnedNode } from '../scripts/lib/paths.ts';
import { HostCapture } from './lib/capture.ts';
import { managed } from './lib/managed.ts';
import { signalPid } from './lib/processes.ts';
import { UDP_PROGRAM } from './lib/programs.ts';
import { fullAddress, type Service } from './lib/service.ts';
import type { FakeServiceManager } from './lib/service-manager.ts';
import { generatePackets, streamFromGuest, streamToGuest } from './lib/streams.ts';
import { describeTransfer, isIntact, TransferHost, transferTimeoutMs } from './lib/transfer.ts';
import { endsCleanly, useScene } from './lib/use-scene.ts';
import { sleep, until } from './lib/waiting.ts';
import { GUEST_ADDRESS, HOST_ADDRESS, MAC, World } from './lib/world.ts';

const DRIVER_READY = '0xf';
const TRANSFER_BYTES = 16 * 1024 * 1024;
const QUEUE_PAIRS = 4;
const JUMBO_MTU = 9000;
const RINGS = [VirtioFeature.RING_PACKED, NetFeature.MRG_RXBUF];
/** VIRTNET_TEST_JUMBO_MIB changes it; the guest keeps it in memory. */
const JUMBO_BYTES = Number(process.env.VIRTNET_TEST_JUMBO_MIB ?? 64) * 1024 * 1024;

/** Descriptors returned so far, by queue; the control queue is QEMU's. */
async function completed(service: Service): Promise<number[]> {
  return (await service.query())['enabled-queues-info'].map(({ completed_desc }) => Number(completed_desc));
}

describe('Linux guest, QEMU connects (vfe-vhostd listens)', () => {
  const used = useScene(async (scene) => {
    const world = await World.open(scene, { vhostServer: 'backend', queueSize: 256 });
    await world.bootGuest();
    return world;
  });

  test('probe > the driver is ready, with the MAC and queues of the function', async () => {
    const { guest, service } = used.value;
    expect(await guest.run('cat /sys/class/net/eth0/address')).toBe(MAC.toLowerCase());
    const device = await service.query();
    expect(device.status.value).toBe(DRIVER_READY);
    expect(device['enabled-queues-info'].map(({ index }) => index)).toEqual(
      expect.arrayContaining(['0', '1']),
    );
  });

  test('ping > every one is answered once, in both directions', async () => {
    const { guest, scene } = used.value;
    const fromGuest = await guest.run(`/usr/bin/ping -q -c 100 -i 0.01 ${HOST_ADDRESS}`);
    expect(fromGuest).toContain('100 packets transmitted, 100 received, 0% packet loss');
    expect(fromGuest).not.toContain('duplicates');
    const fromHost = await scene.net.run([
      'ping',
      '-q',
      '-c',
      '100',
      '-i',
      '0.01',
      '-s',
      '1400',
      GUEST_ADDRESS,
    ]);
    expect(fromHost).toContain('100 packets transmitted, 100 received, 0% packet loss');
    expect(fromHost).not.toContain('duplicates');
  });

  test('TCP > 16 MiB each way at once arrive as they were sent, in segments larger than the MTU', async () => {
    const { device, ends, guest } = used.value;
    const features = await guest.run('/usr/bin/ethtool -k eth0');
    expect(features).toMatch(/tcp-segmentation-offload: on/);
    const large = (direction: 'in' | 'out') =>
      HostCapture.start(ends, device.sf_rep_net_device, ['greater', '3000'], { count: 1, direction });
    const captures = [await large('in'), await large('out')];
    const host = await TransferHost.start(ends, HOST_ADDRESS, TRANSFER_BYTES);
    const results = await Promise.all([host.toGuest(), host.fromGuest()]);
    for (const result of results) expect(isIntact(result, TRANSFER_BYTES), JSON.stringify(result)).toBe(true);
    await host.end();
    const packets = await Promise.all(captures.map((capture) => capture.finish()));
    expect(packets.map(({ length }) => length)).toEqual([1, 1]);
    const [fromGuest] = packets[0]!;
    expect(fromGuest!.bytes.subarray(6, 12).toString('hex')).toBe(MAC.replaceAll(':', '').toLowerCase());
  }, 300_000);

  test('an idle device > the emulator sleeps', async () => {
    const { service } = used.value;
    await sleep(500);
    const pid = service.runningPid('emu');
    const before = service.cpuSeconds(pid);
    await sleep(3_000);
    expect(service.cpuSeconds(pid) - before).toBeLessThan(0.3);
  });

  test('rmmod and modprobe > the driver leaves and comes back, and traffic with it', async () => {
    const world = used.value;
    const { guest, service } = world;
    for (let round = 0; round < 3; round++) {
      await guest.run('rmmod virtio_net');
      await until(
        'a device without driver',
        30_000,
        async () => (await service.query()).enabled_queues === '0',
      );
      await guest.run('modprobe virtio_net');
      await guest.address(`${GUEST_ADDRESS}/24`);
      await world.reachable();
    }
    expect((await service.query()).status.value).toBe(DRIVER_READY);
  });

  test('QEMU killed and started again > the new guest is served, and nothing of the old one is held', async () => {
    const world = used.value;
    const { service } = world;
    const holdings = [];
    for (let round = 0; round < 3; round++) {
      signalPid(world.guest.qemu.pid, 'SIGKILL');
      await world.guest.qemu.exited;
      await until(
        'a device without driver',
        30_000,
        async () => (await service.query()).enabled_queues === '0',
      );
      holdings.push(await service.settledHoldings());
      await world.bootGuest();
    }
    expect(holdings[2]).toEqual(holdings[0]);
  }, 180_000);

  endsCleanly(used);
});

describe('Linux guest, QEMU listens (vfe-vhostd --client), four queue pairs', () => {
  const used = useScene(async (scene) => {
    const world = await World.open(scene, {
      queuePairs: QUEUE_PAIRS,
      guest: { cpus: 2, reboots: true },
      keeper: true,
    });
    await world.bootGuest();
    return world;
  });

  test('ethtool -L > from one to four pairs and back while packets flow: no stop, at most what was in flight is lost', async () => {
    const { ends, guest, bridgeMac } = used.value;
    const toGuest = await streamToGuest(ends, GUEST_ADDRESS, 7001);
    const fromGuest = await streamFromGuest(ends, HOST_ADDRESS, bridgeMac, 7002);
    for (const pairs of [1, 4, 2, 3, 1, QUEUE_PAIRS]) {
      await guest.run(`/usr/bin/ethtool -L eth0 combined ${pairs}`);
      expect(await guest.run('/usr/bin/ethtool -l eth0')).toMatch(new RegExp(`Combined:\\s+${pairs}\\s*$`));
      await sleep(300);
    }
    const down = await toGuest();
    const up = await fromGuest();
    expect(down.report.duplicated).toEqual([]);
    expect(up.report.duplicated).toEqual([]);
    expect(down.arrivals.at(-1)?.sequence).toBe(down.report.expected - 1);
    expect(up.report.lost).toEqual([]);
  });

  test('four pairs > packets of many flows use every queue, in both directions', async () => {
    const { guest, service, scene, bridgeMac } = used.value;
    await guest.run(`/usr/bin/ethtool -L eth0 combined ${QUEUE_PAIRS}`);
    const before = await completed(service);
    await scene.net.run([pinnedNode, UDP_PROGRAM, 'flows', GUEST_ADDRESS, '7200', '128', '10']);
    await generatePackets(guest, {
      address: HOST_ADDRESS,
      mac: bridgeMac,
      port: 7201,
      count: 400,
      queues: QUEUE_PAIRS,
    });
    const after = await completed(service);
    expect(after).toHaveLength(2 * QUEUE_PAIRS);
    for (const [index, count] of after.entries())
      expect(count, `queue ${index}`).toBeGreaterThan(before[index] ?? 0);
  });

  test('reboot of the guest > the device is reset, probed again and works', async () => {
    const world = used.value;
    for (let boot = 2; boot <= 3; boot++) {
      world.guest.reboot();
      await world.guest.booted(boot);
      await world.guest.address(`${GUEST_ADDRESS}/24`);
      await world.reachable();
    }
    expect((await world.service.query()).status.value).toBe(DRIVER_READY);
  });

  test('QEMU killed and started again > vfe-vhostd connects to the new socket', async () => {
    const world = used.value;
    signalPid(world.guest.qemu.pid, 'SIGKILL');
    await world.guest.qemu.exited;
    await world.bootGuest();
    expect((await world.service.query()).status.value).toBe(DRIVER_READY);
  });

  test('vfe-vhostd killed, and its keeper, and again, and told to end > the guest sees nothing, and streams go on without a loss', async () => {
    const { ends, guest, service, bridgeMac } = used.value;
    const resets = await guest.watchLink();
    const toGuest = await streamToGuest(ends, GUEST_ADDRESS, 7301);
    const fromGuest = await streamFromGuest(ends, HOST_ADDRESS, bridgeMac, 7302);
    for (const how of ['SIGKILL', 'SIGKILL behind its keeper', 'SIGTERM'] as const) {
      if (how === 'SIGKILL behind its keeper') await service.replaceVhostdKeeper();
      await service.killVhostd(how === 'SIGTERM' ? how : 'SIGKILL');
      await sleep(300);
      await service.startVhostd('client');
    }
    // What the guest asks of its device now goes through the last of them.
    await guest.run('/usr/bin/ethtool -L eth0 combined 2');
    await guest.run(`/usr/bin/ethtool -L eth0 combined ${QUEUE_PAIRS}`);
    const [down, up] = [await toGuest(), await fromGuest()];
    expect(await resets()).toMatchObject({ carrierChanges: 0, resets: [] });
    expect([up.report.lost, up.report.duplicated]).toEqual([[], []]);
    expect(down.report.duplicated).toEqual([]);
    expect(down.arrivals.at(-1)?.sequence).toBe(down.report.expected - 1);
    expect((await service.query()).status.value).toBe(DRIVER_READY);
  }, 120_000);

  test('vfe-vhostd and its keeper killed at once > the guest sees its link go down and up, and no more', async () => {
    const { guest, service, device, vhostSocket } = used.value;
    const events = await guest.watchLink();
    await service.killVhostdKeeper();
    await service.killVhostd();
    await service.startVhostdKeeper();
    await service.startVhostd('client');
    await service.addVhost(device.bdf, vhostSocket);
    await used.value.reachable();
    expect(await events()).toMatchObject({ carrierChanges: 2, resets: [] });
    expect((await service.query()).status.value).toBe(DRIVER_READY);
  }, 120_000);

  test('the same under a service manager, and both restarted > the guest sees nothing, and streams go on without a loss', async () => {
    const { ends, guest, service, scene, bridgeMac } = used.value;
    const keeper = await managed(scene, 'vfe-vhostd-ha', service.root);
    const vhostd = await managed(scene, 'vfe-vhostd', service.root, { words: ['--client'] });
    const begin = async (first: FakeServiceManager, second: FakeServiceManager) => {
      first.start();
      await sleep(100); // as between RestartSec= of the two
      second.start();
      await Promise.all([keeper.ready(), vhostd.ready()]);
    };
    await service.killVhostd();
    await service.killVhostdKeeper();
    await begin(keeper, vhostd);
    await service.addVhost(used.value.device.bdf, used.value.vhostSocket);
    await used.value.reachable();

    const toGuest = await streamToGuest(ends, GUEST_ADDRESS, 7401);
    const fromGuest = await streamFromGuest(ends, HOST_ADDRESS, bridgeMac, 7402);
    const events = await guest.watchLink(); // pktgen has something to say when it begins for a second time
    for (let kill = 0; kill < 3; kill++) {
      await sleep(200);
      await Promise.all([keeper.killGroup(), vhostd.killGroup()]);
      await begin(vhostd, keeper);
    }
    for (const one of [vhostd, keeper]) await one.stop(); // in the orders that After= gives
    for (const one of [keeper, vhostd]) {
      one.start();
      await one.ready();
    }
    for (const one of [keeper, vhostd]) signalPid(one.pid, 'SIGTERM'); // vfe-vhostd waits for whom it leaves everything to
    await keeper.exited;
    keeper.start();
    await vhostd.exited;
    vhostd.start();
    await Promise.all([keeper.ready(), vhostd.ready()]);
    await Promise.all([keeper.killGroup(), vhostd.killGroup()]);
    vhostd.start();
    await vhostd.ready(); // it waits for a keeper no longer
    keeper.start();
    await keeper.ready();
    await until('what the keeper has is served', 5_000, async () =>
      (await service.vhostCli('vf', '-i', fullAddress(used.value.device.bdf))).stdout.includes(
        '"probed": true',
      ),
    );
    await Promise.all([keeper.killGroup(), vhostd.killGroup()]);
    await begin(vhostd, keeper);
    // What the guest asks of its device now goes through the last of them.
    await guest.run('/usr/bin/ethtool -L eth0 combined 2');
    await guest.run(`/usr/bin/ethtool -L eth0 combined ${QUEUE_PAIRS}`);
    const [down, up] = [await toGuest(), await fromGuest()];
    expect(await events()).toMatchObject({ carrierChanges: 0, resets: [] });
    expect([up.report.lost, up.report.duplicated]).toEqual([[], []]);
    expect(down.report.duplicated).toEqual([]);
    expect(down.arrivals.at(-1)?.sequence).toBe(down.report.expected - 1);
    expect((await service.query()).status.value).toBe(DRIVER_READY);

    signalPid(vhostd.pid, 'SIGINT'); // as by systemctl stop
    expect(await vhostd.exited).toBe(0);
    await until('nothing but the log', 5_000, () => keeper.names().length === 2);
    expect(await keeper.stop()).toBe(0);
  }, 240_000);

  endsCleanly(used);
});

describe('Linux guest, packed rings, mergeable buffers, MTU 9000', () => {
  const used = useScene(async (scene) => {
    const world = await World.open(scene, {
      mtu: JUMBO_MTU,
      features: RINGS,
      guest: {
        deviceOptions: `packed=on,mrg_rxbuf=on,host_mtu=${JUMBO_MTU}`,
        memoryMegabytes: 512 + 2 * (JUMBO_BYTES >> 20),
      },
    });
    await world.bootGuest();
    return world;
  });

  test(
    `${JUMBO_BYTES >> 20} MiB each way arrive as they were sent, over the rings that were asked for`,
    async () => {
      const { ends, guest, service } = used.value;
      expect(await guest.run('cat /sys/class/net/eth0/mtu')).toBe(`${JUMBO_MTU}`);
      const negotiated = BigInt((await service.query()).driver_feature.value ?? 0);
      expect(negotiated & featureMask(RINGS)).toBe(featureMask(RINGS));
      const host = await TransferHost.start(ends, HOST_ADDRESS, JUMBO_BYTES);
      for (const transfer of [() => host.toGuest(), () => host.fromGuest()]) {
        const result = await transfer();
        process.stdout.write(`${describeTransfer(result)}\n`);
        expect(isIntact(result, JUMBO_BYTES), JSON.stringify(result)).toBe(true);
      }
      await host.end();
    },
    4 * transferTimeoutMs(JUMBO_BYTES),
  );

  endsCleanly(used);
});
