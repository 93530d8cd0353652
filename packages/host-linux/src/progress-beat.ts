/**
 * progress-beat.ts: a process's own progress page, found at the start.
 *
 * Its main lane is kept going by the answers to its supervisor's questions, or by a timer, where the supervisor is of a
 * version that does not ask.
 */
import { MAIN_LANE } from '@virtnet/wire';
import { type ProgressLane, ProgressPage } from './progress.js';

/** A page that is in use until `stop`. */
export interface BeatingPage {
  readonly page: ProgressPage;
  /** The main thread's lane; beat it when asked, and inside anything synchronous that may take long. */
  readonly main: ProgressLane;
  /** From now on the main thread is expected to get on. */
  begin(): void;
  stop(): void;
}

/** Opens the page behind `fd` (null, or not a page: one that nobody watches); unasked, it has a turn every `everyMs`. */
export function beatingPage(fd: number | null, everyMs: number): BeatingPage {
  const opened = fd === null ? null : ProgressPage.open(fd);
  const page = opened === null || typeof opened === 'number' ? ProgressPage.unwatched() : opened;
  const main = page.lane(MAIN_LANE);
  const watched = opened !== null && typeof opened !== 'number';
  const timer = watched && !page.asks ? setInterval(() => main.beat(), everyMs).unref() : undefined;
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
