import { isAlive } from '@virtnet/host-linux';
import { describe, expect, it, vi } from 'vitest';
import type { FakeEmuKnobs } from './fake-emu.fixture.js';
import { after, eventually, Service } from './service.fixture.js';

vi.setConfig({ testTimeout: 90_000 });

type OnFinished = (end: () => Promise<void>) => void;
function start(onFinished: OnFinished, knobs: FakeEmuKnobs = {}): Promise<Service> {
  const service = new Service(knobs);
  onFinished(() => service.remove());
  return service.start();
}

// These mostly wait for deadlines, so they wait together.
describe.concurrent('controller, patience', () => {
  it('processes that do not end when asked are killed, and the exit code is still 0', async ({
    onTestFinished,
  }) => {
    const service = await start(onTestFinished, { stubborn: true });
    const { active, standby } = await service.settled();
    const startedMs = performance.now();
    expect(await service.signal('SIGINT')).toBe(0);
    expect(performance.now() - startedMs).toBeLessThan(7_000);
    expect([active, standby].filter(isAlive)).toEqual([]);
  });

  it('a new standby is up but never ready: replaced after the deadline, and the service is ready meanwhile', async ({
    onTestFinished,
  }) => {
    const service = await start(onTestFinished);
    const before = await service.settled();
    service.setKnobs({ neverReady: true });
    service.kill('emu-standby');
    const bad = await eventually('the next one is up', async () => {
      const all = await service.emulators();
      return all.find(({ pid }) => pid !== before.active && pid !== before.standby)?.pid ?? null;
    });
    service.setKnobs({});
    const { standby, active } = await service.settled(bad, before.standby);
    expect(active).toBe(before.active);
    expect(isAlive(bad)).toBe(false);
    expect(standby).not.toBe(bad);
  });

  it('every new standby crashes: starts slow down, the service stays, and recovers when they no longer do', async ({
    onTestFinished,
  }) => {
    const service = await start(onTestFinished);
    await service.settled();
    service.setKnobs({ exits: true });
    service.kill('emu-standby');
    await eventually('it is slowed down', () => service.stderr.includes('restarts are slowed down'), 20_000);
    const starts = () => service.stderr.split('"to":"starting"').length - 1;
    const startsBefore = starts();
    await after(2_000);
    expect(starts() - startsBefore).toBeLessThanOrEqual(5);
    expect((await service.cli('list')).exitCode).toBe(0);
    service.setKnobs({});
    await service.settled();
  });
});
