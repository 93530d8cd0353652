/** death-cause.ts: why a process of the service died, in the words that health and the log use. */
import { LastWord } from '@virtnet/wire';

export const deathCauses = [
  /** Ended by a signal that was not ours: an operator, a test, the kernel out of memory. */
  'killed',
  /** A signal of its own making (SIGSEGV, SIGBUS, SIGABRT …). */
  'crash',
  /** An exception nobody caught. */
  'exception',
  /** A datapath thread failed. */
  'worker',
  /** Its main thread stood still; we killed it. */
  'hang',
  /** A datapath thread stood still; we killed it. */
  'worker-hang',
  /** Somebody had stopped it (SIGSTOP, a debugger); we killed it. */
  'stopped',
  /** It was not ready in time, or left questions unanswered; we killed it. */
  'silent',
  /** It ended by itself, or we know nothing more than that it is dead. */
  'exit',
] as const;
export type DeathCause = (typeof deathCauses)[number];

/** Signals by which the kernel, or a process itself, ends a process for its own fault (signal(7)). */
const FAULT_SIGNALS: ReadonlySet<string> = new Set([
  'SIGABRT',
  'SIGBUS',
  'SIGFPE',
  'SIGILL',
  'SIGSEGV',
  'SIGSYS',
  'SIGTRAP',
]);

/** Why we killed a process. */
export type Sentence = 'hang' | 'worker-hang' | 'stopped' | 'silent';

export interface ExitStatus {
  readonly code: number | null;
  /** Name of the signal; both null for a process that is not our child. */
  readonly signal: string | null;
}

export interface DeathFacts extends ExitStatus {
  readonly sentence: Sentence | null;
  /** One of LastWord, as the dead process left it. */
  readonly lastWord: number;
}

export function deathCause({ sentence, code, signal, lastWord }: DeathFacts): DeathCause {
  // Whoever died of something else was dead before our kill.
  if (sentence !== null && (signal === 'SIGKILL' || (signal === null && code === null))) return sentence;
  if (lastWord === LastWord.WORKER) return 'worker';
  if (lastWord === LastWord.EXCEPTION) return 'exception';
  if (lastWord === LastWord.FOREIGN_SIGNAL) return 'killed';
  if (signal === 'SIGTERM' || signal === 'SIGINT') return 'exit';
  if (signal !== null) return FAULT_SIGNALS.has(signal) ? 'crash' : 'killed';
  return code === null || code === 0 ? 'exit' : 'crash';
}

/**
 * Progress lane of the thread that a process died of; null: nobody knows. `hung`: of the one that we killed it for;
 * `lastLane`: as the dead process left it.
 */
export function deathLane(cause: DeathCause, hung: number | null, lastLane: number | null): number | null {
  if (cause === 'hang' || cause === 'worker-hang') return hung;
  return cause === 'worker' || cause === 'exception' ? lastLane : null;
}

/** Whether what a guest gave it to work on may be the reason. */
export function mayBeGuestsFault(cause: DeathCause): boolean {
  return (
    cause === 'crash' ||
    cause === 'exception' ||
    cause === 'worker' ||
    cause === 'worker-hang' ||
    cause === 'hang'
  );
}
