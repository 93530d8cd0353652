/** How the processes of the service are started: programs, Node flags, arguments. */
export type ProgramKind = 'ha' | 'emu';

/** Node flags of each program; the emulator's datapath threads share its process and so its flags. */
export const nodeFlags: Readonly<Record<ProgramKind, readonly string[]>> = {
  ha: ['--no-warnings'],
  emu: ['--no-warnings'],
};

export const programNames: Readonly<Record<ProgramKind, string>> = {
  ha: 'virtio_net_ha',
  emu: 'virtio_net_emu',
};
