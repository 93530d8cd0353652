/**
 * configuration.ts: virtnet.conf and the snapshot of it that is in effect, as files.
 *
 * Theory
 *   The controller judges virtnet.conf when it starts and hands the outcome to the emulators as a snapshot below
 *   run/virtnet. Nobody else reads virtnet.conf: an emulator that is started later has the configuration of those
 *   that serve, whatever has been written into the file meanwhile.
 */
import { DEFAULT_CONF, type VirtnetConf } from '@virtnet/engine-control';
import {
  CONF_BYTES_MAX,
  confNoteText,
  confProblemText,
  judgeConf,
  restoreConf,
  serialiseConf,
} from '@virtnet/engine-control/conf';
import { readFirmwareStore } from './firmware-store.js';
import type { VirtnetPaths } from './paths.js';
import { readText, replaceText } from './text-file.js';

export { virtnetPaths } from './paths.js';

/** A configuration and notes about the file, or what is wrong with it: lines to print. */
export type ConfVerdict =
  | { readonly conf: VirtnetConf; readonly notes: readonly string[] }
  | { readonly problems: readonly string[] };

/**
 * Judges the configuration file, by default virtnet.conf in its place, which need not exist; any other has to. Never
 * throws.
 */
export function readConf(paths: Pick<VirtnetPaths, 'conf' | 'fwconfig'>, file = paths.conf): ConfVerdict {
  try {
    const text = readText(file, CONF_BYTES_MAX);
    if (text === null)
      return file === paths.conf
        ? { conf: DEFAULT_CONF, notes: [] }
        : { problems: [`${file}: there is no such file`] };
    const firmware = readFirmwareStore(paths.fwconfig);
    // One that cannot be read is reported by whoever needs its values.
    const judged = judgeConf(text, { firmware: 'store' in firmware ? firmware.store.current : null });
    return 'conf' in judged
      ? { conf: judged.conf, notes: judged.notes.map((note) => confNoteText(file, note)) }
      : { problems: judged.problems.map((problem) => confProblemText(file, problem)) };
  } catch (error) {
    return { problems: [error instanceof Error ? error.message : String(error)] };
  }
}

/** Makes `conf` the configuration in effect for every emulator started from now on. */
export function writeConfSnapshot(paths: Pick<VirtnetPaths, 'config'>, conf: VirtnetConf): void {
  replaceText(paths.config, serialiseConf(conf));
}

/** The configuration in effect; null when nobody has put one there. Throws when what is there is none. */
export function readConfSnapshot(paths: Pick<VirtnetPaths, 'config'>): VirtnetConf | null {
  const text = readText(paths.config, CONF_BYTES_MAX);
  if (text === null) return null;
  const conf = restoreConf(text);
  if (typeof conf === 'string') throw new TypeError(`${paths.config}: ${conf}`);
  return conf;
}
