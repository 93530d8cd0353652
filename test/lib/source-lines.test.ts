import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { sourcePlace, sourceStack } from '../../packages/host-ipc/dist/source-lines.js';
import { sourceLines } from '../../scripts/lib/source-lines.ts';

describe('lines of a bundle', () => {
  const directory = mkdtempSync(join(tmpdir(), 'virtnet-lines-'));
  const bundle = join(directory, 'bundle/program.cjs');
  afterAll(() => rmSync(directory, { recursive: true, force: true }));

  beforeAll(async () => {
    mkdirSync(join(directory, 'bundle'));
    writeFileSync(
      join(directory, 'fault.ts'),
      'type Word = string;\n\nexport function fault(word: Word): never {\n  throw new Error(word);\n}\n',
    );
    writeFileSync(
      join(directory, 'program.ts'),
      "import { fault } from './fault.ts';\n\n\nexport const run = () => fault('here');\n",
    );
    const { outputFiles } = await build({
      entryPoints: [join(directory, 'program.ts')],
      outfile: bundle,
      bundle: true,
      platform: 'node',
      format: 'cjs',
      sourcemap: 'external',
      write: false,
    });
    for (const { path, text } of outputFiles) {
      if (path.endsWith('.map'))
        writeFileSync(join(directory, 'bundle/program.lines'), sourceLines(text, join(directory, 'bundle')));
      else writeFileSync(path, text);
    }
  });

  const places = async (): Promise<string[]> => {
    const { run } = (await import(bundle)) as { run: () => never };
    try {
      run();
    } catch (error) {
      const stack = sourceStack((error as Error).stack ?? '');
      return [...stack.matchAll(/([a-z]+\.ts:\d+)\)?$/gm)].map(([, place]) => place!);
    }
    return [];
  };

  it('a stack trace names the sources and their lines', async () => {
    expect((await places()).slice(0, 2)).toEqual(['fault.ts:4', 'program.ts:4']);
  });

  it('a line that came from nowhere, one behind the end and line 0 stay as they are', () => {
    for (const line of [1, 100_000, 0]) expect(sourcePlace(bundle, line)).toEqual({ file: bundle, line });
  });

  it('a file that is no bundle, and a bundle without a table or with a broken one, are their own source', () => {
    const own = fileURLToPath(import.meta.url);
    expect(sourcePlace(own, 7)).toEqual({ file: own, line: 7 });
    for (const [name, table] of [
      ['without', null],
      ['broken', '{"sources":'],
      ['short', '{"sources":["a"],"table":"AA=="}'],
    ] as const) {
      const path = join(directory, `bundle/${name}.cjs`);
      if (table !== null) writeFileSync(path.replace('.cjs', '.lines'), table);
      expect(sourcePlace(path, 1)).toEqual({ file: path, line: 1 });
    }
  });
});
