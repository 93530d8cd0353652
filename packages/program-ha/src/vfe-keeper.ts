/**
 * vfe-keeper.ts: the state keeper as vfe-vhostd-ha: its place, its file, its word to the service manager, and with
 * --supervise the vfe-vhostd beside it.
 */
import { rmSync, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { DescriptorStore, type Logger, tryWriteText, type VirtnetPaths } from '@virtnet/host-ipc';
import { type Poller, passedDescriptors, ServiceManager, watchdogIntervalMs } from '@virtnet/host-linux';
import type { VfeHaOptions } from './vfe-options.js';
import { VhostdSupervisor } from './vhostd-supervisor.js';
import { serve, VERSION } from './wiring.js';

const PROGRAM = 'vfe-vhostd-ha';
const PID_FILE = 'vhostd-ha';
const EXIT_SERVED = 0;
const EXIT_UNABLE = 1;

/** Serves until SIGTERM or SIGINT. The exit code. */
export async function serveVfe(options: VfeHaOptions): Promise<number> {
  const passed = passedDescriptors(); // before anything of ours is started, which must not be handed them
  try {
    await serve(
      { expectUpload: false, logLevel: options.logLevel },
      {
        program: PROGRAM,
        socket: (paths) => paths.vfeHaSocket,
        ipc: (paths) => paths.vfeHaIpc,
        kept: (manager, log) => DescriptorStore.open(manager, passed, log),
        serving: (paths, poller, log, ended) => beside(paths, poller, log, ended, options),
      },
    );
    return EXIT_SERVED;
  } catch (error) {
    process.stderr.write(`${PROGRAM}: ${error instanceof Error ? error.message : String(error)}\n`);
    return EXIT_UNABLE;
  }
}

/** What it does beside keeping. */
async function beside(
  paths: VirtnetPaths,
  poller: Poller,
  log: Logger,
  ended: Promise<unknown>,
  options: VfeHaOptions,
): Promise<void> {
  const pidFile = paths.vfePidFile(PID_FILE);
  tryWriteText(pidFile, `${process.pid}\n`, log);
  const buildTime = statSync(fileURLToPath(import.meta.url)).mtime.toISOString();
  tryWriteText(paths.vfeHaBuild, `${JSON.stringify({ version: VERSION, buildTime })}\n`, log);
  const manager = ServiceManager.connect(poller);
  const watchdogMs = watchdogIntervalMs();
  const watchdog =
    watchdogMs === null ? undefined : setInterval(() => manager?.notify('WATCHDOG=1'), watchdogMs / 3);
  manager?.notify('READY=1', 'STATUS=serving');
  process.stdout.write('ready\n');
  const supervisor = options.supervise
    ? new VhostdSupervisor({ lockPath: paths.vfeLock, options: options.vhostdOptions, poller, log })
    : null;
  supervisor?.start();

  await ended;
  manager?.notify('STOPPING=1');
  await supervisor?.stop();
  clearInterval(watchdog);
  manager?.close();
  for (const file of [pidFile, paths.vfeHaBuild]) rmSync(file, { force: true });
}
