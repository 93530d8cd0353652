/**
 * driver-process.ts: the host's virtio-net driver, as virtnet-host starts it and speaks to it.
 *
 * Theory
 *   The driver is a process that belongs to the host: whoever needs it first starts it, in its own network namespace
 *   and apart from itself, and it ends when nothing is left to drive. Whether it lives is asked of its socket: nobody
 *   listens there any more once it is dead, whatever was left behind. There is one driver, which holds a lock from its
 *   first step to its last; who needs one while the lock is held waits for that one to answer, or to end.
 *
 * Limits  START_MS until a driver that was started answers, END_MS until one that says that it ends is gone,
 *         GONE_LOOK_MS until a call hears that it has ended.
 */
import { spawn } from 'node:child_process';
import { closeSync, constants, existsSync, openSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { VirtnetPaths } from '@virtnet/host-ipc';

const START_MS = 20_000;
const END_MS = 10_000;
const LOOK_MS = 20;
const GONE_LOOK_MS = 200;
/** -ECONNRESET: it ended while it was asked. */
const OVER = -104;

/** A function as the driver tells of it. */
export interface DrivenFunction {
  readonly bdf: string;
  readonly netdev: string | null;
  readonly failure: { readonly errno: number; readonly reason: string } | null;
}

export interface ChannelsAnswer {
  readonly errno: number;
  readonly errstr: string;
  readonly netdev?: string;
  readonly bdf?: string;
  readonly most?: number;
  readonly used?: number;
}

export interface DriverPort {
  /** What is driven, once that agrees with the host's state; null when no driver runs. `start`: then one is started. */
  sync(start: boolean): Promise<readonly DrivenFunction[] | null>;
  /** Queue pairs of an interface; null when no driver runs. */
  channels(device: string, combined: number | null): Promise<ChannelsAnswer | null>;
}

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** The driver below VIRTNET_ROOT. Its methods reject with an Error when it cannot be started. */
export function driverProcess(): DriverPort {
  const open = async () => {
    const { RpcClient, RpcError, virtnetPaths } = await import('@virtnet/host-ipc');
    return { RpcClient, RpcError, paths: virtnetPaths(undefined, { create: false }) };
  };
  return {
    async sync(start) {
      const { RpcClient, RpcError, paths } = await open();
      const endMs = performance.now() + START_MS;
      for (;;) {
        if (!(await answers(paths.driverIpc))) {
          if (!start) return null;
          await startDriver(paths, endMs);
        }
        const client = new RpcClient(paths.driverIpc);
        try {
          const call = client.call('driver.sync', {});
          const { functions, ending } = await whileThere(paths.driverIpc, client, call);
          if (ending) await gone(paths);
          if (ending && start && performance.now() < endMs) continue; // it read the state before it was changed
          return functions;
        } catch (error) {
          if (!(error instanceof RpcError) || error.errno !== OVER || performance.now() > endMs) throw error;
        } finally {
          client.close();
        }
      }
    },
    async channels(device, combined) {
      const { RpcClient, paths } = await open();
      if (!(await answers(paths.driverIpc))) return null;
      const client = new RpcClient(paths.driverIpc);
      try {
        return await whileThere(
          paths.driverIpc,
          client,
          client.call('driver.channels', { device, combined }),
        );
      } finally {
        client.close();
      }
    },
  };
}

/**
 * A call of a process that may have ended between the look whether it lives and the call, which then would wait for
 * the next one: rejects as when it ends meanwhile, once nobody listens any more.
 */
export async function whileThere<T>(
  path: string,
  client: { close(): void },
  call: Promise<T>,
  lookMs = GONE_LOOK_MS,
): Promise<T> {
  const looking = setInterval(async () => {
    if (!(await answers(path))) client.close();
  }, lookMs);
  try {
    return await call;
  } finally {
    clearInterval(looking);
  }
}

/** Whether somebody listens at a socket. */
async function answers(path: string): Promise<boolean> {
  return (await connecting(path)) === null;
}

/** Whether somebody holds a lock: nobody accepts connections there, so that in the end they are not even queued. */
async function isHeld(lock: string): Promise<boolean> {
  const code = await connecting(lock);
  return code !== 'ECONNREFUSED' && code !== 'ENOENT';
}

/** Connects for a moment; the code of the error, null without one. */
function connecting(path: string): Promise<string | null> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(null);
    });
    socket.once('error', ({ code }: NodeJS.ErrnoException) => resolve(code ?? ''));
  });
}

/** A driver on its way: how it has ended, null while it runs. */
export interface StartedDriver {
  readonly ended: string | null;
}

/**
 * Resolves when a driver answers, which may be one that another process has started meanwhile. Rejects with an Error
 * when `start`'s ends and nobody else's is there, or at `endMs`, milliseconds of `performance.now`.
 */
export async function startDriver(
  { vfeRun, driverIpc }: Pick<VirtnetPaths, 'vfeRun' | 'driverIpc'>,
  endMs: number,
  start: (logPath: string) => StartedDriver = spawnDriver,
): Promise<void> {
  const logPath = join(vfeRun, 'driver.log');
  const lock = join(vfeRun, 'driver.lock');
  let own: StartedDriver | null = null;
  for (;;) {
    if (await answers(driverIpc)) return;
    const runs = own !== null && own.ended === null;
    const others = !runs && (await isHeld(lock));
    if (performance.now() > endMs || (own !== null && !runs && !others))
      throw new Error(`the virtio-net driver does not start: ${own?.ended ?? 'no answer'}; see ${logPath}`);
    if (others) own = null;
    else own ??= start(logPath);
    await sleep(LOOK_MS);
  }
}

function spawnDriver(logPath: string): StartedDriver {
  const main = fileURLToPath(new URL('../../program-driver/dist/main.cjs', import.meta.url));
  const { O_WRONLY, O_CREAT, O_TRUNC, O_APPEND } = constants; // another one may write to it at the same time
  const log = openSync(logPath, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0o600);
  const child = spawn(process.execPath, ['--no-warnings', main], {
    detached: true,
    cwd: '/',
    stdio: ['ignore', 'ignore', log],
  });
  closeSync(log);
  const started: { ended: string | null } = { ended: null };
  child.once('error', (error) => {
    started.ended = error.message;
  });
  child.once('exit', (code) => {
    started.ended = `exit code ${code}`;
  });
  child.unref();
  return started;
}

/** Its pid file is the last that it removes. */
async function gone(paths: Pick<VirtnetPaths, 'vfePidFile'>): Promise<void> {
  const endMs = performance.now() + END_MS;
  while (existsSync(paths.vfePidFile('driver')) && performance.now() < endMs) await sleep(LOOK_MS);
}
