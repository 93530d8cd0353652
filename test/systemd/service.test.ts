/**
 * The package in a Debian system of its own, and the service under systemd itself: installed, confined, stopped,
 * restarted, killed under streams, replaced by a newer package, and removed without a trace.
 */
import { once } from 'node:events';
import { existsSync, readdirSync, statSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { debianPackage } from '../../scripts/lib/debian-package.ts';
import { isRoot } from '../../scripts/lib/shell.ts';
import { Machine } from '../lib/machine.ts';
import { damage, Pump } from '../lib/pump.ts';
import { type Hotplugged, parseAnswer, Service } from '../lib/service.ts';
import type { Arrival } from '../lib/stream-analysis.ts';
import { wallClockUs } from '../lib/stream-packet.ts';
import type { UpdateStatus } from '../lib/updates.ts';
import { endsCleanly, useScene } from '../lib/use-scene.ts';
import { sleep, until } from '../lib/waiting.ts';

const UNIT = 'virtio-net-controller.service';
const VHOST_UNIT = 'vfe-vhostd.service';
const VHOST_HA_UNIT = 'vfe-vhostd-ha.service';
const BASE = '/opt/mellanox/mlnx_virtnet';
const MAC = '0C:C4:7A:FF:22:93';
const VERSION = '1.0.0';
const NEXT_VERSION = '1.0.1';
/** Of capabilities(7), as a mask. */
const CAP_NET_ADMIN = '0000000000001000';
const CAP_SYS_RESOURCE = 24n;
/** 10.0 is wide open; docs/systemd.md says why each open item is open. */
const EXPOSURE_MAX = 1.5;
const VHOST_EXPOSURE_MAX = 0.7;
const STREAM_MS = 300;
/** A start takes a second; on a machine at ten times its load, twenty. */
const PATIENCE_MS = 60_000;
/** What dpkg, systemd and useradd write of their own, whatever is installed. */
const BOOKKEEPING =
  /^\/(proc|sys|dev|run|tmp|root)(\/|$)|^\/var\/(lib\/dpkg|lib\/systemd|lib\/apt|log|cache|tmp)\/|^\/etc\/(passwd|group|shadow|gshadow|subuid|subgid)-$|^\/etc\/\.pwd\.lock$|^\/etc\/ld\.so\.cache$/;

describe.skipIf(!isRoot())('package and service under systemd', () => {
  const used = useScene(async (scene) => {
    const pack = (version: string) =>
      debianPackage({ version, output: scene.path('packages'), compression: 'none' });
    const machine = await Machine.boot(scene);
    const files = await filesOf(machine);
    return { scene, machine, service: Service.attached(scene, machine.root), pack, files };
  });
  const virtnet = async <T>(words: string): Promise<T> =>
    parseAnswer(await used.value.machine.run(`virtnet ${words}`)) as T;
  let device: Hotplugged;

  test('installed without a network > the service is enabled and serves, and every file is as packed', async () => {
    const { machine, pack } = used.value;
    await machine.install(pack(VERSION));
    expect(await machine.run(`systemctl is-enabled ${UNIT}`)).toBe('enabled\n');
    expect(await machine.property(UNIT, 'ActiveState')).toBe('active');
    expect(await machine.property(UNIT, 'StatusText')).toBe('serving');
    expect(await machine.property(VHOST_UNIT, 'ActiveState')).toBe('inactive');
    expect(await machine.run('dpkg --verify virtio-net-controller')).toBe('');
    expect(await machine.run('virtnet -v')).toBe(`v${VERSION}\n`);
    for (const file of [
      'man/man1/virtnet.1.gz',
      'bash-completion/completions/virtnet',
      'zsh/vendor-completions/_virtnet',
    ])
      expect(existsSync(join(machine.root, 'usr/share', file)), file).toBe(true);
    expect(await machine.run('zcat /usr/share/man/man1/virtnet.1.gz')).toMatch(/^\.SS hotplug$/m);
  }, 240_000);

  test('every process is the service’s user with CAP_NET_ADMIN alone, and writes nowhere else', async () => {
    const { machine } = used.value;
    const user = (await machine.run('id -u virtnet')).trim();
    const pids = await pidsOf(machine);
    expect(pids).toHaveLength(4);
    for (const pid of pids) {
      const status = await machine.run(`cat /proc/${pid}/status`);
      const field = (name: string) => new RegExp(`^${name}:\\s+(.*)$`, 'm').exec(status)?.[1];
      expect(field('Uid')).toBe(Array(4).fill(user).join('\t'));
      expect([field('CapEff'), field('CapBnd')]).toEqual([CAP_NET_ADMIN, CAP_NET_ADMIN]);
      expect([field('NoNewPrivs'), field('Seccomp')]).toEqual(['1', '2']);
    }
    const nice = await machine.run(`awk '{ print $19 }' /proc/${pids[0]}/stat`);
    // A machine that may not raise limits cannot give the right to it either.
    const mayRaise = (await capabilitiesOf(machine, 1)) & (1n << CAP_SYS_RESOURCE);
    expect(Number(nice), 'precedence without CAP_SYS_NICE').toBe(mayRaise ? -10 : 0);
    const inside = `nsenter -t ${pids[0]} -m -- setpriv --reuid virtnet --regid virtnet --clear-groups --`;
    for (const file of ['/etc/x', '/usr/x', '/var/lib/x', `${BASE}/versions/x`, `${BASE}/current`])
      expect((await machine.output(`${inside} ln -sfn /tmp ${file}`)).code, file).not.toBe(0);
    const { stdout } = await machine.output(`${inside} sh -c 'ls /dev /dev/net /home /root'`);
    expect(stdout).toContain('tun');
    expect(stdout).not.toMatch(/sd[a-z]|vd[a-z]|fuse|kmsg/);
    const exposure = /exposure level for .*: ([0-9.]+)/.exec(
      await machine.run(`systemd-analyze security ${UNIT}`),
    );
    process.stdout.write(`exposure of ${UNIT}: ${exposure?.[1]}\n`);
    expect(Number(exposure?.[1])).toBeLessThanOrEqual(EXPOSURE_MAX);
    for (const unit of [VHOST_UNIT, VHOST_HA_UNIT]) {
      const said = await machine.run(
        `systemd-analyze security --offline=true /usr/lib/systemd/system/${unit}`,
      );
      const level = /exposure level for .*: ([0-9.]+)/.exec(said)?.[1];
      process.stdout.write(`exposure of ${unit}: ${level}\n`);
      expect(Number(level)).toBeLessThanOrEqual(VHOST_EXPOSURE_MAX);
    }
  });

  test('the journal has the guide’s lines, with their fields', async () => {
    const { machine } = used.value;
    const lines = (await machine.run(`journalctl -u ${UNIT} -o json`)).trim().split('\n');
    const entries = lines.map((line) => JSON.parse(line) as Record<string, string>);
    const ours = entries.filter(({ _COMM }) => _COMM !== 'systemd');
    for (const { MESSAGE } of ours) expect(MESSAGE).toMatch(/^\[(INFO|WARN|ERR)\] \S+:\d+:\S+: /);
    expect(ours.map(({ SYSLOG_IDENTIFIER }) => SYSLOG_IDENTIFIER)).toEqual(
      expect.arrayContaining(['virtio-net-controller', 'virtio-net-ha']),
    );
    const spawned = ours.find(
      ({ VIRTNET_CHILD, VIRTNET_TO }) => VIRTNET_CHILD === 'ha' && VIRTNET_TO === 'starting',
    );
    expect(spawned).toMatchObject({
      _SYSTEMD_UNIT: UNIT,
      PRIORITY: '6',
      CODE_FILE: 'child.ts',
      VIRTNET_CHILD_PID: expect.stringMatching(/^\d+$/),
    });
  });

  test('a firmware setting of root’s is the service’s to read after the next start', async () => {
    const { machine } = used.value;
    await machine.run('virtnet-mlxconfig -d 03:00.0 -y s PF_TOTAL_SF=32');
    const firmware = `${BASE}/fwconfig.json ${BASE}/fwconfig.json.lock`;
    expect(await machine.run(`stat -c %U:%a ${firmware}`)).toBe('virtnet:600\nvirtnet:600\n');
    await machine.run('virtnet-host power-cycle'); // locks it and writes it as the service's user
    const former = await machine.mainPid(UNIT);
    await machine.run(`systemctl restart ${UNIT}`);
    await machine.restarted(UNIT, former);
  });

  test('systemctl restart, kill -9 -<pid>, kill -9 of the emulator, a controller that hangs, all under streams', async () => {
    const { machine, scene, service } = used.value;
    device = await virtnet<Hotplugged>(`hotplug -i mlx5_0 -m ${MAC} -t 1500 -n 3 -s 256`);
    const index = async () => (await scene.net.link(device.sf_rep_net_device))?.ifindex;
    const before = await index();
    const pump = await Pump.start(scene, service, device, PATIENCE_MS);
    const happened: { readonly name: string; readonly atUs: number }[] = [];
    const happens = (name: string) => happened.push({ name, atUs: wallClockUs() });
    const disturb = async (name: string, script: (pid: number) => string): Promise<void> => {
      await sleep(STREAM_MS);
      const former = await machine.mainPid(UNIT);
      happens(name);
      await machine.run(script(former));
      await machine.restarted(UNIT, former);
    };
    await disturb('systemctl restart', () => `systemctl restart ${UNIT}`);
    await disturb('kill -9 -<pid>', (pid) => `kill -9 -${pid}`);
    await disturb('a hang', (pid) => `kill -STOP ${pid}`); // WATCHDOG=1 does not come any more
    await sleep(STREAM_MS);
    const main = await machine.mainPid(UNIT);
    happens('kill -9 of the emulator');
    await machine.run('kill -9 $(cat /run/virtnet/emu.pid)');
    await until('a standby again', 60_000, async () => (await pidsOf(machine)).length === 4);
    await sleep(STREAM_MS);
    const report = await pump.finish();
    await pump.close();
    for (const line of pauses(happened, pump.arrivals.atHost)) process.stdout.write(`${line}\n`);
    const interruptions = 4;
    // While nobody reads the representor it keeps a queue of packets; what is past that is lost by the network.
    const { fromDriver, reordered } = damage(report);
    expect(report.toDriver.received, JSON.stringify(report)).toBeGreaterThan(100);
    expect(report.fromDriver.received).toBeGreaterThan(100);
    expect(report.toDriver.duplicated.length, JSON.stringify(report)).toBeLessThanOrEqual(interruptions);
    expect(fromDriver, JSON.stringify(report)).toBeLessThanOrEqual(interruptions);
    expect(reordered).toBe(0);
    expect(await machine.mainPid(UNIT)).toBe(main);
    expect(await index()).toBe(before);
    const health = await virtnet<{ health_recover_counter: number }>('health -p 0 show');
    expect(health.health_recover_counter).toBe(interruptions);
  }, 240_000);

  test('vfe-vhostd and its keeper serve as the same user without any capability; killed or restarted, it goes on with what it had, stopped it lets go', async () => {
    const { machine } = used.value;
    await machine.run(`systemctl start ${VHOST_UNIT}`);
    const socket = join(machine.root, 'tmp/vhost-net0');
    for (const unit of [VHOST_UNIT, VHOST_HA_UNIT]) {
      const pid = await machine.mainPid(unit);
      expect(await machine.run(`grep CapEff /proc/${pid}/status`)).toMatch(/0000000000000000$/m);
    }
    await machine.run(`vfe-vhost-cli vf -a 0000:${device.bdf} -v /tmp/vhost-net0`);
    await until('the socket for a virtual machine', 30_000, () => existsSync(socket));
    const { ino } = statSync(socket);
    const ends: readonly (readonly [string, (pid: number) => string])[] = [
      [VHOST_UNIT, (pid) => `kill -9 ${pid}`],
      [VHOST_HA_UNIT, (pid) => `kill -9 ${pid}`],
      [VHOST_UNIT, (pid) => `kill -9 ${pid}`],
      [VHOST_UNIT, () => `systemctl restart ${VHOST_UNIT}`],
      [VHOST_HA_UNIT, () => `systemctl restart ${VHOST_HA_UNIT}`],
      [VHOST_UNIT, (pid) => `kill ${pid}`],
    ];
    // Like a machine that does not connect again.
    const connection = connect(socket).on('error', () => {});
    let disconnected = false;
    connection.once('close', () => {
      disconnected = true;
    });
    await once(connection, 'connect');
    const goesOn = async (after: string): Promise<void> => {
      await until('vfe-vhostd at its keeper', 30_000, async () => {
        const { code, stdout } = await machine.output('vfe-vhost-cli version');
        return code === 0 && !stdout.includes('HA Disconnected');
      });
      expect(await machine.run(`vfe-vhost-cli vf -i 0000:${device.bdf}`), after).toContain('"probed": true');
      expect(statSync(socket).ino, after).toBe(ino);
      expect(disconnected, after).toBe(false);
    };
    for (const [unit, script] of ends) {
      const former = await machine.mainPid(unit);
      await machine.run(script(former));
      await machine.restarted(unit, former);
      await goesOn(unit);
    }
    const units = [VHOST_UNIT, VHOST_HA_UNIT];
    for (const endBoth of [
      () => `systemctl restart ${units.join(' ')}`,
      (pids: readonly number[]) => `kill -9 ${pids.join(' ')}`,
      () => `systemctl kill -s KILL ${units.join(' ')}`,
    ]) {
      const former = await Promise.all(units.map((unit) => machine.mainPid(unit)));
      const script = endBoth(former);
      await machine.run(script);
      for (const [index, unit] of units.entries()) await machine.restarted(unit, former[index]!);
      await goesOn(script);
    }
    await machine.run(`systemctl stop ${VHOST_UNIT}`);
    await until('the end of the connection', 10_000, () => disconnected);
    expect(existsSync(socket)).toBe(false);
    await machine.run(`systemctl start ${VHOST_UNIT}`);
    expect((await machine.output(`vfe-vhost-cli vf -i 0000:${device.bdf}`)).stdout).toContain('-1003');
    await machine.run(`systemctl stop ${VHOST_UNIT} ${VHOST_HA_UNIT}`);
  });

  test('a newer package does not disturb what runs; `virtnet update -s` moves to it under streams, and everything killed comes back as the newer one', async () => {
    const { machine, scene, service, pack } = used.value;
    const main = await machine.mainPid(UNIT);
    const newer = pack(NEXT_VERSION);
    expect(await machine.install(newer)).toContain('virtnet update -s');
    expect(await machine.mainPid(UNIT)).toBe(main);
    expect(await machine.run(`readlink /proc/${main}/exe`)).toContain(`${BASE}/versions/${VERSION}/`);
    expect(await machine.run(`readlink ${BASE}/current`)).toBe(`versions/${NEXT_VERSION}\n`);
    // What runs can still start its processes.
    await machine.run('kill -9 $(cat /run/virtnet/emu.pid)');
    await until('a standby again', 60_000, async () => (await pidsOf(machine)).length === 4);
    expect((await virtnet<{ devices: { mac: string }[] }>('list')).devices[0]?.mac).toBe(MAC);
    const index = (await scene.net.link(device.sf_rep_net_device))?.ifindex;
    const pump = await Pump.start(scene, service, device, PATIENCE_MS);
    await sleep(STREAM_MS);
    expect(await virtnet('update -s')).toContain('Update started');
    const status = await until('the end of the update', PATIENCE_MS, async () => {
      const now = await virtnet<UpdateStatus>('update -t');
      return now.status === 'inactive' ? now : null;
    });
    expect(status['last live update status'], JSON.stringify(status)).toBe('success');
    await sleep(STREAM_MS);
    const report = await pump.finish();
    await pump.close();
    const { fromDriver, reordered } = damage(report);
    expect(report.toDriver.received, JSON.stringify(report)).toBeGreaterThan(100);
    expect(report.toDriver.duplicated, JSON.stringify(report)).toEqual([]);
    expect([fromDriver, reordered], JSON.stringify(report)).toEqual([0, 0]);
    expect(await machine.mainPid(UNIT)).toBe(main);
    const runs = async (version: string) => {
      const pids = await pidsOf(machine);
      expect(pids).toHaveLength(4);
      for (const pid of pids)
        expect(await machine.run(`readlink /proc/${pid}/exe`)).toContain(`${BASE}/versions/${version}/`);
    };
    await until('four processes', PATIENCE_MS, async () => (await pidsOf(machine)).length === 4);
    await runs(NEXT_VERSION);
    await machine.run(`kill -9 -${main}`);
    await machine.restarted(UNIT, main);
    await until('four processes', PATIENCE_MS, async () => (await pidsOf(machine)).length === 4);
    await runs(NEXT_VERSION);
    expect((await virtnet<{ devices: { mac: string }[] }>('list')).devices[0]?.mac).toBe(MAC);
    expect((await scene.net.link(device.sf_rep_net_device))?.ifindex).toBe(index);
    await machine.install(newer);
    expect(await machine.run(`ls ${BASE}/versions`)).toBe(`${NEXT_VERSION}\n`);
  }, 240_000);

  test('systemctl stop > no process, no representor, nothing kept', async () => {
    const { machine, scene } = used.value;
    await machine.run(`systemctl stop ${UNIT}`);
    expect(await machine.property(UNIT, 'ActiveState')).toBe('inactive');
    expect(await pidsOf(machine)).toEqual([]);
    expect((await scene.net.links()).map(({ ifname }) => ifname)).toEqual(['lo']);
    expect(await machine.property(UNIT, 'NFileDescriptorStore')).toBe('0');
  });

  test('purged while it serves, and the host drives a function > nothing is left, not even the user', async () => {
    const { machine, scene, files } = used.value;
    await machine.run(`systemctl start ${UNIT}`);
    await machine.run(`virtnet-host bind ${device.bdf} virtio-pci`);
    const interfaces = async () => (await scene.net.links()).map(({ ifname }) => ifname);
    await until('an interface of the host', PATIENCE_MS, async () =>
      (await interfaces()).some((name) => name.startsWith('vnet')),
    );
    await machine.run('dpkg --purge virtio-net-controller 2>&1');
    expect(await pidsOf(machine)).toEqual([]);
    expect((await machine.output(`ls -l /proc/*/exe 2>/dev/null | grep ${BASE}`)).stdout).toBe('');
    expect(await interfaces()).toEqual(['lo']);
    const left = await filesOf(machine);
    expect(left.filter((file) => !files.includes(file))).toEqual([]);
    expect(readdirSync(join(machine.root, 'run')).filter((name) => /^(virtnet|vfe)$/.test(name))).toEqual([]);
    expect((await machine.output('id virtnet')).code).not.toBe(0);
    expect((await machine.output(`systemctl cat ${UNIT}`)).code).not.toBe(0);
  });

  endsCleanly(used);
});

/** The longest pause of a stream that began after each event, in words. */
function pauses(
  happened: readonly { readonly name: string; readonly atUs: number }[],
  arrivals: readonly Arrival[],
): string[] {
  return happened.map(({ name, atUs }, index) => {
    const nextUs = happened[index + 1]?.atUs ?? Number.POSITIVE_INFINITY;
    const gaps = arrivals.slice(1).flatMap(({ arrivedUs }, before) => {
      const fromUs = arrivals[before]!.arrivedUs;
      return arrivedUs > atUs && fromUs < nextUs ? [arrivedUs - fromUs] : [];
    });
    return `${name}: the stream from the driver paused for ${(Math.max(0, ...gaps) / 1_000).toFixed(0)} ms`;
  });
}

/** Pids of the service's processes, as inside; the main process is the first. */
async function pidsOf(machine: Machine): Promise<number[]> {
  const { stdout } = await machine.output(`cat /sys/fs/cgroup/system.slice/${UNIT}/cgroup.procs`);
  const pids = stdout.split('\n').filter(Boolean).map(Number);
  return pids.sort((left, right) => left - right);
}

/** The effective capabilities of a process, as inside. */
async function capabilitiesOf(machine: Machine, pid: number): Promise<bigint> {
  const status = await machine.run(`cat /proc/${pid}/status`);
  return BigInt(`0x${/^CapEff:\s+(\S+)/m.exec(status)?.[1] ?? '0'}`);
}

async function filesOf(machine: Machine): Promise<string[]> {
  const paths = (await machine.run('find / -xdev || true')).split('\n');
  return paths.filter((path) => path !== '' && !BOOKKEEPING.test(path));
}
