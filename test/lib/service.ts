/**
 * service.ts: the product, started the way an operator starts it.
 *
 * Theory
 *   virtio_net_controller and vfe-vhostd run in a root and a network namespace of their own; the command lines talk
 *   to them through that root. The pid files in run/virtnet say who is who, above all which emulator is active.
 *
 * Invariants
 *   I1  nothing is signalled but a pid that a pid file or a handle of ours names.
 *   I2  `stop` ends the service by SIGTERM to the controller alone and reports what it leaves behind.
 */
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { program, repository } from '../../scripts/lib/paths.ts';
import { type Child, isRunning, type Output, signalPid } from './processes.ts';
import type { Scene } from './scene.ts';
import { wallClockUs } from './stream-packet.ts';
import { sleep, until } from './waiting.ts';

const READY_TIMEOUT_MS = 60_000;
const STOP_TIMEOUT_MS = 30_000;
const COMMAND_TIMEOUT_MS = 120_000; // `virtnet restart` waits for the end of the move
const RECOVERY_TIMEOUT_MS = 60_000;
const STATUS_DEADLINE_MS = 2_000;
const CAUSE_TIMEOUT_MS = 30_000;
const SETTLED_MS = 500;
/** USER_HZ, the unit of times in /proc. */
const CLOCK_TICKS_PER_SECOND = 100;

export type ProcessRole = 'controller' | 'emu' | 'emu-standby' | 'emu-reserve' | 'ha';

export interface HotplugOptions {
  readonly mac: string;
  readonly mtu?: number;
  /** Virtqueues in total; the guide's `-n`. */
  readonly queues?: number;
  readonly queueSize?: number;
  readonly device?: string;
  /** Feature bits beyond the default ones. */
  readonly addFeatures?: bigint;
}

export interface ServiceOptions {
  /** virtnet.conf. */
  readonly conf?: object;
  /** More of the environment, for all its processes. */
  readonly env?: Readonly<Record<string, string>>;
  /** User (and group) id to run as, without any capability; default: who runs the tests. */
  readonly user?: number;
}

/** The answer of `virtnet hotplug`. */
export interface Hotplugged {
  readonly bdf: string;
  readonly vuid: string;
  readonly id: number;
  readonly sf_rep_net_device: string;
  readonly mac: string;
  readonly errno: number;
  readonly errstr: string;
}

/** What of `virtnet health` the tests look at. */
export interface Health {
  readonly health_status: string;
  readonly health_recover_counter: number;
  readonly dev_health_details: { readonly data_plane_errors: Readonly<Record<string, number>> };
  readonly recovery: {
    readonly last_cause: string;
    readonly last_pause_ms: number;
    readonly max_pause_ms: number;
    readonly error: string;
    readonly datapath: string;
  };
}

/** What of `virtnet query` the tests look at. */
export interface QueriedDevice {
  readonly mac: string;
  readonly mtu: string;
  readonly status: Readonly<Record<string, string>>;
  readonly device_feature: Readonly<Record<string, string>>;
  readonly driver_feature: Readonly<Record<string, string>>;
  readonly enabled_queues: string;
  readonly ctrl_mac: string;
  readonly ctrl_mq: string;
  readonly max_queue_pairs: string;
  readonly aarfs: string;
  readonly dim: string;
  readonly rss_max_key_size: string;
  readonly supported_hash_types: string;
  readonly 'enabled-queues-info': readonly QueriedQueue[];
}

export interface QueriedQueue {
  readonly index: string;
  readonly size: string;
  readonly received_desc: string;
  readonly completed_desc: string;
  readonly bad_desc_errors: string;
  readonly total_bytes: string;
}

/** One kill of the active emulator. */
export interface Kill {
  readonly pid: number;
  /** Wall clock just before the signal. */
  readonly atUs: number;
}

