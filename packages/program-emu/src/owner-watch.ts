/** owner-watch.ts: the kernel's word about a process, for engine-recovery's Owners. */
import type { OwnersPorts, WatchedProcess } from '@virtnet/engine-recovery';
import { close, type Poller, pidfdOpen, pidfdSendSignal } from '@virtnet/host-linux';

const SIGKILL = 9;

/** Looks at processes through their pidfds. */
export function ownerPorts(poller: Poller, onAlone: OwnersPorts['onAlone']): OwnersPorts {
  return {
    ownPid: process.pid,
    watch: (pid, onDied) => watchProcess(poller, pid, onDied),
    nowMs: () => performance.now(),
    onAlone,
  };
}

function watchProcess(poller: Poller, pid: number, onDied: () => void): WatchedProcess | null {
  const pidfd = pidfdOpen(pid);
  if (pidfd < 0) return null;
  const watch = poller.watch(pidfd, { readable: true }, () => {
    if (typeof watch !== 'number') watch.close(); // it stays readable
    onDied();
  });
  if (typeof watch === 'number') {
    close(pidfd);
    return null;
  }
  return {
    kill: () => void pidfdSendSignal(pidfd, SIGKILL),
    close: () => {
      watch.close();
      close(pidfd);
    },
  };
}
