/** datapath-threads.ts: how many datapath threads an emulator has, and on which processors they run. */
import type { VirtnetConf } from '@virtnet/engine-control';

/** Without a word from anybody there are not more; further ones gain little. */
const THREADS_BY_DEFAULT_MAX = 8;

export interface DatapathThreads {
  readonly count: number;
  /** Processors they are bound to, in ascending order; null: they run anywhere. */
  readonly processors: readonly number[] | null;
  /** Processors that were asked for and that this process cannot use. */
  readonly missing: readonly number[];
}

/**
 * `asked`: a number from the command line. `usable`: the processors of this process. As many threads as asked for, else
 * as eth_vq_workers says, else one for each processor from dpa_core_start to dpa_core_end, else by the machine.
 */
export function datapathThreads(
  conf: Pick<VirtnetConf, 'eth_vq_workers' | 'dpa_core_start' | 'dpa_core_end'>,
  asked: number | null,
  usable: readonly number[],
): DatapathThreads {
  const named = processorsOf(conf);
  const processors = named.filter((processor) => usable.includes(processor));
  const byMachine = Math.max(1, Math.min(THREADS_BY_DEFAULT_MAX, usable.length - 1));
  return {
    count: asked ?? conf.eth_vq_workers ?? (processors.length > 0 ? processors.length : byMachine),
    processors: processors.length > 0 ? processors : null,
    missing: named.filter((processor) => !usable.includes(processor)),
  };
}

function processorsOf({ dpa_core_start: first, dpa_core_end: last }: Parameters<typeof datapathThreads>[0]) {
  if (first === null || last === null) return [];
  return Array.from({ length: last - first + 1 }, (_, i) => first + i);
}
