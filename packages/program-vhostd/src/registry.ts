/**
 * registry.ts: which functions are served, and which PFs were registered for them.
 *
 * Theory
 *   A PF is a name under which its VFs are listed; nothing is opened for it, since a function has one owner and that
 *   may be somebody else. What belongs to a PF is what shares its bus. A hotplug PF is a function of its own and can
 *   be served without being registered.
 *
 *   Both are kept for a successor, which begins with `restore`.
 *
 * Invariants
 *   I1  no two functions share a vhost socket.
 *   I2  an address is in at most one step of adding or removing at a time.
 *
 * Limits  FUNCTIONS_MAX, MGMT_PFS_MAX
 */

import { existsSync, rmSync } from 'node:fs';
import { SerialQueue } from '@virtnet/driver-virtio-net';
import type { Logger, VirtnetPaths } from '@virtnet/host-ipc';
import {
  close,
  closeAll,
  descriptorsAreScarce,
  type Poller,
  type ReplySender,
  shutdown,
} from '@virtnet/host-linux';
import { Errno } from '@virtnet/wire';
import { busOf } from './bdf.js';
import { VfeError } from './errors.js';
import { FunctionPage } from './function-page.js';
import { decodeFunctionRecord } from './function-record.js';
import type { Found, FoundFunction, Keeper, Kept, KeptSource } from './keeper.js';
import { FUNCTIONS_MAX, MGMT_PFS_MAX } from './limits.js';
import { ServedFunction, type ServedFunctionOptions } from './served-function.js';

export interface RegistryOptions {
  readonly paths: VirtnetPaths;
  readonly poller: Poller;
  readonly log: Logger;
  /** Connect to frontends instead of listening for them. */
  readonly client: boolean;
  readonly keeper: Pick<Keeper, 'put' | 'drop' | 'putPf' | 'dropPf' | 'kept'>;
  readonly replies: ReplySender;
}

export class Registry implements KeptSource {
  readonly #options: RegistryOptions;
  readonly #pfs = new Set<string>();
  readonly #functions = new Map<string, ServedFunction>();
  readonly #serial = new SerialQueue();
  #closed = false;

  constructor(options: RegistryOptions) {
    this.#options = options;
  }

