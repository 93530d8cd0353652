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
  processNice,
  setProcessNice,
  ThreadEnds,
} from '@virtnet/host-linux';

const SIGKILL = 9;

/** How long the end of a dead process lets everyone else pass: longer than a takeover takes, in ms. */
const LET_PASS_MS = 100;

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
    onDied();
    letOthersPass(pid);
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

/**
 * What the kernel frees of a dead process takes tens of milliseconds of a processor: those go to the takeover first. It
 * does not stay last: where guests poll, its turn would not come for a minute, and until then it is not gone.
 */
function letOthersPass(pid: number): void {
  const pidfd = pidfdOpen(pid); // of its own: the watch may be closed before
  if (pidfd < 0) return;
  // One that never was preferred belongs to somebody who could not raise it again.
  if ((processNice(pid) ?? Nice.ORDINARY) >= Nice.ORDINARY || !setProcessNice(Nice.LAST, pid)) {
    close(pidfd);
    return;
  }
  setTimeout(() => {
    if (pidfdSendSignal(pidfd, 0) === 0) setProcessNice(Nice.ORDINARY, pid);
    close(pidfd);
  }, LET_PASS_MS);
}
