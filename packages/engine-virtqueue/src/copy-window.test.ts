import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { copyBetween, PrivateMemory } from './chain-copy.js';
import { copyInWindow, reserveWindow, useWindow, WINDOW_BYTES_MAX, windowPageOf } from './copy-window.js';
import { COPY_PAGE_BYTES, VECTOR_BYTES } from './window-layout.js';

const memory = reserveWindow()!;
const buffer = useWindow(memory);
/** Beyond what fits 32 bits, where there is that much. */
const SOURCE_AT = Math.min(5 * 2 ** 30, buffer.byteLength / 2);
const TARGET_AT = SOURCE_AT + 2 ** 20;
const AREA_BYTES = 80_000;
const source = new Uint8Array(buffer, SOURCE_AT, AREA_BYTES);
const target = new Uint8Array(buffer, TARGET_AT, AREA_BYTES);
for (let i = 0; i < AREA_BYTES; i++) source[i] = (i * 7 + (i >>> 8)) & 0xff;
const GUARD = 0xa5;

/** Copies, and says whether exactly these bytes arrived. */
function copied(to: number, from: number, bytes: number, copy: () => void): boolean {
  target.fill(GUARD);
  copy();
  const expected = new Uint8Array(AREA_BYTES).fill(GUARD);
  expected.set(source.subarray(from, from + bytes), to);
  return Buffer.compare(target, expected) === 0;
}

describe('copies in a window', () => {
  it('the window has as many addresses as a machine with overcommit lets us have', () => {
    expect(buffer.byteLength).toBeGreaterThanOrEqual(2 ** 30);
    expect(buffer.byteLength).toBeLessThanOrEqual(WINDOW_BYTES_MAX);
  });

  it('every length up to beyond the last loop arrives whole, and no byte beside it is touched', () => {
    const failed: number[] = [];
    for (let bytes = VECTOR_BYTES; bytes < 700; bytes++) {
      const [to, from] = [3 + (bytes % 13), 1 + (bytes % 7)];
      const copy = () =>
        copyInWindow(TARGET_AT / COPY_PAGE_BYTES, to, SOURCE_AT / COPY_PAGE_BYTES, from, bytes);
      if (!copied(to, from, bytes, copy)) failed.push(bytes);
    }
    expect(failed).toEqual([]);
  });

  it('whatever the length and the places, between pieces in and outside the window', () => {
    const outside = new PrivateMemory(AREA_BYTES);
    outside.u8.set(source);
    const inside = new PrivateMemory(AREA_BYTES, buffer, SOURCE_AT);
    const to = new PrivateMemory(AREA_BYTES, buffer, TARGET_AT);
    const length = fc.oneof(fc.nat(80), fc.nat(1_600), fc.nat(70_000));
    fc.assert(
      fc.property(length, fc.nat(4_000), fc.nat(4_000), fc.boolean(), (bytes, at, from, out) =>
        copied(at, from, bytes, () => copyBetween((out ? outside : inside).piece, from, to.piece, at, bytes)),
      ),
      { numRuns: 300 },
    );
  });

  it('a piece has a page of the window, unless it begins in the middle of one or elsewhere', () => {
    expect(windowPageOf(buffer, SOURCE_AT)).toBe(SOURCE_AT / COPY_PAGE_BYTES);
    expect(windowPageOf(buffer, SOURCE_AT + 64)).toBe(-1);
    expect(windowPageOf(new ArrayBuffer(8), 0)).toBe(-1);
    expect(new PrivateMemory(64, buffer, SOURCE_AT).piece.windowPage).toBe(SOURCE_AT / COPY_PAGE_BYTES);
  });

  it.each([VECTOR_BYTES, 100, 600])(
    '%d bytes beyond the end of the window trap, and nothing is written',
    (bytes) => {
      const end = buffer.byteLength / COPY_PAGE_BYTES;
      const page = TARGET_AT / COPY_PAGE_BYTES;
      target.fill(GUARD);
      expect(() => copyInWindow(end - 1, COPY_PAGE_BYTES - VECTOR_BYTES + 1, page, 0, bytes)).toThrow(
        /out of bounds/,
      );
      expect(() => copyInWindow(page, 0, end, 0, bytes)).toThrow(/out of bounds/);
      expect(() => copyInWindow(page, 0, -1, 0, bytes)).toThrow(/out of bounds/);
      expect(target.every((byte) => byte === GUARD)).toBe(true);
    },
  );
});