  pfs(): readonly string[] {
    return [...this.#pfs];
  }

  functions(): { readonly bdf: string; kept(): Promise<Kept | null> }[] {
    return [...this.#functions].map(([bdf, served]) => ({ bdf, kept: () => served.kept() }));
  }

  /** Null when what was done survives this process; else resolves when it does, or nobody is to wait any longer. */
  kept(): Promise<void> | null {
    return this.#options.keeper.kept();
  }

  /** Goes on with what a process that died had; what is served under the same address already stays as it is. */
  restore({ pfs, functions }: Found): Promise<boolean> {
    const { paths, keeper, log } = this.#options;
    return this.#serial.run(async () => {
      if (this.#closed) {
        for (const { fds } of functions.values()) closeAll([...fds.values()]);
        return false;
      }
      if (existsSync(paths.vfeEnded)) {
        log.info({ functions: functions.size }, 'what was kept is let go: vfe-vhostd was stopped meanwhile');
        for (const [bdf, { fds }] of functions) {
          letGo(fds);
          if (!this.#functions.has(bdf)) keeper.drop(bdf);
        }
        for (const bdf of pfs) if (!this.#pfs.has(bdf)) keeper.dropPf(bdf);
        rmSync(paths.vfeEnded, { force: true });
        return true;
      }
      for (const bdf of pfs) this.#pfs.add(bdf);
      for (const [bdf, found] of functions) await this.#restore(bdf, found);
      return true;
    });
  }

  addPf(bdf: string): number {
    if (this.#pfs.has(bdf)) return VfeError.PF_ALREADY_ADDED;
    if (this.#pfs.size >= MGMT_PFS_MAX) return VfeError.EXCEED_LIMIT;
    if (!existsSync(this.#options.paths.pciSocket(bdf))) return VfeError.NO_PF_DEVICE;
    this.#pfs.add(bdf);
    this.#options.keeper.putPf(bdf);
    return 0;
  }

  removePf(bdf: string): number {
    if (!this.#pfs.has(bdf)) return VfeError.NO_PF_DEVICE;
    if (this.#onBusOf(bdf).length > 0) return VfeError.PF_HAS_VFS;
    this.#pfs.delete(bdf);
    this.#options.keeper.dropPf(bdf);
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
      const { paths, client } = this.#options;
      const vhostSocket = socket ?? `${paths.vfeRun}/vf-${bdf}`;
      if (this.#functions.has(bdf)) return VfeError.VF_ALREADY_ADDED;
      if (this.#functions.size >= FUNCTIONS_MAX || descriptorsAreScarce()) return VfeError.EXCEED_LIMIT;
      if (this.#isTaken(vhostSocket)) return VfeError.SOCKET_EXISTS;
      const page = FunctionPage.create();
      if (typeof page === 'number') return page;
      const served = this.#served({ bdf, vhostSocket, uuid, client, page });
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

  /** Leaves everything to a successor. What is asked of this process from now on is done by that. */
  leave(): Promise<void> {
    return this.#serial.run(async () => {
      await Promise.all([...this.#functions.values()].map((served) => served.leave()));
    });
  }

  /** Lets go of everything. */
  close(): Promise<void> {
    return this.#serial.run(async () => {
      this.#closed = true;
      const all = [...this.#functions.values()];
      this.#functions.clear();
      await Promise.all(all.map((served) => served.stop()));
      for (const bdf of this.#pfs) this.#options.keeper.dropPf(bdf);
    });
  }

  async #restore(bdf: string, { record: bytes, number, fds }: FoundFunction): Promise<void> {
    const { keeper, log } = this.#options;
    const forget = (page: FunctionPage | number): void => {
      letGo(fds);
      if (typeof page !== 'number') page.close();
      keeper.drop(bdf);
    };
    const record = decodeFunctionRecord(bytes);
    if (this.#functions.has(bdf)) {
      // Whoever has the listener has made the socket's file.
      const { vhostSocket = '' } = record ?? {};
      if (fds.has('listener') && !this.#isTaken(vhostSocket)) rmSync(vhostSocket, { force: true });
      letGo(fds);
      return;
    }
    const page = pageOf(fds);
    if (record === null || typeof page === 'number' || this.#functions.size >= FUNCTIONS_MAX) {
      log.error({ vf: bdf }, 'what was kept of a function cannot be used');
      forget(page);
      return;
    }
    if (page.letGo || this.#isTaken(record.vhostSocket)) {
      log.info({ vf: bdf, removed: page.letGo }, 'what was kept of a function is not wanted any more');
      forget(page);
      return;
    }
    const { promised } = page;
    if (number !== null && number < promised) {
      log.error({ vf: bdf, number, promised }, 'the last that a machine was promised is lost: it is let go');
      letGo(fds, isListener);
      page.promised = 0;
    }
    const { vhostSocket, uuid, client } = record;
    const served = this.#served({ bdf, vhostSocket, uuid, client, page });
    const errno = await served.resume(record, fds);
    if (errno === 0) this.#functions.set(bdf, served);
    else log.error({ vf: bdf, errno }, 'a function is not served any more');
  }

  #served(
    facts: Pick<ServedFunctionOptions, 'bdf' | 'vhostSocket' | 'uuid' | 'client' | 'page'>,
  ): ServedFunction {
    const { paths, poller, log, keeper, replies } = this.#options;
    const functionSocket = paths.pciSocket(facts.bdf);
    return new ServedFunction({ ...facts, functionSocket, poller, log, keeper, replies });
  }

  #isTaken(vhostSocket: string): boolean {
    return [...this.#functions.values()].some(({ options }) => options.vhostSocket === vhostSocket);
  }

  #onBusOf(pf: string): ServedFunction[] {
    const bus = busOf(pf);
    return [...this.#functions.values()].filter(({ options }) => busOf(options.bdf) === bus);
  }
}

const isListener = (name: string): boolean => name === 'listener';

/** The page among `fds`, taken out; where that is not one, a new one, for which everything but a listener is let go. */
function pageOf(fds: Map<string, number>): FunctionPage | number {
  const fd = fds.get('page');
  fds.delete('page');
  const page = fd === undefined ? -Errno.EBADF : FunctionPage.open(fd);
  if (typeof page !== 'number') return page;
  letGo(fds, isListener);
  return FunctionPage.create();
}

/** Closes what was kept of a function, but for what `stays`; whoever is at the other end sees its end at once. */
function letGo(fds: Map<string, number>, stays: (name: string) => boolean = () => false): void {
  for (const [name, fd] of fds) {
    if (stays(name)) continue;
    if (name === 'connection' || name === 'function') shutdown(fd);
    close(fd);
    fds.delete(name);
  }
}
