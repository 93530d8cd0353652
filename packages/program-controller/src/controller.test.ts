import { closeSync, mkdirSync, openSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DEFAULT_CONF, initialFirmwareStore } from '@virtnet/engine-control';
import { readConfSnapshot, readFirmwareStore, writeFirmwareStore } from '@virtnet/host-ipc';
import { isAlive, lockFile } from '@virtnet/host-linux';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import type { FakeEmuKnobs } from './fake-emu.fixture.js';
import { after, eventually, hotplugParams, Service } from './service.fixture.js';

vi.setConfig({ testTimeout: 90_000 });

/** Ends with the test. */
function made(knobs?: FakeEmuKnobs): Service {
  const service = new Service(knobs);
  onTestFinished(() => service.remove());
  return service;
}
const start = (knobs?: FakeEmuKnobs) => made(knobs).start();
const devicesListed = async (service: Service) =>
  ((await service.cli('list')).answer.devices as string[]).length;
const name = (pid: number) => readFileSync(`/proc/${pid}/comm`, 'utf8').trim();

describe('controller', () => {
  it('starts everything, says ready, answers, and on SIGTERM ends everything and leaves nothing', async () => {
    const service = await start();
    const { active, standby } = await service.settled();
    const ha = service.pid('ha');
    expect(service.pid('controller')).toBeGreaterThan(0);
    expect([name(ha), name(active), name(standby)]).toEqual([
      'virtio_net_ha',
      'virtio_net_emu',
      'virtio_net_emu',
    ]);

    expect(await service.cli('version')).toEqual({
      answer: [{ 'Original Controller': 'v0.1.0' }, { 'Destination Controller': 'v0.1.0' }],
      exitCode: 0,
    });
    expect(await service.cli('hotplug', hotplugParams)).toMatchObject({ answer: { errno: 0 }, exitCode: 0 });
    expect(await service.cli('unplug', { pf: 0, vuid: null })).toMatchObject({
      echo: { id: 0 },
      exitCode: 0,
    });
    expect(await service.cli('log', { level: 'info' })).toEqual({
      echo: { level: 'info' },
      answer: 'Success',
      exitCode: 0,
    });
    expect(await service.cli('update', { start: false, status: true })).toEqual({
      echo: { status: 1 },
      answer: { status: 'inactive', 'last live update status': 'none', 'time_used (s)': 0 },
      exitCode: 0,
    });
    expect(await service.cli('validate')).toEqual({
      answer: { errno: -1047, errstr: 'Option is not supported' },
      exitCode: 1,
    });
    expect(await service.cli('unplug', { pf: 'zero' })).toMatchObject({
      answer: { errno: -22 },
      exitCode: 1,
    });
    expect(await service.cli('unplug', { pf: 70_000, vuid: null })).toMatchObject({ exitCode: 1 });

    expect(await service.signal('SIGTERM')).toBe(0);
    expect([ha, active, standby].filter(isAlive)).toEqual([]);
    expect(readdirSync(service.paths.run).sort()).toEqual(['controller.lock', 'pci']);
    expect(readdirSync(service.paths.pci)).toEqual([]);
  });

  it('a second controller on the same root says who is there, exits with 1, and disturbs nobody', async () => {
    const service = await start();
    const before = await service.settled();
    const first = service.pid('controller');
    const second = new Service({}, service.paths.root);
    second.launch();
    expect(await second.signal('SIGCONT')).toBe(1);
    await second.says((stderr) =>
      expect(stderr).toContain(`another controller (pid ${first}) serves ${service.paths.root}`),
    );
    expect(await service.settled()).toEqual(before);
    expect((await service.cli('version')).exitCode).toBe(0);
  });
});

