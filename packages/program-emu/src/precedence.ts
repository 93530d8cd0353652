/**
 * precedence.ts: how an emulator's threads stand against all others that want the same processors.
 *
 * Theory
 *   Before anybody depends on it, a process prepares behind its guests. Once it stands by, its threads go before
 *   ordinary ones; that is a matter of shares, and of little help where a pause counts: whoever computes may go on to
 *   the end of its slice, 3 to 4 ms, at each of the steps of a takeover. So the main thread waits, and takes over, as a
 *   real-time thread, and lends the same to the state keeper while it waits for its answer. That lasts some
 *   milliseconds; what takes long (making devices ahead, the paper after a takeover) is done as everybody else.
 *   Whoever lent it to the keeper may die before it takes it back, so everybody who has done the work does that.
 *   All of it is a matter of permission (RLIMIT_NICE, RLIMIT_RTPRIO, CAP_SYS_NICE). Without it a takeover
 *   waits as everybody does.
 *
 * States   preparing <-> standing by -> serving
 */
import { Nice, setProcessNice, setThreadNice, setThreadRealtime } from '@virtnet/host-linux';

export class Precedence {
  /** null: not asked for yet; false: that is not permitted. */
  #preferred: boolean | null = null;
  #standsBy = false;
  #keeperPid = 0;

  get standsBy(): boolean {
    return this.#standsBy;
  }

  /** From now on a pause of this process may be a pause of every guest. Returns whether its threads go first. */
  standBy(): boolean {
    this.#preferred ??= setProcessNice(Nice.PREFERRED);
    if (!this.#standsBy) {
      this.#standsBy = true;
      this.#later(false);
      this.#realtime(true);
    }
    return this.#preferred;
  }

  /** It has much to do again before it can stand by. */
  aside(): void {
    if (!this.#standsBy) return;
    this.#standsBy = false;
    this.#realtime(false);
    this.#later(true);
  }

  /** Does something that nobody waits for. */
  meanwhile<T>(work: () => T): T {
    if (!this.#standsBy) return work();
    this.aside();
    try {
      return work();
    } finally {
      this.standBy();
    }
  }

  /** Somebody is worked by nobody until this process, and the keeper with it, have done their part. */
  hurry(keeperPid: number | null): void {
    this.#realtime(true);
    if (keeperPid !== null && setThreadRealtime(keeperPid, true) === 0) this.#keeperPid = keeperPid;
  }

  /**
   * Guests' frames flow; what their requests wait for comes next. The keeper at `keeperPid` (null: none) goes back to
   * ordinary, whoever hurried it.
   */
  worked(keeperPid: number | null): void {
    this.#standsBy = false;
    for (const pid of new Set([this.#keeperPid, keeperPid ?? 0])) if (pid > 0) setThreadRealtime(pid, false);
    this.#keeperPid = 0;
    this.#realtime(false);
  }

  /** Only paper is left to do: it stands in nobody's way. */
  served(): void {
    this.#later(true);
  }

  /** It serves. */
  settled(): void {
    this.#later(false);
  }

  #realtime(on: boolean): void {
    if (this.#preferred !== null) setThreadRealtime(process.pid, on);
  }

  #later(on: boolean): void {
    if (this.#preferred === true) setThreadNice(process.pid, on ? Nice.LATER : Nice.PREFERRED);
  }
}
