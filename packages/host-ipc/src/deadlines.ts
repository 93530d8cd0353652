/** Deadlines that a program without the catalogue has to know. */

/** A command of the host's side: a thousand VFs, made or removed on a busy machine. Milliseconds. */
export const HOST_DEADLINE_MS = 120_000;
