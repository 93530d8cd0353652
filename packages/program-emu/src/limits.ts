/** Bounds of one emulator, each with its arithmetic. */

/**
 * Functions served at once: 31 hotplug ports and 1008 VFs, the most the firmware configuration can ask for.
 */
export const DEVICES_MAX = 31 + 31 + 1008;

/**
 * DMA regions of one function. QEMU maps one per memory slot (509 at most) and a few dozen ROM pieces; VPP and
 * cloud-hypervisor stay far below. One page of guard each side makes 1024 regions 8 MiB of address space.
 */
export const DMA_REGIONS_MAX = 1024;

/**
 * Frames a queue may move in one turn before the next queue has its own: some 0.1 ms with a TAP, a tenth of that between
 * guests.
 */
export const POLL_BUDGET = 128;

/** Turns an active queue may stay empty before it arms its notifications and leaves the busy list. */
export const IDLE_TURNS_MAX = 24;

/**
 * As many more when it has moved that many frames since it woke up: under load a sleep costs the driver a system call and
 * both a wake-up, some 20 us, and the next frames are seldom further away than that. 50 us in all.
 */
export const IDLE_TURNS_MORE = 200;

/**
 * Idle turns that a frame earns its queue, and the most it can have left. Who sends a million frames a second and more is
 * away for some 0.1 ms now and then (another process has its processor): a sleep then costs a tenth of what is moved. Frames
 * that come one by one earn less than the turns between them spend.
 */
export const STREAM_CREDIT = 4;
export const STREAM_CREDIT_MAX = 2000;

/**
 * Of 2^n busy queues and more each idle turn counts for as many as it has such groups: with hundreds of them a turn takes
 * longer than the 20 us that 24 of two queues do.
 */
export const IDLE_QUEUES_SHIFT = 3;

/**
 * Queues of which a worker makes everything ahead, those of 256 functions with a pair each: a bound for objects that nobody
 * may ever need. Of others it makes what it needs when they hold.
 */
export const MADE_AHEAD_MAX = 512;

/**
 * Pages of buffers that are mapped ahead for each ring: some 20 us each of a standby's time, and a takeover's first frames of
 * as many queues as there are.
 */
export const NAMED_PAGES_MAX = 16;

/**
 * Frames between two looks at the descriptors, which wake queues that sleep: a look costs as much as 20 frames between
 * guests, and 256 frames take a TAP 0.2 ms. Frames that no kernel sees count one in so many, as a power of two.
 */
export const EVENT_LOOK_FRAMES = 256;
export const EVENT_LOOK_SHIFT = 2;

/** Segments in one chain: Linux uses at most 19 (64 KiB in pages, header, tail); other drivers get six times that. */
export const CHAIN_SEGMENTS_MAX = 128;

/**
 * Segments of a frame over several buffers: 64 KiB of GSO in buffers of 256 bytes and more. As many as the journal of a
 * packed ring has entries.
 */
export const FRAME_SEGMENTS_MAX = 256;

/** Milliseconds a datapath worker has to answer a change of configuration. */
export const WORKER_ANSWER_MS = 2000;

/**
 * Milliseconds the datapath has to show that it works a device when somebody asks: a worker that stands still is found and
 * replaced in a quarter of that, and one that waits for a processor on a busy machine has its turn.
 */
export const PROBE_MS = 1000;

/** Control commands a function may have executed before everything else on the main thread has its turn. */
export const CONTROL_COMMANDS_PER_TURN = 16;

/** Bytes of a control command, header included: a MAC table of 2 x 64 entries is 776. */
export const CONTROL_COMMAND_BYTES_MAX = 64 * 1024;
