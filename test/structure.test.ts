/** The architecture as a test: who may import whom, and how long a file may be. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { describe, expect, test } from 'vitest';
import { LOSSES } from './lib/losses.ts';

const repository = resolve(import.meta.dirname, '..');
const packages = join(repository, 'packages');
const LINES_MAX = 600;

/** Top to bottom: a package imports only from lines below its own. */
const LAYERS: readonly (readonly string[])[] = [
  ['testing'],
  ['program-controller', 'program-driver', 'program-emu', 'program-ha', 'program-vhostd', 'program-cli'],
  ['driver-virtio-net'],
  ['host-ipc', 'host-workers'],
  ['server-vfio-user', 'server-vhost-user'],
  ['host-linux'],
  ['engine-eswitch'],
  ['engine-pci', 'engine-virtio-net'],
  ['engine-virtqueue'],
  ['engine-recovery'],
  ['engine-control'],
  ['wire'],
];

/** Libraries that one package alone may import. */
const OWNERS: Readonly<Record<string, string>> = {
  koffi: 'host-linux',
  zeromq: 'host-ipc',
  piscina: 'host-workers',
};

/** Libraries that compute and nothing else, and the engine that may use each. */
const PURE_LIBRARIES: Readonly<Record<string, string>> = { ajv: 'engine-control' };

interface SourceFile {
  readonly path: string;
  readonly package: string;
  readonly isTest: boolean;
  readonly lines: number;
  readonly imports: readonly string[];
}

