/**
 * progress-watcher.ts: looks at the progress pages of the service's processes and kills who hangs.
 *
 * Theory
 *   engine-recovery's progress-watch.ts judges; this file looks, asks the kernel about threads that took no turn, and
 *   the process when there is doubt. Only processes that said ready are watched: one that starts has its own deadline.
 *   The controller is watched by systemd, or by nobody.
 *
 * Invariants
 *   I1  a look never waits for a process: pages are memory, /proc answers at once.
 */
import { type Hang, ProgressWatch, REST_MS, SAMPLE_MS } from '@virtnet/engine-recovery';
import type { Logger } from '@virtnet/host-ipc';
import { EventWait, readThreadAccount } from '@virtnet/host-linux';
import { MAIN_LANE } from '@virtnet/wire';
import type { Child } from './child.js';

interface Watched {
  readonly watch: ProgressWatch;
  /** Whether its main thread, the one given, waits for events. */
  readonly waits: (thread: number) => boolean;
  readonly close: () => void;
}

/** Watches `living()` until the function returned is called. */
export function watchProgress(living: () => readonly Child[], log: Logger): () => void {
  const watched = new Map<Child, Watched>();
  let timer: NodeJS.Timeout | undefined;
  const look = (): void => {
    let inDoubt = false;
    const children = living();
    for (const [child, former] of watched) if (!children.includes(child)) forget(child, former);
    for (const child of children) {
      if (child.progress === null || (child.state !== 'ready' && child.state !== 'serving')) continue;
      const { watch, waits } = watched.get(child) ?? begin(child);
      const views = child.progress.read().map(({ lane, beat, asleep, thread }) => ({
        lane,
        beat,
        asleep,
        waits: () => lane === MAIN_LANE && waits(thread),
        account: () => readThreadAccount(child.pid, thread),
      }));
      const hang = watch.look(performance.now(), views);
      if (watch.inDoubt) {
        inDoubt = true;
        child.askForTurn();
      }
      if (hang !== null) fence(child, hang);
    }
    timer = setTimeout(look, inDoubt ? SAMPLE_MS : REST_MS);
  };
  const begin = (child: Child): Watched => {
    let wait: EventWait | null = null;
    const begun: Watched = {
      watch: new ProgressWatch(),
      waits: (thread) => {
        wait ??= EventWait.open(child.pid, thread);
        return wait?.waits === true;
      },
      close: () => wait?.close(),
    };
    watched.set(child, begun);
    return begun;
  };
  const forget = (child: Child, { close }: Watched): void => {
    watched.delete(child);
    close();
  };
  const fence = (child: Child, hang: Hang): void => {
    log.error({ kind: child.spec.kind, childPid: child.pid, ...hang }, 'hangs');
    const [what, sentence] =
      hang.lane === MAIN_LANE
        ? (['its main thread', 'hang'] as const)
        : ([`datapath thread ${hang.lane - 1}`, 'worker-hang'] as const);
    const reason = `${what} ${hang.how === 'spins' ? 'spins' : `is ${hang.how}`}`;
    child.fence(reason, hang.how === 'stopped' ? 'stopped' : sentence, hang.lane);
  };
  timer = setTimeout(look, REST_MS);
  return () => {
    clearTimeout(timer);
    for (const [child, former] of watched) forget(child, former);
  };
}
