/** What may be lost together, row by row (lib/losses.ts): a Linux guest with streams both ways sees no more than a pause. */
import { describe, expect, test } from 'vitest';
import { type Kills, LOSSES, type Part } from './lib/losses.ts';
import { signalPid } from './lib/processes.ts';
import { fullAddress, type ProcessRole, Service } from './lib/service.ts';
import { describeLoss } from './lib/stream-analysis.ts';
import { streamFromGuest, streamToGuest } from './lib/streams.ts';
import { endsCleanly, useScene } from './lib/use-scene.ts';
import { sleep, until } from './lib/waiting.ts';
import { GUEST_ADDRESS, HOST_ADDRESS, World } from './lib/world.ts';

const FIRST_PORT = 7901;
const STREAM_MS = 200;
const PATIENCE_MS = 60_000;
const ROUND_MS = 60_000;
const EVERYBODY = ['controller', 'emu-standby', 'emu', 'ha'] as const satisfies readonly ProcessRole[];

const rows = Object.entries(LOSSES)
  .filter((row): row is [string, Kills] => 'killed' in row[1])
  .map(([name, kills], index) => ({ name, ...kills, port: FIRST_PORT + 2 * index }));

describe('kill -9 under a guest’s streams', () => {
  const used = useScene(async (scene) => {
    const world = await World.open(scene, { keeper: true });
    await world.bootGuest();
    return world;
  });

  /** Kills one, and starts what nobody else would. */
  async function lose(part: Part): Promise<void> {
    const { service } = used.value;
    if (part === 'vfe-vhostd') {
      await service.killVhostd();
      await service.startVhostd('client');
    } else if (part === 'vfe-vhostd-ha') await service.replaceVhostdKeeper();
    else service.kill(part);
  }

  /** Everybody is there again, and knows everything. */
  async function whole(killed: readonly Part[]): Promise<void> {
    const { service } = used.value;
    if (killed.includes('controller')) {
      await service.controller?.exited;
      await service.startAgain();
    }
    await service.recovered(-1);
    await until('the keeper knows all', PATIENCE_MS, () => service.keeperKnowsAll());
    await until('vfe-vhostd serves the machine', PATIENCE_MS, async () => {
      const { stdout } = await service.vhostCli('vf', '-i', fullAddress(used.value.device.bdf));
      return /"probed": true/.test(stdout) && /"configured": true/.test(stdout);
    });
  }

  test.each(rows)(
    '$name > no link event, no reset, at most one frame per queue and death of who worked it',
    async ({ killed, apartMs, port }) => {
      const { ends, guest, service, bridgeMac, device, scene } = used.value;
      await whole([]);
      const drops = async (): Promise<number> => {
        const [link] = JSON.parse(await scene.net.ip(`-j -s link show dev ${device.sf_rep_net_device}`));
        return link.stats64.tx.dropped;
      };
      const before = await drops();
      const toGuest = await streamToGuest(ends, GUEST_ADDRESS, port);
      const fromGuest = await streamFromGuest(ends, HOST_ADDRESS, bridgeMac, port + 1);
      const events = await guest.watchLink();
      for (const gap of apartMs) {
        await sleep(STREAM_MS);
        const former = killed.map((part) => ({ part, pid: pidOf(part) }));
        for (const [index, part] of killed.entries()) {
          if (index > 0) await sleep(gap);
          await lose(part);
        }
        for (const { part, pid } of former)
          await until(`${part} is another`, PATIENCE_MS, () => part === 'controller' || pidOf(part) !== pid);
        await whole(killed);
      }
      await sleep(STREAM_MS);
      const streams = { 'from the guest': await fromGuest(), 'to the guest': await toGuest() };
      // What the kernel drops because nobody read the representor for long never reached the product.
      const dropped = { 'from the guest': 0, 'to the guest': (await drops()) - before };
      const deaths = killed.includes('emu') ? apartMs.length : 0;
      for (const direction of ['from the guest', 'to the guest'] as const) {
        const { arrivals, report } = streams[direction];
        const { lost, duplicated, reordered, received } = report;
        const missed = lost.length + duplicated.length - dropped[direction];
        const counters = missed > deaths ? await used.value.facts() : '';
        const facts = `${direction}: lost ${describeLoss(arrivals, report)}, repeated ${duplicated}\n${counters}`;
        expect(missed, facts).toBeLessThanOrEqual(deaths);
        expect(reordered, facts).toBe(0);
        expect(received).toBeGreaterThan(0);
      }
      expect(await events()).toMatchObject({ carrierChanges: 0, resets: [] });
      expect(await service.health()).toMatchObject({ health_status: 'Good' });
    },
    Math.max(...rows.map(({ apartMs }) => apartMs.length)) * ROUND_MS + PATIENCE_MS,
  );

  function pidOf(part: Part): number | null {
    const { service } = used.value;
    return part === 'vfe-vhostd' || part === 'vfe-vhostd-ha' ? service.vhostPid(part) : service.pid(part);
  }

  endsCleanly(used);
});

describe('kill -9 without a service manager', () => {
  const used = useScene(async (scene) => {
    const service = await Service.start(scene);
    await service.hotplug({ mac: '0C:C4:7A:FF:22:93', queueSize: 256 });
    return service;
  });

  test('everything, and nobody keeps anything > the next start makes the same functions again', async () => {
    const service = used.value;
    await service.recovered(-1);
    const known = async () => {
      const { devices } = await service.answer<{ devices: Readonly<Record<string, unknown>>[] }>('list');
      return devices.map(({ vuid, mac, pci_bdf }) => ({ vuid, mac, pci_bdf }));
    };
    const before = await known();
    for (const pid of EVERYBODY.map((role) => service.runningPid(role))) signalPid(pid, 'SIGKILL');
    await until('all are dead', PATIENCE_MS, () => EVERYBODY.every((role) => service.pid(role) === null));
    await service.startAgain();
    expect(await known()).toEqual(before);
    expect(before).toHaveLength(1);
  }, 120_000);

  endsCleanly(used);
});
