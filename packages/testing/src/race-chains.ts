/** race-chains.ts: what an honest driver on another thread posts as its chain number so and so, and what comes back. */
import { NetHeader } from '@virtnet/wire';
import type { AddOptions, ChainSpec } from './ring-driver.js';

/** One after the other: of each kind that a device may meet on another way. */
export const ChainKind = { WRITABLE: 0, READABLE: 1, BOTH: 2, TABLE: 3, FRAME_IN_TABLE: 4 } as const;
const KINDS = Object.keys(ChainKind).length;

export const HEADER_BYTES = NetHeader.sizeBytes;

export interface RaceChain extends ChainSpec {
  readonly kind: number;
  readonly options: AddOptions;
  readonly readableBytes: number;
  readonly writableBytes: number;
  /** What the device says it has written. */
  readonly answerBytes: number;
}

/** Lengths and contents follow from the number: no two neighbours are alike, nor what was in the same place a lap before. */
export function chainOf(number: number): RaceChain {
  const kind = number % KINDS;
  const writableBytes =
    kind === ChainKind.READABLE || kind === ChainKind.FRAME_IN_TABLE ? 0 : 8 + (number % 7);
  const answerBytes = writableBytes === 0 ? 0 : 4 + (number % 5);
  const readable = readableOf(kind, number);
  const readableBytes = readable.reduce((sum, { length }) => sum + length, 0);
  return {
    kind,
    readable,
    writable: writableBytes === 0 ? [] : [writableBytes],
    options: kind === ChainKind.TABLE || kind === ChainKind.FRAME_IN_TABLE ? { indirectFrom: 0 } : {},
    readableBytes,
    writableBytes,
    answerBytes,
  };
}

function readableOf(kind: number, number: number): Uint8Array[] {
  if (kind === ChainKind.WRITABLE) return [];
  const content = new Uint8Array(20 + (number % 11));
  new DataView(content.buffer).setUint32(0, number, true);
  return kind === ChainKind.FRAME_IN_TABLE ? [new Uint8Array(HEADER_BYTES), content] : [content];
}

/** Where a chain's readable bytes have its number. */
export const numberAt = (kind: number): number => (kind === ChainKind.FRAME_IN_TABLE ? HEADER_BYTES : 0);
