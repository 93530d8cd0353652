/**
 * Puts every program into one file, or two where it has threads: a process that others wait for spends most of its start
 * on finding and reading some hundred modules.
 *
 * Theory
 *   `dist/<name>.cjs` is the program as it is started; it runs `dist/bundle/<name>.cjs`, which holds all modules of ours
 *   and of the libraries, behind the cache of compiled code that is kept beside it. They are CommonJS files, since
 *   importing `node:util` or `node:process` into an ES module loads everything that they offer. Native modules, and what
 *   looks for files beside itself, stay where they are. `<name>.lines` tells for each line of a bundle where in the sources
 *   it came from, for logs (host-ipc's source-lines.ts).
 *   A bundle that would not change is left alone, and with it its cache. Where one did, every program runs once, the
 *   service until it serves and the others as far as they get without one: what they compiled is in the cache for all who
 *   come after. Where the service cannot run, only that is missing.
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { type BuildOptions, build, type Plugin } from 'esbuild';
import { madeAhead } from './lib/made-ahead.ts';
import { sourceLines } from './lib/source-lines.ts';

const packages = fileURLToPath(new URL('../packages', import.meta.url));

/** Where Node keeps what it compiled, below a package's `dist`. */
const CACHE = 'bundle/.compile-cache';

/** Modules that are started: package and name. */
const PROGRAMS: readonly (readonly [string, string])[] = [
  ['program-cli', 'virtnet'],
  ['program-cli', 'virtnet-host'],
  ['program-cli', 'virtnet-mlxconfig'],
  ['program-controller', 'main'],
  ['program-ha', 'main'],
  ['program-ha', 'vfe-main'],
  ['program-emu', 'main'],
  ['program-emu', 'worker'],
  ['program-vhostd', 'main'],
  ['program-vhostd', 'vhost-cli'],
  ['program-driver', 'main'],
];

/** Built-in modules and libraries that a program needs late or never: they are loaded when they are used. */
const LATE = ['node:child_process', 'zeromq'];

const LATER = `const later = (name) => new Proxy({}, { get: (_, part) => require(name)[part] });`;

/** The bundle with them taken as they are used. What is wanted by name of a module that is imported whole would be missing. */
function takeLate(code: string): string {
  return LATE.reduce((text, name) => {
    const eager = `require("${name}")`;
    for (const line of text.split('\n').filter((one) => one.includes(`__toESM(${eager}`))) {
      const variable = /^var (\w+) = /.exec(line)?.[1];
      if (variable === undefined || RegExp(`\\b${variable}\\.(?!default\\b)`).test(text))
        throw new Error(`${name} cannot be loaded late: ${line}`);
    }
    return text.replaceAll(eager, `later("${name}")`);
  }, code);
}

/** Readable lines are for terminals: what makes them is loaded where there is one. */
const prettyLate: Plugin = {
  name: 'pretty-late',
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /^pino-pretty$/ }, ({ path, namespace }) =>
      namespace === 'late' ? undefined : { path, namespace: 'late' },
    );
    onLoad({ filter: /^pino-pretty$/, namespace: 'late' }, ({ path }) => ({
      contents: `module.exports = (options) => require('${path}')(options);`,
      resolveDir: packages,
      loader: 'js',
    }));
  },
};

/** koffi copies node:util property by property, and with that loads what Node would load when it is used. */
const koffiLate: Plugin = {
  name: 'koffi-late',
  setup({ onLoad }) {
    onLoad({ filter: /\/node_modules\/koffi\/src\/koffi\/index\.cjs$/ }, ({ path }) => {
      const copies = '__toESM(require("node:util"))';
      const parts = readFileSync(path, 'utf8').split(copies);
      if (parts.length !== 2) throw new Error(`${path} is not as it was: is ${copies} in it?`);
      return { contents: parts.join('{ default: require("node:util") }'), loader: 'js' };
    });
  },
};

