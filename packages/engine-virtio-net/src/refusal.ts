/** refusal.ts: results of a port below every errno: the frame is dropped, and under which counter. */
import { QueueCounter } from '@virtnet/wire';

/** Above every errno. */
const REFUSAL_BASE = 4096;

/** A result of send() or receive() that says under which counter the frame is dropped. */
export const refusal = (counter: QueueCounter): number => -REFUSAL_BASE - counter;

export const isRefusal = (result: number): boolean => result <= -REFUSAL_BASE;

/** The counter for a frame that was not moved with this result. */
export const counterOfRefusal = (result: number): QueueCounter =>
  isRefusal(result) ? ((-REFUSAL_BASE - result) as QueueCounter) : QueueCounter.DROP_TAP_ERROR;
