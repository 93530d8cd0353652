/**
 * wiring.ts: the state keeper as a process: the shelf's channel, its RPC, and the order of their ends.
 */
import { setTimeout } from 'node:timers/promises';
import { BEAT_MS } from '@virtnet/engine-recovery';
import {
  createLogger,
  type DescriptorStore,
  exitOnFault,
  type HaStatus,
  type Logger,
  packageVersion,
  RpcServer,
  rehearseShelf,
  ShelfLog,
  ShelfServer,
  ShelfStore,
  STORED_MAX,
  setLogLevel,
  type VirtnetPaths,
  virtnetPaths,
} from '@virtnet/host-ipc';
import {
  beatingPage,
  Nice,
  Poller,
  ServiceManager,
  setCloseOnExec,
  setProcessName,
  setProcessNice,
  setThreadNice,
} from '@virtnet/host-linux';
import { LastWord, MAIN_LANE } from '@virtnet/wire';
import type { HaOptions } from './options.js';

export const PROGRAM = 'virtio_net_ha';
/** At an orderly end the service manager may take so long to hear the rest. */
const MANAGER_WAITS_MAX = 400;
const MANAGER_WAIT_MS = 5;
/** Who is started after a death is told everything first. */
const REHEARSED_AFTER_MS = 300;
export const VERSION = packageVersion(new URL('../package.json', import.meta.url));

/** Which keeper a process is, and where it is found. */
export interface KeeperIdentity {
  readonly program: string;
  socket(paths: VirtnetPaths): string;
  ipc(paths: VirtnetPaths): string;
  /** What the service manager kept for it, where it is the main process of a service; null: nobody keeps anything. */
  kept?(manager: ServiceManager | null, log: Logger): DescriptorStore | null;
  /** It serves; resolves when its own part of the end is over, which begins with `ended`. */
  serving?(paths: VirtnetPaths, poller: Poller, log: Logger, ended: Promise<unknown>): Promise<void>;
}

const CONTROLLERS: KeeperIdentity = {
  program: PROGRAM,
  socket: (paths) => paths.haSocket,
  ipc: (paths) => paths.haIpc,
};

function behindOthers(work: () => void): void {
  setThreadNice(process.pid, Nice.LATER);
  try {
    work();
  } finally {
    setThreadNice(process.pid, Nice.PREFERRED);
  }
}

/** Practises beside its service, once it has been there for a moment; resolves when nothing of that is left. */
async function rehearse(path: string, poller: Poller, log: Logger, ended: AbortSignal): Promise<void> {
  try {
    await setTimeout(REHEARSED_AFTER_MS, undefined, { signal: ended, ref: false });
  } catch {
    return;
  }
  const rounds = await rehearseShelf(path, poller, ended).catch((error: Error) => error);
  if (typeof rounds === 'number') log.debug({ rounds }, 'rehearsed');
  else log.warn({ reason: rounds.message }, 'the rehearsal failed');
}

/** Serves until SIGTERM, SIGINT or ha.shutdown. Throws when the channel or the RPC socket cannot be bound. */
export async function serve(options: HaOptions, identity = CONTROLLERS): Promise<void> {
  const { program } = identity;
  setProcessName(program);
  const progress = beatingPage(options.progressFd ?? null, BEAT_MS);
  exitOnFault(program, () => {
    progress.page.endsOf(LastWord.EXCEPTION, MAIN_LANE);
  });
  progress.begin();
  const preferred = setProcessNice(Nice.PREFERRED); // whoever carries the news of a death must not queue behind the work of the living
  const log = createLogger(program, options.logLevel);
  const paths = virtnetPaths();
  const socket = identity.socket(paths);
  const poller = new Poller();
  poller.start();
  const manager = ServiceManager.connect(poller);
  const passed = identity.kept?.(manager, log) ?? null;
  const logFds = options.logFds ?? passed?.logFds;
  const kept = passed?.take() ?? [];
  if (kept.length > 0) log.info({ entries: kept.length }, 'the service manager kept what there was');
  const store =
    manager === null || logFds === undefined
      ? null
      : new ShelfStore(manager, new ShelfLog(logFds), (name) =>
          log.error(
            { name, most: STORED_MAX },
            'more than the service manager hands over: not all devices survive the end of all processes',
          ),
        );
  for (const fd of logFds ?? []) setCloseOnExec(fd);
  const shelf = ShelfServer.open({
    path: socket,
    poller,
    log,
    expectUpload: options.expectUpload,
    kept,
    ...(store === null ? {} : { observer: store }),
    ...(preferred ? { meanwhile: behindOthers } : {}),
  });
  if (typeof shelf === 'number') throw new Error(`cannot listen at ${socket}: errno ${-shelf}`);

  const ended = Promise.withResolvers<string>();
  const status = (): HaStatus => {
    progress.main.beat();
    return {
      ready: true,
      pid: process.pid,
      uptimeMs: process.uptime() * 1000,
      ...shelf.status(),
      version: VERSION,
    };
  };
  const rpc = await RpcServer.bind(
    'ha',
    identity.ipc(paths),
    {
      'ha.status': status,
      'ha.list': ({ prefix, offset, limit }) => {
        const all = shelf.list(prefix);
        const entries = all
          .slice(offset, offset + limit)
          .map(({ name, blob, handle, ttlWithoutHolderMs }) => ({
            name,
            blobBytes: blob.byteLength,
            descriptor: handle !== null,
            ttlWithoutHolderMs,
          }));
        return { total: all.length, entries };
      },
      'ha.shutdown': () => {
        setImmediate(() => ended.resolve('ha.shutdown')); // behind the answer
        return {};
      },
      'log.level': ({ level }) => {
        setLogLevel(log, level);
        return {};
      },
    },
    log,
  );
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => ended.resolve(signal));
  log.info({ socket, expectUpload: options.expectUpload }, 'serving');
  const ownPart = identity.serving?.(paths, poller, log, ended.promise);

  const over = new AbortController();
  const rehearsal = rehearse(`${socket}.rehearsal`, poller, log, over.signal);

  const reason = await ended.promise;
  over.abort();
  await rehearsal;
  await ownPart;
  log.info({ reason, ...shelf.status() }, 'closing');
  progress.stop();
  await rpc.close();
  // The next one is to find with the service manager whatever was said to us.
  for (let waits = 0; ; waits++) {
    shelf.readAll();
    if (manager === null || manager.waiting === 0 || waits === MANAGER_WAITS_MAX) break;
    await setTimeout(MANAGER_WAIT_MS);
  }
  shelf.close();
  manager?.close();
  await poller.stop();
}
