/** clearable-counters.ts: counters that an operator sets back: they count on, and what is shown is what came since a mark. */
import { CLEARABLE_COUNTERS, QUEUE_MARKS_AT, type QueueCounter } from '@virtnet/wire';

/** What a block's counter, one of CLEARABLE_COUNTERS, has counted since it was set back. */
export function sinceMark(counters: Float64Array, counter: QueueCounter): number {
  return counters[counter]! - counters[QUEUE_MARKS_AT + CLEARABLE_COUNTERS.indexOf(counter)]!;
}

/** Marks where the counters of a block are now. The counters themselves are the workers'. */
export function setBack(counters: Float64Array): void {
  for (const [i, counter] of CLEARABLE_COUNTERS.entries()) counters[QUEUE_MARKS_AT + i] = counters[counter]!;
}
