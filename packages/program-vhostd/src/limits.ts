/**
 * limits.ts: what one vfe-vhostd holds and how long it waits.
 */

/** Functions served at once, as in the original. */
export const FUNCTIONS_MAX = 2048;
/** Management PFs registered at once: every bus of one domain. */
export const MGMT_PFS_MAX = 256;

/** Capabilities in 192 bytes of configuration space, each at least 4 bytes. */
export const PCI_CAPABILITIES_MAX = 48;

/**
 * How long a function may take to answer one request, in milliseconds. A frontend waits for most of what we do, and
 * QEMU's main loop with it; an emulator that is replaced pauses for less than 200 ms.
 */
export const FUNCTION_TIMEOUT_MS = 3000;

/** Times the device status is read after a reset before the function is given up, and the pause between. */
export const RESET_POLLS_MAX = 100;
export const RESET_POLL_MS = 10;

/** How often rings whose frontend gives no kick eventfd are looked at, in milliseconds. */
export const POLLED_KICK_MS = 1;
