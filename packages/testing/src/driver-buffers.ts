/** driver-buffers.ts: the buffers of one request in driver memory, for either kind of ring driver. */
import type { DriverMemory } from './driver-memory.js';
import { type ChainSpec, POISON, type UsedChain } from './ring-driver.js';

export interface Block {
  readonly iova: bigint;
  readonly sizeBytes: number;
}

/** A block the device may only read, with what the driver put there. */
export interface KeptBlock extends Block {
  readonly content: Uint8Array;
}

export interface LaidOut {
  readonly readable: readonly KeptBlock[];
  readonly writable: readonly Block[];
}

/** Allocates and fills the buffers of a chain. */
export function layOut(memory: DriverMemory, chain: ChainSpec): LaidOut {
  const readable = (chain.readable ?? []).map((content) => {
    const iova = memory.allocate(content.length);
    memory.slice(iova, content.length).set(content);
    return { iova, sizeBytes: content.length, content: content.slice() };
  });
  const writable = (chain.writable ?? []).map((sizeBytes) => {
    const iova = memory.allocate(sizeBytes);
    memory.slice(iova, sizeBytes).fill(POISON);
    return { iova, sizeBytes };
  });
  return { readable, writable };
}

/** What became of the buffers of a chain the device gave back; they are freed. */
export function takeBack(
  memory: DriverMemory,
  id: number,
  lengthBytes: number,
  { readable, writable }: LaidOut,
): UsedChain {
  const written = new Uint8Array(writable.reduce((sum, block) => sum + block.sizeBytes, 0));
  let at = 0;
  for (const block of writable) {
    written.set(memory.slice(block.iova, block.sizeBytes), at);
    at += block.sizeBytes;
  }
  const readableIntact = readable.every(({ iova, content }) =>
    memory.slice(iova, content.length).every((byte, i) => byte === content[i]),
  );
  for (const block of [...readable, ...writable]) memory.free(block.iova, block.sizeBytes);
  return { id, lengthBytes, written, readableIntact };
}
