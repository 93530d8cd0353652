import { describe, expect, it } from 'vitest';
import { describeFault, type RingFault, remedyFor } from './fault.js';

describe('ring fault', () => {
  it('a fault of the ring needs a reset, a fault of one request costs that request', () => {
    const remedies = {
      BAD_QUEUE_SIZE: 'needs-reset',
      BAD_RING_ADDRESS: 'needs-reset',
      BAD_POSITION: 'needs-reset',
      AVAILABLE_INDEX_JUMP: 'needs-reset',
      HEAD_OUT_OF_RANGE: 'needs-reset',
      NEXT_OUT_OF_RANGE: 'needs-reset',
      CHAIN_LOOP: 'needs-reset',
      CHAIN_TOO_LONG: 'skip-chain',
      CHAIN_ORDER: 'skip-chain',
      ZERO_LENGTH: 'skip-chain',
      INDIRECT_MALFORMED: 'skip-chain',
      BUFFER_OUTSIDE_MEMORY: 'skip-chain',
      BUFFER_READ_ONLY: 'skip-chain',
    } as const satisfies Record<RingFault['code'], string>;
    for (const [code, remedy] of Object.entries(remedies)) {
      expect(remedyFor({ code } as RingFault), code).toBe(remedy);
    }
  });

  it('a log line names the code and every fact, addresses in hex', () => {
    const fault: RingFault = {
      code: 'BUFFER_OUTSIDE_MEMORY',
      headIndex: 3,
      address: 0xfee0_0000n,
      lengthBytes: 64,
    };
    expect(describeFault(fault)).toBe(
      'BUFFER_OUTSIDE_MEMORY (headIndex=3 address=0xfee00000 lengthBytes=64)',
    );
  });
});
