/** process.ts: names, signals and the state of processes. */
import { readdirSync, readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { isMainThread } from 'node:worker_threads';
import { Errno, PR_SET_NAME } from '@virtnet/wire';
import { declare, NativeBuffer, orErrno } from './libc.js';

/** prctl: ps shows a thread's own name, which Node sets for workers to something else. */
const nativePrctl = declare<(option: number, name: string, a: number, b: number, c: number) => number>(
  'prctl',
  'int',
  ['int', 'str', 'int64_t', 'int64_t', 'int64_t'],
);
/** kill: process.kill throws, and takes 0 and negative numbers for groups. */
const nativeKill = declare<(pid: number, signal: number) => number>('kill', 'int', ['int', 'int']);
/** waitpid: children that a former program of this process started (exec keeps them) are nobody else's to reap. */
const nativeWaitpid = declare<(pid: number, status: number, options: number) => number>('waitpid', 'int', [
  'int',
  'uintptr_t',
  'int',
]);
const WNOHANG = 1;
const waitStatus = new NativeBuffer(4);
/** Of a wait status: the signal, or, where that is 0, the exit code above it. */
const SIGNAL_MASK = 0x7f;
const CODE_SHIFT = 8;
const CODE_MASK = 0xff;

/** Names this process for ps and /proc: the command line as far as it has room, and the main thread's name. */
export function setProcessName(name: string): number {
  if (isMainThread) process.title = name;
  return setThreadName(name);
}

/** Names the calling thread; the kernel keeps the first 15 bytes. Returns 0 or -errno. */
export function setThreadName(name: string): number {
  if (name.includes('\0')) return -Errno.EINVAL;
  return orErrno(nativePrctl(PR_SET_NAME, name, 0, 0, 0));
}

/** Sends `signal` to one process; `pid` must be positive. Returns 0, -ESRCH, -EPERM or -EINVAL. */
export function kill(pid: number, signal: number): number {
  if (!Number.isInteger(pid) || pid <= 0) return -Errno.EINVAL;
  return orErrno(nativeKill(pid, signal));
}

/** How a process ended: by itself, or by a signal. */
export interface ProcessEnd {
  readonly code: number | null;
  /** Its name. */
  readonly signal: string | null;
}

/** Lets go of child `pid` if it has ended, and says how; null while it lives, or when it is not our child. */
export function reapChild(pid: number): ProcessEnd | null {
  if (!Number.isInteger(pid) || pid <= 0) return null;
  if (nativeWaitpid(pid, waitStatus.address, WNOHANG) !== pid) return null;
  const status = waitStatus.u32[0]!;
  const signal = status & SIGNAL_MASK;
  if (signal === 0) return { code: (status >>> CODE_SHIFT) & CODE_MASK, signal: null };
  const name = Object.entries(constants.signals).find(([, number]) => number === signal)?.[0];
  return { code: null, signal: name ?? `${signal}` };
}

/** What /proc/<pid>/stat says. Times are in clock ticks (100 per second on all supported machines). */
export interface ProcessStat {
  readonly pid: number;
  readonly name: string;
  /** R, S, D, T, t, Z, X or I, as proc(5) has it. */
  readonly state: string;
  readonly parentPid: number;
  readonly processGroup: number;
  readonly userTicks: number;
  readonly systemTicks: number;
  readonly threads: number;
  /** Since boot; pid and start time together name a process for ever. */
  readonly startTicks: number;
  readonly residentPages: number;
}

/** Reads the state of process `pid`; null when there is none. */
export function readProcessStat(pid: number): ProcessStat | null {
  if (!Number.isInteger(pid) || pid <= 0) return null;
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/stat`, 'latin1');
  } catch {
    return null;
  }
  const nameStart = text.indexOf('(');
  const nameEnd = text.lastIndexOf(')'); // the name may hold anything, parentheses included
  const fields = text.slice(nameEnd + 2).split(' ');
  const field = (numberInManual: number): number => Number(fields[numberInManual - 3]);
  return {
    pid,
    name: text.slice(nameStart + 1, nameEnd),
    state: fields[0] ?? '?',
    parentPid: field(4),
    processGroup: field(5),
    userTicks: field(14),
    systemTicks: field(15),
    threads: field(20),
    startTicks: field(22),
    residentPages: field(24),
  };
}

/** Whether process `pid` exists and has not ended; a zombie has. */
export function isAlive(pid: number): boolean {
  const stat = readProcessStat(pid);
  return stat !== null && stat.state !== 'Z' && stat.state !== 'X';
}

/** Descriptors this process has open. */
export function openDescriptorCount(): number {
  return readdirSync('/proc/self/fd').length - 1; // one of them reads the directory
}

const NANOSECONDS_PER_MS = 1_000_000;

/**
 * For how long, in milliseconds, threads of process `pid` that live have waited for a processor, all waits added; 0 when
 * it is gone, or where the kernel keeps no such account.
 */
export function processorWaitMs(pid: number): number {
  let waitedNs = 0;
  try {
    for (const tid of readdirSync(`/proc/${pid}/task`)) {
      const [, waited] = readFileSync(`/proc/${pid}/task/${tid}/schedstat`, 'latin1').split(' ');
      waitedNs += Number(waited);
    }
  } catch {
    // it, or one of its threads, ended meanwhile
  }
  return waitedNs / NANOSECONDS_PER_MS;
}
