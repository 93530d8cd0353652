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
  | {
      readonly conf: VirtnetConf;
      readonly notes: readonly string[];
      /** What this user was not allowed to judge and a start by another one may refuse: a line to print, or null. */
      readonly unjudged: string | null;
    }
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
        ? { conf: DEFAULT_CONF, notes: [], unjudged: null }
        : { problems: [`${file}: there is no such file`] };
    const firmware = readFirmwareStore(paths.fwconfig);
    // One that is damaged is reported by whoever needs its values.
    const judged = judgeConf(text, { firmware: 'store' in firmware ? firmware.store.current : null });
    if ('problems' in judged)
      return { problems: judged.problems.map((problem) => confProblemText(file, problem)) };
    const notes = judged.notes.map((note) => confNoteText(file, note));
    return { conf: judged.conf, notes, unjudged: unjudgedText(judged.conf, paths.fwconfig, firmware) };
  } catch (error) {
    return { problems: [error instanceof Error ? error.message : String(error)] };
  }
}

function unjudgedText(
  { vf: { vfs_per_pf } }: VirtnetConf,
  path: string,
  firmware: ReturnType<typeof readFirmwareStore>,
): string | null {
  if (vfs_per_pf === null || !('denied' in firmware)) return null;
  const unknown = `vf.vfs_per_pf cannot be compared with VIRTIO_NET_EMULATION_NUM_VF`;
  return `${path}: this user may not read it, so ${unknown}. Remedy: validate as root.`;
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
