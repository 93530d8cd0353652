/** wiring.ts: the emulator as a process: what is opened, what answers, and the order of their ends. */
import { DEFAULT_CONF, type JsonObject } from '@virtnet/engine-control';
import { BEAT_MS } from '@virtnet/engine-recovery';
import { reserveWindow, useWindow } from '@virtnet/engine-virtqueue';
import {
  createLogger,
  exitOnFault,
  type JsonValue,
  packageVersion,
  RpcError,
  RpcServer,
  readConfSnapshot,
  ShelfClient,
  setLogLevel,
  virtnetPaths,
} from '@virtnet/host-ipc';
import {
  ARENA_BYTES,
  Arena,
  beatingPage,
  endByForeignFaultSignals,
  getThreadAffinity,
  Poller,
  packMemory,
  ReplyRing,
  setProcessName,
} from '@virtnet/host-linux';
import { LastWord, MAIN_LANE } from '@virtnet/wire';
import { Balancer } from './balancer.js';
import { Commands } from './commands.js';
import { Datapath, startThreads, WorkerFault } from './datapath.js';
import { datapathThreads } from './datapath-threads.js';
import { Emulator } from './emulator.js';
import type { EmuOptions } from './options.js';

export const PROGRAM = 'virtio_net_emu';

type HotplugResult = { readonly errno: number; readonly errstr: string } & JsonObject;

/** A hotplug's answer ends with an outcome whether it succeeded or not. */
function outcome(answer: object): HotplugResult {
  return { ...answer } as HotplugResult;
}

/** The devices here, as a handover names them. */
function movable(emulator: Emulator): { vuid: string; pf: number; vf: number | null }[] {
  const plans = [...emulator.devices.values()].map(({ host }) => host.plan);
  return plans.map(({ vuid, pfId, vfId }) => ({ vuid, pf: pfId, vf: vfId }));
}

/** A refused loan changed nothing. After any other fault nobody knows who works the device: this process ends. */
function endInDoubt(error: unknown): never {
  if (!(error instanceof RpcError))
    setImmediate(() => {
      throw error;
    });
  throw error;
}

