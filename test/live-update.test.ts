/** The service is moved to other versions of itself under traffic: to good ones, to broken ones, and while parts die. */
import { readFileSync } from 'node:fs';
import { failure } from '@virtnet/engine-control';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Fault, install, makeBuild } from './lib/builds.ts';
import { managedService } from './lib/managed.ts';
import { ONE_STATIC_PF, STATIC_PF } from './lib/one-static-pf.ts';
import { isRunning } from './lib/processes.ts';
import { damage, Pump } from './lib/pump.ts';
import type { Scene } from './lib/scene.ts';
import { type Hotplugged, type ProcessRole, parseAnswer, type Service } from './lib/service.ts';
import type { FakeServiceManager } from './lib/service-manager.ts';
import {
  PHASES,
  type Phase,
  phaseReached,
  settled,
  type UpdateStatus,
  update,
  updateOver,
  versions,
} from './lib/updates.ts';
import { endsCleanly, useScene } from './lib/use-scene.ts';
import { until } from './lib/waiting.ts';

const MACS = [3, 4].map((last) => `0C:C4:7A:FF:22:9${last}`);
const ROLES = ['controller', 'emu', 'emu-standby', 'ha'] as const;
const VFS = 2;
/** The device is on its way to the other version at this instant. */
const IS_MIGRATING = failure('DEV_IS_MIGRATING').errno;
/** What runs in the table of broken versions. */
const BROKEN = '0.4.0';
const STEP_MS = 240_000;
/** An update that fails in the middle may end two emulators, each over a frame of each queue. */
const DAMAGE_PER_FALL = 2;

interface Stage {
  readonly scene: Scene;
  readonly manager: FakeServiceManager;
  readonly service: Service;
  /** Hotplug PFs. */
  readonly devices: readonly Hotplugged[];
  /** VUIDs of all functions that there are before and after every test. */
  readonly all: readonly string[];
}

/** The service with its functions, under a service manager, and the versions it is moved to. */
async function stage(scene: Scene): Promise<Stage> {
  const { manager, service } = await managedService(scene);
  await service.bootWith(ONE_STATIC_PF);
  const devices: Hotplugged[] = [];
  for (const mac of MACS) devices.push(await service.hotplug({ mac, queueSize: 256 }));
  makeBuild(scene.directory, BROKEN); // copies once, before anybody works streams
  return { scene, manager, service, devices, all: await vuids(service) };
}

/** What an operator asks for during an update is done, or refused because the very device is being moved: then again. */
async function done(what: string, ask: () => Promise<{ readonly stdout: string }>): Promise<void> {
  await until(what, STEP_MS, async () => {
    const { stdout } = await ask();
    const { errno } = parseAnswer(stdout) as { errno: number };
    if (errno !== 0) expect(errno, `${what}: ${stdout}`).toBe(IS_MIGRATING);
    return errno === 0;
  });
}

const vuids = async (service: Service): Promise<string[]> =>
  (await service.answer<{ devices: { vuid: string }[] }>('list')).devices.map(({ vuid }) => vuid);
const pids = (service: Service) => ROLES.map((role) => service.pid(role));

/** Number of the representor's interface and how often its carrier changed. */
async function linkOf(scene: Scene, { sf_rep_net_device: name }: Hotplugged): Promise<object> {
  const [link] = JSON.parse(await scene.net.ip(`-j -d link show dev ${name}`)) as Record<string, unknown>[];
  return { index: link?.ifindex, changes: link?.carrier_changes };
}

