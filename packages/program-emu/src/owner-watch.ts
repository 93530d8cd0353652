/**
 * owner-watch.ts: the kernel's word about a process, for engine-recovery's Owners: the ends of its threads where they
 * can be seen, else its pidfd, which tells the same tens of milliseconds later.
 */
import type { OwnersPorts, WatchedProcess } from '@virtnet/engine-recovery';
import {
  close,
  Nice,
  type Poller,
  pidfdOpen,
  pidfdSendSignal,
  setProcessNice,
  ThreadEnds,
} from '@virtnet/host-linux';

const SIGKILL = 9;

/** `progressFd`: the descriptor by which every emulator has its progress page; null when nobody watches them. */
export function ownerPorts(
  poller: Poller,
  progressFd: number | null,
  ports: Pick<OwnersPorts, 'bury' | 'onAlone'>,
): OwnersPorts {
  return {
    ...ports,
    ownPid: process.pid,
    watch: (pid, onDied) => watchProcess(poller, progressFd, pid, onDied),
    nowMs: () => performance.now(),
  };
}

function watchProcess(
  poller: Poller,
  progressFd: number | null,
  pid: number,
  onDied: () => void,
): WatchedProcess | null {
  const pidfd = pidfdOpen(pid);
  if (pidfd < 0) return null;
  let died = false;
  const die = () => {
    if (died) return;
    died = true;
    // What the kernel frees of it takes tens of milliseconds of a processor. Not the last place either: where guests poll,
    // that would never come, and until then it is not gone.
    setProcessNice(Nice.ORDINARY, pid);
    onDied();
  };
  const watch = poller.watch(pidfd, { readable: true }, () => {
    if (typeof watch !== 'number') watch.close(); // it stays readable
    die();
  });
  if (typeof watch === 'number') {
    close(pidfd);
    return null;
  }
  const ends = progressFd === null ? null : ThreadEnds.watch(pid, progressFd, poller, die);
  return {
    kill: () => void pidfdSendSignal(pidfd, SIGKILL),
    close: () => {
      watch.close();
      ends?.close();
      close(pidfd);
    },
  };
}
