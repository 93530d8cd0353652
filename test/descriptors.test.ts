/** The processes of the service may have few more descriptors: what cannot be kept is refused, and nothing that is kept is lost. */
import { execFileSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { close, DESCRIPTORS_RESERVED, memfdCreate } from '@virtnet/host-linux';
import { Errno } from '@virtnet/wire';
import { describe, expect, test } from 'vitest';
import { BoundFunction } from './lib/bound-function.ts';
import type { Scene } from './lib/scene.ts';
import { parseAnswer, Service } from './lib/service.ts';
import { endsCleanly, useScene } from './lib/use-scene.ts';
import { until } from './lib/waiting.ts';

const STEP_MS = 120_000;
/** What the emulator that serves may still give away. */
const LEFT = 20;
const DEVICES_MAX = 20;
/** As many leave enough for one client and its memory. */
const UNPLUGGED = 2;
const ROLES = ['controller', 'emu', 'emu-standby', 'ha'] as const;
/** A hotplug that did not come about. */
const REFUSED = -1032;
const MORE_BYTES = 4096;

interface Stage {
  readonly service: Service;
  readonly vuids: readonly string[];
  /** Of the first. */
  readonly bdf: string;
  /** A client of the second. */
  readonly fn: BoundFunction;
}

const mac = (index: number): string => `0C:C4:7A:FF:24:${(index + 16).toString(16).toUpperCase()}`;
const pids = (service: Service) => ROLES.map((role) => service.runningPid(role));

async function tryHotplug(service: Service, index: number): Promise<{ errno: number; vuid: string }> {
  const words = ['-i', 'mlx5_0', '-m', mac(index), '-t', '1500', '-n', '3', '-s', '256'];
  return parseAnswer((await service.virtnet('hotplug', ...words)).stdout) as { errno: number; vuid: string };
}

/** The service, whose processes and their successors may have LEFT more, and as many functions as that is good for. */
async function stage(scene: Scene): Promise<Stage> {
  const service = await Service.start(scene);
  const { vuid, bdf } = await service.hotplug({ mac: mac(0), queueSize: 256 });
  const served = await service.hotplug({ mac: mac(DEVICES_MAX + 1), queueSize: 256 });
  const fn = await BoundFunction.open(service.socket(served.bdf));
  scene.atEnd(() => fn.close());
  const used = readdirSync(`/proc/${service.runningPid('emu')}/fd`).length;
  const most = used + LEFT + DESCRIPTORS_RESERVED;
  for (const pid of pids(service)) execFileSync('prlimit', ['--pid', `${pid}`, `--nofile=${most}:${most}`]);
  const vuids = [vuid, served.vuid];
  for (let index = 1; index <= DEVICES_MAX; index++) {
    const answer = await tryHotplug(service, index);
    if (answer.errno !== 0) break;
    vuids.push(answer.vuid);
  }
  return { service, vuids, bdf, fn };
}

describe('hardly any descriptors are left', () => {
  const used = useScene(stage);
  const everyoneHas = (count: number) =>
    until('everybody to have every function', STEP_MS, async () => {
      const all = await used.value.service.emulators();
      return all.length === 2 && all.every(({ ready, devices }) => ready && devices === count);
    });

  test('no more functions are made; those that there are, the standby has as well', async () => {
    const { service, vuids } = used.value;
    expect(vuids.length).toBeGreaterThan(2);
    expect(vuids.length).toBeLessThan(DEVICES_MAX);
    expect((await tryHotplug(service, DEVICES_MAX)).errno).toBe(REFUSED);
    await everyoneHas(vuids.length);
  });

  test('a client that gives more of its memory is refused that, and goes on', async () => {
    const { client } = used.value.fn;
    const fd = memfdCreate('more', MORE_BYTES);
    const rangeAt = (index: number) => ({ iova: BigInt(index * MORE_BYTES), sizeBytes: MORE_BYTES });
    const map = (index: number) =>
      client.dmaMap({ ...rangeAt(index), fdOffset: 0, readable: true, writable: true, fd });
    let mapped = 0; // who is served may go further than others
    const errno = await (async () => {
      for (; mapped < DESCRIPTORS_RESERVED; mapped++) await map(mapped);
    })().catch((error: { errno: number }) => error.errno);
    close(fd);
    expect(errno).toBe(Errno.EMFILE);
    expect(mapped).toBeGreaterThan(0);
    for (let index = 0; index < mapped; index++) await client.dmaUnmap(rangeAt(index));
    expect((await client.deviceInfo()).pci).toBe(true);
  });

  test('a client waits until functions are unplugged, and is served then', async () => {
    const { service, vuids, bdf } = used.value;
    const client = BoundFunction.open(service.socket(bdf), STEP_MS);
    for (const vuid of vuids.slice(-UNPLUGGED))
      expect((await service.virtnet('unplug', '-u', vuid)).code).toBe(0);
    (await client).close();
  });

  test('the emulator is killed, and the controller > nothing of any function is lost, nobody else dies', async () => {
    const { service, vuids } = used.value;
    const kept = vuids.slice(0, -UNPLUGGED);
    await everyoneHas(kept.length);
    await service.recovered(service.killEmu().pid);
    for (const vuid of kept) {
      const { health_recover_counter: recovered } = await service.answer<{ health_recover_counter: number }>(
        ...['health', '-u', vuid, 'show'],
      );
      expect(recovered, vuid).toBe(1); // one that was made anew counts from 0
    }
    await everyoneHas(kept.length);
    const before = pids(service).slice(1);
    await service.controller?.end('SIGKILL');
    await service.startAgain();
    expect(pids(service).slice(1)).toEqual(before);
  });

  endsCleanly(used);
});
