/** Walks an action over every instant at which the active emulator may die (kill-points.mjs). */
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { isRunning } from './processes.ts';
import type { Scene } from './scene.ts';
import type { Service } from './service.ts';
import { until } from './waiting.ts';

export const PRELOAD = new URL('./kill-points.mjs', import.meta.url).href;
/** Every point, and not only those that are left by `distinct`. */
export const ALL_KILL_POINTS = process.env.VIRTNET_TEST_ALL_KILL_POINTS !== undefined;
/** For one walk; there are some hundred points in all, and a kill at each takes seconds on a busy machine. */
export const WALK_TIMEOUT_MS = ALL_KILL_POINTS ? 1_800_000 : 300_000;
/** The last points come behind the answer. */
const DEATH_MS = 1_000;

/** What a service needs whose emulators are to have the points. */
export function killPointsEnv(scene: Scene): Readonly<Record<string, string>> {
  return { NODE_OPTIONS: `--import=${PRELOAD}`, VIRTNET_TEST_KILL_POINTS: scene.path('kill-points') };
}

/** Carries `action` out without a kill; the points it passes. */
async function note(scene: Scene, service: Service, action: () => Promise<void>): Promise<string[]> {
  const file = scene.path('kill-points');
  rmSync(`${file}.noted`, { force: true });
  writeFileSync(file, `${service.runningPid('emu')} note`);
  await action();
  rmSync(file);
  return existsSync(`${file}.noted`) ? readFileSync(`${file}.noted`, 'utf8').trim().split('\n') : [];
}

/**
 * The end of one step and the beginning of the next are the same to everybody outside; and a step that is taken several
 * times, in the same way, is walked once.
 */
function distinct(points: readonly string[]): number[] {
  const numbers = points.map((_, index) => index + 1);
  if (ALL_KILL_POINTS) return numbers;
  return numbers.filter((number) => {
    const next = points[number];
    if (points.indexOf(points[number - 1]!) !== number - 1) return false;
    return points[number - 1]!.startsWith('before ') || next === undefined || next.startsWith('after ');
  });
}

/**
 * `action` must not fail, whatever dies meanwhile; `check` says what must be so afterwards. Returns where the emulator
 * died, as often as it did.
 */
export async function killAtEveryPoint(
  scene: Scene,
  service: Service,
  action: () => Promise<void>,
  check: (where: string) => Promise<void>,
): Promise<string[]> {
  const points = await note(scene, service, action);
  await check('nowhere');
  const died: string[] = [];
  for (const number of distinct(points)) {
    const pid = service.runningPid('emu');
    const where = `${number}: ${points[number - 1]}`;
    writeFileSync(scene.path('kill-points'), `${pid} die ${number}`);
    try {
      await action();
      const death = await until('its death', DEATH_MS, () => !isRunning(pid)).catch(() => false);
      if (!death) continue; // this time there were fewer steps
      await service.recovered(pid);
      await check(where);
    } catch (error) {
      const kinds = [...new Set(points)].join(', '); // of thousands, when a driver works its functions
      throw new Error(`killed at point ${where} of ${points.length}: ${kinds}`, { cause: error });
    }
    died.push(where);
  }
  process.stdout.write(`killed at ${died.length} of ${points.length} points\n`);
  return died;
}