export interface EmulatorStatus {
  readonly role: string;
  readonly ready: boolean;
  readonly pid: number;
  readonly devices: number;
  readonly version: string;
  /** How long it took to take over, by its own clock; null when it never did. */
  readonly takeoverMs: number | null;
  readonly uptimeMs: number;
  /** Where it is asked. */
  readonly socket: string;
}

export interface KeeperStatus {
  readonly entries: number;
  readonly leaseHolderPid: number | null;
  readonly settled: boolean;
}

/** What a leak shows up in. */
export interface Holdings {
  readonly descriptors: number;
  /** Memory of guests and state pages; the rest of the address space is V8's business and varies. */
  readonly sharedMappings: number;
}

export class Service {
  readonly scene: Scene;
  readonly root: string;
  /** Null when somebody else started it. */
  controller: Child | null = null;
  readonly #user: number | null;
  readonly #env: Readonly<Record<string, string>>;
  #vhostd: Child | null = null;
  #vhostdKeeper: Child | null = null;

  private constructor(scene: Scene, root: string, user: number | null, env: ServiceOptions['env'] = {}) {
    this.scene = scene;
    this.root = root;
    this.#user = user;
    this.#env = env;
  }

  /** Starts the controller and waits until it says ready. */
  static async start(scene: Scene, { conf, env, user }: ServiceOptions = {}): Promise<Service> {
    const root = scene.path('root');
    mkdirSync(root, { recursive: true });
    if (conf !== undefined) {
      const file = join(root, 'opt/mellanox/mlnx_virtnet/virtnet.conf');
      mkdirSync(dirname(file), { recursive: true });
      writeFileSync(file, JSON.stringify(conf));
    }
    if (user !== undefined) {
      chmodSync(scene.directory, 0o711);
      chownSync(root, user, user);
    }
    const service = new Service(scene, root, user ?? null, env);
    scene.atEnd(() => service.stop());
    await service.startAgain();
    return service;
  }