describe('live update', () => {
  const used = useScene(stage);

  test('N, N+1, N+2, and back, then a restart, under streams > every frame once and in order; nothing outside changes', async () => {
    const { scene, service, devices, all } = used.value;
    const [device, undriven] = devices;
    const builds = ['0.2.0', '0.3.0', '0.2.0'].map((version) => makeBuild(scene.directory, version));
    const pump = await Pump.start(scene, service, device!);
    const before = { pid: service.pid('controller'), link: await linkOf(scene, device!) };
    const { original: first } = await versions(service);
    let from = first;
    let plugged = 0;
    let mtu = 1500;
    for (const build of builds) {
      const running = pids(service);
      install(service, build);
      const { original, destination } = await versions(service);
      expect(original).toBe(from);
      const status = await update(service, async (ongoing) => {
        while (ongoing()) {
          const { id, vuid } = await service.hotplug({ mac: '0C:C4:7A:FF:22:99', queueSize: 256 });
          expect(await vuids(service)).toContain(vuid);
          await done('unplug', () => service.virtnet('unplug', '-p', `${id}`));
          mtu = mtu === 1500 ? 1400 : 1500;
          await done('modify', () =>
            service.virtnet('modify', '-u', undriven!.vuid, 'device', '-t', `${mtu}`),
          );
          await done('VFs', () => service.host('sriov', STATIC_PF, `${VFS}`));
          expect(await vuids(service)).toHaveLength(all.length + VFS);
          await done('no VFs', () => service.host('sriov', STATIC_PF, '0'));
          plugged += 1;
        }
      });
      const { devices: now } = await service.answer<{ devices: { vuid: string; mtu: string }[] }>('list');
      expect(now.find(({ vuid }) => vuid === undriven!.vuid)?.mtu).toBe(`${mtu}`);
      expect(status).toMatchObject({ 'last live update status': 'success', status: 'inactive' });
      expect(status['device pauses (ms)'].devices).toBeGreaterThanOrEqual(devices.length);
      await settled(service);
      expect(await versions(service)).toEqual({ original: destination, destination });
      for (const pid of pids(service).slice(1)) expect(running).not.toContain(pid);
      from = destination;
    }
    expect(first).not.toBe(from);
    expect(plugged).toBeGreaterThan(0);

    expect((await service.virtnet('restart')).stdout).toBe('SUCCESS\n');
    expect((await versions(service)).original).toBe(from);
    await settled(service);
    expect(await vuids(service)).toEqual(all);
    expect({ pid: service.pid('controller'), link: await linkOf(scene, device!) }).toEqual(before);
    const health = await service.answer<{ health_recover_counter: number }>(
      ...['health', '-u', device!.vuid, 'show'],
    );
    expect(health.health_recover_counter).toBe(0);
    const report = await pump.finish();
    await pump.close();
    expect(damage(report)).toEqual({ toDriver: 0, fromDriver: 0, reordered: 0 });
    expect(Math.min(report.toDriver.received, report.fromDriver.received)).toBeGreaterThan(500);
  }, 480_000);

  test(
    'the new controller has what the service manager needs > everything killed at once, no device is lost',
    async () => {
      const { manager, service, all } = used.value;
      await manager.killGroup();
      manager.start();
      await manager.ready();
      await settled(service);
      expect(await vuids(service)).toEqual(all);
    },
    STEP_MS,
  );

  describe('to broken versions, and while parts die > never a lost device', () => {
    let pump: Pump;
    let falls = 0;
    const builds = new Map<Fault, string>();
    beforeAll(async () => {
      const { scene, service, devices } = used.value;
      const needed = [...refused, ...fallen].map(([fault]) => fault);
      for (const fault of [...needed, 'slow' as const])
        builds.set(fault, makeBuild(scene.directory, BROKEN, fault));
      pump = await Pump.start(scene, service, devices[0]!, STEP_MS);
    }, STEP_MS);
    afterAll(async () => {
      const report = await pump.finish();
      await pump.close();
      const { toDriver, fromDriver, reordered } = damage(report);
      expect(Math.max(toDriver, fromDriver)).toBeLessThanOrEqual(falls * DAMAGE_PER_FALL);
      expect(reordered).toBe(0);
    }, STEP_MS);

    /** Everybody is of one version, and has every device; no emulator is forgotten. */
    async function whole(): Promise<string> {
      const { scene, service, all } = used.value;
      await settled(service);
      const { original } = await versions(service);
      const emulators = await service.emulators();
      await until('no other emulator', STEP_MS, async () => {
        const known = new Set((await service.emulators()).map(({ pid }) => pid));
        const running = scene.processes
          .marked()
          .filter(({ command }) => command.startsWith('virtio_net_emu'));
        return running.every(({ pid }) => known.has(pid) || !isRunning(pid));
      });
      expect(emulators.map(({ version }) => `v${version}`)).toEqual(emulators.map(() => original));
      expect(await vuids(service)).toEqual(all);
      return original;
    }

    const refused: readonly (readonly [Fault, RegExp])[] = [
      ['controllerLoads', /controller does not start/],
      ['check', /injected refusal/],
      ['features', /features 0x[0-9a-f]+ are offered and not known here/],
      ...rows<readonly [Fault, RegExp]>([
        ['keeperLoads', /state keeper does not start/],
        ['start', /emulator died before it was ready/],
        ['rehearsal', /self-test: .*injected fault/],
        ['checkDies', /./],
        ['neverReady', /ready/],
      ]),
    ];
    test.each(refused)(
      'a version that cannot serve (%s) is refused before anything moves',
      async (fault, reason) => {
        const { service } = used.value;
        const before = { pids: pids(service), version: await whole() };
        install(service, builds.get(fault)!);
        const status = await update(service);
        expect(status).toMatchObject({ 'last live update status': 'failed' });
        expect(status.reason).toMatch(reason);
        expect({ pids: pids(service), version: await whole() }).toEqual(before);
      },
      STEP_MS,
    );

    const fallen: readonly (readonly [Fault, string])[] = [
      ['secondDevice', 'switch'],
      ...rows<readonly [Fault, string]>([
        ['firstDevice', 'switch'],
        ['promotion', 'switch'],
        ['confirm', 'confirm'],
        ['keeper', 'keeper'],
        ['standby', 'standby'],
        ['controller', 'controller'],
      ]),
    ];
    test.each(fallen)(
      'a version that falls (%s) is rolled back: the former one has everything again',
      async (fault, phase) => {
        const { service } = used.value;
        const before = { controller: service.pid('controller'), version: await whole() };
        falls += 1;
        install(service, builds.get(fault)!);
        const status = await update(service);
        expect(status).toMatchObject({ 'last live update status': 'failed', phase });
        expect({ controller: service.pid('controller'), version: await whole() }).toEqual(before);
      },
      STEP_MS,
    );

    test(
      'another build of the version that runs, which falls in the end > everything is of the build of before again',
      async () => {
        const { scene, service } = used.value;
        const version = await whole();
        const roots = () => ROLES.slice(1).map((role) => buildOf(service.runningPid(role)));
        const before = roots();
        falls += 1;
        install(service, makeBuild(scene.directory, version.slice(1), 'controller'));
        const status = await update(service);
        expect(status).toMatchObject({ 'last live update status': 'failed', phase: 'controller' });
        expect(await whole()).toBe(version);
        expect(roots()).toEqual(before);
      },
      STEP_MS,
    );

    test.each(kills())(
      'SIGKILL for the %s in phase %s > one version in the end, and every device',
      async (role, phase) => {
        const { scene, manager, service } = used.value;
        const slow = builds.get('slow')!;
        const begin = async (): Promise<string> => {
          const version = await whole();
          install(service, version === `v${BROKEN}` ? makeBuild(scene.directory, '0.5.0', 'slow') : slow);
          await service.answer('update', '-s');
          return version;
        };
        let version = await begin();
        while ((await phaseReached(service, phase)) !== phase) {
          await updateOver(service);
          version = await begin();
        }
        falls += 1;
        const pid = () => service.pid(role === 'destination' ? 'emu-reserve' : role);
        process.kill(await until(`the ${role}`, STEP_MS, pid, 1), 'SIGKILL');
        if (role === 'controller') {
          await manager.exited;
          manager.start();
          await manager.ready();
        }
        const status: UpdateStatus = await updateOver(service);
        expect(['success', 'failed']).toContain(status['last live update status']);
        const now = await whole();
        if (status['last live update status'] === 'success') expect(now).not.toBe(version);
      },
      STEP_MS,
    );
  });

  endsCleanly(used);
});

