/** Accesses of any width at any offset, cut into the bytes that fall into one register or structure. */

/** The part of an access that falls into a range. */
export interface Overlap {
  /** First byte, counted from the start of the range. */
  readonly inRange: number;
  /** The same byte, counted from the start of the access. */
  readonly inAccess: number;
  readonly count: number;
}

/** What [offset, offset + count) has in common with [start, start + length); null when nothing. */
export function overlap(offset: number, count: number, start: number, length: number): Overlap | null {
  const first = Math.max(offset, start);
  const end = Math.min(offset + count, start + length);
  return first < end ? { inRange: first - start, inAccess: first - offset, count: end - first } : null;
}

/** `value` (up to 32 bits) with `count` bytes from `byte` on replaced by bytes of `source`; little-endian. */
export function mergeBytes(
  value: number,
  byte: number,
  source: Uint8Array,
  sourceAt: number,
  count: number,
): number {
  let merged = value;
  for (let i = 0; i < count; i++) {
    const shift = (byte + i) * 8;
    merged = (merged & ~(0xff << shift)) | (source[sourceAt + i]! << shift);
  }
  return merged >>> 0;
}

/** Writes `count` bytes of `value` from byte `byte` on into `target`; little-endian. */
export function extractBytes(
  value: number,
  byte: number,
  target: Uint8Array,
  targetAt: number,
  count: number,
): void {
  for (let i = 0; i < count; i++) target[targetAt + i] = (value >>> ((byte + i) * 8)) & 0xff;
}

/** Whether `offset` and `count` name an access of 1 to `limit` bytes within `limit` bytes. */
export function isAccess(offset: number, count: number, limit: number): boolean {
  return (
    Number.isInteger(offset) &&
    Number.isInteger(count) &&
    offset >= 0 &&
    count > 0 &&
    count <= limit &&
    offset <= limit - count
  );
}
