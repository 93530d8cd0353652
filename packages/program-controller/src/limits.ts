/** How long the controller waits for what. Milliseconds throughout. */

/**
 * A process that is not ready by then, nor says so when it is asked once more, is replaced, if it could have got on.
 * Starting takes a second.
 */
export const READY_DEADLINE_MS = 15_000;
/** Waits for a processor that are worth giving it more time, to get ready or to answer. */
export const READY_EXTENSION_MS = 500;
/** Between two looks at a process that is not ready yet. */
export const READY_POLL_MS = 20;
/** Between two questions to a process that is; one that was not answered is repeated at once. */
export const HEALTH_INTERVAL_MS = 1_000;
/** How long it may take to answer one of them. */
export const HEALTH_DEADLINE_MS = 1_500;
/**
 * A process that leaves so many unanswered hangs: after 4,000 ms, below QEMU's 5,000 ms; later when it waited for a
 * processor meanwhile, and by a second a question when we came too late ourselves (rpc-caller.ts). One is not enough: when
 * we were stopped, the question of that time is overdue as soon as we go on.
 */
export const HEALTH_MISSES = 2;
/** So many of them in a row are excused at most because it waited for a processor. */
export const HEALTH_EXCUSED_MAX = 15;
/** What each process may take to end when asked to; all together 5 s, one after the other. */
export const STOP_STANDBY_MS = 500;
/** It removes its devices. */
export const STOP_ACTIVE_MS = 4_000;
export const STOP_KEEPER_MS = 500;
/** A survivor of a former controller answers by then, or is replaced. */
export const ADOPT_DEADLINE_MS = 1_000;
/** So often at most is one asked that might have answered if it had had a processor. */
export const ADOPT_ROUNDS_MAX = 15;
/** How long a command of the command line waits for its answer, takeovers included. */
export const COMMAND_DEADLINE_MS = 15_000;
/** After how long a service with an active emulator says ready although its standby is not. */
export const STANDBY_PATIENCE_MS = 10_000;
/** How long the exit status of a child may follow the news of its death. */
export const EXIT_STATUS_MS = 20;

/** For so long a standby starts behind everybody else; then it is missed more than what it takes from others. */
export const BEHIND_OTHERS_MS = 4_000;
