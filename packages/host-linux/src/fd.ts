/**
 * fd.ts: file descriptors: duplicates, flags, locks, eventfds and pidfds. All descriptors made here are close-on-exec.
 *
 * Limits  An eventfd of a peer is as blocking as the peer makes it: O_NONBLOCK belongs to the open file. One that is
 *         to be signalled is checked with isEventfd() and made non-blocking when it is taken over; a peer that undoes
 *         this *and* fills the counter holds up the thread that signals it until the counter is read.
 *         DESCRIPTORS_RESERVED of what the process may have are for itself and for whoever goes on for it.
 */
import { fstatSync, openSync, readFileSync, readlinkSync } from 'node:fs';
import {
  Errno,
  EventfdFlag,
  FcntlCommand,
  FD_CLOEXEC,
  FlockOperation,
  KCMP,
  KCMP_FILE,
  OpenFlag,
  RLIMIT_NOFILE,
  SyscallNumber,
} from '@virtnet/wire';
import { declare, NativeBuffer, negativeErrno, orErrno } from './libc.js';

/** close: descriptors arrive from peers as plain numbers, which no Node object owns. */
const nativeClose = declare<(fd: number) => number>('close', 'int', ['int']);
/** fcntl: duplicate above a number with close-on-exec, read and set the two kinds of flags. */
export const nativeFcntl = declare<(fd: number, command: number, argument: number) => number>(
  'fcntl',
  'int',
  ['int', 'int', 'int64_t'],
);
/** dup3: a descriptor must appear under a given number, atomically. */
const nativeDup3 = declare<(from: number, to: number, flags: number) => number>('dup3', 'int', [
  'int',
  'int',
  'int',
]);
/** flock: a file that several programs change, which Node has no lock for. */
const nativeFlock = declare<(fd: number, operation: number) => number>('flock', 'int', ['int', 'int']);
/** getrlimit: how many descriptors the process may have, which may be changed while it runs. */
const nativeGetrlimit = declare<(resource: number, address: number) => number>('getrlimit', 'int', [
  'int',
  'uintptr_t',
]);
/** eventfd: the doorbell between guests, workers and processes. */
const nativeEventfd = declare<(initial: number, flags: number) => number>('eventfd', 'int', [
  'uint32_t',
  'int',
]);
/** read, write: eventfds are drained and signalled with them; Node's fs would allocate per call. */
const nativeRead = declare<(fd: number, address: number, bytes: number) => number>('read', 'int', [
  'int',
  'uintptr_t',
  'int',
]);
const nativeWrite = declare<(fd: number, address: number, bytes: number) => number>('write', 'int', [
  'int',
  'uintptr_t',
  'int',
]);
/** syscall: pidfd_open and pidfd_send_signal have libc functions only since glibc 2.36, kcmp has none. */
const nativeSyscall = declare<(n: number, a: number, b: number, c: number, d: number, e: number) => number>(
  'syscall',
  'int',
  ['int64_t', 'int64_t', 'int64_t', 'int64_t', 'int64_t', 'int64_t'],
);

/** Standard input, which every process of ours has. */
const ANY_DESCRIPTOR = 0;

const one = new NativeBuffer(8);
one.u32[0] = 1;
const drained = new NativeBuffer(8);
/** struct rlimit: what is in force, and how far it may be raised, a u64 each. */
const limits = new NativeBuffer(16);

/**
 * Descriptors that nobody outside is given. A state keeper, a standby and a successor have to hold what a process that
 * serves holds, under the same limit and beside some of their own; and ZeroMQ ends the process when it cannot accept.
 */
export const DESCRIPTORS_RESERVED = 64;
/** The same for those who are served already: what they replace needs a descriptor more for a moment. */
export const DESCRIPTORS_RESERVED_FROM_SERVED = 32;

/** Closes `fd`. EINTR counts as closed: Linux frees the number first. Returns 0 or -errno. */
export function close(fd: number): number {
  if (nativeClose(fd) === 0) return 0;
  const error = negativeErrno();
  return error === -Errno.EINTR ? 0 : error;
}

/**
 * A descriptor of a file, in memory or on a disk, that is opened anew for reading and writing: not a duplicate. -EINVAL
 * when it is no file, or -errno (-EACCES when it is not ours to write).
 */
export function reopenFile(fd: number): number {
  try {
    return fstatSync(fd).isFile() ? openSync(`/proc/self/fd/${fd}`, 'r+') : -Errno.EINVAL;
  } catch (error) {
    return (error as NodeJS.ErrnoException).errno ?? -Errno.EBADF;
  }
}

/** Of /proc/<pid>/fdinfo, since Linux 5.2. */
const EVENTFD_ID = /^eventfd-id:\s*(\d+)$/m;

/**
 * What a file, a socket or an eventfd is told from all others by for as long as somebody has it open, whoever asks; null
 * for anything else (a TAP) and for a bad descriptor.
 */
export function fileIdentity(fd: number): string | null {
  try {
    const stat = fstatSync(fd);
    if (stat.isFile() || stat.isSocket()) return `${stat.dev}:${stat.ino}`;
    const id = EVENTFD_ID.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1'))?.[1];
    return id === undefined ? null : `eventfd:${id}`;
  } catch {
    return null;
  }
}

