/** worker-entry.ts: what a datapath worker knows of each queue it works, and of each reader of a TAP. */
import type { SwitchDomain } from '@virtnet/engine-eswitch';
import { InterruptModeration } from '@virtnet/engine-virtio-net';
import type { WorkedQueue } from '@virtnet/engine-virtqueue';
import { QUEUE_COUNTERS_AT, type QueueBlock, QueueCounter, QueueWord } from '@virtnet/wire';
import type { QueueConfig } from './datapath-protocol.js';
import type { TapReader } from './tap-reader.js';

const NO_SLOT = -1;

/** What of a queue the loop needs; a reader of a TAP can do it too. */
type Worked = Pick<
  WorkedQueue,
  'poll' | 'arm' | 'disarm' | 'interrupt' | 'fault' | 'noteKick' | 'wantsInterrupt' | 'countInterrupt'
>;

export interface Entry {
  readonly slot: number;
  /** Number of the device. */
  readonly device: number;
  /** null: a reader of a TAP. */
  readonly config: QueueConfig | null;
  readonly queue: Worked;
  /** Switch domain whose receivers are shown their frames after a poll. */
  readonly domain: SwitchDomain | null;
  /** null: every interrupt goes out at once. */
  readonly moderation: InterruptModeration | null;
  /** What moderation reads and saves; null for a reader. */
  readonly block: QueueBlock | null;
  /** Words of its block of the state page; of nobody's for an uplink, of a queue of its pair for another reader. */
  readonly words: Uint32Array;
  /** Its frames go to the kernel or come from there. */
  readonly toKernel: boolean;
  idleTurns: number;
  /** Frames since it woke up, as far as they count. */
  streak: number;
  /** Idle turns that the queue has earned by its stream, and not spent. */
  credit: number;
  busy: boolean;
  faulted: boolean;
}

export function readerEntry(
  queue: TapReader,
  device = NO_SLOT,
  words: Uint32Array = new Uint32Array(QUEUE_COUNTERS_AT * 2),
): Entry {
  const state = {
    idleTurns: 0,
    streak: 0,
    credit: 0,
    busy: false,
    faulted: false,
    moderation: null,
    block: null,
  };
  return {
    slot: NO_SLOT,
    device,
    config: null,
    queue,
    domain: queue.domain,
    words,
    toKernel: true,
    ...state,
  };
}

export function moderationOf(
  { moderation, queueSize }: QueueConfig,
  block: QueueBlock,
): InterruptModeration | null {
  if (moderation === null) return null;
  const frames = block.counters[QueueCounter.FRAMES]!;
  return new InterruptModeration({
    moderation,
    frames,
    level: block.words[QueueWord.MODERATION_LEVEL]!,
    queueSize,
  });
}
