import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { AddressSpace } from './address-space.js';

const GUARD = 4096;

describe('address space', () => {
  it('keeps a guard on both sides of every block', () => {
    const space = new AddressSpace(10 * GUARD, GUARD);
    expect(space.allocate(2 * GUARD, GUARD)).toBe(GUARD);
    expect(space.allocate(2 * GUARD, GUARD)).toBe(5 * GUARD);
    expect(space.allocate(GUARD, GUARD)).toBe(-1);
  });

  it('places a block at its alignment and leaves the gap to others', () => {
    const space = new AddressSpace(64 * GUARD, GUARD);
    expect(space.allocate(GUARD, 16 * GUARD)).toBe(16 * GUARD);
    expect(space.allocate(GUARD, GUARD)).toBe(GUARD);
  });

  it('frees only what was given out, once', () => {
    const space = new AddressSpace(10 * GUARD, GUARD);
    const offset = space.allocate(GUARD, GUARD);
    expect(space.free(offset + GUARD)).toBe(false);
    expect(space.free(offset)).toBe(true);
    expect(space.free(offset)).toBe(false);
    expect(space.lengthOf(offset)).toBe(-1);
  });

  it('after any sequence: blocks are disjoint and inside, and freeing all of them gives the whole range back', () => {
    const step = fc.record({
      pages: fc.integer({ min: 1, max: 40 }),
      alignment: fc.constantFrom(GUARD, 4 * GUARD, 32 * GUARD),
      free: fc.option(fc.nat(), { nil: null }),
    });
    const sizeBytes = 512 * GUARD;
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const space = new AddressSpace(sizeBytes, GUARD);
        const live: { start: number; end: number }[] = [];
        for (const { pages, alignment, free } of steps) {
          if (free !== null && live.length > 0) {
            const [gone] = live.splice(free % live.length, 1);
            expect(space.free(gone!.start + GUARD)).toBe(true);
            continue;
          }
          const offset = space.allocate(pages * GUARD, alignment);
          if (offset < 0) continue;
          expect(offset % alignment).toBe(0);
          const block = { start: offset - GUARD, end: offset + pages * GUARD + GUARD };
          expect(block.start >= 0 && block.end <= sizeBytes).toBe(true);
          for (const other of live) expect(block.end <= other.start || block.start >= other.end).toBe(true);
          expect(space.lengthOf(offset)).toBe(pages * GUARD);
          live.push(block);
        }
        for (const block of live) space.free(block.start + GUARD);
        expect(space.allocate(sizeBytes - 2 * GUARD, GUARD)).toBe(GUARD);
      }),
      { numRuns: 200 },
    );
  });
});
