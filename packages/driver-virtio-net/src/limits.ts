/**
 * limits.ts: what the driver of one function holds and how long it waits.
 */

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

/** Queue pairs of one network interface. Each costs two rings and a queue of the TAP, whether it is used or not. */
export const PAIRS_MAX = 8;
/** Entries of a ring: a power of two. */
export const RING_ENTRIES_MAX = 256;
/** Frames moved in one go before everybody else has a turn. */
export const BURST_FRAMES = 128;

/** How long a command of the control queue may take, and how often its answer is looked for. */
export const COMMAND_TIMEOUT_MS = 5000;
export const COMMAND_POLL_MS = 1;
/** Times a new connection is tried: one that the emulator's end fell into is lost. */
export const CONNECT_ATTEMPTS = 5;
export const CONNECT_PAUSE_MS = 200;
/** How often the configuration is read where the function has no vector left to tell of changes. */
export const CONFIG_POLL_MS = 500;