describe('controller, virtnet.conf', () => {
  const snapshot = (service: Service) => readConfSnapshot(service.paths)!;

  it('a file that is wrong stops the start before anything is started, with every message', async () => {
    const service = made();
    writeFileSync(service.paths.conf, '{\n  "is_lag": true,\n  "recovery": 7\n}');
    service.launch();
    expect(await service.signal('SIGCONT')).toBe(1);
    const remedies = [
      `virtio_net_controller: ${service.paths.conf}:2:13: is_lag: must be 0 or 1, not true. Remedy: write 1.\n`,
      `virtio_net_controller: ${service.paths.conf}:3:15: recovery: must be 0 or 1, not 7. Remedy: write 0 or 1.\n`,
    ];
    await service.says((stderr) => expect(stderr).toBe(remedies.join('')));
    expect(service.stdout).toBe('');
    expect(readdirSync(service.paths.run).sort()).toEqual(['controller.lock', 'pci']);
  });

  it('is in effect as a snapshot until the service ends; another controller that adopts it changes nothing', async () => {
    const service = made();
    writeFileSync(service.paths.conf, '{ "single_port": 1 }');
    await service.start();
    const before = await service.settled();
    expect(snapshot(service)).toEqual({ ...DEFAULT_CONF, single_port: 1 });
    await service.signal('SIGKILL');
    writeFileSync(service.paths.conf, '{ "single_port": 0 }');
    await service.start();
    expect(await service.settled()).toEqual(before);
    expect(snapshot(service)).toMatchObject({ single_port: 1 });
    await service.says((stderr) => expect(stderr).toContain('virtnet.conf has changed'));
    await service.signal('SIGTERM');
    await service.start();
    expect(snapshot(service)).toMatchObject({ single_port: 0 });
  });
});

it('the first start after a power cycle that changed the firmware configuration deletes all recovery files', async () => {
  const service = made();
  const { recovery, fwconfig } = service.paths;
  writeFileSync(`${recovery}/MT2151X03152VNETS1D0F0`, '{}');
  writeFirmwareStore(fwconfig, { ...initialFirmwareStore(), recoveryObsolete: true });
  await service.start();
  expect(readdirSync(recovery)).toEqual([]);
  expect(readFirmwareStore(fwconfig)).toEqual({ store: initialFirmwareStore() });
});

it('a start that deletes recovery files loses no change of the firmware configuration that is made meanwhile', async () => {
  const service = made();
  const { recovery, fwconfig } = service.paths;
  writeFileSync(`${recovery}/MT2151X03152VNETS1D0F0`, '{}');
  const store = { ...initialFirmwareStore(), recoveryObsolete: true as const };
  writeFirmwareStore(fwconfig, store);
  const lock = openSync(`${fwconfig}.lock`, 'a'); // whoever is about to change it
  expect(lockFile(lock)).toBe(0);
  const started = service.start();
  await eventually('the files are deleted', () => readdirSync(recovery).length === 0);
  const nextBoot = { ...store.nextBoot, PF_TOTAL_SF: 9 };
  writeFirmwareStore(fwconfig, { ...store, nextBoot });
  closeSync(lock);
  await started;
  expect(readFirmwareStore(fwconfig)).toEqual({ store: { ...initialFirmwareStore(), nextBoot } });
});

it('its own pid file, which there was no room for at the start, is written with the next one', async () => {
  const service = made();
  const draft = `${service.paths.pidFile('controller')}.new`;
  mkdirSync(draft); // in the way
  await service.start();
  const { standby } = await service.settled();
  expect(service.pid('controller')).toBe(0);
  rmdirSync(draft);
  service.kill('emu-standby');
  await service.settled(standby);
  expect(service.pid('controller')).toBe(service.controllerPid);
});

