/**
 * copy-window.ts: a range of addresses inside which bytes are copied by WebAssembly, which is faster than what JavaScript has.
 *
 * Theory
 *   Copies of WebAssembly stay inside its memory. So a memory as large as there may be is reserved, whoever owns it maps
 *   guests' memory over its pages, and copies between any two guests in it are short vector loops (copy-module.ts). It
 *   has a limit, so not every guest may fit: what lies elsewhere is copied as before, only slower.
 *   The memory is shared: one thread makes it, and each thread that copies says so once.
 *
 * Invariants
 *   I1  what was asked for inside the window is inside what the rings have judged; the window itself is only addresses.
 *
 * Limits  WINDOW_BYTES_MAX.
 */
import { COPY_PAGE_BYTES, copyModule } from './copy-module.js';

/** What a WebAssembly memory of 64-bit addresses may have at most. */
export const WINDOW_BYTES_MAX = 2 ** 34;
const WINDOW_BYTES_MIN = 2 ** 30;
const PAGE_BYTES = 2 ** 16;

/** What is used of WebAssembly, which the language's own library of types does not have. */
interface WebAssemblyApi {
  readonly Memory: new (limits: {
    readonly address: 'i64';
    readonly initial: bigint;
    readonly maximum: bigint;
    readonly shared: true;
  }) => WindowMemory;
  readonly Module: new (bytes: Uint8Array) => object;
  readonly Instance: new (
    module: object,
    imports: { readonly window: { readonly memory: WindowMemory } },
  ) => { readonly exports: { readonly copy: WindowCopy } };
}

/** A shared WebAssembly.Memory: it may be posted to other threads. */
export interface WindowMemory {
  readonly buffer: ArrayBufferLike;
}

type WindowCopy = (toPage: number, to: number, fromPage: number, from: number, bytes: number) => void;

const { WebAssembly } = globalThis as unknown as { readonly WebAssembly: WebAssemblyApi };

let window: ArrayBufferLike | null = null;
let copy: WindowCopy = () => {
  throw new Error('this thread has no window');
};

/**
 * Reserves a window: 16 GiB of addresses, or as many as the kernel lets us have. Null when it does not let us have even
 * WINDOW_BYTES_MIN. All of it is accessible zeros, which the owner takes away before others may get at it.
 */
export function reserveWindow(): WindowMemory | null {
  for (let bytes = WINDOW_BYTES_MAX; bytes >= WINDOW_BYTES_MIN; bytes /= 2) {
    const pages = BigInt(bytes / PAGE_BYTES);
    try {
      return new WebAssembly.Memory({ address: 'i64', initial: pages, maximum: pages, shared: true });
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
    }
  }
  return null;
}

/** From now on this thread copies inside this window by WebAssembly. The buffer that it is seen through. */
export function useWindow(memory: WindowMemory): ArrayBuffer {
  const { buffer } = memory;
  const module = new WebAssembly.Module(copyModule(buffer.byteLength / PAGE_BYTES));
  copy = new WebAssembly.Instance(module, { window: { memory } }).exports.copy;
  window = buffer;
  return buffer as ArrayBuffer; // the views that are made over it are the same
}

/** Page of the window that begins at byte `byteOffset` of a buffer; -1: none, or the buffer is not this thread's window. */
export const windowPageOf = (buffer: ArrayBufferLike, byteOffset: number): number =>
  buffer === window && byteOffset % COPY_PAGE_BYTES === 0 ? byteOffset / COPY_PAGE_BYTES : -1;

/**
 * Copies `bytes` bytes, at least VECTOR_BYTES of copy-module.ts, between places of the window: `to` and `from` bytes behind
 * the beginning of pages. All of them small integers: others would be allocated for the call.
 */
export function copyInWindow(
  toPage: number,
  to: number,
  fromPage: number,
  from: number,
  bytes: number,
): void {
  copy(toPage, to, fromPage, from, bytes);
}
