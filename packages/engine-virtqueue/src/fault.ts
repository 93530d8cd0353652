/** What a ring engine may find wrong with memory that a driver controls, and what follows from it. */

/** Why an indirect table was refused (virtio 1.3, 2.7.5.3). */
export type IndirectDefect =
  | 'not-negotiated'
  | 'next-flag-set'
  | 'nested'
  | 'empty'
  | 'length-not-multiple-of-16'
  | 'too-many-entries';

/** Why a ring part was refused. */
export type RingAddressDefect = 'unaligned' | 'outside-memory' | 'read-only' | 'overlap';

export type RingPart = 'descriptor' | 'driver' | 'device';

export type RingFault =
  /** The size is 0, past the largest, or for a split ring no power of two. */
  | { readonly code: 'BAD_QUEUE_SIZE'; readonly queueSize: number }
  | {
      readonly code: 'BAD_RING_ADDRESS';
      readonly part: RingPart;
      readonly address: bigint;
      readonly defect: RingAddressDefect;
    }
  /** The place a packed ring should go on at is none of this ring, or does not fit what was given back. */
  | { readonly code: 'BAD_POSITION'; readonly position: number; readonly queueSize: number }
  /** The available index ran ahead by more than the ring holds. */
  | {
      readonly code: 'AVAILABLE_INDEX_JUMP';
      readonly availableIndex: number;
      readonly position: number;
      readonly queueSize: number;
    }
  | { readonly code: 'HEAD_OUT_OF_RANGE'; readonly headIndex: number; readonly queueSize: number }
  | {
      readonly code: 'NEXT_OUT_OF_RANGE';
      readonly headIndex: number;
      readonly nextIndex: number;
      readonly tableSize: number;
    }
  /** More steps than the table has entries. */
  | { readonly code: 'CHAIN_LOOP'; readonly headIndex: number; readonly tableSize: number }
  | { readonly code: 'CHAIN_TOO_LONG'; readonly headIndex: number; readonly segmentsMax: number }
  /** A readable buffer after a writable one (2.7.4.2). */
  | { readonly code: 'CHAIN_ORDER'; readonly headIndex: number }
  /** The whole chain holds no byte. */
  | { readonly code: 'ZERO_LENGTH'; readonly headIndex: number }
  | { readonly code: 'INDIRECT_MALFORMED'; readonly headIndex: number; readonly defect: IndirectDefect }
  | {
      readonly code: 'BUFFER_OUTSIDE_MEMORY';
      readonly headIndex: number;
      readonly address: bigint;
      readonly lengthBytes: number;
    }
  /** A buffer to be written lies in memory the device may only read. */
  | {
      readonly code: 'BUFFER_READ_ONLY';
      readonly headIndex: number;
      readonly address: bigint;
      readonly lengthBytes: number;
    };

export type RingFaultCode = RingFault['code'];

/** What the caller must do about a fault; decided here once. */
export type Remedy = 'needs-reset' | 'skip-chain';

export function remedyForCode(code: RingFaultCode): Remedy {
  switch (code) {
    case 'BAD_QUEUE_SIZE':
    case 'BAD_RING_ADDRESS':
    case 'BAD_POSITION':
    case 'AVAILABLE_INDEX_JUMP':
    case 'HEAD_OUT_OF_RANGE':
    case 'NEXT_OUT_OF_RANGE':
    case 'CHAIN_LOOP':
      return 'needs-reset'; // the ring itself can no longer be believed
    case 'CHAIN_TOO_LONG':
    case 'CHAIN_ORDER':
    case 'ZERO_LENGTH':
    case 'INDIRECT_MALFORMED':
    case 'BUFFER_OUTSIDE_MEMORY':
    case 'BUFFER_READ_ONLY':
      return 'skip-chain'; // one bad request; head and ring still make sense
  }
}

export const remedyFor = (fault: RingFault): Remedy => remedyForCode(fault.code);

/** One line for a log, e.g. `CHAIN_LOOP (headIndex=3 tableSize=256)`. */
export function describeFault(fault: RingFault): string {
  const facts = Object.entries(fault)
    .filter(([key]) => key !== 'code')
    .map(([key, value]) => `${key}=${typeof value === 'bigint' ? `0x${value.toString(16)}` : value}`);
  return `${fault.code} (${facts.join(' ')})`;
}

/** A buffer that the device may not use, by its address words and length. */
export function bufferFault(
  code: 'BUFFER_OUTSIDE_MEMORY' | 'BUFFER_READ_ONLY',
  headIndex: number,
  high: number,
  low: number,
  lengthBytes: number,
): RingFault {
  return { code, headIndex, address: (BigInt(high >>> 0) << 32n) | BigInt(low >>> 0), lengthBytes };
}