describe('controller, deaths', () => {
  it('the active dies: the standby serves, pid files are swapped, a new standby comes up, devices are kept', async () => {
    const service = await start();
    await service.cli('hotplug', hotplugParams);
    const before = await service.settled();
    service.kill('emu');
    const command = service.cli('hotplug', hotplugParams); // sent into the gap
    expect((await command).answer).toMatchObject({ errno: 0, id: 1 });
    const now = await service.settled(before.active);
    expect(now.active).toBe(before.standby);
    expect(await devicesListed(service)).toBe(2);
    expect(await service.ha()).toMatchObject({ leaseHolderPid: now.active, subscribers: 1, entries: 2 });
  });

  it('takeovers in a row leave no descriptor in the controller and lose no device', async () => {
    const service = await start();
    await service.cli('hotplug', hotplugParams);
    await service.settled();
    const openFiles = () => readdirSync(`/proc/${service.pid('controller')}/fd`).length;
    let files = 0;
    for (let round = 0; round < 5; round++) {
      const former = service.kill('emu');
      await service.settled(former);
      if (round === 0) files = openFiles();
    }
    // Connections that come and go make a difference of one or two; a leak would make at least four.
    await eventually('no more descriptors than after the first', () => openFiles() <= files + 2);
    expect(await devicesListed(service)).toBe(1);
  });

  it('a standby that does not take over by itself is promoted by the controller', async () => {
    const service = await start({ passive: true });
    const before = await service.settled();
    service.kill('emu');
    expect((await service.settled(before.active)).active).toBe(before.standby);
  });

  it('the active dies over a hotplug that it carried out: sent again, answered, not repeated', async () => {
    const service = await start({ dieOnHotplug: true });
    const before = await service.settled();
    expect((await service.cli('hotplug', hotplugParams)).answer).toMatchObject({
      errno: 0,
      id: 0,
      repeated: true,
    });
    await service.settled(before.active);
    expect(await devicesListed(service)).toBe(1);
  });

  it('the standby dies: a new one comes up, the active is not touched', async () => {
    const service = await start();
    const before = await service.settled();
    service.kill('emu-standby');
    expect((await service.settled(before.standby)).active).toBe(before.active);
  });

  it('ha dies: a new one is uploaded to; then the active dies and nothing is lost', async () => {
    const service = await start();
    await service.cli('hotplug', hotplugParams);
    const before = await service.settled();
    const former = service.kill('ha');
    await eventually('the new keeper has everything', async () => {
      const status = await service.ha();
      return status !== null && status.pid !== former && status.settled && status.entries === 1;
    });
    expect(await service.settled()).toEqual(before);
    service.kill('emu');
    await service.settled(before.active);
    expect(await devicesListed(service)).toBe(1);
  });

  it('ha and the active die together: the standby goes on with what it holds and uploads it', async () => {
    const service = await start();
    await service.cli('hotplug', hotplugParams);
    const before = await service.settled();
    service.kill('ha');
    service.kill('emu');
    expect((await service.settled(before.active)).active).toBe(before.standby);
    expect(await devicesListed(service)).toBe(1);
    await eventually('it is on the new shelf', async () => (await service.ha())?.entries === 1);
  });

  it('the active hangs: it is killed, dead for certain, and taken over from within 5 s', async () => {
    const service = await start();
    const before = await service.settled();
    const startedMs = performance.now();
    service.kill('emu', 'SIGSTOP');
    const listed = service.cli('list');
    await eventually('the standby serves', () => service.pid('emu') === before.standby);
    expect(performance.now() - startedMs).toBeLessThan(5_000);
    expect(isAlive(before.active)).toBe(false);
    expect((await listed).exitCode).toBe(0);
  });
});

it('nothing can be written to run/virtnet, as when it is full: a death and a live update end as ever; files follow later', async () => {
  const service = await start();
  const before = await service.settled();
  const { run } = service.paths;
  const inTheWay = ['emu.pid', 'emu-standby.pid', 'update.json'].map((file) => join(run, `${file}.new`));
  for (const path of inTheWay) mkdirSync(path);
  service.kill('emu');
  await eventually('a successor with a standby', async () => {
    const emulators = await service.emulators();
    const serves = emulators.some(({ role, pid }) => role === 'active' && pid === before.standby);
    return serves && emulators.some(({ role, ready }) => role === 'standby' && ready);
  });
  expect([service.pid('emu'), service.pid('emu-standby')]).toEqual([0, 0]);
  await service.cli('restart');
  await eventually('the end of the move', async () => {
    const { answer } = await service.cli('update', { start: false, status: true });
    return answer.status === 'inactive';
  });
  const failures = [...service.stderr.matchAll(/cannot be written|record of the live update/g)];
  expect(failures.length).toBeLessThanOrEqual(inTheWay.length);
  for (const path of inTheWay) rmdirSync(path);
  const standby = (await service.emulators()).find(({ role }) => role === 'standby')?.pid ?? 0;
  process.kill(standby, 'SIGKILL');
  expect((await service.settled(standby)).active).toBe(before.standby);
});

