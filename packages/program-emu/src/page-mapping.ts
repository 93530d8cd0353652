/** page-mapping.ts: a function's state page as a process has it mapped. */
import { fileSize, sharedMapping } from '@virtnet/host-linux';
import { statePageSize } from '@virtnet/wire';

/** A mapped state page. */
export interface PageMapping {
  readonly fd: number;
  readonly address: bigint;
  readonly buffer: ArrayBuffer;
  close(): void;
}

/** Largest state page believed: 65,536 queue blocks. */
const PAGE_BYTES_MAX = statePageSize(65_536);

/** Maps the state page behind `fd`, which stays the caller's; null when it is none. */
export function mapPage(fd: number): PageMapping | null {
  const bytes = fileSize(fd);
  if (bytes <= 0 || bytes > PAGE_BYTES_MAX) return null;
  const mapping = sharedMapping(fd, bytes);
  if (typeof mapping === 'number') return null;
  return { fd, address: mapping.address, buffer: mapping.buffer, close: () => mapping.close() };
}
