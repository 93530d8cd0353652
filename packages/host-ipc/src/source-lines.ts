/**
 * source-lines.ts: where in the sources a line of a bundle came from, so that logs name files that people know.
 *
 * Theory
 *   A program is started as one file, `bundle/<name>.cjs`, made of hundreds. Beside it, `<name>.lines` has for each of its
 *   lines the source's number and its line there, two little-endian 16-bit numbers, line 0 for none (scripts/bundle.ts).
 *   It is read when the first place is asked for. A file that is not a bundle, or one without such a table, is its own
 *   source.
 */
import { readFileSync } from 'node:fs';

/** A line of a file. */
export interface Place {
  readonly file: string;
  readonly line: number;
}

interface Table {
  readonly sources: readonly string[];
  readonly places: Uint16Array;
}

const BUNDLE = /\/bundle\/[^/]+\.cjs$/;
const BUNDLE_PLACE = /(?:file:\/\/)?(\/[^\s()]+\/bundle\/[^/\s()]+\.cjs):(\d+):\d+/g;

const tables = new Map<string, Table | null>();

function readTable(bundle: string): Table | null {
  try {
    const { sources, table } = JSON.parse(readFileSync(bundle.replace(/\.cjs$/, '.lines'), 'utf8')) as {
      sources: readonly string[];
      table: string;
    };
    const bytes = Buffer.from(table, 'base64'); // may lie anywhere in a buffer of Node's
    return { sources, places: new Uint16Array(Uint8Array.from(bytes).buffer) };
  } catch {
    return null; // nobody's log is worth a fault
  }
}

/** The source of line `line` (from 1) of `file`; the two themselves where that is not known. */
export function sourcePlace(file: string, line: number): Place {
  if (!BUNDLE.test(file)) return { file, line };
  let table = tables.get(file);
  if (table === undefined) {
    table = readTable(file);
    tables.set(file, table);
  }
  const at = (line - 1) * 2;
  const source = table?.sources[table.places[at] ?? -1];
  const sourceLine = table?.places[at + 1] ?? 0;
  return source === undefined || sourceLine === 0 ? { file, line } : { file: source, line: sourceLine };
}

/** A stack trace with its places in bundles replaced by those in the sources. */
export function sourceStack(stack: string): string {
  return stack.replace(BUNDLE_PLACE, (_, file: string, line: string) => {
    const place = sourcePlace(file, Number(line));
    return `${place.file}:${place.line}`;
  });
}