/** What each bundle is made by; `import.meta.url` is that of the module the program was made from. */
function options(dist: string, name: string): BuildOptions {
  return {
    entryPoints: [join(dist, `${name}.js`)],
    outfile: join(dist, 'bundle', `${name}.cjs`),
    bundle: true,
    platform: 'node',
    format: 'cjs',
    target: 'node24',
    external: ['zeromq', '@koromix/*', 'piscina'],
    plugins: [madeAhead, prettyLate, koffiLate],
    define: { 'import.meta.url': 'ownUrl' },
    banner: {
      js: `const ownUrl = require('node:url').pathToFileURL(require('node:path').join(__dirname, '../${name}.cjs')).href;${LATER}`,
    },
    sourcemap: 'external',
    write: false,
    logLevel: 'warning',
  };
}

function starter(name: string): string {
  return [
    `require('node:module').enableCompileCache({ directory: __dirname + '/${CACHE}', portable: true });`,
    `module.exports = require('./bundle/${name}.cjs');`,
    '',
  ].join('\n');
}

/** Writes a file that is not like this already; whether it did. */
function put(path: string, text: string): boolean {
  if (existsSync(path) && readFileSync(path, 'utf8') === text) return false;
  writeFileSync(path, text);
  return true;
}

/** Whether it became another. */
async function bundle(name: string, dist: string): Promise<boolean> {
  const { outputFiles } = await build(options(dist, name));
  const [map, text] = ['.map', '.cjs'].map(
    (end) => outputFiles?.find(({ path }) => path.endsWith(end))?.text,
  );
  if (map === undefined || text === undefined) throw new Error(`${name}: no bundle was made`);
  const code = takeLate(text);
  put(join(dist, 'bundle', `${name}.lines`), sourceLines(map, join(dist, 'bundle')));
  const files = [
    put(join(dist, `${name}.cjs`), starter(name)),
    put(join(dist, 'bundle', `${name}.cjs`), code),
  ];
  return files.includes(true);
}

/** The service, without devices: all its programs start, warm up, and end. */
async function runService(root: string): Promise<void> {
  const main = join(packages, 'program-controller/dist/main.cjs');
  const child = spawn(process.execPath, ['--no-warnings', main], {
    env: { ...process.env, VIRTNET_ROOT: root },
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  const ended = once(child, 'exit');
  for await (const line of createInterface({ input: child.stdout })) if (line === 'ready') break;
  child.kill('SIGTERM');
  await ended;
}

/** Node keeps what it compiled for its own user; the service is another's. */
function makeReadable(directory: string): void {
  if (!existsSync(directory)) return;
  for (const entry of readdirSync(directory, { recursive: true, withFileTypes: true }))
    if (entry.isFile()) chmodSync(join(entry.parentPath, entry.name), 0o644);
}

/** Packages of which a bundle became another, or whose programs never ran. */
const changed = new Set<string>();
for (const [folder, name] of PROGRAMS) {
  const dist = join(packages, folder, 'dist');
  mkdirSync(join(dist, 'bundle'), { recursive: true });
  const made = await bundle(name, dist);
  if (made || !existsSync(join(dist, CACHE))) changed.add(dist);
}
if (changed.size > 0) {
  for (const dist of changed) rmSync(join(dist, CACHE), { recursive: true, force: true });
  const root = mkdtempSync(join(tmpdir(), 'virtnet-bundle-'));
  const run = (program: string, ...words: string[]) =>
    spawnSync(join(packages, program), words, {
      env: { ...process.env, VIRTNET_ROOT: root },
      stdio: 'ignore',
    });
  try {
    // A root without a controller: the commands get as far as asking it.
    run(
      'program-cli/bin/virtnet',
      ...'hotplug -i mlx5_0 -m 02:00:00:00:00:01 -t 1500 -n 3 -s 256'.split(' '),
    );
    run('program-cli/bin/virtnet-host', 'lspci');
    run('program-cli/bin/virtnet-mlxconfig', '-d', '03:00.0', 'q');
    run('program-vhostd/bin/vfe-vhost-cli', 'vf', '--help');
    for (const other of ['vhostd/bin/vfe-vhostd', 'ha/bin/vfe-vhostd-ha', 'driver/bin/virtio_net_driver'])
      run(`program-${other}`, '--help');
    await runService(root);
    for (const dist of changed) makeReadable(join(dist, CACHE));
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
}
