/**
 * window-room.ts: memory in this thread's copy window, where guests' memory is in an emulator.
 *
 * One window serves a whole process of tests; rooms are cut from it one after the other and never given back, but for
 * those of tests that make many.
 */
import { reserveWindow, useWindow } from '@virtnet/engine-virtqueue';

const PAGE_BYTES = 4096;
/** Where rooms begin if the window is large enough: at offsets that do not fit 32 bits. */
const HIGH_AT = 5 * 2 ** 30;

/** Where rooms are that are given again. */
const PASSING_AT = PAGE_BYTES;
const PASSING_BYTES = 2 ** 28;

export interface WindowRoom {
  readonly buffer: ArrayBuffer;
  readonly byteOffset: number;
}

let window: ArrayBuffer | null = null;
let next = 0;
let passing = 0;

/** This thread's window, which is made if it has none. Throws where no window can be reserved. */
export function ensureWindow(): ArrayBuffer {
  if (window !== null) return window;
  const memory = reserveWindow();
  if (memory === null) throw new Error('no window can be reserved');
  window = useWindow(memory);
  next = Math.min(HIGH_AT, window.byteLength / 2);
  return window;
}

const pages = (sizeBytes: number): number => Math.ceil(sizeBytes / PAGE_BYTES) * PAGE_BYTES;

/** `sizeBytes` zeroed bytes, and a page that nobody else has behind them. */
export function windowRoom(sizeBytes: number): WindowRoom {
  const buffer = ensureWindow();
  const byteOffset = next;
  next += pages(sizeBytes) + PAGE_BYTES;
  if (next > buffer.byteLength) throw new RangeError(`no room for ${sizeBytes} bytes`);
  return { buffer, byteOffset };
}

/** The same for a while: others get it when PASSING_BYTES more were asked for. */
export function passingRoom(sizeBytes: number): WindowRoom {
  const buffer = ensureWindow();
  if (passing + sizeBytes > PASSING_BYTES) passing = 0;
  const byteOffset = PASSING_AT + passing;
  passing += pages(sizeBytes) + PAGE_BYTES;
  new Uint8Array(buffer, byteOffset, sizeBytes).fill(0);
  return { buffer, byteOffset };
}
