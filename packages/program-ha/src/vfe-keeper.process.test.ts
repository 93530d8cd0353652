import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { type VirtnetPaths, virtnetPaths } from '@virtnet/host-ipc';
import { isAlive } from '@virtnet/host-linux';
import { expect, it, onTestFinished, vi } from 'vitest';

const main = fileURLToPath(new URL('../dist/vfe-main.cjs', import.meta.url));
const vhostCli = fileURLToPath(new URL('../../program-vhostd/bin/vfe-vhost-cli', import.meta.url));
const run = promisify(execFile);

/** vfe-vhostd-ha with the vfe-vhostd that it starts, in a root of its own. */
class Supervised {
  readonly paths: VirtnetPaths;
  readonly #root = mkdtempSync(join(tmpdir(), 'virtnet-vfe-'));
  #keeper: ChildProcess | null = null;
  #exit: Promise<number | NodeJS.Signals | null> = Promise.resolve(null);

  constructor() {
    this.paths = virtnetPaths(this.#root);
    onTestFinished(async () => {
      const vhostd = this.vhostdPids();
      await this.end('SIGKILL');
      for (const pid of vhostd) process.kill(pid, 'SIGKILL');
      rmSync(this.#root, { recursive: true, force: true });
    });
  }

  /** Resolves when vfe-vhostd answers. */
  async start(): Promise<void> {
    const env = { ...process.env, VIRTNET_ROOT: this.#root };
    const keeper = spawn(process.execPath, [main, '--log-level', 'err', '--supervise'], {
      ...{ env, stdio: ['ignore', 'ignore', 'inherit'] },
    });
    this.#keeper = keeper;
    this.#exit = new Promise((resolve) => keeper.on('exit', (code, signal) => resolve(signal ?? code)));
    await vi.waitFor(() => run(vhostCli, ['version'], { env }), { timeout: 30_000, interval: 100 });
  }

  /** The children of vfe-vhostd-ha. */
  vhostdPids(): number[] {
    const pid = this.#keeper?.pid ?? 0;
    if (!isAlive(pid)) return [];
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8');
    return (children.match(/\d+/g) ?? []).map(Number);
  }

  /** Resolves to the exit code of vfe-vhostd-ha, or the signal that ended it. */
  end(signal: NodeJS.Signals): Promise<number | NodeJS.Signals | null> {
    this.#keeper?.kill(signal);
    return this.#exit;
  }
}

it('pid files and what it says of its build cannot be written: both serve, and end', async () => {
  const service = new Supervised();
  const { paths } = service;
  for (const path of [paths.vfePidFile('vhostd'), paths.vfePidFile('vhostd-ha'), paths.vfeHaBuild])
    symlinkSync(join(main, 'file'), path); // below a file there is no file
  await service.start();
  expect(await service.end('SIGTERM')).toBe(0);
});

it('vfe-vhostd is stopped: SIGTERM ends both all the same', async () => {
  const service = new Supervised();
  await service.start();
  const vhostd = service.vhostdPids();
  for (const pid of vhostd) process.kill(pid, 'SIGSTOP');
  expect(await service.end('SIGTERM')).toBe(0);
  expect(vhostd.filter(isAlive)).toEqual([]);
});
