/**
 * limits.ts: what one vfe-vhostd holds and how long it waits.
 */

/** Functions served at once, as in the original. */
export const FUNCTIONS_MAX = 2048;
/** Management PFs registered at once: every bus of one domain. */
export const MGMT_PFS_MAX = 256;

/** How often rings whose frontend gives no kick eventfd are looked at, in milliseconds. */
export const POLLED_KICK_MS = 1;