describe('controller, processes that stand still', () => {
  const causes = (stderr: string) => [...stderr.matchAll(/"cause":"([a-z-]+)"/g)].map(([, cause]) => cause);

  it('the active is stopped: found by its own lack of progress, killed, and its standby serves', async () => {
    const service = await start();
    const before = await service.settled();
    service.kill('emu', 'SIGSTOP');
    expect((await service.settled(before.active)).active).toBe(before.standby);
    await service.says((stderr) => {
      expect(stderr).toMatch(/"how":"stopped"/);
      expect(causes(stderr)).toEqual(['stopped']);
    });
  });

  it('the event loop of the active is blocked over a command: killed; the command is answered by its successor', async () => {
    const service = await start({ blockOnHotplug: true });
    const before = await service.settled();
    expect((await service.cli('hotplug', hotplugParams)).answer).toMatchObject({ errno: 0, repeated: true });
    await service.settled(before.active);
    await service.says((stderr) => {
      expect(stderr).toMatch(/"how":"spins"/);
      expect(causes(stderr)).toEqual(['hang']);
    });
  });

  it('the standby, or the keeper, is stopped: replaced, and the active is not touched', async () => {
    const service = await start();
    const before = await service.settled();
    service.kill('emu-standby', 'SIGSTOP');
    expect((await service.settled(before.standby)).active).toBe(before.active);
    const keeper = service.kill('ha', 'SIGSTOP');
    await eventually('another keeper', () => service.pid('ha') !== keeper && service.pid('ha') > 0);
    expect((await service.settled()).active).toBe(before.active);
    await service.says((stderr) => expect(causes(stderr)).toEqual(['stopped', 'stopped']));
  });

  it('everybody is stopped and continued, as when a machine was suspended: nobody is killed', async () => {
    const service = await start();
    const before = { ...(await service.settled()), ha: service.pid('ha') };
    const all = [service.controllerPid, before.active, before.standby, before.ha];
    for (const pid of all) process.kill(pid, 'SIGSTOP');
    await after(1_000);
    for (const pid of all.toReversed()) process.kill(pid, 'SIGCONT');
    await after(500);
    expect({ ...(await service.settled()), ha: service.pid('ha') }).toEqual(before);
    expect(causes(service.stderr)).toEqual([]);
  });
});

describe('controller, restarts of its own', () => {
  it('killed: everything serves on; the next one adopts all and starts nothing; its SIGTERM ends them', async () => {
    const service = await start();
    await service.cli('hotplug', hotplugParams);
    const before = { ...(await service.settled()), ha: service.pid('ha') };
    expect(await service.signal('SIGKILL')).toBe('SIGKILL');
    await after(100);
    expect([before.active, before.standby, before.ha].every(isAlive)).toBe(true);
    await service.start();
    expect({ ...(await service.settled()), ha: service.pid('ha') }).toEqual(before);
    expect(await devicesListed(service)).toBe(1);

    service.kill('emu'); // its death is noticed although it is nobody's child
    const now = await service.settled(before.active);
    expect(now.active).toBe(before.standby);
    expect(await service.signal('SIGTERM')).toBe(0);
    expect([now.active, now.standby, before.ha].filter(isAlive)).toEqual([]);
  });

  it('killed, and meanwhile the active died as well: the next one finds the standby serving', async () => {
    const service = await start();
    await service.cli('hotplug', hotplugParams);
    const before = await service.settled();
    await service.signal('SIGKILL');
    process.kill(before.active, 'SIGKILL');
    await service.start();
    expect((await service.settled(before.active)).active).toBe(before.standby);
    expect(await devicesListed(service)).toBe(1);
  });

  it('killed, and the standby hangs: the next one kills what does not answer and replaces it', async () => {
    const service = await start();
    const before = await service.settled();
    await service.signal('SIGKILL');
    process.kill(before.standby, 'SIGSTOP');
    await service.start();
    expect((await service.settled(before.standby)).active).toBe(before.active);
    expect(isAlive(before.standby)).toBe(false);
  });

  it('pid files of a dead service name strangers: they are left alone', async () => {
    const service = made();

    for (const file of ['emu', 'emu-standby', 'ha'] as const)
      writeFileSync(service.paths.pidFile(file), `${process.pid}\n`);
    await service.start();
    const { active } = await service.settled();
    expect(active).not.toBe(process.pid); // and we are here to say so
  });
});
