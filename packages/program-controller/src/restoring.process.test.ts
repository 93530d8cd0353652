import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createLogger, type DescriptorStore, virtnetPaths } from '@virtnet/host-ipc';
import { closeAll, memfdCreate, Poller } from '@virtnet/host-linux';
import { expect, it, onTestFinished, vi } from 'vitest';
import { readRunningBuild } from './builds.js';
import { after, eventually } from './service.fixture.js';
import { Supervisor } from './supervisor.js';

vi.setConfig({ testTimeout: 90_000 });

const fakeEmu = fileURLToPath(new URL('./fake-emu.fixture.ts', import.meta.url));

/** A supervisor that is to restore what a service manager kept, which comes about as `restored` does. */
function made(restored: Promise<number | null>) {
  const root = mkdtempSync(join(tmpdir(), 'virtnet-restoring-'));
  const poller = new Poller();
  poller.start();
  const logFds: [number, number] = [memfdCreate('log', 0), memfdCreate('log', 0)];
  const store = { holds: true, partial: false, logFds, restore: () => restored };
  const build = readRunningBuild();
  const lost = Promise.withResolvers<void>();
  const supervisor = new Supervisor({
    paths: virtnetPaths(root),
    poller,
    log: createLogger('test', 'err'),
    running: { ...build, mains: { ...build.mains, emu: fakeEmu } },
    store: store as unknown as DescriptorStore,
    onDevicesLost: lost.resolve,
  });
  onTestFinished(async () => {
    await supervisor.abandon();
    await poller.stop();
    closeAll(logFds);
    rmSync(root, { recursive: true, force: true });
  });
  return { supervisor, lost: lost.promise };
}

it('an emulator was told by a keeper that waited in vain that there is nothing: promoted when everything is restored', async () => {
  const restored = Promise.withResolvers<number>();
  const { supervisor } = made(restored.promise);
  const started = supervisor.start();
  const standby = await eventually('an emulator that could be promoted', () => supervisor.standby);
  await after(100);
  expect(await standby.client.call('emu.status', {})).toMatchObject({ role: 'standby' });
  restored.resolve(1);
  await started;
  expect(supervisor.active).toBe(standby);
});

it('no keeper took what was kept: the devices are lost to this start, and nobody is promoted', async () => {
  const restored = Promise.withResolvers<null>();
  const { supervisor, lost } = made(restored.promise);
  void supervisor.start();
  const standby = await eventually('an emulator that could be promoted', () => supervisor.standby);
  restored.resolve(null);
  await lost;
  await after(100);
  expect(await standby.client.call('emu.status', {})).toMatchObject({ role: 'standby' });
});

it('the keeper has taken everything and has not read it yet: waited for, however long it takes', async () => {
  const restored = Promise.withResolvers<number>();
  const { supervisor, lost } = made(restored.promise);
  const started = supervisor.start();
  const keeper = await eventually('a keeper', () =>
    supervisor.keeper?.state === 'ready' ? supervisor.keeper : null,
  );
  expect(await keeper.client.call('ha.status', {})).toMatchObject({ settled: false });
  restored.resolve(1);
  expect(await Promise.race([lost.then(() => 'lost'), started.then(() => 'started')])).toBe('started');
});

it('it dies over that: the devices are lost to this start', async () => {
  const restored = Promise.withResolvers<number>();
  const { supervisor, lost } = made(restored.promise);
  void supervisor.start();
  const keeper = await eventually('a keeper', () =>
    supervisor.keeper?.state === 'ready' ? supervisor.keeper : null,
  );
  restored.resolve(1);
  process.kill(keeper.pid!, 'SIGKILL');
  await lost;
});
