/** process.ts: names, signals and the state of processes; where threads run. */
import { readdirSync, readFileSync } from 'node:fs';
import { getPriority, setPriority } from 'node:os';
import { isMainThread } from 'node:worker_threads';
import { CPU_SET_PROCESSORS, Errno, PR_SET_NAME } from '@virtnet/wire';
import { declare, NativeBuffer, orErrno } from './libc.js';

/** prctl: ps shows a thread's own name, which Node sets for workers to something else. */
const nativePrctl = declare<(option: number, name: string, a: number, b: number, c: number) => number>(
  'prctl',
  'int',
  ['int', 'str', 'int64_t', 'int64_t', 'int64_t'],
);
/** kill: process.kill throws, and takes 0 and negative numbers for groups. */
const nativeKill = declare<(pid: number, signal: number) => number>('kill', 'int', ['int', 'int']);
/** sched_setaffinity, sched_getaffinity: datapath threads are pinned to the cores the operator gave. */
const nativeSetAffinity = declare<(tid: number, bytes: number, mask: number) => number>(
  'sched_setaffinity',
  'int',
  ['int', 'size_t', 'uintptr_t'],
);
const nativeGetAffinity = declare<(tid: number, bytes: number, mask: number) => number>(
  'sched_getaffinity',
  'int',
  ['int', 'size_t', 'uintptr_t'],
);

/** waitpid: children that a former program of this process started (exec keeps them) are nobody else's to reap. */
const nativeWaitpid = declare<(pid: number, status: number, options: number) => number>('waitpid', 'int', [
  'int',
  'uintptr_t',
  'int',
]);
const WNOHANG = 1;

const processors = new NativeBuffer(CPU_SET_PROCESSORS / 8);

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

/** Binds the calling thread to `cpus` (processor numbers). Returns 0, -EINVAL when none of them exists, or -errno. */
export function setThreadAffinity(cpus: readonly number[]): number {
  processors.u8.fill(0);
  for (const cpu of cpus) {
    if (!Number.isInteger(cpu) || cpu < 0 || cpu >= CPU_SET_PROCESSORS) return -Errno.EINVAL;
    processors.u8[cpu >> 3]! |= 1 << (cpu & 7);
  }
  return orErrno(nativeSetAffinity(0, CPU_SET_PROCESSORS / 8, processors.address));
}

/** Processor numbers the calling thread may run on, or -errno. */
export function getThreadAffinity(): number[] | number {
  processors.u8.fill(0);
  const result = orErrno(nativeGetAffinity(0, CPU_SET_PROCESSORS / 8, processors.address));
  if (result < 0) return result;
  const cpus: number[] = [];
  for (let cpu = 0; cpu < CPU_SET_PROCESSORS; cpu++) {
    if ((processors.u8[cpu >> 3]! & (1 << (cpu & 7))) !== 0) cpus.push(cpu);
  }
  return cpus;
}

/** Sends `signal` to one process; `pid` must be positive. Returns 0, -ESRCH, -EPERM or -EINVAL. */
export function kill(pid: number, signal: number): number {
  if (!Number.isInteger(pid) || pid <= 0) return -Errno.EINVAL;
  return orErrno(nativeKill(pid, signal));
}

/** Lets go of child `pid` if it has ended. Returns its pid, 0 while it lives, or -errno (-ECHILD: not our child). */
export function reapChild(pid: number): number {
  if (!Number.isInteger(pid) || pid <= 0) return -Errno.EINVAL;
  return orErrno(nativeWaitpid(pid, 0, WNOHANG));
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

/** Nice value of processes whose pauses guests would feel, of one that only prepares for its turn, and of the dying. */
export const Nice = { PREFERRED: -10, ORDINARY: 0, LAST: 19 } as const;

/** Threads on which V8 compiles while others go on: those others must not wait for them. */
const HELPER_THREAD = /V8Worker/;

/**
 * Sets the nice value of every thread of a process, by default this one; those that Node made itself included, except
 * that V8's helpers never go before ordinary threads. False when that is not permitted (going down needs CAP_SYS_NICE),
 * or when the process is gone.
 */
export function setProcessNice(nice: number, pid: number | 'self' = 'self'): boolean {
  try {
    for (const tid of readdirSync(`/proc/${pid}/task`)) {
      const helps = nice < Nice.ORDINARY && HELPER_THREAD.test(threadName(pid, tid));
      setThreadNice(Number(tid), helps ? Nice.ORDINARY : nice);
    }
    return true;
  } catch {
    return false;
  }
}

/** The nice value of a process's first thread; null when the process is gone. */
export function processNice(pid: number): number | null {
  try {
    return getPriority(pid);
  } catch {
    return null;
  }
}

function threadName(pid: number | 'self', tid: string): string {
  try {
    return readFileSync(`/proc/${pid}/task/${tid}/comm`, 'latin1');
  } catch {
    return ''; // it ended meanwhile
  }
}

/** The same for one thread, which may have ended; with a process id, for its first thread. Throws when not permitted. */
export function setThreadNice(tid: number, nice: number): void {
  try {
    setPriority(tid, nice);
  } catch (error) {
    if ((error as { info?: { code?: string } }).info?.code !== 'ESRCH') throw error;
  }
}
