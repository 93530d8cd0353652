/**
 * registry.ts: which functions are served, and which PFs were registered for them.
 *
 * Theory
 *   A PF is a name under which its VFs are listed; nothing is opened for it, since a function has one owner and that
 *   may be somebody else. What belongs to a PF is what shares its bus. A hotplug PF is a function of its own and can
 *   be served without being registered.
 *
 * Invariants
 *   I1  no two functions share a vhost socket.
 *   I2  an address is in at most one step of adding or removing at a time.
 *
 * Limits  FUNCTIONS_MAX, MGMT_PFS_MAX
 */
import { existsSync } from 'node:fs';
import type { Logger, VirtnetPaths } from '@virtnet/host-ipc';
import type { Poller } from '@virtnet/host-linux';
import { busOf } from './bdf.js';
import { VfeError } from './errors.js';
import { FUNCTIONS_MAX, MGMT_PFS_MAX } from './limits.js';
import { SerialQueue } from './serial-queue.js';
import { ServedFunction } from './served-function.js';

export interface RegistryOptions {
  readonly paths: VirtnetPaths;
  readonly poller: Poller;
  readonly log: Logger;
  /** Connect to frontends instead of listening for them. */
  readonly client: boolean;
}

export class Registry {
  readonly #options: RegistryOptions;
  readonly #pfs = new Set<string>();
  readonly #functions = new Map<string, ServedFunction>();
  readonly #serial = new SerialQueue();

  constructor(options: RegistryOptions) {
    this.#options = options;
  }

  get pfs(): readonly string[] {
    return [...this.#pfs];
  }

  addPf(bdf: string): number {
    if (this.#pfs.has(bdf)) return VfeError.PF_ALREADY_ADDED;
    if (this.#pfs.size >= MGMT_PFS_MAX) return VfeError.EXCEED_LIMIT;
    if (!existsSync(this.#options.paths.pciSocket(bdf))) return VfeError.NO_PF_DEVICE;
    this.#pfs.add(bdf);
    return 0;
  }

  removePf(bdf: string): number {
    if (!this.#pfs.has(bdf)) return VfeError.NO_PF_DEVICE;
    if (this.#onBusOf(bdf).length > 0) return VfeError.PF_HAS_VFS;
    this.#pfs.delete(bdf);
    return 0;
  }

  /** The served functions of a PF, or an error when nothing is known of it. */
  functionsOf(pf: string): readonly ServedFunction[] | number {
    const functions = this.#onBusOf(pf);
    return functions.length > 0 || this.#pfs.has(pf) ? functions : VfeError.NO_PF_DEVICE;
  }

  find(bdf: string): ServedFunction | undefined {
    return this.#functions.get(bdf);
  }

  /** Serves a function at `socket`, by default `run/vfe/vf-<address>`. */
  addFunction(bdf: string, socket: string | undefined, uuid: string): Promise<number> {
    return this.#serial.run(async () => {
      const { paths, poller, log, client } = this.#options;
      const vhostSocket = socket ?? `${paths.vfeRun}/vf-${bdf}`;
      if (this.#functions.has(bdf)) return VfeError.VF_ALREADY_ADDED;
      if (this.#functions.size >= FUNCTIONS_MAX) return VfeError.EXCEED_LIMIT;
      for (const other of this.#functions.values())
        if (other.options.vhostSocket === vhostSocket) return VfeError.SOCKET_EXISTS;
      const functionSocket = paths.pciSocket(bdf);
      const served = new ServedFunction({ bdf, functionSocket, vhostSocket, uuid, client, poller, log });
      const errno = await served.start();
      if (errno === 0) this.#functions.set(bdf, served);
      return errno;
    });
  }

  removeFunction(bdf: string): Promise<number> {
    return this.#serial.run(async () => {
      const served = this.#functions.get(bdf);
      if (served === undefined) return VfeError.NO_VF_DEVICE;
      this.#functions.delete(bdf);
      await served.stop();
      return 0;
    });
  }

  /** Lets go of everything. */
  close(): Promise<void> {
    return this.#serial.run(async () => {
      const all = [...this.#functions.values()];
      this.#functions.clear();
      await Promise.all(all.map((served) => served.stop()));
    });
  }

  #onBusOf(pf: string): ServedFunction[] {
    const bus = busOf(pf);
    return [...this.#functions.values()].filter(({ options }) => busOf(options.bdf) === bus);
  }
}
