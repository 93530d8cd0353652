/**
 * golden.ts: what released versions wrote, kept as files, and how the code of today is judged by them.
 *
 * Theory
 *   Whatever one version leaves to another has a version of its own: records, pages, messages, files. For each of these
 *   kinds there is a sample that has something in every place. What the code of a version writes for it, and what a
 *   reader makes of that, is kept in test/golden/KIND-VERSION.REVISION.json and never changed again. An addition that
 *   older readers pass over makes the next revision; everything else needs the next version of the kind.
 *
 * Invariants
 *   I1  what is written today is the newest golden of today's version.
 *   I2  everything that a golden says is read from it today (forwards).
 *   I3  everything that a reader of a golden's time needs is in what is written today, in the same form (backwards).
 */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { repository } from '../../scripts/lib/paths.ts';

export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

/** One kind of thing that outlives the version which wrote it. */
export interface GoldenKind {
  readonly name: string;
  readonly version: number;
  /** Where that number stands. */
  readonly versionIn: string;
  /** What is written today. */
  write(): Json | Promise<Json>;
  /** What is read from it today; throws the reader's own words when it is refused. */
  read(written: Json): Json | Promise<Json>;
  /** The same as a version would write it of which this one knows nothing. */
  newer(written: Json): Json;
  /** What the reader says to that. */
  readonly refusal: string;
  /** What keeps a reader of `golden`'s time from reading what is written today, beside what is missing in it. */
  problemsOfOlder?(golden: Json, today: Json): string[];
}

export interface Golden {
  readonly kind: string;
  readonly version: number;
  readonly revision: number;
  readonly written: Json;
  readonly reads: Json;
}

const directory = join(repository, 'test', 'golden');
const NAME = /^([a-z-]+)-(\d+)\.(\d+)\.json$/;

/** Every golden of a kind, oldest first. */
export function goldensOf(kind: GoldenKind, from = directory): Golden[] {
  return readdirSync(from)
    .filter((file) => NAME.exec(file)?.[1] === kind.name)
    .map((file) => {
      const [, name, version, revision] = NAME.exec(file)!;
      const { written, reads } = JSON.parse(readFileSync(join(from, file), 'utf8')) as Golden;
      return { kind: name!, version: Number(version), revision: Number(revision), written, reads };
    })
    .sort((a, b) => a.version - b.version || a.revision - b.revision);
}

/** Names of kinds that have a golden. */
export function goldenKinds(from = directory): Set<string> {
  return new Set(readdirSync(from).map((file) => NAME.exec(file)?.[1] ?? file));
}

/** As JSON would give it back. */
export function plain(value: unknown): Json {
  return JSON.parse(JSON.stringify(value)) as Json;
}

/** Paths of `expected` at which `actual` says something else; what `actual` says beside is passed over. */
export function differences(expected: Json, actual: Json | undefined, path = ''): string[] {
  if (!isContainer(expected) || !isContainer(actual) || Array.isArray(expected) !== Array.isArray(actual))
    return isDeepStrictEqual(expected, actual) ? [] : [path === '' ? '.' : path];
  if (Array.isArray(expected) && expected.length !== (actual as readonly Json[]).length)
    return [`${path}.length`];
  return Object.entries(expected).flatMap(([key, value]) =>
    differences(value, (actual as Record<string, Json>)[key], `${path}.${key}`),
  );
}

/** Forms of all values by path; entries of a list, and of a table keyed by number, count as one. */
function forms(value: Json, path = '', into = new Map<string, string>()): Map<string, string> {
  if (!isContainer(value)) return into.set(path, value === null ? 'null' : typeof value);
  into.set(path, Array.isArray(value) ? 'list' : 'object');
  for (const [key, entry] of Object.entries(value))
    forms(entry as Json, `${path}.${/^\d+$/.test(key) ? '*' : key}`, into);
  return into;
}

function isContainer(value: Json | undefined): value is readonly Json[] | { readonly [key: string]: Json } {
  return typeof value === 'object' && value !== null;
}

/** What `then` says that `now` does not, or says in another form. */
export function missing(then: Json, now: Json): string[] {
  const present = forms(now);
  return [...forms(then)].filter(([path, form]) => present.get(path) !== form).map(([path]) => path);
}

/** What is wrong with `golden` in the eyes of today's code; empty when it is read, and its readers can read today's. */
export async function judge(kind: GoldenKind, golden: Golden): Promise<string[]> {
  const today = await kind.write();
  const unread = differences(golden.reads, await kind.read(golden.written));
  const gone = missing(golden.reads, await kind.read(today));
  return [
    ...unread.map((path) => `${path} of ${nameOf(golden)} is read differently`),
    ...gone.map((path) => `${path}, which readers of ${nameOf(golden)} need, is not written any more`),
    ...(kind.problemsOfOlder?.(golden.written, today) ?? []),
  ];
}

export const nameOf = ({ kind, version, revision }: Omit<Golden, 'written' | 'reads'>): string =>
  `${kind}-${version}.${revision}`;

/** The golden that has to be added because of what is written today; null when there is it already, or words why not. */
export async function nextGolden(
  kind: GoldenKind,
  known: readonly Golden[],
): Promise<Golden | string | null> {
  const written = plain(await kind.write());
  const newest = known.at(-1);
  const make = async (revision: number): Promise<Golden> => ({
    kind: kind.name,
    version: kind.version,
    revision,
    written,
    reads: plain(await kind.read(written)),
  });
  if (newest === undefined || newest.version < kind.version) return make(0);
  if (newest.version > kind.version) return `${kind.versionIn} went back`;
  if (isDeepStrictEqual(newest.written, written)) return null;
  const problems: string[] = [];
  for (const golden of known.filter(({ version }) => version === kind.version))
    problems.push(...(await judge(kind, golden)));
  if (problems.length > 0) return `${problems.join('; ')}: this needs a new ${kind.versionIn}`;
  return make(newest.revision + 1);
}

export function keep(golden: Golden, into = directory): string {
  const file = join(into, `${nameOf(golden)}.json`);
  const { written, reads } = golden;
  writeFileSync(file, `${JSON.stringify({ written, reads }, null, 2)}\n`, { flag: 'wx' });
  return file;
}
