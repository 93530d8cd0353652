/** How the interrupts of one queue are moderated; what the modes mean: interrupt-moderation.ts. */
export type ModerationMode = 'first-frame' | 'last-interrupt' | 'last-frame';

/** Both numbers are above 0. */
export interface Moderation {
  readonly mode: ModerationMode;
  readonly usecs: number;
  readonly frames: number;
}