  /** Starts the controller, which does not run, and waits until it says ready. */
  async startAgain(): Promise<void> {
    this.controller = this.scene.processes.start(
      this.scene.net.inside(as(this.#user, [program('virtio_net_controller')])),
      {
        name: 'virtio_net_controller',
        env: { ...this.#env, VIRTNET_ROOT: this.root },
        log: this.scene.path('controller.log'),
      },
    );
    await this.controller.printed(/^ready$/m, READY_TIMEOUT_MS);
  }

  /** A service that somebody else starts, and ends. */
  static attached(scene: Scene, root: string): Service {
    return new Service(scene, root, null);
  }

  /** Starts vfe-vhostd; with `client` it connects to the machine's socket, else it listens. */
  async startVhostd(mode: 'client' | 'server'): Promise<Child> {
    const vhostd = this.scene.processes.start(
      this.scene.net.inside([program('vfe-vhostd'), ...(mode === 'client' ? ['--client'] : [])]),
      { name: 'vfe-vhostd', env: { VIRTNET_ROOT: this.root }, log: this.scene.path('vhostd.log') },
    );
    this.#vhostd = vhostd;
    await vhostd.printed(/^ready$/m, READY_TIMEOUT_MS);
    return vhostd;
  }

  /** Starts vfe-vhostd-ha. */
  async startVhostdKeeper(): Promise<void> {
    this.#vhostdKeeper = this.scene.processes.start(this.scene.net.inside([program('vfe-vhostd-ha')]), {
      name: 'vfe-vhostd-ha',
      env: { VIRTNET_ROOT: this.root },
      log: this.scene.path('vhostd-ha.log'),
    });
    await this.#vhostdKeeper.printed(/^ready$/m, READY_TIMEOUT_MS);
  }

  async killVhostdKeeper(): Promise<void> {
    await this.#vhostdKeeper?.end('SIGKILL');
    this.#vhostdKeeper = null;
  }

  /** SIGKILL for vfe-vhostd-ha, whose place a new one takes; resolves when vfe-vhostd is connected to that. */
  async replaceVhostdKeeper(): Promise<void> {
    await this.killVhostdKeeper();
    await this.startVhostdKeeper();
    await until('vfe-vhostd at its new keeper', READY_TIMEOUT_MS, async () => {
      const { code, stdout } = await this.vhostCli('version');
      return code === 0 && !stdout.includes('HA Disconnected');
    });
  }

  /** A signal for vfe-vhostd; resolves when it is dead. */
  async killVhostd(signal: 'SIGKILL' | 'SIGTERM' = 'SIGKILL'): Promise<void> {
    await this.#vhostd?.end(signal, STOP_TIMEOUT_MS);
    this.#vhostd = null;
  }

  /** `virtnet <words>` as an operator types it. */
  virtnet(...words: string[]): Promise<Output> {
    return this.#command('virtnet', words);
  }

  host(...words: string[]): Promise<Output> {
    return this.#command('virtnet-host', words);
  }

  mlxconfig(...words: string[]): Promise<Output> {
    return this.#command('virtnet-mlxconfig', words);
  }

  vhostCli(...words: string[]): Promise<Output> {
    return this.#command('vfe-vhost-cli', words);
  }

  /** The JSON part of what `virtnet <words>` answers, which may follow a line that repeats the parameters. */
  async answer<T>(...words: string[]): Promise<T> {
    const { code, stdout, stderr } = await this.virtnet(...words);
    if (code !== 0) throw new Error(`virtnet ${words.join(' ')} failed (${code}): ${stdout}${stderr}`);
    return parseAnswer(stdout) as T;
  }

  /** What the controller answers to a request, as the command lines ask it. */
  async ask<T>(command: string, params: object): Promise<T> {
    const { RpcClient } = await import('@virtnet/host-ipc'); // here, for the packages may not be built yet
    const client = new RpcClient(join(this.root, 'run/virtnet/controller.ipc'));
    try {
      const request = { command, params } as Parameters<typeof client.call<'cli.request'>>[1];
      return (await client.call('cli.request', request)).answer as T;
    } finally {
      client.close();
    }
  }

  /** Unloads the host's virtio-net driver; resolves when its process is gone. */
  async unloadDriver(): Promise<void> {
    await this.host('modprobe', '-r', 'virtio_net');
    const lock = join(this.root, 'run/vfe/driver.ipc');
    await until('the end of the host’s driver', STOP_TIMEOUT_MS, () => !existsSync(lock));
  }

  /** Gives the firmware these values and has them come true: what was hot-plugged is gone, static PFs are there. */
  async bootWith(assignments: readonly string[]): Promise<void> {
    const asked = await this.mlxconfig('-y', '-d', '03:00.0', 's', ...assignments);
    if (asked.code !== 0)
      throw new Error(`virtnet-mlxconfig (${asked.code}): ${asked.stdout}${asked.stderr}`);
    const { code, stdout, stderr } = await this.host('power-cycle');
    if (code !== 0) throw new Error(`virtnet-host power-cycle (${code}): ${stdout}${stderr}`);
  }

  /** `virtnet query -p <pf>`: the device, with its queues. */
  async query(pf = 0): Promise<QueriedDevice> {
    const { devices } = await this.answer<{ devices: QueriedDevice[] }>('query', '-p', `${pf}`);
    const [device] = devices;
    if (device === undefined) throw new Error(`virtnet query -p ${pf} shows no device`);
    return device;
  }

  /** What the active emulator says of itself. */
  async active(): Promise<EmulatorStatus> {
    const active = (await this.emulators()).find(({ role }) => role === 'active');
    if (active === undefined) throw new Error('no emulator is active');
    return active;
  }

  /** `virtnet health -p <pf> show`. */
  health(pf = 0): Promise<Health> {
    return this.answer<Health>('health', '-p', `${pf}`, 'show');
  }

  /** The same, once it is known why the last emulator died. */
  async healthAfter(cause: string, pf = 0): Promise<Health> {
    let health = await this.health(pf);
    await until(`the cause ${cause}`, CAUSE_TIMEOUT_MS, async () => {
      health = await this.health(pf);
      return health.recovery.last_cause === cause;
    });
    return health;
  }

  async hotplug(options: HotplugOptions): Promise<Hotplugged> {
    const words = [
      ...['-i', options.device ?? 'mlx5_0', '-m', options.mac, '-t', `${options.mtu ?? 1500}`],
      ...['-n', `${options.queues ?? 3}`, '-s', `${options.queueSize ?? 1024}`],
      ...(options.addFeatures === undefined ? [] : ['-f', `0x${options.addFeatures.toString(16)}`]),
    ];
    return this.answer('hotplug', ...words);
  }

  /** Binds a function to vfe-vhostd and serves it on `socket`. */
  async addVhost(bdf: string, socket: string): Promise<void> {
    const { code, stdout, stderr } = await this.vhostCli('vf', '-a', fullAddress(bdf), '-v', socket);
    if (code !== 0) throw new Error(`vfe-vhost-cli vf -a failed (${code}): ${stdout}${stderr}`);
  }

  async removeVhost(bdf: string): Promise<void> {
    const { code, stdout, stderr } = await this.vhostCli('vf', '-r', fullAddress(bdf));
    if (code !== 0) throw new Error(`vfe-vhost-cli vf -r failed (${code}): ${stdout}${stderr}`);
  }

  /** Path of a function's vfio-user socket. */
  socket(bdf: string): string {
    return join(this.root, 'run/virtnet/pci', `${fullAddress(bdf)}.sock`);
  }

  /** The pid in run/virtnet/<role>.pid, null while there is none that runs. */
  pid(role: ProcessRole): number | null {
    try {
      const pid = Number(readFileSync(join(this.root, 'run/virtnet', `${role}.pid`), 'utf8').trim());
      return pid > 1 && isRunning(pid) ? pid : null;
    } catch {
      return null;
    }
  }

  runningPid(role: ProcessRole): number {
    const pid = this.pid(role);
    if (pid === null) throw new Error(`${role} does not run`);
    return pid;
  }

  /** SIGKILL for the active emulator. */
  killEmu(): Kill {
    return this.kill('emu');
  }

  /** SIGKILL for one of the processes. */
  kill(role: ProcessRole): Kill {
    const pid = this.runningPid(role);
    const atUs = wallClockUs();
    signalPid(pid, 'SIGKILL');
    return { pid, atUs };
  }

  /** What every emulator that answers says of itself. */
  async emulators(): Promise<EmulatorStatus[]> {
    const { RpcClient } = await import('@virtnet/host-ipc'); // here, for the packages may not be built yet
    const answers = (await this.emulatorSockets()).map(async (socket) => {
      const client = new RpcClient(socket);
      try {
        const status = await client.call('emu.status', {}, { deadlineMs: STATUS_DEADLINE_MS });
        return [{ ...status, socket }];
      } catch {
        return []; // one that is gone, or hangs
      } finally {
        client.close();
      }
    });
    return (await Promise.all(answers)).flat();
  }

  /** Sockets of emulators at which somebody listens: ZeroMQ would wait for one that is gone, and has left its socket. */
  async emulatorSockets(): Promise<string[]> {
    const { close, connect } = await import('@virtnet/host-linux'); // here, for the packages may not be built yet
    const run = join(this.root, 'run/virtnet');
    const paths = readdirSync(run).flatMap((name) => (/^emu-\d+\.ipc$/.test(name) ? [join(run, name)] : []));
    return paths.filter((path) => {
      const probe = connect(path, 'stream');
      if (probe >= 0) close(probe);
      return probe >= 0;
    });
  }

  /** Whether the state keeper that runs has everything of the emulator that serves. */
  async keeperKnowsAll(): Promise<boolean> {
    const status = await this.keeper();
    return status !== null && status.leaseHolderPid === this.pid('emu') && status.settled;
  }

  /** What the state keeper that runs says of itself; null when it does not answer. */
  async keeper(): Promise<KeeperStatus | null> {
    const { RpcClient } = await import('@virtnet/host-ipc'); // here, for the packages may not be built yet
    const client = new RpcClient(join(this.root, 'run/virtnet/ha.ipc'));
    try {
      const status = await client.call('ha.status', {}, { deadlineMs: STATUS_DEADLINE_MS });
      return status.pid === this.pid('ha') ? status : null;
    } catch {
      return null;
    } finally {
      client.close();
    }
  }

  /** Waits until an emulator other than `killed` is active and a warm standby is behind it. */
  recovered(killed: number, timeoutMs = RECOVERY_TIMEOUT_MS): Promise<EmulatorStatus> {
    return until('a successor with a warm standby', timeoutMs, async () => {
      const emulators = await this.emulators();
      const active = emulators.find(({ role }) => role === 'active');
      const standby = emulators.find(({ role, ready }) => role === 'standby' && ready);
      return active?.pid !== killed && active?.pid === this.pid('emu') && standby !== undefined
        ? active
        : null;
    });
  }

  /** CPU time a process has used. */
  cpuSeconds(pid: number): number {
    const fields = readFileSync(`/proc/${pid}/stat`, 'latin1')
      .replace(/^.*\) /, '')
      .split(' ');
    return (Number(fields[11]) + Number(fields[12])) / CLOCK_TICKS_PER_SECOND;
  }

