/** service.fixture.ts: a controller with real ha and fake emulators in a root of its own, for tests. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import {
  type EmuStatus,
  type HaStatus,
  type JsonObject,
  type PidFileName,
  RpcClient,
  type VirtnetPaths,
  virtnetPaths,
} from '@virtnet/host-ipc';
import { isAlive } from '@virtnet/host-linux';
import { vi } from 'vitest';
import type { FakeEmuKnobs } from './fake-emu.fixture.js';

const main = fileURLToPath(new URL('../dist/main.cjs', import.meta.url));
const fakeEmu = fileURLToPath(new URL('./fake-emu.fixture.ts', import.meta.url));

export interface CliReply {
  readonly echo?: JsonObject;
  readonly answer: JsonObject;
  readonly exitCode: number;
}

export const after = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** Resolves to what `look` found, as soon as that is neither null nor false; rejects after `deadlineMs`. */
export async function eventually<T>(
  what: string,
  look: () => T | null | false | Promise<T | null | false>,
  deadlineMs = 30_000, // machines that build other things meanwhile are slow
): Promise<T> {
  const endMs = performance.now() + deadlineMs;
  for (;;) {
    const found = await look();
    if (found !== null && found !== false) return found;
    if (performance.now() > endMs) throw new Error(`within ${deadlineMs} ms did not happen: ${what}`);
    await after(5);
  }
}

export class Service {
  readonly paths: VirtnetPaths;
  readonly #clients = new Map<string, RpcClient>();
  readonly #seen = new Set<number>();
  #controller: ChildProcess | null = null;
  #exit: Promise<number | NodeJS.Signals | null> = Promise.resolve(null);
  /** Everything the controllers wrote. */
  stdout = '';
  stderr = '';

  /** In a root of its own, or in one that exists. */
  constructor(knobs: FakeEmuKnobs = {}, root = mkdtempSync(join(tmpdir(), 'virtnet-service-'))) {
    this.paths = virtnetPaths(root);
    this.setKnobs(knobs);
  }

  setKnobs(knobs: FakeEmuKnobs): void {
    writeFileSync(join(this.paths.root, 'fake-emu.json'), JSON.stringify(knobs));
  }

  /** Starts a controller; resolves when it says ready, rejects when it exits before. */
  async start(): Promise<this> {
    const before = this.stdout.length;
    this.launch();
    let exited = false;
    void this.#exit.then(() => {
      exited = true;
    });
    await eventually('ready', () => this.stdout.length > before || exited, 60_000).catch(() => {});
    if (this.stdout.slice(before) !== 'ready\n')
      throw new Error(`the controller is not ready: ${this.stderr}`);
    return this;
  }

  launch(): void {
    const child = spawn(process.execPath, [main, '--emu', fakeEmu], {
      env: { ...process.env, VIRTNET_ROOT: this.paths.root },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#controller = child;
    child.stdout.on('data', (chunk) => {
      this.stdout += chunk;
    });
    child.stderr.on('data', (chunk) => {
      this.stderr += chunk;
    });
    this.#exit = new Promise((resolve) => child.on('exit', (code, signal) => resolve(signal ?? code)));
  }

  /** Resolves when `holds` no longer throws: what the controllers write arrives when their log and ours get to it. */
  says(holds: (stderr: string) => void): Promise<void> {
    return vi.waitFor(() => holds(this.stderr), { timeout: 10_000, interval: 5 });
  }

  get controllerPid(): number {
    return this.#controller?.pid ?? 0;
  }

  signal(signal: NodeJS.Signals): Promise<number | NodeJS.Signals | null> {
    this.#controller?.kill(signal);
    return this.#exit;
  }

  /** What the pid file says; 0 when there is none. */
  pid(name: PidFileName): number {
    try {
      const pid = Number(readFileSync(this.paths.pidFile(name), 'utf8'));
      this.#seen.add(pid);
      return pid;
    } catch {
      return 0;
    }
  }

  kill(name: PidFileName, signal: NodeJS.Signals = 'SIGKILL'): number {
    const pid = this.pid(name);
    process.kill(pid, signal);
    return pid;
  }

  async cli(command: string, params: JsonObject = {}): Promise<CliReply> {
    return (await this.#client(this.paths.controllerIpc).call('cli.request', {
      command,
      params,
    })) as CliReply;
  }

  ha(): Promise<HaStatus | null> {
    return this.#client(this.paths.haIpc)
      .call('ha.status', {}, { deadlineMs: 500 })
      .catch(() => null);
  }

  /** Status of every emulator that answers. */
  async emulators(): Promise<EmuStatus[]> {
    const files = readdirSync(this.paths.run).filter(
      (name) => name.startsWith('emu-') && name.endsWith('.ipc'),
    );
    const asked = files.map((name) =>
      this.#client(join(this.paths.run, name))
        .call('emu.status', {}, { deadlineMs: 500 })
        .catch(() => null),
    );
    const answers = (await Promise.all(asked)).filter((answer) => answer !== null);
    for (const { pid } of answers) this.#seen.add(pid);
    return answers;
  }

  /** Resolves to both pids when an active and a warm standby are up, other than `former`, as the pid files say. */
  async settled(...former: number[]): Promise<{ active: number; standby: number }> {
    const both = eventually('an active emulator and a warm standby', async () => {
      const all = await this.emulators();
      const active = all.find(({ role }) => role === 'active')?.pid ?? 0;
      const standby = all.find(({ role, ready }) => role === 'standby' && ready)?.pid ?? 0;
      const filed = this.pid('emu') === active && this.pid('emu-standby') === standby;
      return active > 0 && standby > 0 && filed && !former.includes(active) && !former.includes(standby)
        ? { active, standby }
        : null;
    });
    return both.catch((error: Error) => {
      throw new Error(`${error.message}; the controller said: ${this.stderr}`);
    });
  }

  /** Ends everything that is left, by pid. */
  async remove(): Promise<void> {
    for (const name of ['ha', 'emu', 'emu-standby'] as const) this.pid(name);
    await this.emulators();
    this.#controller?.kill('SIGKILL');
    await this.#exit;
    for (const pid of this.#seen) if (pid > 0 && isAlive(pid)) process.kill(pid, 'SIGKILL');
    for (const client of this.#clients.values()) client.close();
    rmSync(this.paths.root, { recursive: true, force: true });
  }

  #client(path: string): RpcClient {
    const client = this.#clients.get(path) ?? new RpcClient(path);
    this.#clients.set(path, client);
    return client;
  }
}

export const hotplugParams = {
  ibDevice: 'mlx5_0',
  mac: '0C:C4:7A:FF:22:93',
  mtu: 1500,
  queues: 3,
  queuePairs: null,
  queueSize: 1024,
  sfNum: null,
  features: null,
  legacy: false,
} as const;
