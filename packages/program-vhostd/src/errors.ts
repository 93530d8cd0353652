/**
 * errors.ts: what vfe-vhostd answers when it cannot do something.
 *
 * Numbers and texts are the original's: -(1000 + position) in its list. Only the rows this program can come to are
 * here; an errno of the system is answered as such, negative, with the system's text.
 */
import { getSystemErrorMessage } from 'node:util';

export const VfeError = {
  NO_PF_NAME: -1000,
  NO_PF_DEVICE: -1001,
  NO_VF_NAME: -1002,
  NO_VF_DEVICE: -1003,
  EXCEED_LIMIT: -1005,
  PF_ALREADY_ADDED: -1008,
  DEVICE_PROBE_FAIL: -1009,
  PF_HAS_VFS: -1013,
  VF_ALREADY_ADDED: -1014,
  SOCKET_PATH_ACCESS: -1030,
  SOCKET_EXISTS: -1038,
} as const;
export type VfeError = (typeof VfeError)[keyof typeof VfeError];

const texts: Readonly<Record<VfeError, string>> = {
  [VfeError.NO_PF_NAME]: 'Please provide PF name',
  [VfeError.NO_PF_DEVICE]: 'PF device not found',
  [VfeError.NO_VF_NAME]: 'Please provide VF name',
  [VfeError.NO_VF_DEVICE]: 'VF device not found',
  [VfeError.EXCEED_LIMIT]: 'Number exceed limit',
  [VfeError.PF_ALREADY_ADDED]: 'PF device already add',
  [VfeError.DEVICE_PROBE_FAIL]: 'Device probe fail',
  [VfeError.PF_HAS_VFS]: 'Please remove all VF devices before remove PF',
  [VfeError.VF_ALREADY_ADDED]: 'VF device already add',
  [VfeError.SOCKET_PATH_ACCESS]: "Can't access vhost socket path",
  [VfeError.SOCKET_EXISTS]: 'Vhost socket file already exists',
};

/** The last two members of every answer. */
export interface Outcome {
  readonly errno: number;
  readonly errstr: string;
}

export const SUCCESS: Outcome = { errno: 0, errstr: 'Success' };

/** The outcome of a number: 0, a VfeError or a negative errno of the system. */
export function outcomeOf(errno: number): Outcome {
  if (errno === 0) return SUCCESS;
  const own = (texts as Partial<Record<number, string>>)[errno];
  return { errno, errstr: own ?? getSystemErrorMessage(errno) ?? `errno ${-errno}` };
}
