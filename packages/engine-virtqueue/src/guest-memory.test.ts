import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { GuestMemory, type MemoryRegion } from './guest-memory.js';
import { PIECE_BYTES } from './limits.js';

function region(iova: bigint, sizeBytes: number, fields: Partial<MemoryRegion> = {}): MemoryRegion {
  const buffer = new ArrayBuffer(sizeBytes);
  return { iova, sizeBytes, buffer, byteOffset: 0, address: 0x7000_0000_0000, writable: true, ...fields };
}

/** Translates a whole address, as the ring does with its two words. */
const look = (memory: GuestMemory, iova: bigint, lengthBytes: number): number =>
  memory.translate(Number(iova >> 32n), Number(iova & 0xffff_ffffn), lengthBytes);

describe('guest memory', () => {
  it('an address is found in its region, with the bytes that follow there and no more', () => {
    const memory = new GuestMemory([region(0x1000n, 0x1000), region(0x4000n, 0x1000, { address: 0x9000 })]);
    expect(look(memory, 0x4010n, 16)).toBe(16);
    expect([memory.offset, memory.address, memory.pieceIndex]).toEqual([0x10, 0x9010, 1]);
    expect(look(memory, 0x4ff8n, 16)).toBe(8);
    expect(look(memory, 0x1fffn, 1)).toBe(1);
  });

  it('an address before, between and behind regions is outside', () => {
    const memory = new GuestMemory([region(0x1000n, 0x1000), region(0x4000n, 0x1000)]);
    for (const iova of [0n, 0xfffn, 0x2000n, 0x3fffn, 0x5000n, (1n << 64n) - 1n, 0x1_0000_1000n]) {
      expect(look(memory, iova, 1), `0x${iova.toString(16)}`).toBe(0);
    }
  });

  it('without regions every address is outside', () => {
    const memory = new GuestMemory([]);
    for (const iova of [0n, 1n, (1n << 64n) - 1n]) expect(look(memory, iova, 1)).toBe(0);
    expect(memory.slice(0n, 4)).toBe(null);
    expect(memory.copyOut(0n, new Uint8Array(1))).toBe(false);
  });

  it('signed and unsigned words mean the same address', () => {
    const memory = new GuestMemory([region(0xffff_ffff_8000_0000n, 0x1000)]);
    expect(memory.translate(0xffff_ffff, 0x8000_0010, 4)).toBe(4);
    expect(memory.translate(-1, 0x8000_0010 | 0, 4)).toBe(4);
    expect(memory.offset).toBe(0x10);
  });

  it('the fast way and the search agree, whatever was looked up before', () => {
    const regions = [0n, 0x2000n, 0x7fff_f000n, 0xffff_f000n, 0x1_0000_0000n, 0xffff_ffff_ffff_f000n];
    const memory = new GuestMemory(regions.map((iova) => region(iova, 0x1000)));
    const near = fc
      .tuple(fc.constantFrom(...regions), fc.integer({ min: -0x20, max: 0x1020 }))
      .map(([iova, delta]) => BigInt.asUintN(64, iova + BigInt(delta)));
    fc.assert(
      fc.property(fc.array(near, { minLength: 2, maxLength: 8 }), (addresses) => {
        for (const iova of addresses) {
          const inside = regions.find((start) => iova >= start && iova < start + 0x1000n);
          const expected = inside === undefined ? 0 : Math.min(64, Number(inside + 0x1000n - iova));
          if (look(memory, iova, 64) !== expected) return false;
        }
        return true;
      }),
      { numRuns: 500 },
    );
  });

  it('a region is cut at multiples of the piece size, and a lookup never answers across a cut', () => {
    const sizeBytes = 8192;
    const iova = BigInt(PIECE_BYTES) - 4096n;
    const memory = new GuestMemory([region(iova, sizeBytes)]);
    expect(memory.pieces.map((piece) => piece.sizeBytes)).toEqual([4096, 4096]);
    expect(look(memory, iova + 4000n, 200)).toBe(96);
    expect(look(memory, iova + 4096n, 200)).toBe(200);
    expect(memory.address).toBe(0x7000_0000_0000 + 4096);
  });

  it('a ring part gets views over exactly its bytes, across pieces of one region', () => {
    const iova = BigInt(PIECE_BYTES) - 16n;
    const memory = new GuestMemory([region(iova, 64)]);
    const slice = memory.slice(iova + 8n, 18);
    expect(slice?.u8.length).toBe(18);
    expect(slice?.u16.length).toBe(9);
    expect(slice?.u32.length).toBe(4);
    slice!.u8[9] = 7;
    const seen = new Uint8Array(1);
    expect(memory.copyOut(iova + 17n, seen)).toBe(true);
    expect(seen[0]).toBe(7);
  });

  it('a ring part that is unaligned, in a hole or in two regions is refused', () => {
    const memory = new GuestMemory([region(0x1000n, 0x1000), region(0x2000n, 0x1000)]);
    expect(memory.slice(0x1002n, 8, 4)).toBe(null);
    expect(memory.slice(0x1002n, 8, 2)).not.toBe(null);
    expect(memory.slice(0x1ff8n, 16)).toBe(null);
    expect(memory.slice(0x3000n, 4)).toBe(null);
    expect(memory.slice(0x2ffcn, 4)).not.toBe(null);
  });

  it('copies cross regions that adjoin, and change nothing when any byte is outside or read-only', () => {
    const rom = region(0x3000n, 0x1000, { writable: false });
    const memory = new GuestMemory([region(0x1000n, 0x1000), region(0x2000n, 0x1000), rom]);
    const source = Uint8Array.from({ length: 32 }, (_, i) => i);
    expect(memory.copyIn(0x1ff0n, source)).toBe(true);
    const target = new Uint8Array(32);
    expect(memory.copyOut(0x1ff0n, target)).toBe(true);
    expect(target).toEqual(source);
    expect(memory.copyIn(0x2ff0n, source)).toBe(false);
    expect(memory.copyOut(0x2ff0n, target)).toBe(true);
    expect(target.every((byte) => byte === 0)).toBe(true);
    expect(memory.copyOut(0x3ff0n, target)).toBe(false);
    expect(memory.copyOut((1n << 64n) - 16n, target)).toBe(false);
  });

  it('regions that overlap, wrap, are empty or leave their buffer are the owner’s mistake', () => {
    const bad: MemoryRegion[][] = [
      [region(0x1000n, 0x1000), region(0x1fffn, 0x1000)],
      [region((1n << 64n) - 0x800n, 0x1000)],
      [region(-1n, 0x1000)],
      [region(0n, 0x1000, { sizeBytes: 0 })],
      [region(0n, 0x1000, { sizeBytes: 0x1001 })],
      [region(0n, 0x1000, { byteOffset: 1 })],
    ];
    for (const regions of bad) expect(() => new GuestMemory(regions)).toThrow(RangeError);
    const adjoining = [
      region(0x2000n, 0x1000),
      region(0x1000n, 0x1000),
      region((1n << 64n) - 0x1000n, 0x1000),
    ];
    expect(new GuestMemory(adjoining).pieces.length).toBe(3);
  });
});
