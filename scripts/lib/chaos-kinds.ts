/** chaos-kinds.ts: what a kind of event says of itself, and the bounds on pauses that kinds share. */
import type { ChaosStage } from './chaos-stage.ts';

export interface ChaosEvent {
  readonly name: string;
  /** Among all of them. What ends an emulator takes seconds, so most of what happens is what happens in between. */
  readonly weight: number;
  /** Frames that each queue may lose or repeat. */
  readonly frames: number;
  /** The longest pause of a stream, on a machine that lets everybody run at once. */
  readonly pauseMs: number;
  /** Needs a warm standby. Otherwise it may happen while one is only starting. */
  readonly warm?: boolean;
  /** When no standby is there yet, streams pause until an emulator has started: a row of its own in the table. */
  readonly cold?: boolean;
  happen(stage: ChaosStage, random: () => number): Promise<void>;
}

/** Streams do not notice: the pause of a machine that schedules them. */
export const UNNOTICED_MS = 500;
/** A standby takes over. */
export const TAKEOVER_MS = 1_500;
/** Somebody who is stopped is found, and a standby takes over. */
export const FOUND_MS = 3_000;
/** Processes start from nothing. */
export const START_MS = 10_000;
