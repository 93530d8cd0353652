/** configuration.ts: which configuration is in effect once the controller has started. */
import { isDeepStrictEqual } from 'node:util';
import type { VirtnetConf } from '@virtnet/engine-control';
import { type Logger, readConfSnapshot, type VirtnetPaths, writeConfSnapshot } from '@virtnet/host-ipc';

/**
 * Makes `conf` the configuration of everything started from now on, unless processes of a former controller are
 * adopted: they keep theirs, and whoever is started beside them has the same.
 */
export function putIntoEffect(
  paths: Pick<VirtnetPaths, 'config'>,
  conf: VirtnetConf,
  adopting: boolean,
  log: Pick<Logger, 'warn'>,
): void {
  const kept = adopting ? keptSnapshot(paths, log) : null;
  if (kept === null) writeConfSnapshot(paths, conf);
  else if (!isDeepStrictEqual(kept, conf))
    log.warn('virtnet.conf has changed; it takes effect when the service is stopped and started again');
}

function keptSnapshot(paths: Pick<VirtnetPaths, 'config'>, log: Pick<Logger, 'warn'>): VirtnetConf | null {
  try {
    return readConfSnapshot(paths);
  } catch (error) {
    log.warn({ error }, 'the snapshot of the configuration in effect is damaged; virtnet.conf replaces it');
    return null;
  }
}
