/**
 * supervision.ts: the life of one supervised process as a table, and the rule by which restarts slow down.
 *
 * Theory
 *   The controller is the only one who starts processes. A process is up when it exists, and ready when it said so;
 *   one that is up but never ready, or that stops answering, is killed and replaced. Nothing is done about a dead
 *   process before its death is certain: `exit` is reported by its pidfd and by nothing else, so that no successor
 *   meets a predecessor that still writes.
 *
 * States
 *   new -> starting -> ready -> serving -> gone, and from each of them by way of fencing or stopping.
 *   `ready` is a keeper that serves, or a standby emulator; `serving` is the active emulator.
 *
 * Invariants
 *   I1  every state has a cell for every event: a move, or the reason why there is none.
 *   I2  `gone` is final, and is entered by `exit` alone.
 *   I3  deaths that were asked for (`stopping`) are not tallied.
 *
 * Limits  CRASH_LOOP_DEATHS within CRASH_LOOP_WINDOW_MS slow restarts down to RESTART_DELAY_MAX_MS; never to a stop.
 */

export const childStates = ['new', 'starting', 'ready', 'serving', 'fencing', 'stopping', 'gone'] as const;
export type ChildState = (typeof childStates)[number];

export const childEvents = [
  /** We start it. */
  'spawn',
  /** It lives already, and is on its way up, ready, or serving. */
  'adopt-starting',
  'adopt-ready',
  'adopt-serving',
  /** It says that it is ready. */
  'ready',
  /** It says that it is the active one. */
  'serving',
  /** It was not ready in time, or does not answer. */
  'silent',
  /** It has to end because everything ends, or because there is one too many. */
  'stop',
  /** It had its time to end. */
  'stop-deadline',
  /** Its pidfd says that it is dead. */
  'exit',
] as const;
export type ChildEvent = (typeof childEvents)[number];

export type ChildAction =
  | 'spawn'
  /** Watch the pidfd and ask for its state, again and again. */
  | 'watch'
  | 'arm-ready-deadline'
  | 'disarm-ready-deadline'
  /** SIGKILL through the pidfd. */
  | 'kill'
  | 'ask-to-stop'
  | 'arm-stop-deadline'
  /** Count the death: it was not asked for. */
  | 'tally'
  /** Remove its sockets and end the connection to it. */
  | 'clean-up';

export type Cell =
  | { readonly next: ChildState; readonly actions: readonly ChildAction[] }
  /** Nothing happens, and why that is right. */
  | { readonly ignored: string }
  /** Must not happen: the supervisor itself is at fault. */
  | { readonly prohibited: string };

const move = (next: ChildState, ...actions: ChildAction[]): Cell => ({ next, actions });
const ignored = (reason: string): Cell => ({ ignored: reason });
const prohibited = (reason: string): Cell => ({ prohibited: reason });

const STARTED_ONCE = prohibited('an object stands for one process; a successor gets its own');
const NOT_ASKED = prohibited('the deadline is armed only while stopping');
const SENTENCED = ignored('an answer that was under way when it was sentenced');
const DEAD = ignored('an answer or a deadline that outlived the process');
const NOT_THERE = prohibited('there is no process yet that could do this');

const started = {
  spawn: STARTED_ONCE,
  'adopt-starting': STARTED_ONCE,
  'adopt-ready': STARTED_ONCE,
  'adopt-serving': STARTED_ONCE,
} as const;
const fence = move('fencing', 'disarm-ready-deadline', 'kill');
const stop = move('stopping', 'disarm-ready-deadline', 'ask-to-stop', 'arm-stop-deadline');
const crash = move('gone', 'disarm-ready-deadline', 'tally', 'clean-up');

export const supervisionTable: Readonly<Record<ChildState, Readonly<Record<ChildEvent, Cell>>>> = {
  new: {
    spawn: move('starting', 'spawn', 'watch', 'arm-ready-deadline'),
    'adopt-starting': move('starting', 'watch', 'arm-ready-deadline'),
    'adopt-ready': move('ready', 'watch'),
    'adopt-serving': move('serving', 'watch'),
    ready: NOT_THERE,
    serving: NOT_THERE,
    silent: NOT_THERE,
    stop: NOT_THERE,
    'stop-deadline': NOT_THERE,
    exit: NOT_THERE,
  },
  starting: {
    ...started,
    ready: move('ready', 'disarm-ready-deadline'),
    serving: move('serving', 'disarm-ready-deadline'),
    silent: fence,
    stop,
    'stop-deadline': NOT_ASKED,
    exit: crash,
  },
  ready: {
    ...started,
    ready: ignored('it says so again with every answer'),
    serving: move('serving'),
    silent: fence,
    stop,
    'stop-deadline': NOT_ASKED,
    exit: crash,
  },
  serving: {
    ...started,
    ready: ignored('an answer from before the promotion; an active emulator never becomes a standby'),
    serving: ignored('it says so again with every answer'),
    silent: fence,
    stop,
    'stop-deadline': NOT_ASKED,
    exit: crash,
  },
  fencing: {
    ...started,
    ready: SENTENCED,
    serving: SENTENCED,
    silent: ignored('it is being killed'),
    stop: ignored('it is being killed'),
    'stop-deadline': NOT_ASKED,
    exit: crash,
  },
  stopping: {
    ...started,
    ready: SENTENCED,
    serving: SENTENCED,
    silent: ignored('it may be busy with ending; its deadline decides'),
    stop: ignored('it was asked already'),
    'stop-deadline': move('stopping', 'kill'),
    exit: move('gone', 'clean-up'),
  },
  gone: {
    ...started,
    ready: DEAD,
    serving: DEAD,
    silent: DEAD,
    stop: DEAD,
    'stop-deadline': DEAD,
    exit: ignored('the pidfd was looked at twice'),
  },
};

export const CRASH_LOOP_DEATHS = 5;
export const CRASH_LOOP_WINDOW_MS = 60_000;
const RESTART_DELAY_FIRST_MS = 125;
export const RESTART_DELAY_MAX_MS = 500;

/**
 * How long to wait after the last of `deathsMs` (times of deaths, any order) before the next start: nothing up to
 * four deaths in the window, then 125 ms, doubled with each further death, at most RESTART_DELAY_MAX_MS.
 */
export function restartDelayMs(deathsMs: readonly number[], nowMs: number): number {
  const recent = deathsMs.filter((deathMs) => nowMs - deathMs < CRASH_LOOP_WINDOW_MS).length;
  if (recent < CRASH_LOOP_DEATHS) return 0;
  return Math.min(RESTART_DELAY_MAX_MS, RESTART_DELAY_FIRST_MS * 2 ** (recent - CRASH_LOOP_DEATHS));
}