/** Whether two descriptors are of the same opened file (kcmp, as service managers ask). */
export function sameOpenFile(one: number, other: number): boolean {
  const number = KCMP[process.arch as keyof typeof KCMP];
  const { pid } = process;
  return nativeSyscall(number, pid, pid, KCMP_FILE, one, other) === 0;
}

/** Closes each of `fds`; for descriptors that came with a refused message. */
export function closeAll(fds: readonly number[]): void {
  for (const fd of fds) nativeClose(fd);
}

/** A second descriptor for the same open file, not below `lowest`. Returns it or -errno. */
export function dup(fd: number, lowest = 0): number {
  return orErrno(nativeFcntl(fd, FcntlCommand.DUPFD_CLOEXEC, lowest));
}

/** Makes `target` a descriptor for the open file of `fd`, closing what it was. Returns it or -errno. */
export function dupTo(fd: number, target: number): number {
  return orErrno(nativeDup3(fd, target, OpenFlag.CLOEXEC));
}

/**
 * Whether the next descriptor would be one of the last `reserved`: then nothing more is to be taken for somebody else.
 */
export function descriptorsAreScarce(reserved = DESCRIPTORS_RESERVED): boolean {
  if (nativeGetrlimit(RLIMIT_NOFILE, limits.address) < 0) return false;
  const most = limits.u32[0]! + limits.u32[1]! * 2 ** 32;
  const next = nativeFcntl(ANY_DESCRIPTOR, FcntlCommand.DUPFD_CLOEXEC, 0); // the lowest number that is free
  if (next < 0) return negativeErrno() === -Errno.EMFILE;
  nativeClose(next);
  return next >= most - reserved;
}

/** Sets or clears O_NONBLOCK, which is shared by all duplicates of `fd`. Returns 0 or -errno. */
export function setNonBlocking(fd: number, on = true): number {
  const flags = nativeFcntl(fd, FcntlCommand.GETFL, 0);
  if (flags < 0) return negativeErrno();
  const wanted = on ? flags | OpenFlag.NONBLOCK : flags & ~OpenFlag.NONBLOCK;
  return wanted === flags ? 0 : orErrno(nativeFcntl(fd, FcntlCommand.SETFL, wanted));
}

/** Sets or clears close-on-exec; clear it only for a descriptor a child is to inherit. Returns 0 or -errno. */
export function setCloseOnExec(fd: number, on = true): number {
  return orErrno(nativeFcntl(fd, FcntlCommand.SETFD, on ? FD_CLOEXEC : 0));
}

/**
 * Locks the open file behind `fd` until it is closed; processes that end let go of it by that. Does not wait. Returns 0,
 * -EAGAIN when somebody else has locked it, or -errno.
 */
export function lockFile(fd: number): number {
  return orErrno(nativeFlock(fd, FlockOperation.EXCLUSIVE | FlockOperation.NONBLOCK));
}

/** A new non-blocking eventfd, or -errno. */
export function eventfd(initial = 0): number {
  return orErrno(nativeEventfd(initial, EventfdFlag.CLOEXEC | EventfdFlag.NONBLOCK));
}

/** What the kernel calls the file behind `fd` (for example `anon_inode:[eventfd]`), or null for a bad descriptor. */
export function describeFd(fd: number): string | null {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return null;
  }
}

/** Whether `fd` is an eventfd. Asked of descriptors from a peer before they are signalled: a pipe could block us. */
export function isEventfd(fd: number): boolean {
  return describeFd(fd) === 'anon_inode:[eventfd]';
}

/** Adds 1 to an eventfd. A counter that is full is a signal not yet seen, so that is success. Returns 0 or -errno. */
export function eventfdSignal(fd: number): number {
  for (;;) {
    if (nativeWrite(fd, one.address, 8) >= 0) return 0;
    const error = negativeErrno();
    if (error === -Errno.EAGAIN) return 0;
    if (error !== -Errno.EINTR) return error;
  }
}

/** Takes the count of an eventfd; 0 when nobody signalled. Returns -errno for a bad descriptor. */
export function eventfdDrain(fd: number): number {
  for (;;) {
    if (nativeRead(fd, drained.address, 8) === 8) return drained.u32[0]! + drained.u32[1]! * 2 ** 32;
    const error = negativeErrno();
    if (error === -Errno.EAGAIN) return 0;
    if (error !== -Errno.EINTR) return error;
  }
}

/** A descriptor that becomes readable when process `pid` has ended, or -errno. */
export function pidfdOpen(pid: number): number {
  return orErrno(nativeSyscall(SyscallNumber.PIDFD_OPEN, pid, 0, 0, 0, 0));
}

/** Sends `signal` (a number; 0 only asks) to the very process a pidfd stands for. Returns 0 or -errno. */
export function pidfdSendSignal(pidfd: number, signal: number): number {
  return orErrno(nativeSyscall(SyscallNumber.PIDFD_SEND_SIGNAL, pidfd, signal, 0, 0, 0));
}