/** Serves until SIGTERM, SIGINT or emu.shutdown. */
export async function serve(options: EmuOptions): Promise<void> {
  setProcessName(PROGRAM);
  packMemory(); // before heaps grow
  const version = packageVersion(new URL('../package.json', import.meta.url));
  const progress = beatingPage(options.progressFd, BEAT_MS);
  exitOnFault(PROGRAM, (error) => {
    if (error instanceof WorkerFault) progress.page.endsOf(LastWord.WORKER, error.lane);
    else progress.page.endsOf(LastWord.EXCEPTION, MAIN_LANE);
  });
  endByForeignFaultSignals(() => progress.page.endsOf(LastWord.FOREIGN_SIGNAL, null));
  progress.begin();
  const log = createLogger(PROGRAM).child({ instance: options.instance });
  const paths = virtnetPaths();
  const poller = new Poller();
  poller.start();
  const conf = readConfSnapshot(paths) ?? DEFAULT_CONF; // none: started by hand, without a controller
  const usable = getThreadAffinity();
  const threads = datapathThreads(conf, options.workers, typeof usable === 'number' ? [] : usable);
  const runs = startThreads(threads.count);
  const window = reserveWindow();
  if (window === null) log.warn('no window to copy in can be reserved: larger frames take longer');
  const arena = Arena.reserve(ARENA_BYTES, window === null ? null : useWindow(window));
  const { missing } = threads;
  if (missing.length > 0)
    log.warn({ missing }, 'processors for the datapath that cannot be used are left out');
  const datapath = new Datapath(
    arena,
    { ...threads, cold: options.urgent, runs },
    (reason) => {
      throw reason; // our own fault: the process ends and its standby takes over
    },
    progress.page.address,
    window,
  );
  const emulator = new Emulator({
    arena,
    poller,
    datapath,
    shelf: new ShelfClient({ path: paths.haSocket, poller }),
    replyRing: ReplyRing.create(),
    paths,
    log,
    conf,
    reserve: options.reserve,
    urgent: options.urgent,
    progressFd: options.progressFd,
    beat: () => progress.main.beat(),
  });
  const commands = new Commands(emulator);
  const balancer = new Balancer(threads.count, {
    *devices() {
      for (const { host } of emulator.devices.values()) yield host;
    },
    onMove: (move) => log.debug(move, 'queue pairs move to another worker'),
    beat: () => progress.main.beat(),
  });
  emulator.onActive = async (reason) => {
    await commands.provision(reason);
    balancer.start();
  };
  const whole = <T>(answer: () => T | Promise<T>): Promise<T> => emulator.whole.then(answer);
  const ended = Promise.withResolvers<{ reason: string; removeDevices: boolean }>();
  const rpc = await RpcServer.bind(
    'emu',
    paths.emuIpc(options.instance),
    {
      // A controller that has just started may take this emulator for one that serves while it is still taking over.
      'device.hotplug': (request) => whole(async () => outcome(await commands.hotplug(request))),
      'device.unplug': (request) => whole(async () => ({ ...(await commands.unplug(request)) })),
      'device.modify': (request) => whole(async () => ({ ...(await commands.modify(request)) })),
      'device.stats': (request) => whole(() => ({ ...commands.stats(request) })),
      'device.list': () => whole(() => commands.list()),
      'device.query': (request) => whole(() => ({ ...commands.query(request) })),
      'device.host': (request) => whole(async () => ({ ...(await commands.host(request)) }) as JsonValue),
      'device.health': (request) => whole(() => commands.health(request)),
      'emu.status': () => {
        progress.main.beat();
        return {
          role: emulator.role,
          ready: emulator.ready,
          pid: process.pid,
          devices: emulator.deviceCount,
          takeoverMs: emulator.takeoverMs,
          uptimeMs: process.uptime() * 1000,
          version,
          reserve: emulator.reserve,
          informed: emulator.informed,
        };
      },
      'emu.promote': async ({ reason }) => {
        await emulator.promote(reason);
        return { devices: emulator.deviceCount, takeoverMs: emulator.takeoverMs };
      },
      'emu.verdicts': ({ deaths }) => {
        emulator.verdicts(
          deaths.map(({ cause = null, lane = null, ...death }) => ({ ...death, cause, lane })),
        );
        return {};
      },
      'emu.devices': () => commands.whenIdle(async () => ({ devices: movable(emulator) })),
      'emu.check': () => ({
        devices: emulator.deviceCount,
        problems: emulator.check(commands.supportedFeatures),
      }),
      'emu.borrow': async ({ vuid }) => ({ pauseMs: await emulator.borrow(vuid) }),
      'emu.lend': async ({ vuid, pid }) => {
        await commands.whenIdle(() => emulator.lend(vuid, pid)).catch(endInDoubt);
        return {};
      },
      'emu.pass': async ({ pid }) => {
        await commands.whenIdle(async () => emulator.pass(pid));
        balancer.stop();
        return {};
      },
      'emu.stand': () => {
        emulator.stand();
        return {};
      },
      'emu.shutdown': ({ removeDevices }) => {
        setImmediate(() => ended.resolve({ reason: 'emu.shutdown', removeDevices })); // behind the answer
        return {};
      },
      'log.level': ({ level }) => {
        setLogLevel(log, level);
        return {};
      },
    },
    log,
  );
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.on(signal, () => ended.resolve({ reason: signal, removeDevices: false }));
  }
  if (!options.urgent) commands.warmUp(); // else guests wait
  emulator.start();
  const { reason, removeDevices } = await ended.promise;
  log.info({ reason, removeDevices }, 'closing');
  progress.stop();
  balancer.stop();
  await rpc.close();
  log.debug('rpc closed');
  await emulator.shutdown(removeDevices);
  await datapath.stop();
  emulator.close();
  await poller.stop();
}
