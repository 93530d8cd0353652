/** What `virtnet update` and `virtnet restart` answer: the guide's keys first, then what else is known. */

import type { Json } from './answers.js';
import { failure, type Outcome } from './errors.js';

/** The last, or present, move of the service to another version, times in milliseconds. */
export interface UpdateFacts {
  readonly ongoing: boolean;
  readonly original: string;
  readonly destination: string;
  readonly result: 'success' | 'failed' | null;
  readonly reason: string | null;
  readonly phase: string;
  readonly timeUsedMs: number;
  readonly phasesMs: Readonly<Partial<Record<string, number>>>;
  /** How long each device was worked by nobody, sorted. */
  readonly pausesMs: readonly number[];
}

/** The guide's answer to `update -s`. */
export const UPDATE_STARTED = "Update started, use 'virtnet update -t' or check logs for status";
/** The guide's answer to `restart`. */
export const RESTARTED = 'SUCCESS';

const SECONDS_DIGITS = 6;
const MS_DIGITS = 3;

function rounded(value: number, digits: number): number {
  return Number(value.toFixed(digits));
}

/** The smallest value that `part` of the sorted values do not exceed. */
function percentile(sorted: readonly number[], part: number): number {
  return rounded(sorted[Math.max(0, Math.ceil(part * sorted.length) - 1)] ?? 0, MS_DIGITS);
}

/** The answer of `update -t`; null: there was no update since the service's directory was made. */
export function updateAnswer(facts: UpdateFacts | null): Json {
  if (facts === null) return { status: 'inactive', 'last live update status': 'none', 'time_used (s)': 0 };
  const { pausesMs } = facts;
  const phases = Object.entries(facts.phasesMs).map(([phase, ms]) => [
    phase,
    rounded((ms ?? 0) / 1000, SECONDS_DIGITS),
  ]);
  return {
    status: facts.ongoing ? 'ongoing' : 'inactive',
    'last live update status': facts.result ?? 'none',
    'time_used (s)': rounded(facts.timeUsedMs / 1000, SECONDS_DIGITS),
    ...(facts.reason === null ? {} : { reason: facts.reason }),
    original: `v${facts.original}`,
    destination: `v${facts.destination}`,
    phase: facts.phase,
    'phases (s)': Object.fromEntries(phases),
    'device pauses (ms)': {
      devices: pausesMs.length,
      p50: percentile(pausesMs, 0.5),
      p99: percentile(pausesMs, 0.99),
      max: percentile(pausesMs, 1),
    },
  };
}

const EBUSY = 16;
const EIO = 5;

/** A move is under way already. */
export const UPDATE_BUSY: Outcome = { errno: -EBUSY, errstr: 'Live update is in progress' };
/** The destination link leads nowhere. */
export function destinationMissing(): Outcome {
  return failure('READLINK');
}
/** A fast restart that did not come about. */
export function restartFailure(reason: string): Outcome {
  return { errno: -EIO, errstr: reason };
}
