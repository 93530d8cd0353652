/**
 * files.ts: the recovery files and the document beside them, on a disk that outlives every process.
 *
 * Theory
 *   Follows program-emu's RecoveryStore, with the texts of engine-control. A file is replaced as a whole or not at all,
 *   and whoever writes or removes several may die between any two of them.
 */
import {
  type DevicePlan,
  type Recovery,
  type RecoveryDocument,
  type Remembered,
  readDocument,
  readRecovery,
  writeDocument,
  writeRecovery,
} from '@virtnet/engine-control';
import type { SimWorld } from './world.js';

const NOTHING: RecoveryDocument = { firmware: '', plans: new Map(), requests: new Map() };

export class SimFiles {
  readonly #world: SimWorld;
  /** By VUID. */
  readonly #recoveries = new Map<string, string>();
  #document: string | null = null;

  constructor(world: SimWorld) {
    this.#world = world;
  }

  load(): Remembered {
    const document = this.#document === null ? NOTHING : readDocument(this.#document);
    if (typeof document === 'string') this.#world.fail(`the document beside the files: ${document}`);
    const recoveries = new Map<string, Recovery>();
    for (const [vuid, text] of this.#recoveries) {
      const recovery = readRecovery(text, vuid);
      if ('problem' in recovery) this.#world.fail(`the recovery file of ${vuid}: ${recovery.problem}`);
      recoveries.set(vuid, recovery);
    }
    return { ...document, recoveries };
  }

  /** Writes the files of `plans`; `all` are the functions that exist, `requests` the commands that asked for them, by VUID. */
  save(
    plans: readonly DevicePlan[],
    all: readonly DevicePlan[],
    requests: ReadonlyMap<string, string>,
  ): void {
    const known = new Map(all.map((plan) => [plan.vuid, plan]));
    this.#document = writeDocument({ ...NOTHING, plans: known, requests });
    this.#world.point();
    for (const plan of plans) {
      this.#recoveries.set(plan.vuid, writeRecovery(plan));
      this.#world.point();
    }
  }

  /** Removes the file of a function that is going to be removed. */
  forget(vuid: string): void {
    this.#recoveries.delete(vuid);
    this.#world.point();
  }
}
