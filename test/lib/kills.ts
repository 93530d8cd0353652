/** Killing the active emulator again and again, at random instants, while something else goes on. */
import type { Kill, Service } from './service.ts';
import { sleep } from './waiting.ts';

/** Longest wait between a standby that is ready and the kill. */
const INSTANT_MS_MAX = 150;

export interface Killing {
  readonly count: number;
  readonly random: () => number;
  /** Who kills; default: this process, in a moment in which `activity` does nothing. */
  readonly kill?: () => Promise<Kill>;
  /** Told after each kill that was recovered from. */
  readonly onRecovered?: (kill: Kill, index: number) => void | Promise<void>;
}

/**
 * Kills `count` times, each at a random instant once a warm standby is there, and waits for the successor's own
 * standby. `activity` goes on meanwhile until it is told to stop; its failure ends everything.
 */
export async function killDuring(
  service: Service,
  { count, random, kill: killOne, onRecovered }: Killing,
  activity: (going: () => boolean) => Promise<void>,
): Promise<Kill[]> {
  const kills: Kill[] = [];
  let going = true;
  let failure: { error: unknown } | null = null;
  const running = activity(() => going).catch((error: unknown) => {
    failure = { error };
  });
  for (let index = 0; index < count && failure === null; index++) {
    await sleep(random() * INSTANT_MS_MAX);
    const kill = killOne === undefined ? service.killEmu() : await killOne();
    kills.push(kill);
    await service.recovered(kill.pid);
    await onRecovered?.(kill, index);
  }
  going = false;
  await running;
  rethrow(failure);
  return kills;
}

function rethrow(failure: { error: unknown } | null): void {
  if (failure !== null) throw failure.error;
}
