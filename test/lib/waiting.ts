/** Waiting for conditions of the outside world, always with a limit. */
import { setTimeout as delay } from 'node:timers/promises';

export async function sleep(milliseconds: number): Promise<void> {
  await delay(milliseconds);
}

/** The promise's value, or null when it takes longer than `timeoutMs`. */
export async function within<T>(promise: Promise<T>, timeoutMs: number): Promise<T | null> {
  const stop = new AbortController();
  try {
    return await Promise.race([promise, delay(timeoutMs, null, { signal: stop.signal }).catch(() => null)]);
  } finally {
    stop.abort();
  }
}

/** Asks `probe` again and again until it answers something else than null, undefined or false. */
export async function until<T>(
  what: string,
  timeoutMs: number,
  probe: () => T | Promise<T>,
  intervalMs = 20,
): Promise<NonNullable<Exclude<T, false>>> {
  const deadline = performance.now() + timeoutMs;
  let problem = '';
  for (;;) {
    try {
      const answer = await probe();
      if (answer !== null && answer !== undefined && answer !== false)
        return answer as NonNullable<Exclude<T, false>>;
    } catch (error) {
      problem = `; last: ${error instanceof Error ? error.message : String(error)}`;
    }
    if (performance.now() > deadline) throw new Error(`${what}: not within ${timeoutMs} ms${problem}`);
    await sleep(intervalMs);
  }
}
