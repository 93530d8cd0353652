/**
 * wiring.ts: vfe-vhostd as a process: what is opened, what answers, and the order of their ends.
 *
 * Theory
 *   Whoever has the lock is the only one of its root: a predecessor is dead, all of it, when the lock can be had, since
 *   a process lets go of its descriptors with its last thread. Only then the keeper is asked for what it left.
 *
 *   SIGTERM is how it is replaced: with a keeper that has everything it stops between two messages and just ends, as if
 *   it had been killed there, and whoever is started next goes on. SIGINT, or SIGTERM without a keeper, is the end of
 *   what it serves: machines and functions are let go. Where the keeper was not met yet SIGINT leaves a file, so that
 *   whoever meets it lets go of what it has.
 */
import { readFileSync, rmSync, statSync } from 'node:fs';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { createLogger, exitOnFault, RpcServer, tryWriteText, virtnetPaths } from '@virtnet/host-ipc';
import {
  close,
  listen,
  Poller,
  plainReplies,
  ReplyRing,
  ServiceManager,
  setProcessName,
  watchdogIntervalMs,
} from '@virtnet/host-linux';
import { LinuxErrno } from '@virtnet/wire';
import { type BuildFacts, VfeCommands } from './commands.js';
import { Keeper } from './keeper.js';
import type { VhostdOptions } from './options.js';
import { Registry } from './registry.js';

const PROGRAM = 'vfe-vhostd';
const PID_FILE = 'vhostd';
const EXIT_SERVED = 0;
const EXIT_UNABLE = 1;
/** A message that is not over by then is a successor's, which carries it out again. */
const LEAVE_WAIT_MS = 2_000;

/** Serves until SIGTERM or SIGINT. The exit code; the process has to end then, whatever is still open. */
export async function serve(options: VhostdOptions): Promise<number> {
  setProcessName(PROGRAM);
  exitOnFault(PROGRAM);
  const log = createLogger(PROGRAM, options.logLevel);
  const paths = virtnetPaths();
  // A socket that somebody listens on ends with its process, however that ends: a lock that is never stale.
  const lockPath = paths.vfeLock;
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
  const ended = Promise.withResolvers<NodeJS.Signals>();
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => ended.resolve(signal));
  const keeper = new Keeper({ path: paths.vfeHaSocket, poller, log });
  const ring = ReplyRing.create();
  const replies = ring ?? plainReplies;
  const registry = new Registry({ paths, poller, log, client: options.client, keeper, replies });
  const found = await keeper.take(manager !== null);
  if (found !== null) await registry.restore(found);
  keeper.serve(registry);
  const commands = new VfeCommands(registry, buildFacts(), () =>
    keeper.connected ? keeperBuild(paths.vfeHaBuild) : null,
  );
  const rpc = await RpcServer.bind(
    'vhostd',
    paths.vfeIpc,
    { 'vhost.request': ({ command, params }) => commands.run(command, params) },
    log,
  );
  const pidFile = paths.vfePidFile(PID_FILE);
  tryWriteText(pidFile, `${process.pid}\n`, log);

  log.info({ client: options.client }, 'serving');
  process.stdout.write('ready\n');
  manager?.notify('READY=1', 'STATUS=serving');
  const reason = await ended.promise;
  manager?.notify('STOPPING=1');
  clearInterval(watchdog);

  if (reason === 'SIGTERM' && (await keeper.hasAll())) {
    await rpc.drain();
    await Promise.race([registry.leave(), setTimeout(LEAVE_WAIT_MS)]);
    if (await keeper.hasAll()) {
      log.info({ reason }, 'everything is left to the next vfe-vhostd');
      rmSync(pidFile, { force: true });
      return EXIT_SERVED; // nothing is closed here, and the lock is held to the end
    }
  }
  log.info({ reason }, 'closing');
  if (reason === 'SIGINT' && !keeper.met) tryWriteText(paths.vfeEnded, '', log);
  await rpc.close();
  await registry.close();
  keeper.close();
  await poller.stop();
  ring?.close();
  rmSync(pidFile, { force: true });
  rmSync(lockPath, { force: true });
  close(lock);
  return EXIT_SERVED;
}

/** What the running keeper says of itself; null when it did not say so yet. */
function keeperBuild(path: string): BuildFacts | null {
  try {
    const { version, buildTime } = JSON.parse(readFileSync(path, 'utf8')) as Partial<BuildFacts>;
    return version === undefined || buildTime === undefined ? null : { version, buildTime };
  } catch {
    return null;
  }
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
