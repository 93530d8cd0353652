/** What one version leaves to another, or says to it: read in both directions, and never changed unnoticed. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { checkMirror } from '../packages/program-emu/dist/handover-check.js';
import type { DeviceMirror } from '../packages/program-emu/dist/mirror.js';
import {
  differences,
  type GoldenKind,
  goldenKinds,
  goldensOf,
  judge,
  keep,
  missing,
  nameOf,
  nextGolden,
} from './lib/golden.ts';
import { goldenKindList } from './lib/golden-kinds.ts';

describe.each(goldenKindList)('$name', (kind) => {
  const goldens = goldensOf(kind);

  test('what is written today is the newest golden (scripts/golden adds one)', async () => {
    expect(await nextGolden(kind, goldens)).toBeNull();
  });

  test.each(goldens.map((golden) => [nameOf(golden), golden] as const))(
    '%s is read as it was meant, and its readers can read what is written today',
    async (_, golden) => {
      expect(golden.version).toBeLessThanOrEqual(kind.version);
      expect(await judge(kind, golden)).toEqual([]);
    },
  );

  test(`a version of which nothing is known is refused: ${kind.refusal}`, async () => {
    const read = async () => kind.read(kind.newer(goldens.at(-1)!.written));
    await expect(read()).rejects.toThrow(kind.refusal);
  });
});

test('every golden is of a kind that is read', () => {
  expect([...goldenKinds()].sort()).toEqual(goldenKindList.map(({ name }) => name).sort());
});

test('a live update is refused by name over a device that is not whole', () => {
  const device = { vuid: 'X', record: null, page: null } as unknown as DeviceMirror;
  let beats = 0;
  expect(checkMirror([device, device], ~0n, () => beats++)).toEqual(['X: no record', 'X: no record']);
  expect(beats, 'it shows for every device that it gets on').toBe(2);
});

describe('the judge', () => {
  const kind = (version: number, written: unknown, read = (value: unknown) => value): GoldenKind => ({
    name: 'sample',
    version,
    versionIn: 'SAMPLE_VERSION',
    write: () => written as never,
    read: (value) => read(value) as never,
    newer: (value) => value,
    refusal: '',
  });
  const directory = () => {
    const path = mkdtempSync(join(tmpdir(), 'virtnet-goldens-'));
    onTestFinished(() => rmSync(path, { recursive: true, force: true }));
    return path;
  };

  test('an addition makes a revision, a field that goes or changes its form needs a version', async () => {
    const at = directory();
    const first = await nextGolden(kind(1, { a: 1 }), []);
    if (first === null || typeof first === 'string') throw new Error('no golden');
    keep(first, at);
    expect(() => keep(first, at)).toThrow('EEXIST');
    const known = goldensOf(kind(1, {}), at);
    expect(known.map(nameOf)).toEqual(['sample-1.0']);
    expect(await nextGolden(kind(1, { a: 1 }), known)).toBeNull();
    expect(await nextGolden(kind(1, { a: 1, b: [2] }), known)).toMatchObject({ version: 1, revision: 1 });
    expect(await nextGolden(kind(1, { a: 'one' }), known)).toMatch(/\.a, which readers of sample-1\.0 need/);
    expect(await nextGolden(kind(1, { b: 1 }), known)).toMatch('needs a new SAMPLE_VERSION');
    expect(await nextGolden(kind(2, { b: 1 }), known)).toMatchObject({ version: 2, revision: 0 });
    expect(await nextGolden(kind(0, { a: 1 }), known)).toMatch('went back');
    const misread = kind(1, { a: 1 }, (value) => ({ ...(value as object), a: 2 }));
    expect(await judge(misread, known[0]!)).toEqual(['.a of sample-1.0 is read differently']);
  });

  test('differences and missing paths are named', () => {
    expect(differences({ a: [1, { b: 2 }] }, { a: [1, { b: 3, c: 4 }], d: 5 })).toEqual(['.a.1.b']);
    expect(differences([1, 2], [1])).toEqual(['.length']);
    expect(differences({ a: {} }, { a: [] })).toEqual(['.a']);
    expect(missing({ a: { 0: true, 17: true }, b: null }, { a: { 3: false } })).toEqual(['.b']);
  });
});