  holdings(role: ProcessRole): Holdings {
    return holdingsOf(this.runningPid(role));
  }

  /** Pid of vfe-vhostd, or of its keeper, which this object started. */
  vhostPid(which: 'vfe-vhostd' | 'vfe-vhostd-ha'): number {
    const child = which === 'vfe-vhostd' ? this.#vhostd : this.#vhostdKeeper;
    if (child === null) throw new Error(`${which} does not run`);
    return child.pid;
  }

  /**
   * What both owners of guests' things hold once it stays the same for {@link SETTLED_MS}:
   * a client that has just closed its socket is let go of some milliseconds later.
   */
  async settledHoldings(timeoutMs = 30_000): Promise<Readonly<Record<'emu' | 'ha', Holdings>>> {
    const deadline = Date.now() + timeoutMs;
    let held = { emu: this.holdings('emu'), ha: this.holdings('ha') };
    for (let since = Date.now(); Date.now() - since < SETTLED_MS; await sleep(20)) {
      const now = { emu: this.holdings('emu'), ha: this.holdings('ha') };
      if (isDeepStrictEqual(now, held)) continue;
      if (Date.now() > deadline) throw new Error('the service never stops taking and letting go of things');
      [held, since] = [now, Date.now()];
    }
    return held;
  }

  /** Ends the service as `kill <controller>` does. Throws when it leaves something behind. */
  async stop(): Promise<void> {
    const problems: string[] = [];
    if (this.#vhostd !== null && this.#vhostd.exit === null) {
      const { code, signal } = await this.#vhostd.end('SIGINT', STOP_TIMEOUT_MS);
      if (code !== 0) problems.push(`vfe-vhostd ended with ${signal ?? code}`);
    }
    if (this.#vhostdKeeper !== null && this.#vhostdKeeper.exit === null) {
      const { code, signal } = await this.#vhostdKeeper.end('SIGTERM', STOP_TIMEOUT_MS);
      if (code !== 0) problems.push(`vfe-vhostd-ha ended with ${signal ?? code}`);
    }
    if (this.controller !== null && this.controller.exit === null) {
      const roles = ['emu', 'emu-standby', 'ha'] as const;
      const pids = roles.map((role) => ({ role, pid: this.pid(role) }));
      const { code, signal } = await this.controller.end('SIGTERM', STOP_TIMEOUT_MS);
      if (code !== 0) problems.push(`virtio_net_controller ended with ${signal ?? code}`);
      for (const { role, pid } of pids)
        if (pid !== null && isRunning(pid)) problems.push(`${role} (${pid}) outlived the controller`);
      for (const path of sockets(join(this.root, 'run'))) problems.push(`socket left: ${path}`);
    }
    if (problems.length > 0) throw new Error(`the service did not end cleanly: ${problems.join('; ')}`);
  }

