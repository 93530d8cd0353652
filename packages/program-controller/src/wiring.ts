/** wiring.ts: the controller as a process: lock, supervisor, command line front, and the order of their ends. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import {
  createLogger,
  DescriptorStore,
  exitOnFault,
  type LogLevelName,
  RpcServer,
  readConf,
  setLogLevel,
  virtnetPaths,
  warmUpAllChecks,
} from '@virtnet/host-ipc';
import {
  Nice,
  Poller,
  passedDescriptors,
  ServiceManager,
  setProcessName,
  setProcessNice,
  watchdogIntervalMs,
} from '@virtnet/host-linux';
import { type Build, readDestination, readRunningBuild } from './builds.js';
import { CliFront } from './cli-front.js';
import { deleteObsoleteRecovery, putIntoEffect } from './configuration.js';
import { LiveUpdate } from './live-update.js';
import { takeLock } from './lock.js';
import type { ControllerOptions } from './options.js';
import { becomeController, guardStart, ownArguments } from './replacement.js';
import { TOLD_TO_END, UpdateFailure } from './service-move.js';
import { Supervisor } from './supervisor.js';

export const PROGRAM = 'virtio_net_controller';
/** Asks the service manager (Restart=always, or on-failure) for another start. */
const RESTART_EXIT_CODE = 75;

/** Proves that this build could serve here: everything was loaded, the configuration is readable. The exit code. */
export function check(): number {
  const verdict = readConf(virtnetPaths());
  if ('problems' in verdict) {
    process.stderr.write(`${verdict.problems.join('; ')}\n`);
    return 1;
  }
  process.stdout.write(`${readRunningBuild().version}\n`);
  return 0;
}

/** Serves until SIGTERM or SIGINT; resolves to the exit code. */
export async function serve(options: ControllerOptions): Promise<number> {
  setProcessName(PROGRAM);
  exitOnFault(PROGRAM);
  setProcessNice(Nice.PREFERRED); // like the keeper and the active emulator
  const own = readRunningBuild();
  const running = options.emu === undefined ? own : { ...own, mains: { ...own.mains, emu: options.emu } };
  const { version } = running;
  const log = createLogger(PROGRAM, options.logLevel);
  const guard = guardStart(process.env, log);
  let { logLevel }: { logLevel: LogLevelName } = options;
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
  for (const note of verdict.notes) process.stderr.write(`${PROGRAM}: ${note}\n`);
  const ended = Promise.withResolvers<string>();
  const lost = Promise.withResolvers<'devices lost'>();
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const)
    process.on(signal, () => ended.resolve(signal));

  const poller = new Poller();
  poller.start();
  const passed = passedDescriptors();
  const manager = ServiceManager.connect(poller);
  const store = DescriptorStore.open(manager, passed, log);
  guard.handOver(store);
  if (passed.length > 0) log.info({ descriptors: passed.length }, 'the service manager kept descriptors');
  const watchdogMs = watchdogIntervalMs();
  const watchdog =
    watchdogMs === null ? undefined : setInterval(() => manager?.notify('WATCHDOG=1'), watchdogMs / 3);
  const supervisor = new Supervisor({
    paths,
    poller,
    log,
    configure: (adopting) => {
      putIntoEffect(paths, verdict.conf, adopting, log);
      return deleteObsoleteRecovery(paths, adopting, log);
    },
    running,
    store,
    onDevicesLost: () => lost.resolve('devices lost'),
  });
  if (guard.replaces) supervisor.setLogLevel(logLevel);
  const update = new LiveUpdate({
    supervisor,
    paths,
    log,
    running,
    replaceSelf: (build) => replaceSelf(build),
  });
  const front = new CliFront({
    supervisor,
    running,
    destination: () => readDestination(paths, running),
    update,
    setLogLevel: (level) => {
      setLogLevel(log, level);
      logLevel = level;
    },
  });
  /** Becomes `build`'s controller, which adopts everything that runs; throws when that is not possible. */
  const replaceSelf = async (build: Build): Promise<never> => {
    await rpc.drain();
    try {
      await nextTurn(); // a signal that has come is heard before the exec: nobody would hear it afterwards
      if (supervisor.stopping) throw new UpdateFailure(TOLD_TO_END);
      return becomeController(build, ownArguments(logLevel, options.emu), own, store);
    } catch (error) {
      rpc.undrain();
      throw error;
    }
  };
  log.info({ root: paths.root, version }, 'starting');
  const starting = supervisor.start();
  await nextTurn(); // the others are started by now; what follows is not in their way
  const rpc = await RpcServer.bind(
    'controller',
    paths.controllerIpc,
    { 'cli.request': (request) => front.request(request) },
    log,
  );
  warmUpAllChecks(); // while the others start: the first command should not be slower than the second
  const serving = starting.then(() => {
    guard.served();
    update.resume();
    process.stdout.write('ready\n');
    manager?.notify('READY=1', `MAINPID=${process.pid}`, 'STATUS=serving');
    log.info('ready');
  });
  const reason = await Promise.race([ended.promise, lost.promise, serving.then(() => ended.promise)]);
  if (reason === 'devices lost') {
    log.error(
      'nobody who lives knows the devices: the service manager, who keeps the descriptors, starts us anew',
    );
    guard.served(); // the next one is the manager's
    manager?.notify('STATUS=starting anew with the kept descriptors');
    await supervisor.abandon();
    return RESTART_EXIT_CODE;
  }
  manager?.notify('STOPPING=1');
  clearInterval(watchdog);

  log.info({ reason }, 'ending');
  await supervisor.stop();
  await rpc.close();
  await poller.stop();
  log.info('ended');
  lock.release();
  return 0;
}
