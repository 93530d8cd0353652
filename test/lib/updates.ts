/** Live updates of the running service, as an operator does them. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Service } from './service.ts';
import { sleep, until } from './waiting.ts';

const UPDATE_MS_MAX = 180_000;
/** Of an update, in their order. */
export const PHASES = ['start', 'check', 'switch', 'confirm', 'keeper', 'standby', 'controller'] as const;
export type Phase = (typeof PHASES)[number];

/** The answer of `virtnet update -t`. */
export interface UpdateStatus {
  readonly status: 'ongoing' | 'inactive';
  readonly 'last live update status': string;
  readonly 'time_used (s)': number;
  readonly reason?: string;
  readonly phase: string;
  readonly 'phases (s)': Readonly<Record<string, number>>;
  readonly 'device pauses (ms)': { devices: number; p50: number; p99: number; max: number };
}

export interface Versions {
  readonly original: string;
  readonly destination: string;
}

/** `virtnet version`. */
export async function versions(service: Service): Promise<Versions> {
  const [running, installed] = await service.answer<Record<string, string>[]>('version');
  return {
    original: running?.['Original Controller'] ?? '',
    destination: installed?.['Destination Controller'] ?? '',
  };
}

/** `virtnet update -s`, then `-t` until it is over. `meanwhile` runs with it. */
export async function update(
  service: Service,
  meanwhile: (ongoing: () => boolean) => Promise<void> = async () => {},
): Promise<UpdateStatus> {
  await service.answer('update', '-s');
  let ongoing = true;
  const ended = updateOver(service).finally(() => {
    ongoing = false;
  });
  const [status] = await Promise.all([ended, meanwhile(() => ongoing)]);
  return status;
}

/** Asks `update -t` until it is over. */
export function updateOver(service: Service): Promise<UpdateStatus> {
  return until('the end of the update', UPDATE_MS_MAX, async () => {
    const status = await service.answer<UpdateStatus>('update', '-t');
    if (status.status === 'ongoing') await sleep(50);
    return status.status === 'inactive' ? status : null;
  });
}

/**
 * Waits until the update under way has come to `phase`, or is seen past it: some take less than a look. The phase that was
 * seen; null: it was over before.
 */
export function phaseReached(service: Service, phase: Phase): Promise<Phase | null> {
  const file = join(service.root, 'run/virtnet/update.json');
  const look = () => {
    const record = JSON.parse(readFileSync(file, 'utf8')) as { phase: Phase; result: string | null };
    if (record.phase === phase) return phase;
    if (record.result !== null) return 'over' as const;
    return PHASES.indexOf(record.phase) >= PHASES.indexOf(phase) ? record.phase : null;
  };
  return until(`phase ${phase}`, UPDATE_MS_MAX, look, 1).then((seen) => (seen === 'over' ? null : seen));
}

/** Resolves when an active emulator and a warm standby are there. */
export function settled(service: Service): Promise<void> {
  return until('an active emulator and a warm standby', UPDATE_MS_MAX, async () => {
    const emulators = await service.emulators();
    const active = emulators.some(({ role, ready }) => role === 'active' && ready);
    return active && emulators.some(({ role, ready }) => role === 'standby' && ready) ? true : null;
  }).then(() => undefined);
}
