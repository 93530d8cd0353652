/**
 * fault-signals.ts: tells SIGSEGV and SIGABRT that somebody sent from those that a fault of this process raised.
 *
 * Theory
 *   Whoever waits for a process to end learns the signal, not where it came from. But a signal to a process goes to a
 *   thread that does not block it, to the main thread before all others; a fault always hits the thread that made it,
 *   and where that blocks the signal the process ends at once, as if nobody handled it (signal(7)). So the main thread
 *   handles them and hears of those that somebody sent, and of no others, and all threads that work for guests block them.
 *
 *   An abort(3) unblocks SIGABRT, raises it, and ends the process by a second one if somebody handles the first. So a
 *   SIGABRT is somebody's only if the process still lives a moment later.
 *
 * Limits
 *   A main thread that makes such a fault itself is not ended by it: the handler returns to where the fault is, for
 *   ever, which whoever watches it takes for an endless loop. The engine's own handler, which makes an exception of a
 *   WebAssembly access out of bounds, is replaced: such an access is a fault like others.
 */
import { constants } from 'node:os';
import { declare, NativeBuffer, orErrno } from './libc.js';

const FAULT_SIGNALS = ['SIGSEGV', 'SIGABRT'] as const;
/** Longer than an abort(3) takes from its first signal to its end. */
const ABORT_MS = 50;
/** sigset_t, glibc. */
const SIGNAL_SET_BYTES = 128;

/** sigprocmask: Node has nothing for masks. On Linux it is the calling thread's, as that of pthread_sigmask. */
const nativeSigprocmask = declare<(how: number, set: number, old: number) => number>('sigprocmask', 'int', [
  'int',
  'uintptr_t',
  'uintptr_t',
]);
const SIG_BLOCK = 0;

/** Blocks them in the calling thread, other than the main one. Returns 0 or -errno. */
export function blockFaultSignals(): number {
  const set = new NativeBuffer(SIGNAL_SET_BYTES);
  for (const name of FAULT_SIGNALS) {
    const bit = constants.signals[name] - 1;
    set.u32[bit >>> 5]! |= 1 << (bit & 31);
  }
  return orErrno(nativeSigprocmask(SIG_BLOCK, set.address, 0));
}

/** On the main thread: calls `heard` for one that somebody sent, then ends the process by SIGKILL. */
export function endByForeignFaultSignals(heard: () => void): void {
  for (const name of FAULT_SIGNALS) {
    const end = () => {
      heard();
      process.kill(process.pid, 'SIGKILL');
    };
    process.on(name, name === 'SIGABRT' ? () => setTimeout(end, ABORT_MS) : end);
  }
}
