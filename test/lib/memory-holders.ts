/**
 * memory-holders.ts: who holds the memory of a machine, by what the kernel says and not by what anybody says of himself.
 *
 * Theory
 *   A machine's memory is a memfd, and lives as long as anybody has it open or mapped. Both are in /proc, under the
 *   number of its inode, whatever process got it on whatever way; so every process of this machine is looked at, this one
 *   and those that are just dying included.
 *
 * Limits  descriptors on their way through a socket are not seen; whoever lets go of the rest closes its sockets, too.
 */
import { readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';

const MEMFD = /^\/memfd:/;
/** /proc/<pid>/maps: range, permissions, offset, device, inode, path. */
const MAPPING = /^\S+ \S+ \S+ \S+ (\d+) +\/memfd:/gm;

/** Inodes of the memfds that a process has open. */
export function memfdsOf(pid: number): ReadonlySet<number> {
  const inodes = new Set<number>();
  for (const thread of threadsOf(pid))
    for (const fd of entriesOf(`/proc/${pid}/task/${thread}/fd`)) {
      const path = `/proc/${pid}/task/${thread}/fd/${fd}`;
      try {
        if (MEMFD.test(readlinkSync(path))) inodes.add(statSync(path).ino);
      } catch {
        // closed meanwhile
      }
    }
  return inodes;
}

/** Names and pids of the processes that have the memfd with this inode open or mapped. */
export function holdersOf(inode: number): string[] {
  return entriesOf('/proc')
    .map(Number)
    .filter((pid) => Number.isInteger(pid) && (memfdsOf(pid).has(inode) || mappedBy(pid).has(inode)))
    .map((pid) => `${text(`/proc/${pid}/comm`).trim()} ${pid}`);
}

function mappedBy(pid: number): ReadonlySet<number> {
  return new Set([...text(`/proc/${pid}/maps`).matchAll(MAPPING)].map(([, inode]) => Number(inode)));
}

/** The first, with which all others share everything; of a process whose first thread has ended, all. */
function threadsOf(pid: number): readonly string[] {
  return /\) [ZX] /.test(text(`/proc/${pid}/stat`)) ? entriesOf(`/proc/${pid}/task`) : [`${pid}`];
}

function entriesOf(directory: string): readonly string[] {
  try {
    return readdirSync(directory);
  } catch {
    return []; // gone, or somebody else's
  }
}

function text(path: string): string {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return '';
  }
}
