/**
 * wiring.ts: virtio_net_driver as a process.
 *
 * Theory
 *   It is a part of the host, not of the service: started by the first `virtnet-host` that needs it, in the network
 *   namespace of whoever called that, and independent of every process of the service from then on. It ends when
 *   nothing is bound to it and virtio_net is unloaded.
 */
import { rmSync, watch } from 'node:fs';
import { basename, dirname } from 'node:path';
import { getSystemErrorMessage } from 'node:util';
import { refusal } from '@virtnet/engine-control';
import { createLogger, exitOnFault, RpcServer, tryWriteText, virtnetPaths } from '@virtnet/host-ipc';
import { close, listen, Poller, setProcessName } from '@virtnet/host-linux';
import { Errno, LinuxErrno } from '@virtnet/wire';
import { DrivenFunctions } from './driven-functions.js';
import type { DriverOptions } from './options.js';

const PROGRAM = 'virtio_net_driver';
const PID_FILE = 'driver';
const EXIT_DONE = 0;
const EXIT_UNABLE = 1;

/** Drives functions until there is none left to drive, SIGTERM or SIGINT. The exit code. */
export async function drive(options: DriverOptions): Promise<number> {
  setProcessName(PROGRAM);
  exitOnFault(PROGRAM);
  const log = createLogger(PROGRAM, options.logLevel);
  // The service has made the directories, and they may be another user's.
  const paths = virtnetPaths(undefined, { create: false });
  const lockPath = `${paths.vfeRun}/driver.lock`;
  const lock = listen(lockPath, 'stream');
  if (lock < 0) {
    const taken = lock === -LinuxErrno.EADDRINUSE;
    log.error({ errno: -lock, lockPath }, taken ? 'another virtio_net_driver is running' : 'cannot lock');
    return EXIT_UNABLE;
  }
  const poller = new Poller();
  poller.start();
  const driven = new DrivenFunctions({ paths, poller, log });
  const ended = Promise.withResolvers<string>();
  let ending = false;
  const end = (reason: string): void => {
    ending = true;
    ended.resolve(reason);
  };
  const endIfIdle = (): void => {
    if (driven.idle) end('nothing to drive');
  };
  // The file is replaced, so its directory is watched.
  const watcher = watch(dirname(paths.hostState), (_event, name) => {
    if (name === basename(paths.hostState)) void driven.follow().then(endIfIdle);
  });
  await driven.follow();

  const rpc = await RpcServer.bind(
    'driver',
    paths.driverIpc,
    {
      'driver.sync': async () => {
        const functions = await driven.follow();
        endIfIdle();
        return { functions, ending };
      },
      'driver.channels': async ({ device, combined }) => {
        const found = driven.find(device);
        if (found === null)
          return refusal('ENODEV', `${device} is no function of this driver, nor its interface`);
        const { bdf, netdev } = found;
        const errno = combined === null ? 0 : await netdev.setChannels(combined);
        const { channels } = netdev;
        if (errno === -Errno.EINVAL && channels !== null)
          return refusal('EINVAL', `combined is 1 to ${channels.most}`);
        if (errno < 0) return failed(errno);
        if (channels === null) return failed(-Errno.ENOTCONN);
        return { errno: 0, errstr: 'Success', netdev: netdev.name ?? '', bdf, ...channels };
      },
    },
    log,
  );
  const pidFile = paths.vfePidFile(PID_FILE);
  tryWriteText(pidFile, `${process.pid}\n`, log);
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => end(signal));
  const reason = await ended.promise;

  log.info({ reason }, 'closing');
  watcher.close();
  await driven.close();
  await rpc.close();
  await poller.stop();
  for (const path of [lockPath, pidFile]) rmSync(path, { force: true });
  close(lock);
  return EXIT_DONE;
}

function failed(errno: number): { readonly errno: number; readonly errstr: string } {
  return { errno, errstr: getSystemErrorMessage(errno) };
}