/** Directory of the build that an emulator or the state keeper was started from. */
function buildOf(pid: number): string | undefined {
  return /^VIRTNET_BUILD=(.+)$/m.exec(
    readFileSync(`/proc/${pid}/environ`, 'utf8').replaceAll('\0', '\n'),
  )?.[1];
}

/** Rows of the whole drill, which takes some minutes: VIRTNET_DRILL=all. */
function rows<T>(all: readonly T[]): readonly T[] {
  return process.env.VIRTNET_DRILL === 'all' ? all : [];
}

type Party = ProcessRole | 'destination';
/** In which the destination has an emulator in reserve: the one that is to serve, and in the end its standby. */
const IN_RESERVE: readonly Phase[] = ['start', 'check', 'switch', 'standby'];

/** Everybody in every phase; from `confirm` on the destination's emulator is the one that serves. */
function kills(): readonly (readonly [Party, Phase])[] {
  const few = [
    ['emu', 'switch'],
    ['controller', 'switch'],
    ['destination', 'switch'],
  ] as const;
  const others = PHASES.flatMap((phase) => {
    const parties: readonly Party[] = IN_RESERVE.includes(phase) ? [...ROLES, 'destination'] : ROLES;
    return parties.map((party) => [party, phase] as const);
  });
  return [
    ...few,
    ...rows(others.filter(([role, phase]) => !few.some(([who, when]) => who === role && when === phase))),
  ];
}
