/** What the main thread and a datapath worker say to each other. Structured clones; no object is shared. */

import type { HashSettings, Moderation, ReceiveFilterState, RssSettings } from '@virtnet/engine-virtio-net';
import type { RingFault, WindowMemory } from '@virtnet/engine-virtqueue';

/** One mapped region of a device's memory. */
export interface RegionMessage {
  readonly iova: bigint;
  readonly sizeBytes: number;
  /** Offset in the arena (Arena.locate). */
  readonly arenaOffset: number;
  readonly writable: boolean;
}

/** What stands for a function where it is not a TAP. */
export interface SwitchedConfig {
  readonly mode: 'eswitch' | DiagnosticMode;
  /** Functions of one domain reach each other. */
  readonly domain: number;
  /** Size of the frames a source gives. */
  readonly frameBytes: number;
}

/** For measuring: a pair's frames come back to it; are swallowed; are made up. */
export type DiagnosticMode = 'loop' | 'sink' | 'source';

/** Everything a worker needs to work one queue. */
export interface QueueConfig {
  readonly direction: 'receive' | 'transmit';
  readonly queueSize: number;
  readonly descriptorAddress: bigint;
  readonly driverAddress: bigint;
  readonly deviceAddress: bigint;
  /** Features the driver accepted. */
  readonly features: bigint;
  /** Largest packet, Ethernet header excluded, in bytes. */
  readonly mtu: number;
  readonly linkUp: boolean;
  /** Index of the queue in the function, which selects its block of the state page. */
  readonly queue: number;
  readonly pageAddress: bigint;
  readonly pageBytes: number;
  /** Process address of the queue's page for bursts; 0: it has none. */
  readonly burstAddress: number;
  /** Its TAP queue; -1: it has none. */
  readonly tapFd: number;
  /** Where its frames go instead; the same object as long as nothing in it changes. */
  readonly switched: SwitchedConfig | null;
  /** Event the driver kicks with, or -1 when kicks come through the doorbell bitmap. */
  readonly kickFd: number;
  /** Event that interrupts the driver; -1: none; REPORT_INTERRUPT: the main thread decides. */
  readonly interruptFd: number;
  /** Whether a receive queue may be given frames now (multi-queue steering), and a transmit queue's go out. */
  readonly active: boolean;
  readonly filter: ReceiveFilterState | null;
  /** Whether a receive queue counts its frames by size. */
  readonly countSizes: boolean;
  /** Which hashes frames given to the driver carry; null: none. The same object as long as nothing in it changes. */
  readonly hash: HashSettings | null;
  /**
   * Which receive queue the frames to the driver go to, the same for all queues of the function; null: steering is
   * automatic. The same object as long as nothing in it changes.
   */
  readonly rss: RssSettings | null;
  /** Whether frames from the switch go to the pair that answered their flow last, where `rss` is null. */
  readonly follows: boolean;
  /** How interrupts are moderated; null: not at all. The same object as long as nothing in it changes. */
  readonly moderation: Moderation | 'dynamic' | null;
  /** Interrupt once when attached: a kick or an interrupt may have been lost before. */
  readonly signalAtOnce: boolean;
}

/** A TAP that is an uplink, and the state page of one block in which it counts. */
export interface UplinkConfig {
  readonly fd: number;
  readonly pageAddress: bigint;
  readonly pageBytes: number;
}

/** Value of `interruptFd` when the decision is the main thread's (INTx, masked vectors). */
export const REPORT_INTERRUPT = -2;

export type WorkerMessage =
  | { readonly kind: 'memory'; readonly device: number; readonly regions: readonly RegionMessage[] | null }
  | {
      readonly kind: 'queue';
      readonly device: number;
      readonly slot: number;
      readonly config: QueueConfig | null;
      /** To be kept until `begin` says that it holds: nothing of the queue is touched before. */
      readonly ahead?: boolean;
    }
  /** What was told ahead for these slots holds now. */
  | { readonly kind: 'begin'; readonly slots: readonly number[] }
  /** The TAP that is the uplink of a switch domain; null: it has none. */
  | { readonly kind: 'uplink'; readonly domain: number; readonly uplink: UplinkConfig | null }
  | { readonly kind: 'sync'; readonly id: number }
  /** To be carried out in this order. */
  | { readonly kind: 'several'; readonly messages: readonly WorkerMessage[] }
  | { readonly kind: 'stop' };

export type WorkerReport =
  | { readonly kind: 'ready'; readonly warmUpMs: number }
  | { readonly kind: 'synced'; readonly id: number }
  | { readonly kind: 'fault'; readonly slot: number; readonly fault: RingFault }
  | { readonly kind: 'interrupt'; readonly slot: number };

/** What a worker is started with. */
export interface WorkerStart {
  readonly arenaBase: bigint;
  readonly arenaBytes: number;
  /** What of the arena may be copied inside by WebAssembly; null: nothing. */
  readonly window: WindowMemory | null;
  /** Where in the arena the worker has SCRATCH_BYTES of its own. */
  readonly scratchAt: number;
  /** eventfd that ends the worker's sleep. */
  readonly wakeFd: number;
  /** Processors the worker runs on; null: any. */
  readonly processors: readonly number[] | null;
  /** Where the process's progress page is mapped; 0 when nobody watches. */
  readonly progressAddress: bigint;
  /** The worker's line on it. */
  readonly progressLane: number;
  /** Guests wait: it begins without having compiled its loops. */
  readonly cold: boolean;
}
