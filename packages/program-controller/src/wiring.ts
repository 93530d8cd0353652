/** wiring.ts: the controller as a process: lock, supervisor, command line front, and the order of their ends. */
import {
  createLogger,
  exitOnFault,
  RpcServer,
  readConf,
  setLogLevel,
  virtnetPaths,
  warmUpChecks,
} from '@virtnet/host-ipc';
import { Nice, Poller, setProcessName, setProcessNice } from '@virtnet/host-linux';
import { CliFront, versionOf } from './cli-front.js';
import { putIntoEffect } from './configuration.js';
import { takeLock } from './lock.js';
import type { ControllerOptions } from './options.js';
import { Supervisor } from './supervisor.js';

export const PROGRAM = 'virtio_net_controller';
/** The package whose version is the program's. */
const packageFile = new URL('../package.json', import.meta.url);

/** Serves until SIGTERM or SIGINT; resolves to the exit code. */
export async function serve(options: ControllerOptions): Promise<number> {
  setProcessName(PROGRAM);
  exitOnFault(PROGRAM);
  setProcessNice(Nice.PREFERRED); // like the keeper and the active emulator
  const version = versionOf(packageFile);
  const log = createLogger(PROGRAM, options.logLevel);
  const paths = virtnetPaths();
  const lock = takeLock(paths.controllerLock);
  if ('holder' in lock) {
    process.stderr.write(`${PROGRAM}: another controller (pid ${lock.holder}) serves ${paths.root}\n`);
    return 1;
  }
  const verdict = readConf(paths);
  if ('problems' in verdict) {
    for (const problem of verdict.problems) process.stderr.write(`${PROGRAM}: ${problem}\n`);
    lock.release();
    return 1;
  }
  const ended = Promise.withResolvers<string>();
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const)
    process.on(signal, () => ended.resolve(signal));

  const poller = new Poller();
  poller.start();
  const supervisor = new Supervisor({
    paths,
    poller,
    log,
    configure: (adopting) => putIntoEffect(paths, verdict.conf, adopting, log),
    ...(options.emu === undefined ? {} : { emu: options.emu }),
  });
  const front = new CliFront({
    supervisor,
    version,
    packageFile,
    setLogLevel: (level) => setLogLevel(log, level),
  });
  const rpc = await RpcServer.bind(
    'controller',
    paths.controllerIpc,
    { 'cli.request': (request) => front.request(request) },
    log,
  );
  log.info({ root: paths.root, version }, 'starting');
  const starting = supervisor.start();
  warmUpChecks(); // while the others start: the first command should not be slower than the second
  const serving = starting.then(() => {
    process.stdout.write('ready\n');
    log.info('ready');
  });
  const reason = await Promise.race([ended.promise, serving.then(() => ended.promise)]);

  log.info({ reason }, 'ending');
  await supervisor.stop();
  await rpc.close();
  await poller.stop();
  log.info('ended');
  lock.release();
  return 0;
}
