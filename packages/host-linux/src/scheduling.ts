/** scheduling.ts: where threads run, and before whom. */
import { readdirSync, readFileSync } from 'node:fs';
import { getPriority, setPriority } from 'node:os';
import { CPU_SET_PROCESSORS, Errno, SCHED_PARAM_BYTES, SchedulingPolicy } from '@virtnet/wire';
import { declare, NativeBuffer, orErrno } from './libc.js';

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

/** sched_setscheduler: a takeover must not wait for the end of somebody's time slice. */
const nativeSetScheduler = declare<(tid: number, policy: number, parameters: number) => number>(
  'sched_setscheduler',
  'int',
  ['int', 'int', 'uintptr_t'],
);

const processors = new NativeBuffer(CPU_SET_PROCESSORS / 8);
const schedulingParameters = new NativeBuffer(SCHED_PARAM_BYTES);
/** Lowest of the real-time priorities: before all ordinary threads, behind everything that is real-time by trade. */
const REALTIME_PRIORITY = 1;

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

/** Nice value of threads whose pauses guests would feel, of work that nobody waits for, and of the dying. */
export const Nice = { PREFERRED: -10, ORDINARY: 0, LATER: 10, LAST: 19 } as const;

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

/**
 * Lets a thread, or with a process id its first one, run before all ordinary threads as soon as it can run, until it is
 * set back; its nice value stays. Threads it starts are ordinary. Returns 0 or -errno (-EPERM without RLIMIT_RTPRIO or CAP_SYS_NICE).
 */
export function setThreadRealtime(tid: number, on: boolean): number {
  schedulingParameters.u8.fill(0);
  schedulingParameters.u8[0] = on ? REALTIME_PRIORITY : 0;
  const policy = on ? SchedulingPolicy.FIFO : SchedulingPolicy.OTHER;
  return orErrno(
    nativeSetScheduler(tid, policy | SchedulingPolicy.RESET_ON_FORK, schedulingParameters.address),
  );
}
