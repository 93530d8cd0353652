/** The memory of a virtual machine that is killed together with parts of the service: nobody keeps it. */
import { describe, test } from 'vitest';
import { pinnedNode } from '../scripts/lib/paths.ts';
import { BoundFunction } from './lib/bound-function.ts';
import { managedService } from './lib/managed.ts';
import { holdersOf, memfdsOf } from './lib/memory-holders.ts';
import { type Child, signalPid } from './lib/processes.ts';
import { CLIENT_PROGRAM } from './lib/programs.ts';
import type { Scene } from './lib/scene.ts';
import { type Hotplugged, type ProcessRole, Service } from './lib/service.ts';
import { endsCleanly, useScene } from './lib/use-scene.ts';
import { until } from './lib/waiting.ts';
import { World } from './lib/world.ts';

const MAC = '0C:C4:7A:FF:22:93';
const PATIENCE_MS = 60_000;
const TIMEOUT_MS = 240_000;
const SERVICE = ['virtio_net_emu', 'virtio_net_emu', 'virtio_net_ha'];
const VHOST = ['vfe-vhostd', 'vfe-vhostd-ha'];

const names = (inode: number) => holdersOf(inode).map((holder) => holder.replace(/ \d+$/, ''));

/** The memory of `machine`, once it is with everybody of `holders`. */
async function shared(machine: number, holders: readonly string[]): Promise<number> {
  return until('the memory is with everybody', PATIENCE_MS, () =>
    [...memfdsOf(machine)].find((inode) => {
      const found = names(inode);
      return holders.every((name) => {
        const at = found.indexOf(name);
        if (at >= 0) found.splice(at, 1);
        return at >= 0;
      });
    }),
  );
}

/** Waits until nobody has it; prints how long that took after `killedAt`. */
async function released(what: string, inode: number, killedAt: number): Promise<void> {
  await until(`the memory is free (${what})`, PATIENCE_MS, () => {
    const holders = holdersOf(inode);
    if (holders.length > 0) throw new Error(`held by ${holders.join(', ')}`);
    return true;
  });
  const tookMs = Math.round(performance.now() - killedAt);
  process.stdout.write(`${what}: memory free after ${tookMs} ms\n`);
}

/** The next client of the function is served. */
async function servesAnother(service: Service, device: Hotplugged): Promise<void> {
  const fn = await until('the next client', PATIENCE_MS, () =>
    BoundFunction.open(service.socket(device.bdf), PATIENCE_MS),
  );
  await (await fn.start()).stop();
  await fn.close();
}

async function clientOf(scene: Scene, service: Service, device: Hotplugged): Promise<Child> {
  const words = [pinnedNode, CLIENT_PROGRAM, service.socket(device.bdf)];
  const client = scene.processes.start(words, { name: 'vfio-user client' });
  await client.printed(/bound/, PATIENCE_MS);
  return client;
}

describe('a vfio-user client, killed together with', () => {
  const used = useScene(async (scene) => {
    const service = await Service.start(scene);
    const device = await service.hotplug({ mac: MAC, queueSize: 256 });
    return { scene, service, device };
  });

  const parts: readonly (readonly ProcessRole[])[] = [
    ['emu'],
    ['emu-standby', 'emu'],
    ['ha', 'emu'],
    // The keeper alone is left.
    ['controller', 'emu-standby', 'emu'],
  ];
  test.each(parts.map((roles) => ({ name: roles.join(', '), roles })))(
    '$name > nobody keeps its memory, and the next client is served',
    async ({ name, roles }) => {
      const { scene, service, device } = used.value;
      const client = await clientOf(scene, service, device);
      await service.recovered(-1);
      const inode = await shared(client.pid, SERVICE);
      const pids = roles.map((role) => service.runningPid(role));
      const killedAt = performance.now();
      for (const pid of [client.pid, ...pids]) signalPid(pid, 'SIGKILL');
      await released(`client, ${name}`, inode, killedAt);
      if (roles.includes('controller')) await service.startAgain();
      await servesAnother(service, device);
    },
    TIMEOUT_MS,
  );

  endsCleanly(used);
});

describe('a vfio-user client under a service manager, killed together with', () => {
  const used = useScene(async (scene) => {
    const { manager, service } = await managedService(scene);
    const device = await service.hotplug({ mac: MAC, queueSize: 256 });
    return { scene, manager, service, device };
  });

  test.each(['emu', 'everything'] as const)(
    '%s > nobody keeps its memory, nor the service manager; the next client is served',
    async (what) => {
      const { scene, manager, service, device } = used.value;
      const client = await clientOf(scene, service, device);
      await service.recovered(-1);
      const inode = await shared(client.pid, SERVICE);
      await until('it is kept outside, too', PATIENCE_MS, () => {
        manager.names(); // what was said to it is taken
        return memfdsOf(process.pid).has(inode);
      });
      const emu = service.runningPid('emu');
      const killedAt = performance.now();
      signalPid(client.pid, 'SIGKILL');
      if (what === 'emu') signalPid(emu, 'SIGKILL');
      else {
        await manager.killGroup();
        manager.start();
      }
      await released(`client, ${what}, under a service manager`, inode, killedAt);
      await manager.ready();
      await servesAnother(service, device);
    },
    TIMEOUT_MS,
  );

  endsCleanly(used);
});

describe('QEMU on vfe-vhostd, killed together with', () => {
  const used = useScene((scene) => World.open(scene, { vhostServer: 'backend', keeper: true }));

  test.each([
    { name: 'vfe-vhostd', emu: false, starts: false },
    { name: 'vfe-vhostd, which starts again, and the emulator', emu: true, starts: true },
  ])(
    '$name > nobody keeps its memory, and the next machine is served',
    async ({ name, emu, starts }) => {
      const world = used.value;
      const { service } = world;
      const { qemu } = await world.bootGuest();
      await service.recovered(-1);
      const inode = await shared(qemu.pid, [...SERVICE, ...VHOST]);
      const pids = [qemu.pid, service.vhostPid('vfe-vhostd'), ...(emu ? [service.runningPid('emu')] : [])];
      const killedAt = performance.now();
      for (const pid of pids) signalPid(pid, 'SIGKILL');
      await service.killVhostd();
      if (starts) await service.startVhostd('server');
      await released(`QEMU, ${name}`, inode, killedAt);
      if (!starts) await service.startVhostd('server');
      await world.bootGuest();
      await world.guest.end('SIGKILL');
    },
    TIMEOUT_MS,
  );

  endsCleanly(used);
});
