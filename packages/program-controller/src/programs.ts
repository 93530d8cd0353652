/** How the processes of the service are started: programs, Node flags, arguments. */
import { fileURLToPath } from 'node:url';

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

/** The main modules, in the sibling packages of the running version. */
export const programMains: Readonly<Record<ProgramKind, string>> = {
  ha: fileURLToPath(new URL('../../program-ha/dist/main.js', import.meta.url)),
  emu: fileURLToPath(new URL('../../program-emu/dist/main.js', import.meta.url)),
};
