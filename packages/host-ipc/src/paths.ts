/**
 * paths.ts: where everything of one installation lies, under one root.
 *
 * Theory
 *   `VIRTNET_ROOT` (default `/`) prefixes every path, so several installations run side by side. Directories that
 *   hold sockets belong to one user and are 0700: reaching a socket is the permission to speak to it.
 *
 * Invariants
 *   I1  every path is absolute and below `root`.
 *   I2  a directory of sockets that belongs to somebody else is refused, never used.
 *   I3  a root so long that a socket's path would not fit is refused here, not at the first bind.
 *   I4  directories of files that cannot be made are left to whoever reads or writes there, and says so: devices are
 *       served without them.
 *
 * Limits  SOCKET_PATH_BYTES_MAX, from sockaddr_un.
 */
import { chmodSync, lstatSync, mkdirSync } from 'node:fs';
import { join, resolve } from 'node:path';

/** sun_path holds 108 bytes, one of them the terminator. */
export const SOCKET_PATH_BYTES_MAX = 107;
const PRIVATE_DIRECTORY_MODE = 0o700;
const ACCESS_BITS = 0o777;
/** Room for the longest socket name made below `run/virtnet` or `run/vfe`. */
const SOCKET_NAME_SPARE = 'virtnet/pci/0000:00:00.0.sock.'.length;

/**
 * The processes that have a pid file in `run/virtnet`; `emu` is always the active one, `emu-reserve` one that a live update
 * starts beside the others.
 */
export type PidFileName = 'controller' | 'emu' | 'emu-standby' | 'emu-reserve' | 'ha';

export interface VirtnetPaths {
  readonly root: string;
  /** `run/virtnet`, mode 0700. */
  readonly run: string;
  /** `run/virtnet/pci`: one vfio-user socket per PCI function. */
  readonly pci: string;
  pciSocket(bdf: string): string;
  readonly controllerIpc: string;
  readonly controllerLock: string;
  /** The configuration in effect, as the controller handed it to the emulators. */
  readonly config: string;
  /** Descriptor channel of the state keeper (SOCK_SEQPACKET). */
  readonly haSocket: string;
  readonly haIpc: string;
  emuIpc(instance: number): string;
  pidFile(name: PidFileName): string;
  /** `opt/mellanox/mlnx_virtnet`. */
  readonly opt: string;
  readonly conf: string;
  readonly recovery: string;
  readonly fwconfig: string;
  /** What of the devices the recovery files have no keys for. */
  readonly devices: string;
  /** State of the emulated host. */
  readonly hostState: string;
  /** `run/vfe`, mode 0700. */
  readonly vfeRun: string;
  readonly vfeIpc: string;
  /** Whoever listens here is the vfe-vhostd of this root. */
  readonly vfeLock: string;
  /** Is there when a vfe-vhostd was stopped that had not met its keeper: what that has is not wanted. */
  readonly vfeEnded: string;
  /** Descriptor channel of vfe-vhostd-ha (SOCK_SEQPACKET). */
  readonly vfeHaSocket: string;
  readonly vfeHaIpc: string;
  /** What the running vfe-vhostd-ha says of its build. */
  readonly vfeHaBuild: string;
  vfePidFile(name: string): string;
  /** Where the host's virtio-net driver answers. */
  readonly driverIpc: string;
}

/**
 * The paths below `root`. Creates the directories (0700) unless `create` is false, as a mere client does.
 * Throws an Error when a socket directory is not ours or the root is too long.
 */
export function virtnetPaths(
  root: string = process.env.VIRTNET_ROOT || '/',
  { create = true }: { create?: boolean } = {},
): VirtnetPaths {
  const base = resolve(root);
  const run = join(base, 'run/virtnet');
  const pci = join(run, 'pci');
  const opt = join(base, 'opt/mellanox/mlnx_virtnet');
  const recovery = join(opt, 'recovery');
  const vfeRun = join(base, 'run/vfe');
  if (Buffer.byteLength(join(base, 'run')) + 1 + SOCKET_NAME_SPARE > SOCKET_PATH_BYTES_MAX)
    throw new Error(`VIRTNET_ROOT is too long for the paths of UNIX sockets: ${base}`);
  if (create) {
    for (const directory of [opt, recovery]) tryMake(directory);
    for (const directory of [run, pci, vfeRun]) makePrivateDirectory(directory);
  }
  return {
    root: base,
    run,
    pci,
    pciSocket: (bdf) => join(pci, `${bdf}.sock`),
    controllerIpc: join(run, 'controller.ipc'),
    controllerLock: join(run, 'controller.lock'),
    config: join(run, 'config.json'),
    haSocket: join(run, 'ha.sock'),
    haIpc: join(run, 'ha.ipc'),
    emuIpc: (instance) => join(run, `emu-${instance}.ipc`),
    pidFile: (name) => join(run, `${name}.pid`),
    opt,
    conf: join(opt, 'virtnet.conf'),
    recovery,
    fwconfig: join(opt, 'fwconfig.json'),
    devices: join(opt, 'devices.json'),
    hostState: join(base, 'var/lib/virtnet/host.json'),
    vfeRun,
    vfeIpc: join(vfeRun, 'vhostd.ipc'),
    vfeLock: join(vfeRun, 'vhostd.lock'),
    vfeEnded: join(vfeRun, 'vhostd.ended'),
    vfeHaSocket: join(vfeRun, 'vhostd-ha.sock'),
    vfeHaIpc: join(vfeRun, 'vhostd-ha.ipc'),
    vfeHaBuild: join(vfeRun, 'vhostd-ha.json'),
    vfePidFile: (name) => join(vfeRun, `${name}.pid`),
    driverIpc: join(vfeRun, 'driver.ipc'),
  };
}

function tryMake(directory: string): void {
  try {
    mkdirSync(directory, { recursive: true, mode: PRIVATE_DIRECTORY_MODE });
  } catch {
    // I4
  }
}

/** Makes sure that `directory` exists, is ours and is closed to everyone else; throws when it is not ours. */
export function makePrivateDirectory(directory: string): void {
  mkdirSync(directory, { recursive: true, mode: PRIVATE_DIRECTORY_MODE });
  const stat = lstatSync(directory);
  if (!stat.isDirectory()) throw new Error(`${directory} is not a directory`);
  if (stat.uid !== process.getuid?.())
    throw new Error(
      `${directory} belongs to uid ${stat.uid}, as of a service that another user runs: not used for sockets; ` +
        'VIRTNET_ROOT names another place',
    );
  if ((stat.mode & ACCESS_BITS) !== PRIVATE_DIRECTORY_MODE) chmodSync(directory, PRIVATE_DIRECTORY_MODE);
}
