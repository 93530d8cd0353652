/** chain-fixture.ts: one chain at a time through a split ring over guarded memory, for targets that judge its contents. */
import { SplitRing } from '@virtnet/engine-virtqueue';
import type { ChainSpec, UsedChain } from '../ring-driver.js';
import { SplitDriver } from '../split-driver.js';
import { openSplitRing } from '../split-ring-fixture.js';
import type { FuzzInput } from './fuzz-input.js';
import { FuzzFailure } from './fuzzer.js';
import type { GuardedMemory } from './guarded-memory.js';

const QUEUE_SIZE = 16;

/** Memory that is cut in the middle, so that buffers lie across. */
export const CUT_REGION = { iova: BigInt(4 * 2 ** 30 - 0x2_0000), sizeBytes: 0x4_0000, writable: true };

export class ChainFixture {
  readonly ring: SplitRing;
  readonly #driver: SplitDriver;

  constructor(guarded: GuardedMemory) {
    this.#driver = new SplitDriver({ memory: guarded.driverMemory(0), queueSize: QUEUE_SIZE });
    const ring = openSplitRing(this.#driver, guarded.memory, { position: 0 });
    if (!(ring instanceof SplitRing)) throw new Error(`the ring does not open: ${ring.code}`);
    this.ring = ring;
  }

  /** Makes a chain current; false when it holds no byte. */
  take(chain: ChainSpec): boolean {
    if (this.#driver.add(chain) < 0) throw new Error('the ring is full');
    this.#driver.publish();
    if (this.ring.take() > 0) return true;
    this.give(0);
    return false;
  }

  /** Gives the current chain back; what its driver sees. */
  give(writtenBytes: number): UsedChain {
    this.ring.give(writtenBytes);
    this.ring.publish();
    const [used] = this.#driver.collect();
    if (used === undefined) throw new FuzzFailure('a chain did not come back');
    if (!used.readableIntact) throw new FuzzFailure('a readable buffer was changed');
    return used;
  }
}

/** The bytes in up to four buffers. */
export function split(bytes: Uint8Array, input: FuzzInput): Uint8Array[] {
  const parts: Uint8Array[] = [];
  let at = 0;
  for (let cuts = input.u8() % 4; cuts > 0; cuts--) {
    const end = Math.min(bytes.length, at + (input.bit() ? input.u8() % 40 : input.u16()));
    parts.push(bytes.subarray(at, end));
    at = end;
  }
  parts.push(bytes.subarray(at));
  return parts;
}
