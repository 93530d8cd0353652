/**
 * live-update.ts: one move of the whole service to another build, or to the same one again, and what is known of the
 * last one.
 *
 * Theory
 *   service-move.ts replaces emulators and state keeper. What is left is this process: it becomes the destination's
 *   controller by exec, keeps its pid, and finds in the record (update-record.ts) what it has to end.
 *   A controller that died over a move is followed by one of either build. Whichever it is, it brings everything that
 *   it adopted to its own build, and the record says whether that was the destination. Of a restart, whose destination is
 *   where it began, nobody can tell then what was replaced: it has failed.
 *
 * Invariants
 *   I1  one move at a time.
 *   I2  every move that began ends in the record, by whoever is the controller then. Where the record cannot be written,
 *       the move goes on; what a following controller reads is what could be written last.
 *
 * Limits  CHECK_MS.
 */
import { execFile } from 'node:child_process';
import { type Logger, messageOf, type VirtnetPaths } from '@virtnet/host-ipc';
import type { Build } from './builds.js';
import { ServiceMove, TOLD_TO_END, UpdateFailure } from './service-move.js';
import type { Supervisor } from './supervisor.js';
import {
  enterPhase,
  finish,
  newRecord,
  readRecord,
  type UpdatePhase,
  type UpdateRecord,
  writeRecord,
} from './update-record.js';

/** Loading a program takes half a second; on a machine at ten times its load, five. */
const CHECK_MS = 15_000;

export interface LiveUpdateOptions {
  readonly supervisor: Supervisor;
  readonly paths: VirtnetPaths;
  readonly log: Logger;
  readonly running: Build;
  /** Becomes `build`'s controller; returns only by throwing. */
  readonly replaceSelf: (build: Build) => Promise<never>;
}

export class LiveUpdate {
  readonly #options: LiveUpdateOptions;
  #record: UpdateRecord | null;
  /** The record could not be written; said once. */
  #unwritten = false;

  constructor(options: LiveUpdateOptions) {
    this.#options = options;
    this.#record = readRecord(options.paths);
  }

  get record(): UpdateRecord | null {
    return this.#record;
  }

  /** A move is under way. */
  get ongoing(): boolean {
    return this.#record?.result === null;
  }

  /** Begins to move to `destination`. False when a move is under way already. */
  begin(kind: UpdateRecord['kind'], destination: Build): boolean {
    if (this.ongoing) return false;
    const record = newRecord(kind, this.#options.running.version, destination);
    this.#record = record;
    void this.#end(record, async () => {
      await this.#carryOut(record, destination);
      return null; // it does not come back from a success
    });
    return true;
  }

  /** The service is up: ends what a former controller began, by its exec or by its death. */
  resume(): void {
    const record = this.#record;
    if (record?.result !== null) return;
    const { running } = this.#options;
    const isDestination =
      record.destinationRoot === undefined
        ? running.version === record.destination
        : running.root === record.destinationRoot;
    const arrived = record.phase === 'controller' && isDestination;
    const why = `the controller ended in phase ${record.phase}`;
    void this.#end(record, async () => {
      // The record goes on to say in which phase the move ended.
      if (!arrived) await this.#move(record, running, () => {}).to(running, false);
      // Everything is of this build now; but a restart was to replace what was so before.
      return arrived || (isDestination && record.kind === 'update') ? null : why;
    });
  }

  /** Carries `action` out, which resolves to a reason why the move did not succeed, and files what came of it. */
  async #end(record: UpdateRecord, action: () => Promise<string | null>): Promise<void> {
    const reason = await action().catch((error: unknown) => {
      this.#options.log.error({ phase: record.phase, error }, 'the live update failed');
      return messageOf(error);
    });
    finish(record, reason === null ? 'success' : 'failed', reason);
    this.#save(record);
    const { kind, original, destination, result } = record;
    this.#options.log.info({ kind, original, destination, result, reason }, 'live update ended');
  }

  async #carryOut(record: UpdateRecord, destination: Build): Promise<void> {
    const move = this.#move(record, this.#options.running, (phase) => this.#enter(record, phase));
    this.#enter(record, 'start');
    await proveLoadable(destination, 'controller', destination.controllerMain);
    await proveLoadable(destination, 'state keeper', destination.mains.ha);
    await move.to(destination, true);
    if (this.#options.supervisor.stopping) throw new UpdateFailure(TOLD_TO_END);
    this.#enter(record, 'controller');
    try {
      await this.#options.replaceSelf(destination);
    } catch (error) {
      await move.back(error);
    }
  }

  #move(record: UpdateRecord, former: Build, enter: (phase: UpdatePhase) => void): ServiceMove {
    const { supervisor, log } = this.#options;
    return new ServiceMove({ supervisor, log, former, enter, pausesMs: record.pausesMs });
  }

  #enter(record: UpdateRecord, phase: UpdatePhase): void {
    enterPhase(record, phase);
    this.#save(record);
    this.#options.log.info({ kind: record.kind, phase, destination: record.destination }, 'live update');
  }

  #save(record: UpdateRecord): void {
    record.pausesMs.sort((a, b) => a - b);
    try {
      writeRecord(this.#options.paths, record);
      this.#unwritten = false;
    } catch (error) {
      if (!this.#unwritten) this.#options.log.warn({ error }, 'the record of the live update is not written');
      this.#unwritten = true;
    }
  }
}

/** A program that cannot even be loaded must not be found out when nobody is left who could go back. */
function proveLoadable(build: Build, what: string, main: string): Promise<void> {
  return new Promise((resolve, reject) => {
    execFile(
      build.node,
      ['--no-warnings', main, '--check'],
      { timeout: CHECK_MS },
      (error, stdout, stderr) => {
        if (error === null && stdout.trim() === build.version) resolve();
        else {
          const said = stderr.trim() || stdout.trim() || String(error);
          reject(new UpdateFailure(`the destination’s ${what} does not start: ${said}`));
        }
      },
    );
  });
}
