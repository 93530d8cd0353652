/**
 * emulator-service.fixture.ts: the state keeper, an active emulator and a standby, as processes in a root and a network
 * namespace of their own, without the controller: a test promotes and kills by itself.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type FirmwareValues, initialFirmwareStore, type VirtnetConf } from '@virtnet/engine-control';
import {
  type JsonObject,
  RpcClient,
  type VirtnetPaths,
  virtnetPaths,
  writeConfSnapshot,
  writeFirmwareStore,
} from '@virtnet/host-ipc';
import { Poller } from '@virtnet/host-linux';
import { Network } from './network.fixture.js';

const programMain = (name: string) =>
  fileURLToPath(new URL(`../../../${name}/dist/main.cjs`, import.meta.url));
/** Everything here may take long on a machine that does other things. */
export const PATIENCE_MS = 30_000;

/** Resolves to what `look` found as soon as that is neither null nor false. */
export async function eventually<T>(
  what: string,
  look: () => T | null | false | Promise<T | null | false>,
  patienceMs = PATIENCE_MS,
): Promise<T> {
  const end = performance.now() + patienceMs;
  for (;;) {
    const found = await look();
    if (found !== null && found !== false) return found;
    if (performance.now() > end) throw new Error(`within ${patienceMs} ms did not happen: ${what}`);
    await sleep(3);
  }
}

export interface Hotplugged {
  readonly id: number;
  readonly bdf: string;
  readonly vuid: string;
  readonly representor: string;
  readonly mac: string;
  readonly socket: string;
}

export interface HotplugOptions {
  readonly ibDevice?: string;
  readonly mac?: string;
  readonly queuePairs?: number;
  readonly queueSize?: number;
  readonly mtu?: number;
  readonly sfNum?: number | null;
  /** Hexadecimal mask of features beside the default ones. */
  readonly features?: string | null;
}

/** What a leak shows up in. */
export interface Holdings {
  readonly descriptors: number;
  /** Mappings of memory that is shared with others. */
  readonly shared: number;
}

export class EmulatorProcess {
  readonly instance: number;
  readonly child: ChildProcess;
  readonly rpc: RpcClient;
  readonly exited: Promise<number | NodeJS.Signals | null>;

  constructor(instance: number, child: ChildProcess, path: string) {
    this.instance = instance;
    this.child = child;
    this.rpc = new RpcClient(path);
    this.exited = new Promise((resolve) => child.on('exit', (code, signal) => resolve(signal ?? code)));
  }

  get pid(): number {
    return this.child.pid!;
  }

  status() {
    return this.rpc.call('emu.status', {}, { deadlineMs: 1000 }).catch(() => null);
  }

  async end(): Promise<void> {
    this.child.kill('SIGKILL');
    await this.exited;
    this.rpc.close();
  }
}

export interface ServiceOptions {
  readonly standby?: boolean;
  /** The configuration in effect; the default one unless told otherwise. */
  readonly conf?: VirtnetConf;
  /** Current values of the firmware that differ from the initial ones. */
  readonly firmware?: Partial<FirmwareValues>;
  /** Datapath threads of each emulator; null: as the configuration says. */
  readonly workers?: number | null;
}

export class EmulatorService {
  readonly root = mkdtempSync(join(tmpdir(), 'virtnet-emu-'));
  readonly paths: VirtnetPaths = virtnetPaths(this.root);
  readonly poller = new Poller();
  readonly network: Network;
  readonly ha = new RpcClient(this.paths.haIpc);
  /** What the processes said, for messages. */
  log = '';
  readonly #workers: number | null;
  #keeper: ChildProcess | null = null;
  #nextInstance = 1;
  #active: EmulatorProcess | null = null;
  #standby: EmulatorProcess | null = null;
  readonly #others: EmulatorProcess[] = [];

  private constructor(network: Network, workers: number | null) {
    this.network = network;
    this.#workers = workers;
    this.poller.start();
  }

