/**
 * pair-balance.ts: which queue pairs go to another worker, judged by what they cost the one they have.
 *
 * Theory
 *   Once a period it is told the load of each group of pairs that can only move together; most are a single pair. A worker
 *   is too busy when one of its groups could go to the least busy worker, and the busier of the two then had an eighth less
 *   than it has now. Of those that have been too busy for LASTING_PERIODS in a row the busiest gives a group away, the one
 *   that leaves the busier of the two with least. So what comes and goes moves nothing, nor does a load that is spread as
 *   well as its groups allow; and a load that one worker carries easily is left alone. A group that was named rests, whatever
 *   becomes of the loads: where they depend on who works what, it goes once in REST_PERIODS at most.
 *
 * Invariants
 *   I1  a move leaves both of its workers with less than the busier one had. The sum of the squares of all loads falls with
 *       it, so as long as the loads stay the moves come to an end, and none leads back to where everything was before.
 *   I2  a group that has to stay is never named.
 *
 * Limits  one move in LASTING_PERIODS. A period is the caller's.
 */

/** Pairs that can only move together. */
export interface LoadedGroup {
  /** The same in each period. */
  readonly id: string;
  readonly worker: number;
  /** Of its worker's time, in microseconds a second, about. */
  readonly load: number;
  /** It has to be where it is. */
  readonly stay: boolean;
}

/** Where a group should go. */
export interface GroupMove<G extends LoadedGroup> {
  readonly group: G;
  readonly to: number;
}

/** What one worker carries easily: a twentieth of its time. */
export const EASY_LOAD = 50_000;
/** Share of the busiest worker's load by which a move has to lower it. */
export const GAIN = 1 / 8;
/** Periods in a row in which a worker has to be too busy. */
export const LASTING_PERIODS = 3;
/** Periods for which a group that was named is not named again. */
export const REST_PERIODS = 30;

export class PairBalance {
  /** For how many periods each worker has been too busy. */
  readonly #lasting: number[];
  /** Periods that groups still rest, by id. */
  readonly #resting = new Map<string, number>();

  constructor(workers: number) {
    this.#lasting = new Array<number>(workers).fill(0);
  }

  /** Hears of a period; which group should move, or null. What costs nothing may be left out. */
  next<G extends LoadedGroup>(groups: readonly G[]): GroupMove<G> | null {
    this.#rest();
    const loads = this.#lasting.map(() => 0);
    for (const { worker, load } of groups) loads[worker]! += load;
    const to = loads.indexOf(Math.min(...loads));
    let group: G | null = null;
    for (let from = 0; from < loads.length; from++) {
      const best = this.#best(groups, loads, from, to);
      this.#lasting[from] = best === null ? 0 : this.#lasting[from]! + 1;
      if (this.#lasting[from]! < LASTING_PERIODS) continue;
      if (group === null || loads[from]! > loads[group.worker]!) group = best;
    }
    if (group === null) return null;
    this.#lasting.fill(0);
    this.#resting.set(group.id, REST_PERIODS);
    return { group, to };
  }

  /** The group that leaves the busier of the two workers with least, if that is worth it. */
  #best<G extends LoadedGroup>(
    groups: readonly G[],
    loads: readonly number[],
    from: number,
    to: number,
  ): G | null {
    const before = loads[from]!;
    if (before < EASY_LOAD || from === to) return null;
    let best: G | null = null;
    let least = before * (1 - GAIN);
    for (const group of groups) {
      if (group.worker !== from || group.stay || this.#resting.has(group.id)) continue;
      const busier = Math.max(before - group.load, loads[to]! + group.load);
      if (busier >= least) continue;
      least = busier;
      best = group;
    }
    return best;
  }

  #rest(): void {
    for (const [id, periods] of this.#resting) {
      if (periods > 1) this.#resting.set(id, periods - 1);
      else this.#resting.delete(id);
    }
  }
}
