/**
 * flow-table.ts: with which queue pair a function last answered each flow (aarfs).
 *
 * Theory
 *   Flows are known by a hash under a key that nobody outside can guess; two flows with one hash are taken for one,
 *   which costs no more than a queue that is not the best. The hash says in which group of WAYS places a flow may be. A
 *   full group gives up the flow that was silent for longest, so memory and time are the same whatever a guest sends. A
 *   flow that was silent for FLOW_AGEING_SECONDS is not found any more: its application may be on another processor.
 *
 * Invariants
 *   I1  a flow is in the table at most once.
 *   I2  no method but the constructor allocates.
 *
 * Limits  FLOWS_MAX flows.
 */
import { FLOW_AGEING_SECONDS, FLOWS_MAX } from './limits.js';

const WAYS = 4;
const GROUP_MASK = FLOWS_MAX / WAYS - 1;
const WAY_BITS = 2;
/** Before every second there is: the place is free. */
const NEVER = -0x8000_0000;
const UNKNOWN = -1;

export class FlowTable {
  readonly #flow = new Int32Array(FLOWS_MAX);
  readonly #pair = new Uint16Array(FLOWS_MAX);
  readonly #heard = new Int32Array(FLOWS_MAX).fill(NEVER);

  /** The flow was answered with `pair` in second `now`. */
  note(flow: number, pair: number, now: number): void {
    const first = (flow & GROUP_MASK) << WAY_BITS;
    let place = first;
    for (let at = first; at < first + WAYS; at++) {
      if (this.#flow[at] === flow && this.#heard[at] !== NEVER) {
        place = at;
        break;
      }
      if (this.#heard[at]! < this.#heard[place]!) place = at;
    }
    this.#flow[place] = flow;
    this.#pair[place] = pair;
    this.#heard[place] = now;
  }

  /** With which pair the flow was answered last; -1: not lately. */
  find(flow: number, now: number): number {
    const first = (flow & GROUP_MASK) << WAY_BITS;
    for (let at = first; at < first + WAYS; at++) {
      if (this.#flow[at] === flow && now - this.#heard[at]! <= FLOW_AGEING_SECONDS) return this.#pair[at]!;
    }
    return UNKNOWN;
  }
}
