/**
 * test-service.ts: an emulator with everything around it but processes, threads and TAPs: its commands, on files of its
 * own, as often started anew as a test likes. No keeper keeps anything: what a start finds are the files.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  assign,
  DEFAULT_CONF,
  initialFirmwareStore,
  powerCycledFirmwareStore,
  recoveryDeleted,
  resetFirmwareStore,
  type VirtnetConf,
} from '@virtnet/engine-control';
import {
  type Logger,
  readFirmwareStore,
  ShelfClient,
  type VirtnetPaths,
  virtnetPaths,
  writeFirmwareStore,
} from '@virtnet/host-ipc';
import { Arena, Poller } from '@virtnet/host-linux';
import { Commands } from '../commands.js';
import type { Datapath } from '../datapath.js';
import { type Device, Emulator } from '../emulator.js';
import { InlineDatapath } from './inline-datapath.js';

/** A line of the log: its level, and its fields with the message as `msg`. */
export interface LoggedLine {
  readonly level: string;
  readonly msg: string;
  readonly [field: string]: unknown;
}

export interface TestServiceOptions {
  /** Assignments over the firmware's values at first, as `virtnet-mlxconfig s` takes them. */
  readonly firmware: readonly string[];
  /** After `virtnet-mlxconfig reset`: the assignments are over the factory's values. */
  readonly reset?: boolean;
  readonly conf?: Partial<VirtnetConf>;
}

export class TestService {
  readonly poller = new Poller();
  readonly paths: VirtnetPaths;
  /** What was logged. */
  readonly said: LoggedLine[] = [];
  commands!: Commands;
  readonly #root = mkdtempSync(join(tmpdir(), 'virtnet-'));
  readonly #arena = Arena.reserve(2 ** 32);
  #conf: VirtnetConf;
  #emulator!: Emulator;
  #datapath!: InlineDatapath;

  constructor({ firmware, reset = false, conf = {} }: TestServiceOptions) {
    const software = { ...DEFAULT_CONF.software, representor: 'sink' as const };
    this.#conf = { ...DEFAULT_CONF, software, ...conf };
    this.paths = virtnetPaths(this.#root);
    this.poller.start();
    const first = initialFirmwareStore();
    const assigned = assign(reset ? resetFirmwareStore(first) : first, firmware);
    if ('problem' in assigned) throw new Error(assigned.problem);
    const store = recoveryDeleted(powerCycledFirmwareStore(assigned.store));
    const problem = writeFirmwareStore(this.paths.fwconfig, store);
    if (problem !== null) throw new Error(problem.problem);
  }

  async start(): Promise<void> {
    this.#datapath = new InlineDatapath(this.#arena);
    this.#emulator = new Emulator({
      arena: this.#arena,
      poller: this.poller,
      datapath: this.#datapath as unknown as Datapath,
      shelf: new ShelfClient({ path: this.paths.haSocket, poller: this.poller }),
      replyRing: null,
      paths: this.paths,
      log: this.#logger(),
      conf: this.#conf,
      reserve: false,
      urgent: true,
      progressFd: null,
      beat: () => {},
    });
    this.commands = new Commands(this.#emulator);
    this.#emulator.onActive = (reason) => this.commands.provision(reason);
    await this.#emulator.promote('first');
  }

  /** Lets `assignments` be the firmware's values at the next power cycle, as `virtnet-mlxconfig s` does. */
  configure(assignments: readonly string[]): void {
    const read = readFirmwareStore(this.paths.fwconfig);
    if ('problem' in read) throw new Error(read.problem);
    const assigned = assign(read.store, assignments);
    if ('problem' in assigned) throw new Error(assigned.problem);
    const problem = writeFirmwareStore(this.paths.fwconfig, assigned.store);
    if (problem !== null) throw new Error(problem.problem);
  }

  /** Lets the next start have another configuration. */
  reconfigure(change: Partial<VirtnetConf>): void {
    this.#conf = { ...this.#conf, ...change };
  }

  get emulator(): Emulator {
    return this.#emulator;
  }

  /** A device that there is. */
  device(vuid: string): Device {
    return [...this.#emulator.devices.values()].find(({ host }) => host.vuid === vuid)!;
  }

  #logger(): Logger {
    const say = (level: string) => (fields: object | string, message?: string) => {
      const line = typeof fields === 'string' ? { msg: fields } : { ...fields, msg: message ?? '' };
      this.said.push({ level, ...line });
    };
    return Object.fromEntries(
      ['debug', 'info', 'warn', 'error'].map((level) => [level, say(level)]),
    ) as unknown as Logger;
  }

  /** Ends as a service does that nobody keeps the devices for. */
  async stop(): Promise<void> {
    await this.#emulator.shutdown(true);
    this.#datapath.close();
  }

  async close(): Promise<void> {
    await this.stop();
    await this.poller.stop();
    rmSync(this.#root, { recursive: true, force: true });
  }
}
