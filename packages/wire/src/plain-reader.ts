/**
 * plain-reader.ts: reads plain data (parsed JSON) that is not trusted.
 *
 * Theory
 *   Each method gives the value when it is what was asked for, and otherwise notes a problem under the given path
 *   and gives a harmless value, so that a codec reads everything first and looks at `problems` once. 64-bit masks and
 *   addresses are hexadecimal text, because JSON has no 64-bit integers.
 *
 * Invariants
 *   I1  no method throws, whatever JSON can express.
 *   I2  an integer lies within the bounds asked for, a list is no longer than asked for.
 *
 * Limits  PROBLEMS_MAX problems are kept; more are counted only by their absence.
 */

/** Problems kept by one reader; a hostile blob must not grow a log without bound. */
const PROBLEMS_MAX = 32;

const HEX_64 = /^0x[0-9a-f]{1,16}$/;

export class PlainReader {
  readonly problems: string[] = [];

  /** Notes a problem found by the caller. */
  problem(path: string, text: string): void {
    if (this.problems.length < PROBLEMS_MAX) this.problems.push(`${path}: ${text}`);
  }

  /** An object that is not a list; an empty one otherwise. */
  object(value: unknown, path: string): Readonly<Record<string, unknown>> {
    if (typeof value === 'object' && value !== null && !Array.isArray(value))
      return value as Record<string, unknown>;
    this.problem(path, 'not an object');
    return {};
  }

  /** A list of at most `lengthMax` members; an empty one otherwise. */
  list(value: unknown, path: string, lengthMax: number): readonly unknown[] {
    if (!Array.isArray(value)) this.problem(path, 'not a list');
    else if (value.length > lengthMax) this.problem(path, `longer than ${lengthMax}`);
    else return value;
    return [];
  }

  /** An integer from `min` to `max`; `min` otherwise. */
  integer(value: unknown, path: string, min: number, max: number): number {
    if (typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max) return value;
    this.problem(path, `not an integer from ${min} to ${max}`);
    return min;
  }

  boolean(value: unknown, path: string): boolean {
    if (typeof value === 'boolean') return value;
    this.problem(path, 'not a boolean');
    return false;
  }

  /** 64 bits written by `hex64`; 0 otherwise. */
  hex64(value: unknown, path: string): bigint {
    if (typeof value === 'string' && HEX_64.test(value)) return BigInt(value);
    this.problem(path, 'not 64 bits in hexadecimal');
    return 0n;
  }
}

/** 64 bits as JSON can carry them. */
export function hex64(value: bigint): string {
  return `0x${value.toString(16)}`;
}