  #command(name: string, words: readonly string[]): Promise<Output> {
    return this.scene.net.output(as(this.#user, [program(name), ...words]), {
      env: { VIRTNET_ROOT: this.root },
      timeoutMs: COMMAND_TIMEOUT_MS,
    });
  }
}

/** Where users who may not look into the repository, which may be root's own, find it. */
const PUBLIC = '/mnt';

/** The command of the repository run by a user who may nothing; null: as it is. */
function as(user: number | null, [command, ...words]: readonly [string, ...string[]]): readonly string[] {
  if (user === null) return [command, ...words];
  const nothing = ['--clear-groups', '--bounding-set', '-all', '--inh-caps', '-all', '--no-new-privs'];
  return [
    ...['unshare', '--mount', 'sh', '-c', `mount --bind "$0" ${PUBLIC} && exec "$@"`, repository],
    ...['setpriv', '--reuid', `${user}`, '--regid', `${user}`, ...nothing, '--'],
    ...[join(PUBLIC, relative(repository, command)), ...words],
  ];
}

/** Of a ring for bursts. */
export const RING_KIND = 'anon_inode:[io_uring]';

/** What a process holds, but for rings: a queue has one from its first burst on, so there are as many as frames come. */
export function holdingsOf(pid: number): Holdings {
  const kinds = [...descriptorKinds(pid)].filter(([kind]) => kind !== RING_KIND);
  return {
    descriptors: kinds.reduce((sum, [, count]) => sum + count, 0),
    sharedMappings: [...readFileSync(`/proc/${pid}/maps`, 'latin1').matchAll(/^\S+ ..[-x]s /gm)].length,
  };
}

