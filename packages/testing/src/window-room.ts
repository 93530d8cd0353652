/**
 * window-room.ts: memory in this thread's copy window, where guests' memory is in an emulator.
 *
 * One window serves a whole process of tests; rooms are cut from it one after the other and never given back.
 */
import { reserveWindow, useWindow } from '@virtnet/engine-virtqueue';

const PAGE_BYTES = 4096;
/** Where rooms begin if the window is large enough: at offsets that do not fit 32 bits. */
const HIGH_AT = 5 * 2 ** 30;

export interface WindowRoom {
  readonly buffer: ArrayBuffer;
  readonly byteOffset: number;
}

let window: ArrayBuffer | null = null;
let next = 0;

/** `sizeBytes` zeroed bytes, and a page that nobody else has behind them. Throws where no window can be reserved. */
export function windowRoom(sizeBytes: number): WindowRoom {
  if (window === null) {
    const memory = reserveWindow();
    if (memory === null) throw new Error('no window can be reserved');
    window = useWindow(memory);
    next = Math.min(HIGH_AT, window.byteLength / 2);
  }
  const byteOffset = next;
  next += Math.ceil(sizeBytes / PAGE_BYTES) * PAGE_BYTES + PAGE_BYTES;
  if (next > window.byteLength) throw new RangeError(`no room for ${sizeBytes} bytes`);
  return { buffer: window, byteOffset };
}
