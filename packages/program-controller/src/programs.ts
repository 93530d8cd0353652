/** How the processes of the service are started: programs, Node flags, arguments. */
export type ProgramKind = 'ha' | 'emu';

/**
 * Whoever collects garbage does it alone: a thread that serves guests must not wait for helpers, which on a busy machine
 * wait for a processor. Heaps are small.
 */
const COLLECTS_ALONE = '--single-threaded-gc';

/** Node flags of each program; the emulator's datapath threads share its process and so its flags. */
export const nodeFlags: Readonly<Record<ProgramKind, readonly string[]>> = {
  ha: ['--no-warnings', COLLECTS_ALONE],
  emu: ['--no-warnings', COLLECTS_ALONE],
};

export const programNames: Readonly<Record<ProgramKind, string>> = {
  ha: 'virtio_net_ha',
  emu: 'virtio_net_emu',
};