/** What `read` says of a descriptor, which may be closed meanwhile. */
function orGone(read: () => string): string {
  try {
    return read();
  } catch {
    return 'gone';
  }
}

/** How many descriptors a process has of what: TAPs and files by name, sockets and events all of a kind. */
export function descriptorKinds(pid: number): ReadonlyMap<string, number> {
  const kinds = new Map<string, number>();
  for (const fd of readdirSync(`/proc/${pid}/fd`)) {
    const target = orGone(() => readlinkSync(`/proc/${pid}/fd/${fd}`)).replace(/:\[\d+\]$/, '');
    const info = orGone(() => readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'latin1'));
    const tap = /^iff:\s*(\S+)$/m.exec(info)?.[1];
    const kind = tap === undefined ? target : `${target} ${tap}`;
    kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
  }
  return kinds;
}

/** The JSON value in what the command line printed. */
export function parseAnswer(text: string): unknown {
  const start = text.search(/^[[{"]\s*($|")/m);
  const from = /^\{'/.test(text) ? text.indexOf('\n') + 1 : Math.max(0, start);
  return JSON.parse(text.slice(from));
}

/** `15:00.0` -> `0000:15:00.0`. */
export function fullAddress(bdf: string): string {
  return bdf.split(':').length === 2 ? `0000:${bdf}` : bdf;
}

function sockets(directory: string): string[] {
  if (!existsSync(directory)) return [];
  return readdirSync(directory, { recursive: true, encoding: 'utf8' })
    .map((name) => join(directory, name))
    .filter((path) => existsSync(path) && statSync(path).isSocket());
}
