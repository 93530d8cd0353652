/** How the processes of the service are started: programs, Node flags, arguments. */
export type ProgramKind = 'ha' | 'emu';

/**
 * Whoever collects garbage does it alone: a thread that serves guests must not wait for helpers, which on a busy machine
 * wait for a processor. Heaps are small.
 */
const COLLECTS_ALONE = '--single-threaded-gc';

/**
 * One thread compiles beside the others, not four: right after a takeover much code becomes hot at once, and what its
 * compilation takes of the processors it takes from the takeover, and from the guests.
 */
const COMPILES_WITH_ONE = '--v8-pool-size=1';

/**
 * An emulator makes most of its objects when it takes devices over, and keeps them. Heaps as small as V8 begins with would be
 * full just then: marking them stops a thread for 15 ms, each scavenge for 1 to 5. In MiB, of each thread.
 */
const HEAP_WITH_ROOM = ['--min-semi-space-size=16', '--initial-heap-size=128'];

/** It tidies its heap up when it chooses to (before it stands by), not because V8 finds it idle. */
const TIDIES_WHEN_IT_WANTS = ['--no-memory-reducer', '--expose-gc'];

/**
 * A standby practises a takeover once, and a keeper its part in it, and may wait for weeks: V8 would throw away what was
 * compiled for it, after some collections in which nobody needed it.
 */
const KEEPS_WHAT_IT_COMPILED = '--no-flush-bytecode';

/**
 * Counters are kept as floats: V8 would compute those that have been whole numbers so far as integers, and convert each
 * of them to and fro for every frame.
 */
const COUNTS_IN_FLOATS = '--no-additive-safe-int-feedback';

/** Node flags of each program; the emulator's datapath threads share its process and so its flags. */
export const nodeFlags: Readonly<Record<ProgramKind, readonly string[]>> = {
  ha: ['--no-warnings', COLLECTS_ALONE, COMPILES_WITH_ONE, KEEPS_WHAT_IT_COMPILED],
  emu: [
    '--no-warnings',
    COLLECTS_ALONE,
    COMPILES_WITH_ONE,
    KEEPS_WHAT_IT_COMPILED,
    COUNTS_IN_FLOATS,
    ...HEAP_WITH_ROOM,
    ...TIDIES_WHEN_IT_WANTS,
  ],
};

export const programNames: Readonly<Record<ProgramKind, string>> = {
  ha: 'virtio_net_ha',
  emu: 'virtio_net_emu',
};
