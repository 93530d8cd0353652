/**
 * update-record.ts: what is known of the last live update; a file in run/virtnet, so that the controller that an update
 * starts in its own place, or one that follows a controller that died over it, knows how far it had come.
 *
 * How long something took is told by the clock that nobody sets, which all processes of a boot share; a record of a former
 * build does not say it, and then it is the clock on the wall.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { replaceVolatile, type VirtnetPaths } from '@virtnet/host-ipc';
import { monotonicMs } from '@virtnet/host-linux';
import type { Build } from './builds.js';

/** In their order. */
export const updatePhases = [
  'start',
  'check',
  'switch',
  'confirm',
  'keeper',
  'standby',
  'controller',
] as const;
export type UpdatePhase = (typeof updatePhases)[number];

export const UPDATE_RECORD_SCHEMA = 1;

export interface UpdateRecord {
  readonly schema: typeof UPDATE_RECORD_SCHEMA;
  readonly kind: 'update' | 'restart';
  readonly original: string;
  readonly destination: string;
  /** Directory of the destination's build, of which there may be several of one version; a former build does not say. */
  readonly destinationRoot?: string;
  /** Milliseconds since the epoch. */
  readonly startedAt: number;
  /** The phase under way, or in which it ended. */
  phase: UpdatePhase;
  /** When that phase began. */
  phaseAt: number;
  /** The same by CLOCK_MONOTONIC, in milliseconds. */
  phaseAtMonotonic?: number;
  result: 'success' | 'failed' | null;
  /** Why it failed, and what was done about it. */
  reason: string | null;
  timeUsedMs: number;
  readonly phasesMs: Partial<Record<UpdatePhase, number>>;
  /** How long each device was worked by nobody, sorted. */
  pausesMs: number[];
}

export function newRecord(
  kind: UpdateRecord['kind'],
  original: string,
  destination: Pick<Build, 'version' | 'root'>,
): UpdateRecord {
  const now = Date.now();
  return {
    schema: UPDATE_RECORD_SCHEMA,
    kind,
    original,
    destination: destination.version,
    destinationRoot: destination.root,
    startedAt: now,
    phase: 'start',
    phaseAt: now,
    phaseAtMonotonic: monotonicMs(),
    result: null,
    reason: null,
    timeUsedMs: 0,
    phasesMs: {},
    pausesMs: [],
  };
}

/** The next phase begins. */
export function enterPhase(record: UpdateRecord, phase: UpdatePhase): void {
  closePhase(record);
  record.phase = phase;
}

export function finish(record: UpdateRecord, result: 'success' | 'failed', reason: string | null): void {
  closePhase(record);
  record.result = result;
  record.reason = reason;
  record.timeUsedMs = Object.values(record.phasesMs).reduce((sum, ms) => sum + ms, 0);
}

function closePhase(record: UpdateRecord): void {
  const now = Date.now();
  const monotonic = monotonicMs();
  const { phaseAtMonotonic: begun } = record;
  const isOfThisBoot = begun !== undefined && begun <= monotonic;
  const tookMs = isOfThisBoot ? monotonic - begun : Math.max(0, now - record.phaseAt);
  record.phasesMs[record.phase] = (record.phasesMs[record.phase] ?? 0) + tookMs;
  record.phaseAt = now;
  record.phaseAtMonotonic = monotonic;
}

const fileOf = (paths: VirtnetPaths): string => join(paths.run, 'update.json');

/** Throws when there is no room for it; the former one is there then. */
export function writeRecord(paths: VirtnetPaths, record: UpdateRecord): void {
  replaceVolatile(fileOf(paths), JSON.stringify(record), 0o600);
}

/** Null when there is none, or none of this schema: the past of an update is not worth a failed start. */
export function readRecord(paths: VirtnetPaths): UpdateRecord | null {
  try {
    const value: unknown = JSON.parse(readFileSync(fileOf(paths), 'utf8'));
    return isRecord(value) ? value : null;
  } catch {
    return null;
  }
}

function isRecord(value: unknown): value is UpdateRecord {
  if (typeof value !== 'object' || value === null) return false;
  const {
    schema,
    kind,
    original,
    destination,
    destinationRoot,
    startedAt,
    phase,
    phaseAt,
    phaseAtMonotonic = 0,
    result,
    reason,
    timeUsedMs,
    phasesMs,
    pausesMs,
  } = value as Record<string, unknown>;
  return (
    schema === UPDATE_RECORD_SCHEMA &&
    (kind === 'update' || kind === 'restart') &&
    typeof original === 'string' &&
    typeof destination === 'string' &&
    (destinationRoot === undefined || typeof destinationRoot === 'string') &&
    [startedAt, phaseAt, phaseAtMonotonic, timeUsedMs].every((time) => Number.isFinite(time)) &&
    updatePhases.some((name) => name === phase) &&
    (result === null || result === 'success' || result === 'failed') &&
    (reason === null || typeof reason === 'string') &&
    typeof phasesMs === 'object' &&
    phasesMs !== null &&
    Object.values(phasesMs).every((ms) => Number.isFinite(ms)) &&
    Array.isArray(pausesMs) &&
    pausesMs.every((ms) => Number.isFinite(ms))
  );
}
