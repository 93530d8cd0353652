/** wiring.ts: vfe-vhostd as a process: what is opened, what answers, and the order of their ends. */
import { readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { createLogger, exitOnFault, RpcServer, virtnetPaths } from '@virtnet/host-ipc';
import {
  close,
  listen,
  Poller,
  ServiceManager,
  setProcessName,
  watchdogIntervalMs,
} from '@virtnet/host-linux';
import { LinuxErrno } from '@virtnet/wire';
import { type BuildFacts, VfeCommands } from './commands.js';
import type { VhostdOptions } from './options.js';
import { Registry } from './registry.js';

const PROGRAM = 'vfe-vhostd';
const PID_FILE = 'vhostd';
const EXIT_SERVED = 0;
const EXIT_UNABLE = 1;

/** Serves until SIGTERM or SIGINT. The exit code. */
export async function serve(options: VhostdOptions): Promise<number> {
  setProcessName(PROGRAM);
  exitOnFault(PROGRAM);
  const log = createLogger(PROGRAM, options.logLevel);
  const paths = virtnetPaths();
  // A socket that somebody listens on ends with its process, however that ends: a lock that is never stale.
  const lockPath = `${paths.vfeRun}/vhostd.lock`;
  const lock = listen(lockPath, 'stream');
  if (lock < 0) {
    const taken = lock === -LinuxErrno.EADDRINUSE;
    log.fatal({ errno: -lock, lockPath }, taken ? 'another vfe-vhostd is running' : 'cannot lock');
    return EXIT_UNABLE;
  }

  const poller = new Poller();
  poller.start();
  const manager = ServiceManager.connect(poller);
  const watchdogMs = watchdogIntervalMs();
  const watchdog =
    watchdogMs === null ? undefined : setInterval(() => manager?.notify('WATCHDOG=1'), watchdogMs / 3);
  const registry = new Registry({ paths, poller, log, client: options.client });
  const commands = new VfeCommands(registry, buildFacts());
  const rpc = await RpcServer.bind(
    'vhostd',
    paths.vfeIpc,
    { 'vhost.request': ({ command, params }) => commands.run(command, params) },
    log,
  );
  const pidFile = paths.vfePidFile(PID_FILE);
  writeFileSync(pidFile, `${process.pid}\n`);

  const ended = Promise.withResolvers<string>();
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => ended.resolve(signal));
  log.info({ client: options.client }, 'serving');
  process.stdout.write('ready\n');
  manager?.notify('READY=1', 'STATUS=serving');
  const reason = await ended.promise;
  manager?.notify('STOPPING=1');
  clearInterval(watchdog);

  log.info({ reason }, 'closing');
  await rpc.close();
  await registry.close();
  await poller.stop();
  rmSync(pidFile, { force: true });
  rmSync(lockPath, { force: true });
  close(lock);
  return EXIT_SERVED;
}

function buildFacts(): BuildFacts {
  const manifest = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as {
    version: string;
  };
  return {
    version: manifest.version,
    buildTime: statSync(fileURLToPath(import.meta.url)).mtime.toISOString(),
  };
}
