/** progress-beat.ts: a process's own progress page: found at the start, its main lane kept going by a timer. */
import { MAIN_LANE } from '@virtnet/wire';
import { type ProgressLane, ProgressPage } from './progress.js';

/** A page that is kept going until `stop`. */
export interface BeatingPage {
  readonly page: ProgressPage;
  /** The main thread's lane; beat it inside anything synchronous that may take long. */
  readonly main: ProgressLane;
  /** From now on the main thread is expected to get on. */
  begin(): void;
  stop(): void;
}

/** Opens the page behind `fd` (null, or not a page: one that nobody watches) for a main thread with a turn every `everyMs`. */
export function beatingPage(fd: number | null, everyMs: number): BeatingPage {
  const opened = fd === null ? null : ProgressPage.open(fd);
  const page = opened === null || typeof opened === 'number' ? ProgressPage.unwatched() : opened;
  const main = page.lane(MAIN_LANE);
  const timer = setInterval(() => main.beat(), everyMs);
  timer.unref();
  return {
    page,
    main,
    begin: () => main.begin(),
    stop: () => {
      clearInterval(timer);
      main.end();
    },
  };
}
