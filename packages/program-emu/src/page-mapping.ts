/**
 * page-mapping.ts: a function's state page as a process has it mapped.
 *
 * Theory
 *   The file has room for as many queues as a function may ever be given, and most functions have few. Only the blocks of
 *   queues that a function has are viewed: V8 counts the bytes of views as memory to be collected, and with the whole
 *   pages of some hundred functions it does nothing else.
 */

import { VIRT_QUEUES_MAX } from '@virtnet/engine-control';
import type { IsWritten } from '@virtnet/engine-recovery';
import {
  close,
  fileSize,
  memfdCreate,
  PAGE_BYTES,
  populate,
  sharedMapping,
  writtenRanges,
} from '@virtnet/host-linux';
import {
  burstPageAt,
  Errno,
  STATE_PAGE_HEADER_BYTES,
  STATE_PAGE_MAGIC,
  STATE_PAGE_VERSION,
  StatePageHeader,
  statePageFileSize,
  statePageSize,
} from '@virtnet/wire';

/** A mapped state page. */
export interface PageMapping {
  readonly fd: number;
  readonly address: bigint;
  /** Its header, and the blocks that were asked for. */
  readonly buffer: ArrayBuffer;
  /** Has the blocks of `queueCount` queues in the buffer, as far as the page has so many; absent: of those it has by its header. */
  view(queueCount?: number): void;
  /** Looks what was ever written: where nothing was there are zeros, and no memory. */
  written(): IsWritten;
  /** Has what is viewed and was ever written mapped before anybody needs it. Best effort. */
  mapAhead(): void;
  /** Process address of the page for the bursts of queue `index`; 0: the file, an older build's, has none. */
  burstAddress(index: number): number;
  close(): void;
}

const QUEUES_MAX = 65_536;
/** Largest state page believed. */
const PAGE_BYTES_MAX = statePageFileSize(QUEUES_MAX);

/** Maps the state page behind `fd`, which stays the caller's; null when it is none. */
export function mapPage(fd: number): PageMapping | null {
  const bytes = fileSize(fd);
  if (bytes < STATE_PAGE_HEADER_BYTES || bytes > PAGE_BYTES_MAX) return null;
  const mapping = sharedMapping(fd, bytes, STATE_PAGE_HEADER_BYTES);
  if (typeof mapping === 'number') return null;
  const header = new Uint32Array(mapping.buffer, 0, StatePageHeader.sizeBytes / 4);
  const view = (queueCount = header[StatePageHeader.at.queueCount / 4]!) =>
    mapping.view(statePageSize(Math.min(queueCount, QUEUES_MAX)));
  view();
  return {
    fd,
    address: mapping.address,
    get buffer() {
      return mapping.buffer;
    },
    view,
    written() {
      const ranges = writtenRanges(fd);
      return (at, sizeBytes) => ranges.some(({ start, end }) => at < end && start < at + sizeBytes);
    },
    mapAhead() {
      const words = new Uint32Array(mapping.buffer);
      for (const { start, end } of writtenRanges(fd)) {
        const viewed = Math.min(end, words.byteLength);
        if (start >= viewed) continue;
        populate(Number(mapping.address) + start, viewed - start, { writable: true });
        // A virtual machine may have tables of its own behind the kernel's, which only a touch fills.
        for (let at = start; at < viewed; at += PAGE_BYTES) Atomics.load(words, at / 4);
      }
    },
    burstAddress: (index) =>
      bytes === statePageFileSize(VIRT_QUEUES_MAX) && index < VIRT_QUEUES_MAX
        ? Number(mapping.address) + burstPageAt(VIRT_QUEUES_MAX, index)
        : 0,
    close: () => mapping.close(),
  };
}

/**
 * A new state page; -errno when there is no memory. It has room for as many queues as the device may ever be given:
 * what is not touched costs nothing, and a page that never moves needs no handover.
 */
export function newPage(queueCount: number): PageMapping | number {
  const fd = memfdCreate('virtnet-state-page', statePageFileSize(VIRT_QUEUES_MAX));
  if (fd < 0) return fd;
  const page = mapPage(fd);
  if (page === null) {
    close(fd);
    return -Errno.ENOMEM;
  }
  StatePageHeader.encode(new DataView(page.buffer), 0, {
    magic: STATE_PAGE_MAGIC,
    version: STATE_PAGE_VERSION,
    queueCount,
    isr: 0,
    configGeneration: 0,
    requestSequence: 0,
    takeovers: 0,
    connectionEpoch: 0,
    suspicions: 0,
    requestUnderWay: 0,
    ownerPid: process.pid,
    workedMs: 0,
  });
  page.view();
  return page;
}
