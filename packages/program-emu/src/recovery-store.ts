/**
 * recovery-store.ts: the recovery files, and beside them what the guide's keys have no room for.
 *
 * Theory
 *   Each function has a file named after its VUID, with the guide's keys. It is written whole under another name,
 *   flushed, renamed, and the directory flushed; many at once share the flush of the directory. What the keys do not
 *   say stands in one document for all functions, with the firmware's values under which they were made: when those are
 *   others now, nothing that was saved is true any more and all of it goes. While nobody can read what they are now,
 *   nothing goes, and the document goes on saying what they were. It is written before the files: a file that is there
 *   finds in it what belongs to it, and not what belonged to a former function of the same place.
 *   A file that cannot be used is reported and renamed to `.bad`, so that nobody trips over it twice and somebody can
 *   look at it.
 *
 * Invariants
 *   I1  a file is removed before its function is, and written after its function exists: what a crash leaves is a
 *       function without a file, which gets one again, never a file that brings back what was removed.
 *   I2  everything is removed only when both are known, the values of now and those of then, and differ.
 *   I3  who asks for files to be written or removed is told whether they are; the log has the guide's row as well.
 *   I4  `load` never fails: what cannot be read counts as not there, and what cannot be removed stays until it can be.
 *       While files for other values of the firmware are there nothing is written that would make them true.
 *
 * Limits  RECOVERY_BYTES_MAX each, DEVICES_BYTES_MAX for the document; WRITERS at once.
 */
import { mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { open, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import {
  type ControlErrorName,
  type DevicePlan,
  type FirmwareValues,
  failure,
  isVuid,
  RECOVERY_BYTES_MAX,
  type Recovery,
  type RecoveryDocument,
  type RecoveryProblem,
  type Remembered,
  readDocument,
  readRecovery,
  restoreFirmwareValues,
  unusable,
  writeDocument,
  writeRecovery,
} from '@virtnet/engine-control';
import { messageOf, readText, replaceText, type VirtnetPaths } from '@virtnet/host-ipc';
import type { HostServices } from './device-parts.js';

/** A plan is 700 bytes of JSON. */
const DEVICES_BYTES_MAX = 4 * 1024 * 1024;
/** Files written at the same time: the flushes of a disk are worth joining. */
const WRITERS = 8;
/** Files read before everything else that waits has its turn. */
const READ_AT_ONCE = 32;
const FILE_MODE = 0o600;
const DIRECTORY_MODE = 0o700;
const BAD = '.bad';
const DRAFT = '.tmp';

export const NOTHING: Remembered = { recoveries: new Map(), plans: new Map(), requests: new Map() };

export class RecoveryStore {
  readonly #paths: VirtnetPaths;
  readonly #enabled: boolean;
  readonly #log: HostServices['log'];
  /** Files that are there were made for other values of the firmware. */
  #obsolete = false;
  /** The firmware's values as they stand in the file; empty: not known. */
  #firmware = '';

  constructor(paths: VirtnetPaths, enabled: boolean, log: HostServices['log']) {
    this.#paths = paths;
    this.#enabled = enabled;
    this.#log = log;
  }

  /**
   * Reads what can be read; nothing when recovery is off or the firmware's values have changed since. `firmware`: what they
   * are now; null while nobody can tell.
   */
  async load(firmware: FirmwareValues | null): Promise<Remembered> {
    if (!this.#enabled) return NOTHING;
    const devices = this.#readDevices();
    this.#firmware = devices?.firmware ?? '';
    if (firmware !== null && this.#hasOther(JSON.stringify(firmware))) {
      this.#log('info', 'the firmware configuration has changed: recovery files are removed');
      this.#obsolete = true;
      this.#cleared();
      return NOTHING;
    }
    const recoveries = new Map<string, Recovery>();
    for (const name of this.#names()) {
      if (name.endsWith(BAD)) continue;
      if (name.endsWith(DRAFT)) {
        this.#removeDraft(join(this.#paths.recovery, name));
        continue;
      }
      const recovery = this.#read(name);
      if ('problem' in recovery) this.#setAside(join(this.#paths.recovery, name), recovery);
      else recoveries.set(name, recovery);
      if (recoveries.size % READ_AT_ONCE === 0) await new Promise((resolve) => setImmediate(resolve));
    }
    const { plans, requests } = devices ?? NOTHING;
    return { recoveries, plans, requests };
  }

  /** The firmware's values under which what is saved was made; null when that is not known. */
  get firmware(): FirmwareValues | null {
    return restoreFirmwareValues(this.#firmware);
  }

  /** Whether what is saved was made under other values than these. An entry that another version lacked had its default. */
  #hasOther(firmware: string): boolean {
    const saved = this.firmware;
    return saved !== null && this.#firmware !== firmware && JSON.stringify(saved) !== firmware;
  }

  /**
   * Writes the files of `plans`; `all` are the functions that exist now, under values as `load` takes them, `requests` the
   * commands that asked for them. Returns whether all is safely there; what can be written is, and nothing is written any
   * more afterwards.
   */
  async save(
    plans: readonly DevicePlan[],
    all: readonly DevicePlan[],
    firmware: FirmwareValues | null,
    requests: Remembered['requests'] = NOTHING.requests,
  ): Promise<boolean> {
    if (!this.#enabled) return true;
    const waiting = [...(this.#obsolete ? all : plans)];
    if (this.#obsolete && !this.#cleared()) return false;
    if (firmware !== null) this.#firmware = JSON.stringify(firmware);
    const attempts = new Attempts();
    await attempts.make(this.#writeDevices(all, requests));
    const writer = async () => {
      for (let plan = waiting.pop(); plan !== undefined; plan = waiting.pop())
        await attempts.make(this.#write(plan));
    };
    await Promise.all(Array.from({ length: WRITERS }, writer));
    await attempts.make(this.#flushDirectory());
    const { reason } = attempts;
    if (reason !== null) this.#say('a recovery file could not be written', 'REC_FILE_CREATE', { reason });
    return reason === null;
  }

  /**
   * Removes the files of functions that are going to be removed. Returns whether none of them can bring its function
   * back: with recovery off nobody reads what may remain.
   */
  async forget(vuids: readonly string[]): Promise<boolean> {
    if (vuids.length === 0) return true;
    const attempts = new Attempts();
    for (const vuid of vuids) await attempts.make(rm(join(this.#paths.recovery, vuid), { force: true }));
    await attempts.make(this.#flushDirectory());
    const { reason } = attempts;
    if (reason !== null) this.#say('a recovery file could not be removed', 'REC_MAC_DEL', { reason });
    return reason === null || !this.#enabled;
  }

  /** Removes everything but what was set aside. */
  clear(): void {
    for (const name of this.#listed()) {
      if (!name.endsWith(BAD)) rmSync(join(this.#paths.recovery, name), { force: true, recursive: true });
    }
    rmSync(this.#paths.devices, { force: true });
    this.#obsolete = false;
    this.#firmware = '';
  }

  get enabled(): boolean {
    return this.#enabled;
  }

  /** Whether everything could be removed; else it was said why not. */
  #cleared(): boolean {
    try {
      this.clear();
      return true;
    } catch (error) {
      this.#say('recovery files cannot be removed', 'REC_MAC_DEL', { reason: messageOf(error) });
      return false;
    }
  }

  /** The names of all files. A directory that is missing is made again. */
  #listed(): string[] {
    mkdirSync(this.#paths.recovery, { recursive: true, mode: DIRECTORY_MODE });
    return readdirSync(this.#paths.recovery);
  }

  /** The same; none, which is said, where the directory cannot be read. */
  #names(): string[] {
    try {
      return this.#listed();
    } catch (error) {
      this.#say('recovery files cannot be read', 'REC_CONFIG_LOAD', { reason: messageOf(error) });
      return [];
    }
  }

  #removeDraft(path: string): void {
    try {
      rmSync(path, { force: true, recursive: true });
    } catch (error) {
      const facts = { path, reason: messageOf(error) };
      this.#log('warn', 'what was left of writing a recovery file cannot be removed', facts);
    }
  }

  #read(name: string): Recovery | RecoveryProblem {
    if (!isVuid(name)) return unusable('its name is no VUID');
    try {
      return readRecovery(readText(join(this.#paths.recovery, name), RECOVERY_BYTES_MAX) ?? '', name);
    } catch (error) {
      return unusable(messageOf(error));
    }
  }

  #setAside(path: string, { row, problem: reason }: RecoveryProblem): void {
    this.#say('a recovery file cannot be used and is set aside', row, { path, reason });
    try {
      rmSync(`${path}${BAD}`, { force: true, recursive: true });
      renameSync(path, `${path}${BAD}`);
    } catch (error) {
      this.#log('error', 'it cannot be set aside either', { path, reason: messageOf(error) });
    }
  }

  /** An error of the log, with the number and text of its row. */
  #say(message: string, row: ControlErrorName, facts: Readonly<Record<string, unknown>>): void {
    this.#log('error', message, { ...failure(row), ...facts });
  }

  async #write(plan: DevicePlan): Promise<void> {
    const path = join(this.#paths.recovery, plan.vuid);
    const draft = `${path}${DRAFT}`;
    try {
      await rm(draft, { force: true, recursive: true });
      const file = await open(draft, 'wx', FILE_MODE);
      try {
        await file.writeFile(writeRecovery(plan));
        await file.datasync();
      } finally {
        await file.close();
      }
      await rename(draft, path);
    } catch (error) {
      await rm(draft, { force: true, recursive: true }).catch(() => {}); // the write's own error says it
      throw error;
    }
  }

  async #flushDirectory(): Promise<void> {
    const directory = await open(this.#paths.recovery, 'r');
    try {
      await directory.sync();
    } finally {
      await directory.close();
    }
  }

  async #writeDevices(all: readonly DevicePlan[], requests: Remembered['requests']): Promise<void> {
    const plans = new Map(all.map((plan) => [plan.vuid, plan]));
    replaceText(this.#paths.devices, writeDocument({ firmware: this.#firmware, plans, requests }));
  }

  #readDevices(): RecoveryDocument | null {
    let problem: string;
    try {
      const text = readText(this.#paths.devices, DEVICES_BYTES_MAX);
      if (text === null) return null;
      const document = readDocument(text);
      if (typeof document !== 'string') return document;
      problem = document;
    } catch (error) {
      problem = messageOf(error);
    }
    this.#setAside(this.#paths.devices, unusable(problem));
    return null;
  }
}

/** Several things that are all tried, whatever becomes of each. */
class Attempts {
  /** Why the first that failed did; null when none has. */
  reason: string | null = null;

  async make(action: Promise<unknown>): Promise<void> {
    try {
      await action;
    } catch (error) {
      this.reason ??= messageOf(error);
    }
  }
}
