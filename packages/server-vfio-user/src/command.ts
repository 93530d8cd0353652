/** command.ts: what every command handler gets, and how the session judges a message before it calls one. */
import type { VfioUserDevice } from './device.js';
import type { DmaTable } from './dma-table.js';
import type { Answer } from './outcome.js';
import type { Negotiated } from './version.js';

export interface CommandContext {
  readonly device: VfioUserDevice;
  readonly dma: DmaTable;
  readonly negotiated: Negotiated;
}

export interface CommandRequest {
  /** The message without its header. */
  readonly body: Uint8Array;
  readonly view: DataView;
  readonly fds: readonly number[];
}

export interface Command {
  /** A shorter body is refused with EINVAL. */
  readonly bodyBytesMin: number;
  /** A longer one as well; absent: what follows the structure is ignored. */
  readonly bodyBytesMax?: number;
  /** With more descriptors the message is refused. When the answer is not an error, the device took them all. */
  readonly fdsMax: number;
  /** false: cannot change anything, on either side. */
  readonly changes: boolean;
  run(context: CommandContext, request: CommandRequest): Answer | Promise<Answer>;
}

/** A 64-bit size or offset as a number, or -1 when it is past 2^53. */
export function safeNumber(value: bigint): number {
  return value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : -1;
}
