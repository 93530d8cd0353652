/**
 * progress-watcher.ts: looks at the progress pages of the service's processes and kills who hangs.
 *
 * Theory
 *   engine-recovery's progress-watch.ts judges; this file looks every SAMPLE_MS and asks the kernel about threads that
 *   took no turn. Only processes that said ready are watched: one that starts has its own deadline. The controller is
 *   watched by systemd, or by nobody.
 *
 * Invariants
 *   I1  a look never waits for a process: pages are memory, /proc answers at once.
 */
import { ProgressWatch, SAMPLE_MS } from '@virtnet/engine-recovery';
import type { Logger } from '@virtnet/host-ipc';
import { readThreadAccount } from '@virtnet/host-linux';
import { MAIN_LANE } from '@virtnet/wire';
import type { Child } from './child.js';

/** Watches `living()` until the function returned is called. */
export function watchProgress(living: () => readonly Child[], log: Logger): () => void {
  const watches = new WeakMap<Child, ProgressWatch>();
  const timer = setInterval(() => {
    for (const child of living()) {
      if (child.progress === null || (child.state !== 'ready' && child.state !== 'serving')) continue;
      const watch = watches.get(child) ?? new ProgressWatch();
      watches.set(child, watch);
      const views = child.progress.read().map(({ lane, beat, asleep, thread }) => ({
        lane,
        beat,
        asleep,
        account: () => readThreadAccount(child.pid, thread),
      }));
      const hang = watch.look(performance.now(), views);
      if (hang === null) continue;
      log.error({ kind: child.spec.kind, childPid: child.pid, ...hang }, 'hangs');
      const [what, sentence] =
        hang.lane === MAIN_LANE
          ? (['its main thread', 'hang'] as const)
          : ([`datapath thread ${hang.lane - 1}`, 'worker-hang'] as const);
      const reason = `${what} ${hang.how === 'spins' ? 'spins' : `is ${hang.how}`}`;
      child.fence(reason, hang.how === 'stopped' ? 'stopped' : sentence);
    }
  }, SAMPLE_MS);
  return () => clearInterval(timer);
}