const IMPORT =
  /(?:^|\n)\s*(?:import|export)\s(?:[^;'"]*?\sfrom\s*)?['"]([^'"]+)['"]|\bimport\(\s*['"]([^'"]+)['"]\s*\)/g;

const files: readonly SourceFile[] = readdirSync(packages).flatMap((name) =>
  filesBelow(join(packages, name, 'src')).map((path) => {
    const text = readFileSync(path, 'utf8');
    const isTest = /\.(test|bench|fixture)\.ts$|\/test-support\//.test(path);
    const imports = [...text.matchAll(IMPORT)].map(([, from, dynamic]) => from ?? dynamic ?? '');
    return { path: relative(repository, path), package: name, isTest, lines: countLines(text), imports };
  }),
);

function filesBelow(directory: string): string[] {
  if (!existsSync(directory)) return [];
  return readdirSync(directory, { recursive: true, encoding: 'utf8' })
    .filter((name) => /\.(ts|sh)$/.test(name) && !name.includes('node_modules'))
    .map((name) => join(directory, name));
}

function countLines(text: string): number {
  return text.split('\n').length - (text.endsWith('\n') ? 1 : 0);
}

function layerOf(name: string): number {
  return LAYERS.findIndex((layer) => layer.includes(name));
}

/** `@virtnet/wire` -> `wire`; null for everything else. */
function ourPackage(specifier: string): string | null {
  return /^@virtnet\/([^/]+)/.exec(specifier)?.[1] ?? null;
}

describe('structure', () => {
  test('every package has its place in the layers, and sources in which imports are seen', () => {
    for (const name of readdirSync(packages)) {
      expect(layerOf(name), `packages/${name} is in no layer`).toBeGreaterThanOrEqual(0);
      expect(files.some((file) => file.package === name)).toBe(true);
    }
    expect(files.filter(({ imports }) => imports.length > 0).length).toBeGreaterThan(files.length / 2);
  });

  test(`no file has more than ${LINES_MAX} lines`, () => {
    const others = ['scripts', 'test'].flatMap((name) => filesBelow(join(repository, name)));
    const measured = [
      ...files,
      ...others.map((path) => ({
        path: relative(repository, path),
        lines: countLines(readFileSync(path, 'utf8')),
      })),
    ];
    expect(
      measured.filter(({ lines }) => lines > LINES_MAX).map(({ path, lines }) => `${path}: ${lines}`),
    ).toEqual([]);
  });

  test('packages import only from layers below their own, and only what their package.json declares', () => {
    const wrong: string[] = [];
    for (const file of files) {
      const declared = dependenciesOf(file.package);
      for (const specifier of file.imports) {
        const target = ourPackage(specifier);
        if (target === null || target === file.package) continue;
        if (layerOf(target) <= layerOf(file.package)) wrong.push(`${file.path} imports upward: ${specifier}`);
        const packageName = specifier.split('/', 2).join('/');
        if (!declared.has(packageName))
          wrong.push(`${file.path} imports ${specifier}, which is not declared`);
      }
    }
    expect(wrong).toEqual([]);
  });

  test('koffi, zeromq and piscina are imported by their one owner', () => {
    const wrong = files.flatMap((file) =>
      file.imports
        .filter((specifier) => (OWNERS[specifier] ?? file.package) !== file.package)
        .map((specifier) => `${file.path}: ${specifier}`),
    );
    expect(wrong).toEqual([]);
    for (const [library, owner] of Object.entries(OWNERS))
      expect(files.some((file) => file.package === owner && file.imports.includes(library))).toBe(true);
  });

  test('engines and wire are pure: they import each other, and nothing of Node', () => {
    const pure = files.filter(({ package: name, isTest }) => /^(engine-|wire$)/.test(name) && !isTest);
    const wrong = pure.flatMap((file) =>
      file.imports
        .filter((specifier) => !specifier.startsWith('.') && ourPackage(specifier) === null)
        .filter((specifier) => PURE_LIBRARIES[specifier] !== file.package)
        .map((specifier) => `${file.path}: ${specifier}`),
    );
    expect(wrong).toEqual([]);
  });

  test('no file imports itself, directly or through others', () => {
    const targets = new Map<string, readonly string[]>();
    for (const file of files)
      targets.set(
        file.path,
        file.imports.flatMap((specifier) => target(file, specifier)),
      );
    expect(cycles(targets)).toEqual([]);
  });

  test('every row of what may be lost names a test that there is', () => {
    const rows = lossesDescribed().map(({ lost, shownBy }) => [lost, shownBy]);
    const known = Object.entries(LOSSES).map(([lost, row]) => [
      lost,
      'file' in row ? row.file : 'losses.test.ts',
    ]);
    expect(rows).toEqual(known);
    const missing = Object.values(LOSSES)
      .filter((row) => 'file' in row)
      .filter(
        ({ file, title }) => !readFileSync(join(repository, 'test', file), 'utf8').includes(`test('${title}`),
      );
    expect(missing).toEqual([]);
  });
});

/** The table in docs/architecture.md. */
function lossesDescribed(): { readonly lost: string; readonly shownBy: string }[] {
  const text = readFileSync(join(repository, 'docs/architecture.md'), 'utf8');
  const [, table = ''] = /^\| lost \|.*\n\|[-|]+\|\n((?:\|.*\n)+)/m.exec(text) ?? [];
  return table
    .trimEnd()
    .split('\n')
    .map((line) => line.split(' | '))
    .map((cells) => ({
      lost: cells[0]!.replace(/^\| /, ''),
      shownBy: /`(.*)` \|$/.exec(cells.at(-1)!)?.[1] ?? '',
    }));
}

function dependenciesOf(name: string): Set<string> {
  const manifest = JSON.parse(readFileSync(join(packages, name, 'package.json'), 'utf8')) as {
    dependencies?: Record<string, string>;
  };
  return new Set(Object.keys(manifest.dependencies ?? {}));
}

/** The file of ours a specifier means, if any. */
function target(file: SourceFile, specifier: string): string[] {
  const name = ourPackage(specifier);
  if (name !== null) return [`packages/${name}/src/index.ts`];
  if (!specifier.startsWith('.')) return [];
  return [join(dirname(file.path), specifier).replace(/\.js$/, '.ts')];
}

/** Every cycle once, as the files along it. */
function cycles(targets: ReadonlyMap<string, readonly string[]>): string[] {
  const found: string[] = [];
  const done = new Set<string>();
  const path: string[] = [];
  const visit = (file: string): void => {
    const at = path.indexOf(file);
    if (at >= 0) {
      found.push([...path.slice(at), file].join(' -> '));
      return;
    }
    if (done.has(file)) return;
    path.push(file);
    for (const next of targets.get(file) ?? []) visit(next);
    path.pop();
    done.add(file);
  };
  for (const file of targets.keys()) visit(file);
  return found;
}
