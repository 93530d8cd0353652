/**
 * commands.ts: what vfe-vhost-cli asks, and what it prints.
 *
 * Methods, parameters and answers are those of the original's JSON-RPC: numbers are texts, `errno` and `errstr` come
 * last, and a combination of parameters that means nothing has an answer of its own.
 */
import { type JsonObject, readVfeRequest, type VfeParams } from '@virtnet/host-ipc';
import { canonicalBdf } from './bdf.js';
import { outcomeOf, SUCCESS, VfeError } from './errors.js';
import { featureObject } from './feature-object.js';
import type { Registry } from './registry.js';
import type { ServedFunction } from './served-function.js';

/** What one command answers. */
export interface CommandAnswer {
  readonly answer: JsonObject;
  readonly exitCode: number;
}

export interface BuildFacts {
  readonly version: string;
  /** When the program was built, as the file system says. */
  readonly buildTime: string;
}

/** Said of the keeper when there is none, in the original's words. */
const NO_HA = 'Not Known Due to HA Disconnected';
const EXIT_FAILURE = 1;

export class VfeCommands {
  readonly #registry: Registry;
  readonly #build: BuildFacts;
  readonly #keeperBuild: () => BuildFacts | null;

  /** `keeperBuild` tells of the keeper; null while none is connected. */
  constructor(registry: Registry, build: BuildFacts, keeperBuild: () => BuildFacts | null) {
    this.#registry = registry;
    this.#build = build;
    this.#keeperBuild = keeperBuild;
  }

  async run(command: string, params: unknown): Promise<CommandAnswer> {
    const request = readVfeRequest(command, params);
    switch (request?.command) {
      case 'version': {
        const keeper = this.#keeperBuild();
        return ending(0, {
          'vfe-vhostd version': this.#build.version,
          'vfe-vhostd build time': this.#build.buildTime,
          'vfe-vhostd-ha version': keeper?.version ?? NO_HA,
          'vfe-vhostd-ha build time': keeper?.buildTime ?? NO_HA,
        });
      }
      case 'mgmtpf':
        return (await this.#mgmtpf(request.params)) ?? meaningless('pf');
      case 'vf':
        return (await this.#vf(request.params)) ?? meaningless('vf');
      case undefined:
        return meaningless(command === 'mgmtpf' ? 'pf' : command);
    }
  }

  async #mgmtpf({ add, remove, list, dev }: VfeParams<'mgmtpf'>): Promise<CommandAnswer | null> {
    if (chosen(add, remove, list) !== 1) return null;
    if (list) {
      const devices = this.#registry.pfs().map((pf) => ({ pf }));
      return devices.length > 0 ? ending(0, { devices }) : ending(VfeError.NO_PF_DEVICE);
    }
    if (dev === undefined) return ending(VfeError.NO_PF_NAME);
    const bdf = canonicalBdf(dev);
    if (bdf === null) return ending(VfeError.NO_PF_DEVICE);
    return this.#changed(add ? this.#registry.addPf(bdf) : this.#registry.removePf(bdf));
  }

  async #vf(params: VfeParams<'vf'>): Promise<CommandAnswer | null> {
    const { add, remove, list, info, vfdev, mgmtpf, socket_file, uuid } = params;
    if (chosen(add, remove, list, info) !== 1) return null;
    if (list) return this.#listVfs(mgmtpf);
    if (vfdev === undefined) return ending(VfeError.NO_VF_NAME);
    const bdf = canonicalBdf(vfdev);
    if (bdf === null) return ending(VfeError.NO_VF_DEVICE);
    if (add) return this.#changed(await this.#registry.addFunction(bdf, socket_file, uuid ?? ''));
    if (remove) return this.#changed(await this.#registry.removeFunction(bdf));
    const served = this.#registry.find(bdf);
    return served === undefined ? ending(VfeError.NO_VF_DEVICE) : ending(0, { device: describe(served) });
  }

  /** Something was changed, or could not be; what is said now is so for a successor, too. */
  async #changed(errno: number): Promise<CommandAnswer> {
    await this.#registry.kept();
    return ending(errno);
  }

  #listVfs(pf: string | undefined): CommandAnswer {
    if (pf === undefined) return ending(VfeError.NO_PF_NAME);
    const bdf = canonicalBdf(pf);
    const functions = bdf === null ? VfeError.NO_PF_DEVICE : this.#registry.functionsOf(bdf);
    if (typeof functions === 'number') return ending(functions);
    return ending(0, { devices: functions.map(describe) });
  }
}

/** One function, as `vf -l` and `vf -i` show it. While the function is away there is little to say. */
function describe(served: ServedFunction): JsonObject {
  const { bdf, uuid, vhostSocket } = served.options;
  const { profile } = served;
  if (profile === null) return { vf: bdf, probed: false, vm_uuid: uuid, socket_file: vhostSocket };
  return {
    vf: bdf,
    probed: true,
    msix_num: String(profile.vectors),
    queue_num: String(profile.queueCount),
    queue_size: String(profile.queueSizeMax),
    device_feature: featureObject(profile.features),
    mtu: String(profile.mtuBytes),
    mac: Array.from(profile.mac, (byte) => byte.toString(16).padStart(2, '0').toUpperCase()).join(':'),
    vm_uuid: uuid,
    socket_file: vhostSocket,
    configured: served.configured,
  };
}

const chosen = (...actions: (boolean | undefined)[]): number =>
  actions.filter((action) => action === true).length;

function ending(errno: number, members: JsonObject = {}): CommandAnswer {
  const outcome = errno === 0 ? SUCCESS : outcomeOf(errno);
  return {
    answer: { ...members, errno: outcome.errno, errstr: outcome.errstr },
    exitCode: errno === 0 ? 0 : EXIT_FAILURE,
  };
}

function meaningless(what: string): CommandAnswer {
  return { answer: { Error: `Invalid ${what} parameters in RPC message` }, exitCode: EXIT_FAILURE };
}
