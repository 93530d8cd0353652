/** configuration.ts: what a start of the controller does about virtnet.conf and the firmware configuration. */
import { readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { recoveryDeleted, type VirtnetConf } from '@virtnet/engine-control';
import {
  type Logger,
  readConfSnapshot,
  readFirmwareStore,
  updateFirmwareStore,
  type VirtnetPaths,
  writeConfSnapshot,
} from '@virtnet/host-ipc';

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
  const kept = keptSnapshot(paths, log);
  if (isDeepStrictEqual(kept, conf)) return; // also where there is no room to write it once more
  if (!adopting || kept === null) writeConfSnapshot(paths, conf);
  else log.warn('virtnet.conf has changed; it takes effect when the service is stopped and started again');
}

function keptSnapshot(paths: Pick<VirtnetPaths, 'config'>, log: Pick<Logger, 'warn'>): VirtnetConf | null {
  try {
    return readConfSnapshot(paths);
  } catch (error) {
    log.warn({ error }, 'the snapshot of the configuration in effect is damaged; virtnet.conf replaces it');
    return null;
  }
}

/**
 * Deletes every recovery file when the firmware configuration has changed since they were written. Living devices keep
 * theirs. The store says so until they are gone, so a start that is killed over it is made good by the next one.
 */
export async function deleteObsoleteRecovery(
  paths: Pick<VirtnetPaths, 'fwconfig' | 'recovery'>,
  adopting: boolean,
  log: Pick<Logger, 'info' | 'error'>,
): Promise<void> {
  const read = readFirmwareStore(paths.fwconfig);
  if (adopting || 'problem' in read || read.store.recoveryObsolete !== true) return;
  try {
    const names = readdirSync(paths.recovery);
    for (const name of names) rmSync(join(paths.recovery, name), { recursive: true, force: true });
    log.info({ files: names.length }, 'the firmware configuration has changed: recovery files are deleted');
  } catch (error) {
    log.error(
      { error },
      'recovery files cannot be deleted; nobody uses them, and the next start tries again',
    );
    return;
  }
  const updated = await updateFirmwareStore(paths.fwconfig, (store) => ({ store: recoveryDeleted(store) }));
  if ('problem' in updated) log.error(updated, 'the firmware store cannot be written');
}
