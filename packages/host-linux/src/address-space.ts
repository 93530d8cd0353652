/**
 * address-space.ts: which parts of a reserved range of addresses are taken.
 *
 * Theory
 *   Free holes are kept sorted by offset; a block is cut from the first hole it fits in, with a guard on each side
 *   that belongs to the block. Freed blocks merge with their neighbours, so that a range can be used again.
 *
 * Invariants
 *   I1  holes are sorted, do not overlap and do not touch.
 *   I2  holes and blocks together cover the range exactly.
 *
 * Limits  first fit, linear in the number of holes: mappings number in the thousands and change rarely.
 */

interface Span {
  start: number;
  end: number;
}

/** Allocator of offsets in [0, sizeBytes). */
export class AddressSpace {
  readonly #guardBytes: number;
  readonly #holes: Span[];
  /** Offset given out -> the whole block, guards included. */
  readonly #blocks = new Map<number, Span>();

  constructor(sizeBytes: number, guardBytes: number) {
    this.#guardBytes = guardBytes;
    this.#holes = [{ start: 0, end: sizeBytes }];
  }

  /** Blocks given out and not freed. */
  get count(): number {
    return this.#blocks.size;
  }

  /**
   * Takes `lengthBytes` at an offset that is a multiple of `alignment` (itself a multiple of the guard), with a
   * guard before and after. Returns the offset behind the first guard, or -1 when nothing fits.
   */
  allocate(lengthBytes: number, alignment: number): number {
    for (let i = 0; i < this.#holes.length; i++) {
      const hole = this.#holes[i]!;
      const offset = Math.ceil((hole.start + this.#guardBytes) / alignment) * alignment;
      const block = { start: offset - this.#guardBytes, end: offset + lengthBytes + this.#guardBytes };
      if (block.end > hole.end) continue;
      const rest: Span[] = [];
      if (block.start > hole.start) rest.push({ start: hole.start, end: block.start });
      if (block.end < hole.end) rest.push({ start: block.end, end: hole.end });
      this.#holes.splice(i, 1, ...rest);
      this.#blocks.set(offset, block);
      return offset;
    }
    return -1;
  }

  /** Length in bytes of the block given out at `offset`, or -1. */
  lengthOf(offset: number): number {
    const block = this.#blocks.get(offset);
    return block === undefined ? -1 : block.end - block.start - 2 * this.#guardBytes;
  }

  /** Frees the block given out at `offset`; false when there is none. */
  free(offset: number): boolean {
    const block = this.#blocks.get(offset);
    if (block === undefined) return false;
    this.#blocks.delete(offset);
    let i = this.#holes.findIndex((hole) => hole.start >= block.end);
    if (i < 0) i = this.#holes.length;
    const before = this.#holes[i - 1];
    const after = this.#holes[i];
    const joinsBefore = before?.end === block.start;
    const joinsAfter = after?.start === block.end;
    const start = joinsBefore ? before!.start : block.start;
    const end = joinsAfter ? after!.end : block.end;
    this.#holes.splice(i - (joinsBefore ? 1 : 0), Number(joinsBefore) + Number(joinsAfter), { start, end });
    return true;
  }
}
