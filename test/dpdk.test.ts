/** DPDK's virtio-user as the driver: an independent implementation, over vhost-user through vfe-vhostd. */
import { rmSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { pinnedNode } from '../scripts/lib/paths.ts';
import { HostCapture } from './lib/capture.ts';
import { onesComplementSum } from './lib/frames.ts';
import { signalPid } from './lib/processes.ts';
import { UDP_PROGRAM } from './lib/programs.ts';
import type { Scene } from './lib/scene.ts';
import { type Hotplugged, Service } from './lib/service.ts';
import { Testpmd, virtioUser } from './lib/testpmd.ts';
import type { EchoResult } from './lib/udp-host.ts';
import { endsCleanly, useScene } from './lib/use-scene.ts';
import { sleep, until } from './lib/waiting.ts';

const MAC = '0C:C4:7A:FF:22:93';
const HOST_ADDRESS = '10.78.0.1';
const PEER_ADDRESS = '10.78.0.2';
const UDP_PORT = 7100;
const ECHO_COUNT = 20_000;
const SERVICE_TIMEOUT_MS = 60_000;
const SAMPLE_FRAMES = 2_000;

interface Setting {
  readonly queues: number;
  readonly queueSize: number;
  /** Who listens on the vhost-user socket. */
  readonly vhostServer: 'testpmd' | 'backend';
}

const settings: readonly Setting[] = [
  { queues: 1, queueSize: 256, vhostServer: 'backend' },
  { queues: 1, queueSize: 1024, vhostServer: 'testpmd' },
  { queues: 4, queueSize: 256, vhostServer: 'backend' },
];

interface Stage {
  readonly scene: Scene;
  readonly service: Service;
  readonly device: Hotplugged;
  start(options?: readonly string[]): Promise<Testpmd>;
}

/** The service with one function whose representor has an address, and a peer known behind it. */
async function stage(scene: Scene, { queues, queueSize, vhostServer }: Setting): Promise<Stage> {
  const service = await Service.start(scene);
  const device = await service.hotplug({ mac: MAC, queues: 2 * queues + 1, queueSize });
  const representor = device.sf_rep_net_device;
  await scene.net.quiet(representor);
  await scene.net.ip(`addr add ${HOST_ADDRESS}/24 dev ${representor}`);
  await scene.net.ip(`link set ${representor} up`);
  await scene.net.ip(`neigh add ${PEER_ADDRESS} lladdr ${MAC} dev ${representor} nud permanent`);
  await service.startVhostd(vhostServer === 'testpmd' ? 'client' : 'server');
  const path = scene.path('vhost.sock');
  await service.addVhost(device.bdf, path);
  return {
    scene,
    service,
    device,
    async start(options = []) {
      const server = vhostServer === 'testpmd';
      if (server) rmSync(path, { force: true }); // one that was killed leaves its socket
      const testpmd = await Testpmd.start({
        processes: scene.processes,
        net: scene.net,
        directory: scene.directory,
        devices: [virtioUser({ path, queues, queueSize, mac: MAC, server })],
        options: [
          `--rxq=${queues}`,
          `--txq=${queues}`,
          `--rxd=${queueSize}`,
          `--txd=${queueSize}`,
          ...options,
        ],
      });
      await until('the rings of testpmd', 30_000, async () => {
        const { enabled_queues } = await service.query();
        return Number(enabled_queues) >= 2 * queues;
      });
      return testpmd;
    },
  };
}

interface InterfaceCounters {
  readonly rx: { readonly packets: number; readonly bytes: number; readonly dropped: number };
  readonly tx: { readonly packets: number; readonly dropped: number };
}

async function counters(scene: Scene, device: string): Promise<InterfaceCounters> {
  const [link] = JSON.parse(await scene.net.ip(`-j -s link show ${device}`)) as {
    stats64: InterfaceCounters;
  }[];
  if (link === undefined) throw new Error(`no interface ${device}`);
  return link.stats64;
}

async function udp<T>(scene: Scene, ...words: string[]): Promise<T> {
  return JSON.parse(await scene.net.run([pinnedNode, UDP_PROGRAM, ...words], { timeoutMs: 120_000 })) as T;
}

describe.for(settings)(
  'DPDK virtio-user, split ring, mergeable off, $queues queue pairs of $queueSize, $vhostServer listens',
  (setting) => {
    const used = useScene((scene) => stage(scene, setting));

    test(`5tswap loop > ${ECHO_COUNT} datagrams of random length come back byte for byte`, async () => {
      const { scene, start } = used.value;
      const testpmd = await start();
      await testpmd.forward('5tswap');
      const result = await udp<EchoResult>(scene, 'echo', PEER_ADDRESS, `${UDP_PORT}`, `${ECHO_COUNT}`);
      expect(result).toEqual({ sent: ECHO_COUNT, intact: ECHO_COUNT, damaged: 0, repeated: 0 });
      await testpmd.quit();
    });

    test('io loop > every frame leaves the representor once and comes back once, unchanged', async () => {
      const { scene, device, start } = used.value;
      const testpmd = await start();
      await testpmd.forward('io');
      const on = { processes: scene.processes, net: scene.net };
      const capture = await HostCapture.start(on, device.sf_rep_net_device, ['udp', 'port', `${UDP_PORT}`], {
        snapBytes: 2_000,
      });
      await udp(scene, 'flows', PEER_ADDRESS, `${UDP_PORT}`, '16', '100');
      await sleep(500);
      const seen = new Map<string, number>();
      for (const { bytes } of await capture.finish())
        seen.set(bytes.toString('hex'), (seen.get(bytes.toString('hex')) ?? 0) + 1);
      // 100 equal datagrams of each flow, out and back; the identification differs from packet to packet.
      expect([...seen.values()].reduce((sum, count) => sum + count, 0)).toBe(2 * 1_600);
      for (const count of seen.values()) expect(count % 2).toBe(0);
      await testpmd.quit();
    });

    test('rxonly > every datagram sent arrives, on every queue', async () => {
      const { scene, service, start } = used.value;
      const testpmd = await start();
      await testpmd.forward('rxonly');
      const before = await testpmd.statistics();
      const { sent } = await udp<{ sent: number }>(scene, 'flows', PEER_ADDRESS, `${UDP_PORT}`, '64', '200');
      await sleep(500);
      const after = await testpmd.statistics();
      expect(after.rxPackets - before.rxPackets).toBe(sent);
      expect(after.rxBytes - before.rxBytes).toBe(sent * (200 + 42));
      expect(after.rxErrors).toBe(0);
      const receiving = (await service.query())['enabled-queues-info'].filter(
        ({ index, completed_desc }) => Number(index) % 2 === 0 && Number(completed_desc) > 0,
      );
      expect(receiving).toHaveLength(setting.queues);
      await testpmd.quit();
    });

    test.for([64, 1500])(
      'txonly, %i bytes > what testpmd sent is what the representor received',
      async (bytes) => {
        const { scene, device, service, start } = used.value;
        const representor = device.sf_rep_net_device;
        const testpmd = await start();
        await testpmd.command(`set txpkts ${bytes}`);
        const before = await counters(scene, representor);
        const on = { processes: scene.processes, net: scene.net };
        const capture = await HostCapture.start(on, representor, ['udp'], {
          count: SAMPLE_FRAMES,
          direction: 'in',
          snapBytes: 2_000,
        });
        await testpmd.forward('txonly');
        expect(await capture.full(20_000)).toBe(true);
        await sleep(300);
        await testpmd.stop();
        const sent = await testpmd.statistics();
        await until('the last frames', 30_000, async () => {
          const now = await counters(scene, representor);
          return now.rx.packets - before.rx.packets === sent.txPackets;
        });
        const now = await counters(scene, representor);
        expect(now.rx.bytes - before.rx.bytes).toBe(sent.txPackets * bytes);
        for (const { bytes: frame, lengthBytes } of capture.packets()) {
          expect(lengthBytes).toBe(bytes);
          expect(frame.readUInt16BE(12)).toBe(0x0800);
          expect(onesComplementSum(frame.subarray(14, 34))).toBe(0xffff);
          expect(frame.readUInt16BE(16)).toBe(bytes - 14);
          expect(frame.readUInt16BE(38)).toBe(bytes - 34);
        }
        const transmitting = (await service.query())['enabled-queues-info'].filter(
          ({ index, completed_desc }) => Number(index) % 2 === 1 && Number(completed_desc) > 0,
        );
        expect(transmitting).toHaveLength(setting.queues);
        await testpmd.quit();
      },
    );

    test('txonly, frames of three segments > they arrive whole', async () => {
      const { scene, device, start } = used.value;
      const testpmd = await start(['--tx-offloads=0x8000']);
      await testpmd.command('set txpkts 64,300,700');
      const on = { processes: scene.processes, net: scene.net };
      const capture = await HostCapture.start(on, device.sf_rep_net_device, ['udp'], {
        count: 500,
        direction: 'in',
      });
      await testpmd.forward('txonly');
      expect(await capture.full(20_000)).toBe(true);
      await testpmd.stop();
      for (const { lengthBytes } of capture.packets()) expect(lengthBytes).toBe(1_064);
      await testpmd.quit();
    });

    test(
      'testpmd killed while it sends > the next one is served, nothing of the old one is held',
      async () => {
        const { scene, service, start } = used.value;
        const held = [];
        for (let round = 0; round < 3; round++) {
          const testpmd = await start();
          await testpmd.forward('txonly');
          await sleep(200);
          signalPid(testpmd.child.pid, 'SIGKILL');
          await testpmd.child.exited;
          await until('stopped rings', 30_000, async () => (await service.query()).enabled_queues === '0');
          held.push(await service.settledHoldings());
        }
        expect(held[2]).toEqual(held[0]);
        const testpmd = await start();
        await testpmd.forward('5tswap');
        const result = await udp<EchoResult>(scene, 'echo', PEER_ADDRESS, `${UDP_PORT}`, '1000');
        expect(result).toMatchObject({ intact: 1000, damaged: 0 });
        await testpmd.quit();
      },
      SERVICE_TIMEOUT_MS,
    );

    endsCleanly(used);
  },
);
