/** What an operator can say about the interrupts of receive queues: `virtnet modify queue`. */
import { isWithin } from './device-plan.js';
import { PERIOD_MODES, type QueueOptions } from './modify-request.js';

export type QueueModeration = QueueOptions;

/** Longest time in microseconds and most frames an interrupt may wait for: fields of 16 bits in the original. */
export const MODERATION_MAX = 0xffff;

/** Whether a value, possibly read back from somewhere, is a moderation. */
export function isQueueModeration(value: unknown): value is QueueModeration {
  if (typeof value !== 'object' || value === null) return false;
  const { periodMode, period, maxCount } = value as Record<string, unknown>;
  const isMode = PERIOD_MODES.some((mode) => mode === periodMode);
  return isMode && isWithin(period, 0, MODERATION_MAX) && isWithin(maxCount, 0, MODERATION_MAX);
}