  /** With an active emulator and, unless told otherwise, a standby that is ready. */
  static async start(options: ServiceOptions = {}): Promise<EmulatorService> {
    const { standby = true, conf, firmware, workers = 1 } = options;
    const service = new EmulatorService(await Network.open(), workers);
    if (conf !== undefined) writeConfSnapshot(service.paths, conf);
    if (firmware !== undefined) {
      const store = initialFirmwareStore();
      writeFirmwareStore(service.paths.fwconfig, { ...store, current: { ...store.current, ...firmware } });
    }
    try {
      service.#keeper = service.#spawn([programMain('program-ha')]);
      await eventually('the keeper', () => service.ha.call('ha.status', {}).catch(() => null));
      service.#active = await service.#startEmulator();
      await service.#active.rpc.call('emu.promote', { reason: 'first' });
      if (standby) await service.startStandby();
      return service;
    } catch (error) {
      await service.end();
      throw new Error(`the service does not start: ${service.log}`, { cause: error });
    }
  }

  get active(): EmulatorProcess {
    if (this.#active === null) throw new Error('no emulator is active');
    return this.#active;
  }

  get standby(): EmulatorProcess {
    if (this.#standby === null) throw new Error('there is no standby');
    return this.#standby;
  }

  async startStandby(): Promise<void> {
    this.#standby = await this.#startEmulator();
  }

  /** An emulator that takes nothing over by itself, for a handover to it. */
  async startReserve(): Promise<EmulatorProcess> {
    const reserve = await this.#startEmulator(['--reserve']);
    this.#others.push(reserve);
    return reserve;
  }

  /** Moves every device from the active emulator to `to`, which is the active one then. Resolves to the pauses (ms). */
  async handOver(to: EmulatorProcess): Promise<number[]> {
    const pauses: number[] = [];
    const { active } = this;
    const { devices } = await active.rpc.call('emu.devices', {});
    for (const { vuid } of devices) pauses.push(await this.move(vuid, to));
    await active.rpc.call('emu.pass', { pid: to.pid });
    await to.rpc.call('emu.promote', { reason: 'update' });
    await active.rpc.call('emu.shutdown', { removeDevices: false });
    await active.exited;
    active.rpc.close();
    this.#active = to;
    return pauses;
  }

  /** Moves one device. */
  async move(vuid: string, to: EmulatorProcess): Promise<number> {
    const borrowed = to.rpc.call('emu.borrow', { vuid });
    await this.active.rpc.call('emu.lend', { vuid, pid: to.pid });
    return (await borrowed).pauseMs;
  }

  /** From now on the state keeper reads nothing. */
  stopKeeper(): void {
    this.#keeper?.kill('SIGSTOP');
  }

  async killKeeper(): Promise<void> {
    const keeper = this.#keeper;
    if (keeper === null) throw new Error('there is no keeper');
    const exit = once(keeper, 'exit');
    keeper.kill('SIGKILL');
    await exit;
  }

  /** Kills the state keeper, unless it is dead, and starts another; resolves when it has everything again. */
  async replaceKeeper(): Promise<void> {
    if (this.#keeper?.signalCode === null) await this.killKeeper();
    this.#keeper = this.#spawn([programMain('program-ha'), '--expect-upload']);
    await eventually('the next keeper', async () => {
      const status = await this.ha.call('ha.status', {}, { deadlineMs: 500 }).catch(() => null);
      return status?.pid === this.#keeper?.pid && status?.settled === true;
    });
  }

  /** Kills the active emulator; the standby is the active one from now on. Resolves when it serves. */
  async killActive(): Promise<void> {
    await this.killAndForget();
    await this.takenOver();
  }

  /** The same without waiting for anything but the death. */
  async killAndForget(): Promise<void> {
    const { active } = this;
    this.#active = null;
    await active.end();
  }

  /** Has the standby take over from an active one that is dead. */
  async promote(): Promise<void> {
    await this.standby.rpc.call('emu.promote', { reason: 'crash' }, { deadlineMs: PATIENCE_MS });
    await this.takenOver();
  }

  /** Waits until the standby serves, after the active one has died by whatever cause. */
  async takenOver(): Promise<void> {
    const { standby } = this;
    await eventually('a takeover', async () => {
      const status = await standby.status();
      return status?.role === 'active' && status.ready;
    });
    this.#active?.rpc.close();
    this.#active = standby;
    this.#standby = null;
  }

  async hotplug(options: HotplugOptions = {}): Promise<Hotplugged> {
    const answer = await this.tryHotplug(options);
    if (answer.errno !== 0) throw new Error(`hotplug: ${JSON.stringify(answer)}`);
    const {
      id,
      bdf,
      vuid,
      sf_rep_net_device: representor,
      mac,
    } = answer as JsonObject & {
      id: number;
      bdf: string;
      vuid: string;
      sf_rep_net_device: string;
      mac: string;
    };
    return { id, bdf, vuid, representor, mac, socket: this.paths.pciSocket(`0000:${bdf}`) };
  }

  tryHotplug({
    ibDevice = 'mlx5_0',
    mac = '0C:C4:7A:FF:22:93',
    queuePairs = 1,
    queueSize = 256,
    mtu = 1500,
    sfNum = null,
    features = null,
  }: HotplugOptions): Promise<JsonObject> {
    const request = { ibDevice, mac, mtu, queues: null, queuePairs, queueSize, sfNum, features };
    const params = { requestId: randomUUID(), ...request, legacy: false };
    return this.active.rpc.call('device.hotplug', params, { deadlineMs: 10_000 }) as Promise<JsonObject>;
  }

  /** The devices as `virtnet list` shows them, and what it shows of the controller. */
  list(): Promise<{ controller: JsonObject; devices: readonly JsonObject[] }> {
    const answer = this.active.rpc.call('device.list', {}, { deadlineMs: 10_000 });
    return answer as unknown as Promise<{ controller: JsonObject; devices: readonly JsonObject[] }>;
  }

  /** Every device as `virtnet query -a -b` shows it. */
  async queryAll(): Promise<readonly JsonObject[]> {
    const request = { all: true, pf: null, vf: null, vuid: null, brief: true, queue: null };
    const answer = await this.active.rpc.call('device.query', request, { deadlineMs: 10_000 });
    return (answer as unknown as { devices: readonly JsonObject[] }).devices;
  }

  unplug(pf: number): Promise<JsonObject> {
    const params = { requestId: randomUUID(), pf, vuid: null };
    return this.active.rpc.call('device.unplug', params, { deadlineMs: 10_000 }) as Promise<JsonObject>;
  }

  /** Names on the keeper's shelf. */
  async shelved(prefix = ''): Promise<string[]> {
    const { entries } = await this.ha.call('ha.list', { prefix, offset: 0, limit: 1000 });
    return entries.map(({ name }) => name);
  }

  /** Of keeper, active emulator and standby. */
  holdings(): Holdings[] {
    const pids = [this.#keeper?.pid, this.#active?.pid, this.#standby?.pid];
    return pids.filter((pid) => pid !== undefined).map(holdingsOf);
  }

  /** Ends everything that is left. */
  async end(): Promise<void> {
    this.ha.close();
    for (const emulator of [this.#active, this.#standby, ...this.#others]) await emulator?.end();
    const keeper = this.#keeper;
    if (keeper !== null && keeper.exitCode === null && keeper.signalCode === null) {
      const exit = once(keeper, 'exit');
      keeper.kill('SIGKILL');
      await exit;
    }
    await this.network.close();
    await this.poller.stop();
    rmSync(this.root, { recursive: true, force: true });
  }

  async #startEmulator(extra: readonly string[] = []): Promise<EmulatorProcess> {
    const instance = this.#nextInstance++;
    const path = this.paths.emuIpc(instance);
    const child = this.#spawn([
      programMain('program-emu'),
      '--instance',
      String(instance),
      '--role',
      'standby',
      ...(this.#workers === null ? [] : ['--workers', String(this.#workers)]),
      ...extra,
    ]);
    const emulator = new EmulatorProcess(instance, child, path);
    await eventually(`emulator ${instance} to be ready`, async () => {
      if (child.exitCode !== null) throw new Error(`emulator ${instance} ended: ${this.log}`);
      return existsSync(path) && (await emulator.status())?.ready === true;
    });
    return emulator;
  }

  #spawn(script: readonly string[]): ChildProcess {
    const command = this.network.inside([process.execPath, '--no-warnings', ...script]);
    const child = spawn('setpriv', command, {
      env: { ...process.env, VIRTNET_ROOT: this.root },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on('data', (chunk) => {
        this.log = (this.log + chunk).slice(-20_000);
      });
    }
    return child;
  }
}

export function holdingsOf(pid: number): Holdings {
  const maps = readFileSync(`/proc/${pid}/maps`, 'utf8').split('\n');
  return {
    descriptors: readdirSync(`/proc/${pid}/fd`).length,
    shared: maps.filter((line) => line.includes('/memfd:')).length,
  };
}
